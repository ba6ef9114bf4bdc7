"""Which device a run uses, what it can do, and how much memory it has.

`-g` counts the GPUs that the process sees, which is what CUDA_VISIBLE_DEVICES shows of them. The
CUDA driver reads that variable, and nothing here changes it, so a queue's assignment holds. A GPU
asked for is used or is an error. The CPU is used when asked for, or when nobody asked and there is
no GPU; `Devices.why` says which. Frameworks are imported inside the functions.
"""

import ctypes
import functools
import importlib.metadata
import logging
import math
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepemhancer_plugin.core.backend import import_keras, import_tensorflow, select_backend
from deepemhancer_plugin.core.errors import InputError

logger = logging.getLogger(__name__)

GPU_PACKAGES = {
    "tensorflow": "tensorflow[and-cuda]",
    "jax": "jax[cuda12]",
    "torch": "torch with CUDA (pytorch.org)",
}
GIB = 1024**3
THREADS_VARIABLE = "DEEPEMHANCER_THREADS"  # of the environment: most CPU cores to use
PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}  # of CPUs that multiply bfloat16
LEAST_SPEEDUP = 1.1  # from which on bfloat16 is worth what it costs in accuracy
BFLOAT16_CAPABILITY = (8, 0)  # of GPUs with units for bfloat16
TRIAL_SHAPE = (1, 32, 32, 32, 48)  # of the network's first level in a window of 64^3
TRIAL_SECONDS = 0.4


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
        names: what Keras's backend calls the devices, such as "/GPU:0".
        numbers: of the GPUs, as `-g` counts them; empty for the CPU.
        kind: "cpu" or "gpu".
        description: the devices' own names, for the log and the report.
        why: why they were chosen, for the log.
        bfloat16: whether they multiply bfloat16; `bfloat16_is_faster` says whether that pays.
    """

    names: list[str]
    numbers: list[int]
    kind: str
    description: str
    why: str
    bfloat16: bool


_selected: Devices | None = None

# By the modules of their errors, so that none is imported to recognise them.
FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX", "jaxlib": "JAX", "torch": "PyTorch"}


def selected_devices() -> Devices | None:
    """Return the devices that this process selected last, None where it selected none yet."""
    return _selected


def framework_of(error: Exception) -> str | None:
    """Name the framework whose error this is, None where it is another's.

    PyTorch raises plain RuntimeErrors for some of its failures: "the framework" stands for those.
    """
    name = FRAMEWORKS.get(type(error).__module__.partition(".")[0])
    if name is None and isinstance(error, RuntimeError) and re.search("CUDA|cuDNN", str(error)):
        return "the framework"
    return name


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or of a framework says that some memory does not suffice."""
    if isinstance(error, MemoryError):
        return True
    return framework_of(error) is not None and bool(
        re.search("ResourceExhausted|OutOfMemory", type(error).__name__)
        or re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE)
    )


def select_devices(gpu: str | None = None) -> Devices:
    """Select the devices for `-g` and make them ready.

    GPUs that are not selected are hidden, no memory is taken ahead, and there are as many threads
    as cores.

    Args:
        gpu: "0" or "0,2": these GPUs, counted as CUDA_VISIBLE_DEVICES shows them; "all": every
            GPU; "-1" or "cpu": the CPU; None or "": every GPU, or the CPU where there is none.

    Returns:
        The selected devices.

    Raises:
        InputError: the text is none of these, or a GPU is asked for that is not there.
    """
    global _selected
    wanted = _parse(gpu)
    backend = select_backend()
    if wanted == "cpu":
        _selected = _select_cpu(backend, f"asked for with -g {gpu}")
        return _selected
    usable = _usable_gpus(backend)
    if wanted == "default" and not usable:
        _selected = _select_cpu(backend, _explain_no_gpu(backend))
        return _selected
    if wanted == "default":
        numbers = list(range(len(usable)))
        why = "the GPUs that are there; -g chooses among them, -g -1 is the CPU"
    else:
        numbers = list(range(max(1, len(usable)))) if isinstance(wanted, str) else wanted
        why = f"asked for with -g {gpu}"
    _check_gpus(gpu, numbers, len(usable), backend)
    _selected = _select_gpus(backend, usable, numbers, why)
    return _selected


