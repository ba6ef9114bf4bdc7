"""Amplitude against resolution: the Guinier curve of a map, and its B factor."""

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps import filters, spectrum

LOW_RESOLUTION = 10.0  # A: where the fit starts, beyond the molecule's shape (Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721)
FEWEST_SHELLS = 4  # that a B factor is fitted to


def amplitude_profile(volume: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """1/d^2 (1/A^2) and ln of the mean amplitude of each shell of a map (z, y, x) up to Nyquist, `rate` in A/voxel.

    Amplitudes are those of the Fourier series, |F| / number of voxels, and so do not depend on how finely the box is sampled.
    """
    transform = np.abs(fft.rfftn(volume, workers=-1)) / volume.size
    mean = spectrum.radial_mean(transform, volume.shape, rate)[: min(volume.shape) // 2 + 1]
    return (np.arange(len(mean)) * filters.shell_width(volume.shape, rate)) ** 2, np.log(
        np.maximum(mean, np.finfo(np.float32).tiny)
    )


def b_factor(
    square: np.ndarray, log_amplitude: np.ndarray, high: float, low: float = LOW_RESOLUTION
) -> float | None:
    """B (A^2) of amplitudes that fall as exp(-B / 4 d^2) between the resolutions `low` and `high` (A): least squares, every shell alike.

    Positive where the map's contrast is lost; about zero or negative where it was sharpened. None with fewer than four shells.
    """
    fitted = (square >= low**-2) & (square <= high**-2)
    if np.count_nonzero(fitted) < FEWEST_SHELLS:
        return None
    return -4 * float(np.polyfit(square[fitted], log_amplitude[fitted], 1)[0])
