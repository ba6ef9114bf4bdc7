"""`deepemhancer relion STAR`, and `deepemhancer-relion`, which RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE names: arguments, files and words."""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.relion.settings import Settings, settings_from

EPILOG = """RELION names the hook by an environment variable and gives it the star file alone:

  export RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE=$(command -v deepemhancer-relion)
  mpirun ... relion_refine_mpi ... --auto_refine --split_random_halves --external_reconstruct

so the options are variables too (or keys, in small letters, of the TOML file that DEEPEMHANCER_RELION_CONFIG names):
"""


def entry() -> int:
    """The program `deepemhancer-relion STAR`."""
    from deepemhancer_plugin.core.commands import main as cli

    return cli.main(["relion", *sys.argv[1:]])


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer relion STAR`"""
    options = (Settings.__doc__ or "").split("\n\n")[1]
    p = argparse.ArgumentParser(
        "deepemhancer relion",
        epilog=EPILOG + options,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="One of RELION's external reconstructions, past the gate with the enhanced map in its place.",
    )
    p.add_argument(
        "star",
        metavar="STAR",
        nargs="?",
        help="PREFIX_it012_half1_class001_external_reconstruct.star; paths in it are taken as RELION "
        "does, from the working directory",
    )
    p.add_argument("--dry-run", action="store_true", help="only print what would be done")
    p.add_argument(
        "--example",
        metavar="DIR",
        help="write simulated particles of a synthetic protein into DIR, and print how to refine them",
    )
    a = p.parse_args(arguments)
    if bool(a.star) == bool(a.example):
        p.error("either STAR or --example DIR is needed")
    if a.example:
        return _example(a.example)
    return _hook(a.star, a.dry_run)


def _hook(star: str, dry_run: bool) -> int:
    started = time.perf_counter()
    record: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "star": star,
        "process": os.getpid(),
    }
    log = None
    try:
        from deepemhancer_plugin.core.relion.star import parse_name

        settings = settings_from(os.environ)
        name = parse_name(star)
        log = settings.log or f"{name.root}_deepemhancer.jsonl"
        record |= {"iteration": name.iteration, "half": name.half, name.kind: name.number}
        from deepemhancer_plugin.core.relion.external import decision, external_reconstruct
        from deepemhancer_plugin.core.relion.star import read_job

        job = read_job(star)
        record["enhanced"], record["why"] = decision(job, settings.healpix_order)
        record |= {"healpix_order": job.order, "sampling_rate": job.rate, "box": job.box}
        if dry_run:
            print(json.dumps(record, indent=1))
            return 0

        def enhancer(volume: np.ndarray, rate: float) -> tuple[np.ndarray, dict[str, Any]]:
            return _enhanced(volume, rate, name.half or 1, settings)

        asked = record["enhanced"]
        record |= external_reconstruct(job, settings.reconstruct, enhancer if asked else None)
        if asked and not record["enhanced"]:
            print(
                f"deepemhancer: warning: {job.result}: {record['why']}", file=sys.stderr, flush=True
            )
        return _ended(log, record | {"status": 0}, started)
    except BaseException as error:
        if log and not dry_run:
            failure = {
                "enhanced": False,
                "status": getattr(error, "status", 1),
                "error": str(error) or type(error).__name__,
            }
            _ended(log, record | failure, started)
        raise


def _ended(log: str, record: dict[str, Any], started: float) -> int:
    """Append the call's line to the log: at once, so that lines of several processes do not mix. A log that fails stops no refinement."""
    line = json.dumps(record | {"seconds": round(time.perf_counter() - started, 2)}) + "\n"
    try:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        print(
            f"deepemhancer: warning: log {log}: cannot be written ({error.strerror})",
            file=sys.stderr,
            flush=True,
        )
    return 0


def _enhanced(
    volume: np.ndarray, rate: float, half: int, settings: Settings
) -> tuple[np.ndarray, dict[str, Any]]:
    """The enhanced half map (z, y, x), by this half's device, and what there is to say about it.

    The noise is measured in the map's own solvent, since RELION's reconstruction is neither masked nor flattened yet at this point, and the
    other half is not to be looked at. The output's band stays as it is: RELION ends its maps itself, and looks beyond in the next iteration.
    """
    from deepemhancer_plugin.core import devices
    from deepemhancer_plugin.core.commands import main as cli
    from deepemhancer_plugin.core.enhancement.enhance import Options, enhance
    from deepemhancer_plugin.core.relion.external import lock_files, locked

    model = cli._model(
        argparse.Namespace(
            weights=settings.weights,
            processingType=settings.variant,
            deepLearningModelPath=None,
            mask=None,
        )
    )
    wanted = settings.gpu.replace(",", " ").split() if settings.gpu else []
    where = devices.select_devices(wanted[(half - 1) % len(wanted)] if wanted else None)
    if not wanted and len(where.numbers) > 1:
        where = devices.select_devices("0")
    options = Options(
        precision=settings.precision, average=1, amplitudes=False, band_limit=False
    )  # as docs/relion.md measured it
    asked = time.time()
    with (
        locked([settings.lock] if settings.lock else lock_files(where.numbers)),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", MapWarning)
        begun = time.time()
        result = cli.interruptible(lambda: enhance([volume], rate, model, where, options))
        ended = time.time()
    messages = [str(w.message) for w in caught if issubclass(w.category, MapWarning)]
    return result.data, {
        "weights": f"{model.kind} {model.name} {model.sha256[:12]}",
        "device": where.description,
        "noise": result.report["noise"],
        "precision": result.report["precision"],
        "warnings": messages,
        "seconds_waited": round(begun - asked, 2),
        "enhancing": [round(begun, 3), round(ended, 3)],
    }


def _example(folder: str) -> int:
    import shlex
    import shutil
    from pathlib import Path

    from deepemhancer_plugin.core.relion.example import make_particles, refine_command
    from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
    from deepemhancer_plugin.core.simulation.synthetic import build_protein

    conditions = Conditions(
        sampling_rate=2.0, box=48, noise=0, random_pose=False, b_factor=60, disorder=30
    )
    made = simulate_halves(from_structure(build_protein(0)), conditions, 0, workers=-1)
    try:
        make_particles(made.half1, 2.0, Path(folder), 120, 4.5)
        (Path(folder) / "refine").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--example {folder}: cannot be written ({error.strerror}); a writable folder is needed"
        ) from error
    beside = shutil.which("deepemhancer-relion", path=os.path.dirname(sys.executable))
    print(
        f"cd {shlex.quote(folder)}\nexport RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE={shlex.quote(beside or 'deepemhancer-relion')}"
    )
    print(shlex.join(refine_command("refine/run", 75)))
    return 0
