"""What the embedded network gets to see of a map."""
import numpy as np

from deepemhancer_plugin.core.spectrum import flattened


def prepare(volume: np.ndarray, noise_mean: float, noise_std: float, channels: int = 2, workers: int = -1) -> np.ndarray:
    """The network's input (z, y, x, channels), float32, of a map (z, y, x) at 1 A/voxel.

    Channel 0 is the published normalisation, (x - mean) / (10 std), through arcsinh: the same up to one, a logarithm beyond, so that a map
    with next to no noise stays in the range that the network knows. Channel 1 is `spectrum.flattened`, whose scale is the map's own.
    """
    outside = volume == volume[0, 0, 0]  # what a mask or a sphere of reconstruction left blank is solvent, not a step down from it
    centred = volume - np.float32(noise_mean)
    if np.count_nonzero(outside) > 1:
        centred[outside] = 0
    result = np.empty((*volume.shape, channels), np.float32)
    if channels > 1:
        result[..., 1] = flattened(centred, workers)
    centred *= np.float32(1 / (10 * noise_std))
    result[..., 0] = np.arcsinh(centred, out=centred)
    return result
