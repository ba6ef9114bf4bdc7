"""Devices in pretended environments; plans of tiles by their properties."""

import os
import subprocess
import sys
import types

import pytest

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.devices import (
    bfloat16_is_faster,
    cpu_cores,
    free_gpu_memory,
    free_host_memory,
    free_memory,
    identify_devices,
    select_devices,
)
from deepemhancer_plugin.core.errors import InputError

A100, T4 = ("NVIDIA A100", 40, (8, 0)), ("Tesla T4", 16, (7, 5))
CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 {}\n"


class Driver:
    """libcuda.so.1 with these (name, GB, capability), as far as it is asked."""

    def __init__(self, *gpus):
        self.gpus, self.current = gpus, None

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.gpus)

    def cuDeviceGet(self, device, number):
        device._obj.value = number
        return 0 if number < len(self.gpus) else 101

    def cuDeviceGetName(self, name, length, device):
        name.value = self.gpus[device.value][0].encode()

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = self.gpus[device.value][1] * 2**30

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.gpus[device.value][2][{75: 0, 76: 1}[attribute]]

    def cuDeviceGetUuid(self, uuid, device):
        uuid[15] = self.gpus[device.value][1]
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        context._obj.value = device.value + 1
        return 0

    def cuCtxPushCurrent_v2(self, context):
        self.current = context.value - 1

    def cuMemGetInfo_v2(self, free, total):
        free._obj.value = self.gpus[self.current][1] * 2**30 // 2

    def cuCtxPopCurrent_v2(self, context):
        self.current = None

    def cuDevicePrimaryCtxRelease_v2(self, device):
        assert self.current is None


