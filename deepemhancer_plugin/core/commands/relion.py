"""`deepemhancer relion STAR`, which RELION's external reconstruction calls: arguments and files.

RELION finds it as `deepemhancer-relion` by RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE.
"""

import argparse
import inspect
import json
import os
import shlex
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepemhancer_plugin.core.commands.terminal import print_warning, run_interruptible
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.relion.settings import Settings, read_settings

if TYPE_CHECKING:
    from deepemhancer_plugin.core.devices import Devices
    from deepemhancer_plugin.core.relion.star import Job

EPILOG = """RELION names the hook by an environment variable and gives it the star file alone:

  export RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE=$(command -v deepemhancer-relion)
  mpirun ... relion_refine_mpi ... --auto_refine --split_random_halves --external_reconstruct

so the options are variables too, such as DEEPEMHANCER_RELION_GPU, or keys, in small letters, of the
TOML file that DEEPEMHANCER_RELION_CONFIG names:

"""
# The example's particles: few, so that their refinement takes a minute or two.
EXAMPLE_SAMPLING = 2.0  # A/voxel
EXAMPLE_BOX = 48
EXAMPLE_PARTICLES = 120
EXAMPLE_RESOLUTION = 4.5  # A
EXAMPLE_DIAMETER = 75  # A


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = (inspect.getdoc(Settings) or "").partition("Attributes:\n")[2]
    p = argparse.ArgumentParser(
        "deepemhancer relion",
        epilog=EPILOG + textwrap.indent(textwrap.dedent(options), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="One of RELION's external reconstructions, past the gate with the enhanced map "
        "in its place.",
    )
    p.add_argument(
        "star",
        metavar="STAR",
        nargs="?",
        help="PREFIX_it012_half1_class001_external_reconstruct.star; paths in it are taken as "
        "RELION does, from the working directory",
    )
    p.add_argument("--dry-run", action="store_true", help="only print what would be done")
    p.add_argument(
        "--example",
        metavar="DIR",
        help="write simulated particles of a synthetic protein into DIR, and print how to refine "
        "them",
    )
    return p


def main(arguments: Sequence[str]) -> int:
    """Run `deepemhancer relion STAR`; returns its exit status."""
    p = parser()
    a = p.parse_args(arguments)
    if bool(a.star) == bool(a.example):
        p.error("either STAR or --example DIR is needed")
    if a.example:
        _make_example(a.example)
    else:
        _run_hook(a.star, a.dry_run)
    return 0


def _run_hook(star: str, dry_run: bool) -> None:
    """Make the map that RELION asks for, and append a line to the log, also of a failure."""
    from deepemhancer_plugin.core.relion.external import decide_enhancement
    from deepemhancer_plugin.core.relion.star import parse_name, read_job

    started = time.perf_counter()
    settings = read_settings(os.environ)
    name = parse_name(star)
    log_file = settings.log or f"{name.root}_deepemhancer.jsonl"
    record: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "star": star,
        "process": os.getpid(),
        "iteration": name.iteration,
        "half": name.half,
        name.kind: name.number,
    }
    try:
        job = read_job(star)
        record["enhanced"], record["why"] = decide_enhancement(job, settings.healpix_order)
        record |= {"healpix_order": job.order, "sampling_rate": job.rate, "box": job.box}
        if dry_run:
            print(json.dumps(record, indent=1))
            return
        record |= _make_map(job, settings, record["enhanced"])
        record["status"] = 0
    except BaseException as error:
        status = getattr(error, "status", 1)
        reason = str(error) or type(error).__name__
        record |= {"enhanced": False, "status": status, "error": reason}
        raise
    finally:
        if not dry_run:
            record["seconds"] = round(time.perf_counter() - started, 2)
            _append_line(log_file, json.dumps(record))


