"""One star file -> one map: RELION's own reconstruction, which past the gate is enhanced before it gets its name.

Ramirez-Aportela et al. 2022 (IUCrJ 9, 632): the enhanced map takes the reconstruction's place as the reference of its own half, with its maximum.

RELION accepts whatever lies under the result's name when the program ends with 0, zeros included. So there never lies anything else than a
checked map: the reconstruction is renamed at once, and the result is moved in place when it is complete. The other half is never looked at.
"""

import fcntl
import glob
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.maps.filters import low_pass
from deepemhancer_plugin.core.relion.star import Job

Enhancer = Callable[
    [np.ndarray, float], tuple[np.ndarray, dict[str, Any]]
]  # voxels (z, y, x) and A/voxel -> enhanced voxels and a report


def decision(job: Job, gate: int) -> tuple[bool, str]:
    """Whether the map is to be enhanced, and why."""
    if job.order is None:
        return False, "no 3D half map of a split refinement: left to RELION"
    if job.order < gate:
        return False, f"healpix order {job.order} is under {gate}: left to RELION"
    return True, f"healpix order {job.order}, from {gate} on enhanced"


# Correlation with the reconstruction at 20 A under which the network has taken much of a coarse, noisy map for noise, and particles would align to
# what is left: 0.33 and 0.71 in first iterations; where all went well 0.88 and more, with a nanodisc taken away too.
KEPT = 0.8


def coarse(volume: np.ndarray, rate: float) -> np.ndarray:
    """A map (z, y, x), low-passed between 30 and 15 A."""
    return low_pass(volume, rate, 1 / 30, 1 / 15)


def external_reconstruct(job: Job, program: str, enhancer: Enhancer | None) -> dict[str, Any]:
    """Make the map that RELION asks for; returns what there is to say about it.

    Args:
        job: from `star.read_job`.
        program: RELION's own reconstruction, called with the star file.
        enhancer: None where the map is left to RELION. So is one of which the enhancer leaves too little ("enhanced" is False in the report then).

    Raises:
        InputError: the program is missing or fails; its map or the enhanced one cannot serve as a reference. Nothing is left under the
            result's name then.
    """
    folder, base = os.path.split(job.result)
    plain = os.path.join(folder, f".{base}.plain.part")
    _remove(
        job.result,
        job.result_star,
        *glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(base)}.*.part")),
    )  # of an earlier try
    started = time.perf_counter()
    try:
        _reconstruct(job, program)
        report: dict[str, Any] = {"seconds_reconstruct": round(time.perf_counter() - started, 2)}
        if enhancer is None:
            return report
        assert job.rate is not None
        os.rename(job.result, plain)
        volume = mrc.read_map(plain, job.rate)  # RELION leaves the voxel size out of the header
        check(volume.data, job.box, f"the map of {program}")
        maximum, before = float(volume.data.max()), coarse(volume.data, job.rate)
        enhanced, details = enhancer(volume.data, job.rate)
        report |= {"maximum": maximum, "kept": 0.0} | details
        if enhanced.any():
            check(enhanced, job.box, "the enhanced map")
            with np.errstate(all="ignore"):  # the next line sees what comes of it
                enhanced = enhanced * np.float32(maximum / float(enhanced.max()))
            check(enhanced, job.box, "the enhanced map, rescaled,")
            report["kept"] = round(
                float(np.corrcoef(coarse(enhanced, job.rate).ravel(), before.ravel())[0, 1]), 3
            )
        if report["kept"] < KEPT:
            os.rename(plain, job.result)
            return report | {
                "enhanced": False,
                "why": f"enhanced it shows too little of what it shows at 20 A (correlation {report['kept']:g}, "
                f"{KEPT:g} is asked for): left to RELION",
            }
        mrc.write_map(
            job.result, enhanced, mrc.new_map(enhanced, job.rate), ["enhanced by deepemhancer"]
        )
        return report
    except BaseException:
        _remove(job.result, job.result_star)
        raise
    finally:
        _remove(plain)


def check(data: np.ndarray, box: int, what: str) -> None:
    """Raise InputError unless voxels (z, y, x) can be a reference: the right box, finite, not constant, something above zero."""
    if data.shape != (box,) * 3:
        raise InputError(
            f"{what} has a box of {' x '.join(map(str, data.shape))} voxels, and RELION asked for {box}^3"
        )
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            f"{what} holds {np.count_nonzero(~np.isfinite(data))} voxels that are NaN or infinite"
        )
    if low == high:
        raise InputError(f"{what} is {low:g} everywhere: no reference for RELION")
    if high <= 0:
        raise InputError(f"{what} is nowhere above zero (its maximum is {high:g})")


def _reconstruct(job: Job, program: str) -> None:
    try:
        done = subprocess.run(
            [program, job.star],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise InputError(
            f"{program}: cannot be started ({error.strerror}); RELION's is needed, see DEEPEMHANCER_RELION_RECONSTRUCT"
        ) from error
    if done.returncode:
        words = " | ".join(line.strip() for line in done.stdout.splitlines() if line.strip())[-300:]
        raise InputError(
            f"{program} {job.star} ended with status {done.returncode}: {words or 'it said nothing'}"
        )
    if not os.path.isfile(job.result):
        raise InputError(f"{program} {job.star} ended well and did not write {job.result}")


def _remove(*paths: str | None) -> None:
    for path in paths:
        if path:
            with suppress(FileNotFoundError):
                os.unlink(path)


def lock_files(numbers: list[int]) -> list[str]:
    """The locks of GPUs (numbered as -g counts them), or of the CPU: one for each device of the machine, whatever a process calls it."""
    visible = [
        word.strip()
        for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if word.strip()
    ]
    names = sorted(visible[n] if n < len(visible) else str(n) for n in numbers)
    return [
        os.path.join(tempfile.gettempdir(), f"deepemhancer-{name}.lock")
        for name in ([f"gpu-{n}" for n in names] or ["cpu"])
    ]


@contextmanager
def locked(paths: list[str]) -> Iterator[None]:
    """Hold the locks: one enhancement at a time on a device. The system lets go of them when the process ends, however it ends.

    Raises:
        InputError: a lock's file cannot be opened.
    """
    with ExitStack() as stack:
        for path in paths:
            try:
                try:
                    handle = os.open(
                        path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    )  # reading suffices, whoever's file it is
                except FileNotFoundError:
                    handle = os.open(
                        path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
                    )
            except OSError as error:
                raise InputError(
                    f"lock {path}: cannot be opened ({error.strerror}); name another with DEEPEMHANCER_RELION_LOCK"
                ) from error
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
