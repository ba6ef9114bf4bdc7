"""The networks that this project trains, and their files of weights.

Keras 3 on any backend; imported when a network is built, not before. Input (batch, z, y, x, channels), output (batch, z, y, x, 1).
"""

import math
import struct
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

from deepemhancer_plugin.core.errors import InputError

# What NumPy, zipfile, json and Keras raise on foreign and damaged files, which their documentation does not say.
UNREADABLE = (
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
    struct.error,
)


@dataclass(frozen=True)
class Architecture:
    """A network's kind and size, what it is shown, what it answers. Weights files hold it; what an older one does not say has the value given here.

    channels       1: the normalised map; 2: beside it the flattened one (spectrum.flatten_and_scale)
    widths         features of each level; a level has half the sampling of the one before
    blocks         residual blocks of two 3^3 convolutions on the way down and again on the way up, per level (published: single convolutions)
    norm           "none"; "layer": over the features of each voxel; "group": over groups of up to eight features and the window (Wu & He 2018)
    entrance       2: 2x2x2 voxels become features (space to depth), the first level is at 2 A/voxel; 1: it is at 1 A/voxel
    kind           "embedded" (class Embedded), or "published" (class Published)
    normalization  "noise": the input's noise has mean 0 and standard deviation 0.1; "mask": it is normalised in a mask and blank outside
    answer         where it is not sure: "median", as absolute errors ask for, which fades (amplitudes.py); "mean", as squared errors do
    """

    channels: int = 2
    widths: tuple[int, ...] = (48, 96, 160, 192)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    norm: str = "layer"
    entrance: int = 2
    kind: str = "embedded"
    normalization: str = "noise"
    answer: str = "median"

    @property
    def stride(self) -> int:
        """The edges of a window are multiples of this many voxels."""
        return (
            2 ** len(self.widths)
            if self.kind == "published"
            else self.entrance * 2 ** (len(self.widths) - 1)
        )

    @property
    def compressed(self) -> bool:
        """Whether the normalised map goes through arcsinh (prepare.prepare): the published network takes it as it is."""
        return self.kind == "embedded"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """ValueError, TypeError or LookupError when there is no such architecture."""
        made = cls(
            int(values["channels"]),
            tuple(map(int, values["widths"])),
            tuple(map(int, values["blocks"])),
            str(values["norm"]),
            int(values.get("entrance", 2)),
            str(values.get("kind", "embedded")),
            str(values.get("normalization", "noise")),
            str(values.get("answer", "median")),
        )
        for name, known in _KNOWN.items():
            if getattr(made, name) not in known:
                raise ValueError(
                    f"{name} {getattr(made, name)} is none of {', '.join(map(str, known))}"
                )
        if len(made.widths) != len(made.blocks) or min(*made.widths, *made.blocks) < 1:
            raise ValueError(
                f"widths {made.widths} and blocks {made.blocks}: a positive number of each for every level is right"
            )
        return made


_KNOWN = {
    "channels": (1, 2),
    "norm": ("none", "layer", "group"),
    "entrance": (1, 2),
    "kind": ("embedded", "published"),
    "normalization": ("noise", "mask"),
    "answer": ("median", "mean"),
}
# Sanchez-Garcia et al. 2021: three levels of 32, 64 and 128 filters, three convolutions each.
PUBLISHED = Architecture(1, (32, 64, 128), (3, 3, 3), "group", 1, "published")


def _normalisation(kind: str, width: int, name: str):
    """The layer, or the identity for "none"."""
    from keras import layers

    if kind == "group":
        return layers.GroupNormalization(math.gcd(8, width), epsilon=1e-3, name=name)
    return layers.LayerNormalization(epsilon=1e-3, name=name) if kind == "layer" else lambda x: x


def build(architecture: Architecture) -> "Embedded | Published":
    """A new network of that architecture."""
    return (Published if architecture.kind == "published" else Embedded)(architecture)


