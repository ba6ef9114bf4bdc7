"""The authors' checkpoints, read without running anything that stands in them.

A published file is a Keras 2 model in HDF5: the graph as JSON (`model_config`), the weights by layer name (`model_weights`), the
window's size and stride (`configParams`) and Python source (`code`) that the original program executes. Here the source is only
searched for the name of the normalisation, and the graph is read as data: each layer must be of a known class with known
settings, each weight must have the shape that the graph implies, and all of it is checked before any memory is taken for it.
`official_network` runs the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deepemhancer_plugin.core.errors import InputError

if TYPE_CHECKING:
    import h5py

VARIANTS = ("tightTarget", "wideTarget", "highRes", "masked")
MODELS_DIRECTORY = os.path.join("~", ".local", "share", "deepEMhancerModels")
CHECKPOINTS = "production_checkpoints"

_MAX_TEXT = 1 << 24  # characters of the graph or of a source text
_MAX_LAYERS = 1000
_MAX_ELEMENTS = 1 << 28  # of one layer's output or of all weights: 1 GB in float32

_NORMALIZATIONS: dict[str, tuple[Literal["noise", "mask"], Literal[1, 2, 3] | None]] = {
    "inputNormalization_3": ("noise", None),
    "inputNormalizationWithMask": ("mask", 1),
    "inputNormalizationWithMask_2": ("mask", 2),
    "inputNormalizationWithMask_3": ("mask", 3),
}
# What no normalisation and no layer needs. Nothing of the text ever runs, but a file with these in it is not one of the authors'.
_FOREIGN_CODE = re.compile(
    r"\b(?:exec|eval|compile|__import__|open)\s*\(|\bos\.(?!path\b)\w+"
    r"|\b(?:subprocess|socket|ctypes|pickle|shutil|urllib|requests|importlib)\b"
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One layer of the graph: its Keras class, checked settings, the layers it reads, its output's shape (z, y, x, channels), its
    weights."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: tuple[str, ...]
    shape: Shape
    weights: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class OfficialModel:
    """A checkpoint of the authors.

    Attributes:
        name: the variant as the file's name tells it, e.g. "tightTarget".
        path, sha256: the file.
        tile, stride: edge of the network's window and distance between windows, in voxels of 1 A.
        normalization: "noise" (noise statistics) or "mask".
        mask_rule: which of the original's three rules of mask normalisation, 1 to 3; None for "noise".
        nodes: the graph, each layer after those that it reads; the first is the input, the last the output.
    """

    kind = "official"
    agree = False
    fades = False
    name: str
    path: str
    sha256: str
    tile: int
    stride: int
    normalization: Literal["noise", "mask"]
    mask_rule: Literal[1, 2, 3] | None
    nodes: tuple[Node, ...] = field(repr=False)

    def predictor(
        self, precision: str = "float32", device: str | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The network as a function from windows (n, tile, tile, tile) to windows of the same shape, float32; see
        official_network."""
        from deepemhancer_plugin.core.weights.official.network import predictor

        return predictor(self.nodes, precision, device)


def official_path(location: str | None, variant: str) -> str:
    """Path of a variant's checkpoint.

    Args:
        location: a checkpoint, a directory that holds checkpoints, or None for the conventional directory.
        variant: one of `VARIANTS`; not looked at where `location` is a file.

    Raises:
        InputError: no such file; the line names the command that downloads it.
    """
    base = os.path.expanduser(location if location is not None else MODELS_DIRECTORY)
    if os.path.isfile(base):
        return base
    name = f"deepEMhancer_{variant}.hd5"
    for path in (os.path.join(base, name), os.path.join(base, CHECKPOINTS, name)):
        if os.path.isfile(path):
            return path
    command = "deepemhancer download" + ("" if location is None else f" {location}")
    raise InputError(
        f"{base}: {'no ' + name + ' in it' if os.path.isdir(base) else 'no such file or directory'}; "
        f"`{command}` fetches the authors' checkpoints"
    )


