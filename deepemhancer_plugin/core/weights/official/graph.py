"""The graph of a checkpoint of the authors, read as data and checked layer by layer.

It stands in the file as JSON. Each layer must be of a known class with known settings. Its output's
shape and the shapes of its weights follow from them, before any memory is taken for either.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError

MAX_LAYERS = 1000
MAX_ELEMENTS = 1 << 28  # of one layer's output or of all weights: 1 GB in float32
_MAX_INPUTS = 16  # of a layer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One layer of the graph.

    Attributes:
        name: the layer's name.
        kind: its Keras class.
        config: its settings, checked, without those that concern training.
        inputs: names of the layers that it reads.
        shape: its output's shape (z, y, x, channels).
        weight_shapes: shapes of its weights by their names.
        weights: its weights by their names, float32.
    """

    name: str
    kind: str
    config: dict[str, Any]
    inputs: tuple[str, ...]
    shape: Shape
    weight_shapes: dict[str, Shape] = field(repr=False)
    weights: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Layer:
    """A layer as it stands in the file; its class is known, its settings are not checked."""

    name: str
    kind: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]


def read_graph(text: str) -> list[Node]:
    """Read a functional Keras 2 model.

    Args:
        text: the model as JSON (`model_config`).

    Returns:
        The layers that the output depends on, without their weights, each after those that it
        reads. The first is the input, the last the output.

    Raises:
        InputError: not such a model, or one that no network of the authors has the like of.
    """
    try:
        model = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"model_config is not JSON: {error}") from None
    functional = isinstance(model, dict) and model.get("class_name") in ("Model", "Functional")
    if not functional or not isinstance(model.get("config"), dict):
        raise InputError("model_config is not a functional Keras model")
    config = model["config"]
    source, target = _only_end(config, "input_layers"), _only_end(config, "output_layers")
    layers = _read_layers(config)
    inputs = [layer.name for layer in layers.values() if layer.kind == "InputLayer"]
    if inputs != [source] or target not in layers:
        raise InputError("the graph has not one input and one output")
    nodes = {node.name: node for node in _order_nodes(layers)}
    shapes = [shape for node in nodes.values() for shape in node.weight_shapes.values()]
    if sum(map(math.prod, shapes)) > MAX_ELEMENTS:
        raise InputError(f"the graph needs more than {MAX_ELEMENTS} weights")
    if nodes[source].shape != nodes[target].shape:
        raise InputError(
            f"the network turns windows of {nodes[source].shape} into {nodes[target].shape}"
        )
    needed = _find_ancestors(nodes, target)
    before = [node for name, node in nodes.items() if name in needed and name != target]
    return [*before, nodes[target]]


def _only_end(config: dict[str, Any], key: str) -> str:
    """The one input or output: [["name", 0, 0]], or ["name", 0, 0] in later versions."""
    ends: Any = config.get(key)
    if isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    plain = isinstance(ends, list) and len(ends) == 3 and ends[1:] == [0, 0]
    if not plain or not isinstance(ends[0], str):
        raise InputError(f"the graph has not exactly one of {key}")
    return str(ends[0])


def _read_layers(config: dict[str, Any]) -> dict[str, _Layer]:
    """The layers by name, in the file's order."""
    entries = config.get("layers")
    if not isinstance(entries, list) or not 2 <= len(entries) <= MAX_LAYERS:
        raise InputError(f"model_config has no list of 2 to {MAX_LAYERS} layers")
    layers: dict[str, _Layer] = {}
    for layer in map(_read_layer, entries):
        if layer.name in layers:
            raise InputError(f"two layers are called {layer.name!r}")
        layers[layer.name] = layer
    return layers


def _read_layer(entry: Any) -> _Layer:
    """One layer of the file."""
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise InputError("model_config has a layer without settings")
    name, kind = entry.get("name", entry["config"].get("name")), entry.get("class_name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,200}", name):
        raise InputError(f"a layer is called {str(name)[:80]!r}")
    if not isinstance(kind, str) or kind not in _CHECKS:
        raise InputError(f"layer {name!r} is of the unknown class {str(kind)[:80]!r}")
    calls = entry.get("inbound_nodes", [])
    listed = isinstance(calls, list) and all(isinstance(call, list) for call in calls)
    if not listed or len(calls) != (kind != "InputLayer"):
        raise InputError(f"layer {name!r} is not used exactly once")
    inputs = tuple(_read_input(name, connection) for call in calls for connection in call)
    if calls and not 1 <= len(inputs) <= _MAX_INPUTS:
        raise InputError(f"layer {name!r} reads {len(inputs)} layers")
    return _Layer(name, kind, entry["config"], inputs)


def _read_input(name: str, connection: Any) -> str:
    """The layer that a connection comes from: ["name", 0, 0] or ["name", 0, 0, {}]."""
    plain = isinstance(connection, list) and connection[1:] in ([0, 0], [0, 0, {}])
    if not plain or not isinstance(connection[0], str):
        raise InputError(f"layer {name!r} reads {str(connection)[:80]}")
    return connection[0]


