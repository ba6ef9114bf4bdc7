"""Overlapping windows: the official networks normalise over the window that they see, and the embedded one was trained on cubes of its size.

Every voxel of any box is covered, each window is computed once, predictions are averaged with weights that are summed exactly,
and what a window adds is added in place. The geometry is pure functions; `enhance_windows` is the loop.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Predictor = Callable[[np.ndarray], np.ndarray]


def window_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where the windows of an axis begin: every `stride` voxels while they fit, and one flush with the end.

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
) -> list[tuple[int, ...]]:
    """First voxel (z, y, x) of each window over a box, x fastest; with a mask, only of windows with a voxel in it."""
    corners = itertools.product(*(window_starts(n, tile, stride) for n in shape))
    return [corner for corner in corners if mask is None or mask[window_at(corner, tile)].any()]


def window_at(corner: Sequence[int], tile: int) -> tuple[slice, ...]:
    """The window that begins at a voxel."""
    return tuple(slice(start, start + tile) for start in corner)


def window_weights(tile: int, smooth: bool = True) -> np.ndarray:
    """Weight of each voxel of a window in the average, float32 (tile, tile, tile), above 0 everywhere.

    Smooth weights (raised cosine) trust a window most in its middle, where the network saw all around, and leave no seams.
    """
    if not smooth:
        return np.ones((tile,) * 3, np.float32)
    profile = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    return (profile[:, None, None] * profile[:, None] * profile).astype(np.float32)


def pad_to_tile(volume: np.ndarray, tile: int) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The volume in a box of at least one window, and where it lies in it.

    It is padded evenly around and wraps, so that a solvent's texture, and with it the window's statistics, goes on.
    """
    missing = [max(tile - n, 0) for n in volume.shape[:3]]
    inside = tuple(
        slice(m // 2, m // 2 + n) for m, n in zip(missing, volume.shape[:3], strict=True)
    )
    if not any(missing):
        return volume, inside
    margins = [(m // 2, m - m // 2) for m in missing] + [(0, 0)] * (volume.ndim - 3)
    return np.pad(volume, margins, mode="wrap"), inside


def batches(
    corners: Sequence[tuple[int, ...]], batch: int, workers: int = 1
) -> Iterator[Sequence[tuple[int, ...]]]:
    """Groups of at most `batch` windows, each window once, small enough that every worker gets some; only the last may be
    smaller."""
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
    """The average of a network's predictions in overlapping windows.

    Args:
        volume: normalised map (z, y, x), or with channels (z, y, x, c), at the network's sampling rate, any box.
        predictors: one a device, each from windows (n, tile, tile, tile[, c]) to windows (n, tile, tile, tile); they share the windows.
        tile, stride: edge of a window and distance between windows, in voxels.
        batch: at most so many windows in one call. On a CPU 1 is the fastest: one window's arrays fit its cache best.
        mask: of the volume's shape; windows without a voxel in it are left out, and what no window covers is 0.
        smooth: weigh windows by `window_weights`; else all the same.
        progress: called with (windows done, windows in all), from one thread at a time.

    Returns:
        Float32 (z, y, x).

    Raises:
        Whatever a predictor raises; the others stop.
    """
    if batch < 1 or not predictors:
        raise ValueError(f"{len(predictors)} predictors, batches of {batch}")
    padded, inside = pad_to_tile(np.asarray(volume, np.float32), tile)
    if mask is not None:
        wanted = np.zeros(padded.shape[:3], bool)
        wanted[inside] = mask
        mask = wanted
    corners = window_corners(padded.shape[:3], tile, stride, mask)
    weights = window_weights(tile, smooth)
    total, weight = np.zeros(padded.shape[:3], np.float32), np.zeros(padded.shape[:3], np.float32)
    done = 0
    lock = threading.Lock()

    scratch = np.empty_like(weights)

    def add(group: Sequence[tuple[int, ...]], predictions: np.ndarray) -> None:
        nonlocal done
        with lock:
            for corner, prediction in zip(group, predictions, strict=True):
                where = window_at(corner, tile)
                total[where] += np.multiply(prediction, weights, out=scratch)
                weight[where] += weights
            done += len(group)
            if progress:
                progress(done, len(corners))

    def predict(predictor: Predictor, group: Sequence[tuple[int, ...]]) -> None:
        add(group, predictor(np.stack([padded[window_at(corner, tile)] for corner in group])))

    _share(list(batches(corners, batch, len(predictors))), predictors, predict)
    np.divide(total, weight, out=total, where=weight > 0)
    return np.ascontiguousarray(total[inside])


def _share(
    groups: Sequence[Sequence[tuple[int, ...]]],
    predictors: Sequence[Predictor],
    predict: Callable[[Predictor, Sequence[tuple[int, ...]]], None],
) -> None:
    """Each predictor takes the next group as soon as it is free. A single one works in this thread, where Ctrl-C reaches it at
    once."""
    if len(predictors) == 1:
        for group in groups:
            predict(predictors[0], group)
        return
    waiting: queue.SimpleQueue[Sequence[tuple[int, ...]]] = queue.SimpleQueue()
    for group in groups:
        waiting.put(group)
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(predictor: Predictor) -> None:
        try:
            while not stop.is_set():
                try:
                    group = waiting.get_nowait()
                except queue.Empty:  # all of them are taken
                    return
                predict(predictor, group)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [
        threading.Thread(target=work, args=(predictor,), daemon=True) for predictor in predictors
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C comes to this thread: the others end after their window
        stop.set()
        raise
    if failures:
        raise failures[0]