def load_official(path: str) -> OfficialModel:
    """Read a checkpoint of the authors (Keras 2, HDF5). Nothing that stands in the file is executed.

    Raises:
        InputError: not such a file, or one with a layer, a setting, a weight or a source text that the authors' files do not
            have.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            normalization, mask_rule = _normalization(file)
            stride = _integer(
                _dataset(file, "configParams/NNET_INPUT_STRIDE"), "configParams/NNET_INPUT_STRIDE"
            )
            nodes, weight_shapes = _graph(_text(file.attrs["model_config"], "model_config"))
            tile = nodes[0].shape[0]
            if not 1 <= stride <= tile:
                raise InputError(f"stride {stride} is not between 1 and the window's {tile} voxels")
            nodes = [_with_weights(file, node, weight_shapes[node.name]) for node in nodes]
    except InputError as error:
        raise InputError(
            f"{path}: {error}; expected a checkpoint of the authors (`deepemhancer download`)"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except KeyError as error:
        raise InputError(f"{path}: not a complete checkpoint: {_line(error)}") from None
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
        MemoryError,
    ) as error:
        raise InputError(f"{path}: not a readable HDF5 checkpoint: {_line(error)}") from None
    name = re.sub(r"^deepEMhancer_", "", os.path.splitext(os.path.basename(path))[0])
    return OfficialModel(
        name, path, _sha256(path), tile, stride, normalization, mask_rule, tuple(nodes)
    )


# ---------------------------------------------------------------------------------------------------------- the HDF5 file
def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    """The dataset at a path, stored in this very file: links and external storage could read any other file of the user."""
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


def _text(value: Any, what: str) -> str:
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise InputError(f"{what} is not a text of at most {_MAX_TEXT} characters")
    return text


def _integer(dataset: h5py.Dataset, what: str) -> int:
    if dataset.shape not in ((), (1,)) or dataset.dtype.kind not in "iu":
        raise InputError(f"{what} is not one integer")
    return int(np.ravel(dataset[()])[0])


def _source(file: h5py.File, path: str) -> str:
    dataset = _dataset(file, path)
    if dataset.shape not in ((), (1,)):
        raise InputError(f"{path} is not one text")
    text = _text(np.ravel(np.asarray(dataset[()], dtype=object))[0], path)
    foreign = _FOREIGN_CODE.search(text)
    if foreign:
        raise InputError(f"{path} holds code that no network needs ({foreign.group().strip()!r})")
    return text


def _normalization(file: h5py.File) -> tuple[Literal["noise", "mask"], Literal[1, 2, 3] | None]:
    """The normalisation by the name that stands in the source text: what `normFun` is set to, else the only function there."""
    if "code/custom_objects" in file:
        _source(file, "code/custom_objects")
    text = _source(file, "code/normFun")
    names = (
        re.findall(r"^\s*normFun\s*=\s*(\w+)\s*(?:#.*)?$", text, re.MULTILINE)
        or re.findall(r"^def\s+(inputNorm\w+)\s*\(", text, re.MULTILINE)
        or re.findall(r"\b(inputNorm\w+)\b", text)
    )
    if not names or len(set(names)) > 1:
        raise InputError(
            f"code/normFun names {'several' if names else 'no'} normalisation"
            + ("s" if names else "")
        )
    if names[0] not in _NORMALIZATIONS:
        raise InputError(
            f"unknown normalisation {names[0]!r} in code/normFun; known are {', '.join(_NORMALIZATIONS)}"
        )
    return _NORMALIZATIONS[names[0]]


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names as Keras stores it: one attribute, or numbered ones where it would be too long for one."""
    keys = (
        [attribute] if attribute in group.attrs else [f"{attribute}{i}" for i in range(_MAX_LAYERS)]
    )
    return [
        _text(bytes(name) if isinstance(name, np.bytes_) else name, attribute)
        for key in keys
        if key in group.attrs
        for name in np.ravel(group.attrs[key])
    ]


def _with_weights(file: h5py.File, node: Node, expected: dict[str, Shape]) -> Node:
    """The node with its weights, each of exactly the shape that the graph implies."""
    import h5py

    root = file.get("model_weights")
    group = root.get(node.name) if isinstance(root, h5py.Group) else None
    if not isinstance(group, h5py.Group):
        if expected:
            raise InputError(f"no weights for layer {node.name!r}")
        return node
    paths = {
        name.rpartition("/")[2].partition(":")[0]: name for name in _names(group, "weight_names")
    }
    if set(paths) != set(expected):
        raise InputError(
            f"layer {node.name!r} has the weights {', '.join(sorted(paths)) or 'none'}; "
            f"its settings need {', '.join(sorted(expected)) or 'none'}"
        )
    weights = {}
    for key, shape in expected.items():
        dataset = _dataset(group, paths[key])
        if dataset.shape != shape or dataset.dtype.kind != "f":
            raise InputError(
                f"weight {key!r} of layer {node.name!r} is {dataset.dtype} {dataset.shape}; "
                f"its settings need float {shape}"
            )
        weights[key] = dataset[()].astype(np.float32)
        if not np.isfinite(weights[key]).all():
            raise InputError(
                f"weight {key!r} of layer {node.name!r} has values that are not finite"
            )
    return Node(node.name, node.kind, node.config, node.inputs, node.shape, weights)


