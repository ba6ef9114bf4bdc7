"""The graph of an official checkpoint, run with Keras's operations.

Besides the convolutions, a plain Keras model spends its time in group normalisation and PReLU, each
of them a dozen passes over memory. Here a normalisation is one pass for the statistics, always in
float32, and one pass that scales, shifts and rectifies, fused on TensorFlow. Weights are constants
of the compiled function, so that oneDNN brings them into its own order once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.weights.official.graph import Node

keras = import_keras()
ops = keras.ops

PRECISIONS = ("float32", "mixed", "bfloat16", "float16")


@dataclass(frozen=True)
class _Runtime:
    """How to compute.

    Attributes:
        tensorflow: by TensorFlow's own operations, else by those of any backend.
        fused: the element-wise passes by XLA, on CPUs.
        dtypes: each layer's precision.
    """

    tensorflow: bool
    fused: bool
    dtypes: dict[str, str]


@dataclass(frozen=True)
class _Scaled:
    """x * scale + shift, not yet computed: a rectifier that follows takes the same pass.

    Attributes:
        x: values, viewed as (n, slabs, rows, row).
        scale: for each slab and place in a row; None: neither scale nor shift.
        shift: as scale.
        shape: the values' own shape (z, y, x, channels).
    """

    x: Any
    scale: Any
    shift: Any
    shape: tuple[int, ...]


def predictor(
    nodes: Sequence[Node], precision: str = "float32", device: str | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Build the network as a function.

    It is compiled for each number of windows that it meets, which takes seconds: call it with few
    different ones.

    Args:
        nodes: the graph (`OfficialModel.nodes`).
        precision: of the convolutions. "float32"; "mixed": bfloat16 on grids of at most a quarter
            of the window's edge, where it costs the least accuracy; "bfloat16" and "float16":
            everywhere but in the last layer. Statistics are always in float32.
        device: as the backend calls it ("GPU:1", "CPU:0"); None: the backend's choice.

    Returns:
        A function from windows (n, z, y, x) to windows of the same shape, float32.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    nodes = tuple(nodes)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    runtime = _Runtime(on_tensorflow, on_tensorflow and _on_cpu(device), _dtypes(nodes, precision))

    def network(windows: Any) -> Any:
        return ops.cast(_run(nodes, windows[..., None], runtime)[..., 0], "float32")

    if not on_tensorflow:

        def predict(windows: np.ndarray) -> np.ndarray:
            with keras.device(device) if device else nullcontext(), _no_gradient():
                result = network(ops.convert_to_tensor(windows, "float32"))
                return np.asarray(ops.convert_to_numpy(result))

        return predict

    import tensorflow as tf

    compiled = tf.function(network, autograph=False)

    def predict_compiled(windows: np.ndarray) -> np.ndarray:
        with tf.device(device):
            return np.asarray(compiled(tf.constant(windows, tf.float32)))

    return predict_compiled


def _no_gradient() -> Any:
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.inference_mode()


def _on_cpu(device: str | None) -> bool:
    import tensorflow as tf

    return "CPU" in device.upper() if device else not tf.config.list_logical_devices("GPU")


def _dtypes(nodes: Sequence[Node], precision: str) -> dict[str, str]:
    """Each layer's precision; the last layer's is float32, as its result is the map."""
    reduced = "bfloat16" if precision == "mixed" else precision
    largest = nodes[0].shape[0] // 4 if precision == "mixed" else nodes[0].shape[0]
    dtypes = {node.name: reduced if max(node.shape[:3]) <= largest else "float32" for node in nodes}
    return dtypes | {nodes[-1].name: "float32"}


def _run(nodes: Sequence[Node], x: Any, runtime: _Runtime) -> Any:
    values: dict[str, Any] = {nodes[0].name: x}
    readers = {node.name: sum(node.name in other.inputs for other in nodes) for node in nodes}
    for node in nodes[1:]:
        inputs = [values[name] for name in node.inputs]
        for name in node.inputs:
            readers[name] -= 1
            if not readers[name]:  # without a compiler, memory is freed as the graph is walked
                values.pop(name, None)
        if node.kind not in _RECTIFIERS:
            inputs = [_compute(value, runtime) for value in inputs]
        values[node.name] = _RUN[node.kind](node, inputs, runtime)
    return _compute(values[nodes[-1].name], runtime)


def _convolution(node: Node, inputs: list[Any], runtime: _Runtime) -> Any:
    dtype = runtime.dtypes[node.name]
    x = ops.cast(inputs[0], dtype)
    kernel = ops.cast(node.weights["kernel"], dtype)
    bias = ops.cast(node.weights["bias"], dtype) if "bias" in node.weights else None
    strides, padding = node.config["strides"], node.config["padding"]
    if runtime.tensorflow:
        import tensorflow as tf

        steps = (1, *strides, 1)
        if node.kind == "Conv3D":
            x = tf.nn.conv3d(x, kernel, steps, padding.upper())
        else:
            x = tf.nn.conv3d_transpose(
                x, kernel, (tf.shape(x)[0], *node.shape), steps, padding.upper()
            )
        if bias is not None:
            x = tf.nn.bias_add(x, bias)  # of this form, oneDNN adds it inside the convolution
    else:
        convolve = ops.conv if node.kind == "Conv3D" else ops.conv_transpose
        x = convolve(x, kernel, strides=strides, padding=padding, data_format="channels_last")
        x = x if bias is None else x + bias
    return _ACTIVATIONS[node.config["activation"]](x)


def _pooling(node: Node, inputs: list[Any], runtime: _Runtime) -> Any:
    pool = ops.max_pool if node.kind == "MaxPooling3D" else ops.average_pool
    return pool(
        inputs[0],
        node.config["pool_size"],
        node.config["strides"],
        node.config["padding"],
        data_format="channels_last",
    )


def _upsampling(node: Node, inputs: list[Any], runtime: _Runtime) -> Any:
    x = inputs[0]
    for axis, times in enumerate(node.config["size"], start=1):
        x = ops.repeat(x, times, axis)
    return x


def _same_type(inputs: list[Any], node: Node, runtime: _Runtime) -> list[Any]:
    return [ops.cast(x, runtime.dtypes[node.name]) for x in inputs]


def _group_normalization(node: Node, inputs: list[Any], runtime: _Runtime) -> _Scaled:
    """That of keras-contrib, whose groups are slabs of memory.

    It reshapes (n, z, y, x, c) to (n, groups, z, y, x, c / groups) without transposing. Value i of
    a slab is scaled by gamma[group * c / groups + i % (c / groups)], and shifted likewise.
    """
    x, groups, shape = inputs[0], node.config["groups"], node.shape
    channels = shape[-1]
    size = int(np.prod(shape)) // groups
    mean, variance = _moments(ops.reshape(x, (-1, groups, size)), runtime)
    width = channels // groups
    gamma, beta = (
        np.reshape(node.weights.get(key, np.full(channels, default, np.float32)), (groups, width))
        for key, default in (("gamma", 1), ("beta", 0))
    )
    scale = ops.rsqrt(variance + node.config["epsilon"])[..., None] * gamma
    shift = beta - mean[..., None] * scale
    # Slabs end between voxels, except for odd sizes. Rows of all channels then are fast, as long
    # rows are, and match those of PReLU.
    row = channels if size % channels == 0 else width
    scale, shift = (ops.tile(each, (1, 1, row // width))[:, :, None, :] for each in (scale, shift))
    return _Scaled(ops.reshape(x, (-1, groups, size // row, row)), scale, shift, shape)


def _moments(x: Any, runtime: _Runtime) -> tuple[Any, Any]:
    """Mean and variance over the last axis of (n, groups, size), summed in float32."""
    x = ops.cast(x, "float32")
    if runtime.fused and x.shape[0]:
        import tensorflow as tf

        # l2_loss squares and sums in one pass; mean(square) would write the squares to memory.
        slabs = tf.reshape(x, (-1, x.shape[-1]))
        squares = tf.stack([tf.nn.l2_loss(slabs[i]) for i in range(slabs.shape[0])])
        mean, square = tf.reduce_mean(x, -1), tf.reshape(squares, x.shape[:2]) * (2 / x.shape[-1])
    else:
        mean, square = ops.mean(x, -1), ops.mean(ops.square(x), -1)
    return mean, ops.maximum(square - mean * mean, 0.0)


def _batch_normalization(node: Node, inputs: list[Any], runtime: _Runtime) -> _Scaled:
    weights = node.weights
    scale = weights.get("gamma", np.float32(1)) / np.sqrt(
        weights["moving_variance"] + np.float32(node.config["epsilon"])
    )
    shift = weights.get("beta", np.float32(0)) - weights["moving_mean"] * scale
    scale, shift = (ops.convert_to_tensor(each, "float32") for each in (scale, shift))
    return _Scaled(_rows(inputs[0], node.shape), scale, shift, node.shape)


def _rows(x: Any, shape: tuple[int, ...]) -> Any:
    return ops.reshape(x, (-1, 1, int(np.prod(shape[:3])), shape[-1]))


def _rectify(node: Node, inputs: list[Any], runtime: _Runtime) -> Any:
    """PReLU, leaky ReLU, ReLU: max(x, 0) + slope * min(x, 0), in one pass with a normalisation."""
    value, shape = inputs[0], node.shape
    if not isinstance(value, _Scaled) or value.x.shape[-1] != shape[-1]:
        value = _Scaled(_rows(_compute(value, runtime), shape), None, None, shape)
    if node.kind == "PReLU":
        alpha = node.weights["alpha"]
        per_channel = alpha.size == alpha.shape[-1]
        slope = (
            alpha.reshape(-1)
            if per_channel
            else np.broadcast_to(alpha, shape).reshape(1, *value.x.shape[1:])
        )
    else:
        slope = np.array(node.config["alpha" if node.kind == "LeakyReLU" else "negative_slope"])
    return _pass(value, ops.convert_to_tensor(slope, "float32"), runtime)


def _compute(value: Any, runtime: _Runtime) -> Any:
    return _pass(value, None, runtime) if isinstance(value, _Scaled) else value


def _pass(value: _Scaled, slope: Any, runtime: _Runtime) -> Any:
    compute = _fused_pass() if runtime.fused else _scale_and_rectify
    return ops.reshape(compute(value.x, value.scale, value.shift, slope), (-1, *value.shape))


def _scale_and_rectify(x: Any, scale: Any, shift: Any, slope: Any) -> Any:
    y = ops.cast(x, "float32")
    if scale is not None:
        y = y * scale + shift
    if slope is not None:
        y = ops.where(y > 0, y, y * slope)
    return ops.cast(y, x.dtype)


@cache
def _fused_pass() -> Any:
    """The same in a single pass over memory, by XLA, whose convolutions are slow on CPUs."""
    import tensorflow as tf

    return tf.function(_scale_and_rectify, jit_compile=True, autograph=False)


_RECTIFIERS = ("PReLU", "LeakyReLU", "ReLU")
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "relu": ops.relu,
    "elu": ops.elu,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "softplus": ops.softplus,
}
_RUN: dict[str, Callable[[Node, list[Any], _Runtime], Any]] = {
    "Conv3D": _convolution,
    "Conv3DTranspose": _convolution,
    "GroupNormalization": _group_normalization,
    "BatchNormalization": _batch_normalization,
    **dict.fromkeys(_RECTIFIERS, _rectify),
    "Activation": lambda node, inputs, runtime: _ACTIVATIONS[node.config["activation"]](inputs[0]),
    "MaxPooling3D": _pooling,
    "AveragePooling3D": _pooling,
    "UpSampling3D": _upsampling,
    "Concatenate": lambda node, inputs, runtime: ops.concatenate(
        _same_type(inputs, node, runtime), -1
    ),
    "Add": lambda node, inputs, runtime: sum(_same_type(inputs, node, runtime)),
    **dict.fromkeys(
        ("Dropout", "SpatialDropout3D", "GaussianNoise"), lambda node, inputs, runtime: inputs[0]
    ),
}
