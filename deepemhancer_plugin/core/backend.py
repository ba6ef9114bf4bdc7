"""The framework that Keras runs on, chosen before Keras is imported.

The variable KERAS_BACKEND decides, else it is TensorFlow. A `keras.json` in the home folder, left
by another program, never does: it may name a framework that is not installed, or another order of
a tensor's axes.
"""

import os
import sys
from types import ModuleType

from deepemhancer_plugin.core.errors import InputError

BACKENDS = ("tensorflow", "jax", "torch")


def select_backend() -> str:
    """Choose the framework and set KERAS_BACKEND, so that Keras makes the same choice.

    Returns:
        "tensorflow", "jax" or "torch"; that of Keras where it is imported already.

    Raises:
        InputError: KERAS_BACKEND names another framework.
    """
    keras = sys.modules.get("keras")
    if keras is not None:
        backend = str(keras.config.backend())
    else:
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND={backend}: expected {', '.join(BACKENDS[:-1])} or torch")
    if keras is None:
        os.environ["KERAS_BACKEND"] = backend
    return backend


def import_keras() -> ModuleType:
    """Import Keras on the chosen framework, with the axes and the type that our networks have.

    Raises:
        InputError: KERAS_BACKEND names a framework that Keras does not run on.
    """
    select_backend()
    first = "keras" not in sys.modules
    import keras

    if first:  # else the settings are those of the program that imported it
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
    return keras
