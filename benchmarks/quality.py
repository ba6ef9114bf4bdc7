"""Map-model metrics before and after enhancement, on simulated and reconstructed half maps.

    python benchmarks/quality.py [--structures DIR] [--reconstructions DIR] [--relion]
                                 [--variant NAME] [--mask] [--output FILE.md]

DIR of structures: atomic models with an index.tsv (columns file and split), of which the test split
is used; without it synthetic proteins. DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz
and NAME_model.mrc.gz. Their atoms are not known: no Q-score, no least ordered fifth. Maps of noise
alone come from the structures, too.

--mask gives the weights a mask as -m does, that of the molecule with 6 A round it; the variant
masked always gets one. --relion puts beside them what relion_mask_create and relion_postprocess
--auto_bfac make of the same halves (RELION on the PATH).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import fft

from deepemhancer_plugin.core import enhance, load_weights, read_map
from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.evaluation.modelmap import find_least_ordered, mask_molecule
from deepemhancer_plugin.core.evaluation.qscore import draw_atoms, q_scores
from deepemhancer_plugin.core.evaluation.report import Reference
from deepemhancer_plugin.core.maps.filters import frequencies
from deepemhancer_plugin.core.maps.mrc import new_map, write_map
from deepemhancer_plugin.core.maps.spectrum import fsc, resolution
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    Simulated,
    from_structure,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.structures import split_structures

COLUMNS = (
    "FSC-0.5 masked (A)",
    "FSC-0.5 unmasked (A)",
    "CC_mask",
    "CC_box",
    "Q-score",
    "FSC-0.5 least ordered fifth (A)",
)
LOWER_IS_BETTER = np.array([True, True, False, False, False, True])
SCORED_ATOMS = 1500  # of a map, drawn with a seed
FEWEST_PHOSPHORUS = 10  # atoms of a nucleic acid; a cofactor has fewer
RELION_MASK_LOW_PASS = 15.0  # A
NOISE_EVERY = 6  # structures: one map of noise alone

Enhance = Callable[[Sequence[np.ndarray], float, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """Values of a map.

    Attributes:
        name: of the map.
        conditions: in words.
        kinds: of molecule and of data.
        values: (methods, metrics): mean of halves, perhaps RELION, enhanced.
    """

    name: str
    conditions: str
    kinds: set[str]
    values: np.ndarray


def read_test_molecules(folder: str | None) -> list[tuple[str, Molecule]]:
    """Read the molecules of a folder's test split, or make synthetic ones, with their names."""
    if folder is None:
        return [(f"synthetic {seed}", from_structure(build_protein(seed))) for seed in range(4)]
    files = split_structures(Path(folder))["test"]
    return [(file.name.split(".")[0], read_molecule(file)) for file in files]


def measure_map(volume: np.ndarray, reference: Reference, rate: float) -> np.ndarray:
    """Measure a map in the order of COLUMNS, as far as the reference allows."""
    values = list(astuple(score(volume, reference.model, reference.mask, rate)))
    local = reference.least_ordered
    if reference.positions is not None and local is not None:
        scores = q_scores(volume, reference.positions, rate, reference.scored)
        values.append(float(scores.mean()))
        values.append(resolution(*fsc(volume * local, reference.model * local, rate), 0.5))
    return np.array(values)


def make_reference(simulated: Simulated, atoms: int, seed: int) -> Reference:
    """Make what maps at 1 A/voxel are compared with; Q-scores are those of some of the atoms."""
    model, molecule = simulated.model, simulated.molecule
    weakest = molecule[find_least_ordered(simulated.observed)]
    return Reference(
        model,
        soft_mask(model, 1.0),
        mask_molecule(weakest, model.shape, 1.0),
        molecule.positions,
        draw_atoms(len(molecule), atoms, seed),
    )


