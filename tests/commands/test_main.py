"""The program: commands are found, every error is one line and an exit status."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.commands import enhance
from deepemhancer_plugin.core.commands.main import COMMANDS, describe_error, main
from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.weights.embedded import EmbeddedModel

PROGRAM = [sys.executable, "-m", "deepemhancer_plugin.core"]
GPU = Devices(["/GPU:0"], [0], "gpu", "GPU 0: NVIDIA A100 (40 GB)", "", True)
CPU = Devices(["/CPU:0"], [], "cpu", "CPU: Some CPU, 8 cores", "", False)


@pytest.fixture(scope="module")
def noisy_map(tmp_path_factory):
    """A map of 32^3 voxels, a cube of density in noise."""
    data = np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)
    data[12:20, 12:20, 12:20] += 5
    path = tmp_path_factory.mktemp("maps") / "map.mrc"
    mrc.write_map(path, data, mrc.new_map(data, 1.2))
    return str(path)


def raising(error):
    def run(_arguments):
        raise error

    return run


def message_of(error, capsys, monkeypatch):
    """What the program says of an error: its exit status and its one line."""
    monkeypatch.setattr(enhance, "main", raising(error))
    status = main(["-i", "a.mrc", "-o", "o.mrc"])
    text = capsys.readouterr().err
    assert text.startswith("deepemhancer: error: ") and text.count("\n") == 1
    return status, text


def test_every_command_is_there(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"deepemhancer {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["-i", "a.mrc"],
        ["-o", "b.mrc"],
        ["--nonsense"],
        ["nonsense"],
        ["-i", "a", "-o", "b", "-p", "none"],
        ["-i", "a", "-o", "b", "--noise", "classic", "--noiseStats", "0", "1"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_leave_nothing(noisy_map, tmp_path, number, status):
    """The signal comes while the network computes."""
    code = (
        "import sys, time, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from deepemhancer_plugin.core.commands.main import main\n"
        "from deepemhancer_plugin.core.enhancement import windows\n"
        "def slow(*a, **k):\n    print('computing', flush=True); time.sleep(60)\n"
        "windows.enhance_windows = slow\nsys.exit(main(sys.argv[1:]))"
    )
    output = str(tmp_path / "out.mrc")
    process = subprocess.Popen(
        [sys.executable, "-c", code, "-i", noisy_map, "-o", output, "-g", "-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "computing" in line:
            break
    process.send_signal(number)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 20
    assert process.returncode == status
    assert "nothing was written" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("tensorflow", ["-i", "MAP", "-o", "out.mrc", "-g", "-1"]),
        ("gemmi", ["fine-tune", "--help"]),
    ],
)
def test_an_environment_that_lacks_a_package_is_told_in_one_line(
    noisy_map, tmp_path, package, arguments
):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from deepemhancer_plugin.core.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(noisy_map if a == "MAP" else a for a in arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{sys.prefix} lacks the Python package {package}" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_another_programs_libraries_are_told_in_one_line(noisy_map, tmp_path):
    (tmp_path / "libstdc++.so.6").write_text("no library")
    done = subprocess.run(
        [*PROGRAM, "-i", noisy_map, "-o", str(tmp_path / "out.mrc"), "-g", "-1"],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("deepemhancer: error: a library of ") and "libstdc++.so.6" in line
    assert f"LD_LIBRARY_PATH={tmp_path}" in line


def test_the_reason_of_a_failed_import_is_found_under_advice(monkeypatch):
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    try:
        try:
            raise ImportError("libcudart.so.13: cannot open", name="h5py._errors", path="/x/e.so")
        except ImportError as error:
            raise ImportError("\n\nIMPORTANT: PLEASE READ THIS FOR ADVICE\n") from error
    except ImportError as error:
        text = describe_error(error)
    assert text is not None and "(libcudart.so.13: cannot open)" in text and "\n" not in text
    assert describe_error(ImportError("x", name="deepemhancer_plugin.core.y")) is None


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from deepemhancer_plugin.core.commands.main import main\n"
        "try:\n    main(['-h'])\nexcept SystemExit:\n    pass\n"
        "heavy = ('tensorflow', 'keras', 'numpy', 'scipy', 'h5py', 'gemmi', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"


class InternalError(Exception):
    """An error of TensorFlow, as far as the program looks at it."""

    __module__ = "tensorflow.python.framework.errors_impl"


class ResourceExhaustedError(InternalError):
    pass


class InvalidArgumentError(InternalError):
    pass


for kind in (ResourceExhaustedError, InvalidArgumentError):
    kind.__module__ = InternalError.__module__


@pytest.mark.parametrize(("device", "words"), [(None, "the GPU"), (GPU, GPU.description)])
def test_gpu_that_fails(device, words, capsys, monkeypatch):
    monkeypatch.setattr(devices, "_selected", device)
    error = InternalError("'cuLaunchKernel(...)' failed with 'CUDA_ERROR_INVALID_HANDLE'\nmore")
    status, text = message_of(error, capsys, monkeypatch)
    assert status == 1 and f"error: {words}: TensorFlow fails on it (InternalError: " in text
    assert "CUDA_ERROR_INVALID_HANDLE" in text and "-g -1" in text and "more" not in text


def test_gpu_whose_memory_is_taken(capsys, monkeypatch):
    monkeypatch.setattr(devices, "_selected", GPU)
    _, text = message_of(ResourceExhaustedError("OOM when allocating"), capsys, monkeypatch)
    assert GPU.description in text and "memory does not suffice" in text and "-b 1" in text


@pytest.fixture
def network_on_gpu(monkeypatch):
    """A function that puts a network in the place of the real one, on a GPU that is none."""

    def put(predict):
        def select(_gpu=None):
            devices._selected = GPU
            return GPU

        monkeypatch.setattr(devices, "_selected", None)
        monkeypatch.setattr("deepemhancer_plugin.core.enhancement.enhance.select_devices", select)
        monkeypatch.setattr(devices, "free_memory", lambda _devices: 100 << 30)
        monkeypatch.setattr(EmbeddedModel, "predictor", lambda *_args: predict)

    return put


@pytest.mark.parametrize("gpu", [[], ["-g", "0"]])
def test_whole_command_on_a_gpu_whose_first_kernel_fails(
    gpu, noisy_map, network_on_gpu, tmp_path, capsys
):
    """The device never changes in silence: the user is told how to take the CPU."""

    def fail(_windows):
        raise InternalError("'cuLaunchKernel(function)' failed with 'CUDA_ERROR_INVALID_PTX'")

    network_on_gpu(fail)
    assert main(["-i", noisy_map, "-o", str(tmp_path / "out.mrc"), *gpu]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"deepemhancer: error: {GPU.description}: ")
    assert "CUDA_ERROR_INVALID_PTX" in lines[0] and "-g -1" in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("fitting", "status"), [(1, 0), (0, 1)])
def test_whole_command_on_a_gpu_whose_memory_is_taken(
    fitting, status, noisy_map, network_on_gpu, tmp_path, capsys
):
    """On a box of 77 A: eight windows, all of them at a time, then fewer."""
    large = str(tmp_path / "large.mrc")
    data = np.pad(mrc.read_map(noisy_map).data, 16, mode="wrap")
    mrc.write_map(large, data, mrc.new_map(data, 1.2))

    def predict(windows):
        if len(windows) > fitting:
            raise ResourceExhaustedError("OOM when allocating tensor")
        return windows[..., 0]

    network_on_gpu(predict)
    output = tmp_path / "out.mrc"
    assert main(["-i", large, "-o", str(output), "-b", "4"]) == status
    printed = capsys.readouterr()
    assert "memory does not suffice for 4 windows at a time: 2" in printed.out
    assert output.exists() == (status == 0)
    if status:
        lines = printed.err.splitlines()
        assert len(lines) == 1 and "its memory does not suffice" in lines[0] and "-g -1" in lines[0]


def test_memory_of_the_cpu(capsys, monkeypatch):
    monkeypatch.setattr(devices, "_selected", CPU)
    for error in ResourceExhaustedError("OOM"), MemoryError():
        _, text = message_of(error, capsys, monkeypatch)
        assert "the memory does not suffice" in text and "-g -1" not in text


def test_errors_of_gpus_by_other_names(monkeypatch):
    monkeypatch.setattr(devices, "_selected", GPU)
    for error in (
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        InvalidArgumentError("Failed to load in-memory CUBIN: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        type("JaxRuntimeError", (RuntimeError,), {"__module__": "jaxlib._jax"})("INTERNAL: failed"),
    ):
        text = describe_error(error)
        assert text is not None and "fails on it" in text


def test_defects_stay_tracebacks(monkeypatch):
    monkeypatch.setattr(devices, "_selected", CPU)
    defects = (InternalError("x"), InvalidArgumentError("shape"), RuntimeError("x"), KeyError("x"))
    for defect in defects:
        monkeypatch.setattr(enhance, "main", raising(defect))
        with pytest.raises(type(defect)):
            main(["-i", "a.mrc", "-o", "o.mrc"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("a.mrc: no such file"), "error: a.mrc: no such file\n"),
        (OSError(28, "No space left on device", "o.json"), "o.json: No space left on device"),
        (OSError("odd\nlines"), "error: odd\n"),
    ],
)
def test_errors_of_input_and_system(error, words, capsys, monkeypatch):
    status, text = message_of(error, capsys, monkeypatch)
    assert status == 1 and words in text


def test_reader_that_goes_away(noisy_map, tmp_path):
    """As in `deepemhancer ... | head -1`."""
    command = [*PROGRAM, "-i", noisy_map, "-o", str(tmp_path / "o.mrc"), "-g", "-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Broken pipe" in err and "Traceback" not in err and "ignored" not in err


@pytest.mark.parametrize(
    ("name", "encoding"), [(b"caf\xe9.mrc", "utf-8:strict"), ("Ångström_µ.mrc".encode(), "ascii")]
)
def test_names_that_the_terminal_cannot_show(noisy_map, tmp_path, name, encoding):
    odd = os.path.join(os.fsencode(tmp_path), name)
    with open(noisy_map, "rb") as source, open(odd, "wb") as target:
        target.write(source.read())
    done = subprocess.run(
        [*PROGRAM, "-i", odd, "-o", tmp_path / "o.mrc", "-g", "-1"],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert b"\\udce9" in done.stdout or b"\\xc5" in done.stdout


def test_settings_of_keras_left_by_another_program(noisy_map, tmp_path):
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "backend": "theano", "image_data_format": "channels_first"}'
    )
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [*PROGRAM, "-i", noisy_map, "-o", str(tmp_path / "o.mrc"), "-g", "-1"],
        env=environment | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
