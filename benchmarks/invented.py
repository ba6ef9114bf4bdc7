"""Detail that an embedded model might invent.

    python benchmarks/invented.py [--structures DIR] [--variant NAME] [--maps N] [--draws N]
                                  [--boxes A ...] [--average 1|2|4|24] [--output FILE.md]

It might do so from noise, beyond a low-pass, in the place of a removed chain, or by the map's
orientation. DIR: atomic models with an index.tsv (columns file and split), of which the test split
is used; without it synthetic proteins. The variant masked gets a mask of the molecule with 6 A
round it, of noise alone a ball of half the box.
"""

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quality import read_test_molecules
from scipy import ndimage
from scipy.spatial import cKDTree

from deepemhancer_plugin.core import Enhanced, enhance, load_weights
from deepemhancer_plugin.core.devices import Devices, select_devices
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.maps.filters import distance_from_centre
from deepemhancer_plugin.core.maps.spectrum import fsc, resolution
from deepemhancer_plugin.core.simulation import Conditions, Molecule, Simulated, simulate_halves
from deepemhancer_plugin.core.weights.model import Model

# Noise: exponent of its amplitude's growth with frequency, B factor in A^2, A/voxel, zero outside
# the sphere.
NOISES = (
    (0.5, 80, 1.0, True),
    (0.5, 150, 1.3, True),
    (0.0, 40, 1.0, True),
    (-1.0, 0, 1.0, True),
    (-1.5, 80, 1.0, False),
    (1.0, 150, 1.0, False),
    (0.5, 0, 1.0, True),
    (-2.0, 0, 1.0, True),
    (0.0, 250, 1.3, False),
)
CUTS = 5.0, 8.0  # A
REMOVED = 0.2  # of the atoms
AWAY = 5.0  # A from other atoms, where removed atoms are looked for

Molecules = list[tuple[str, Molecule]]


@dataclass(frozen=True)
class Setup:
    """What every question is asked of.

    Attributes:
        model: the weights.
        devices: where they run.
        average: number of orientations; None: as the weights need it.
    """

    model: Model
    devices: Devices
    average: int | None

    def enhance(
        self, *maps: np.ndarray, mask: np.ndarray, rate: float = 1.0, **options: Any
    ) -> Enhanced:
        """Enhance a map or two half maps; the mask serves weights that need one."""
        needs_mask = self.model.normalization == "mask"
        return enhance(
            *maps,
            sampling_rate=rate,
            weights=self.model,
            device=self.devices,
            mask=mask if needs_mask else None,
            average=self.average,
            **options,
        )


def remove_part(molecule: Molecule) -> tuple[Molecule, np.ndarray]:
    """Remove the atoms farthest along the longest axis; also returns where they were (n, 3)."""
    centred = molecule.positions - molecule.positions.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    gone = along > np.quantile(along, 1 - REMOVED)
    return molecule[~gone], molecule.positions[gone]


def make_ball(edge: int) -> np.ndarray:
    """Make a boolean mask (z, y, x): the ball whose diameter is half the box's edge."""
    return distance_from_centre((edge,) * 3, (edge / 2,) * 3) < edge / 4


def average_at(volume: np.ndarray, positions: np.ndarray) -> float:
    """Average a map at 1 A/voxel over the voxels nearest to positions x, y, z in A."""
    z, y, x = np.round(positions[:, ::-1]).astype(int).T
    return float(volume[z, y, x].mean())


def format_head(*columns: str) -> list[str]:
    """Format the head of a Markdown table."""
    return ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def ask_noise(setup: Setup, molecule: Molecule, boxes: list[int], draws: int) -> list[str]:
    """Enhance noise alone."""
    lines = [
        "## Noise alone, as a single map",
        "",
        "99.9th percentile and maximum of the network's output, in percent of the 95th percentile "
        f"inside a protein: the largest of {draws} draws. A map in which the network sees no "
        "molecule is warned of.",
        *format_head(
            "box (A)",
            "amplitude ~ frequency^",
            "B (A^2)",
            "A/voxel",
            "outside the sphere",
            "99.9th percentile (%)",
            "maximum (%)",
            "warned of",
        ),
    ]
    worst = unwarned = 0.0
    for box in boxes:
        for i, (exponent, b_factor, rate, sphere) in enumerate(NOISES):
            conditions = Conditions(
                resolution=3.5,
                noise_exponent=exponent,
                b_factor=b_factor,
                sampling_rate=rate,
                box=int(box / rate),
                sphere=sphere,
            )
            found = [
                _enhance_noise(setup, molecule, conditions, i + 100 * draw) for draw in range(draws)
            ]
            strong, largest, *_ = np.max(found, axis=0)
            worst = max(worst, strong)
            unwarned = max(unwarned, *(finished for _, _, finished in found))
            warned = sum(finished == 0 for _, _, finished in found)
            lines.append(
                f"| {box} | {exponent} | {b_factor} | {rate} | {'zero' if sphere else 'noise'} | "
                f"{strong:.1f} | {largest:.1f} | {warned} of {draws} |"
            )
            print(lines[-1], flush=True)
    return [
        *lines,
        "",
        f"Largest 99.9th percentile: {worst:.1f} %; of maps without a warning: {unwarned:.1f} %.",
    ]