class Embedded:
    """The embedded network, `model`: voxels (N, z, y, x, channels) -> enhanced voxels (N, z, y, x, 1), edges multiples of `stride`.

    A residual U-Net. 2x2x2 voxels become features at the entrance (space to depth) and features voxels at the exit, with nothing lost and at an
    eighth of the cost; with entrance 1 voxels stay voxels. With the norm "layer" no statistics over the window: the features of each voxel are
    normalised by themselves. Residual blocks start as the identity (Zhang et al. 2019, "Fixup Initialization").
    """

    def __init__(self, architecture: Architecture):
        import keras
        from keras import layers

        self.architecture = architecture
        widths, blocks = architecture.widths, architecture.blocks

        def block(x, name):
            y = _normalisation(architecture.norm, x.shape[-1], f"{name}_norm")(x)
            y = layers.Conv3D(
                x.shape[-1],
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"{name}_a",
            )(y)
            y = layers.Conv3D(
                x.shape[-1], 3, padding="same", kernel_initializer="zeros", name=f"{name}_b"
            )(y)
            return layers.Add(name=f"{name}_sum")([x, y])

        def level(x, number, way):
            for i in range(blocks[number]):
                x = block(x, f"{way}{number}_{i}")
            return x

        def down(x, number):
            return layers.Conv3D(widths[number + 1], 2, strides=2, name=f"reduce{number}")(x)

        def up(x, number):
            return layers.Conv3DTranspose(widths[number], 2, strides=2, name=f"expand{number}")(x)

        voxels = keras.Input((None, None, None, architecture.channels), name="map")
        x, folded = voxels, architecture.entrance == 2
        if folded:
            x = layers.Conv3D(
                8 * architecture.channels,
                2,
                strides=2,
                use_bias=False,
                kernel_initializer=_space_to_depth,
                trainable=False,
                name="space_to_depth",
                dtype="float32",
            )(x)
        x = layers.Conv3D(
            widths[0],
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name="first",
        )(x)
        skips = []
        for number in range(len(widths)):
            x = level(x, number, "down")
            if number < len(widths) - 1:
                skips.append(x)
                x = down(x, number)
        for number in range(len(widths) - 2, -1, -1):
            x = layers.Add(name=f"join{number}")([skips.pop(), up(x, number)])
            x = level(x, number, "up")
        x = layers.Conv3D(
            8 if folded else 1,
            3,
            padding="same",
            kernel_initializer="zeros",
            name="last",
            dtype="float32",
        )(x)
        if folded:
            x = layers.Conv3DTranspose(
                1,
                2,
                strides=2,
                use_bias=False,
                kernel_initializer=_depth_to_space,
                trainable=False,
                name="depth_to_space",
                dtype="float32",
            )(x)
        self.model = keras.Model(voxels, x, name="embedded")


class Published:
    """The published network (Sanchez-Garcia et al. 2021), to be trained anew; same interface as Embedded.

    A U-Net: on each level convolutions of 3^3 with group normalisation and PReLU, a strided convolution down, a transposed one up, the levels'
    features concatenated. The group normalisation is the usual one, over groups of features (Wu & He 2018); the authors' checkpoints have
    another (official_network.py), which depends on the order of voxels in memory.
    """

    def __init__(self, architecture: Architecture):
        import keras
        from keras import layers

        self.architecture = architecture

        def level(x, number, way):
            for i in range(architecture.blocks[number]):
                name, width = f"{way}{number}_{i}", architecture.widths[number]
                x = layers.Conv3D(
                    width, 3, padding="same", kernel_initializer="he_normal", name=name
                )(x)
                x = _normalisation(architecture.norm, width, f"{name}_norm")(x)
                x = layers.PReLU(shared_axes=(1, 2, 3), name=f"{name}_prelu")(x)
            return x

        x = voxels = keras.Input((None, None, None, architecture.channels), name="map")
        skips, last = [], len(architecture.widths) - 1
        for number, width in enumerate(architecture.widths):
            x = level(x, number, "down")
            skips.append(x)
            x = layers.Conv3D(
                width,
                3,
                strides=2,
                padding="same",
                kernel_initializer="he_normal",
                name=f"reduce{number}",
            )(x)
        x = level(x, last, "bottom")
        for number in range(last, -1, -1):
            x = layers.Conv3DTranspose(
                architecture.widths[number], 3, strides=2, padding="same", name=f"expand{number}"
            )(x)
            x = level(layers.Concatenate(name=f"join{number}")([x, skips.pop()]), number, "up")
        x = layers.Conv3D(1, 1, name="last", dtype="float32")(x)
        self.model = keras.Model(voxels, x, name="published")


