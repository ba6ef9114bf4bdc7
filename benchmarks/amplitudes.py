"""How far the embedded network's amplitudes fade, on half maps simulated from structures held out of training: the tables of core/amplitudes.py,
and what raised amplitudes (of a median) and a share of the data do to the metrics of these maps.

    python benchmarks/amplitudes.py --structures DIR [--variant NAME] [--maps N] [--output FILE.md]

DIR: atomic models with an index.tsv (columns file and split), of which the validation split is used.
"""

import argparse
import itertools
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import COLUMNS, LOWER_IS_BETTER, SCORED_ATOMS, measured
from scipy import fft

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement.amplitudes import (
    BAND,
    EXPECTED,
    FADED,
    FREQUENCIES,
    GAIN,
    OF_MEAN,
    OF_MEDIAN,
    faded,
    raised,
    uncertainty,
    with_data,
)
from deepemhancer_plugin.core.enhancement.enhance import Options, enhance
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.evaluation.modelmap import find_least_ordered, mask_molecule
from deepemhancer_plugin.core.evaluation.qscore import draw_atoms
from deepemhancer_plugin.core.evaluation.report import Reference
from deepemhancer_plugin.core.maps import filters, spectrum
from deepemhancer_plugin.core.simulation import random_conditions, read_molecule, simulate_halves
from deepemhancer_plugin.core.training.structures import split_structures
from deepemhancer_plugin.core.weights.embedded import load_embedded, load_file

GRID = np.arange(0.03, 0.48, 0.01)  # 1/A
TIMES = (0, 0.5, 1, 2)  # the share of the data in use, where the output is weak and uncertain
LARGEST_BOX = 180  # voxels: a larger map has no other amplitudes


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--structures", required=True)
    p.add_argument("--variant", default="tightTarget")
    p.add_argument("--weights", help="a file, instead")
    p.add_argument("--maps", type=int, default=20)
    p.add_argument("--output")
    a = p.parse_args()
    warnings.simplefilter("ignore", MapWarning)
    model, where = (
        load_file(a.weights) if a.weights else load_embedded(a.variant),
        select_devices(None),
    )
    in_use = OF_MEDIAN if model.fades else OF_MEAN
    found = []
    steps: dict[str, list[np.ndarray]] = {}
    files = split_structures(Path(a.structures))["validation"]
    for i, file in enumerate(files[:: max(1, len(files) // a.maps)]):
        made = simulate_halves(
            read_molecule(file),
            random_conditions(np.random.default_rng([2, i]), typical=True),
            i,
            workers=2,
        )
        shape = made.model.shape
        if max(shape) > LARGEST_BOX:
            continue
        data = (made.half1 + made.half2) / 2
        output = enhance(
            [made.half1, made.half2], 1.0, model, where, Options(amplitudes=False)
        ).data
        truth = Reference(
            made.model,
            soft_mask(made.model, 1.0),
            mask_molecule(made.molecule[find_least_ordered(made.observed)], shape, 1.0),
            made.molecule.positions,
            draw_atoms(len(made.molecule), SCORED_ATOMS // 5, i),
        )
        best, uncertain = (
            raised(output)
            if model.fades
            else (output, uncertainty(*faded(fft.rfftn(output, workers=-1), shape)))
        )
        stages = {"mean of halves": data, "the network's output": output}
        stages |= {"raised": best} if model.fades else {}
        for share in [replace(in_use, more=times * in_use.more) for times in TIMES]:
            stages[f"with {share.least:.0%} of the data, up to {share.more:.0%} more"] = with_data(
                best.copy(), uncertain, data, share
            )
        for step, volume in stages.items():
            steps.setdefault(step, []).append(measured(volume, truth, 1.0))
        ours, true = (
            fft.rfftn(output, workers=-1),
            fft.rfftn(made.model * soft_mask(made.model, 1.0), workers=-1),
        )
        cross = spectrum.radial_mean((ours * true.conj()).real, shape)
        shells = np.arange(len(cross)) * filters.shell_width(shape, 1.0)
        values = np.array(
            [
                np.interp(GRID, shells, v)
                for v in (
                    np.sqrt(spectrum.power(ours, shape)),
                    np.sqrt(spectrum.power(true, shape)),
                    cross,
                )
            ]
        )
        certain = (GRID > BAND[0]) & (GRID < BAND[1])
        level = np.sqrt(np.mean(values[:2, certain] ** 2, axis=1))
        values[2] /= level.prod()
        values[:2] /= level[:, None]
        found.append(values)
        print(
            f"{file.name}: correlation {np.round(values[2] / values[0] / values[1], 2)[::5]}",
            flush=True,
        )
    ours, true, cross = np.array(found).swapaxes(0, 1)
    fine = GRID > BAND[1]
    ratio = np.minimum.accumulate((ours / np.median(true, 0))[:, fine], axis=1)
    gain = cross / ours**2
    gain = (gain / gain[:, (GRID > BAND[0]) & (GRID < BAND[1])].mean(1, keepdims=True))[:, fine]
    correlation = (cross / ours / true)[:, fine]
    lines = [
        f"# Amplitudes of the output: {model.name}",
        "",
        f"{len(found)} maps simulated from structures of the validation split; amplitudes "
        f"relative to those from {1 / BAND[0]:.0f} to {1 / BAND[1]:.0f} A.",
        "",
        "## Amplitudes of an atomic model's map in its mask",
        "",
        "| frequency (1/A) | 10th percentile | median | 90th percentile | in use |",
        "|---|---|---|---|---|",
    ]
    for k, used in zip(FREQUENCIES, EXPECTED, strict=True):
        low, middle, high = np.percentile(true[:, np.argmin(np.abs(GRID - k))], (10, 50, 90))
        lines.append(f"| {k:.2f} | {low:.3f} | {middle:.3f} | {high:.3f} | {used:.3f} |")
    lines += [
        "",
        "## The gain that takes the output nearest to the model's map",
        "",
        "By how many times the expected amplitude the output has.",
        "",
        "| output / expected | shells | 10th percentile | median | 90th percentile | in use | correlation there |",
        "|---" * 7 + "|",
    ]
    for low, high in itertools.pairwise(FADED):
        inside = (ratio >= low) & (ratio < high)
        if inside.any():
            used = np.interp(np.median(ratio[inside]), FADED, GAIN) if model.fades else 1.0
            cells = [
                *np.percentile(gain[inside], (10, 50, 90)),
                used,
                np.median(correlation[inside]),
            ]
            lines.append(
                f"| {low:.2f}-{high:.2f} | {inside.sum()} | "
                + " | ".join(f"{c:.2f}" for c in cells)
                + " |"
            )
    lines += [
        "",
        "## What the steps do",
        "",
        "Means over the maps, and the worst of a map against the network's output"
        f"{' with raised amplitudes' * model.fades}.",
        "",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    reference = steps["raised" if model.fades else "the network's output"]
    better = np.where(LOWER_IS_BETTER, -1, 1)
    for step, rows in steps.items():
        worst = (better * (np.array(rows) - reference)).min(0) * better
        lines.append(
            f"| {step} | "
            + " | ".join(
                f"{m:.3f} ({w:+.3f})" for m, w in zip(np.mean(rows, axis=0), worst, strict=True)
            )
            + " |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
