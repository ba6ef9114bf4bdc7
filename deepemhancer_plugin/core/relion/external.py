"""One star file -> one map: RELION's own reconstruction, enhanced before it gets its name.

The method is that of Ramirez-Aportela et al. 2022 (IUCrJ 9, 632): the enhanced map, with the
maximum of the reconstruction, takes its place as the reference of its own half.

RELION accepts whatever lies under the result's name when the program ends with status 0, even
zeros. So nothing but a checked map ever lies there: the reconstruction is renamed at once, and the
result is moved in place when it is complete. The other half is never looked at.
"""

import errno
import fcntl
import glob
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.maps.filters import low_pass
from deepemhancer_plugin.core.relion.star import Job

# Takes voxels (z, y, x) and the sampling rate in A/voxel; returns enhanced voxels and a report.
Enhancer = Callable[[np.ndarray, float], tuple[np.ndarray, dict[str, Any]]]

# Of the enhanced map with the reconstruction. Under it the network has taken much of a noisy map
# for noise, and particles would be aligned to what is left.
LEAST_CORRELATION = 0.8
COMPARED_FREQUENCIES = (1 / 30, 1 / 15)  # 1/A: the low-pass before that comparison, about 20 A

OUTPUT_LENGTH = 300  # characters of a failed program's output that an error holds
LOCK_SECONDS = 3600.0  # to wait for a device: an enhancement takes minutes, and a stuck one forever
LOCK_INTERVAL = 0.2


def decide_enhancement(job: Job, gate: int) -> tuple[bool, str]:
    """Decide whether the map is to be enhanced.

    Args:
        job: from `star.read_job`.
        gate: the healpix order from which on halves are enhanced.

    Returns:
        Whether it is, and why.
    """
    if job.order is None:
        return False, "no 3D half map of a split refinement: left to RELION"
    if job.order < gate:
        return False, f"healpix order {job.order} is under {gate}: left to RELION"
    return True, f"healpix order {job.order}, from {gate} on enhanced"


def external_reconstruct(job: Job, program: str, enhancer: Enhancer | None) -> dict[str, Any]:
    """Make the map that RELION asks for.

    Args:
        job: from `star.read_job`.
        program: RELION's own reconstruction, called with the star file.
        enhancer: None where the map is left to RELION. So is one that the enhancer changes too
            much at 20 A: the report then says that "enhanced" is False, and why.

    Returns:
        A report of JSON values.

    Raises:
        InputError: the program is missing or fails; its map or the enhanced one cannot serve as a
            reference. Nothing is left under the result's name then.
    """
    folder, base = os.path.split(job.result)
    plain = os.path.join(folder, f".{base}.plain.part")
    leftovers = os.path.join(glob.escape(folder), f".{glob.escape(base)}.*.part")
    _remove(job.result, job.result_star, *glob.glob(leftovers))  # of an earlier try
    started = time.perf_counter()
    try:
        _reconstruct(job, program)
        report = {"seconds_reconstruct": round(time.perf_counter() - started, 2)}
        if enhancer is None or job.rate is None:
            return report
        os.rename(job.result, plain)
        # RELION leaves the voxel size out of the header.
        reconstruction = mrc.read_map(plain, job.rate).data
        check_reference(reconstruction, job.box, f"the map of {program}")
        enhanced, details = enhancer(reconstruction, job.rate)
        enhanced, correlation = _rescale(enhanced, reconstruction, job)
        report |= {"maximum": float(reconstruction.max()), "correlation": correlation} | details
        if not correlation >= LEAST_CORRELATION:  # nor where it is no number
            os.rename(plain, job.result)
            why = (
                f"the enhanced map correlates with it at 20 A by {correlation:g} alone, "
                f"{LEAST_CORRELATION:g} is asked for: left to RELION"
            )
            return report | {"enhanced": False, "why": why}
        like = mrc.new_map(enhanced, job.rate)
        mrc.write_map(job.result, enhanced, like, ["enhanced by deepemhancer"])
        return report
    except BaseException:
        _remove(job.result, job.result_star)
        raise
    finally:
        _remove(plain)


def _rescale(
    enhanced: np.ndarray, reconstruction: np.ndarray, job: Job
) -> tuple[np.ndarray, float]:
    """Give the enhanced map the reconstruction's maximum; returns it and their correlation.

    An empty map stays as it is, with a correlation of 0.
    """
    if not enhanced.any():
        return enhanced, 0.0
    check_reference(enhanced, job.box, "the enhanced map")
    with np.errstate(all="ignore"):  # the next check sees what comes of it
        enhanced = enhanced * np.float32(float(reconstruction.max()) / float(enhanced.max()))
    check_reference(enhanced, job.box, "the enhanced map, rescaled,")
    return enhanced, round(correlate_coarsely(enhanced, reconstruction, job.rate or 0.0), 3)


