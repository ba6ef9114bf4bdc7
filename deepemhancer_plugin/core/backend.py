"""The framework that Keras runs on, chosen before Keras is imported.

The variable KERAS_BACKEND decides, else it is TensorFlow. A `keras.json` in the home folder, left
by another program, never does: it may name a framework that is not installed, or another order of
a tensor's axes.

TensorFlow writes lines to standard error while it is imported that tell nobody anything, whatever
TF_CPP_MIN_LOG_LEVEL says. They are left out; all else that is written meanwhile gets through.
"""

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any

from deepemhancer_plugin.core.errors import InputError

BACKENDS = ("tensorflow", "jax", "torch")

LOG_LEVEL = "3"  # of TensorFlow, unless the user sets another: then every line is shown
# Regular expression of the lines left out. They are absl's information, its note about itself, and
# errors that are none: libraries registered twice, and no driver for a GPU, which `devices` says.
NEEDLESS_LINES = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|I\d{4} \d\d:\d\d:\d\d\.\d+ |I0000 00:00:\d+\.\d+ "
    r"|(E|E0000) .*Unable to register cu(FFT|DNN|BLAS) factory"
    r"|W0000 .*computation placer already registered"
    r"|E0000 .*failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)"
)
# A process of its own, so that the last words of a program that crashes also get through.
FILTER = """
import re, sys
needless = re.compile(sys.argv[1].encode())
for line in iter(sys.stdin.buffer.readline, b""):
    if not needless.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
FILTER_SECONDS = 2.0  # for its last lines


def set_defaults() -> None:
    """Set the environment's variables that Keras and TensorFlow read when they are imported.

    A value that is there stays. Without oneDNN, which TensorFlow takes of itself only where there
    is AVX-512, its convolutions are slower.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", LOG_LEVEL)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if not os.environ.get("KERAS_BACKEND"):
        os.environ["KERAS_BACKEND"] = "tensorflow"


def select_backend() -> str:
    """Choose the framework, and see to it that Keras makes the same choice.

    Returns:
        "tensorflow", "jax" or "torch"; that of Keras where it is imported already.

    Raises:
        InputError: KERAS_BACKEND names another framework.
    """
    set_defaults()
    keras = sys.modules.get("keras")
    backend = os.environ["KERAS_BACKEND"] if keras is None else str(keras.config.backend())
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND={backend}: expected tensorflow, jax or torch")
    return backend


def import_tensorflow() -> Any:
    """Import TensorFlow, after Keras, which says what is wrong with a `keras.json`."""
    if not sys.modules.get("tensorflow"):
        import_keras()
    return importlib.import_module("tensorflow")


@contextmanager
def _filter_standard_error() -> Iterator[None]:
    """Leave NEEDLESS_LINES out of what anything in this process writes to standard error.

    Nothing is left out where the user has set TF_CPP_MIN_LOG_LEVEL.
    """
    with ExitStack() as stack:
        if os.environ["TF_CPP_MIN_LOG_LEVEL"] == LOG_LEVEL:
            with suppress(OSError):  # it is closed, or no other process can be started
                stack.enter_context(_filter_process(os.dup(2)))
        yield


@contextmanager
def _filter_process(stderr: int) -> Iterator[None]:
    """Send what is written to standard error through FILTER to the copy `stderr` of it."""
    with open(stderr, "wb") as screen:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", FILTER, NEEDLESS_LINES],
            stdin=subprocess.PIPE,
            stdout=screen,
            stderr=screen,
            start_new_session=True,  # Ctrl-C must not end it before this process
        )
        assert process.stdin is not None
        with process.stdin as pipe:
            os.dup2(pipe.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            with suppress(subprocess.TimeoutExpired):  # another process may hold the pipe open
                process.wait(FILTER_SECONDS)


@functools.cache
def import_keras() -> ModuleType:
    """Import Keras on the chosen framework, with the axes and the type that our networks have.

    Raises:
        InputError: KERAS_BACKEND names a framework that Keras does not run on, or a `keras.json`
            holds a value that Keras refuses.
    """
    backend = select_backend()
    try:
        with _filter_standard_error():
            keras = importlib.import_module("keras")
            if backend == "tensorflow":  # it looks for GPUs, and writes about that
                importlib.import_module("tensorflow").config.list_physical_devices()
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"Keras does not start: {reason}: correct or remove ~/.keras/keras.json"
        ) from error
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    return keras
