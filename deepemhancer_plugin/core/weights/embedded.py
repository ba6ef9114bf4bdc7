"""The weights that come with the package, and those that `deepemhancer train` wrote."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.noise.directions import Views
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.weights.model import Predictor
from deepemhancer_plugin.core.weights.networks import (
    Architecture,
    load_architecture,
    load_weights,
)
from deepemhancer_plugin.core.weights.prepare import network_input, network_input_in_mask

FOLDER = Path(__file__).parent / "models"
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclass(frozen=True)
class EmbeddedModel:
    """Weights of this package's networks in a file; a `weights.model.Model`.

    The network is built when it is asked for.

    Attributes:
        name: of the weights.
        path: of the file.
        tile: edge of the windows in voxels of 1 A: what the network was trained on.
    """

    name: str
    path: str
    tile: int = 64
    kind = "embedded"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    @cached_property
    def architecture(self) -> Architecture:
        """The network's architecture, as the file states it."""
        return load_architecture(self.path)

    @property
    def published(self) -> bool:
        """Whether it is the published network, trained by this package."""
        return self.architecture.kind == "published"

    @property
    def stride(self) -> int:
        """Distance between windows in voxels."""
        return 16 if self.published else 48

    @property
    def normalization(self) -> Literal["noise", "mask"]:
        """What the input is normalised by."""
        return self.architecture.normalization

    @property
    def prediction(self) -> Literal["mean", "median", "map"]:
        """What stands in the output where the network is not sure."""
        return "map" if self.published else self.architecture.prediction

    @property
    def narrow_precision(self) -> str:
        """The arithmetic on CPUs that are faster with narrow numbers."""
        return "bfloat16"

    def prepare(
        self,
        volume: np.ndarray,
        sampling_rate: float,
        noise: NoiseStats | None,
        mask: np.ndarray | None,
        views: Views | None = None,
    ) -> np.ndarray:
        """Make what the network is shown: (z, y, x, channels) at 1 A/voxel."""
        channels, compress = self.architecture.channels, self.architecture.compressed
        if noise is not None:
            return network_input(volume, sampling_rate, noise, channels, compress, views)
        if mask is None:
            raise InputError(f"{self.path}: these weights need a mask")
        return network_input_in_mask(volume, sampling_rate, mask, channels, compress, views)

    def predictor(self, precision: str = "float32", device: str | None = None) -> Predictor:
        """Build the network as a function from windows (n, z, y, x, channels) to (n, z, y, x).

        Args:
            precision: "float32", "bfloat16" or "float16".
            device: as Keras's backend calls it; None: the backend's choice.

        Raises:
            InputError: another precision, or a damaged file.
        """
        if precision not in POLICIES:
            raise InputError(
                f"precision {precision}: one of {', '.join(POLICIES)} is right for these weights"
            )
        keras = import_keras()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(POLICIES[precision])
        try:
            with keras.device(device):
                network = load_weights(self.path)[0].model
        finally:
            keras.config.set_dtype_policy(before)
        call = network.predict_on_batch
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Frees memory as it goes, and has less to do for each window.
            call = tf.function(network)

        def predict(windows: np.ndarray) -> np.ndarray:
            with keras.device(device):
                return np.asarray(call(windows), np.float32)[..., 0]

        return predict


def load_embedded(variant: str) -> EmbeddedModel:
    """Give the package's weights of a name. InputError where it has none."""
    path = FOLDER / f"{variant}.npz"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.npz")))
        raise InputError(f"no embedded weights named {variant}: {names} are there")
    return EmbeddedModel(variant, str(path))


def load_file(path: str) -> EmbeddedModel:
    """Give the weights that `deepemhancer train` wrote. InputError for a foreign file."""
    load_architecture(path)
    return EmbeddedModel(Path(path).stem, path)