def postprocess(half1: np.ndarray, half2: np.ndarray, rate: float) -> np.ndarray | None:
    """Sharpen, weight and mask half maps as RELION does; None where it finds no B factor.

    The mask is the mean low-passed at 15 A over five standard deviations of its noise, grown by 3
    voxels, with a soft edge of 6.
    """
    low = frequencies(half1.shape, rate) < 1 / RELION_MASK_LOW_PASS
    noise = fft.irfftn(fft.rfftn((half1 - half2) / 2) * low, s=half1.shape).std()
    make_mask = (
        f"relion_mask_create --i mean.mrc --o mask.mrc --lowpass {RELION_MASK_LOW_PASS:g} "
        f"--angpix {rate} --ini_threshold {5 * noise} --extend_inimask 3 --width_soft_edge 6"
    )
    sharpen = (
        "relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc "
        f"--angpix {rate} --auto_bfac --autob_lowres 10 --o ./post"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("half1", half1), ("half2", half2), ("mean", (half1 + half2) / 2)):
            write_map(f"{folder}/{name}.mrc", data, new_map(data, rate))
        for command in (make_mask, sharpen):
            # The exit status is that of a PDF, too, which it may fail to draw.
            subprocess.run(command.split(), cwd=folder, capture_output=True)
        output = f"{folder}/post_masked.mrc"
        return read_map(output).data if os.path.isfile(output) else None


def format_line(name: str, cells: np.ndarray) -> str:
    """Format a line of a table, resolutions with two decimals, all else with three."""
    lower = LOWER_IS_BETTER[: len(cells)]
    values = [f"{v:.{2 if low else 3}f}" for v, low in zip(cells, lower, strict=True)]
    return f"| {name} | {' | '.join(values)} |"


def format_medians(rows: list[Row], methods: Sequence[str]) -> list[str]:
    """Format medians of all maps and of each kind, and how much is gained at least."""
    values = np.array([row.values for row in rows])
    sign = np.where(LOWER_IS_BETTER[: values.shape[2]], -1, 1)
    lines = [
        format_line(f"median, {method}", np.nanmedian(values[:, i], 0))
        for i, method in enumerate(methods)
    ]
    for i, method in enumerate(methods[:-1]):
        gain = (values[:, -1] - values[:, i]) * sign
        lines += [
            format_line(f"**median gain** over {method}", np.nanmedian(gain, 0)),
            format_line(f"smallest gain over {method}", np.nanmin(gain, 0)),
        ]
    for kind in sorted(set().union(*(row.kinds for row in rows))):
        chosen = np.array([kind in row.kinds for row in rows])
        lines += [
            format_line(
                f"{kind} ({chosen.sum()}): median, {method}", np.nanmedian(values[chosen, i], 0)
            )
            for i, method in enumerate(methods)
        ]
    return lines


def format_table(title: str, rows: list[Row]) -> str:
    """Format medians, and every map, in Markdown."""
    count, n = rows[0].values.shape
    methods = ["mean of halves", "enhanced"]
    others = ""
    if count == 3:
        methods.insert(1, "relion_postprocess")
        others = ", in brackets relion_postprocess"
    lines = [
        f"## {title}",
        "",
        f"{len(rows)} maps; a gain is positive where the enhanced map is better.",
        "",
        "| | " + " | ".join(COLUMNS[:n]) + " |",
        "|---" * (n + 1) + "|",
        *format_medians(rows, methods),
        "",
        f"Each map: mean of halves → enhanced{others}.",
        "",
        "| map | conditions | " + " | ".join(COLUMNS[:n]) + " |",
        "|---" * (n + 2) + "|",
    ]
    for row in rows:
        cells = [
            f"{first:.2f} → {last:.2f}" + "".join(f" ({r:.2f})" for r in rest)
            for first, *rest, last in row.values.T
        ]
        lines.append(f"| {row.name} | {row.conditions} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def compare(
    name: str,
    conditions: str,
    kinds: set[str],
    halves: Sequence[np.ndarray],
    reference: Reference,
    rate: float,
    enhance_maps: Enhance,
    relion: bool,
) -> Row:
    """Measure the mean of half maps, perhaps RELION's map, and the enhanced one."""
    started = time.perf_counter()
    maps: list[np.ndarray | None] = [(halves[0] + halves[1]) / 2]
    if relion:
        maps.append(postprocess(halves[0], halves[1], rate))
    maps.append(enhance_maps(halves, rate, reference.mask))
    known = [None if v is None else measure_map(v, reference, rate) for v in maps]
    missing = np.full(len(known[-1]), np.nan)
    values = np.array([missing if v is None else v for v in known])
    seconds = time.perf_counter() - started
    print(f"{name:16} {conditions:50} {np.round(values, 3).tolist()} {seconds:.0f} s", flush=True)
    return Row(name, conditions, kinds, values)


