"""`deepemhancer evaluate`: maps, half maps and a model from files, metrics to a table, a picture and JSON."""

import argparse
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from deepemhancer_plugin import __version__
from deepemhancer_plugin.core.commands.terminal import Progress, log, collect_warnings
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.evaluation import modelmap, qscore, report
from deepemhancer_plugin.core.evaluation.halfmaps import half_map_fsc
from deepemhancer_plugin.core.evaluation.metrics import soft_mask
from deepemhancer_plugin.core.evaluation.plot import plot
from deepemhancer_plugin.core.files import check_outputs, replacing, write_text
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation import read_molecule

IN_PLACE = 0.1  # CC_mask under which a model is taken to lie elsewhere: in place it is over 0.45 for maps of 6 to 9 A, 0.28 for a part of one


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer evaluate",
        description="How good maps are, by their half maps and by an atomic model: FSC curves, "
        "correlations, Q-score, amplitudes. Several maps of one grid stand side by side; the half maps' mean is one of them.",
    )
    p.add_argument(
        "maps", nargs="*", metavar="MAP", help="maps on the same grid (.mrc, .map, also .gz, .bz2)"
    )
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PREFIX",
        help="writes PREFIX.json, PREFIX.md and PREFIX.png",
    )
    p.add_argument(
        "--halves",
        nargs=2,
        metavar=("HALF1", "HALF2"),
        help="half maps: their FSC, with RELION's correction for the mask",
    )
    p.add_argument(
        "--model", metavar="FILE", help="atomic model in the maps' place (PDB, mmCIF, also .gz)"
    )
    p.add_argument(
        "--modelMap",
        metavar="MAP",
        help="map to compare with instead of the one made of the model's atoms",
    )
    p.add_argument(
        "--mask", metavar="MASK", help="soft mask, 0-1 (default: made of the model's map)"
    )
    p.add_argument(
        "-s",
        "--samplingRate",
        type=float,
        metavar="A",
        help="sampling rate in A/voxel, if the headers' is wrong or missing",
    )
    p.add_argument(
        "--resolution",
        type=float,
        metavar="A",
        help="where the FSC's average and the fit of the B factor end (default: where the "
        "half maps' FSC falls under 0.143, else the finest map-model FSC)",
    )
    p.add_argument(
        "--atoms",
        type=int,
        metavar="N",
        help="Q-scores of so many atoms drawn at random (default: of all)",
    )
    p.add_argument("--seed", type=int, default=0)
    return p


def main(arguments: Sequence[str]) -> int:
    """Run the sub-command; returns its exit status."""
    p = _parser()
    a = p.parse_args(arguments)
    if not a.maps and not a.halves:
        p.error("a map or two half maps (--halves) are needed")
    if a.atoms is not None and a.atoms < 1:
        raise InputError(f"--atoms {a.atoms}: at least 1 is needed")
    inputs = [f for f in (*a.maps, *(a.halves or ()), a.model, a.modelMap, a.mask) if f]
    outputs = [f"{a.output}.{kind}" for kind in ("json", "md", "png")]
    check_outputs(outputs, inputs)
    with collect_warnings() as messages:
        _evaluate(a, outputs, messages)
    for output in outputs:
        log(f"wrote {output}")
    return 0


