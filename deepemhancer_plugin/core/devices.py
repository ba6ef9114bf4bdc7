"""Which device a run uses, what it can do, and how much memory it has.

`-g` counts the GPUs that the process sees, which is what CUDA_VISIBLE_DEVICES shows of them; the variable itself is read by the
CUDA driver and never changed here, so a queue's assignment holds. A GPU asked for is used or is an error; the CPU is used when
asked for, or when nobody asked and there is no GPU, and `Devices.why` says which. The framework is imported inside the functions.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepemhancer_plugin.core.errors import InputError

_PACKAGES = {
    "tensorflow": "tensorflow[and-cuda]",
    "jax": "jax[cuda12]",
    "torch": "torch with CUDA (pytorch.org)",
}
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_GIB = 1024**3


@dataclass(frozen=True)
class Devices:
    """What a run computes on: `names` as Keras's backend calls them ("/GPU:0"), and two texts for the log and the report."""

    names: list[str]
    numbers: list[int]  # of the GPUs, as `-g` counts them; empty for the CPU
    kind: str  # "cpu" | "gpu"
    description: str
    why: str
    bfloat16: bool  # in hardware, faster than float32


# --------------------------------------------------------------------------------------------------------------------- selection


def select_devices(gpu: str | None = None) -> Devices:
    """The devices for `-g`, ready to be used: unselected GPUs hidden, no memory grabbed ahead, threads as many as cores.

    Args:
        gpu: "0", "0,2": GPUs, counted as CUDA_VISIBLE_DEVICES shows them; "-1": the CPU; None: all GPUs there are, else the CPU.

    Raises:
        InputError: the text is no list of numbers, or a GPU is asked for that is not there (says what is).
    """
    wanted = _parse(gpu)
    backend = _backend()
    if wanted == [-1]:
        return _cpu(backend, "asked for with -g -1")
    usable = _usable_gpus(backend)
    if wanted is None and not usable:
        return _cpu(backend, _why_no_gpu(backend))
    if wanted is None:
        chosen, why = (
            list(range(len(usable))),
            "the GPUs that are there; -g chooses among them, -g -1 is the CPU",
        )
    else:
        chosen, why = wanted, f"asked for with -g {gpu}"
    missing = [i for i in chosen if i >= len(usable)]
    if missing:
        last = len(usable) - 1
        there = (
            _why_no_gpu(backend)
            if last < 0
            else "visible is only 0"
            if last == 0
            else f"visible are 0 to {last}"
        )
        raise InputError(
            f"-g {gpu}: there is no GPU {missing[0]}{_visible_variable(' of ')}: {there} (-g -1 is the CPU)"
        )
    names = _take_gpus(backend, usable, chosen)
    driver = _driver_gpus()
    labels = [driver[i].label if len(driver) == len(usable) else usable[i] for i in chosen]
    capable = len(driver) == len(usable) and all(driver[i].capability >= (8, 0) for i in chosen)
    numbers = ", ".join(map(str, chosen))
    description = (
        f"GPU{'s' * (len(chosen) > 1)} {numbers}{_visible_variable(' of ')}: {', '.join(labels)}"
    )
    return Devices(names, chosen, "gpu", description, why, capable)


def _parse(gpu: str | None) -> list[int] | None:
    if gpu is None:
        return None
    words = re.split(r"[,\s]+", gpu.strip())
    if not all(re.fullmatch(r"-?\d+", w) for w in words) or (
        min(map(int, words)) < 0 and words != ["-1"]
    ):
        raise InputError(f"-g {gpu}: expected numbers of GPUs such as 0 or 0,1, or -1 for the CPU")
    return list(dict.fromkeys(int(w) for w in words))


def _backend() -> str:
    """Keras's backend, without importing it: once imported, its own answer, else what it will read."""
    keras = sys.modules.get("keras")
    return (
        keras.config.backend()
        if keras is not None
        else os.environ.get("KERAS_BACKEND") or "tensorflow"
    )