def describe(molecule: Molecule, c: Conditions) -> tuple[str, set[str]]:
    """Describe the conditions of a simulated map in words, and name its kinds."""
    words = f"{c.resolution:.1f} A, B {c.b_factor:.0f}"
    kinds = set()
    if c.micelle:
        words += ", micelle"
        kinds.add("membrane")
    if c.preferred:
        words += ", preferred views"
        kinds.add("preferred views")
    if np.count_nonzero(molecule.elements == "P") >= FEWEST_PHOSPHORUS:
        kinds.add("nucleic acid")
    return words, kinds


def run_simulated(
    molecules: list[tuple[str, Molecule]], enhance_maps: Enhance, relion: bool
) -> tuple[list[Row], str]:
    """Compare on simulated half maps; returns the rows, and a section on noise alone."""
    rows, noise, signal = [], [], []
    for i, (name, molecule) in enumerate(molecules):
        conditions = random_conditions(np.random.default_rng([1, i]), typical=True)
        s = simulate_halves(molecule, conditions, i, workers=2)
        words, kinds = describe(molecule, conditions)
        reference = make_reference(s, SCORED_ATOMS, i)
        halves = s.half1, s.half2
        rows.append(compare(name, words, kinds, halves, reference, 1.0, enhance_maps, relion))
        if i % NOISE_EVERY == 0:  # two independent differences: half maps without a molecule
            same_box = replace(conditions, box=len(s.half1))
            other = simulate_halves(molecule, same_box, i + 10**6, workers=2)
            pure = [s.half1 - s.half2, other.half1 - other.half2]
            outputs = [enhance_maps(maps, 1.0, reference.mask) for maps in ([sum(pure) / 2], pure)]
            noise.append([float(np.percentile(output, 99.9)) for output in outputs])
            signal.append(float(np.percentile(s.target[s.mask > 0.5], 95)))
    of_single, of_halves = 100 * (np.array(noise) / np.array(signal)[:, None]).max(0)
    section = (
        f"## Pure noise\n\nNoise alone, {len(noise)} maps: the 99.9th percentile of the output is "
        f"at most {of_halves:.1f} % of the 95th percentile inside a protein where there are two "
        f"half maps, {of_single:.1f} % where there is but their mean as a single map.\n"
    )
    return rows, section


def run_reconstructed(folder: Path, enhance_maps: Enhance, relion: bool) -> list[Row]:
    """Compare on half maps from a reconstruction program."""
    rows = []
    for first in sorted(folder.glob("*_half1.mrc.gz")):
        half1, half2, model = (
            read_map(str(first).replace("half1", part)) for part in ("half1", "half2", "model")
        )
        rate, halves = half1.sampling_rate, (half1.data, half2.data)
        reference = Reference(model.data, soft_mask(model.data, rate))
        name = first.name.split("_")[0]
        rows.append(compare(name, "", set(), halves, reference, rate, enhance_maps, relion))
    return rows


def main() -> int:
    """Run the benchmark; returns its exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--structures")
    p.add_argument("--reconstructions")
    p.add_argument("--relion", action="store_true")
    p.add_argument("--variant", default="tightTarget", help="of the embedded weights")
    p.add_argument("--weights", help="a file, instead")
    p.add_argument("--mask", action="store_true")
    p.add_argument("--maps", type=int, default=1000, help="at most so many simulated ones")
    p.add_argument("--precision", default="auto")
    p.add_argument("--output")
    a = p.parse_args()
    devices = select_devices(None)
    model = load_weights(a.weights or a.variant)
    masked = a.mask or model.normalization == "mask"

    def enhance_maps(maps: Sequence[np.ndarray], rate: float, mask: np.ndarray) -> np.ndarray:
        return enhance(
            *maps,
            sampling_rate=rate,
            weights=model,
            device=devices,
            mask=mask > 0.5 if masked else None,
            precision=a.precision,
        ).data

    warnings.simplefilter("ignore", MapWarning)  # pure noise is warned about
    molecules = read_test_molecules(a.structures)[: a.maps]
    rows, noise = run_simulated(molecules, enhance_maps, a.relion)
    source = "the test split's structures" if a.structures else "synthetic proteins"
    parts = [format_table(f"Simulated half maps of {source}", rows), noise]
    if a.reconstructions:
        rows = run_reconstructed(Path(a.reconstructions), enhance_maps, a.relion)
        parts.append(format_table("Half maps reconstructed by RELION", rows))
    text = "\n".join(parts)
    print(text)
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
