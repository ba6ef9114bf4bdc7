"""A pool of training cubes that worker processes renew, and batches that are drawn ahead."""

import mmap
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.enhancement.orientations import rotate_cube
from deepemhancer_plugin.core.training.cubes import Source

PAUSE = 0.05  # s, after which a worker looks again whether its cubes are wanted
SMALL_EDGE = 64  # voxels: larger cubes are most of their volume,
CUBES_PER_VOLUME = 8  # of which so many small ones are cut
BLUR = (0.5, 1.5)  # voxels, the least and the largest standard deviation
PATCHED = 0.1  # of the cubes have a patch of noise
PATCH_NOISE = (0.1, 0.3)  # standard deviation in each channel

Batch = tuple[np.ndarray, np.ndarray]


def _allocate_shared(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros that forked processes share; memory is taken as it is written."""
    dtype = np.dtype(dtype)
    memory = mmap.mmap(-1, max(1, int(np.prod(shape)) * dtype.itemsize))
    return np.frombuffer(memory, dtype).reshape(shape)


class Pool:
    """Cubes in shared memory that processes make for as long as the pool is open.

    The cubes are the same for the same seed; which of them a batch holds depends on the machine's
    speed. Use it as a context manager, and before TensorFlow or JAX start their threads, because
    the workers are forked.

    Attributes:
        size: number of cubes.
        inputs: (size, edge, edge, edge, channels), float16.
        targets: (size, edge, edge, edge, 1), float16.
        version: of each cube; odd while it is being written.
    """

    def __init__(
        self, source: Source, size: int, edge: int, channels: int, workers: int, seed: int
    ) -> None:
        """Allocate the memory.

        Args:
            source: of the cubes.
            size: number of cubes, rounded to what the workers make at a time.
            edge: of the cubes in voxels.
            channels: of the inputs.
            workers: processes.
            seed: of their random numbers.
        """
        self._per_volume = CUBES_PER_VOLUME if edge <= SMALL_EDGE else 1
        per_turn = self._per_volume * workers
        self.size = max(per_turn, size // per_turn * per_turn)
        self.inputs = _allocate_shared((self.size, edge, edge, edge, channels), np.float16)
        self.targets = _allocate_shared((self.size, edge, edge, edge, 1), np.float16)
        self.version = _allocate_shared((self.size,), np.int64)
        self._drawn = _allocate_shared((1,), np.int64)  # cubes, by all batches
        self._source = source
        self._edge = edge
        self._seed = seed
        context = multiprocessing.get_context("fork")
        share = self.size // workers
        self._processes = [
            context.Process(
                target=self._fill, args=(w, range(w * share, (w + 1) * share)), daemon=True
            )
            for w in range(workers)
        ]

    def __enter__(self) -> "Pool":
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()  # it owns nothing but the memory that it writes to
        for process in self._processes:
            process.join()

    def _fill(self, worker: int, slots: range) -> None:
        """Make cubes for ever; the work of a process."""
        os.nice(10)  # a network that trains on the same cores goes first
        # Ctrl-C and a queue's SIGTERM reach every process: the parent handles both, and ends this
        # one, which a SIGTERM ends without a message.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        rng = np.random.default_rng([self._seed, worker])
        while True:
            for start in range(slots.start, slots.stop, self._per_volume):
                # More cubes would be replaced before anything saw them.
                while self.count_made() >= self.size + self._drawn[0]:
                    time.sleep(PAUSE)
                block = slice(start, start + self._per_volume)
                made = self._source.make_cubes(
                    self._source.draw(rng), rng, self._per_volume, self._edge
                )
                self.version[block] += 1
                self.inputs[block], self.targets[block] = made
                self.version[block] += 1

    def count_made(self) -> int:
        """Count the cubes that have been made, those since replaced included."""
        return int((self.version // 2).sum())

    def wait(self, count: int) -> None:
        """Wait until `count` cubes are there.

        Raises:
            RuntimeError: a worker has died.
        """
        while self.count_made() < min(count, self.size):
            self._check_workers()
            time.sleep(0.2)

    def _check_workers(self) -> None:
        if any(p.exitcode is not None for p in self._processes):
            raise RuntimeError(
                "a process that makes cubes has died; its error stands above. "
                "The same command goes on from the last checkpoint"
            )

    def draw_batch(
        self, count: int, edge: int, rng: np.random.Generator, blur: float = 0.0
    ) -> Batch:
        """Draw random cubes in random orientations, some of them with a patch of noise.

        Args:
            count: of the cubes.
            edge: of the cubes in voxels, up to that of the pool.
            rng: draws them.
            blur: fraction of the cubes whose input goes through a Gaussian of 0.5-1.5 voxels, as
                published; simulations have it already.

        Returns:
            Inputs (count, edge, edge, edge, channels) and targets (count, edge, edge, edge, 1),
            float16.

        Raises:
            RuntimeError: a worker has died: the same few cubes would be learnt by heart.
        """
        self._check_workers()
        shape = (count, edge, edge, edge, self.inputs.shape[-1])
        inputs = np.empty(shape, np.float16)
        targets = np.empty((*shape[:-1], 1), np.float16)
        ready = np.flatnonzero(self.version >= 2)
        self._drawn += count
        for i in range(count):
            self._copy_cube(ready, rng, inputs[i], targets[i])
            if blur and rng.random() < blur:
                smooth = inputs[i].astype(np.float32)
                inputs[i] = ndimage.gaussian_filter(smooth, rng.uniform(*BLUR), axes=(0, 1, 2))
            if rng.random() < PATCHED:
                add_noise_patch(inputs[i], targets[i], rng)
        return inputs, targets

    def _copy_cube(
        self, ready: np.ndarray, rng: np.random.Generator, inputs: np.ndarray, targets: np.ndarray
    ) -> None:
        """Copy a part of one of the cubes `ready`, turned; again if it is written meanwhile."""
        edge = len(inputs)
        while True:
            slot = rng.choice(ready)
            rotation = int(rng.integers(24))
            before = int(self.version[slot])
            corner = rng.integers(0, self._edge - edge + 1, 3)
            part = (slot, *(slice(a, a + edge) for a in corner))
            inputs[:] = rotate_cube(self.inputs[part], rotation)
            targets[:] = rotate_cube(self.targets[part], rotation)
            if before % 2 == 0 and before == self.version[slot]:
                return


def add_noise_patch(cube: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> None:
    """Replace a patch of up to a third of the edge by noise, in place, its target by nothing.

    This is the patch corruption of Sanchez-Garcia et al. 2021.

    Args:
        cube: input (z, y, x, channels).
        target: its target (z, y, x, 1).
        rng: draws place and noise.
    """
    largest = cube.shape[0] // 3
    size = rng.integers(min(6, largest), largest + 1, 3)
    start = [int(rng.integers(0, n - s + 1)) for n, s in zip(cube.shape[:3], size, strict=True)]
    patch = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
    shape = cube[patch].shape
    cube[patch] = rng.standard_normal(shape) * np.array(PATCH_NOISE)[: shape[-1]]
    target[patch] = 0


class Prefetch:
    """Batches that threads draw while the device computes."""

    def __init__(
        self, draw: Callable[[np.random.Generator], Batch], seed: Sequence[int], threads: int
    ) -> None:
        """Start the threads.

        Args:
            draw: makes a batch with a random generator, of which each thread has its own.
            seed: of the generators.
            threads: their number.
        """
        self._draw = draw
        self._queue: queue.Queue[Batch] = queue.Queue(2 * threads)
        self._stop = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._fill, args=([*seed, number],), daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _fill(self, seed: Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        while not self._stop:
            try:
                batch = self._draw(rng)
            except BaseException as error:
                self._error = error
                return
            self._put(batch)

    def _put(self, batch: Batch) -> None:
        while not self._stop:
            try:
                self._queue.put(batch, timeout=0.5)
                return
            except queue.Full:
                continue

    def get(self) -> Batch:
        """Return the next batch, or raise at once what a thread has raised."""
        while self._error is None:
            try:
                return self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
        raise self._error

    def close(self) -> None:
        """Stop the threads."""
        self._stop = True
        for thread in self._threads:
            thread.join()
