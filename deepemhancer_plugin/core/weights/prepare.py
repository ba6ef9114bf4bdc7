"""What the networks are shown of a map.

The same functions serve enhancement and training, so that a network meets at use what it was
trained on.
"""

from typing import Literal

import numpy as np

from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.maps.spectrum import flatten_and_scale
from deepemhancer_plugin.core.noise.directions import Views, whiten_directions
from deepemhancer_plugin.core.noise.normalization import NoiseStats, normalize_with_mask

MASK_RULE: Literal[1] = 1  # of `normalize_with_mask`: all voxels in the mask count


def network_input(
    volume: np.ndarray,
    sampling_rate: float,
    noise: NoiseStats,
    channels: int = 2,
    compress: bool = True,
    views: Views | None = None,
    workers: int = -1,
) -> np.ndarray:
    """Normalise a map by its noise and bring it to 1 A/voxel.

    Channel 0 is the published normalisation, (x - mean) / (10 std) (Sanchez-Garcia et al. 2021),
    through arcsinh: nearly the same up to one, a logarithm beyond, so that a map with next to no
    noise stays in the range that the network knows. Channel 1 is the map with flat amplitudes
    (`spectrum.flatten_and_scale`), whose scale is the map's own.

    Args:
        volume: the map, or the mean of the half maps (z, y, x). Voxels that a mask or a sphere of
            reconstruction left blank are taken for solvent.
        sampling_rate: A/voxel.
        noise: its noise, in the map's unit.
        channels: 1 or 2.
        compress: whether channel 0 goes through arcsinh.
        views: of the half maps; noise that they make uneven is evened out.
        workers: threads of the Fourier transforms.

    Returns:
        (z, y, x, channels), float32.
    """
    # Blank voxels are equal only before any filter.
    blank = volume == volume[0, 0, 0]
    centred = volume - np.float32(noise.mean)
    if np.count_nonzero(blank) > 1:
        centred[blank] = 0
    del blank
    if views is not None and views.uneven:
        centred = whiten_directions(centred, views.coefficients, views.fsc, sampling_rate)
    centred = resample(centred, resampled_shape(centred.shape, sampling_rate), workers)
    return _stack_channels(centred, 0.1 / noise.std, channels, compress, workers)


def network_input_in_mask(
    volume: np.ndarray,
    sampling_rate: float,
    mask: np.ndarray,
    channels: int = 2,
    compress: bool = True,
    views: Views | None = None,
    workers: int = -1,
) -> np.ndarray:
    """Normalise a map by its values in a boolean mask (z, y, x); else as `network_input`."""
    if views is not None and views.uneven:
        volume = whiten_directions(volume, views.coefficients, views.fsc, sampling_rate)
    masked = normalize_with_mask(volume, mask, MASK_RULE)
    masked = resample(masked, resampled_shape(masked.shape, sampling_rate), workers)
    return _stack_channels(masked, 1.0, channels, compress, workers)


def _stack_channels(
    centred: np.ndarray, scale: float, channels: int, compress: bool, workers: int
) -> np.ndarray:
    result = np.empty((*centred.shape, channels), np.float32)
    if channels > 1:
        result[..., 1] = flatten_and_scale(centred, workers)
    np.multiply(centred, np.float32(scale), out=result[..., 0])
    if compress:
        np.arcsinh(result[..., 0], out=result[..., 0])
    return result
