"""`deepemhancer localres`: arguments, files and words around `local_resolution`."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepemhancer_plugin.core.commands.flags import add_gpus, add_sampling_rate
from deepemhancer_plugin.core.commands.terminal import (
    Progress,
    collect_warnings,
    log,
    run_interruptible,
)
from deepemhancer_plugin.core.files import check_outputs, write_text

if TYPE_CHECKING:
    from deepemhancer_plugin.core.localres.resolution import LocalResolution
    from deepemhancer_plugin.core.maps.mrc import Map


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    p = argparse.ArgumentParser(
        "deepemhancer localres",
        description="Local resolution of a map by deep learning, from the map alone (after "
        "DeepRes, Ramirez-Aportela et al. 2019): how fine the detail looks around each voxel. It "
        "follows sharpening.",
    )
    p.add_argument(
        "map",
        metavar="MAP",
        help="map, sharpened as it will be interpreted (.mrc, .map, also .gz, .bz2)",
    )
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="local-resolution map to write, in A; 0 outside the mask",
    )
    p.add_argument(
        "-m",
        "--mask",
        metavar="MASK",
        help="mask of the map's box (default: made from the map, or from the halves)",
    )
    p.add_argument(
        "--halves",
        nargs=2,
        metavar=("A", "B"),
        help="half maps: also the windowed FSC between them, as OUT_blocres.mrc",
    )
    p.add_argument(
        "--network",
        default="auto",
        metavar="auto|1.0|0.5|FILE",
        help="1.0: 2.5-13 A, sees the map at 1 A/voxel; 0.5: 1.5-6 A; auto: 0.5 where 1.0 finds "
        "the median near its fine end",
    )
    add_sampling_rate(p)
    add_gpus(p)
    p.add_argument(
        "--report",
        metavar="FILE",
        help="JSON report to write (default: beside OUT, its name with .json)",
    )
    return p


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    a = parser().parse_args(arguments)
    inputs = [file for file in (a.map, a.mask, *(a.halves or ())) if file]
    stem = os.path.splitext(a.output.removesuffix(".gz").removesuffix(".bz2"))[0]
    report_file = a.report or f"{stem}.json"
    pictures = {name: f"{stem}_{name}.png" for name in ("histogram", "slices")}
    fsc_file = f"{stem}_blocres.mrc"
    outputs = [a.output, report_file, *pictures.values(), *([fsc_file] if a.halves else [])]
    check_outputs(outputs, inputs)

    started = time.perf_counter()
    with collect_warnings() as messages:
        volume, result = run_interruptible(lambda: _run(a))
    result.save(a.output)
    log(f"wrote {a.output}")
    if result.local_fsc is not None:
        result.save_local_fsc(fsc_file)
        log(f"wrote {fsc_file}")
    _draw(pictures, volume, result)
    report = {
        **result.report,
        "inputs": [os.path.abspath(file) for file in inputs],
        "output": os.path.abspath(a.output),
        **{name: os.path.abspath(file) for name, file in pictures.items()},
        "warnings": messages,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_text(report_file, json.dumps(report, indent=1) + "\n")
    for key, name in (
        ("local_resolution", "local resolution"),
        ("local_fsc", "local FSC of the halves"),
    ):
        if key in report:
            r = report[key]
            log(
                f"{name}: median {r['median']:.2f} A, a quarter finer than "
                f"{r['percentile_25']:.2f} A, a quarter coarser than {r['percentile_75']:.2f} A"
            )
    log(f"done in {report['seconds']:.1f} s")
    return 0


def _run(a: argparse.Namespace) -> tuple[Map, LocalResolution]:
    """The map and its local resolution."""
    from deepemhancer_plugin.core.localres.resolution import local_resolution
    from deepemhancer_plugin.core.maps.mrc import read_map

    volume = read_map(a.map, a.samplingRate)
    box = " x ".join(map(str, volume.data.shape[::-1]))
    log(f"{volume.path}: {box} voxels at {volume.sampling_rate:.4g} A/voxel")
    with Progress() as progress:
        result = local_resolution(
            volume,
            halves=a.halves,
            mask=a.mask,
            sampling_rate=a.samplingRate,
            network=a.network,
            device=a.gpu,
            progress=progress,
        )
    return volume, result


def _draw(files: dict[str, str], volume: Map, result: LocalResolution) -> None:
    """Draw the histogram and the slices."""
    from deepemhancer_plugin.core.localres import figures

    curves = {"deep learning": result.data[result.mask]}
    if result.local_fsc is not None:
        curves["half maps (local FSC = 0.5)"] = result.local_fsc[result.mask]
    figures.plot_histogram(Path(files["histogram"]), curves)
    figures.plot_slices(Path(files["slices"]), volume.data, result.data, volume.sampling_rate)
