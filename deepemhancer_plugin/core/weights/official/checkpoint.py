"""Checkpoints of the authors, read without running anything that stands in them.

A published file is a Keras 2 model in HDF5: the graph as JSON (`model_config`), the weights by
layer name (`model_weights`), the distance of windows (`configParams`), and Python source (`code`),
which the original program executes. Here the source is only searched for the name of the
normalisation. The graph is read as data by `graph`, and each weight must have the shape that
follows from it. `network` runs the result.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.noise.directions import Views
from deepemhancer_plugin.core.noise.normalization import (
    NoiseStats,
    normalize,
    normalize_with_mask,
)
from deepemhancer_plugin.core.weights.files import UNREADABLE
from deepemhancer_plugin.core.weights.official.graph import MAX_LAYERS, Node, read_graph

if TYPE_CHECKING:
    import h5py

VARIANTS = ("tightTarget", "wideTarget", "highRes", "masked")
MODELS_DIRECTORY = os.path.join("~", ".local", "share", "deepEMhancerModels")
MODELS_VARIABLE = "DEEPEMHANCER_MODELS"  # of the environment: another directory than that
CHECKPOINTS = "production_checkpoints"
XMIPP_HOME = "XMIPP_HOME"  # variable of the environment
XMIPP_MODELS = os.path.join("deepEMhancer_v016", CHECKPOINTS)
# Where checkpoints lie below a directory that somebody names: itself, the one that the authors'
# archive was unpacked in, Xmipp's folder of this program or of all models, or Xmipp's home.
LAYOUTS = ("", CHECKPOINTS, XMIPP_MODELS, os.path.join("models", XMIPP_MODELS))

_MAX_TEXT = 1 << 24  # characters of the graph or of a source text

MaskRule = Literal[1, 2, 3]
_Normalization = tuple[Literal["noise", "mask"], MaskRule | None]
_NORMALIZATIONS: dict[str, _Normalization] = {
    "inputNormalization_3": ("noise", None),
    "inputNormalizationWithMask": ("mask", 1),
    "inputNormalizationWithMask_2": ("mask", 2),
    "inputNormalizationWithMask_3": ("mask", 3),
}


@dataclass(frozen=True)
class OfficialModel:
    """A checkpoint of the authors.

    Attributes:
        name: the variant as the file's name gives it, e.g. "tightTarget".
        path: the file.
        sha256: of the file.
        tile: edge of the network's window in voxels of 1 A.
        stride: distance between windows in voxels of 1 A.
        normalization: "noise" (noise statistics) or "mask".
        mask_rule: which of the original's three rules of mask normalisation; None for "noise".
        nodes: the graph, each layer after those that it reads. The first is the input, the last the
            output.
    """

    kind: ClassVar = "official"
    prediction: ClassVar[Literal["map"]] = "map"
    narrow_precision: ClassVar = "mixed"
    name: str
    path: str
    sha256: str
    tile: int
    stride: int
    normalization: Literal["noise", "mask"]
    mask_rule: MaskRule | None
    nodes: tuple[Node, ...] = field(repr=False)

    def normalize(
        self, volume: np.ndarray, noise: NoiseStats | None, mask: np.ndarray | None
    ) -> np.ndarray:
        """Normalise a map (z, y, x) as the checkpoint asks for: by its noise, or in a mask."""
        if noise is not None:
            return normalize(volume, noise)
        if mask is None or self.mask_rule is None:
            raise InputError(f"{self.path}: these weights need a mask")
        return normalize_with_mask(volume, mask, self.mask_rule)

    def prepare(
        self,
        volume: np.ndarray,
        sampling_rate: float,
        noise: NoiseStats | None,
        mask: np.ndarray | None,
        views: Views | None = None,
    ) -> np.ndarray:
        """Make what the network is shown: the normalised map (z, y, x) at 1 A/voxel."""
        shape = resampled_shape(volume.shape, sampling_rate)
        return resample(self.normalize(volume, noise, mask), shape)

    def predictor(
        self, precision: str = "float32", device: str | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Build the network as a function.

        Args:
            precision: see `network.predictor`.
            device: as Keras's backend calls it; None: the backend's choice.

        Returns:
            A function from windows (n, tile, tile, tile) to windows of the same shape, float32.
        """
        from deepemhancer_plugin.core.weights.official.network import predictor

        return predictor(self.nodes, precision, device)


