"""What every kind of weights offers to the enhancement."""

import logging
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from deepemhancer_plugin.core.devices import is_out_of_memory
from deepemhancer_plugin.core.noise.directions import Views
from deepemhancer_plugin.core.noise.normalization import NoiseStats

# Windows (n, z, y, x[, channels]) -> enhanced windows (n, z, y, x), float32.
Predictor = Callable[[np.ndarray], np.ndarray]

logger = logging.getLogger(__name__)


def halve_batches(predictor: Predictor) -> Predictor:
    """Let a network take fewer windows at a time where memory does not suffice for all of them.

    The memory is estimated before a run, but another program may take it meanwhile.

    Returns:
        The same function. What a single window raises is raised.
    """
    most: int | None = None

    def predict(windows: np.ndarray) -> np.ndarray:
        nonlocal most
        results: list[np.ndarray] = []
        first = 0
        while first < len(windows):
            some = windows[first : first + (most or len(windows))]
            try:
                results.append(predictor(some))
                first += len(some)
            except Exception as error:
                if len(some) == 1 or not is_out_of_memory(error):
                    raise
                most = len(some) // 2
                logger.info("memory does not suffice for %d windows at a time: %d", len(some), most)
        return results[0] if len(results) == 1 else np.concatenate(results)

    return predict


class Model(Protocol):
    """Weights in a file, what their network is shown, and what it predicts.

    Attributes:
        name: of the weights.
        path: of the file.
        kind: "embedded" (ours) or "official".
        sha256: of the file.
        tile: edge of the windows in voxels of 1 A.
        stride: distance between windows in voxels of 1 A.
        normalization: "noise" or "mask": what the input is normalised by.
        prediction: what stands in the output where the network is not sure: the "mean" of what may
            be there, its "median", which fades, or (official weights) the "map" as published.
        narrow_precision: the arithmetic where the device is faster with narrow numbers.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def tile(self) -> int: ...  # noqa: D102
    @property
    def stride(self) -> int: ...  # noqa: D102
    @property
    def normalization(self) -> Literal["noise", "mask"]: ...  # noqa: D102
    @property
    def prediction(self) -> Literal["mean", "median", "map"]: ...  # noqa: D102
    @property
    def narrow_precision(self) -> str: ...  # noqa: D102

    def prepare(
        self,
        volume: np.ndarray,
        sampling_rate: float,
        noise: NoiseStats | None,
        mask: np.ndarray | None,
        views: Views | None,
    ) -> np.ndarray:
        """Make what the network is shown, at 1 A/voxel: (z, y, x) or (z, y, x, channels).

        Args:
            volume: the map, or the mean of the half maps (z, y, x).
            sampling_rate: A/voxel.
            noise: for the normalisation "noise".
            mask: boolean (z, y, x), for the normalisation "mask".
            views: of half maps.
        """
        ...

    def predictor(self, precision: str = "float32", device: str | None = None) -> Predictor:
        """Build the network on a device, as a function."""
        ...