class TensorFlow(types.ModuleType):
    """tf.config with these GPUs; records what is set. `started`: too late to set anything."""

    def __init__(self, *names, started=False):
        super().__init__("tensorflow")
        self.set = {}

        def setter(what):
            def store(*values):
                if started:
                    raise RuntimeError("Visible devices cannot be modified after being initialized")
                self.set[what, values[-1]] = values[0]

            return store

        details = types.SimpleNamespace(
            get_device_details=lambda gpu: {"device_name": gpu.name},
            set_memory_growth=lambda gpu, on: setter("growth")(on, gpu.name),
        )
        gpus = [types.SimpleNamespace(name=n) for n in names]
        self.config = types.SimpleNamespace(
            list_physical_devices=lambda kind: gpus,
            experimental=details,
            set_visible_devices=setter("visible"),
            threading=types.SimpleNamespace(set_intra_op_parallelism_threads=setter("threads")),
        )


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without GPU, 64 GB free, 8 cores of "Some CPU"; `machine(...)` sets more."""

    def pretend(driver=None, framework=None, backend="tensorflow", visible=None, flags=""):
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags))
        monkeypatch.setattr(devices, "_cuda", lambda: driver)
        monkeypatch.setattr(devices, "select_backend", lambda: backend)
        if framework is not None:
            monkeypatch.setitem(sys.modules, backend, framework)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return framework

    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text(f"MemTotal: {2**27} kB\nMemAvailable:   {2**26} kB\n")
    monkeypatch.setattr(devices, "PROC", tmp_path)
    monkeypatch.setattr(devices, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    pretend.path = tmp_path
    pretend(framework=TensorFlow())
    return pretend


def cgroup(machine, line, files):
    (machine.path / "self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        path = machine.path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_number_counts_what_the_variable_shows(machine):
    tf = machine(Driver(T4, A100), TensorFlow("Tesla T4", "NVIDIA A100"), visible="3,5")
    chosen = select_devices("1")
    assert (
        chosen.names == ["/GPU:0"]
        and chosen.numbers == [1]
        and chosen.kind == "gpu"
        and chosen.bfloat16
    )
    assert chosen.description == "GPU 1 of CUDA_VISIBLE_DEVICES=3,5: NVIDIA A100 (40 GB)"
    assert chosen.why == "asked for with -g 1"
    assert [g.name for g in tf.set["visible", "GPU"]] == ["NVIDIA A100"] and tf.set[
        "growth", "NVIDIA A100"
    ] is True
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert free_memory(chosen) == 20 * 2**30


def test_uuids_in_the_variable(machine):
    machine(Driver(A100, T4), TensorFlow("NVIDIA A100", "Tesla T4"), visible="GPU-8f2a,GPU-11aa")
    chosen = select_devices("1")
    assert (
        chosen.description == "GPU 1 of CUDA_VISIBLE_DEVICES=GPU-8f2a,GPU-11aa: Tesla T4 (16 GB)"
        and not chosen.bfloat16
    )


def test_several_gpus(machine):
    machine(Driver(A100, T4, A100), TensorFlow("NVIDIA A100", "Tesla T4", "NVIDIA A100"))
    for text in "2,0", "2 0", "2, 0,2":
        chosen = select_devices(text)
        assert chosen.names == ["/GPU:0", "/GPU:1"] and chosen.numbers == [2, 0] and chosen.bfloat16
        assert chosen.description == "GPUs 2, 0: NVIDIA A100 (40 GB), NVIDIA A100 (40 GB)"
    every = select_devices()
    assert every.numbers == [0, 1, 2] and not every.bfloat16 and "-g chooses" in every.why
    assert free_memory(every) == 8 * 2**30  # the smallest one's


def test_frameworks_that_have_started_keep_their_numbers(machine):
    machine(Driver(A100, A100), TensorFlow("NVIDIA A100", "NVIDIA A100", started=True))
    assert select_devices("1").names == ["/GPU:1"]
    assert select_devices("-1").names == ["/CPU:0"]


def test_cpu_when_asked_for(machine):
    tf = machine(Driver(A100), TensorFlow("NVIDIA A100"), flags="avx512_bf16 amx_bf16")
    chosen = select_devices("-1")
    assert chosen.names == ["/CPU:0"] and chosen.kind == "cpu" and chosen.numbers == []
    assert chosen.description == "CPU: Some CPU, 8 cores, bfloat16 matrix units" and chosen.bfloat16
    assert chosen.why == "asked for with -g -1"
    assert tf.set == {("visible", "GPU"): []}  # TensorFlow counts the cores itself
    assert free_memory(chosen) == 2**36


def test_threads_follow_a_quota_that_tensorflow_does_not_know(machine):
    tf = machine(framework=TensorFlow())
    cgroup(machine, "0::/job", {"job/cpu.max": "250000 100000"})
    assert "3 cores" in select_devices("-1").description
    assert tf.set["threads", 3] == 3


def test_cpu_when_there_is_no_gpu(machine):
    chosen = select_devices()
    assert (
        chosen.description == "CPU: Some CPU, 8 cores"
        and chosen.why == "no GPU is visible"
        and not chosen.bfloat16
    )
    machine(visible="")
    assert select_devices().why == "CUDA_VISIBLE_DEVICES='' hides every GPU"
    machine(visible="7")
    assert select_devices().why == "no GPU is visible with CUDA_VISIBLE_DEVICES=7"


def test_absent_gpu_is_an_error_that_says_what_is_there(machine):
    with pytest.raises(InputError, match="no GPU 0: no GPU is visible"):
        select_devices("0")
    machine(Driver(A100, T4), TensorFlow("NVIDIA A100", "Tesla T4"), visible="3,5")
    with pytest.raises(
        InputError, match="no GPU 3 of CUDA_VISIBLE_DEVICES=3,5: visible are 0 to 1"
    ):
        select_devices("0,3")
    machine(Driver(A100), TensorFlow("NVIDIA A100"))
    with pytest.raises(InputError, match="no GPU 1: visible is only 0"):
        select_devices("1")


@pytest.mark.parametrize(
    "backend, package", [("tensorflow", "tensorflow[and-cuda]"), ("torch", "torch with CUDA")]
)
def test_gpu_that_the_framework_cannot_use(machine, backend, package):
    torch = types.SimpleNamespace(
        cuda=types.SimpleNamespace(device_count=lambda: 0), set_num_threads=lambda n: None
    )
    machine(Driver(A100), TensorFlow() if backend == "tensorflow" else torch, backend)
    with pytest.raises(InputError, match=r"driver shows NVIDIA A100 \(40 GB\), but this") as caught:
        select_devices("0")
    assert package in str(caught.value)
    chosen = select_devices()
    assert chosen.kind == "cpu" and package in chosen.why


@pytest.mark.parametrize("text", ["gpu0", "0,-1", "-2", "1.5", "0;1", ",", "all,0", "0-1", "²"])
def test_texts_that_are_no_numbers(machine, text):
    with pytest.raises(InputError, match="expected numbers") as caught:
        select_devices(text)
    assert "\n" not in str(caught.value)


def test_every_gpu(machine):
    machine(Driver(A100, T4), TensorFlow("NVIDIA A100", "Tesla T4"))
    for text in "all", " ALL ":
        chosen = select_devices(text)
        assert chosen.numbers == [0, 1] and chosen.why == f"asked for with -g {text}"
    machine()
    machine(framework=TensorFlow())
    with pytest.raises(InputError, match="-g all: there is no GPU 0: no GPU is visible"):
        select_devices("all")


@pytest.mark.parametrize("text", ["", " "])
def test_nothing_asked_for(machine, text):
    assert select_devices(text).why == "no GPU is visible"
    machine(Driver(A100, A100), TensorFlow("NVIDIA A100", "NVIDIA A100"))
    assert select_devices(text).numbers == [0, 1]


def test_other_ways_to_write_it(machine):
    machine(Driver(A100, A100), TensorFlow("NVIDIA A100", "NVIDIA A100"))
    assert select_devices("0,").numbers == [0] and select_devices("0, 1").numbers == [0, 1]
    assert select_devices("cpu").kind == "cpu"


def test_selected_devices_are_remembered(machine):
    chosen = select_devices("-1")
    assert devices.selected_devices() is chosen


def test_names_of_devices_are_the_same_for_every_process(machine):
    gpus = TensorFlow("NVIDIA A100", "Tesla T4")
    machine(Driver(A100, T4), gpus)
    whole = identify_devices(select_devices("0,1"))
    assert whole == ["gpu-" + "00" * 15 + "28", "gpu-" + "00" * 15 + "10"]  # UUIDs
    for visible in "1", "GPU-8932f937":
        machine(Driver(T4), TensorFlow("Tesla T4"), visible=visible)
        assert identify_devices(select_devices("0")) == whole[1:]
    assert identify_devices(select_devices("-1")) == ["cpu"]


def test_names_of_devices_without_nvidias_driver(machine):
    cuda = types.SimpleNamespace(device_count=lambda: 2, get_device_name=lambda i: "Radeon")
    torch = types.SimpleNamespace(cuda=cuda)
    machine(None, torch, "torch", visible="3,GPU-abc")
    assert identify_devices(select_devices("1,0")) == ["gpu-GPU-abc", "gpu-3"]
    machine(None, torch, "torch")
    assert identify_devices(select_devices("1")) == ["gpu-1"]


def test_installation_for_the_cpu_goes_before_that_for_gpus(machine, monkeypatch):
    machine(Driver(A100), TensorFlow())
    monkeypatch.setattr(devices.importlib.metadata, "distribution", lambda name: None)
    assert "pip uninstall -y tensorflow-cpu && pip install" in select_devices().why


def test_jax(machine):
    updates = {}

    def gpus(kind):
        if not shown:
            raise RuntimeError("Unknown backend: 'gpu'")
        return [types.SimpleNamespace(device_kind=n) for n in shown]

    shown = ["NVIDIA A100", "NVIDIA A100"]
    jax = types.SimpleNamespace(
        devices=gpus, config=types.SimpleNamespace(update=updates.__setitem__)
    )
    machine(Driver(A100, A100), jax, "jax")
    assert select_devices("1").names == ["gpu:1"]
    shown.clear()
    assert select_devices().names == ["cpu"] and updates == {"jax_platforms": "cpu"}


def test_torch(machine):
    cuda = types.SimpleNamespace(device_count=lambda: 1, get_device_name=lambda i: "Radeon")
    machine(
        None, types.SimpleNamespace(cuda=cuda), "torch"
    )  # a GPU of which CUDA's driver knows nothing
    chosen = select_devices()
    assert (
        chosen.names == ["cuda:0"] and chosen.description == "GPU 0: Radeon" and not chosen.bfloat16
    )


def test_free_memory_of_an_absent_gpu(machine):
    machine(Driver(A100))
    assert free_gpu_memory(0) == 20 * 2**30
    with pytest.raises(InputError, match="no GPU 1"):
        free_gpu_memory(1)


def test_import_needs_no_framework():
    code = (
        "import sys, deepemhancer_plugin.core.devices as d; d.free_host_memory();"
        "print([m for m in ('tensorflow', 'keras', 'jax', 'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_real_tensorflow_on_the_cpu():
    """TensorFlow takes the name, and hides its GPUs."""
    code = (
        "import os; os.environ.pop('KERAS_BACKEND', None)\n"
        "from deepemhancer_plugin.core.devices import select_devices, cpu_cores\n"
        "chosen = select_devices('-1')\n"
        "import tensorflow as tf\n"
        "with tf.device(chosen.names[0]):\n"
        "    print(float(tf.reduce_sum(tf.ones(3))), tf.config.get_visible_devices('GPU'),\n"
        "          tf.config.threading.get_intra_op_parallelism_threads() in (0, cpu_cores()))"
    )
    pytest.importorskip("tensorflow")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["3.0", "[]", "True"]


@pytest.mark.parametrize(
    "flags, expected",
    [("avx2", False), ("avx512_bf16", True), ("amx_tile amx_bf16", True)],
)
def test_bfloat16_of_the_cpu(machine, flags, expected):
    machine(flags=flags)
    assert select_devices("-1").bfloat16 is expected


@pytest.mark.parametrize(("speedup", "faster"), [(1.6, True), (1.1, True), (1.0, False)])
def test_bfloat16_is_chosen_where_a_cpu_is_faster_with_it(machine, monkeypatch, speedup, faster):
    machine(flags="avx512_bf16")
    monkeypatch.setattr(devices, "bfloat16_speedup", lambda name: speedup)
    assert bfloat16_is_faster(select_devices("-1")) is faster


def test_bfloat16_is_measured_on_cpus_with_instructions_alone(machine, monkeypatch):
    def fail(name):
        raise AssertionError("measured")

    monkeypatch.setattr(devices, "bfloat16_speedup", fail)
    machine(flags="avx2")
    assert not bfloat16_is_faster(select_devices("-1"))
    machine(Driver(A100), TensorFlow("NVIDIA A100"))
    assert bfloat16_is_faster(select_devices("0"))
    machine(Driver(T4), TensorFlow("Tesla T4"))
    assert not bfloat16_is_faster(select_devices("0"))


def test_bfloat16_is_measured_on_this_machine_once_and_soon(monkeypatch, caplog):
    keras = devices.import_keras()
    calls = []
    convolve = keras.ops.conv
    monkeypatch.setattr(keras.ops, "conv", lambda *a, **k: calls.append(1) or convolve(*a, **k))
    devices.bfloat16_speedup.cache_clear()
    caplog.set_level("INFO")
    speedup = devices.bfloat16_speedup("cpu:0")
    assert f"bfloat16: {speedup:.1f} times as fast as float32 on this CPU" in caplog.messages
    assert 0 < speedup < 100 and 4 <= len(calls) <= 8
    before = len(calls)
    assert devices.bfloat16_speedup("cpu:0") == speedup and len(calls) == before


@pytest.mark.parametrize(
    "quota, expected",
    [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_cores_honour_the_quota(machine, quota, expected):
    cgroup(machine, "0::/job/step", {"job/cpu.max": quota, "job/step/cpu.max": "max 100000"})
    assert cpu_cores() == expected


def test_memory_without_limits(machine):
    assert free_host_memory() == 2**36
    cgroup(machine, "0::/", {"memory.max": "max", "memory.current": "5"})
    assert free_host_memory() == 2**36


def test_memory_limit_of_any_group_above(machine):
    gib = 2**30
    cgroup(
        machine,
        "0::/job/step",
        {
            "job/memory.max": f"{8 * gib}",
            "job/memory.current": f"{3 * gib}",
            "job/memory.stat": f"anon 7\ninactive_file {gib}\n",
            "job/step/memory.max": f"{30 * gib}",
            "job/step/memory.current": f"{2 * gib}",
            "job/step/memory.stat": "",
        },
    )
    assert free_host_memory() == 6 * gib  # the file cache is given back on demand


def test_memory_limit_of_the_older_groups(machine):
    gib = 2**30
    cgroup(
        machine,
        "7:memory:/slurm\n4:cpuset:/x",
        {
            "memory/slurm/memory.limit_in_bytes": f"{4 * gib}",
            "memory/slurm/memory.usage_in_bytes": f"{5 * gib}",
        },
    )
    assert free_host_memory() == 0


def test_memory_where_there_is_no_proc(machine, monkeypatch):
    (machine.path / "meminfo").unlink()
    memory = types.SimpleNamespace(virtual_memory=lambda: types.SimpleNamespace(available=123))
    monkeypatch.setitem(sys.modules, "psutil", memory)
    assert free_host_memory() == 123


def test_this_machine():
    assert 1 <= cpu_cores() <= os.cpu_count() and free_host_memory() > 2**20


@pytest.mark.parametrize("asked, expected", [("3", 3), ("99", 8), ("0", 8), ("", 8), ("x", 8)])
def test_cores_honour_the_variable(machine, monkeypatch, asked, expected):
    """Scipion asks a queue for so many cores; more than there are is no reason to fail."""
    monkeypatch.setenv("DEEPEMHANCER_THREADS", asked)
    assert cpu_cores() == expected
