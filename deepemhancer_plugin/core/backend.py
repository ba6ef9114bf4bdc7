"""The framework that Keras runs on, chosen before Keras is imported.

The variable KERAS_BACKEND decides, else it is TensorFlow. A `keras.json` in the home folder, left
by another program, never does: it may name a framework that is not installed, or another order of
a tensor's axes.
"""

import functools
import importlib
import os
import sys
from types import ModuleType

from deepemhancer_plugin.core.errors import InputError

BACKENDS = ("tensorflow", "jax", "torch")


def set_defaults() -> None:
    """Set the environment's variables that Keras and TensorFlow read when they are imported.

    A value that is there stays. Without oneDNN, which TensorFlow takes of itself only where there
    is AVX-512, its convolutions are slower.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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


@functools.cache
def import_keras() -> ModuleType:
    """Import Keras on the chosen framework, with the axes and the type that our networks have.

    Raises:
        InputError: KERAS_BACKEND names a framework that Keras does not run on, or a `keras.json`
            holds a value that Keras refuses.
    """
    select_backend()
    try:
        keras = importlib.import_module("keras")
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"Keras does not start: {reason}: correct or remove ~/.keras/keras.json"
        ) from error
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    return keras
