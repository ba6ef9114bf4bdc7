"""The steps of the original program (`--classic`), for comparison with maps that it made.

They are the original's voxel by voxel, with what only a comparison needs: the map is padded by its
own periodic continuation, by a whole stride where it would need none; the sum of the windows'
weights starts at one, so that the border fades; resizing is by cubic splines. Two things differ.
Each axis is padded by its own length, where the original takes the width for the depth and so loses
planes of boxes that are no cubes. Batches are not filled up, which changes no voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.resampling import WORKING_RATE, resize_as_original
from deepemhancer_plugin.core.weights.model import halve_batches

Function = Callable[[np.ndarray], np.ndarray]


def enhance_classic(
    volume: np.ndarray,
    sampling_rate: float,
    predictor: Function,
    tile: int,
    stride: int,
    normalize: Function,
    mask: np.ndarray | None = None,
    clean: Function | None = None,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Enhance a map by the original program's steps (Sanchez-Garcia et al. 2021).

    Reference: Communications Biology 4, 874, doi 10.1038/s42003-021-02399-1.

    Args:
        volume: the map, or the mean of its halves (z, y, x).
        sampling_rate: A/voxel.
        predictor: the official network in float32, from windows (n, tile, tile, tile) to windows of
            the same shape.
        tile: edge of the checkpoint's window in voxels of 1 A.
        stride: distance between its windows in voxels of 1 A.
        normalize: the normalisation that the checkpoint names, as a function of the map.
        mask: for mask normalisation, of the map's shape; windows without a voxel in it are skipped.
        clean: removal of small components, as a function of the enhanced map at 1 A/voxel.
        batch: the largest number of windows in one call.
        progress: called with (windows done, windows in all).

    Returns:
        The enhanced map (z, y, x), float32, of the volume's shape.

    Raises:
        InputError: an axis is too short for a window; the original gives zeros everywhere then.
    """
    shape = tuple(round(n * sampling_rate / WORKING_RATE) for n in volume.shape)
    padding = [stride - n % stride for n in shape]
    if min(n + p for n, p in zip(shape, padding, strict=True)) < tile:
        raise InputError(
            f"a box of {' x '.join(map(str, shape))} A is too small for the classic mode, which "
            f"needs {tile - stride} A along each axis; enhance it without --classic"
        )
    resized = resize_as_original(normalize(np.asarray(volume, np.float32)), shape)
    padded = np.pad(resized, [(0, p) for p in padding], mode="wrap")
    starts = itertools.product(*(range(0, n - tile + 1, stride) for n in padded.shape))
    windows = [tuple(slice(i, i + tile) for i in corner) for corner in starts]
    if mask is not None:
        # The original does not pad the mask: windows at the end see what is left of it.
        small_mask = resize_as_original(np.asarray(mask, np.float32), shape)
        windows = [window for window in windows if np.any(small_mask[window])]

    predict = halve_batches(predictor)
    # The original's sums are float64.
    total, weight = np.zeros(padded.shape), np.ones(padded.shape)
    for first in range(0, len(windows), batch):
        group = windows[first : first + batch]
        predictions = predict(np.stack([padded[window] for window in group]))
        for window, prediction in zip(group, predictions, strict=True):
            total[window] += prediction
            weight[window] += 1
        if progress:
            progress(first + len(group), len(windows))
    total /= weight
    enhanced = total[tuple(slice(0, n) for n in shape)]
    if clean is not None:
        enhanced = clean(enhanced)
    return resize_as_original(enhanced, volume.shape).astype(np.float32)