def _parse(gpu: str | None) -> list[int] | str:
    """Numbers of GPUs, or "all", "cpu", "default"."""
    words = [word for word in re.split(r"[,\s]+", (gpu or "").strip().lower()) if word]
    if gpu is None or not gpu.strip():
        return "default"
    if words == ["all"]:
        return "all"
    if words in (["-1"], ["cpu"]):
        return "cpu"
    if not words or not all(re.fullmatch(r"[0-9]+", word) for word in words):
        raise InputError(
            f"-g {gpu}: expected numbers of GPUs such as 0 or 0,1; all of them: all; the CPU: -1"
        )
    return list(dict.fromkeys(map(int, words)))


def _check_gpus(gpu: str | None, numbers: list[int], count: int, backend: str) -> None:
    """Raise InputError where a GPU is not among the `count` that the framework can use."""
    missing = [number for number in numbers if number >= count]
    if not missing:
        return
    if count == 0:
        reason = _explain_no_gpu(backend)
    elif count == 1:
        reason = "visible is only 0"
    else:
        reason = f"visible are 0 to {count - 1}"
    raise InputError(
        f"-g {gpu}: there is no GPU {missing[0]}{_visible_variable(' of ')}: {reason} "
        "(-g -1 is the CPU)"
    )


def _usable_gpus(backend: str) -> list[str]:
    """Names of the GPUs that the framework can use, in its order."""
    if backend == "jax":
        import jax

        try:
            return [device.device_kind for device in jax.devices("gpu")]
        except RuntimeError:  # jax says so that it has none
            return []
    if backend == "torch":
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    tf = import_tensorflow()

    details = tf.config.experimental.get_device_details
    gpus = tf.config.list_physical_devices("GPU")
    return [details(gpu).get("device_name", gpu.name) for gpu in gpus]


def _select_gpus(backend: str, usable: list[str], numbers: list[int], why: str) -> Devices:
    """Make GPUs ready and describe them."""
    names = _prepare_gpus(backend, numbers)
    labels = [usable[number] for number in numbers]
    bfloat16 = False
    driver = _driver_gpus()
    if len(driver) == len(usable):
        labels = [driver[number].label for number in numbers]
        bfloat16 = all(driver[number].capability >= BFLOAT16_CAPABILITY for number in numbers)
    listed = ", ".join(map(str, numbers))
    description = (
        f"GPU{'s' * (len(numbers) > 1)} {listed}{_visible_variable(' of ')}: {', '.join(labels)}"
    )
    return Devices(names, numbers, "gpu", description, why, bfloat16)


def _prepare_gpus(backend: str, numbers: list[int]) -> list[str]:
    """The framework's names of the GPUs; it then uses these alone and takes no memory ahead."""
    if backend == "torch":
        return [f"cuda:{number}" for number in numbers]
    if backend == "jax":
        return [f"gpu:{number}" for number in numbers]
    tf = import_tensorflow()

    gpus = tf.config.list_physical_devices("GPU")
    try:
        tf.config.set_visible_devices([gpus[number] for number in numbers], "GPU")
        for number in numbers:
            tf.config.experimental.set_memory_growth(gpus[number], True)
    except RuntimeError:  # TensorFlow has started: all GPUs stay visible under their numbers
        return [f"/GPU:{number}" for number in numbers]
    return [f"/GPU:{place}" for place in range(len(numbers))]


def _select_cpu(backend: str, why: str) -> Devices:
    """Make the CPU ready and describe it."""
    cores = cpu_cores()
    name = _prepare_cpu(backend, cores)
    flags = _cpu_flags()
    units = ", bfloat16 matrix units" if "amx_bf16" in flags else ""
    description = f"CPU: {_cpu_name()}, {cores} core{'s' * (cores > 1)}{units}"
    return Devices([name], [], "cpu", description, why, bool(BFLOAT16_FLAGS & flags))