def _evaluate(a: argparse.Namespace, outputs: list[str], messages: list[str]) -> None:
    maps = {path: mrc.read_map(path, a.samplingRate) for path in dict.fromkeys(a.maps)}
    halves = [mrc.read_map(path, a.samplingRate) for path in a.halves or ()]
    first = next(iter([*maps.values(), *halves]))
    if halves:
        mrc.check_halves(*halves)
    for other in [*maps.values(), *halves]:
        mrc.check_same_grid(other, first)
    rate = first.sampling_rate
    if a.resolution is not None and not 1.999 * rate <= a.resolution <= 100:
        raise InputError(
            f"--resolution {a.resolution:g}: between Nyquist ({2 * rate:.3g} A) and 100 A is right"
        )
    log(
        f"{first.path}: {' x '.join(map(str, first.data.shape[::-1]))} voxels at {rate:.4g} A/voxel"
    )
    mask = None
    if a.mask:
        mrc.read_mask(a.mask, first, a.samplingRate)  # its checks
        mask = np.clip(mrc.read_map(a.mask, rate).data, 0, 1)
    truth, known = _truth(a, first, mask)
    fsc = (
        half_map_fsc(halves[0].data, halves[1].data, rate, truth.mask if truth else mask, a.seed)
        if halves
        else None
    )
    resolution = a.resolution or (fsc.resolution(0.143) if fsc else None)
    named = [("mean of halves", (halves[0].data + halves[1].data) / 2)] if halves else []
    named += [(_name(path, maps), volume.data) for path, volume in maps.items()]
    with Progress() as progress:
        judged, resolution = report.judge(
            named, rate, truth, resolution, lambda done, total: progress("metrics", done, total)
        )
    for m in judged:
        if truth and m.metrics["cc_mask"] < IN_PLACE:
            warnings.warn(
                f"{a.model or a.modelMap}: CC_mask with {m.name} is {m.metrics['cc_mask']:.2f}: it does not seem to lie in the map's place "
                "(origin, hand, sampling rate)",
                MapWarning,
                stacklevel=2,
            )
    numbers: dict[str, Any] = {
        "version": __version__,
        "sampling_rate": rate,
        "box": list(first.data.shape),
        "resolution": resolution,
        "warnings": messages,
        **known,
        "maps": [
            {
                "name": m.name,
                **m.metrics,
                "frequency": m.frequency.tolist(),
                **{k: c.tolist() for k, c in m.curves.items()},
                **({"q_scores": np.round(m.q_scores, 4).tolist()} if len(m.q_scores) else {}),
            }
            for m in judged
        ],
    }
    tables = [([m.name for m in judged], report.rows([m.metrics for m in judged], report.METRICS))]
    if fsc:
        metrics = report.half_map_metrics(fsc)
        numbers["halves"] = {
            "files": [os.path.abspath(f) for f in a.halves],
            **metrics,
            "randomised_from": fsc.randomised_from,
            "frequency": fsc.frequency.tolist(),
            **{name: curve.tolist() for name, curve in fsc.curves.items()},
        }
        tables.insert(0, (["half maps"], report.rows([metrics], report.HALF_MAP_METRICS)))
    _print(tables)
    print(report.notes(resolution), flush=True)
    markdown = "\n".join(_markdown(*table) for table in tables) + f"\n{report.notes(resolution)}\n"
    for path, text in zip(outputs, (json.dumps(numbers, indent=1) + "\n", markdown), strict=False):
        write_text(path, text)
    with replacing(outputs[2]) as temporary:
        plot(temporary, judged, fsc, truth.model if truth else None, rate, resolution)


def _truth(
    a: argparse.Namespace, first: mrc.Map, mask: np.ndarray | None
) -> tuple[report.Truth | None, dict[str, Any]]:
    """What --model and --modelMap say (None without them), and what there is to say about it."""
    if not a.model and not a.modelMap:
        return None, {}
    shape, rate = first.data.shape, first.sampling_rate
    atoms = (
        modelmap.placed(read_molecule(a.model, standardise=False), first, a.model)
        if a.model
        else None
    )
    if a.modelMap:
        given = mrc.read_map(a.modelMap, a.samplingRate)
        mrc.check_same_grid(given, first)
        model = given.data
    else:
        assert atoms is not None
        model = modelmap.model_map(atoms, shape, rate)
    local = positions = scored = None
    known: dict[str, Any] = {"model": os.path.abspath(a.model or a.modelMap)}
    if atoms is not None:
        positions, scored = atoms.positions, qscore.sample(len(atoms), a.atoms, a.seed)
        if (
            np.ptp(atoms.b_factors) > 1
        ):  # A^2; a file whose B factors are all the same says nothing about order
            local = modelmap.mask_of(atoms[modelmap.least_ordered(atoms)], shape, rate)
        known |= {
            "atoms": len(atoms),
            "atoms_scored": len(atoms) if scored is None else len(scored),
        }
    return report.Truth(
        model, soft_mask(model, rate) if mask is None else mask, local, positions, scored
    ), known


def _name(path: str, paths: Iterable[str]) -> str:
    """The file's name without endings, or the whole path where another map has the same name."""
    names = [_stem(p) for p in paths]
    return _stem(path) if names.count(_stem(path)) == 1 else path


def _stem(path: str) -> str:
    name = os.path.basename(path)
    for ending in (".gz", ".bz2", ".mrc", ".map"):
        name = name.removesuffix(ending)
    return name


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [["", *columns], ["---", *(["---:"] * len(columns))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _print(tables: list[tuple[list[str], list[list[str]]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(
        width=None if os.isatty(1) else 60 + 20 * max(len(columns) for columns, _ in tables)
    )
    for columns, rows in tables:
        table = Table("")
        for column in columns:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
