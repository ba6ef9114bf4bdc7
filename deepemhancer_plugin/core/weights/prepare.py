"""What the embedded network gets to see of a map."""

from typing import Literal

import numpy as np

from deepemhancer_plugin.core.maps.spectrum import flatten_and_scale

MASK_RULE: Literal[1] = (
    1  # of normalization.normalize_with_mask, before prepare_masked: all voxels in the mask count
)


def prepare(
    volume: np.ndarray,
    noise_mean: float,
    noise_std: float,
    channels: int = 2,
    workers: int = -1,
    compress: bool = True,
) -> np.ndarray:
    """The network's input (z, y, x, channels), float32, of a map (z, y, x) at 1 A/voxel.

    Channel 0 is the published normalisation, (x - mean) / (10 std), through arcsinh: the same up to one, a logarithm beyond, so that a map
    with next to no noise stays in the range that the network knows. Channel 1 is `spectrum.flatten_and_scale`, whose scale is the map's own.
    Without `compress`, for the published network, the arcsinh is left out.
    """
    outside = (
        volume == volume[0, 0, 0]
    )  # what a mask or a sphere of reconstruction left blank is solvent, not a step down from it
    centred = volume - np.float32(noise_mean)
    if np.count_nonzero(outside) > 1:
        centred[outside] = 0
    return _channels(centred, 1 / (10 * noise_std), channels, workers, compress)


def prepare_masked(
    volume: np.ndarray, channels: int = 2, workers: int = -1, compress: bool = True
) -> np.ndarray:
    """The same of a map that was normalised in a mask and is zero outside (normalization.normalize_with_mask)."""
    return _channels(volume, 1.0, channels, workers, compress)


def _channels(
    centred: np.ndarray, scale: float, channels: int, workers: int, compress: bool
) -> np.ndarray:
    result = np.empty((*centred.shape, channels), np.float32)
    if channels > 1:
        result[..., 1] = flatten_and_scale(centred, workers)
    np.multiply(centred, np.float32(scale), out=result[..., 0])
    if compress:
        np.arcsinh(result[..., 0], out=result[..., 0])
    return result