def models_directory(location: str | None) -> str:
    """Find the directory where the authors' checkpoints lie or go.

    Args:
        location: a directory or file; None: that of the variable DEEPEMHANCER_MODELS, or the
            conventional directory.

    Returns:
        Its path, with the home directory in place of "~".

    Raises:
        InputError: the path begins with "~" and there is no home directory.
    """
    wanted = location or os.environ.get(MODELS_VARIABLE) or MODELS_DIRECTORY
    path = os.path.expanduser(wanted)
    if path.startswith("~"):
        raise InputError(
            f"{wanted}: there is no such home directory; set HOME, or give the directory of the "
            "authors' checkpoints"
        )
    return path


def official_path(location: str | None, variant: str) -> str:
    """Find a variant's checkpoint.

    Args:
        location: a checkpoint, or a directory that holds checkpoints as the authors' archive or
            Xmipp lays them out. None: `models_directory`, then the conventional directory, then
            Xmipp's models below the variable XMIPP_HOME.
        variant: one of `VARIANTS`; not looked at where `location` is a file.

    Returns:
        Path of the checkpoint.

    Raises:
        InputError: no such file; the line names the command that downloads it.
    """
    base = models_directory(location)
    bases = [base]
    if location is None:
        bases += [os.path.expanduser(MODELS_DIRECTORY), *filter(None, [os.environ.get(XMIPP_HOME)])]
    name = f"deepEMhancer_{variant}.hd5"
    for folder in bases:
        if os.path.isfile(folder):
            return folder
        for layout in LAYOUTS:
            path = os.path.join(folder, layout, name)
            if os.path.isfile(path):
                return path
    missing = f"no {name} in it" if os.path.isdir(base) else "no such file or directory"
    command = "deepemhancer download" + ("" if location is None else f" {location}")
    raise InputError(f"{base}: {missing}; `{command}` fetches the authors' checkpoints")


