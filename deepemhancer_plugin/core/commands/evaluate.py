"""`deepemhancer evaluate`: how good maps are, as tables, a picture and JSON."""

import argparse
import json
import os
from collections.abc import Sequence

from deepemhancer_plugin.core.commands.flags import add_sampling_rate
from deepemhancer_plugin.core.commands.terminal import Progress, collect_warnings, log
from deepemhancer_plugin.core.evaluation.evaluate import Evaluation, evaluate
from deepemhancer_plugin.core.evaluation.plot import plot_evaluation
from deepemhancer_plugin.core.evaluation.report import (
    HALF_MAP_METRICS,
    METRICS,
    explain_metrics,
    format_rows,
)
from deepemhancer_plugin.core.files import check_outputs, replacing, write_text

Table = tuple[list[str], list[list[str]]]  # heads of the columns, and rows with their names


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer evaluate",
        description="How good maps are, by their half maps and by an atomic model: FSC curves, "
        "correlations, Q-score, amplitudes. Several maps of one grid stand side by side; the half "
        "maps' mean is one of them.",
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
    add_sampling_rate(p)
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
    inputs = [f for f in (*a.maps, *(a.halves or ()), a.model, a.modelMap, a.mask) if f]
    json_file, markdown_file, picture = (f"{a.output}.{kind}" for kind in ("json", "md", "png"))
    outputs = json_file, markdown_file, picture
    check_outputs(outputs, inputs)
    with collect_warnings() as messages, Progress() as progress:
        evaluation = evaluate(
            list(dict.fromkeys(a.maps)),
            halves=a.halves,
            model=a.model,
            model_map=a.modelMap,
            mask=a.mask,
            sampling_rate=a.samplingRate,
            resolution=a.resolution,
            atoms=a.atoms,
            seed=a.seed,
            progress=progress,
        )
    box = " x ".join(str(n) for n in reversed(evaluation.report["box"]))
    log(f"{inputs[0]}: {box} voxels at {evaluation.sampling_rate:.4g} A/voxel")
    tables, notes = _make_tables(evaluation), explain_metrics(evaluation.resolution)
    _print_tables(tables)
    print(notes, flush=True)
    write_text(json_file, json.dumps({**evaluation.report, "warnings": messages}, indent=1) + "\n")
    write_text(markdown_file, "\n".join([*map(_format_markdown, tables), f"{notes}\n"]))
    with replacing(picture) as temporary:
        plot_evaluation(temporary, evaluation)
    for output in outputs:
        log(f"wrote {output}")
    return 0


def _make_tables(evaluation: Evaluation) -> list[Table]:
    """One table of the half maps, if there are any, and one of the maps."""
    names = [m.name for m in evaluation.maps]
    tables = [(names, format_rows([m.metrics for m in evaluation.maps], METRICS))]
    if evaluation.half_map_fsc:
        rows = format_rows([evaluation.half_map_metrics], HALF_MAP_METRICS)
        tables.insert(0, (["half maps"], rows))
    return tables


def _format_markdown(table: Table) -> str:
    columns, rows = table
    lines = [["", *columns], ["---", *(["---:"] * len(columns))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _print_tables(tables: list[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    widest = max(len(columns) for columns, _ in tables)
    console = Console(width=None if os.isatty(1) else 60 + 20 * widest)
    for columns, rows in tables:
        table = RichTable("")
        for column in columns:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