def correlate_coarsely(first: np.ndarray, second: np.ndarray, rate: float) -> float:
    """Correlate two maps (z, y, x) of `rate` A/voxel, low-passed at about 20 A."""
    start, end = COMPARED_FREQUENCIES
    one, other = (low_pass(volume, rate, start, end).ravel() for volume in (first, second))
    return float(np.corrcoef(one, other)[0, 1])


def check_reference(data: np.ndarray, box: int, what: str) -> None:
    """Check that voxels (z, y, x) can be a reference.

    Args:
        data: the voxels.
        box: the edge in voxels that RELION asked for.
        what: the map's name in the error.

    Raises:
        InputError: another box, a voxel that is not finite, all the same, or nothing above zero.
    """
    if data.shape != (box,) * 3:
        shape = " x ".join(map(str, data.shape))
        raise InputError(f"{what} has a box of {shape} voxels, and RELION asked for {box}^3")
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = np.count_nonzero(~np.isfinite(data))
        raise InputError(f"{what} holds {bad} voxels that are NaN or infinite")
    if low == high:
        raise InputError(f"{what} is {low:g} everywhere: no reference for RELION")
    if high <= 0:
        raise InputError(f"{what} is nowhere above zero (its maximum is {high:g})")


def _reconstruct(job: Job, program: str) -> None:
    """Run RELION's own reconstruction, which writes the result."""
    environment = dict(os.environ)
    # Scipion's hook takes RELION's libraries out of the variable, for Keras's sake.
    if "RELION_LD_LIBRARY_PATH" in environment:
        environment["LD_LIBRARY_PATH"] = environment["RELION_LD_LIBRARY_PATH"]
    try:
        done = subprocess.run(
            [program, job.star],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise InputError(
            f"{program}: cannot be started ({error.strerror}); RELION's is needed, see "
            "DEEPEMHANCER_RELION_RECONSTRUCT"
        ) from error
    if done.returncode:
        words = join_last_lines(done.stdout)
        raise InputError(f"{program} {job.star} ended with status {done.returncode}: {words}")
    if not os.path.isfile(job.result):
        raise InputError(f"{program} {job.star} ended well and did not write {job.result}")


def join_last_lines(text: str) -> str:
    """Join the last lines of what a program printed, for an error of one line."""
    lines = (line.strip() for line in text.splitlines())
    return " | ".join(line for line in lines if line)[-OUTPUT_LENGTH:] or "it said nothing"


def _remove(*paths: str | None) -> None:
    for path in paths:
        if path:
            with suppress(FileNotFoundError):
                os.unlink(path)


def name_locks(devices: Sequence[str]) -> list[str]:
    """Name the lock files of devices, one each, in the system's temporary folder.

    Args:
        devices: the names from `devices.identify_devices`, the same in every process; any text.

    Returns:
        The paths, sorted, so that two processes cannot wait for each other.
    """
    folder = tempfile.gettempdir()
    names = sorted({re.sub(r"[^\w.-]", "_", device) for device in devices})
    return [os.path.join(folder, f"deepemhancer-{name}.lock") for name in names]


@contextmanager
def hold_locks(
    paths: Sequence[str], warn: Callable[[str], None], seconds: float = LOCK_SECONDS
) -> Iterator[None]:
    """Hold locks, so that one enhancement at a time runs on a device.

    The system lets go of them when the process ends, however it ends. A lock that cannot be had
    ends no refinement: the work goes on without it.

    Args:
        paths: the lock files.
        warn: told when the process begins to wait, and when it goes on without a lock.
        seconds: how long to wait for each.
    """
    with ExitStack() as stack:
        for path in paths:
            try:
                handle = _open_lock(path)
                stack.callback(os.close, handle)
                _wait_for_lock(handle, path, warn, seconds)
            except OSError as error:
                warn(
                    f"lock {path}: goes on without it ({error.strerror}); DEEPEMHANCER_RELION_LOCK "
                    "names another"
                )
        yield


def _open_lock(path: str) -> int:
    """Open a lock file, whoever's it is, and make one where there is none."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags)  # NFS locks no file that is open to read alone
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
    except PermissionError:  # another user's
        return os.open(path, os.O_RDONLY | flags)


def _wait_for_lock(handle: int, path: str, warn: Callable[[str], None], seconds: float) -> None:
    """Take a lock. OSError where the file system has none, or when it takes too long."""
    end = time.monotonic() + seconds
    waits = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if not waits:
            warn(f"lock {path}: waits for another enhancement on this device")
            waits = True
        if time.monotonic() >= end:
            raise TimeoutError(errno.ETIMEDOUT, f"still held after {seconds:.0f} s")
        time.sleep(LOCK_INTERVAL)