def load_official(path: str) -> OfficialModel:
    """Read a checkpoint of the authors (Keras 2, HDF5). Nothing that stands in it is executed.

    Args:
        path: the file.

    Returns:
        The checkpoint, with all its weights.

    Raises:
        InputError: no such file, or one with a layer, a setting or a weight that the authors' files
            do not have.
    """
    import h5py

    try:
        # Reading needs no lock, and many clusters' file systems have none to give.
        with h5py.File(path, "r", locking=False) as file:
            model = _read_model(file, path)
    except InputError as error:
        raise InputError(
            f"{path}: {error}; expected a checkpoint of the authors (`deepemhancer download`)"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except KeyError as error:
        raise InputError(f"{path}: not a complete checkpoint: {_one_line(error)}") from None
    except (*UNREADABLE, MemoryError) as error:
        raise InputError(f"{path}: not a readable HDF5 checkpoint: {_one_line(error)}") from None
    return replace(model, sha256=_sha256(path))


def _read_model(file: h5py.File, path: str) -> OfficialModel:
    """The checkpoint, but for its check sum."""
    normalization, mask_rule = _read_normalization(file)
    stride = _read_integer(file, "configParams/NNET_INPUT_STRIDE")
    nodes = read_graph(_check_text(file.attrs["model_config"], "model_config"))
    tile = nodes[0].shape[0]
    if not 1 <= stride <= tile:
        raise InputError(f"stride {stride} is not between 1 and the window's {tile} voxels")
    loaded = tuple(_read_weights(file, node) for node in nodes)
    name = re.sub(r"^deepEMhancer_", "", os.path.splitext(os.path.basename(path))[0])
    return OfficialModel(name, path, "", tile, stride, normalization, mask_rule, loaded)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    """The dataset at a path, stored in this very file.

    Links and external storage could read any other file of the user.
    """
    import h5py

    item: Any = group
    for part in path.split("/"):
        if not isinstance(item, h5py.Group) or part not in item:
            raise InputError(f"no {path} in {group.name}")
        if not isinstance(item.get(part, getlink=True), h5py.HardLink):
            raise InputError(f"{path} is a link")
        item = item[part]
    if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
        raise InputError(f"{path} in {group.name} is not a plain dataset")
    return item


def _check_text(value: Any, what: str) -> str:
    """The text, decoded, if it is one."""
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise InputError(f"{what} is not a text of at most {_MAX_TEXT} characters")
    return text


def _read_integer(file: h5py.File, path: str) -> int:
    dataset = _dataset(file, path)
    if dataset.shape not in ((), (1,)) or dataset.dtype.kind not in "iu":
        raise InputError(f"{path} is not one integer")
    return int(np.ravel(dataset[()])[0])


def _read_text(file: h5py.File, path: str) -> str:
    dataset = _dataset(file, path)
    if dataset.shape not in ((), (1,)):
        raise InputError(f"{path} is not one text")
    return _check_text(np.ravel(np.asarray(dataset[()], dtype=object))[0], path)


def _read_normalization(file: h5py.File) -> _Normalization:
    """The normalisation by its name in the source text.

    It is what `normFun` is set to, else the only function there.
    """
    text = _read_text(file, "code/normFun")
    names = (
        re.findall(r"^\s*normFun\s*=\s*(\w+)\s*(?:#.*)?$", text, re.MULTILINE)
        or re.findall(r"^def\s+(inputNorm\w+)\s*\(", text, re.MULTILINE)
        or re.findall(r"\b(inputNorm\w+)\b", text)
    )
    if not names:
        raise InputError("code/normFun names no normalisation")
    if len(set(names)) > 1:
        raise InputError("code/normFun names several normalisations")
    if names[0] not in _NORMALIZATIONS:
        raise InputError(
            f"unknown normalisation {names[0]!r} in code/normFun; known are "
            f"{', '.join(_NORMALIZATIONS)}"
        )
    return _NORMALIZATIONS[names[0]]


def _read_names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names as Keras stores it: one attribute, or numbered ones where it is too long."""
    keys = (
        [attribute] if attribute in group.attrs else [f"{attribute}{i}" for i in range(MAX_LAYERS)]
    )
    return [
        _check_text(bytes(name) if isinstance(name, np.bytes_) else name, attribute)
        for key in keys
        if key in group.attrs
        for name in np.ravel(group.attrs[key])
    ]


def _read_weights(file: h5py.File, node: Node) -> Node:
    """The layer with its weights, each of exactly the shape that the graph implies."""
    import h5py

    root = file.get("model_weights")
    group = root.get(node.name) if isinstance(root, h5py.Group) else None
    if not isinstance(group, h5py.Group):
        if node.weight_shapes:
            raise InputError(f"no weights for layer {node.name!r}")
        return node
    paths = {
        name.rpartition("/")[2].partition(":")[0]: name
        for name in _read_names(group, "weight_names")
    }
    if set(paths) != set(node.weight_shapes):
        raise InputError(
            f"layer {node.name!r} has the weights {', '.join(sorted(paths)) or 'none'}; "
            f"its settings need {', '.join(sorted(node.weight_shapes)) or 'none'}"
        )
    weights = {}
    for key, shape in node.weight_shapes.items():
        what = f"weight {key!r} of layer {node.name!r}"
        dataset = _dataset(group, paths[key])
        if dataset.shape != shape or dataset.dtype.kind != "f":
            raise InputError(
                f"{what} is {dataset.dtype} {dataset.shape}; its settings need float {shape}"
            )
        weights[key] = dataset[()].astype(np.float32)
        if not np.isfinite(weights[key]).all():
            raise InputError(f"{what} has values that are not finite")
    return replace(node, weights=weights)
