"""Amplitude against resolution: the Guinier curve of a map."""

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps import filters, spectrum


def amplitude_profile(volume: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean amplitude of each shell of a map up to Nyquist.

    Amplitudes are those of the Fourier series, |F| / number of voxels, and so do not depend on how
    finely the box is sampled.

    Args:
        volume: the map (z, y, x).
        rate: sampling rate in A/voxel.

    Returns:
        1 / d^2 of the shells in 1/A^2, and the natural logarithm of their mean amplitudes.
    """
    transform = np.abs(fft.rfftn(volume, workers=-1)) / volume.size
    mean = spectrum.radial_mean(transform, volume.shape, rate)[: min(volume.shape) // 2 + 1]
    frequency = np.arange(len(mean)) * filters.shell_width(volume.shape, rate)
    return frequency**2, np.log(np.maximum(mean, np.finfo(np.float32).tiny))
