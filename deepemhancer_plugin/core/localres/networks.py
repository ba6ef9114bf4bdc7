"""The two networks that measure local resolution: how they are built, saved and loaded.

`Published` is that of Ramirez-Aportela et al. 2019 (IUCrJ 6, 1054), which gives the resolution of
the voxel in the middle of a box of 13^3. `Dense` is fully convolutional and gives that of every
voxel of a map at once. Keras is imported when a network is built.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.files import StrPath
from deepemhancer_plugin.core.localres.inputs import BANDS, BOX_EDGE, RANGES, SPREADS, Range
from deepemhancer_plugin.core.weights import files
from deepemhancer_plugin.core.weights.networks import convolution

# Resolutions in A that a network gives, rising, and the true ones: `predict.calibrate`.
Calibration = tuple[list[float], list[float]]


class Published:
    """The network of Ramirez-Aportela et al. 2019.

    Attributes:
        span: its range of resolutions and its sampling rate.
        widths: filters of the convolution and of the dense layer.
        calibration: what it gives and what is true; empty lists without one.
        model: the Keras model, from boxes of unit norm (n, 13, 13, 13, 1) to resolutions in A
            (n, 1).
    """

    kind = "published"

    def __init__(self, span: Range, widths: tuple[int, ...] = (32, 512)) -> None:
        keras = import_keras()
        layers = keras.layers
        self.span, self.widths = span, widths
        self.calibration: Calibration = ([], [])
        box = keras.Input((BOX_EDGE, BOX_EDGE, BOX_EDGE, 1), name="box")
        x = convolution(widths[0], BOX_EDGE, "filters", padding="valid", activation="relu")(box)
        x = layers.Flatten(data_format="channels_last", name="flat")(x)
        x = layers.Dense(widths[1], activation="relu", name="dense")(x)
        x = layers.Dropout(0.25, name="dropout")(x)
        middle = keras.initializers.Constant((span.finest + span.coarsest) / 2)
        x = layers.Dense(1, bias_initializer=middle, name="resolution")(x)
        self.model = keras.Model(box, x, name="published")


class Dense:
    """The fully convolutional network of this project.

    The local spectra (`inputs.local_spectra`) stand in for a first layer: band-pass filters,
    squares and averages, which need no training. The network learns, by 3^3 convolutions over
    neighbouring blocks of 4^3 voxels, which resolution they mean. There are no statistics over the
    map: a block's value depends on the `reach` blocks around it.

    Attributes:
        span: its range of resolutions and its sampling rate.
        widths: features of the wide and of the narrow layers, and the number of residual blocks.
        calibration: what it gives and what is true; empty lists without one.
        model: the Keras model, from a map's local spectra (n, z / 4, y / 4, x / 4, 32) to
            ln(resolution in A) of every block (n, z / 4, y / 4, x / 4, 1).
    """

    kind = "dense"

    def __init__(self, span: Range, widths: tuple[int, ...] = (64, 32, 2)) -> None:
        keras = import_keras()
        layers = keras.layers
        self.span, self.widths = span, widths
        self.calibration: Calibration = ([], [])
        wide, narrow, blocks = widths
        rectified = {"activation": "relu", "kernel_initializer": "he_normal"}
        spectra = keras.Input((None, None, None, len(BANDS) * len(SPREADS)), name="spectra")
        x = convolution(wide, 1, "first", **rectified)(spectra)
        for i in range(blocks):
            y = convolution(narrow, 1, f"narrow{i}", **rectified)(x)
            y = convolution(narrow, 3, f"around{i}", **rectified)(y)
            y = convolution(wide, 1, f"wide{i}", kernel_initializer="zeros")(y)
            x = layers.Add(name=f"sum{i}")([x, y])
            x = layers.Activation("relu", name=f"relu{i}")(x)
        x = convolution(wide, 1, "last", **rectified)(x)
        x = convolution(
            1,
            1,
            "log_resolution",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=keras.initializers.Constant(0.5 * np.log(span.finest * span.coarsest)),
        )(x)
        self.model = keras.Model(spectra, x, name="dense")

    @property
    def reach(self) -> int:
        """How many blocks away a block's spectrum still counts."""
        return self.widths[2]


def build(kind: str, span: Range, widths: tuple[int, ...] | None = None) -> Published | Dense:
    """Build a new network with random weights.

    Args:
        kind: "dense" or "published".
        span: its range of resolutions.
        widths: its size; None: as shipped, or as published.

    Returns:
        The network.

    Raises:
        ValueError: there is no such kind.
    """
    networks: dict[str, type[Published] | type[Dense]] = {"published": Published, "dense": Dense}
    if kind not in networks:
        raise ValueError(f"kind {kind}: dense or published is right")
    return networks[kind](span, widths) if widths else networks[kind](span)


def save_weights(path: StrPath, network: Published | Dense, facts: Mapping[str, Any]) -> None:
    """Write a network to a weights file.

    Args:
        path: the file (.npz); it is replaced where it exists.
        network: the network.
        facts: how it was trained, for JSON.

    Raises:
        InputError: a weight is out of float16's range.
    """
    architecture = {
        "kind": network.kind,
        "rate": network.span.name,
        "widths": network.widths,
        "calibration": network.calibration,
    }
    files.write_weights(path, network.model.trainable_variables, architecture, facts)


def load_weights(path: StrPath) -> tuple[Published | Dense, dict[str, Any]]:
    """Load a network from a weights file.

    Args:
        path: a file of `save_weights`.

    Returns:
        The network, and how it was trained.

    Raises:
        InputError: the file is missing, damaged, or none of this program.
    """
    return files.load_network(path, _from_architecture, "deepemhancer localres-train")


def _from_architecture(values: dict[str, Any]) -> Published | Dense:
    """A network as its file describes it, before its weights are set."""
    widths = tuple(map(int, values["widths"]))
    network = build(str(values["kind"]), RANGES[values["rate"]], widths)
    given, true = (list(map(float, each)) for each in values["calibration"])
    if len(given) != len(true) or any(b <= a for a, b in itertools.pairwise(given)):
        raise ValueError(f"its calibration does not rise: {given}")
    network.calibration = given, true
    return network
