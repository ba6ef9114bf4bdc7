"""Map-model metrics: Fourier shell correlation and correlation coefficients, in the molecule's mask and over the box."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps import spectrum


@dataclass(frozen=True)
class Scores:
    """Resolutions in A where the map-model FSC falls under 0.5, and correlations.

    CC_mask and CC_box are Pearson's correlation of the voxels in the mask and in the whole box (Afonine et al. 2018, Acta Cryst. D74, 814).
    """

    fsc_masked: float
    fsc_unmasked: float
    cc_mask: float
    cc_box: float


def soft_mask(
    model: np.ndarray, rate: float, distance: float = 3.0, edge: float = 6.0
) -> np.ndarray:
    """Soft mask (z, y, x), 0-1, of a model's map: its density at 5 A over a tenth of its 99th percentile, grown by `distance` A, with a cosine
    edge `edge` A wide."""
    grids = np.meshgrid(
        *(
            f(n, rate)
            for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), model.shape, strict=True)
        ),
        indexing="ij",
    )
    low = fft.irfftn(fft.rfftn(model) * np.exp(-sum(g * g for g in grids) * 25.0), s=model.shape)
    inside = low > 0.1 * np.percentile(low[low > 0.02 * low.max()], 99)
    return soft_edge(inside, rate, distance, edge)


def soft_edge(inside: np.ndarray, rate: float, distance: float, edge: float) -> np.ndarray:
    """Soft mask (z, y, x): 1 inside and up to `distance` A from there, then half a cosine `edge` A wide."""
    away = ndimage.distance_transform_edt(~inside).astype(np.float32) * np.float32(rate)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((away - distance) / edge, 0, 1)).astype(np.float32)


def correlations(volume: np.ndarray, model: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """CC_mask and CC_box (see `Scores`) of a map (z, y, x) and the model's; a voxel is in the mask where that is over 0.5."""
    inside = mask > 0.5
    return _correlation(volume[inside], model[inside]), _correlation(volume, model)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def cc_peaks(volume: np.ndarray, model: np.ndarray, mask: np.ndarray) -> float:
    """Correlation over the voxels that are among the N highest of the map or among the N highest of the model's map, N voxels being in the mask.

    So density that the model does not explain counts too, and solvent does not (Afonine et al. 2018).
    """
    n = max(1, int(np.count_nonzero(mask > 0.5)))
    highest = np.zeros(volume.size, bool)
    for values in (volume.ravel(), model.ravel()):
        highest[np.argpartition(values, -n)[-n:]] = True
    return _correlation(volume.ravel()[highest], model.ravel()[highest])


def fsc_average(frequency: np.ndarray, curve: np.ndarray, highest: float) -> float:
    """Mean of the FSC up to the frequency `highest` (1/A), each shell weighted by how many coefficients it holds.

    sum n_i FSC_i / sum n_i over the shells i = 1, 2, ... with f_i <= highest, where n_i ~ (i + 1/2)^3 - (i - 1/2)^3 = 3 i^2 + 1/4 is the volume
    of a shell (Brown et al. 2015, Acta Cryst. D71, 136).
    """
    shells = np.arange(len(curve))
    used = (shells > 0) & (frequency <= highest * (1 + 1e-6))
    return (
        float(np.average(curve[used], weights=3 * shells[used] ** 2 + 0.25)) if used.any() else 1.0
    )


def score(volume: np.ndarray, model: np.ndarray, mask: np.ndarray, rate: float) -> Scores:
    """Metrics of a map (z, y, x) against the model's map on the same grid, `mask` soft, `rate` in A/voxel."""
    masked = spectrum.resolution(*spectrum.fsc(volume * mask, model * mask, rate), 0.5)
    unmasked = spectrum.resolution(*spectrum.fsc(volume, model, rate), 0.5)
    return Scores(masked, unmasked, *correlations(volume, model, mask))
