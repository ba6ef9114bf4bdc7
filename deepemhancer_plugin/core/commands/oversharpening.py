"""`deepemhancer oversharpening`, and what `--trust` adds to the enhancer's report."""

import argparse
import json
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin import __version__
from deepemhancer_plugin.core.commands.terminal import Progress, run_interruptible, log, collect_warnings
from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.files import check_outputs, write_text
from deepemhancer_plugin.core.localres.blocres import masked_fsc
from deepemhancer_plugin.core.localres.mask import auto_mask
from deepemhancer_plugin.core.localres.oversharpening import (
    PERCENTILE,
    THRESHOLD,
    TOLERANCE,
    Comparison,
    DeepRes,
    Scan,
    compare,
    picture,
    scan,
)
from deepemhancer_plugin.core.localres.statistics import statistics
from deepemhancer_plugin.core.maps import mrc, spectrum

NOTHING = "the output shows no density, and so claims nothing"
BEYOND = 3  # exit status with --strict


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer oversharpening",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Does a sharpened or enhanced map claim more detail than its half maps support? The resolution that the network of `localres` reads\n"
            "off the map against the local FSC of the halves, voxel by voxel (after Ramirez-Aportela et al. 2019)."
        ),
        epilog="exit status: 0 done, whatever the verdict; 1 bad input; 2 wrong usage; 3 with --strict: beyond the limit",
    )
    p.add_argument(
        "map", metavar="MAP", help="the sharpened or enhanced map (.mrc, .map, also .gz, .bz2)"
    )
    p.add_argument(
        "--halves",
        nargs=2,
        required=True,
        metavar=("A", "B"),
        help="the half maps it was made of, unfiltered, on the same grid",
    )
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PREFIX",
        help="writes PREFIX.json, PREFIX.png, and in A PREFIX_claimed.mrc and PREFIX_supported.mrc",
    )
    p.add_argument(
        "-m",
        "--mask",
        metavar="MASK",
        help="mask of the map's box (default: where the map shows density)",
    )
    p.add_argument(
        "--scan",
        action="store_true",
        help="also sharpen the mean of the halves in steps, and find the B factor that is the limit",
    )
    p.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="T",
        help="how much finer a claim may be, as a part of the resolution (default: %(default)s)",
    )
    p.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="of the halves' local FSC (default: %(default)s)",
    )
    p.add_argument(
        "--network",
        default="auto",
        metavar="auto|1.0|0.5|FILE",
        help="as for localres; auto: by the halves' resolution",
    )
    p.add_argument(
        "--strict", action="store_true", help="exit with status 3 where the map is beyond the limit"
    )
    p.add_argument(
        "-s",
        "--samplingRate",
        type=float,
        metavar="A",
        help="sampling rate in A/voxel, if the header's is wrong or missing",
    )
    p.add_argument(
        "-g",
        "--gpuIds",
        dest="gpu",
        metavar="IDS",
        help="GPUs, e.g. 0 or 0,1; -1: the CPU (default: a GPU where there is one)",
    )
    return p


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer oversharpening MAP --halves A B -o PREFIX`"""
    a = parser().parse_args(arguments)
    started = time.perf_counter()
    with collect_warnings() as messages:
        volume, found, scanned, facts = run_interruptible(lambda: _run(a))
    report: dict[str, Any] = {"version": __version__, **summary(found), **facts}
    if scanned is not None:
        report["scan"] = {
            "b_factors": scanned.b_factors,
            f"percentile_{PERCENTILE}": [round(p, 3) for p in scanned.percentiles],
            "limit_b_factor": None if scanned.limit is None else round(scanned.limit, 1),
        }
    outputs = _outputs(a.output)
    for path, values, what in (
        (outputs[2], found.claimed, "claimed by the map"),
        (outputs[3], found.supported, "supported by the half maps"),
    ):
        mrc.write_map(path, values, volume, [f"deepemhancer {__version__} local resolution {what}"])
    picture(Path(outputs[1]), volume.data, found, scanned, volume.sampling_rate)
    report |= {
        "sampling_rate": volume.sampling_rate,
        "box": list(volume.data.shape),
        "warnings": messages,
        "inputs": [os.path.abspath(f) for f in (a.map, *a.halves, a.mask) if f],
        "outputs": [os.path.abspath(f) for f in outputs],
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_text(outputs[0], json.dumps(report, indent=1) + "\n")
    log(found.verdict())
    if scanned is not None:
        log(_scan_words(scanned))
    log(f"wrote {', '.join(outputs)} in {report['seconds']:.1f} s")
    return BEYOND if a.strict and found.oversharpened else 0


def summary(found: Comparison, what: str = "map") -> dict[str, Any]:
    """What the report says of a comparison; resolutions in A, the share in per cent of the mask."""
    inside = found.supported > 0
    return {
        "verdict": found.verdict(what),
        "oversharpened": found.oversharpened,
        "claims_more_percent": round(100 * found.share, 1),
        "tolerance": found.tolerance,
        "fsc_threshold": found.threshold,
        "claimed": statistics(found.claimed[inside]),
        "supported": statistics(found.supported[inside]),
    }


def _scan_words(scanned: Scan) -> str:
    if scanned.limit is None:
        return f"the mean of the halves does not reach the limit ({scanned.level:.2f} A) by B = {scanned.b_factors[-1]:.0f} A^2"
    if scanned.limit == 0:
        return (
            f"the mean of the halves is at the limit ({scanned.level:.2f} A) before any sharpening"
        )
    return f"the mean of the halves reaches the limit ({scanned.level:.2f} A) when sharpened by B = {scanned.limit:.0f} A^2"


def _outputs(prefix: str) -> list[str]:
    return [prefix + suffix for suffix in (".json", ".png", "_claimed.mrc", "_supported.mrc")]


def _run(a: argparse.Namespace) -> tuple[mrc.Map, Comparison, Scan | None, dict[str, Any]]:
    """From the arguments to the comparison and facts for the report."""
    inputs = [f for f in (a.map, *a.halves, a.mask) if f]
    check_outputs(_outputs(a.output), inputs)
    if not 0 <= a.tolerance < 1:
        raise InputError(
            f"--tolerance {a.tolerance:g}: from 0 to 1 is right, a part of the resolution"
        )
    if not 0 < a.threshold < 1:
        raise InputError(
            f"--threshold {a.threshold:g}: between 0 and 1 is needed, 0.143 or 0.5 are usual"
        )
    if a.network not in ("auto", "1.0", "0.5") and not os.path.isfile(a.network):
        raise InputError(
            f"--network {a.network}: no such network; auto, 1.0, 0.5 or a weights file is right"
        )
    volume = mrc.read_map(a.map, a.samplingRate)
    first, second = (mrc.read_map(h, a.samplingRate) for h in a.halves)
    mrc.check_halves(first, second)
    mrc.check_same_grid(volume, first)
    mask = (
        mrc.read_mask(a.mask, volume, a.samplingRate)
        if a.mask
        else auto_mask(volume.data, volume.sampling_rate)
    )
    log(
        f"mask: {a.mask or 'where the map shows density'}, {int(mask.sum())} voxels, {100 * mask.mean():.1f} % of the box"
    )
    from deepemhancer_plugin.core import devices

    where = devices.select_devices(a.gpu)
    log(f"device: {where.description} ({where.why})")
    rate = volume.sampling_rate
    with Progress() as progress:
        deepres, name = network(
            first.data, second.data, rate, mask, where.names[0], a.network, progress
        )
        found = compare(
            volume.data,
            first.data,
            second.data,
            rate,
            mask,
            deepres,
            a.tolerance,
            a.threshold,
            progress,
        )
    scanned = None
    if a.scan:
        quiet, _ = network(
            first.data, second.data, rate, mask, where.names[0], name
        )  # one line of progress for all B factors
        with Progress() as progress:
            scanned = scan(
                first.data, second.data, rate, mask, quiet, found.supported_percentile, progress
            )
    return (
        volume,
        found,
        scanned,
        {
            "network": name,
            "device": where.description,
            "mask": {"source": a.mask or "map", "voxels": int(mask.sum())},
        },
    )


def network(
    half1: np.ndarray,
    half2: np.ndarray,
    rate: float,
    mask: np.ndarray,
    device: str,
    name: str = "auto",
    progress: Progress | None = None,
) -> tuple[DeepRes, str]:
    """The function that reads the resolution off a map on that device, and the name of its network.

    "auto" takes the one for 0.5 A/voxel where the halves' FSC in the mask reaches beyond 2.9 A: the same network for all maps of these halves.
    """
    import keras

    from deepemhancer_plugin.core.localres import predict

    if name == "auto":
        finest = spectrum.resolution(*masked_fsc(half1, half2, rate, mask), THRESHOLD)
        name = (
            "0.5"
            if finest < predict.FINE_MEDIAN and 2 * rate < predict.RANGES["1.0"].finest
            else "1.0"
        )
        log(
            f"network: {name} A/voxel (FSC of the halves in the mask = {THRESHOLD:g} at {finest:.2f} A)"
        )
    loaded = predict.load_network(name)

    def deepres(volume: np.ndarray, rate: float, mask: np.ndarray) -> np.ndarray:
        with keras.device(device):
            return predict.predict_resolution(volume, mask, rate, loaded, progress)

    return deepres, name


def trust(
    volume: mrc.Map,
    halves: Sequence[str],
    sampling_rate: float | None,
    mask: str | None,
    where: Devices,
) -> dict[str, Any]:
    """What the enhancer's report says of its output against the half maps in these files; logs the verdict.

    The comparison's mask is where the output shows density, within the user's mask where there is one.
    """
    started = time.perf_counter()
    rate = volume.sampling_rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)  # said when the enhancer read the same files
        first, second = (mrc.read_map(path, sampling_rate) for path in halves)
        try:
            inside = auto_mask(volume.data, rate)
        except InputError:
            inside = np.zeros(volume.data.shape, bool)
        if mask is not None:
            inside &= mrc.read_mask(mask, volume, sampling_rate)
    if not inside.any():
        log(NOTHING)
        return {"verdict": NOTHING}
    with Progress() as progress:
        deepres, name = network(
            first.data, second.data, rate, inside, where.names[0], progress=progress
        )
        found = compare(
            volume.data, first.data, second.data, rate, inside, deepres, progress=progress
        )
    log(found.verdict("output"))
    return {
        **summary(found, "output"),
        "network": name,
        "voxels": int(inside.sum()),
        "seconds": round(time.perf_counter() - started, 1),
    }
