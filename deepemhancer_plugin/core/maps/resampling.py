"""Change of the sampling rate in Fourier space: exact for band-limited maps, no shift, the same first voxel before and after."""

import math

import numpy as np
from scipy import fft, ndimage

WORKING_RATE = 1.0  # A/voxel, the sampling rate of the networks


def resampled_shape(
    shape: tuple[int, ...], sampling_rate: float, target_rate: float = WORKING_RATE
) -> tuple[int, ...]:
    """Box (z, y, x) in voxels that covers the same volume at (nearly) `target_rate` A/voxel."""
    return tuple(max(1, round(n * sampling_rate / target_rate)) for n in shape)


def resample(volume: np.ndarray, shape: tuple[int, ...], workers: int = -1) -> np.ndarray:
    """The periodic band-limited map (z, y, x) sampled on `shape` voxels over the same volume, as float32.

    Voxel (0, 0, 0) stays where it was. Where the new grid is coarser, frequencies beyond its Nyquist limit are dropped, which is the
    anti-aliasing; where it is finer they are zero. One axis after the other, so that never more than one axis is complex at a time.
    """
    result = np.asarray(volume, np.float32)
    # Shrinking axes first keeps every later step small.
    for axis in sorted(range(result.ndim), key=lambda a: shape[a] / result.shape[a]):
        old, new = result.shape[axis], shape[axis]
        if old == new:
            continue
        spectrum = fft.rfft(result, axis=axis, workers=workers)
        kept = min(old, new) // 2 + 1
        index: list[slice] = [slice(None)] * result.ndim
        index[axis] = slice(kept)
        spectrum = spectrum[tuple(index)]
        if min(old, new) % 2 == 0:
            # The one real coefficient at Nyquist stands for both signs: halved when the finer grid holds both, doubled the other way.
            index[axis] = slice(kept - 1, kept)
            spectrum[tuple(index)] *= 0.5 if new > old else 2.0
        result = fft.irfft(spectrum, n=new, axis=axis, workers=workers)
        result *= np.float32(new / old)
    return np.ascontiguousarray(result, np.float32)


def resample_density(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`resample` of density in an empty box: zero again farther than two voxels of the coarser grid from all that is not zero.

    Density with borders is not band-limited: the ripples of what a coarser grid drops would fill its solvent, and no mask would be tight.
    """
    if volume.shape == shape:
        return volume
    ratio = [old / new for old, new in zip(volume.shape, shape, strict=True)]
    near = ndimage.maximum_filter(
        volume != 0, [2 * math.ceil(2 * max(1.0, r)) + 1 for r in ratio], mode="wrap"
    )
    nearest = [
        np.round(np.arange(new) * r).astype(int) % old
        for old, new, r in zip(volume.shape, shape, ratio, strict=True)
    ]
    result = resample(volume, shape)
    result[~near[np.ix_(*nearest)]] = 0
    return result


def resize_as_original(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize a map (z, y, x) as the original program does, by scikit-image's `resize`.

    Cubic splines, low-pass filtered where it shrinks, no value beyond the input's range.
    """
    from skimage.transform import resize

    return resize(
        volume, shape, order=3, mode="reflect", clip=True, preserve_range=True, anti_aliasing=True
    )
