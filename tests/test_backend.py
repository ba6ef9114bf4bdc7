"""The framework is the one that KERAS_BACKEND names, whatever a keras.json says."""

import json
import os
import subprocess
import sys

import pytest

from deepemhancer_plugin.core import backend
from deepemhancer_plugin.core.errors import InputError


@pytest.fixture
def without_keras(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)


def test_variable_decides(without_keras, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backend.select_backend() == "jax"


@pytest.mark.parametrize("value", [None, ""])
def test_tensorflow_is_the_default_and_keras_is_told(without_keras, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("KERAS_BACKEND", value)
    assert backend.select_backend() == "tensorflow"
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_unknown_framework(without_keras, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(InputError, match="KERAS_BACKEND=theano: expected tensorflow, jax or torch"):
        backend.select_backend()


def run_with_settings(folder, code, **settings):
    """Run code in a process of its own whose keras.json holds these settings."""
    (folder / "keras.json").write_text(json.dumps(settings))
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"KERAS_HOME": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "theano", "floatx": "float16"},
        {"backend": "tensorflow", "image_data_format": "channels_first"},
    ],
)
def test_settings_left_by_another_program_change_nothing(tmp_path, settings):
    code = (
        "from deepemhancer_plugin.core.devices import select_devices; print(select_devices('-1'))\n"
        "from deepemhancer_plugin.core.backend import import_keras; k = import_keras().config\n"
        "print(k.backend(), k.image_data_format(), k.floatx(), k.dtype_policy().name)"
    )
    done = run_with_settings(tmp_path, code, **settings)
    last = done.stdout.splitlines()[-1:]
    assert last == ["tensorflow channels_last float32 float32"], done.stderr


def test_settings_that_keras_refuses_are_told_in_one_line(tmp_path):
    code = "from deepemhancer_plugin.core.backend import import_keras; import_keras()"
    message = run_with_settings(tmp_path, code, floatx="bfloat16").stderr.splitlines()[-1]
    assert "InputError" in message and "keras.json" in message and "floatx" in message