def _usable_gpus(backend: str) -> list[str]:
    """Names of the GPUs that the framework can use, in its order."""
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return [
            tf.config.experimental.get_device_details(g).get("device_name", g.name) for g in gpus
        ]
    if backend == "jax":
        import jax

        try:
            return [d.device_kind for d in jax.devices("gpu")]
        except RuntimeError:  # jax's way of saying none
            return []
    if backend == "torch":
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    raise InputError(f"KERAS_BACKEND={backend}: expected tensorflow, jax or torch")


def _take_gpus(backend: str, usable: list[str], chosen: list[int]) -> list[str]:
    if backend == "torch":
        return [f"cuda:{i}" for i in chosen]
    if backend == "jax":
        return [f"gpu:{i}" for i in chosen]
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    try:
        tf.config.set_visible_devices([gpus[i] for i in chosen], "GPU")
        for i in chosen:
            tf.config.experimental.set_memory_growth(gpus[i], True)
    except (
        RuntimeError
    ):  # TensorFlow has started already: all GPUs stay visible under their numbers
        return [f"/GPU:{i}" for i in chosen]
    return [f"/GPU:{i}" for i in range(len(chosen))]


def _cpu(backend: str, why: str) -> Devices:
    cores = cpu_cores()
    name = "cpu"
    if backend == "tensorflow":
        import tensorflow as tf

        name = "/CPU:0"
        try:
            tf.config.set_visible_devices([], "GPU")
            # TensorFlow counts the cores itself, all but a cgroup's quota; told their number, it is 1.7 times slower (on two cores).
            if cores < _affinity():
                tf.config.threading.set_intra_op_parallelism_threads(cores)
        except RuntimeError:
            pass  # it has started already, with its own number of threads
    elif backend == "torch":
        import torch

        torch.set_num_threads(cores)
    elif backend == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
    else:
        raise InputError(f"KERAS_BACKEND={backend}: expected tensorflow, jax or torch")
    unit = ", bfloat16 matrix units" if cpu_has_bfloat16() else ""
    return Devices(
        [name],
        [],
        "cpu",
        f"CPU: {_cpu_name()}, {cores} core{'s' * (cores > 1)}{unit}",
        why,
        cpu_has_bfloat16(),
    )


