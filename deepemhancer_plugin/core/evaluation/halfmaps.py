"""Fourier shell correlation of two half maps, in a mask, and corrected for the mask."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.maps.filters import frequency_slabs

RANDOMISE_BELOW = 0.8  # unmasked FSC where the random phases begin, as RELION has it
# Shells from there on that stay uncorrected, as in RELION: the step in the phases leaks through
# the mask into them.
UNCORRECTED_SHELLS = 2


@dataclass(frozen=True)
class HalfMapFsc:
    """FSC curves of two half maps; without a mask only the unmasked one.

    Attributes:
        frequency: 1/A, up to Nyquist.
        unmasked: FSC of the halves as they are.
        masked: FSC of the halves times the mask.
        randomised: FSC of the halves with random phases beyond `randomised_from`, times the mask:
            the correlation that the mask brings in.
        corrected: (masked - randomised) / (1 - randomised) beyond that frequency, masked before it.
        randomised_from: 1/A; None where the unmasked FSC never falls under 0.8. Then there is
            nothing to correct, and `corrected` is `masked`.
    """

    frequency: np.ndarray
    unmasked: np.ndarray
    masked: np.ndarray | None = None
    randomised: np.ndarray | None = None
    corrected: np.ndarray | None = None
    randomised_from: float | None = None

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """The curves that there are, by name."""
        named = {
            name: getattr(self, name) for name in ("unmasked", "masked", "randomised", "corrected")
        }
        return {name: curve for name, curve in named.items() if curve is not None}

    def resolution(self, threshold: float) -> float:
        """Give the resolution in A by the corrected curve, or the unmasked one without a mask."""
        curve = self.unmasked if self.corrected is None else self.corrected
        return spectrum.resolution(self.frequency, curve, threshold)


def half_map_fsc(
    half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray | None = None, seed: int = 0
) -> HalfMapFsc:
    """Compute the FSC of two half maps, and correct it for a soft mask.

    Chen et al. 2013, Ultramicroscopy 135, 24.

    Args:
        half1: the first half map (z, y, x).
        half2: the second half map.
        rate: sampling rate in A/voxel.
        mask: soft mask (z, y, x), 0-1.
        seed: of the random phases.
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
    noises = [randomise_phases(half, rate, frequency[first], rng) * mask for half in (half1, half2)]
    randomised = spectrum.fsc(noises[0], noises[1], rate)[1]
    corrected = np.where(
        np.arange(len(masked)) < first + UNCORRECTED_SHELLS,
        masked,
        (masked - randomised) / np.maximum(1 - randomised, 1e-6),
    )
    return HalfMapFsc(frequency, unmasked, masked, randomised, corrected, float(frequency[first]))


def randomise_phases(
    volume: np.ndarray, rate: float, frequency: float, rng: np.random.Generator
) -> np.ndarray:
    """Replace the phases of a map (z, y, x) by those of white noise beyond a frequency.

    Args:
        volume: the map.
        rate: sampling rate in A/voxel.
        frequency: 1/A.
        rng: draws the noise.

    Returns:
        A map with the same amplitudes.
    """
    transform = fft.rfftn(volume, workers=-1)
    noise = fft.rfftn(rng.standard_normal(volume.shape, np.float32), workers=-1)
    for planes, k in frequency_slabs(volume.shape, rate):
        beyond = k >= frequency * (1 - 1e-6)
        of_map, of_noise = transform[planes], noise[planes][beyond]
        of_map[beyond] = np.abs(of_map[beyond]) * of_noise / np.abs(of_noise)
    return np.asarray(fft.irfftn(transform, s=volume.shape, workers=-1))
