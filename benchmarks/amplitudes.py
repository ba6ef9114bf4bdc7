"""How far the embedded network's amplitudes fade, and what restoring them does.

    python benchmarks/amplitudes.py --structures DIR [--variant NAME] [--maps N] [--output FILE.md]

It makes the tables of core/enhancement/amplitudes.py of half maps simulated from structures held
out of training, and shows what restored amplitudes (of a median) and some of the data do to the
metrics of these maps. DIR: atomic models with an index.tsv (columns file and split), of which the
validation split is used.
"""

import argparse
import itertools
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from quality import COLUMNS, LOWER_IS_BETTER, SCORED_ATOMS, make_reference, measure_map
from scipy import fft

from deepemhancer_plugin.core import enhance, load_weights
from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement.amplitudes import (
    BLEND_WITH_MEAN,
    BLEND_WITH_MEDIAN,
    CERTAIN_BAND,
    EXPECTED,
    FREQUENCIES,
    GAINS,
    RATIOS,
    blend_data,
    compare_amplitudes,
    measure_uncertainty,
    restore_amplitudes,
)
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.maps.filters import shell_width
from deepemhancer_plugin.core.maps.spectrum import power, radial_mean
from deepemhancer_plugin.core.simulation import (
    Simulated,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.training.structures import split_structures

GRID = np.arange(0.03, 0.48, 0.01)  # 1/A
CERTAIN = (GRID > CERTAIN_BAND[0]) & (GRID < CERTAIN_BAND[1])
TIMES = 0, 0.5, 1, 2  # what is blended in where the output is weak, relative to what is in use
LARGEST_BOX = 180  # voxels: a larger map has no other amplitudes


@dataclass(frozen=True)
class Curves:
    """Curves of several maps (maps, GRID), amplitudes relative to those of CERTAIN_BAND.

    Attributes:
        output: amplitudes of the network's output.
        model: amplitudes of the atomic model's map in its mask.
        cross: cross power of the two.
    """

    output: np.ndarray
    model: np.ndarray
    cross: np.ndarray


def measure_curves(output: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Measure amplitudes of the output and of the model's map, and their cross power (3, GRID)."""
    shape = output.shape
    ours = fft.rfftn(output, workers=-1)
    true = fft.rfftn(model * soft_mask(model, 1.0), workers=-1)
    cross = radial_mean((ours * true.conj()).real, shape)
    shells = np.arange(len(cross)) * shell_width(shape)
    curves = np.sqrt(power(ours, shape)), np.sqrt(power(true, shape)), cross
    values = np.array([np.interp(GRID, shells, curve) for curve in curves])
    level = np.sqrt(np.mean(values[:2, CERTAIN] ** 2, axis=1))
    values[2] /= level.prod()
    values[:2] /= level[:, None]
    return values


def finish_in_steps(output: np.ndarray, data: np.ndarray, fades: bool) -> dict[str, np.ndarray]:
    """Give the map after each step from the mean of the halves to the finished map."""
    steps = {"mean of halves": data, "the network's output": output}
    if fades:
        best, uncertainty = restore_amplitudes(output)
        steps["restored"] = best
    else:
        spectrum = fft.rfftn(output, workers=-1)
        best, uncertainty = output, measure_uncertainty(*compare_amplitudes(spectrum, output.shape))
    in_use = BLEND_WITH_MEDIAN if fades else BLEND_WITH_MEAN
    for times in TIMES:
        blend = replace(in_use, more=times * in_use.more)
        name = f"with {blend.least:.0%} of the data, up to {blend.more:.0%} more"
        steps[name] = blend_data(best.copy(), uncertainty, data, blend)
    return steps


def measure_steps(
    simulated: Simulated, output: np.ndarray, fades: bool, seed: int
) -> dict[str, np.ndarray]:
    """Measure the map after each step in the order of COLUMNS."""
    reference = make_reference(simulated, SCORED_ATOMS // 5, seed)
    data = (simulated.half1 + simulated.half2) / 2
    steps = finish_in_steps(output, data, fades)
    return {step: measure_map(volume, reference, 1.0) for step, volume in steps.items()}


def format_title(name: str, count: int) -> list[str]:
    """Format what the tables are of."""
    coarse, fine = 1 / CERTAIN_BAND[0], 1 / CERTAIN_BAND[1]
    return [
        f"# Amplitudes of the output: {name}",
        "",
        f"{count} maps simulated from structures of the validation split; amplitudes relative to "
        f"those from {coarse:.0f} to {fine:.0f} A.",
    ]


def format_expected(curves: Curves) -> list[str]:
    """Format the amplitudes of the models' maps."""
    lines = [
        "## Amplitudes of an atomic model's map in its mask",
        "",
        "| frequency (1/A) | 10th percentile | median | 90th percentile | in use |",
        "|---|---|---|---|---|",
    ]
    for k, used in zip(FREQUENCIES, EXPECTED, strict=True):
        at_k = curves.model[:, np.argmin(np.abs(GRID - k))]
        low, middle, high = np.percentile(at_k, (10, 50, 90))
        lines.append(f"| {k:.2f} | {low:.3f} | {middle:.3f} | {high:.3f} | {used:.3f} |")
    return lines


def format_gains(curves: Curves, fades: bool) -> list[str]:
    """Format the gain that brings the output nearest to the models' maps, by its fading."""
    fine = GRID > CERTAIN_BAND[1]
    expected = np.median(curves.model, 0)
    ratio = np.minimum.accumulate((curves.output / expected)[:, fine], axis=1)
    gain = curves.cross / curves.output**2
    gain = (gain / gain[:, CERTAIN].mean(1, keepdims=True))[:, fine]
    correlation = (curves.cross / curves.output / curves.model)[:, fine]
    lines = [
        "## The gain that takes the output nearest to the model's map",
        "",
        "By how many times the expected amplitude the output has.",
        "",
        "| output / expected | shells | 10th percentile | median | 90th percentile | in use "
        "| correlation there |",
        "|---" * 7 + "|",
    ]
    for low, high in itertools.pairwise(RATIOS):
        inside = (ratio >= low) & (ratio < high)
        if inside.any():
            used = np.interp(np.median(ratio[inside]), RATIOS, GAINS) if fades else 1.0
            percentiles = np.percentile(gain[inside], (10, 50, 90))
            cells = [*percentiles, used, np.median(correlation[inside])]
            text = " | ".join(f"{cell:.2f}" for cell in cells)
            lines.append(f"| {low:.2f}-{high:.2f} | {inside.sum()} | {text} |")
    return lines


def format_steps(steps: dict[str, list[np.ndarray]], fades: bool) -> list[str]:
    """Format means of the metrics after each step, and the worst change of a map."""
    reference = steps["restored" if fades else "the network's output"]
    better = np.where(LOWER_IS_BETTER, -1, 1)
    lines = [
        "## What the steps do",
        "",
        "Means over the maps, and the worst of a map against the network's output"
        f"{' with restored amplitudes' * fades}.",
        "",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for step, rows in steps.items():
        worst = (better * (np.array(rows) - reference)).min(0) * better
        cells = zip(np.mean(rows, axis=0), worst, strict=True)
        text = " | ".join(f"{mean:.3f} ({change:+.3f})" for mean, change in cells)
        lines.append(f"| {step} | {text} |")
    return lines


def main() -> int:
    """Run the benchmark; returns its exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--structures", required=True)
    p.add_argument("--variant", default="tightTarget")
    p.add_argument("--weights", help="a file, instead")
    p.add_argument("--maps", type=int, default=20)
    p.add_argument("--output")
    a = p.parse_args()
    warnings.simplefilter("ignore", MapWarning)
    model, devices = load_weights(a.weights or a.variant), select_devices(None)
    fades = model.prediction == "median"
    found = []
    steps: dict[str, list[np.ndarray]] = {}
    files = split_structures(Path(a.structures))["validation"]
    for i, file in enumerate(files[:: max(1, len(files) // a.maps)]):
        conditions = random_conditions(np.random.default_rng([2, i]), typical=True)
        simulated = simulate_halves(read_molecule(file), conditions, i, workers=2)
        if max(simulated.model.shape) > LARGEST_BOX:
            continue
        output = enhance(
            simulated.half1,
            simulated.half2,
            sampling_rate=1.0,
            weights=model,
            device=devices,
            amplitudes=False,
        ).data
        for step, values in measure_steps(simulated, output, fades, i).items():
            steps.setdefault(step, []).append(values)
        found.append(measure_curves(output, simulated.model))
        correlation = found[-1][2] / found[-1][0] / found[-1][1]
        print(f"{file.name}: correlation {np.round(correlation, 2)[::5]}", flush=True)
    curves = Curves(*np.array(found).swapaxes(0, 1))
    sections = [
        format_title(model.name, len(found)),
        format_expected(curves),
        format_gains(curves, fades),
        format_steps(steps, fades),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections) + "\n"
    print(text)
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