def _prepare_cpu(backend: str, cores: int) -> str:
    """The framework's name of the CPU, on which it then uses so many threads and no GPU."""
    if backend == "torch":
        import torch

        torch.set_num_threads(cores)
        return "cpu"
    if backend == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        return "cpu"
    tf = import_tensorflow()

    try:
        tf.config.set_visible_devices([], "GPU")
        # TensorFlow counts the cores itself, but does not know a container's quota. Where there is
        # none it is faster when it is told no number.
        if cores < _affinity():
            tf.config.threading.set_intra_op_parallelism_threads(cores)
    except RuntimeError:
        logger.info("TensorFlow had started before: it keeps its own number of threads")
    return "/CPU:0"


def _explain_no_gpu(backend: str) -> str:
    """Why the framework has no GPU: none is there, one is hidden, or it cannot use it."""
    driver = _driver_gpus()
    if driver:
        return (
            f"the NVIDIA driver shows {', '.join(gpu.label for gpu in driver)}, but this {backend} "
            f"cannot use it: {_gpu_installation(backend)}"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (hidden.strip() in ("", "-1", "NoDevFiles")):
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU"
    return f"no GPU is visible{_visible_variable(' with ')}"


def _gpu_installation(backend: str) -> str:
    """The command that installs a framework for GPUs."""
    install = f"pip install '{GPU_PACKAGES[backend]}'"
    if backend != "tensorflow":
        return install
    try:
        importlib.metadata.distribution("tensorflow-cpu")
    except importlib.metadata.PackageNotFoundError:
        return install
    return f"pip uninstall -y tensorflow-cpu && {install}"  # both own the same files


def _visible_variable(before: str) -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{before}CUDA_VISIBLE_DEVICES={value}" if value else ""


def bfloat16_is_faster(devices: Devices) -> bool:
    """Whether convolutions are at least 10 % faster in bfloat16 than in float32.

    GPUs that multiply bfloat16 are. A CPU with instructions for it is tried, once a process and in
    at most half a second (`bfloat16_speedup`).
    """
    if devices.kind == "gpu" or not devices.bfloat16:
        return devices.bfloat16
    return bfloat16_speedup(devices.names[0]) >= LEAST_SPEEDUP


@functools.cache
def bfloat16_speedup(name: str) -> float:
    """Measure how many times as fast as in float32 a convolution of the network's kind is.

    Args:
        name: a device, as Keras's backend calls it.

    Returns:
        The ratio of the shortest times of up to three tries each, the first call left out.
    """
    keras = import_keras()
    width = TRIAL_SHAPE[-1]
    shortest = {"float32": math.inf, "bfloat16": math.inf}
    with keras.device(name):
        data = {
            kind: (keras.ops.ones(TRIAL_SHAPE, kind), keras.ops.ones((3, 3, 3, width, width), kind))
            for kind in shortest
        }
        for voxels, kernel in data.values():
            _time_convolution(keras, voxels, kernel)
        end = time.perf_counter() + TRIAL_SECONDS / 2
        for _ in range(3):
            for kind, (voxels, kernel) in data.items():
                shortest[kind] = min(shortest[kind], _time_convolution(keras, voxels, kernel))
            if time.perf_counter() > end:
                break
    speedup = shortest["float32"] / shortest["bfloat16"]
    logger.info("bfloat16: %.1f times as fast as float32 on this CPU", speedup)
    return speedup


def _time_convolution(keras: Any, voxels: Any, kernel: Any) -> float:
    """Seconds that a convolution takes."""
    started = time.perf_counter()
    result = keras.ops.conv(voxels, kernel, padding="same", data_format="channels_last")
    keras.ops.convert_to_numpy(result[0, 0, 0, 0])  # waits until it is there
    return time.perf_counter() - started


@dataclass(frozen=True)
class _Gpu:
    """A GPU as the driver shows it; memory in bytes, `uuid` "" where an old driver tells none."""

    name: str
    memory: int
    capability: tuple[int, int]
    uuid: str

    @property
    def label(self) -> str:
        return f"{self.name} ({self.memory / GIB:.0f} GB)"


def _cuda() -> Any:
    """The CUDA driver's library, started; it counts what the process sees. None without a GPU."""
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
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return [_read_gpu(cuda, number) for number in range(count.value)]


def _read_gpu(cuda: Any, number: int) -> _Gpu:
    """What the driver says of the GPU with this number among the visible ones."""
    device = ctypes.c_int()
    memory = ctypes.c_size_t()
    name = ctypes.create_string_buffer(100)
    uuid = ctypes.create_string_buffer(16)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, 100, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    # The second version, of CUDA 11.4, tells parts of a GPU (MIG) apart.
    read_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or getattr(cuda, "cuDeviceGetUuid", None)
    known = read_uuid is not None and read_uuid(uuid, device) == 0
    return _Gpu(
        name.value.decode(errors="replace"),
        memory.value,
        (capability[0], capability[1]),
        uuid.raw.hex() if known else "",
    )


def identify_devices(devices: Devices) -> list[str]:
    """Name the devices so that every process on the machine gives them the same names.

    Returns:
        A name for each GPU: its UUID, or what CUDA_VISIBLE_DEVICES calls it where the driver does
        not tell; "cpu" for the CPU.
    """
    if devices.kind == "cpu":
        return ["cpu"]
    driver = _driver_gpus()
    variable = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = [word.strip() for word in variable.split(",") if word.strip()]
    names = []
    for number in devices.numbers:
        name = driver[number].uuid if number < len(driver) else ""
        if not name:
            name = visible[number] if number < len(visible) else str(number)
        names.append(f"gpu-{name}")
    return names


def free_memory(devices: Devices) -> int:
    """Return the free bytes of the device; of several GPUs, which get the same work, the fewest."""
    if devices.kind == "cpu":
        return free_host_memory()
    return min(map(free_gpu_memory, devices.numbers))


def free_gpu_memory(number: int) -> int:
    """Return the bytes that no process uses of the GPU with this number, as `-g` counts.

    Raises:
        InputError: the driver shows no such GPU, or it cannot be used.
    """
    cuda = _cuda()
    device = ctypes.c_int()
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(device), number) != 0:
        raise InputError(f"there is no GPU {number}{_visible_variable(' of ')}")
    context = ctypes.c_void_p()  # the one that the framework uses too
    if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0:
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


