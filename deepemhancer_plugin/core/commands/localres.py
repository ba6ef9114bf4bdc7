"""`deepemhancer localres` and `deepemhancer localres-train`: arguments, files and words around the functions that do the work."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepemhancer_plugin import __version__
from deepemhancer_plugin.core.commands.terminal import Progress, run_interruptible, log, collect_warnings
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import check_outputs, write_text
from deepemhancer_plugin.core.localres.statistics import statistics
from deepemhancer_plugin.core.maps import mrc


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer localres",
        description="Local resolution of a map by deep learning, from the map alone (after DeepRes, "
        "Ramirez-Aportela et al. 2019): how fine the detail looks around each voxel. It follows sharpening.",
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
        help="1.0: 2.5-13 A, sees the map at 1 A/voxel; 0.5: 1.5-6 A; auto: 0.5 where 1.0 finds the median near its fine end",
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
    p.add_argument(
        "--report",
        metavar="FILE",
        help="JSON report to write (default: beside OUT, its name with .json)",
    )
    return p


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer localres MAP -o OUT`"""
    a = parser().parse_args(arguments)
    started = time.perf_counter()
    with collect_warnings() as messages:
        found = run_interruptible(lambda: _run(a))
    volume, results, facts = found
    stem = _stem(a.output)
    label = f"deepemhancer {__version__} local resolution, network {facts['network']}"
    for path, values in (
        (a.output, results["network"]),
        *(((f"{stem}_blocres.mrc", results["halves"]),) if "halves" in results else ()),
    ):
        mrc.write_map(
            path,
            values,
            volume,
            [
                label
                if path == a.output
                else f"deepemhancer {__version__} local FSC of the half maps"
            ],
        )
        log(f"wrote {path}")
    from deepemhancer_plugin.core.localres import figures

    inside = results["network"] > 0
    names = {"network": "deep learning", "halves": "half maps (local FSC = 0.5)"}
    figures.histogram(
        Path(f"{stem}_histogram.png"), {names[k]: v[inside] for k, v in results.items()}
    )
    figures.slices(
        Path(f"{stem}_slices.png"), volume.data, results["network"], volume.sampling_rate
    )
    report = {
        "version": __version__,
        **facts,
        "local_resolution": statistics(results["network"][inside]),
        **({"local_fsc": statistics(results["halves"][inside])} if "halves" in results else {}),
        "sampling_rate": volume.sampling_rate,
        "box": list(volume.data.shape),
        "origin": list(volume.origin),
        "inputs": [os.path.abspath(f) for f in (a.map, a.mask, *(a.halves or ())) if f],
        "output": os.path.abspath(a.output),
        "histogram": os.path.abspath(f"{stem}_histogram.png"),
        "slices": os.path.abspath(f"{stem}_slices.png"),
        "warnings": messages,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_text(a.report or f"{stem}.json", json.dumps(report, indent=1) + "\n")
    for name, key in (
        ("local resolution", "local_resolution"),
        ("local FSC of the halves", "local_fsc"),
    ):
        if key in report:
            r = report[key]
            log(
                f"{name}: median {r['median']:.2f} A, a quarter finer than {r['percentile_25']:.2f} A, a quarter coarser than "
                f"{r['percentile_75']:.2f} A"
            )
    log(f"done in {report['seconds']:.1f} s")
    return 0


def _stem(path: str) -> str:
    return os.path.splitext(path.removesuffix(".gz").removesuffix(".bz2"))[0]


def _run(a: argparse.Namespace) -> tuple:
    """From the arguments to (the map, results by name, facts for the report)."""
    inputs = [f for f in (a.map, a.mask, *(a.halves or ())) if f]
    stem = _stem(a.output)
    others = [
        a.report or f"{stem}.json",
        f"{stem}_histogram.png",
        f"{stem}_slices.png",
        *([f"{stem}_blocres.mrc"] if a.halves else []),
    ]
    check_outputs([a.output, *others], inputs)
    if a.network not in ("auto", "1.0", "0.5") and not os.path.isfile(a.network):
        raise InputError(
            f"--network {a.network}: no such network; auto, 1.0, 0.5 or a weights file is right"
        )
    volume = mrc.read_map(a.map, a.samplingRate)
    halves = [mrc.read_map(h, a.samplingRate) for h in a.halves or ()]
    if halves:
        mrc.check_halves(*halves)
        mrc.check_same_grid(volume, halves[0])
    log(
        f"{volume.path}: {' x '.join(map(str, volume.data.shape[::-1]))} voxels at {volume.sampling_rate:.4g} A/voxel"
    )
    from deepemhancer_plugin.core.localres.mask import auto_mask

    pair = (halves[0].data, halves[1].data) if halves else None
    mask = (
        mrc.read_mask(a.mask, volume, a.samplingRate)
        if a.mask
        else auto_mask(volume.data, volume.sampling_rate, pair)
    )
    log(
        f"mask: {a.mask or 'made from the ' + ('halves' if halves else 'map')}, {int(mask.sum())} voxels, {100 * mask.mean():.1f} % of the box"
    )
    from deepemhancer_plugin.core import devices

    where = devices.select_devices(a.gpu)
    log(f"device: {where.description} ({where.why})")
    with Progress() as progress:
        resolution, network = _predict(volume, mask, a.network, where, progress)
        results = {"network": resolution}
        if pair:
            from deepemhancer_plugin.core.localres.blocres import local_fsc

            results["halves"] = local_fsc(*pair, volume.sampling_rate, mask, progress=progress)
    facts = {
        "network": network,
        "device": where.description,
        "mask": {"source": a.mask or ("halves" if halves else "map"), "voxels": int(mask.sum())},
    }
    return volume, results, facts


def _predict(
    volume: mrc.Map, mask: np.ndarray, name: str, where, progress: Progress
) -> tuple[np.ndarray, str]:
    """The local resolution, and the network that was right for it."""
    import keras

    from deepemhancer_plugin.core.localres import predict

    rate = volume.sampling_rate
    with keras.device(where.names[0]):
        resolution = predict.predict_resolution(
            volume.data, mask, rate, predict.load_network("1.0" if name == "auto" else name), progress
        )
        if name == "auto":
            name, median = "1.0", float(np.median(resolution[mask]))
            # A map whose voxels hold nothing finer than the coarse network's range has nothing for the fine one.
            if median < predict.FINE_MEDIAN and 2 * rate < predict.RANGES["1.0"].finest:
                log(
                    f"network 1.0: median {median:.2f} A, near its fine end: the network for 0.5 A/voxel is used"
                )
                name, resolution = (
                    "0.5",
                    predict.predict_resolution(
                        volume.data, mask, rate, predict.load_network("0.5"), progress
                    ),
                )
    log(f"network: {name}")
    return resolution, name
