"""`deepemhancer -i MAP [-i2 HALF2] -o OUT`: arguments, files and words around `enhance`."""

import argparse
import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deepemhancer_plugin.core.commands.flags import add_gpus, add_sampling_rate
from deepemhancer_plugin.core.commands.terminal import (
    Progress,
    collect_warnings,
    download_checkpoints,
    log,
    peak_memory,
    run_interruptible,
)
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.files import check_outputs, write_text
from deepemhancer_plugin.core.maps.half_names import find_other_half, name_other_halves
from deepemhancer_plugin.version import __version__

EPILOG = """sub-commands (each with its own -h):
  deepemhancer demo        enhance simulated half maps of a synthetic protein
  deepemhancer simulate    half maps and target from an atomic model
  deepemhancer train       train a network on atomic models, or on half maps with fitted models
  deepemhancer fine-tune   train on from the embedded weights, for maps of one's own
  deepemhancer evaluate    how good maps are, by their half maps and by an atomic model
  deepemhancer relion      enhance inside RELION's refinement, as its external reconstruction
  deepemhancer localres    local resolution of a map, by deep learning
  deepemhancer localres-train  train a network for localres
  deepemhancer oversharpening  whether a map claims more detail than its half maps support
  deepemhancer download    fetch the authors' (official) checkpoints

exit status: 0 done, 1 bad input, 2 wrong usage, 130 interrupted, 143 terminated"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line: the original program's flags, and ours."""
    p = argparse.ArgumentParser(
        "deepemhancer",
        description="Enhance a cryo-EM map: sharpened, denoised and tightly masked, exactly where "
        "the input was. Give the unsharpened, unmasked map, or better its two half maps.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_files(p)
    _add_method(p)
    _add_machine(p)
    p.add_argument(
        "--download", nargs="?", const="", metavar="DIR", help="same as `deepemhancer download`"
    )
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def _add_files(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-i",
        "--inputMap",
        metavar="MAP",
        help="map, or first half map (.mrc, .map, also .gz, .bz2; .npy, EMAN's .hdf)",
    )
    p.add_argument(
        "-i2",
        "--halfMap2",
        "--half2",
        metavar="HALF2|auto",
        help="second half map; auto: found by the name of the first",
    )
    p.add_argument("-o", "--outputMap", metavar="OUT", help="the enhanced map to write, an MRC map")
    p.add_argument(
        "--float16",
        action="store_true",
        help="write half the bytes, with three digits of each value (MRC mode 12)",
    )
    add_sampling_rate(p)
    p.add_argument(
        "-m",
        "--mask",
        "--binaryMask",
        dest="mask",
        metavar="MASK",
        help="mask; what is outside becomes zero. On another grid it is resampled",
    )
    p.add_argument(
        "--report",
        metavar="FILE",
        help="JSON report to write (default: beside the map, its name with .json)",
    )


def _add_method(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-p",
        "--processingType",
        default="tightTarget",
        choices=["tightTarget", "wideTarget", "highRes", "masked"],
        help="which weights of the family (default: %(default)s); masked: normalised in the mask "
        "of -m instead of by the noise",
    )
    p.add_argument(
        "--weights",
        default="embedded",
        metavar="embedded|official|FILE",
        help="embedded (default), the authors' downloaded ones, or a file of either kind",
    )
    p.add_argument(
        "--deepLearningModelPath",
        metavar="PATH",
        help="folder (also Xmipp's) or file of the official checkpoints; means --weights official "
        "(default: DEEPEMHANCER_MODELS, ~/.local/share/deepEMhancerModels, Xmipp's)",
    )
    p.add_argument(
        "--noiseStats",
        nargs=2,
        type=float,
        metavar=("MEAN", "STD"),
        help="mean and standard deviation of the map's noise",
    )
    p.add_argument(
        "--noise",
        choices=["auto", "classic"],
        default="auto",
        help="auto: from the halves' difference, or the solvent of a single map; classic: the "
        "original program's estimate",
    )
    p.add_argument(
        "--noBandLimit",
        action="store_true",
        help="do not end the output where the input was low-passed",
    )
    p.add_argument(
        "--cleaningStrengh",
        "--cleaningStrength",
        "--cleaning",
        dest="cleaning",
        type=float,
        metavar="F",
        help="remove connected components smaller than this part (0-1) of the positive voxels; "
        "-1: none",
    )
    p.add_argument(
        "--average",
        type=int,
        choices=[1, 2, 4, 24],
        help="show each window in so many orientations: up to so many times slower, less "
        "dependent on the map's own (default: with embedded weights 4, of more than 160 A 2, "
        "else 1)",
    )
    p.add_argument(
        "--sym",
        metavar="GROUP",
        help="average the enhanced map over a point group in RELION's conventions: C4, D2, T, O, "
        "I, I1 ...",
    )
    p.add_argument(
        "--helical",
        nargs=2,
        type=float,
        metavar=("RISE", "TWIST"),
        help="the same over a helix along z: rise in A, twist in degrees",
    )
    p.add_argument(
        "--classic",
        action="store_true",
        help="the original program's steps, voxel by voxel (official weights)",
    )
    p.add_argument(
        "--trust",
        action="store_true",
        help="also say in how much of the output it claims more detail than the half maps support",
    )
    p.add_argument(
        "--fsc",
        action="store_true",
        help="also put the half maps' FSC into the report: unmasked, in a mask, and corrected for "
        "it by random phases",
    )


def _add_machine(p: argparse.ArgumentParser) -> None:
    add_gpus(p)
    p.add_argument(
        "-b",
        "--batch_size",
        dest="batch",
        type=int,
        metavar="N",
        help="most windows at a time (default: chosen)",
    )
    p.add_argument(
        "--precision",
        choices=["auto", "float32", "mixed", "bfloat16", "float16"],
        default="auto",
        help="arithmetic of the network (default: narrow where it is faster)",
    )


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line; wrong usage ends the program."""
    p = parser()
    a = p.parse_args(_protect_negative(arguments))
    if a.download is not None:  # whatever else is there
        return a
    if not a.inputMap or not a.outputMap:
        p.error("the input map (-i) and the output map (-o) are needed")
    if a.trust and not a.halfMap2:
        p.error("--trust compares the output with the half maps: the second one (-i2) is needed")
    if a.fsc and not a.halfMap2:
        p.error("--fsc compares the half maps: the second one (-i2) is needed")
    if a.noiseStats and a.noise == "classic":
        p.error("--noiseStats and --noise classic exclude each other")
    if a.sym and a.helical:
        p.error("--sym and --helical exclude each other")
    return a


def main(arguments: Sequence[str]) -> int:
    """Run the main command; returns its exit status."""
    a = parse_arguments(arguments)
    if a.download is not None:
        return download_checkpoints(a.download or None)
    from deepemhancer_plugin.core.maps.mrc import check_output_name

    if a.batch is not None and a.batch < 1:
        raise InputError(f"-b {a.batch}: at least 1 is needed")
    if a.halfMap2 == "auto":
        a.halfMap2 = find_other_half(a.inputMap)
        log(f"second half map: {a.halfMap2}")
    inputs = [file for file in (a.inputMap, a.halfMap2, a.mask) if file]
    report_file = a.report or _report_beside(a.outputMap)
    check_outputs([a.outputMap, report_file], inputs)
    check_output_name(a.outputMap)

    started = time.perf_counter()
    with collect_warnings() as messages:
        if not a.halfMap2:
            _warn_of_other_half(a.inputMap)
        result, trust = run_interruptible(lambda: _run(a))
        fsc = run_interruptible(lambda: _measure_fsc(a)) if a.fsc else None
        # On the main thread: a signal stops it, and its temporary file goes with it.
        result.save(a.outputMap, a.float16)
    report: dict[str, Any] = {
        **result.report,
        "inputs": [os.path.abspath(file) for file in inputs[: 1 + bool(a.halfMap2)]],
        "output": os.path.abspath(a.outputMap),
        "warnings": messages,
        "memory_mb": peak_memory(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if trust is not None:
        report["trust"] = trust
    if fsc is not None:
        report["fsc"] = fsc
    write_text(report_file, json.dumps(report, indent=1) + "\n")
    log(f"precision: {report['precision']}")
    if report["cleaning"]:
        removed = report["cleaning"]
        log(
            f"cleaning removed {removed['components']} components, {removed['voxels']} voxels, "
            f"{removed['volume']:.0f} A^3"
        )
    seconds, memory = report["seconds"], report["memory_mb"]
    log(f"wrote {a.outputMap} in {seconds:.1f} s, {memory} MB of memory at most")
    return 0


def _warn_of_other_half(path: str) -> None:
    """Warn where a single map is a half map whose other half lies beside it."""
    for other in name_other_halves(path):
        if os.path.isfile(other):
            message = f"{path}: a half map, and {other} is there: -i2 auto takes both, which serves"
            warnings.warn(f"{message} better", MapWarning, stacklevel=2)
            return


def _run(a: argparse.Namespace) -> tuple[Any, dict[str, Any] | None]:
    """Enhance, and compare with the half maps where that is asked for."""
    from deepemhancer_plugin.core.enhancement.enhance import enhance

    maps = [file for file in (a.inputMap, a.halfMap2) if file]
    with Progress() as progress:
        result = enhance(
            *maps,
            sampling_rate=a.samplingRate,
            weights=_choose_weights(a),
            device=a.gpu,
            mask=a.mask,
            noise=tuple(a.noiseStats) if a.noiseStats else a.noise,
            symmetry=a.sym,
            helix=tuple(a.helical) if a.helical else None,
            # The original program takes any negative number for "no cleaning".
            cleaning=None if a.cleaning is None or a.cleaning < 0 else a.cleaning,
            average=a.average,
            batch=a.batch,
            precision=a.precision,
            classic=a.classic,
            band_limit=not a.noBandLimit,
            progress=progress,
        )
    return result, _compare(a, result) if a.trust else None


def _compare(a: argparse.Namespace, result: Any) -> dict[str, Any]:
    """Compare the output with what its half maps support."""
    from deepemhancer_plugin.core.localres.oversharpening import judge_output

    with Progress() as progress:
        trust = judge_output(
            replace(result.geometry, data=result.data),
            (a.inputMap, a.halfMap2),
            mask=a.mask,
            sampling_rate=a.samplingRate,
            device=a.gpu,
            progress=progress,
        )
    log(trust["verdict"])
    return trust


def _measure_fsc(a: argparse.Namespace) -> dict[str, Any]:
    """Measure the FSC of the half maps."""
    from deepemhancer_plugin.core.localres.half_map_fsc import measure_half_maps

    return measure_half_maps((a.inputMap, a.halfMap2), a.mask, a.samplingRate)


def _choose_weights(a: argparse.Namespace) -> Any:
    """Load the weights that the arguments mean."""
    from deepemhancer_plugin.core.weights.load import OFFICIAL, load_weights

    if a.deepLearningModelPath or a.weights == "official":
        variant = "masked" if a.mask else a.processingType
        return load_weights(OFFICIAL + variant, a.deepLearningModelPath)
    return load_weights(a.processingType if a.weights == "embedded" else a.weights)


def _report_beside(output: str) -> str:
    """Name the report after the map."""
    return os.path.splitext(output.removesuffix(".gz").removesuffix(".bz2"))[0] + ".json"


def _protect_negative(arguments: Sequence[str]) -> list[str]:
    """Keep argparse from taking -3e-05 after a flag of two numbers for a flag: a space helps."""
    result, numbers = [], 0
    for argument in arguments:
        numbers = 2 if argument in ("--noiseStats", "--helical") else numbers - 1
        negative = argument.startswith("-") and argument[1:2] in "0123456789."
        result.append(" " + argument if 0 <= numbers < 2 and negative else argument)
    return result
