"""Change of the sampling rate of maps and masks; the first voxel stays where it was."""

import math
from typing import cast

import numpy as np
from scipy import fft, ndimage

WORKING_RATE = 1.0  # A/voxel, the sampling rate of the networks


def resampled_shape(
    shape: tuple[int, ...], sampling_rate: float, target_rate: float = WORKING_RATE
) -> tuple[int, ...]:
    """Give the box (z, y, x) that covers the same volume at nearly another sampling rate.

    Args:
        shape: Box of the map in voxels.
        sampling_rate: Its sampling rate in A/voxel.
        target_rate: The wanted one in A/voxel.

    Returns:
        The box in voxels, at least one along each axis.
    """
    return tuple(max(1, round(n * sampling_rate / target_rate)) for n in shape)


def resample(volume: np.ndarray, shape: tuple[int, ...], workers: int = -1) -> np.ndarray:
    """Sample a periodic band-limited map on another grid over the same volume, in Fourier space.

    Where the new grid is coarser, frequencies beyond its Nyquist limit are dropped, which is the
    anti-aliasing; where it is finer they are zero. One axis follows the other, so that never more
    than one is complex at a time.

    Args:
        volume: The map (z, y, x).
        shape: The new box (z, y, x).
        workers: Threads of the Fourier transforms; -1: every core.

    Returns:
        The map on the new grid, float32; voxel (0, 0, 0) is where it was.
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
            # The one real coefficient at Nyquist stands for both signs. The finer grid holds both.
            index[axis] = slice(kept - 1, kept)
            spectrum[tuple(index)] *= 0.5 if new > old else 2.0
        result = fft.irfft(spectrum, n=new, axis=axis, workers=workers)
        result *= np.float32(new / old)
    return np.ascontiguousarray(result, np.float32)


def resample_density(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample density in an empty box, and keep the box empty.

    Density with borders is not band-limited: what a coarser grid drops would leave ripples all over
    the solvent, and no mask would be tight.

    Args:
        volume: The map (z, y, x).
        shape: The new box (z, y, x).

    Returns:
        As `resample`, but zero farther than two voxels of the coarser grid from all that is not
        zero. The map itself where the box is the same.
    """
    if volume.shape == shape:
        return volume
    ratio = [old / new for old, new in zip(volume.shape, shape, strict=True)]
    size = [2 * math.ceil(2 * max(1.0, r)) + 1 for r in ratio]
    near = ndimage.maximum_filter(volume != 0, size, mode="wrap")
    result = resample(volume, shape)
    result[~resample_mask(near, shape)] = 0
    return result


def resample_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sample a boolean mask (z, y, x) on another grid, by the nearest voxel: without ringing.

    Args:
        mask: The mask.
        shape: The new box (z, y, x) over the same volume.

    Returns:
        The mask on the new grid; voxel (0, 0, 0) is where it was.
    """
    nearest = (
        np.round(np.arange(new) * (old / new)).astype(int) % old
        for old, new in zip(mask.shape, shape, strict=True)
    )
    return np.asarray(mask[np.ix_(*nearest)], bool)


def resize_as_original(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize a map (z, y, x) as the original program does, by scikit-image's `resize`.

    Cubic splines, low-pass filtered where it shrinks, no value beyond the input's range.
    """
    from skimage.transform import resize

    resized = resize(
        volume, shape, order=3, mode="reflect", clip=True, preserve_range=True, anti_aliasing=True
    )
    return cast(np.ndarray, resized)
