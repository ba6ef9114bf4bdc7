"""Fourier shell correlation of two half maps, in a mask, and freed of what the mask itself brings in."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps import spectrum

RANDOMISE_BELOW = 0.8  # of the unmasked FSC: RELION's choice
UNCORRECTED_SHELLS = (
    2  # from there on, RELION's choice: the step in the phases leaks through the mask into them
)


@dataclass(frozen=True)
class HalfMapFsc:
    """FSC curves at `frequency` (1/A, up to Nyquist); without a mask only `unmasked`.

    masked            of the halves times the mask
    randomised        of the halves with random phases beyond `randomised_from` (1/A), times the mask: the correlation of the mask with itself
    corrected         (masked - randomised) / (1 - randomised) beyond that frequency, masked before it
    randomised_from   None where the unmasked FSC never falls under 0.8; then there is nothing to correct: `corrected` is `masked`
    """

    frequency: np.ndarray
    unmasked: np.ndarray
    masked: np.ndarray | None = None
    randomised: np.ndarray | None = None
    corrected: np.ndarray | None = None
    randomised_from: float | None = None

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """The curves that there are."""
        named = {
            name: getattr(self, name) for name in ("unmasked", "masked", "randomised", "corrected")
        }
        return {name: curve for name, curve in named.items() if curve is not None}

    def resolution(self, threshold: float) -> float:
        """A, by the best of the curves: corrected, or unmasked where there is no mask."""
        return spectrum.resolution(
            self.frequency, self.unmasked if self.corrected is None else self.corrected, threshold
        )


def half_map_fsc(
    half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray | None = None, seed: int = 0
) -> HalfMapFsc:
    """FSC of two half maps (z, y, x), `rate` in A/voxel, with the correction for a soft mask (z, y, x, 0-1).

    Chen et al. 2013, Ultramicroscopy 135, 24. `seed` is that of the random phases.
    """
    frequency, unmasked = spectrum.fsc(half1, half2, rate)
    if mask is None:
        return HalfMapFsc(frequency, unmasked)
    masked = spectrum.fsc(half1 * mask, half2 * mask, rate)[1]
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW) + 1
    if not len(below):
        return HalfMapFsc(frequency, unmasked, masked, None, masked)
    first = int(below[0])
    rng = np.random.default_rng(seed)
    noises = [
        phases_randomised(half, rate, frequency[first], rng) * mask for half in (half1, half2)
    ]
    randomised = spectrum.fsc(noises[0], noises[1], rate)[1]
    corrected = np.where(
        np.arange(len(masked)) < first + UNCORRECTED_SHELLS,
        masked,
        (masked - randomised) / np.maximum(1 - randomised, 1e-6),
    )
    return HalfMapFsc(frequency, unmasked, masked, randomised, corrected, float(frequency[first]))


def phases_randomised(
    volume: np.ndarray, rate: float, frequency: float, rng: np.random.Generator
) -> np.ndarray:
    """The map (z, y, x) with its amplitudes, but beyond `frequency` (1/A) with the phases of white noise."""
    spectrum_ = fft.rfftn(volume, workers=-1)
    noise = fft.rfftn(rng.standard_normal(volume.shape, np.float32), workers=-1)
    kz, ky, kx = (
        f(n, rate)
        for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), volume.shape, strict=True)
    )
    plane = ky[:, None] ** 2 + kx[None, :] ** 2
    for z, of_map, of_noise in zip(kz, spectrum_, noise, strict=True):
        beyond = z * z + plane >= (frequency * (1 - 1e-6)) ** 2
        of_map[beyond] = np.abs(of_map[beyond]) * of_noise[beyond] / np.abs(of_noise[beyond])
    return fft.irfftn(spectrum_, s=volume.shape, workers=-1)