def _order_nodes(layers: dict[str, _Layer]) -> Iterator[Node]:
    """Check the layers, each after those that it reads."""
    pending = dict(layers)
    shapes: dict[str, Shape] = {}
    while pending:
        ready = [
            layer for layer in pending.values() if all(name in shapes for name in layer.inputs)
        ]
        if not ready:
            raise InputError(
                f"layer {next(iter(pending))!r} reads a layer that does not exist or, in a circle, "
                "itself"
            )
        for layer in ready:
            del pending[layer.name]
            settings = _Settings(layer)
            inputs = [shapes[name] for name in layer.inputs]
            shape, weight_shapes = _CHECKS[layer.kind](settings, inputs)
            if min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
                raise InputError(f"layer {layer.name!r} has an output of shape {shape}")
            shapes[layer.name] = shape
            config = settings.finish()
            yield Node(layer.name, layer.kind, config, layer.inputs, shape, weight_shapes)


def _find_ancestors(nodes: dict[str, Node], target: str) -> set[str]:
    """The layers that the target depends on, itself among them."""
    found, stack = {target}, [target]
    while stack:
        for name in nodes[stack.pop()].inputs:
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


class _Settings:
    """A layer's settings.

    Each is asked for with the values that it may have, and none may be left that nobody asked for.
    """

    # They concern training, or repeat what the graph says, and are never looked into.
    _UNUSED = re.compile(
        r"name|trainable|dtype|batch_input_shape|.*_(initializer|regularizer|constraint)"
    )

    def __init__(self, layer: _Layer) -> None:
        self.name, self.kind = layer.name, layer.kind
        self._left = dict(layer.settings)
        self._checked: dict[str, Any] = {}

    def error(self, key: str, value: Any) -> InputError:
        """The error for a value that may not be."""
        return InputError(
            f"layer {self.name!r} ({self.kind}) has {key} = {str(value)[:80]}, which no network of "
            "the authors has"
        )

    def take(self, key: str, default: Any, check: Callable[[Any], Any]) -> Any:
        """The setting as `check` returns it; `check` gives None for a value that may not be."""
        given = self._left.pop(key, default)
        value = check(given)
        if value is None:
            raise self.error(key, given)
        self._checked[key] = value
        return value

    def ignore(self, *keys: str) -> None:
        """Accept whatever these settings are."""
        for key in keys:
            self._left.pop(key, None)

    def finish(self) -> dict[str, Any]:
        """All settings that were asked for; InputError where others are left."""
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


def _triple(value: Any) -> Shape | None:
    """Three counts, or one for all three axes."""
    values = value if isinstance(value, list) else [value] * 3
    return tuple(values) if len(values) == 3 and all(map(_count(64), values)) else None


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
# Shape of the output, and shapes of the weights by name.
_Checked = tuple[Shape, dict[str, Shape]]


def _single_input(settings: _Settings, shapes: Sequence[Shape]) -> Shape:
    """The shape of the only layer that this one reads."""
    if len(shapes) != 1:
        raise InputError(f"layer {settings.name!r} ({settings.kind}) reads {len(shapes)} layers")
    return shapes[0]


