"""Overlapping windows over a map: their geometry, and the average of a network's predictions.

Networks are trained on cubes of one size, and official ones normalise over the window that they
see. Every voxel of any box is covered, each window is computed once, and predictions are averaged
with weights that are summed exactly.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from deepemhancer_plugin.core.weights.model import Predictor, halve_batches

Corner = tuple[int, ...]  # first voxel (z, y, x) of a window


def window_starts(length: int, tile: int, stride: int) -> list[int]:
    """Give the first voxels of the windows of an axis: every `stride`, and one flush with the end.

    Raises:
        ValueError: the axis is shorter than a window, or the stride leaves gaps.
    """
    if length < tile or not 1 <= stride <= tile:
        raise ValueError(
            f"windows of {tile} every {stride} voxels do not cover an axis of {length}"
        )
    starts = list(range(0, length - tile + 1, stride))
    return starts if starts[-1] == length - tile else [*starts, length - tile]


def window_corners(
    shape: Sequence[int], tile: int, stride: int, mask: np.ndarray | None = None
) -> list[Corner]:
    """Give the corners of the windows over a box, x fastest; with a mask, of those that meet it."""
    corners = itertools.product(*(window_starts(n, tile, stride) for n in shape))
    return [corner for corner in corners if mask is None or mask[window_at(corner, tile)].any()]


def window_at(corner: Corner, tile: int) -> tuple[slice, ...]:
    """Give the slices of the window that begins at a voxel."""
    return tuple(slice(start, start + tile) for start in corner)


def window_weights(tile: int, smooth: bool = True) -> np.ndarray:
    """Give the weight of each voxel of a window in the average, above 0 everywhere.

    Smooth weights (squared sines) trust a window most in its middle, where the network saw all
    around, and leave no seams.

    Returns:
        Float32 (tile, tile, tile).
    """
    if not smooth:
        return np.ones((tile,) * 3, np.float32)
    profile = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    weights: np.ndarray = profile[:, None, None] * profile[:, None] * profile
    return weights.astype(np.float32)


def pad_to_tile(volume: np.ndarray, tile: int) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Pad a map (z, y, x[, channels]) to at least one window.

    It is padded evenly around and wraps, so that the solvent's texture goes on, and with it the
    statistics of the window.

    Returns:
        The padded map, and the slices of the map in it.
    """
    missing = [max(tile - n, 0) for n in volume.shape[:3]]
    before = [m // 2 for m in missing]
    inside = tuple(slice(b, b + n) for b, n in zip(before, volume.shape[:3], strict=True))
    if not any(missing):
        return volume, inside
    margins = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return np.pad(volume, margins + [(0, 0)] * (volume.ndim - 3), mode="wrap"), inside


def batches(corners: Sequence[Corner], batch: int, workers: int = 1) -> Iterator[Sequence[Corner]]:
    """Split windows into groups of at most `batch`, so small that every worker gets some."""
    size = max(1, min(batch, len(corners) // workers))
    return (corners[i : i + size] for i in range(0, len(corners), size))


def enhance_windows(
    volume: np.ndarray,
    predictors: Sequence[Predictor],
    tile: int,
    stride: int,
    batch: int = 1,
    mask: np.ndarray | None = None,
    smooth: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Average a network's predictions in overlapping windows.

    Args:
        volume: what the network is shown (z, y, x[, channels]), any box.
        predictors: the network, one a device, from windows (n, tile, tile, tile[, channels]) to
            windows (n, tile, tile, tile); they share the windows.
        tile: edge of a window in voxels.
        stride: distance between windows in voxels.
        batch: at most so many windows in one call; fewer where memory does not suffice for them.
        mask: boolean (z, y, x); windows that do not meet it are left out, and what no window
            covers is 0.
        smooth: weigh windows by `window_weights`; else all the same.
        progress: called with (windows done, windows in all), from one thread at a time.

    Returns:
        Float32 (z, y, x).

    Raises:
        ValueError: no predictor, or a batch under 1. What a predictor raises is raised, too.
    """
    if batch < 1 or not predictors:
        raise ValueError(f"{len(predictors)} predictors, batches of {batch}")
    padded, inside = pad_to_tile(np.asarray(volume, np.float32), tile)
    if mask is not None:
        padded_mask = np.zeros(padded.shape[:3], bool)
        padded_mask[inside] = mask
        mask = padded_mask
    corners = window_corners(padded.shape[:3], tile, stride, mask)
    weights = window_weights(tile, smooth)
    scratch = np.empty_like(weights)
    total = np.zeros(padded.shape[:3], np.float32)
    weight = np.zeros(padded.shape[:3], np.float32)
    done = 0
    lock = threading.Lock()

    def predict(predictor: Predictor, group: Sequence[Corner]) -> None:
        nonlocal done
        predictions = predictor(np.stack([padded[window_at(c, tile)] for c in group]))
        with lock:
            for corner, prediction in zip(group, predictions, strict=True):
                window = window_at(corner, tile)
                total[window] += np.multiply(prediction, weights, out=scratch)
                weight[window] += weights
            done += len(group)
            if progress:
                progress(done, len(corners))

    devices = [halve_batches(predictor) for predictor in predictors]
    _share(list(batches(corners, batch, len(devices))), devices, predict)
    np.divide(total, weight, out=total, where=weight > 0)
    return np.ascontiguousarray(total[inside])


def _share(
    groups: Sequence[Sequence[Corner]],
    predictors: Sequence[Predictor],
    predict: Callable[[Predictor, Sequence[Corner]], None],
) -> None:
    """Give each predictor the next group as soon as it is free.

    A single predictor works in this thread, where Ctrl-C reaches it at once.
    """
    if len(predictors) == 1:
        for group in groups:
            predict(predictors[0], group)
        return
    free: queue.SimpleQueue[Predictor] = queue.SimpleQueue()
    for predictor in predictors:
        free.put(predictor)

    def run(group: Sequence[Corner]) -> None:
        predictor = free.get()
        try:
            predict(predictor, group)
        finally:
            free.put(predictor)

    pool = ThreadPoolExecutor(len(predictors))
    try:
        for finished in as_completed([pool.submit(run, group) for group in groups]):
            finished.result()
    finally:
        pool.shutdown(cancel_futures=True)
