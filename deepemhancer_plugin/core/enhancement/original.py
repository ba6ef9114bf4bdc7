"""The original program's steps as a way of their own, for comparison with maps that it made."""

from dataclasses import asdict
from typing import Any

import numpy as np

from deepemhancer_plugin.core.enhancement.job import Job
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.components import RemovedComponents, remove_small_components
from deepemhancer_plugin.core.weights.official.checkpoint import OfficialModel
from deepemhancer_plugin.core.weights.official.classic import enhance_classic


def run_original(volume: np.ndarray, job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Enhance a map (z, y, x) by the original's steps; returns it, and facts for the report.

    Raises:
        InputError: weights that are not the authors', or a box too small for their window.
    """
    model, options = job.model, job.options
    if not isinstance(model, OfficialModel):
        raise InputError(
            "--classic reproduces the original program, which knows official weights only: "
            "add --weights official"
        )
    found: list[RemovedComponents] = []

    def normalize(values: np.ndarray) -> np.ndarray:
        return model.normalize(values, job.noise, job.mask)

    def clean(values: np.ndarray) -> np.ndarray:
        # At this point of the original's steps a voxel is 1 A wide.
        cleaned, removed = remove_small_components(values, options.cleaning or 0, 1.0, classic=True)
        found.append(removed)
        return cleaned

    job.clock.start("network")
    enhanced = enhance_classic(
        volume,
        job.rate,
        model.predictor("float32", job.devices.names[0]),
        model.tile,
        model.stride,
        normalize,
        job.mask,
        clean if options.cleaning is not None else None,
        options.batch or 1,
        job.clock,
    )
    return enhanced, {"precision": "float32", "cleaning": asdict(found[0]) if found else None}