def cpu_cores() -> int:
    """Count the cores that this process may use.

    That is its affinity, or a container's quota, or the variable DEEPEMHANCER_THREADS.
    """
    cores = _affinity()
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked.isdecimal() and int(asked):
        cores = min(cores, int(asked))
    for words in (text.split() for text in _cgroup_files("cpu.max", "")):
        if len(words) == 2 and words[0] != "max":
            cores = min(cores, math.ceil(int(words[0]) / int(words[1])))
    return max(1, cores)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_host_memory() -> int:
    """Return the bytes that this process can still allocate.

    That is the system's available memory, or what a container or a queue leaves of it.
    """
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(PROC / "meminfo"), re.MULTILINE)
    if match:
        available = int(match[1]) * 1024
    else:
        import psutil  # macOS and Windows have no /proc

        available = int(psutil.virtual_memory().available)
    files = (
        _cgroup_files("memory.max", "memory.limit_in_bytes"),
        _cgroup_files("memory.current", "memory.usage_in_bytes"),
        _cgroup_files("memory.stat", "memory.stat"),
    )
    for limit, used, statistics in zip(*files, strict=True):
        if limit.strip().isdigit() and used.strip().isdigit():
            # The file cache is given back on demand.
            cache = re.search(r"^(?:total_)?inactive_file (\d+)", statistics, re.MULTILINE)
            left = int(limit) - int(used) + (int(cache[1]) if cache else 0)
            available = min(available, left)
    return max(0, available)


def _cgroup_files(version2: str, version1: str) -> list[str]:
    """Texts of a control file in the process's group and in all above it, whose limits all hold.

    "" stands for a missing file.
    """
    texts = []
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = CGROUP, version2
        elif controllers == "memory":
            root, name = CGROUP / "memory", version1
        else:
            continue
        if name:
            parts = [part for part in path.split("/") if part and part != ".."]
            for depth in range(len(parts), -1, -1):
                texts.append(_read(root.joinpath(*parts[:depth], name)))
    return texts


def _cpu_flags() -> set[str]:
    match = re.search(r"^(?:flags|Features)\s*:(.*)", _read(PROC / "cpuinfo"), re.MULTILINE)
    return set(match[1].split()) if match else set()


def _cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)", _read(PROC / "cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
