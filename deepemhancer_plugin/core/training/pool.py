"""A pool of training cubes in shared memory that worker processes renew as fast as they are used."""

import mmap
import multiprocessing
import os
import signal
import time

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.enhancement.orientations import rotate_cube
from deepemhancer_plugin.core.training.cubes import Source

PAUSE = 0.05  # seconds, for which a worker waits before it looks again whether its cubes are wanted


def _shared(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array of zeros that forked processes share; memory is taken as it is written."""
    dtype = np.dtype(dtype)
    return np.frombuffer(
        mmap.mmap(-1, max(1, int(np.prod(shape)) * dtype.itemsize)), dtype
    ).reshape(shape)


class Pool:
    """`size` cubes of `edge` voxels, made from `source` by `workers` processes for as long as the pool is open.

    The cubes are the same for the same seed; which of them a batch holds depends on the machine's speed. Use as a context manager; make it
    before TensorFlow or JAX start their threads, because the workers are forked.
    """

    def __init__(
        self, source: Source, size: int, edge: int, channels: int, workers: int, seed: int
    ):
        per_volume = 8 if edge <= 64 else 1  # a large cube is most of its volume
        self.size = max(per_volume * workers, size // (per_volume * workers) * per_volume * workers)
        self.inputs = _shared((self.size, edge, edge, edge, channels), np.float16)
        self.targets = _shared((self.size, edge, edge, edge, 1), np.float16)
        self.version = _shared((self.size,), np.int64)  # odd while a cube is being written
        self._drawn = _shared((1,), np.int64)  # cubes, by all batches
        self._source, self._edge, self._per_volume, self._seed = source, edge, per_volume, seed
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

    def __exit__(self, *_) -> None:
        for process in self._processes:
            process.kill()  # it owns nothing but the memory that it writes to
        for process in self._processes:
            process.join()

    def _fill(self, worker: int, slots: range) -> None:
        os.nice(10)  # where the network trains on the same cores, it goes first
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches every process of the terminal: the parent ends this one
        signal.signal(
            signal.SIGTERM, signal.SIG_DFL
        )  # a queue's reaches them too: this one goes without a word
        rng = np.random.default_rng([self._seed, worker])
        while True:
            for start in range(slots.start, slots.stop, self._per_volume):
                while (
                    self.filled() >= self.size + self._drawn[0]
                ):  # more would be replaced before anything saw them
                    time.sleep(PAUSE)
                block = slice(start, start + self._per_volume)
                made = self._source.cubes(self._source.draw(rng), rng, self._per_volume, self._edge)
                self.version[block] += 1
                self.inputs[block], self.targets[block] = made
                self.version[block] += 1

    def filled(self) -> int:
        """How many cubes have been made, those since replaced included."""
        return int((self.version // 2).sum())

    def wait(self, count: int) -> None:
        """Until `count` cubes are there. RuntimeError when a worker has died."""
        while self.filled() < min(count, self.size):
            self._check()
            time.sleep(0.2)

    def _check(self) -> None:
        if any(p.exitcode is not None for p in self._processes):
            raise RuntimeError(
                "a process that makes cubes has died; its error stands above. The same command goes on from the last checkpoint"
            )

    def batch(
        self, count: int, edge: int, rng: np.random.Generator, blur: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`count` random cubes of `edge` voxels in random orientations, some of them with a blank patch: (inputs, targets), float16.

        `blur`: share of the cubes whose input goes through a Gaussian of 0.5-1.5 voxels (the paper's augmentation; simulations have it already).
        RuntimeError when a worker has died: the same few cubes would be learnt by heart.
        """
        self._check()
        shape = (count, edge, edge, edge, self.inputs.shape[-1])
        inputs, targets = np.empty(shape, np.float16), np.empty((*shape[:-1], 1), np.float16)
        ready = np.flatnonzero(self.version >= 2)
        self._drawn += count
        for i in range(count):
            while True:
                slot, rotation = rng.choice(ready), int(rng.integers(24))
                before = int(self.version[slot])
                part = (
                    slot,
                    *(slice(a, a + edge) for a in rng.integers(0, self._edge - edge + 1, 3)),
                )
                inputs[i], targets[i] = (
                    rotate_cube(self.inputs[part], rotation),
                    rotate_cube(self.targets[part], rotation),
                )
                if before % 2 == 0 and before == self.version[slot]:  # nobody wrote while we read
                    break
            if blur and rng.random() < blur:
                inputs[i] = ndimage.gaussian_filter(
                    inputs[i].astype(np.float32), rng.uniform(0.5, 1.5), axes=(0, 1, 2)
                )
            if rng.random() < 0.1:
                _corrupt(inputs[i], targets[i], rng)
        return inputs, targets


def _corrupt(cube: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> None:
    """Replace a patch of up to a third of the edge by noise, in place; nothing is to be made of it (the paper's patch corruption)."""
    size = rng.integers(min(6, cube.shape[0] // 3), cube.shape[0] // 3 + 1, 3)
    start = [int(rng.integers(0, n - s + 1)) for n, s in zip(cube.shape, size, strict=False)]
    patch = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
    shape = cube[patch].shape
    cube[patch] = rng.standard_normal(shape) * np.array([0.1, 0.3])[: shape[-1]]
    target[patch] = 0