def _strided_length(length: int, window: int, stride: int, padding: str) -> int:
    """What a convolution or a pooling makes of an axis."""
    return -(-length // stride) if padding == "same" else (length - window) // stride + 1


def _transposed_length(length: int, window: int, stride: int, padding: str) -> int:
    """What a transposed convolution makes of an axis."""
    return length * stride + (max(window - stride, 0) if padding == "valid" else 0)


def _check_input(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    def cube(value: Any) -> Shape | None:
        fits = isinstance(value, list) and len(value) == 5 and value[0] is None and value[4] == 1
        cubic = fits and len(set(value[1:4])) == 1 and _count(512)(value[1])
        return tuple(value[1:]) if cubic else None

    settings.ignore("sparse", "ragged", "input_dtype")
    return settings.take("batch_input_shape", None, cube), {}


def _check_convolution(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    *grid, channels = _single_input(settings, shapes)
    filters = settings.take("filters", None, _count(4096))
    kernel = settings.take("kernel_size", None, _triple)
    strides = settings.take("strides", [1, 1, 1], _triple)
    padding = settings.take("padding", "valid", _PADDING)
    bias = settings.take("use_bias", True, _flag)
    settings.take("activation", "linear", _ACTIVATION)
    settings.take("data_format", "channels_last", _LAYOUT)
    settings.take("groups", 1, _one_of(1))
    settings.take("dilation_rate", [1, 1, 1], _one_of([1, 1, 1], 1))
    if settings.kind == "Conv3DTranspose":
        settings.take("output_padding", None, _only(None))
        length = _transposed_length
        weights = {"kernel": (*kernel, filters, channels)}
    else:
        length = _strided_length
        weights = {"kernel": (*kernel, channels, filters)}
    grid = [length(n, k, s, padding) for n, k, s in zip(grid, kernel, strides, strict=True)]
    return (*grid, filters), weights | ({"bias": (filters,)} if bias else {})


def _check_pooling(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    *grid, channels = _single_input(settings, shapes)
    pool = settings.take("pool_size", None, _triple)
    strides = settings.take(
        "strides", list(pool), lambda value: pool if value is None else _triple(value)
    )
    padding = settings.take("padding", "valid", _PADDING)
    settings.take("data_format", "channels_last", _LAYOUT)
    grid = [_strided_length(n, k, s, padding) for n, k, s in zip(grid, pool, strides, strict=True)]
    return (*grid, channels), {}


def _check_upsampling(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    *grid, channels = _single_input(settings, shapes)
    size = settings.take("size", [2, 2, 2], _triple)
    settings.take("data_format", "channels_last", _LAYOUT)
    return (*(n * s for n, s in zip(grid, size, strict=True)), channels), {}


def _check_group_normalization(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    shape = _single_input(settings, shapes)
    groups = settings.take("groups", 32, _count(4096))
    if shape[-1] % groups:
        raise settings.error("groups", f"{groups} for {shape[-1]} channels")
    return _check_affine(settings, shape)


def _check_batch_normalization(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    shape = _single_input(settings, shapes)
    settings.ignore("momentum", "renorm", "virtual_batch_size")
    moments = dict.fromkeys(("moving_mean", "moving_variance"), shape[-1:])
    shape, weights = _check_affine(settings, shape)
    return shape, weights | moments


def _check_affine(settings: _Settings, shape: Shape) -> _Checked:
    """What every normalisation has: the axis, epsilon, and a scale and a shift for each channel."""
    settings.take("axis", -1, _last_axis)
    settings.take("epsilon", 1e-5 if settings.kind == "GroupNormalization" else 1e-3, _epsilon)
    used = {
        "gamma": settings.take("scale", True, _flag),
        "beta": settings.take("center", True, _flag),
    }
    return shape, {key: shape[-1:] for key, wanted in used.items() if wanted}


def _check_prelu(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    def axes(value: Any) -> tuple[int, ...] | None:
        values = [] if value is None else value
        return tuple(values) if isinstance(values, list) and all(map(_count(4), values)) else None

    shape = _single_input(settings, shapes)
    shared = settings.take("shared_axes", None, axes)
    alpha = tuple(1 if axis in shared else n for axis, n in enumerate(shape, start=1))
    return shape, {"alpha": alpha}


def _check_rectifier(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    if settings.kind == "LeakyReLU":
        settings.take("alpha", 0.3, _slope)
    else:
        settings.take("negative_slope", 0.0, lambda value: _slope(0.0 if value is None else value))
        settings.take("max_value", None, _only(None))
        settings.take(
            "threshold", 0.0, lambda value: 0.0 if _is_number(value) and value == 0 else None
        )
    return _single_input(settings, shapes), {}


def _check_activation(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    settings.take("activation", None, _ACTIVATION)
    return _single_input(settings, shapes), {}


def _check_concatenation(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    settings.take("axis", -1, _last_axis)
    if len({shape[:3] for shape in shapes}) > 1:
        raise InputError(f"layer {settings.name!r} joins {' and '.join(map(str, shapes))}")
    return (*shapes[0][:3], sum(shape[3] for shape in shapes)), {}


def _check_sum(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    if len(set(shapes)) > 1:
        raise InputError(f"layer {settings.name!r} adds {' and '.join(map(str, shapes))}")
    return shapes[0], {}


def _check_identity(settings: _Settings, shapes: Sequence[Shape]) -> _Checked:
    """What acts in training only."""
    settings.ignore("rate", "noise_shape", "seed", "stddev", "data_format")
    return _single_input(settings, shapes), {}


# Every class of layer that a checkpoint may hold, and the function that checks its settings and
# returns the shapes of its output and of its weights.
_CHECKS: dict[str, Callable[[_Settings, Sequence[Shape]], _Checked]] = {
    "InputLayer": _check_input,
    "Conv3D": _check_convolution,
    "Conv3DTranspose": _check_convolution,
    "GroupNormalization": _check_group_normalization,
    "BatchNormalization": _check_batch_normalization,
    "PReLU": _check_prelu,
    "LeakyReLU": _check_rectifier,
    "ReLU": _check_rectifier,
    "Activation": _check_activation,
    "MaxPooling3D": _check_pooling,
    "AveragePooling3D": _check_pooling,
    "UpSampling3D": _check_upsampling,
    "Concatenate": _check_concatenation,
    "Add": _check_sum,
    "Dropout": _check_identity,
    "SpatialDropout3D": _check_identity,
    "GaussianNoise": _check_identity,
}