# -------------------------------------------------------------------------------------------------------------- the graph
def _graph(text: str) -> tuple[list[Node], dict[str, dict[str, Shape]]]:
    """Layers in an order in which each comes after those that it reads, and the shapes of their weights."""
    try:
        model = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"model_config is not JSON: {_line(error)}") from None
    functional = isinstance(model, dict) and model.get("class_name") in ("Model", "Functional")
    if not functional or not isinstance(model.get("config"), dict):
        raise InputError("model_config is not a functional Keras model")
    config = model["config"]
    source, target = _only_end(config, "input_layers"), _only_end(config, "output_layers")
    layers = config.get("layers")
    if not isinstance(layers, list) or not 2 <= len(layers) <= _MAX_LAYERS:
        raise InputError(f"model_config has no list of 2 to {_MAX_LAYERS} layers")
    pending: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {}
    for layer in layers:
        name, entry = _layer(layer)
        if name in pending:
            raise InputError(f"two layers are called {name!r}")
        pending[name] = entry
    if [name for name, (kind, _, _) in pending.items() if kind == "InputLayer"] != [
        source
    ] or target not in pending:
        raise InputError("the graph has not one input and one output")

    nodes: dict[str, Node] = {}
    weights: dict[str, dict[str, Shape]] = {}
    while pending:
        ready = [
            name for name, (_, _, inputs) in pending.items() if all(i in nodes for i in inputs)
        ]
        if not ready:
            raise InputError(
                f"layer {next(iter(pending))!r} reads a layer that does not exist or, in a circle, itself"
            )
        for name in ready:
            kind, settings, inputs = pending.pop(name)
            reader = _Settings(name, kind, settings)
            shape, weights[name] = _LAYERS[kind](reader, [nodes[i].shape for i in inputs])
            if min(shape) < 1 or math.prod(shape) > _MAX_ELEMENTS:
                raise InputError(f"layer {name!r} has an output of shape {shape}")
            nodes[name] = Node(name, kind, reader.checked(), inputs, shape)
    if (
        sum(math.prod(shape) for each in weights.values() for shape in each.values())
        > _MAX_ELEMENTS
    ):
        raise InputError(f"the graph needs more than {_MAX_ELEMENTS} weights")
    if nodes[source].shape != nodes[target].shape:
        raise InputError(
            f"the network turns windows of {nodes[source].shape} into {nodes[target].shape}"
        )
    needed = _ancestors(nodes, target)
    return [node for name, node in nodes.items() if name in needed and name != target] + [
        nodes[target]
    ], weights


def _ancestors(nodes: dict[str, Node], target: str) -> set[str]:
    found, stack = {target}, [target]
    while stack:
        for name in nodes[stack.pop()].inputs:
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


def _only_end(config: dict[str, Any], key: str) -> str:
    """The one input or output: [["name", 0, 0]], or ["name", 0, 0] in later versions."""
    ends = config.get(key)
    if isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    if (
        not isinstance(ends, list)
        or len(ends) != 3
        or not isinstance(ends[0], str)
        or ends[1:] != [0, 0]
    ):
        raise InputError(f"the graph has not exactly one of {key}")
    return ends[0]