def _space_to_depth(shape, dtype=None):
    """Kernel (2, 2, 2, c, 8 c) that lays each of 2x2x2 voxels into a feature of its own."""
    import numpy as np

    kernel = np.zeros(shape, "float32")
    c = shape[3]
    for i, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        for channel in range(c):
            kernel[z, y, x, channel, i * c + channel] = 1
    return kernel


def _depth_to_space(shape, dtype=None):
    """Kernel (2, 2, 2, 1, 8) of the transposed convolution that lays eight features out as 2x2x2 voxels."""
    import numpy as np

    kernel = np.zeros(shape, "float32")
    for i, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        kernel[z, y, x, 0, i] = 1
    return kernel


def save_weights(path, network: Embedded | Published, facts: dict[str, Any]) -> None:
    """Write the network's weights as float16, with its architecture and `facts` (how it was trained) as JSON, to one .npz file, atomically."""
    import json
    import os
    from pathlib import Path

    import numpy as np

    arrays: dict[str, Any] = {
        v.path: np.asarray(v).astype(np.float16) for v in network.model.trainable_variables
    }
    temporary = Path(path).with_suffix(".tmp.npz")
    np.savez(
        temporary,
        architecture=json.dumps(network.architecture.to_dict()),
        facts=json.dumps(facts),
        **arrays,
    )
    os.replace(temporary, path)


def save_difference(path, weights, base) -> None:
    """Write a weights file (`save_weights`) as its difference from another one, which it then needs beside it: a tenth of the size
    where it was fine-tuned from that. 8 bits each, in steps of a 127th of an array's largest difference.
    """
    import hashlib
    import json
    import os
    from pathlib import Path

    import numpy as np

    with np.load(weights, allow_pickle=False) as new, np.load(base, allow_pickle=False) as old:
        arrays: dict[str, Any] = {name: new[name] for name in ("architecture", "facts")}
        for name in set(new.files) - set(arrays):
            difference = new[name].astype(np.float32) - old[name].astype(np.float32)
            step = np.float32(max(float(np.abs(difference).max()), 1e-30) / 127)
            arrays |= {name: np.round(difference / step).astype(np.int8), f"{name} step": step}
    arrays["base"] = json.dumps(
        {"name": Path(base).name, "sha256": hashlib.sha256(Path(base).read_bytes()).hexdigest()}
    )
    temporary = Path(path).with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)


def _arrays(data, path):
    """The arrays by their variables' names: of a file of `save_weights` as they are, of `save_difference` with the base's added."""
    import hashlib
    import json
    from pathlib import Path

    import numpy as np

    if "base" not in data.files:
        return data
    base = json.loads(str(data["base"]))
    file = Path(path).with_name(base["name"])
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != base["sha256"]:
        raise InputError(
            f"{path}: weights that build on {file}, which is missing or another one than then; the two of one release belong together"
        )
    with np.load(file, allow_pickle=False) as old:
        return {
            name: old[name].astype(np.float32) + data[name] * data[f"{name} step"]
            for name in old.files
            if f"{name} step" in data.files
        }


def load_weights(path) -> tuple[Embedded | Published, dict[str, Any]]:
    """The network that `save_weights` or `save_difference` wrote, and its facts. InputError when the file is none of ours or damaged."""
    import json

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as data:
            network = build(Architecture.from_dict(json.loads(str(data["architecture"]))))
            assign(network.model.trainable_variables, _arrays(data, path), path)
            return network, json.loads(str(data["facts"]))
    except InputError:
        raise
    except UNREADABLE as error:
        raise not_ours(path, error) from error


def assign(variables, data, path) -> None:
    """Give each of a network's variables the array of its name. InputError when that has another shape or is not finite."""
    import numpy as np

    for variable in variables:
        values = data[variable.path]
        if values.shape != tuple(variable.shape) or not np.isfinite(values).all():
            raise InputError(
                f"{path}: {variable.path} has shape {values.shape} or non-finite values; {tuple(variable.shape)} is right"
            )
        variable.assign(values.astype(np.float32))


def not_ours(path, error: Exception) -> InputError:
    """The error, in one line, for a file that is none of `save_weights`."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{path}: not a weights file of this program ({reason}); give one written by `deepemhancer train`"
    )