def _enhance_noise(
    setup: Setup, molecule: Molecule, conditions: Conditions, seed: int
) -> tuple[float, float, float]:
    """Percentile and maximum of the network's output, and the percentile of the finished map.

    In percent of the 95th percentile inside a protein; the last is 0 where there is a warning.
    """
    simulated = simulate_halves(molecule, conditions, seed)
    noise = (simulated.half1 - simulated.half2) / 2
    unit = np.percentile(simulated.target[simulated.mask > 0.5], 95) / 100
    options = {"mask": make_ball(len(noise)), "rate": conditions.sampling_rate}
    raw = setup.enhance(noise, amplitudes=False, **options).data / unit
    finished = setup.enhance(noise, **options)
    seen = float(np.percentile(finished.data / unit, 99.9))
    sees_molecule = finished.report["sees_molecule"]
    return float(np.percentile(raw, 99.9)), float(raw.max()), seen if sees_molecule else 0.0


def ask_low_pass(setup: Setup, chosen: Molecules) -> list[str]:
    """Enhance low-passed half maps."""
    lines = [
        "## Low-passed half maps",
        "",
        "FSC of the output with the model's own map, in its soft mask: where it falls under 0.5, "
        "and its largest value from 1.2 times the cut's frequency on.",
        *format_head("map", "cut (A)", "FSC-0.5 (A)", "largest FSC beyond"),
    ]
    for name, molecule in chosen:
        for cut in CUTS:
            made = simulate_halves(molecule, Conditions(resolution=3.0, low_pass=cut), 1)
            mask = soft_mask(made.model, 1.0)
            output = setup.enhance(made.half1, made.half2, mask=mask > 0.5).data
            frequency, curve = fsc(output * mask, made.model * mask)
            beyond = curve[frequency > 1.2 / cut].max()
            limit = resolution(frequency, curve, 0.5)
            lines.append(f"| {name} | {cut:g} | {limit:.2f} | {beyond:.2f} |")
            print(lines[-1], flush=True)
    return lines


def ask_removed_part(setup: Setup, chosen: Molecules) -> list[str]:
    """Enhance half maps that lack a part of the molecule."""
    lines = [
        "## A part removed from the data",
        "",
        "A fifth of the molecule at one end is missing in the half maps: mean of the output where "
        "its atoms (over 5 A from the others) would be, in percent of the mean at the atoms that "
        "are there.",
        *format_head("map", "percent"),
    ]
    for name, molecule in chosen:
        rest, gone = remove_part(molecule)
        conditions = Conditions(resolution=3.5, random_pose=False, margin=40.0)
        made = simulate_halves(rest, conditions, 2)
        shift = made.molecule.positions[0] - rest.positions[0]
        far = gone[cKDTree(rest.positions).query(gone)[0] > AWAY] + shift
        far = far[np.all((far > 0) & (far < made.half1.shape[0] - 1), axis=1)]
        # The mask of somebody who expects the part.
        whole = np.zeros(made.model.shape, bool)
        places = np.round((np.concatenate([rest.positions, gone]) + shift)[:, ::-1]).astype(int)
        whole[tuple(places.clip(0, len(whole) - 1).T)] = True
        mask = ndimage.binary_dilation(whole, iterations=6)
        output = setup.enhance(made.half1, made.half2, mask=mask).data
        percent = 100 * average_at(output, far) / average_at(output, made.molecule.positions)
        lines.append(f"| {name} | {percent:.2f} |")
        print(lines[-1], flush=True)
    return lines


def ask_rotation(setup: Setup, chosen: Molecules) -> list[str]:
    """Enhance half maps rotated by 90 degrees."""
    lines = [
        "## A rotated input",
        "",
        "Correlation of the output with the rotated-back output of the input rotated by 90 "
        "degrees.",
        *format_head("map", "correlation"),
    ]
    for name, molecule in chosen:
        made = simulate_halves(molecule, Conditions(resolution=3.5), 3)
        correlation = _correlate_rotated(setup, made)
        lines.append(f"| {name} | {correlation:.4f} |")
        print(lines[-1], flush=True)
    return lines


def _correlate_rotated(setup: Setup, made: Simulated) -> float:
    mask = soft_mask(made.model, 1.0) > 0.5
    plain = setup.enhance(made.half1, made.half2, mask=mask).data
    half1, half2, turned_mask = (np.rot90(v, 1, (0, 2)) for v in (made.half1, made.half2, mask))
    turned = setup.enhance(half1, half2, mask=turned_mask).data
    back = np.rot90(turned, -1, (0, 2))
    return float(np.corrcoef(plain.ravel(), back.ravel())[0, 1])


def main() -> int:
    """Run the benchmark; returns its exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--structures")
    p.add_argument("--variant", default="tightTarget", help="of the embedded weights")
    p.add_argument("--weights", help="a file, instead")
    p.add_argument("--maps", type=int, default=3, help="molecules for each question but noise")
    p.add_argument("--draws", type=int, default=3, help="of every noise (default: %(default)s)")
    p.add_argument(
        "--boxes",
        type=int,
        nargs="+",
        default=[96, 160],
        help="edges in A, of noise (default: 96 160)",
    )
    p.add_argument("--average", type=int)
    p.add_argument("--output")
    a = p.parse_args()
    setup = Setup(load_weights(a.weights or a.variant), select_devices(None), a.average)
    warnings.simplefilter("ignore", MapWarning)
    chosen = sorted(read_test_molecules(a.structures), key=lambda m: len(m[1]))
    chosen = [chosen[int(i)] for i in np.linspace(0, len(chosen) * 0.6, a.maps)]
    sections = [
        ask_noise(setup, chosen[0][1], a.boxes, a.draws),
        ask_low_pass(setup, chosen),
        ask_removed_part(setup, chosen),
        ask_rotation(setup, chosen),
    ]
    averaged = f", averaged over {a.average} orientations" if a.average else ""
    text = f"# Invented detail: {setup.model.name}{averaged}\n\n"
    text += "\n\n".join("\n".join(lines) for lines in sections) + "\n"
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