def _layer(layer: Any) -> tuple[str, tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Name, class, settings and inputs of one layer; its class is known."""
    if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict):
        raise InputError("model_config has a layer without settings")
    name, kind = layer.get("name", layer["config"].get("name")), layer.get("class_name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,200}", name):
        raise InputError(f"a layer is called {str(name)[:80]!r}")
    if not isinstance(kind, str) or kind not in _LAYERS:
        raise InputError(f"layer {name!r} is of the unknown class {str(kind)[:80]!r}")
    calls = layer.get("inbound_nodes", [])
    if (
        not isinstance(calls, list)
        or len(calls) != (kind != "InputLayer")
        or not all(isinstance(call, list) for call in calls)
    ):
        raise InputError(f"layer {name!r} is not used exactly once")
    inputs = []
    for connection in calls[0] if calls else []:
        if (
            not isinstance(connection, list)
            or len(connection) not in (3, 4)
            or not isinstance(connection[0], str)
            or connection[1:3] != [0, 0]
            or connection[3:] not in ([], [{}])
        ):
            raise InputError(f"layer {name!r} reads {str(connection)[:80]}")
        inputs.append(connection[0])
    if calls and not 1 <= len(inputs) <= 16:
        raise InputError(f"layer {name!r} reads {len(inputs)} layers")
    return name, (kind, layer["config"], tuple(inputs))


class _Settings:
    """A layer's settings: each is asked for with the values that it may have, and none may be left that nobody asked for."""

    # They concern training, or repeat what the graph says, and are never looked into.
    _UNUSED = re.compile(
        r"name|trainable|dtype|batch_input_shape|.*_(initializer|regularizer|constraint)"
    )

    def __init__(self, name: str, kind: str, settings: dict[str, Any]) -> None:
        self.name, self.kind = name, kind
        self._left = dict(settings)
        self._checked: dict[str, Any] = {}

    def error(self, key: str, value: Any) -> InputError:
        return InputError(
            f"layer {self.name!r} ({self.kind}) has {key} = {str(value)[:80]}, which no network of the authors has"
        )

    def take(self, key: str, default: Any, check: Callable[[Any], Any]) -> Any:
        """The setting as `check` returns it; `check` gives None for a value that may not be."""
        given = self._left.pop(key, default)
        value = check(given)
        if value is None:
            raise self.error(key, given)
        self._checked[key] = value
        return value

    def unused(self, *keys: str) -> None:
        for key in keys:
            self._left.pop(key, None)

    def checked(self) -> dict[str, Any]:
        for key, value in self._left.items():
            if not self._UNUSED.fullmatch(key):
                raise self.error(key, value)
        return self._checked


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(most: int) -> Callable[[Any], int | None]:
    return lambda value: (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
        else None
    )


def _triple(value: Any) -> tuple[int, int, int] | None:
    """Three counts, or one for all three axes."""
    values = value if isinstance(value, list) else [value] * 3
    return tuple(values) if len(values) == 3 and all(_count(64)(v) for v in values) else None  # type: ignore[return-value]


def _one_of(*allowed: Any) -> Callable[[Any], Any]:
    """The value itself; the type counts too, as 1 == True."""
    return lambda value: (
        value if any(type(value) is type(a) and value == a for a in allowed) else None
    )


def _only(allowed: Any) -> Callable[[Any], Any]:
    """A setting with a single possible value, which may be None."""
    return lambda value: True if type(value) is type(allowed) and value == allowed else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _epsilon(value: Any) -> float | None:
    return float(value) if _is_number(value) and 0 < value <= 1 else None


def _slope(value: Any) -> float | None:
    return float(value) if _is_number(value) and abs(value) <= 1e3 else None


def _last_axis(value: Any) -> int | None:
    return 4 if value in (-1, 4, [4], [-1]) else None


_ACTIVATION = _one_of("linear", "relu", "sigmoid", "tanh", "elu", "softplus")
_PADDING = _one_of("same", "valid")
_LAYOUT = _one_of("channels_last")
_Checked = tuple[Shape, dict[str, Shape]]


def _single(settings: _Settings, shapes: Sequence[Shape]) -> Shape:
    if len(shapes) != 1:
        raise InputError(f"layer {settings.name!r} ({settings.kind}) reads {len(shapes)} layers")
    return shapes[0]


def _strided(length: int, window: int, stride: int, padding: str) -> int:
    return -(-length // stride) if padding == "same" else (length - window) // stride + 1


def _input_layer(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    def cube(value: Any) -> Shape | None:
        fits = isinstance(value, list) and len(value) == 5 and value[0] is None and value[4] == 1
        return (
            tuple(value[1:])
            if fits and len(set(value[1:4])) == 1 and _count(512)(value[1])
            else None
        )

    settings.unused("sparse", "ragged", "input_dtype")
    return settings.take("batch_input_shape", None, cube), {}


def _convolution(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    *grid, channels = _single(settings, shapes)
    filters = settings.take("filters", None, _count(4096))
    kernel, strides = (
        settings.take("kernel_size", None, _triple),
        settings.take("strides", [1, 1, 1], _triple),
    )
    padding, bias = (
        settings.take("padding", "valid", _PADDING),
        settings.take("use_bias", True, _flag),
    )
    settings.take("activation", "linear", _ACTIVATION)
    settings.take("data_format", "channels_last", _LAYOUT)
    settings.take("groups", 1, _one_of(1))
    settings.take("dilation_rate", [1, 1, 1], _one_of([1, 1, 1], 1))
    if settings.kind == "Conv3DTranspose":
        settings.take("output_padding", None, _only(None))
        grid = [
            n * s + (max(k - s, 0) if padding == "valid" else 0)
            for n, k, s in zip(grid, kernel, strides, strict=True)
        ]
        weights = {"kernel": (*kernel, filters, channels)}
    else:
        grid = [_strided(n, k, s, padding) for n, k, s in zip(grid, kernel, strides, strict=True)]
        weights = {"kernel": (*kernel, channels, filters)}
    return (*grid, filters), weights | ({"bias": (filters,)} if bias else {})


def _pooling(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    *grid, channels = _single(settings, shapes)
    pool = settings.take("pool_size", None, _triple)
    strides = settings.take(
        "strides", list(pool), lambda value: pool if value is None else _triple(value)
    )
    padding = settings.take("padding", "valid", _PADDING)
    settings.take("data_format", "channels_last", _LAYOUT)
    return (
        *(_strided(n, k, s, padding) for n, k, s in zip(grid, pool, strides, strict=True)),
        channels,
    ), {}


def _upsampling(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    *grid, channels = _single(settings, shapes)
    size = settings.take("size", [2, 2, 2], _triple)
    settings.take("data_format", "channels_last", _LAYOUT)
    return (*(n * s for n, s in zip(grid, size, strict=True)), channels), {}


def _group_normalization(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    shape = _single(settings, shapes)
    groups = settings.take("groups", 32, _count(4096))
    if shape[-1] % groups:
        raise settings.error("groups", f"{groups} for {shape[-1]} channels")
    return _affine(settings, shape)


def _batch_normalization(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    shape = _single(settings, shapes)
    settings.unused("momentum", "renorm", "virtual_batch_size")
    moments = dict.fromkeys(("moving_mean", "moving_variance"), shape[-1:])
    shape, weights = _affine(settings, shape)
    return shape, weights | moments


def _affine(settings: _Settings, shape: Shape) -> _Checked:
    settings.take("axis", -1, _last_axis)
    settings.take("epsilon", 1e-5 if settings.kind == "GroupNormalization" else 1e-3, _epsilon)
    used = {
        "gamma": settings.take("scale", True, _flag),
        "beta": settings.take("center", True, _flag),
    }
    return shape, {key: shape[-1:] for key, wanted in used.items() if wanted}


def _prelu(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    def axes(value: Any) -> tuple[int, ...] | None:
        values = [] if value is None else value
        return (
            tuple(values)
            if isinstance(values, list) and all(_count(4)(v) for v in values)
            else None
        )

    shape = _single(settings, shapes)
    shared = settings.take("shared_axes", None, axes)
    return shape, {
        "alpha": tuple(1 if axis in shared else n for axis, n in enumerate(shape, start=1))
    }


def _rectifier(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    if settings.kind == "LeakyReLU":
        settings.take("alpha", 0.3, _slope)
    else:
        settings.take("negative_slope", 0.0, lambda value: _slope(0.0 if value is None else value))
        settings.take("max_value", None, _only(None))
        settings.take(
            "threshold", 0.0, lambda value: 0.0 if _is_number(value) and value == 0 else None
        )
    return _single(settings, shapes), {}


def _activation(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    settings.take("activation", None, _ACTIVATION)
    return _single(settings, shapes), {}


def _concatenation(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    settings.take("axis", -1, _last_axis)
    if len({shape[:3] for shape in shapes}) > 1:
        raise InputError(f"layer {settings.name!r} joins {' and '.join(map(str, shapes))}")
    return (*shapes[0][:3], sum(shape[3] for shape in shapes)), {}


def _sum(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    if len(set(shapes)) > 1:
        raise InputError(f"layer {settings.name!r} adds {' and '.join(map(str, shapes))}")
    return shapes[0], {}


def _identity(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    """What acts in training only."""
    settings.unused("rate", "noise_shape", "seed", "stddev", "data_format")
    return _single(settings, shapes), {}


# Every class of layer that a checkpoint may hold: settings and input shapes in, output shape and weight shapes out.
_LAYERS: dict[str, Callable[[_Settings, Sequence[Shape]], _Checked]] = {
    "InputLayer": _input_layer,
    "Conv3D": _convolution,
    "Conv3DTranspose": _convolution,
    "GroupNormalization": _group_normalization,
    "BatchNormalization": _batch_normalization,
    "PReLU": _prelu,
    "LeakyReLU": _rectifier,
    "ReLU": _rectifier,
    "Activation": _activation,
    "MaxPooling3D": _pooling,
    "AveragePooling3D": _pooling,
    "UpSampling3D": _upsampling,
    "Concatenate": _concatenation,
    "Add": _sum,
    "Dropout": _identity,
    "SpatialDropout3D": _identity,
    "GaussianNoise": _identity,
}
