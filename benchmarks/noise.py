"""How uneven the noise of half maps is over a molecule: real maps, and simulated ones beside them.

    python benchmarks/noise.py DIR [--structures DIR] [--maps 4] [--output docs/simulation.md]

DIR: files *.dat.gz of voxels near a model with columns Id, x, y, z in nm, density, error (those of
COSBlab/EMMIVox-BENCHMARK). Simulated half maps are made twice, with even and with uneven noise, and
measured in the same way: voxels of positive density within 4 A of the model. With --output the
table replaces the one between the marks of that file.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    Simulated,
    from_structure,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.molecule import mask_atoms
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.structures import split_structures

NEAR_MODEL = 4.0  # A
SMOOTH = 1.0  # voxels, standard deviation of the Gaussian that the errors were smoothed with
BEGIN, END = "<!-- uneven noise -->\n", "<!-- end of uneven noise -->\n"
PERCENTILES = 10, 50, 90


@dataclass(frozen=True)
class Unevenness:
    """How the noise of a pair of half maps differs near its model.

    Attributes:
        spread: 95th percentile of the error over its 5th.
        correlation: of the error with the density.
        ratios: density over error at PERCENTILES.
    """

    spread: float
    correlation: float
    ratios: Sequence[float]


def measure(density: np.ndarray, error: np.ndarray) -> Unevenness:
    """Measure densities and errors (n,) of voxels near a model."""
    low, high = np.percentile(error, (5, 95))
    correlation = float(stats.pearsonr(density, error).statistic)
    return Unevenness(high / low, correlation, np.percentile(density / error, PERCENTILES).tolist())


def read_errors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read densities and errors (n,) of the voxels of a file."""
    density, error = np.loadtxt(path, usecols=(4, 5)).T
    return density, error


def find_errors(simulated: Simulated) -> tuple[np.ndarray, np.ndarray]:
    """Find densities and errors (n,) of the voxels near the model of simulated half maps.

    The error is half of the root of the summed squares of each half minus the full map, their
    mean, smoothed (Hoff et al. 2024, PLoS Comput. Biol. 20, e1012180).
    """
    full = (simulated.half1 + simulated.half2) / 2
    error = np.abs(simulated.half1 - full) / np.sqrt(2)
    error = ndimage.gaussian_filter(error, SMOOTH)
    near = mask_atoms(simulated.molecule, full.shape, simulated.sampling_rate, NEAR_MODEL) > 0
    near &= full > 0
    return full[near], error[near]


def read_molecules(structures: Path | None, count: int) -> list[Molecule]:
    """Read validation structures, or build synthetic proteins without any."""
    if structures is None:
        return [from_structure(build_protein(seed)) for seed in range(count)]
    files = sorted(split_structures(structures)["validation"])
    chosen = np.linspace(0, len(files) - 1, count).astype(int)
    return [read_molecule(files[i]) for i in chosen]


def draw_conditions(seed: int, uneven: bool) -> Conditions:
    """Draw the conditions of a map, the same but for the noise's unevenness."""
    even = random_conditions(np.random.default_rng(seed), typical=True)
    grown = random_conditions(np.random.default_rng(seed), typical=True, uneven=True)
    # The four real maps are better than 3.6 A.
    even = replace(even, resolution=2.3 + 0.3 * seed, reconstruction=True, micelle=0.0)
    if not uneven:
        return even
    return replace(even, noise_growth=grown.noise_growth, noise_follows=grown.noise_follows)


def format_row(name: str, made: Unevenness) -> str:
    """Format a row of the table."""
    ratios = " / ".join(f"{ratio:.1f}" for ratio in made.ratios)
    return f"| {name} | {made.spread:.1f} | {made.correlation:.2f} | {ratios} |"


def main() -> int:
    """Run the benchmark; returns its exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path, metavar="DIR")
    p.add_argument("--structures", type=Path)
    p.add_argument("--maps", type=int, default=4)
    p.add_argument("--output", type=Path)
    a = p.parse_args()
    lines = [
        "| | error, p95 / p5 | correlation with the density | density / error at 10, 50, 90 % |",
        "|---|---|---|---|",
    ]
    for path in sorted(a.folder.glob("*.dat.gz")):
        name = "EMD-" + path.name.split("_")[1]
        lines.append(format_row(name, measure(*read_errors(path))))
        print(lines[-1], flush=True)
    molecules = read_molecules(a.structures, a.maps)
    for seed, molecule in enumerate(molecules):
        for uneven in (False, True):
            conditions = draw_conditions(seed, uneven)
            simulated = simulate_halves(molecule, conditions, seed, workers=2)
            kind = "even"
            if uneven:
                kind = f"growth {conditions.noise_growth:.2f}, {conditions.noise_follows:.2f}"
            name = f"simulated {seed + 1}, {conditions.resolution:.1f} Å, {kind}"
            lines.append(format_row(name, measure(*find_errors(simulated))))
            print(lines[-1], flush=True)
    if a.output:
        text = a.output.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        a.output.write_text(text[:start] + "\n".join(lines) + "\n" + text[end:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
