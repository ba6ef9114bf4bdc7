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


def run_with_tensorflow(folder, source, environment=None):
    """Import a stand-in for TensorFlow through the program's way, in a process of its own."""
    (folder / "keras.py").write_text(
        "import tensorflow\nfrom unittest.mock import Mock\nconfig = Mock()"
    )
    (folder / "tensorflow.py").write_text(
        "import os, sys\nclass config:\n    list_physical_devices = staticmethod(list)\n" + source
    )
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from deepemhancer_plugin.core.backend import import_keras; import_keras()\n"
        "import os; os.write(2, b'I0000 00:00:1.5 1 later.cc:1] after the import\\n')"
    )
    kept = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | (environment or {}),
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )


NEEDLESS = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795949058.465298   13993 port.cc:153] oneDNN custom operations are on.",
    "E0000 00:00:1795949058.465298   139 cuda_dnn.cc:8579] Unable to register cuDNN factory: ...",
)
TOLD = (
    "E0000 00:00:1795949058.465298   13993 cuda_dnn.cc:522] Loaded runtime CuDNN library: 9.1.0",
    "W0000 00:00:1795949058.465298   13993 gpu_device.cc:2431] TensorFlow was not built with ...",
    "F0000 00:00:1795949058.465298   13993 cpu_feature_guard.cc:164] compiled to use AVX",
    "Illegal instruction",
)


def test_lines_of_the_start_are_left_out_and_all_others_get_through(tmp_path):
    lines = "\n".join(NEEDLESS + TOLD)
    done = run_with_tensorflow(
        tmp_path, f"os.write(2, {lines!r}.encode() + b'\\n\\xff')\nprint('warned', file=sys.stderr)"
    )
    last = ["\udcffwarned", "I0000 00:00:1.5 1 later.cc:1] after the import"]
    assert done.stderr.splitlines() == [*TOLD, *last]


def test_last_words_of_a_crash_get_through(tmp_path):
    lines = "\n".join((*NEEDLESS, TOLD[2]))
    done = run_with_tensorflow(tmp_path, f"os.write(2, {lines!r}.encode()); os.abort()")
    assert done.returncode < 0 and done.stderr == TOLD[2]


def test_error_of_an_import_gets_through(tmp_path):
    done = run_with_tensorflow(tmp_path, "raise ImportError('libcudart.so.12: cannot open')")
    assert done.returncode == 1 and done.stderr.endswith("libcudart.so.12: cannot open\n")


def test_every_line_where_the_user_asks_for_them(tmp_path):
    lines = "\n".join(NEEDLESS)
    done = run_with_tensorflow(
        tmp_path, f"os.write(2, {lines!r}.encode() + b'\\n')", {"TF_CPP_MIN_LOG_LEVEL": "0"}
    )
    assert done.stderr.splitlines()[:-1] == list(NEEDLESS)


def test_closed_standard_error(tmp_path):
    run_with_tensorflow(tmp_path, "")  # leaves the stand-in
    code = (
        f"import os, sys; os.close(2); sys.path.insert(0, {str(tmp_path)!r})\n"
        "from deepemhancer_plugin.core.backend import import_keras; import_keras()\n"
        "print('imported')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout == b"imported\n"
    )


def test_real_tensorflow_starts_in_silence():
    pytest.importorskip("tensorflow")
    code = "from deepemhancer_plugin.core.devices import select_devices; select_devices('-1')"
    kept = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
