"""The networks that this project trains: what they are, how they are built, saved and loaded.

They run on Keras 3 with any backend, which is imported when a network is built. Input is a tensor
(batch, z, y, x, channels), output a tensor (batch, z, y, x, 1).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.files import StrPath
from deepemhancer_plugin.core.weights import files

_COMMAND = "deepemhancer train"
_VOXELS = 8  # of 2 x 2 x 2, which become features of one


@dataclass(frozen=True)
class Architecture:
    """A network's kind and size, its input and its output, as its weights file holds them.

    The defaults are those of files that do not state a field.

    Attributes:
        channels: 1: the normalised map. 2: also the map with a flat spectrum
            (`spectrum.flatten_and_scale`).
        widths: features of each level; a level has half the sampling of the one before.
        blocks: residual blocks of two 3^3 convolutions, per level, on the way down and again on the
            way up. In the published network: single convolutions.
        norm: "none"; "layer": over the features of each voxel; "group": over groups of up to eight
            features and the whole window (Wu & He 2018, arXiv:1803.08494).
        entrance: 2: blocks of 2 x 2 x 2 voxels become features, so the first level is at 2 A/voxel.
            1: the first level is at 1 A/voxel.
        kind: "embedded" (class `Embedded`) or "published" (class `Published`).
        normalization: "noise": the input's noise has mean 0 and standard deviation 0.1. "mask": the
            input is normalised in a mask and blank outside.
        prediction: what the network gives where it is not sure. "median", as the absolute error has
            it, which fades; "mean", as the squared error has it.
    """

    channels: int = 2
    widths: tuple[int, ...] = (48, 96, 160, 192)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    norm: str = "layer"
    entrance: int = 2
    kind: Literal["embedded", "published"] = "embedded"
    normalization: Literal["noise", "mask"] = "noise"
    prediction: Literal["median", "mean"] = "median"

    @property
    def stride(self) -> int:
        """The number of voxels that the edges of a window are multiples of."""
        levels = len(self.widths)
        if self.kind == "published":
            return 1 << levels
        return self.entrance << (levels - 1)

    @property
    def compressed(self) -> bool:
        """Whether the normalised map goes through arcsinh; the published network takes it as is."""
        return self.kind == "embedded"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they stand in a weights file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """Make the architecture that a weights file holds.

        Args:
            values: the fields by name; `prediction` is called `answer` in some files.

        Returns:
            The architecture.

        Raises:
            ValueError: there is no such network.
            TypeError: a field is of another type.
            LookupError: a field without a default is missing.
        """
        fields: dict[str, Any] = {
            "channels": int(values["channels"]),
            "widths": tuple(map(int, values["widths"])),
            "blocks": tuple(map(int, values["blocks"])),
            "norm": str(values["norm"]),
            "entrance": int(values.get("entrance", 2)),
            "kind": str(values.get("kind", "embedded")),
            "normalization": str(values.get("normalization", "noise")),
            "prediction": str(values.get("prediction", values.get("answer", "median"))),
        }
        for name, known in _KNOWN.items():
            if fields[name] not in known:
                raise ValueError(f"{name} {fields[name]} is none of {', '.join(map(str, known))}")
        architecture = cls(**fields)
        widths, blocks = architecture.widths, architecture.blocks
        if len(widths) != len(blocks) or min(*widths, *blocks) < 1:
            raise ValueError(
                f"widths {widths} and blocks {blocks}: a positive number of each is needed for "
                "every level"
            )
        return architecture


_KNOWN: dict[str, tuple[Any, ...]] = {
    "channels": (1, 2),
    "norm": ("none", "layer", "group"),
    "entrance": (1, 2),
    "kind": ("embedded", "published"),
    "normalization": ("noise", "mask"),
    "prediction": ("median", "mean"),
}
# Sanchez-Garcia et al. 2021: three levels of 32, 64 and 128 filters, three convolutions each.
PUBLISHED = Architecture(1, (32, 64, 128), (3, 3, 3), "group", 1, "published")


class Embedded:
    """The embedded network, a residual U-Net.

    2 x 2 x 2 voxels become features at the entrance, and features voxels at the exit: nothing is
    lost, and the convolutions cost an eighth. With entrance 1 voxels stay voxels. With the norm
    "layer" the features of each voxel are normalised by themselves, so that no statistics depend on
    the window. Residual blocks start as the identity (Zhang et al. 2019, "Fixup Initialization",
    arXiv:1901.09321).

    Attributes:
        architecture: its size and kind.
        model: the Keras model, from voxels (n, z, y, x, channels) to enhanced voxels
            (n, z, y, x, 1). Edges are multiples of the architecture's `stride`.
    """

    def __init__(self, architecture: Architecture) -> None:
        keras = import_keras()
        self.architecture = architecture
        widths, last = architecture.widths, len(architecture.widths) - 1
        voxels = keras.Input((None, None, None, architecture.channels), name="map")
        x = _fold(voxels) if architecture.entrance == 2 else voxels
        x = convolution(widths[0], 3, "first", activation="relu", kernel_initializer="he_normal")(x)
        skips = []
        for number in range(last):
            x = self._blocks(x, f"down{number}", number)
            skips.append(x)
            x = convolution(widths[number + 1], 2, f"reduce{number}", strides=2, padding="valid")(x)
        x = self._blocks(x, f"down{last}", last)
        for number in reversed(range(last)):
            finer = transposed_convolution(widths[number], 2, f"expand{number}", padding="valid")(x)
            x = keras.layers.Add(name=f"join{number}")([skips.pop(), finer])
            x = self._blocks(x, f"up{number}", number)
        features = _VOXELS if architecture.entrance == 2 else 1
        # The result is the map: float32, whatever the precision of the layers before.
        x = convolution(features, 3, "last", kernel_initializer="zeros", dtype="float32")(x)
        x = _unfold(x) if architecture.entrance == 2 else x
        self.model = keras.Model(voxels, x, name="embedded")

    def _blocks(self, x: Any, name: str, level: int) -> Any:
        """All residual blocks of a level, one way."""
        add = import_keras().layers.Add
        for i in range(self.architecture.blocks[level]):
            block, width = f"{name}_{i}", x.shape[-1]
            y = _normalization(self.architecture.norm, width, f"{block}_norm")(x)
            y = convolution(
                width, 3, f"{block}_a", activation="relu", kernel_initializer="he_normal"
            )(y)
            y = convolution(width, 3, f"{block}_b", kernel_initializer="zeros")(y)
            x = add(name=f"{block}_sum")([x, y])
        return x


class Published:
    """The published network (Sanchez-Garcia et al. 2021), to be trained anew.

    A U-Net of convolutions of 3^3 with group normalisation and PReLU, a strided convolution down, a
    transposed one up, and the levels' features joined. The group normalisation is that of Wu & He
    2018, over groups of features. That of the authors' checkpoints depends on the order of voxels
    in memory (`official.network`).

    Attributes:
        architecture: its size and kind.
        model: the Keras model, as that of `Embedded`.
    """

    def __init__(self, architecture: Architecture) -> None:
        keras = import_keras()
        self.architecture = architecture
        widths = architecture.widths
        x = voxels = keras.Input((None, None, None, architecture.channels), name="map")
        skips, last = [], len(widths) - 1
        for number, width in enumerate(widths):
            x = self._convolutions(x, f"down{number}", number)
            skips.append(x)
            x = convolution(width, 3, f"reduce{number}", strides=2, kernel_initializer="he_normal")(
                x
            )
        x = self._convolutions(x, f"bottom{last}", last)
        for number in reversed(range(len(widths))):
            x = transposed_convolution(widths[number], 3, f"expand{number}")(x)
            x = keras.layers.Concatenate(name=f"join{number}")([x, skips.pop()])
            x = self._convolutions(x, f"up{number}", number)
        x = convolution(1, 1, "last", dtype="float32")(x)
        self.model = keras.Model(voxels, x, name="published")

    def _convolutions(self, x: Any, name: str, level: int) -> Any:
        """All convolutions of a level, one way."""
        prelu = import_keras().layers.PReLU
        width = self.architecture.widths[level]
        for i in range(self.architecture.blocks[level]):
            layer = f"{name}_{i}"
            x = convolution(width, 3, layer, kernel_initializer="he_normal")(x)
            x = _normalization(self.architecture.norm, width, f"{layer}_norm")(x)
            x = prelu(shared_axes=(1, 2, 3), name=f"{layer}_prelu")(x)
        return x


def build(architecture: Architecture) -> Embedded | Published:
    """Build a new network with random weights.

    Args:
        architecture: its kind and size.

    Returns:
        The network.
    """
    return (Published if architecture.kind == "published" else Embedded)(architecture)


def convolution(filters: int, size: int, name: str, padding: str = "same", **settings: Any) -> Any:
    """Make a three-dimensional convolution whose channels come last, whatever Keras's default is.

    Args:
        filters: features that it makes.
        size: edge of its kernel in voxels.
        name: the layer's name, and so of its arrays in a weights file.
        padding: "same" or "valid".
        **settings: others of `keras.layers.Conv3D`.

    Returns:
        The Keras layer.
    """
    return import_keras().layers.Conv3D(
        filters, size, padding=padding, data_format="channels_last", name=name, **settings
    )


def transposed_convolution(
    filters: int, size: int, name: str, padding: str = "same", **settings: Any
) -> Any:
    """Make a transposed convolution that doubles the sampling; channels come last.

    Args:
        filters: features that it makes.
        size: edge of its kernel in voxels.
        name: the layer's name, and so of its arrays in a weights file.
        padding: "same" or "valid".
        **settings: others of `keras.layers.Conv3DTranspose`.

    Returns:
        The Keras layer.
    """
    return import_keras().layers.Conv3DTranspose(
        filters,
        size,
        strides=2,
        padding=padding,
        data_format="channels_last",
        name=name,
        **settings,
    )


def _normalization(kind: str, width: int, name: str) -> Callable[[Any], Any]:
    """The layer, or the identity for "none"."""
    layers = import_keras().layers
    if kind == "group":
        layer = layers.GroupNormalization(math.gcd(8, width), axis=-1, epsilon=1e-3, name=name)
    elif kind == "layer":
        layer = layers.LayerNormalization(axis=-1, epsilon=1e-3, name=name)
    else:
        return lambda x: x
    return layer  # type: ignore[no-any-return]


def _fold(x: Any) -> Any:
    """Space to depth: a fixed convolution that makes features of 2 x 2 x 2 voxels."""
    return convolution(
        _VOXELS * x.shape[-1],
        2,
        "space_to_depth",
        strides=2,
        padding="valid",
        use_bias=False,
        kernel_initializer=_space_to_depth,
        trainable=False,
        dtype="float32",
    )(x)


def _unfold(x: Any) -> Any:
    """Depth to space: a fixed transposed convolution that makes 2 x 2 x 2 voxels of features."""
    return transposed_convolution(
        1,
        2,
        "depth_to_space",
        padding="valid",
        use_bias=False,
        kernel_initializer=_depth_to_space,
        trainable=False,
        dtype="float32",
    )(x)


def _space_to_depth(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    """Kernel (2, 2, 2, c, 8 c) that lays each of 2 x 2 x 2 voxels into a feature of its own."""
    kernel = np.zeros(shape, np.float32)
    channels = shape[3]
    for i, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        for channel in range(channels):
            kernel[z, y, x, channel, i * channels + channel] = 1
    return kernel


def _depth_to_space(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    """Kernel (2, 2, 2, 1, 8) that lays eight features out as 2 x 2 x 2 voxels."""
    kernel = np.zeros(shape, np.float32)
    for i, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        kernel[z, y, x, 0, i] = 1
    return kernel


def save_weights(path: StrPath, network: Embedded | Published, facts: Mapping[str, Any]) -> None:
    """Write a network to a weights file.

    Args:
        path: the file (.npz); it is replaced where it exists.
        network: the network.
        facts: how it was trained, for JSON.

    Raises:
        InputError: a weight is out of float16's range.
    """
    architecture = network.architecture.to_dict()
    files.write_weights(path, network.model.trainable_variables, architecture, facts)


def load_weights(path: StrPath) -> tuple[Embedded | Published, dict[str, Any]]:
    """Load a network from a weights file.

    Args:
        path: a file of `save_weights` or of `files.write_difference`.

    Returns:
        The network, and how it was trained.

    Raises:
        InputError: the file is missing, damaged, or none of this program.
    """
    return files.load_network(path, lambda values: build(Architecture.from_dict(values)), _COMMAND)


def load_architecture(path: StrPath) -> Architecture:
    """Read what network a weights file holds, without loading it.

    Args:
        path: a weights file.

    Returns:
        The architecture.

    Raises:
        InputError: the file is missing, damaged, or none of this program.
    """
    with files.refuse_unreadable(path, _COMMAND):
        return Architecture.from_dict(files.read_architecture(path))