def _why_no_gpu(backend: str) -> str:
    """Why the framework has no GPU: none there, hidden by the environment, or an installation that cannot use them."""
    driver = _driver_gpus()
    if driver:
        return (
            f"the NVIDIA driver shows {', '.join(g.label for g in driver)}, but this {backend} cannot use it: "
            f"pip install '{_PACKAGES[backend]}'"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (hidden.strip() in ("", "-1", "NoDevFiles")):
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU"
    return f"no GPU is visible{_visible_variable(' with ')}"


def _visible_variable(before: str) -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{before}CUDA_VISIBLE_DEVICES={value}" if value else ""


# -------------------------------------------------------------------------------------------------------------------- GPU driver


@dataclass(frozen=True)
class _Gpu:
    name: str
    memory: int  # bytes
    capability: tuple[int, int]

    @property
    def label(self) -> str:
        return f"{self.name} ({self.memory / _GIB:.0f} GB)"


def _cuda() -> Any:
    """The CUDA driver's library, started; None without driver or GPU. Asked directly, it counts exactly what the process sees."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    return library if library.cuInit(0) == 0 else None


def _driver_gpus() -> list[_Gpu]:
    """The NVIDIA GPUs that the process sees, whatever the framework makes of them."""
    cuda = _cuda()
    if cuda is None:
        return []
    count, gpus = ctypes.c_int(), []
    cuda.cuDeviceGetCount(ctypes.byref(count))
    for number in range(count.value):
        device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(100)
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), number)
        cuda.cuDeviceGetName(name, 100, device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        cuda.cuDeviceGetAttribute(
            ctypes.byref(major), 75, device
        )  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        gpus.append(
            _Gpu(name.value.decode(errors="replace"), memory.value, (major.value, minor.value))
        )
    return gpus


def free_memory(devices: Devices) -> int:
    """Free bytes of the selected device; of several GPUs, of the one with least, as each gets the same tiles."""
    return (
        min(map(free_gpu_memory, devices.numbers)) if devices.kind == "gpu" else free_host_memory()
    )


def free_gpu_memory(number: int) -> int:
    """Free bytes of the GPU with this number among the visible ones (what `-g` counts), other processes' use taken off.

    Raises:
        InputError: the driver shows no such GPU.
    """
    cuda = _cuda()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(device), number) != 0:
        raise InputError(f"there is no GPU {number}{_visible_variable(' of ')}")
    if (
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0
    ):  # the one context that the framework uses as well
        raise InputError(
            f"GPU {number} cannot be used: it is full, or set to another process's exclusive use"
        )
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.cuCtxPushCurrent_v2(context)
    try:
        cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    finally:
        cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
        cuda.cuDevicePrimaryCtxRelease_v2(device)
    return free.value


# -------------------------------------------------------------------------------------------------------------------------- host


def cpu_cores() -> int:
    """Cores that this process may use: its affinity, and a container's or a queue's CPU quota (rounded up)."""
    quotas = []
    for words in (text.split() for text in _cgroup_files("cpu.max", "")):
        if len(words) == 2 and words[0] != "max":
            quotas.append(math.ceil(int(words[0]) / int(words[1])))
    return max(1, min([_affinity(), *quotas]))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 faster than float32: with AMX. With AVX-512 BF16 alone the networks take 1.5
    times as long on an Intel Xeon, three quarters on Zen 5, where a training step takes the same (docs/benchmarks.md)."""
    return "amx_bf16" in _cpu_flags()


def cpu_has_avx2() -> bool:
    """Whether the CPU has vectors of eight float32 and multiplies and adds them at once."""
    return {"avx2", "fma"} <= _cpu_flags()


def cpu_identity() -> str:
    """What a program that is compiled for this CPU depends on."""
    return f"{_cpu_name()} {' '.join(sorted(_cpu_flags()))}"


def free_host_memory() -> int:
    """Bytes that this process can still allocate: the system's available memory, or what a container or a queue leaves of it."""
    meminfo = _read(_PROC / "meminfo")
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if match:
        available = int(match[1]) * 1024
    else:
        import psutil  # no /proc: macOS, Windows

        available = int(psutil.virtual_memory().available)
    for limit, used, stat in zip(
        *(
            _cgroup_files(f"memory.{new}", f"memory.{old}")
            for new, old in (
                ("max", "limit_in_bytes"),
                ("current", "usage_in_bytes"),
                ("stat", "stat"),
            )
        ),
        strict=True,
    ):
        if limit.strip().isdigit() and used.strip().isdigit():
            cache = re.search(
                r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE
            )  # given back on demand
            available = min(available, int(limit) - int(used) + (int(cache[1]) if cache else 0))
    return max(0, available)


def _cgroup_files(version2: str, version1: str) -> list[str]:
    """Texts of a control file in the process's group and in all above it, as all their limits hold; "" where one is missing."""
    texts = []
    for line in _read(_PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (_CGROUP, version2) if not controllers else (_CGROUP / "memory", version1)
        if name:
            parts = [p for p in path.split("/") if p and p != ".."]
            texts += [
                _read(root.joinpath(*parts[:depth], name)) for depth in range(len(parts), -1, -1)
            ]
    return texts


def _cpu_flags() -> set[str]:
    match = re.search(r"^(?:flags|Features)\s*:(.*)", _read(_PROC / "cpuinfo"), re.MULTILINE)
    return set(match[1].split()) if match else set()


def _cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)", _read(_PROC / "cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
