"""The 3^3 convolutions of the networks on a CPU: convolutions.cpp, compiled for this machine when a network is first built.

They take an eighth of the multiplications that the definition asks for, to a few parts in 100,000. Where they do not fit, Keras's own do the work: on
GPUs, in other types than float32 (matrix units are faster still), on other backends than TensorFlow, on CPUs without AVX2, without a C++ compiler.
"""
import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core import devices

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"
SWITCH = "DEEPEMHANCER_CONVOLUTIONS"  # an environment variable; "keras" leaves them to Keras
SMALL = 512  # voxels: with fewer there is more to do for the kernels than for them, and Keras is as fast
TOLERANCE = 1e-3  # of the check, relative to the largest value: far over rounding, far under any mistake


class Library:
    """convolutions.cpp, loaded. `vector`: the numbers of features are multiples of it."""

    def __init__(self, path: Path):
        """OSError: this is no library that the machine can load."""
        self._library = ctypes.CDLL(str(path))
        self.vector: int = self._library.vector_length()
        # Always the same thread: OpenMP and the library keep threads and memory for each that calls.
        self._thread = ThreadPoolExecutor(1)

    def _call(self, function: str, arrays: list[np.ndarray], features: int, *numbers: int) -> None:
        arguments = *(a.ctypes.data_as(ctypes.c_void_p) for a in arrays), *arrays[0].shape, features, *numbers, devices.cpu_cores()
        self._thread.submit(lambda: getattr(self._library, function)(*arguments)).result()

    def convolve(self, values: np.ndarray, kernel: np.ndarray, bias: np.ndarray, relu: bool) -> np.ndarray:
        """Float32 (n, z, y, x, features out): `values` (n, z, y, x, features in), zeros around, convolved with `kernel` (3, 3, 3, features in,
        features out), plus `bias`, negative values made 0 where `relu`."""
        values, kernel, bias = (np.ascontiguousarray(a, np.float32) for a in (values, kernel, bias))
        result = np.empty((*values.shape[:-1], kernel.shape[-1]), np.float32)
        self._call("convolve", [values, kernel, bias, result], kernel.shape[-1], int(relu))
        return result

    def kernel_gradient(self, values: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Float32 (3, 3, 3, features in, features out): the kernel's gradient where `slope` (n, z, y, x, features out) is the result's."""
        values, slope = (np.ascontiguousarray(a, np.float32) for a in (values, slope))
        gradient = np.empty((3, 3, 3, values.shape[-1], slope.shape[-1]), np.float32)
        self._call("kernel_gradient", [values, slope, gradient], slope.shape[-1])
        return gradient


@cache
def library() -> tuple[Library | None, str]:
    """The library, or None and why."""
    if os.environ.get(SWITCH) == "keras":
        return None, f"{SWITCH} says so"
    if not devices.cpu_has_avx2():
        return None, "a CPU without AVX2"
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        return None, "no C++ compiler"
    try:
        made = _loaded(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler} makes no library of {SOURCE.name} ({str(error).splitlines()[0]})"
    return (made, "") if _right(made) else (None, "the compiled ones do not give what they should")


def described(precision: str, where: devices.Devices) -> str:
    """The precision for the log, and on a CPU whose convolutions there are."""
    if precision != "float32" or where.kind != "cpu":
        return precision
    made, why = library()
    return precision + (", convolutions compiled for this CPU" if made else f", Keras's convolutions ({why})")


def _loaded(compiler: str) -> Library:
    """From the user's cache; compiled where it is not there yet, for this source, compiler and CPU."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, devices.cpu_identity().encode()])).hexdigest()[:24]
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepemhancer" / f"convolutions-{key}.so"
    if kept.is_file():
        return Library(kept)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / kept.name
        subprocess.run([compiler, *FLAGS, "-o", str(fresh), str(SOURCE)], capture_output=True, check=True, timeout=300)
        made = Library(fresh)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            beside = kept.with_suffix(f".{os.getpid()}")
            shutil.copy(fresh, beside)
            os.replace(beside, kept)
        except OSError:
            pass  # a home that cannot be written to: compiled again next time, in seconds
        return made


def _right(made: Library) -> bool:
    """Whether both functions give what the definition gives, in float64."""
    rng = np.random.default_rng(0)
    values, slope = rng.standard_normal((2, 5, 4, 7, 16)), rng.standard_normal((2, 5, 4, 7, 32))
    kernel, bias = rng.standard_normal((3, 3, 3, 16, 32)), rng.standard_normal(32)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(values, [(0, 0), *[(1, 1)] * 3, (0, 0)]), (3, 3, 3), (1, 2, 3))  # n z y x f 3 3 3
    expected = [np.maximum(np.einsum("nzyxfabc,abcfg->nzyxg", around, kernel, optimize=True) + bias, 0),
                np.einsum("nzyxfabc,nzyxg->abcfg", around, slope, optimize=True)]
    found = [made.convolve(values, kernel, bias, True), made.kernel_gradient(values, slope)]
    return all(np.abs(a - b).max() < TOLERANCE * np.abs(b).max() for a, b in zip(found, expected, strict=True))


def fit(grid, kernel, strides, padding: str) -> bool:
    """Whether the library does a float32 convolution on the CPU: `grid` (z, y, x), perhaps None, `kernel` (z, y, x, features in, features out)."""
    made = library()[0]
    return (made is not None and tuple(kernel[:3]) == (3, 3, 3) and tuple(strides) == (1, 1, 1) and padding == "same"
            and not any(features % made.vector for features in kernel[3:]) and (None in grid or math.prod(grid) >= SMALL))


@cache
def operation(relu: bool = False):
    """The convolution, where it is `fit`, as an operation of TensorFlow with its gradients: of values, kernel and bias (Library.convolve)."""
    import tensorflow as tf

    made = library()[0]
    assert made is not None

    def call(function, arguments, shape):
        result = tf.numpy_function(function, arguments, tf.float32, stateful=False)
        result.set_shape(shape)
        return result

    def convolve(values, kernel, bias, rectified):
        return call(lambda v, k, b: made.convolve(v, k, b, rectified), [values, kernel, bias], [*values.shape[:-1], kernel.shape[-1]])

    @tf.custom_gradient
    def run(values, kernel, bias):
        result = convolve(values, kernel, bias, relu)

        def gradient(slope):
            if relu:
                slope = tf.where(result > 0, slope, 0.0)
            turned = tf.transpose(tf.reverse(kernel, [0, 1, 2]), [0, 1, 2, 4, 3])
            return (convolve(slope, turned, tf.zeros(kernel.shape[-2]), False), call(made.kernel_gradient, [values, slope], kernel.shape),
                    tf.reduce_sum(slope, [0, 1, 2, 3]))

        return result, gradient

    return run


@cache
def layer():
    """keras.layers.Conv3D, or on TensorFlow a class of the same arguments and variables that convolves with the library where that is `fit`."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return keras.layers.Conv3D
    import tensorflow as tf

    class Convolution(keras.layers.Conv3D):
        """keras.layers.Conv3D by convolutions.cpp."""

        def call(self, inputs):
            kind = self.activation.__name__
            if (self.compute_dtype == "float32" and kind in ("linear", "relu") and self.use_bias and self.groups == 1
                    and self.dilation_rate == (1, 1, 1) and fit(inputs.shape[1:4], self.kernel.shape, self.strides, self.padding)
                    and not tf.config.get_visible_devices("GPU")):
                return operation(kind == "relu")(inputs, self.kernel.value, self.bias.value)
            return super().call(inputs)

    return Convolution
