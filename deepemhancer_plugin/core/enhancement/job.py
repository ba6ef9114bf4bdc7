"""What one enhancement is asked for, and the clock that runs beside it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.maps.symmetry import Operator
from deepemhancer_plugin.core.noise.directions import Views
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.weights.model import Model

Progress = Callable[[str, int, int], None]  # step, how much of it is done, of how much


class Clock:
    """Tells the progress of the steps, and how long each took."""

    def __init__(self, progress: Progress | None):
        self._progress = progress or (lambda step, done, total: None)
        self._step, self._started = "", time.perf_counter()
        self._seconds: dict[str, float] = {}

    def start(self, step: str, total: int = 1) -> None:
        """Begin a step, which ends the one before; a total of 0 is not shown."""
        self.stop()
        self._step = step
        if total:
            self._progress(step, 0, total)

    def __call__(self, done: int, total: int) -> None:
        """Tell how much of the step is done."""
        self._progress(self._step, done, total)

    def stop(self) -> dict[str, float]:
        """End the step; returns the seconds of each so far."""
        now = time.perf_counter()
        if self._step:
            self._seconds[self._step] = round(now - self._started, 3)
        self._step, self._started = "", now
        return self._seconds


@dataclass(frozen=True)
class Options:
    """What the user may choose; see `enhance`."""

    cleaning: float | None
    average: int | None
    batch: int | None
    precision: str
    amplitudes: bool
    symmetry: list[Operator]


@dataclass(frozen=True)
class Job:
    """One map on its way.

    Attributes:
        model: the weights.
        devices: what the network runs on.
        rate: sampling rate of the map in A/voxel.
        noise: of the map; None where a mask normalises it.
        views: of the half maps; None for a single map.
        end: frequency in 1/A where the input was low-passed, and the output is to be; or None.
        mask: boolean (z, y, x), or None.
        options: what the user chose.
        clock: tells the progress.
    """

    model: Model
    devices: Devices
    rate: float
    noise: NoiseStats | None
    views: Views | None
    end: float | None
    mask: np.ndarray | None
    options: Options
    clock: Clock
