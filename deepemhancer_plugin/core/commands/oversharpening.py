"""`deepemhancer oversharpening`: arguments, files and words around `measure_oversharpening`."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from deepemhancer_plugin.core.commands.flags import add_gpus, add_sampling_rate
from deepemhancer_plugin.core.commands.terminal import (
    Progress,
    collect_warnings,
    log,
    run_interruptible,
)
from deepemhancer_plugin.core.files import check_outputs, write_text
from deepemhancer_plugin.core.localres.oversharpening import (
    THRESHOLD,
    TOLERANCE,
    Oversharpening,
    measure_oversharpening,
)
from deepemhancer_plugin.version import __version__

OVERSHARPENED = 3  # exit status with --strict


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    p = argparse.ArgumentParser(
        "deepemhancer oversharpening",
        description="Does a sharpened or enhanced map claim more detail than its half maps "
        "support? The resolution that the network of `localres` reads off the map against the "
        "local FSC of the halves, voxel by voxel (after Ramirez-Aportela et al. 2019).",
        epilog="exit status: 0 done, whatever the verdict; 1 bad input; 2 wrong usage; 3 with "
        "--strict: beyond the limit",
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
        help="writes PREFIX.json, PREFIX.png, and in A PREFIX_claimed.mrc, PREFIX_supported.mrc",
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
        help="also sharpen the mean of the halves in steps, and find the B factor that is the "
        "limit",
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
    add_sampling_rate(p)
    add_gpus(p)
    return p


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    a = parser().parse_args(arguments)
    inputs = [file for file in (a.map, *a.halves, a.mask) if file]
    outputs = [a.output + end for end in (".json", ".png", "_claimed.mrc", "_supported.mrc")]
    check_outputs(outputs, inputs)

    started = time.perf_counter()
    with collect_warnings() as messages:
        result = run_interruptible(lambda: _run(a))
    _write_maps(outputs, result)
    report = {
        **result.report,
        "warnings": messages,
        "inputs": [os.path.abspath(file) for file in inputs],
        "outputs": [os.path.abspath(file) for file in outputs],
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_text(outputs[0], json.dumps(report, indent=1) + "\n")
    log(result.comparison.verdict())
    if result.scan is not None:
        log(result.scan.verdict())
    log(f"wrote {', '.join(outputs)} in {report['seconds']:.1f} s")
    return OVERSHARPENED if a.strict and result.comparison.oversharpened else 0


def _run(a: argparse.Namespace) -> Oversharpening:
    """Compare the map with its halves."""
    with Progress() as progress:
        return measure_oversharpening(
            a.map,
            a.halves,
            mask=a.mask,
            sampling_rate=a.samplingRate,
            network=a.network,
            tolerance=a.tolerance,
            threshold=a.threshold,
            scan=a.scan,
            device=a.gpu,
            progress=progress,
        )


def _write_maps(outputs: Sequence[str], result: Oversharpening) -> None:
    """Write the picture and the two maps."""
    from deepemhancer_plugin.core.localres.figures import plot_oversharpening
    from deepemhancer_plugin.core.maps.mrc import write_map

    _, picture, claimed, supported = outputs
    found, volume = result.comparison, result.map
    for file, data, words in (
        (claimed, found.claimed, "claimed by the map"),
        (supported, found.supported, "supported by the half maps"),
    ):
        label = f"deepemhancer {__version__} local resolution {words}"
        write_map(file, data, volume, [label])
    plot_oversharpening(Path(picture), volume.data, found, result.scan, volume.sampling_rate)
