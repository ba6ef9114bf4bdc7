"""Map-model metrics: Fourier shell correlation and correlation coefficients."""

from dataclasses import dataclass

import numpy as np

from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.maps.filters import apply_b_factor, soft_edge

SMOOTHING = 100.0  # A^2, B factor of a Gaussian that is 1/e at 5 A


@dataclass(frozen=True)
class Scores:
    """Agreement of a map with the atomic model's map.

    The correlations are Pearson's (Afonine et al. 2018, Acta Cryst. D74, 814).

    Attributes:
        fsc_masked: resolution in A where the FSC in the mask falls under 0.5.
        fsc_unmasked: the same without the mask.
        cc_mask: correlation of the voxels in the mask.
        cc_box: correlation of all voxels.
    """

    fsc_masked: float
    fsc_unmasked: float
    cc_mask: float
    cc_box: float


def soft_mask(
    model: np.ndarray, rate: float, distance: float = 3.0, edge: float = 6.0
) -> np.ndarray:
    """Make a soft mask of the molecule, from the atomic model's map.

    It holds what is over a tenth of the 99th percentile of the density at 5 A.

    Args:
        model: the atomic model's map (z, y, x).
        rate: sampling rate in A/voxel.
        distance: A that the mask is grown by.
        edge: width of the cosine edge in A.

    Returns:
        The mask (z, y, x), 0-1.
    """
    low = apply_b_factor(model, rate, SMOOTHING)
    inside = low > 0.1 * np.percentile(low[low > 0.02 * low.max()], 99)
    return soft_edge(inside, rate, distance, edge)


def correlations(volume: np.ndarray, model: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Compute CC_mask and CC_box (see `Scores`) of a map and the model's map (z, y, x).

    A voxel is in the mask where that is over 0.5.
    """
    inside = mask > 0.5
    return _correlate(volume[inside], model[inside]), _correlate(volume, model)


def cc_peaks(volume: np.ndarray, model: np.ndarray, mask: np.ndarray) -> float:
    """Compute the correlation over the highest voxels of either map (z, y, x).

    These are as many of each map as there are voxels in the mask: density that the model does not
    explain counts too, and solvent does not (Afonine et al. 2018).
    """
    n = max(1, int(np.count_nonzero(mask > 0.5)))
    highest = np.zeros(volume.size, bool)
    for values in (volume.ravel(), model.ravel()):
        highest[np.argpartition(values, -n)[-n:]] = True
    return _correlate(volume.ravel()[highest], model.ravel()[highest])


def _correlate(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def fsc_average(frequency: np.ndarray, curve: np.ndarray, highest: float) -> float:
    """Average an FSC curve, each shell weighted by the coefficients that it holds.

    The average is sum n_i FSC_i / sum n_i over the shells i = 1, 2, ..., where
    n_i ~ (i + 1/2)^3 - (i - 1/2)^3 = 3 i^2 + 1/4 is the volume of a shell (Brown et al. 2015,
    Acta Cryst. D71, 136).

    Args:
        frequency: 1/A of the shells from zero on.
        curve: FSC of the shells.
        highest: frequency in 1/A of the last shell that counts.
    """
    shells = np.arange(len(curve))
    used = (shells > 0) & (frequency <= highest * (1 + 1e-6))
    if not used.any():
        return 1.0
    return float(np.average(curve[used], weights=3 * shells[used] ** 2 + 0.25))


def score(volume: np.ndarray, model: np.ndarray, mask: np.ndarray, rate: float) -> Scores:
    """Compare a map with the atomic model's map on the same grid (z, y, x).

    Args:
        volume: the map.
        model: the atomic model's map.
        mask: soft mask, 0-1.
        rate: sampling rate in A/voxel.
    """
    masked = spectrum.resolution(*spectrum.fsc(volume * mask, model * mask, rate), 0.5)
    unmasked = spectrum.resolution(*spectrum.fsc(volume, model, rate), 0.5)
    return Scores(masked, unmasked, *correlations(volume, model, mask))
