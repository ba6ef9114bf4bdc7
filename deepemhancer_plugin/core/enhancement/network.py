"""The network over a whole map: precision, orientations, windows at a time."""

import numpy as np

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.enhancement import windows
from deepemhancer_plugin.core.enhancement.job import Job
from deepemhancer_plugin.core.enhancement.orientations import (
    average_orientations,
    combine_orientations,
)
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.resampling import resample_mask
from deepemhancer_plugin.core.weights.model import Model

WINDOW_MEMORY = 700 * 2**20  # bytes, an upper bound for a window of 64^3 voxels
GPU_BATCH = 8  # windows at a time on a GPU; on a CPU one, whose arrays fit its cache best


def predict_map(shown: np.ndarray, job: Job) -> tuple[np.ndarray, str]:
    """Run the network over a map, in windows, on all devices.

    Args:
        shown: what the network is shown (z, y, x[, channels]), from `Model.prepare`.
        job: what was asked for.

    Returns:
        The output (z, y, x) at 1 A/voxel, and the precision used.

    Raises:
        InputError: a precision that the weights do not know, or too little memory for a window.
    """
    model, shape = job.model, shown.shape[:3]
    precision = choose_precision(job.options.precision, model, job.devices)
    count = job.options.average or count_orientations(model, shape)
    combine = average_orientations if model.prediction == "map" else combine_orientations
    predictors = [combine(model.predictor(precision, name), count) for name in job.devices.names]
    output = windows.enhance_windows(
        shown,
        predictors,
        model.tile,
        model.stride,
        choose_batch(model, job.options.batch, job.devices),
        None if job.mask is None else resample_mask(job.mask, shape),
        progress=job.clock,
    )
    return output, precision


def choose_precision(asked: str, model: Model, machine: Devices) -> str:
    """Choose the arithmetic: narrow numbers where the device is faster with them."""
    if asked != "auto":
        return asked
    if model.kind == "embedded" and machine.kind == "gpu":
        return "float16"
    return model.narrow_precision if devices.bfloat16_is_faster(machine) else "float32"


def count_orientations(model: Model, shape: tuple[int, ...]) -> int:
    """Choose in how many orientations a map (z, y, x) is shown.

    One alone depends on the map's own, and four are better than two (docs/benchmarks.md). A map of
    up to three windows an axis is shown in four: it takes no longer than two of the next size.
    """
    if model.prediction == "map":
        return 1
    return 4 if max(shape) <= model.tile + 2 * model.stride else 2


def choose_batch(model: Model, asked: int | None, machine: Devices) -> int:
    """Choose how many windows go through the network at a time, as the memory allows.

    Raises:
        InputError: not even one fits.
    """
    wanted = asked or (1 if machine.kind == "cpu" else GPU_BATCH)
    free = devices.free_memory(machine)
    fitting = int(free / (WINDOW_MEMORY * (model.tile / 64) ** 3))
    if fitting < 1:
        raise InputError(
            f"not enough memory on {machine.description}: a window needs "
            f"{WINDOW_MEMORY / 2**30:.1f} GB, {free / 2**30:.1f} GB are free: free some, or use a "
            "device with more"
        )
    return min(wanted, fitting)
