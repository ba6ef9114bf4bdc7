"""The embedded network over a map of any size: in one pass, or in tiles that give the same voxels."""
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import numpy as np

from deepemhancer_plugin.core.devices import Devices, Plan, plan_tiles
from deepemhancer_plugin.core.networks import Embedded

Progress = Callable[[int, int], None]

# Peak bytes for a voxel of the padded map, measured by benchmarks/embedded.py on the CPU: the whole network at once, its fine levels for a tile,
# its coarse levels for the whole map. Narrow types take half of it, and a little more.
WHOLE, FINE, COARSE = 330.0, 330.0, 70.0
NARROW = 0.6


def padded_shape(shape: Sequence[int], stride: int) -> tuple[int, ...]:
    return tuple(-(-n // stride) * stride for n in shape)


def _function(model) -> Callable[..., Any]:
    """The fastest way to call a Keras model again and again on this backend: TensorFlow's graph frees memory as it goes."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(model, reduce_retracing=True)
    return model.predict_on_batch


def _at(device: str | None):
    import keras

    return keras.device(device)


class Predictor:
    """The network on its devices. `free_bytes` is what one pass may use; `batch` the most tiles at a time."""

    def __init__(self, network: Embedded, devices: Devices, free_bytes: int, batch: int = 1, narrow: bool = False):
        self.network, self.devices, self.free, self.batch = network, devices, free_bytes, batch
        self.scale = NARROW if narrow else 1.0
        self._entry, self._inner, self._exit, self._whole = (
            _function(m) for m in (network.entry, network.inner, network.exit, network.model))

    def __call__(self, inputs: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Enhanced map (z, y, x), float32, of the prepared map (z, y, x, channels). InputError when the memory does not suffice."""
        shape = inputs.shape[:3]
        padded = padded_shape(shape, self.network.architecture.stride)
        if padded != shape:
            inputs = np.pad(inputs, [(0, p - n) for p, n in zip(padded, shape, strict=True)] + [(0, 0)])
        if np.prod(padded) * WHOLE * self.scale <= self.free and len(self.devices.names) == 1:
            with _at(self.devices.names[0]):
                result = np.asarray(self._whole(inputs[None]), np.float32)[0, ..., 0]
            if progress:
                progress(1, 1)
        else:
            result = self._in_tiles(inputs, progress)
        return np.ascontiguousarray(result[tuple(slice(n) for n in shape)])

    def _in_tiles(self, inputs: np.ndarray, progress: Progress | None) -> np.ndarray:
        """The fine levels tile by tile, twice; in between the coarse levels, an eighth of the memory, over the whole map."""
        padded, widths = inputs.shape[:3], self.network.architecture.widths
        inner = int(np.prod(padded) * COARSE * self.scale)
        plan = plan_tiles(padded, FINE * self.scale, max(0, self.free - inner), self.network.reach, 4, self.batch, len(self.devices.names))
        done, total = 0, 2 * len(plan.origins) + 1
        coarse = np.empty((*(n // 4 for n in padded), widths[1]), np.float32)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total)

        def enter(group):
            _, features = self._entry(np.stack([inputs[_window(o, plan)] for o in group]))
            return [np.asarray(f, np.float32) for f in features]

        for group, features in self._shared(enter, plan):
            for origin, feature in zip(group, features, strict=True):
                source, target = _core(origin, plan, padded, 4)
                coarse[target] = feature[source]
            advance(len(group))
        with _at(self.devices.names[0]):
            coarse = np.asarray(self._inner(coarse[None]), np.float32)[0]
        advance(1)
        result = np.empty(padded, np.float32)

        def leave(group):
            fine, _ = self._entry(np.stack([inputs[_window(o, plan)] for o in group]))
            around = np.stack([coarse[_window(o, plan, 4)] for o in group])
            return np.asarray(self._exit([fine, around]), np.float32)

        for group, voxels in self._shared(leave, plan):
            for origin, cube in zip(group, voxels, strict=True):
                source, target = _core(origin, plan, padded, 1)
                result[target] = cube[..., 0][source]
            advance(len(group))
        return result

    def _shared(self, work: Callable[[Sequence], Any], plan: Plan) -> Iterator[tuple[Sequence, Any]]:
        """`work` on every group of tiles, each on the next free device; results as they come, never more in memory than devices."""
        groups = [plan.origins[i:i + plan.batch] for i in range(0, len(plan.origins), plan.batch)]
        if len(self.devices.names) == 1:
            with _at(self.devices.names[0]):
                for group in groups:
                    yield group, work(group)
            return
        free: Queue[str] = Queue()
        for name in self.devices.names:
            free.put(name)

        def run(group):
            name = free.get()
            try:
                with _at(name):
                    return group, work(group)
            finally:
                free.put(name)

        with ThreadPoolExecutor(len(self.devices.names)) as threads:
            yield from threads.map(run, groups)


def _window(origin: Sequence[int], plan: Plan, step: int = 1) -> tuple[slice, ...]:
    """A tile in the map (or in its features `step` voxels apart)."""
    return tuple(slice(o // step, (o + t) // step) for o, t in zip(origin, plan.tile, strict=True))


def _core(origin: Sequence[int], plan: Plan, padded: Sequence[int], step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a tile that is right (without its halo, but up to the map's border): within the tile, and within the map."""
    source, target = [], []
    for o, t, n in zip(origin, plan.tile, padded, strict=True):
        first, last = (0 if o == 0 else plan.halo), (t if o + t == n else t - plan.halo)
        source.append(slice(first // step, last // step))
        target.append(slice((o + first) // step, (o + last) // step))
    return tuple(source), tuple(target)
