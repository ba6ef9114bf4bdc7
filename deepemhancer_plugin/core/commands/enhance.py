"""`deepemhancer -i MAP -o OUT`: reads the arguments, calls `enhance`, writes the map and its report."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from deepemhancer_plugin import __version__
from deepemhancer_plugin.core.commands.terminal import (
    Progress,
    interruptible,
    log,
    map_warnings,
    peak_memory,
)
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import check_outputs, write_text

EPILOG = """sub-commands (each with its own -h):
  deepemhancer demo        enhance simulated half maps of a synthetic protein
  deepemhancer simulate    half maps and target from an atomic model
  deepemhancer train       train a network on atomic models, or on half maps with fitted models
  deepemhancer fine-tune   train on from the embedded weights, for maps of one's own
  deepemhancer evaluate    how good maps are, by their half maps and by an atomic model
  deepemhancer relion      enhance inside RELION's refinement, as its external reconstruction
  deepemhancer localres    local resolution of a map, by deep learning
  deepemhancer oversharpening  whether a map claims more detail than its half maps support
  deepemhancer download    fetch the authors' (official) checkpoints

exit status: 0 done, 1 bad input, 2 wrong usage, 130 interrupted, 143 terminated"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer",
        description="Enhance a cryo-EM map: sharpened, denoised and tightly masked, exactly where the "
        "input was. Give the unsharpened, unmasked map, or better its two half maps.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "-i",
        "--inputMap",
        metavar="MAP",
        help="map, or first half map (.mrc, .map, also .gz, .bz2)",
    )
    p.add_argument("-i2", "--halfMap2", metavar="HALF2", help="second half map")
    p.add_argument("-o", "--outputMap", metavar="OUT", help="the enhanced map to write")
    p.add_argument(
        "-p",
        "--processingType",
        default="tightTarget",
        choices=["tightTarget", "wideTarget", "highRes", "masked"],
        help="which weights of the family (default: %(default)s); masked: normalised in the mask of -m instead of by the noise",
    )
    p.add_argument(
        "-s",
        "--samplingRate",
        type=float,
        metavar="A",
        help="sampling rate in A/voxel, if the header's is wrong or missing",
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
        help="auto: from the halves' difference, or the solvent of a single map; classic: the original program's estimate",
    )
    p.add_argument(
        "-m",
        "--mask",
        "--binaryMask",
        dest="mask",
        metavar="MASK",
        help="mask of the map's box; what is outside becomes zero",
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
        help="folder or file of the official checkpoints; means --weights official",
    )
    p.add_argument(
        "--cleaningStrengh",
        "--cleaningStrength",
        dest="cleaning",
        type=float,
        metavar="F",
        help="remove connected components smaller than this share (0-1) of the positive voxels",
    )
    p.add_argument(
        "-g",
        "--gpuIds",
        dest="gpu",
        metavar="IDS",
        help="GPUs, e.g. 0 or 0,1: indices into what CUDA_VISIBLE_DEVICES shows; "
        "-1: the CPU (default: a GPU where there is one)",
    )
    p.add_argument(
        "-b",
        "--batch_size",
        dest="batch",
        type=int,
        metavar="N",
        help="most tiles at a time (default: chosen)",
    )
    p.add_argument(
        "--precision",
        choices=["auto", "float32", "mixed", "bfloat16", "float16"],
        default="auto",
        help="arithmetic of the network (default: narrow where it is faster and stays within 1e-3 of the range)",
    )
    p.add_argument(
        "--classic",
        action="store_true",
        help="the original program's steps, voxel by voxel (official weights)",
    )
    p.add_argument(
        "--average",
        type=int,
        choices=[1, 2, 4, 24],
        help="show each window in so many orientations: up to so many times slower, less dependent on the map's own; embedded "
        "weights keep what all see, the others average (default: with embedded weights 4, of more than 160 A 2, otherwise 1)",
    )
    p.add_argument(
        "--sym",
        metavar="GROUP",
        help="average the enhanced map over a point group in RELION's conventions: C4, D2, T, O, I, I1 ...",
    )
    p.add_argument(
        "--helical",
        nargs=2,
        type=float,
        metavar=("RISE", "TWIST"),
        help="the same over a helix along z: rise in A, twist in degrees",
    )
    p.add_argument(
        "--trust",
        action="store_true",
        help="also say in how much of the output it claims more detail than the half maps support "
        "(8 s of processor time for 128^3 voxels)",
    )
    p.add_argument(
        "--report",
        metavar="FILE",
        help="JSON report to write (default: beside the map, its name with .json)",
    )
    p.add_argument(
        "--download",
        nargs="?",
        const="",
        metavar="DIR",
        help="the same as `deepemhancer download [DIR]`",
    )
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def _protect_negative(arguments: Sequence[str]) -> list[str]:
    """Negative numbers in any notation after a flag that takes two: argparse would take -3e-05 for a flag (a leading space prevents it)."""
    result, numbers = [], 0
    for argument in arguments:
        numbers = 2 if argument in ("--noiseStats", "--helical") else numbers - 1
        result.append(
            " " + argument
            if 0 <= numbers < 2 and argument.startswith("-") and argument[1:2] in "0123456789."
            else argument
        )
    return result


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer -i MAP [-i2 HALF2] -o OUT`"""
    p = parser()
    a = p.parse_args(_protect_negative(arguments))
    if a.download is not None:
        from deepemhancer_plugin.core.commands import download

        return download.main([a.download] if a.download else [])
    if not a.inputMap or not a.outputMap:
        p.error("the input map (-i) and the output map (-o) are needed")
    if a.trust and not a.halfMap2:
        p.error("--trust compares the output with the half maps: the second one (-i2) is needed")
    if a.noiseStats and a.noise == "classic":
        p.error("--noiseStats and --noise classic exclude each other")
    if a.sym and a.helical:
        p.error("--sym and --helical exclude each other")

    started = time.perf_counter()
    with map_warnings() as messages:
        result, volume, model, where = interruptible(lambda: _run(a))
    # The output's last step is on the main thread: a signal stops it, and its temporary file goes with it.
    label = f"deepemhancer {__version__} {model.kind} {model.name} {model.sha256[:12]}"
    from deepemhancer_plugin.core.maps import mrc

    mrc.write_map(a.outputMap, result.data, volume, [label])
    report = {
        "version": __version__,
        "weights": {
            "kind": model.kind,
            "name": model.name,
            "file": os.path.basename(model.path),
            "sha256": model.sha256,
        },
        "device": where.description,
        "devices": where.names,
        **result.report,
        "sampling_rate": volume.sampling_rate,
        "box": list(result.data.shape),
        "origin": list(volume.origin),
        "inputs": [os.path.abspath(f) for f in (a.inputMap, a.halfMap2) if f],
        "output": os.path.abspath(a.outputMap),
        "warnings": messages,
        "memory_mb": peak_memory(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if a.trust:
        from deepemhancer_plugin.core.commands.oversharpening import trust

        report["trust"] = interruptible(
            lambda: trust(
                replace(volume, data=result.data),
                (a.inputMap, a.halfMap2),
                a.samplingRate,
                a.mask,
                where,
            )
        )
    write_text(_report_path(a), json.dumps(report, indent=1) + "\n")
    if report["cleaning"]:
        c = report["cleaning"]
        log(
            f"cleaning removed {c['components']} components, {c['voxels']} voxels, {c['volume']:.0f} A^3"
        )
    log(
        f"wrote {a.outputMap} in {report['seconds']:.1f} s, {report['memory_mb']} MB of memory at most"
    )
    return 0


def _report_path(a: argparse.Namespace) -> str:
    return (
        a.report
        or os.path.splitext(a.outputMap.removesuffix(".gz").removesuffix(".bz2"))[0] + ".json"
    )


def _run(a: argparse.Namespace) -> tuple:
    """Everything from the arguments to the enhanced voxels: (Enhanced, the map to write like, model, devices)."""
    from deepemhancer_plugin.core.maps import mrc, symmetry
    from deepemhancer_plugin.core.noise.normalization import noise_given

    inputs = [f for f in (a.inputMap, a.halfMap2, a.mask) if f]
    check_outputs([a.outputMap, _report_path(a)], inputs)
    noise = noise_given(*a.noiseStats) if a.noiseStats else a.noise
    if a.cleaning is not None and not 0 <= a.cleaning <= 1:
        raise InputError(
            f"--cleaningStrength {a.cleaning:g}: a share of the positive voxels, 0 to 1, is needed"
        )
    if a.batch is not None and a.batch < 1:
        raise InputError(f"-b {a.batch}: at least 1 is needed")
    operators = (
        symmetry.point_group(a.sym) if a.sym else symmetry.helix(*a.helical) if a.helical else None
    )
    model = _model(a)
    halves = [mrc.read_map(a.inputMap, a.samplingRate)]
    if a.halfMap2:
        halves.append(mrc.read_map(a.halfMap2, a.samplingRate))
        mrc.check_halves(*halves)
    for half in halves[:1]:
        mrc.warn_if_processed(half)
    first = halves[0]
    mask = mrc.read_mask(a.mask, first, a.samplingRate) if a.mask else None
    like = replace(first, data=first.data[:1, :1, :1])
    box = " x ".join(map(str, first.data.shape[::-1]))
    log(
        f"{' and '.join(h.path for h in halves)}: {box} voxels at {first.sampling_rate:.4g} A/voxel"
    )
    maps = [half.data for half in halves]
    del halves, first

    from deepemhancer_plugin.core import devices

    where = devices.select_devices(a.gpu)
    log(f"device: {where.description} ({where.why})")
    log(f"weights: {model.kind} {model.name} ({model.path})")
    from deepemhancer_plugin.core.enhancement.enhance import Options, enhance

    with Progress() as progress:
        options = Options(
            noise, mask, a.cleaning, a.batch, a.precision, a.classic, a.average, operators
        )
        result = enhance(maps, like.sampling_rate, model, where, options, progress)
    if result.report["noise"]:
        n = result.report["noise"]
        log(f"noise: mean {n['mean']:.4g}, standard deviation {n['std']:.4g} (from {n['source']})")
    if result.report["half_map_fsc_0.143"]:
        log(
            f"half-map FSC = 0.143 at {result.report['half_map_fsc_0.143']:.2f} A, unmasked (in the molecule alone it is finer)"
        )
        log(
            f"noise's power in the worst direction of views over that in the best: {result.report['noise_anisotropy']:.1f}"
        )
    if result.report["input_ends_at"]:
        log(
            f"the input ends at {result.report['input_ends_at']:.1f} A, low-passed: so does the output (unfiltered half maps give more)"
        )
    precision = result.report["precision"]
    log(f"precision: {precision}")
    if operators:
        log(
            f"symmetry: the enhanced map and its copies correlated with at least {result.report['symmetry_correlation']:.2f} before the average"
        )
    return result, like, model, where


def _model(a: argparse.Namespace):
    """The weights that the arguments mean."""
    from deepemhancer_plugin.core.weights import embedded
    from deepemhancer_plugin.core.weights.official import checkpoint as checkpoints

    if a.deepLearningModelPath or a.weights == "official":
        variant = "masked" if a.mask else a.processingType
        return checkpoints.load_official(
            checkpoints.official_path(a.deepLearningModelPath, variant)
        )
    if a.weights == "embedded":
        return embedded.load_embedded(a.processingType)
    if not os.path.isfile(a.weights):
        raise InputError(
            f"--weights {a.weights}: no such file; embedded, official or a weights file is needed"
        )
    if a.weights.endswith(".npz"):
        return embedded.load_file(a.weights)
    return checkpoints.load_official(a.weights)
