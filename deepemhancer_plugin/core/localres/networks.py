"""The two networks that see local resolution, and their files of weights. Keras is imported when a network is built.

`Published`: that of Ramirez-Aportela et al. 2019 (IUCrJ 6, 1054), for boxes of 13^3 voxels, one voxel's resolution a box.
`Dense`: ours, fully convolutional: a whole map in, the resolution of every voxel out.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.data import BANDS, BOX_EDGE, RANGES, SPREADS, Range
from deepemhancer_plugin.core.weights.networks import UNREADABLE, assign, not_ours


class Published:
    """`model`: boxes of unit norm (N, 13, 13, 13, 1) -> resolution in A (N, 1)."""

    kind = "published"

    def __init__(self, span: Range, widths: tuple[int, ...] = (32, 512)):
        import keras
        from keras import layers

        self.span, self.widths = span, widths
        self.calibration: tuple[list[float], list[float]] = (
            [],
            [],
        )  # what it says and what is true, A: predict.calibrate
        box = keras.Input((BOX_EDGE, BOX_EDGE, BOX_EDGE, 1), name="box")
        x = layers.Conv3D(widths[0], BOX_EDGE, activation="relu", name="filters")(box)
        x = layers.Flatten(name="flat")(x)
        x = layers.Dense(widths[1], activation="relu", name="dense")(x)
        x = layers.Dropout(0.25, name="dropout")(x)
        middle = keras.initializers.Constant((span.finest + span.coarsest) / 2)
        self.model = keras.Model(
            box, layers.Dense(1, bias_initializer=middle, name="resolution")(x), name="published"
        )


class Dense:
    """`model`: local spectra (N, z / 4, y / 4, x / 4, 32) of a whole map -> ln(resolution in A) of every block of 4^3 voxels (N, ..., 1).

    The spectra (`data.local_spectra`) are the first layer, which need not be learned: band-pass filters, squares, averages. What is learned
    is what they say about the resolution, with 3^3 convolutions over neighbouring blocks. No statistics over the map: a block's value
    depends on the `reach` blocks around it.
    """

    kind = "dense"

    def __init__(self, span: Range, widths: tuple[int, ...] = (64, 32, 2)):
        import keras
        from keras import layers

        self.span, self.widths = span, widths
        self.calibration: tuple[list[float], list[float]] = (
            [],
            [],
        )  # what it says and what is true, A: predict.calibrate
        wide, narrow, blocks = widths
        spectra = keras.Input((None, None, None, len(BANDS) * len(SPREADS)), name="spectra")
        x = layers.Conv3D(wide, 1, activation="relu", kernel_initializer="he_normal", name="first")(
            spectra
        )
        for i in range(blocks):
            y = layers.Conv3D(
                narrow, 1, activation="relu", kernel_initializer="he_normal", name=f"narrow{i}"
            )(x)
            y = layers.Conv3D(
                narrow,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"around{i}",
            )(y)
            x = layers.Add(name=f"sum{i}")(
                [x, layers.Conv3D(wide, 1, kernel_initializer="zeros", name=f"wide{i}")(y)]
            )
            x = layers.Activation("relu", name=f"relu{i}")(x)
        x = layers.Conv3D(wide, 1, activation="relu", kernel_initializer="he_normal", name="last")(
            x
        )
        middle = keras.initializers.Constant(0.5 * np.log(span.finest * span.coarsest))
        x = layers.Conv3D(
            1,
            1,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=middle,
            name="log_resolution",
        )(x)
        self.model = keras.Model(spectra, x, name="dense")

    @property
    def reach(self) -> int:
        """How many blocks away a block's spectrum still counts."""
        return self.widths[2]


def build(kind: str, span: Range, widths: tuple[int, ...] | None = None) -> Published | Dense:
    """A new network of either kind with random weights."""
    if kind == "published":
        return Published(span, widths) if widths else Published(span)
    if kind != "dense":
        raise ValueError(f"kind {kind}: dense or published is right")
    return Dense(span, widths) if widths else Dense(span)


def save_weights(path: str | Path, network: Published | Dense, facts: dict[str, Any]) -> None:
    """Write the weights as float16, what the network is, and `facts` (how it was trained), to one .npz file, atomically."""
    what = {
        "kind": network.kind,
        "rate": network.span.name,
        "widths": network.widths,
        "calibration": network.calibration,
    }
    arrays: dict[str, Any] = {
        v.path: np.asarray(v).astype(np.float16) for v in network.model.trainable_variables
    }
    temporary = Path(path).with_suffix(".tmp.npz")
    np.savez(temporary, network=json.dumps(what), facts=json.dumps(facts), **arrays)
    os.replace(temporary, path)


def load_weights(path: str | Path) -> tuple[Published | Dense, dict[str, Any]]:
    """The network that `save_weights` wrote, and its facts. InputError when the file is none of ours or damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            what = json.loads(str(data["network"]))
            network = build(what["kind"], RANGES[what["rate"]], tuple(map(int, what["widths"])))
            said, true = (list(map(float, values)) for values in what.get("calibration", ([], [])))
            if len(said) != len(true) or any(b <= a for a, b in itertools.pairwise(said)):
                raise InputError(f"{path}: the calibration does not rise: {said}")
            network.calibration = said, true
            assign(network.model.trainable_variables, data, path)
            return network, json.loads(str(data["facts"]))
    except InputError:
        raise
    except UNREADABLE as error:
        raise not_ours(path, error) from error
