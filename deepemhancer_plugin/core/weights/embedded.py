"""The weights that come with the package, or that `deepemhancer train` wrote."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.networks import (
    UNREADABLE,
    Architecture,
    load_weights,
    not_ours,
)

FOLDER = Path(__file__).parent / "models"
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclass(frozen=True)
class EmbeddedModel:
    """Weights of the embedded network in a file; the network itself is built when it is asked for."""

    name: str
    path: str
    kind = "embedded"
    tile = 64  # what it was trained on,
    stride = (
        48  # and how far apart the windows are: closer ones change no metric (docs/benchmarks.md)
    )
    agree = True  # several orientations have to (orientations.py), and a map in which it sees no molecule comes out empty (enhance.py)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    @cached_property
    def architecture(self) -> Architecture:
        return _architecture(self.path)

    @property
    def channels(self) -> int:
        return self.architecture.channels

    @property
    def normalization(self) -> str:
        """ "noise" or "mask", as OfficialModel says it."""
        return self.architecture.normalization

    @property
    def fades(self) -> bool:
        """Whether the amplitudes of what it is not sure of are to be raised (amplitudes.py)."""
        return self.architecture.answer == "median"

    def predictor(
        self, precision: str = "float32", device: str | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The network as a function from windows (n, tile, tile, tile, channels) to (n, tile, tile, tile), float32. Imports Keras."""
        import keras

        if precision not in POLICIES:
            raise InputError(
                f"precision {precision}: one of {', '.join(POLICIES)} is right for these weights"
            )
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(POLICIES[precision])
        try:
            with keras.device(device):
                model = load_weights(self.path)[0].model
        finally:
            keras.config.set_dtype_policy(before)
        call = model.predict_on_batch
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            call = tf.function(model)  # frees memory as it goes, and has less to do for each window

        def predict(windows: np.ndarray) -> np.ndarray:
            with keras.device(device):
                return np.asarray(call(windows), np.float32)[..., 0]

        return predict


class PublishedModel(EmbeddedModel):
    """Weights of the published network that `deepemhancer train --network published` wrote."""

    stride = 16  # the published program's
    agree = False


def _architecture(path: str) -> Architecture:
    try:
        with np.load(path, allow_pickle=False) as data:
            return Architecture.from_dict(json.loads(str(data["architecture"])))
    except UNREADABLE as error:
        raise not_ours(path, error) from error


def load_embedded(variant: str) -> EmbeddedModel:
    """The package's weights for `variant`. InputError where it has none."""
    path = FOLDER / f"{variant}.npz"
    if not path.is_file():
        raise InputError(
            f"no embedded weights named {variant}: {', '.join(sorted(p.stem for p in FOLDER.glob('*.npz')))} are there"
        )
    return EmbeddedModel(variant, str(path))


def load_file(path: str) -> EmbeddedModel:
    """Weights that `deepemhancer train` wrote. InputError when the file is none of ours."""
    model = PublishedModel if _architecture(path).kind == "published" else EmbeddedModel
    return model(Path(path).stem, path)