def _append_line(path: str, line: str) -> None:
    """Append a line at once, so that processes do not mix theirs; a failure is only warned of."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)
    except OSError as error:
        print_warning(f"log {path}: cannot be written ({error.strerror})")


def _make_map(job: "Job", settings: Settings, enhanced: bool) -> dict[str, Any]:
    """Make the map, enhanced or not; returns what there is to say about it."""
    from deepemhancer_plugin.core.relion.external import external_reconstruct

    def enhance_half(volume: np.ndarray, rate: float) -> tuple[np.ndarray, dict[str, Any]]:
        return _enhance(volume, rate, job.name.half or 1, settings)

    report = external_reconstruct(job, settings.reconstruct, enhance_half if enhanced else None)
    if report.get("enhanced") is False:
        print_warning(f"{job.result}: {report['why']}")
    return report


def _enhance(
    volume: np.ndarray, rate: float, half: int, settings: Settings
) -> tuple[np.ndarray, dict[str, Any]]:
    """Enhance a half map (z, y, x) on this half's device.

    The noise is measured in the map's own solvent: RELION's reconstruction is neither masked nor
    flattened yet, and the other half is not to be looked at. Nothing is blended in, and the band
    stays as it is: RELION ends its maps itself, and looks beyond in the next iteration.

    Returns:
        The enhanced map, and what there is to say about it.
    """
    from deepemhancer_plugin.core import enhance
    from deepemhancer_plugin.core.devices import identify_devices
    from deepemhancer_plugin.core.relion.external import hold_locks, name_locks

    weights = _load_weights(settings)
    devices = _select_devices(half, settings)
    locks = [settings.lock] if settings.lock else name_locks(identify_devices(devices))
    asked = time.time()
    with hold_locks(locks, print_warning), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MapWarning)
        begun = time.time()
        result = run_interruptible(
            lambda: enhance(
                volume,
                sampling_rate=rate,
                weights=weights,
                device=devices,
                precision=settings.precision,
                average=1,
                amplitudes=False,
                band_limit=False,
            )
        )
        ended = time.time()
    return result.data, {
        "weights": f"{weights.kind} {weights.name} {weights.sha256[:12]}",
        "device": devices.description,
        "noise": result.report["noise"],
        "precision": result.report["precision"],
        "warnings": [str(w.message) for w in caught if issubclass(w.category, MapWarning)],
        "seconds_waited": round(begun - asked, 2),
        "enhancing": [round(begun, 3), round(ended, 3)],
    }


def _load_weights(settings: Settings) -> Any:
    """Load the weights that the settings mean."""
    from deepemhancer_plugin.core.weights.load import OFFICIAL, load_weights

    if settings.weights == "official":
        return load_weights(OFFICIAL + settings.variant)
    return load_weights(settings.variant if settings.weights == "embedded" else settings.weights)


def _select_devices(half: int, settings: Settings) -> "Devices":
    """Select this half's device: of several GPUs, half 1 takes the first and half 2 the second."""
    from deepemhancer_plugin.core.devices import select_devices

    wanted = (settings.gpu or "").replace(",", " ").split()
    if wanted:
        return select_devices(wanted[(half - 1) % len(wanted)])
    devices = select_devices()
    return select_devices("0") if len(devices.numbers) > 1 else devices


def _make_example(folder: str) -> None:
    """Write particles of a synthetic protein, and print how to refine them."""
    from deepemhancer_plugin.core.relion.example import make_particles, refine_command
    from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
    from deepemhancer_plugin.core.simulation.synthetic import build_protein

    conditions = Conditions(
        sampling_rate=EXAMPLE_SAMPLING,
        box=EXAMPLE_BOX,
        noise=0,
        random_pose=False,
        b_factor=60,
        disorder=30,
    )
    protein = from_structure(build_protein(0))
    density = simulate_halves(protein, conditions, 0, workers=-1).half1
    try:
        make_particles(
            density, EXAMPLE_SAMPLING, Path(folder), EXAMPLE_PARTICLES, EXAMPLE_RESOLUTION
        )
        (Path(folder) / "refine").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--example {folder}: cannot be written ({error.strerror}); a writable folder is needed"
        ) from error
    program = shutil.which("deepemhancer-relion", path=os.path.dirname(sys.executable))
    hook = shlex.quote(program or "deepemhancer-relion")
    print(f"cd {shlex.quote(folder)}")
    print(f"export RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE={hook}")
    print(shlex.join(refine_command("refine/run", EXAMPLE_DIAMETER)))
