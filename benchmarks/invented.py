"""Detail that an embedded model might invent: from noise, beyond a low-pass, in the place of a removed chain, or by the map's orientation.

    python benchmarks/invented.py [--structures DIR] [--variant NAME] [--maps N] [--draws N] [--boxes A ...] [--average 1|2|4|24] [--output FILE.md]

DIR: atomic models with an index.tsv (columns file and split), of which the test split is used; without it synthetic proteins. The
variant masked gets a mask of the molecule with 6 A round it, of noise alone a ball of half the box.
"""

import argparse
import sys
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from quality import molecules
from scipy import ndimage
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement.enhance import Options, enhance
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.simulation import Conditions, Molecule, Simulated, simulate_halves
from deepemhancer_plugin.core.weights.embedded import load_embedded, load_file

# Noise: exponent of its amplitude's growth with frequency, B factor in A^2, A/voxel, zero outside the sphere.
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
CUTS = (5.0, 8.0)


def without_a_part(molecule: Molecule) -> tuple[Molecule, np.ndarray]:
    """The molecule without the fifth of its atoms that lies farthest along its longest axis, and where those were (n, 3)."""
    centred = molecule.positions - molecule.positions.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    gone = along > np.quantile(along, 0.8)
    return molecule[~gone], molecule.positions[gone]


def ball(shape: tuple[int, ...]) -> np.ndarray:
    """A mask (z, y, x): the ball whose diameter is half the box's edge."""
    square = sum(
        ((np.arange(n) - n / 2) / n).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2
        for axis, n in enumerate(shape)
    )
    return square < 0.25**2


def mean_at(volume: np.ndarray, positions: np.ndarray) -> float:
    """Mean of a map at 1 A/voxel over the voxels nearest to positions x, y, z in A."""
    z, y, x = np.round(positions[:, ::-1]).astype(int).T
    return float(volume[z, y, x].mean())


def main() -> int:
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
    where = select_devices(None)
    model = load_file(a.weights) if a.weights else load_embedded(a.variant)
    warnings.simplefilter("ignore", MapWarning)

    def run(maps: list[np.ndarray], mask: np.ndarray, rate: float = 1.0, **chosen) -> np.ndarray:
        options = Options(
            average=a.average, mask=mask if model.normalization == "mask" else None, **chosen
        )
        return enhance([m.copy() for m in maps], rate, model, where, options).data

    def halves(made: Simulated) -> list[np.ndarray]:
        return [made.half1, made.half2]

    chosen = sorted(molecules(a.structures), key=lambda m: len(m[1]))
    chosen = [chosen[int(i)] for i in np.linspace(0, len(chosen) * 0.6, a.maps)]
    lines = [
        "## Noise alone, as a single map",
        "",
        f"99.9th percentile and maximum of the output, in percent of the 95th percentile inside a protein: the largest of {a.draws} draws. "
        "A map in which the network sees no molecule comes out empty: the percentages are those of what it made before that.",
        "",
        "| box (A) | amplitude ~ frequency^ | B (A^2) | A/voxel | outside the sphere | 99.9th percentile (%) | maximum (%) | come out empty |",
        "|---|---|---|---|---|---|---|---|",
    ]
    worst = left = 0.0
    for box, (i, (exponent, b, rate, sphere)) in product(a.boxes, enumerate(NOISES)):
        conditions = Conditions(
            resolution=3.5,
            noise_exponent=exponent,
            b_factor=b,
            sampling_rate=rate,
            box=int(box / rate),
            sphere=sphere,
        )
        made_of_it = []
        for draw in range(a.draws):
            made = simulate_halves(chosen[0][1], conditions, i + 100 * draw)
            noise, unit = (
                (made.half1 - made.half2) / 2,
                np.percentile(made.target[made.mask > 0.5], 95) / 100,
            )
            out, made_up = (
                run([noise], ball(noise.shape), rate, amplitudes=raised) / unit
                for raised in (True, False)
            )
            made_of_it.append((np.percentile(made_up, 99.9), made_up.max(), not out.any()))
            left = max(left, float(np.percentile(out, 99.9)))
        strong, largest = np.max(made_of_it, axis=0)[:2]
        worst = max(worst, strong)
        lines.append(
            f"| {box} | {exponent} | {b} | {rate} | {'zero' if sphere else 'noise'} | {strong:.1f} | {largest:.1f} | "
            f"{sum(empty for *_, empty in made_of_it)} of {a.draws} |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Largest 99.9th percentile: {worst:.1f} %; of what comes out: {left:.1f} %.",
        "",
        "## Low-passed half maps",
        "",
        "FSC of the output with the model's own map, in its soft mask: where it falls under 0.5, and its largest value from 1.2 times the "
        "cut's frequency on.",
        "",
        "| map | cut (A) | FSC-0.5 (A) | largest FSC beyond |",
        "|---|---|---|---|",
    ]
    for name, molecule in chosen:
        for cut in CUTS:
            made = simulate_halves(molecule, Conditions(resolution=3.0, low_pass=cut), 1)
            mask = soft_mask(made.model, 1.0)
            frequency, curve = spectrum.fsc(run(halves(made), mask > 0.5) * mask, made.model * mask)
            lines.append(
                f"| {name} | {cut:g} | {spectrum.resolution(frequency, curve, 0.5):.2f} | {curve[frequency > 1.2 / cut].max():.2f} |"
            )
            print(lines[-1], flush=True)
    lines += [
        "",
        "## A part removed from the data",
        "",
        "A fifth of the molecule at one end is missing in the half maps: mean of the output where its atoms (over 5 A from the others) "
        "would be, in percent of the mean at the atoms that are there.",
        "",
        "| map | percent |",
        "|---|---|",
    ]
    for name, molecule in chosen:
        rest, gone = without_a_part(molecule)
        made = simulate_halves(
            rest, replace(Conditions(resolution=3.5), random_pose=False, margin=40.0), 2
        )
        shift = made.molecule.positions[0] - rest.positions[0]
        far = gone[cKDTree(rest.positions).query(gone)[0] > 5] + shift
        far = far[np.all((far > 0) & (far < made.half1.shape[0] - 1), axis=1)]
        whole = np.zeros(made.model.shape, bool)  # the mask of one who expects the part
        whole[
            tuple(
                np.round((np.concatenate([rest.positions, gone]) + shift)[:, ::-1])
                .astype(int)
                .clip(0, len(whole) - 1)
                .T
            )
        ] = True
        out = run(halves(made), ndimage.binary_dilation(whole, iterations=6))
        lines.append(
            f"| {name} | {100 * mean_at(out, far) / mean_at(out, made.molecule.positions):.2f} |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "## A rotated input",
        "",
        "Correlation of the output with the rotated-back output of the input rotated by 90 degrees.",
        "",
        "| map | correlation |",
        "|---|---|",
    ]
    for name, molecule in chosen:
        made = simulate_halves(molecule, Conditions(resolution=3.5), 3)
        mask = soft_mask(made.model, 1.0) > 0.5
        plain, turned = (
            run(halves(made), mask),
            run([np.rot90(h, 1, (0, 2)) for h in halves(made)], np.rot90(mask, 1, (0, 2))),
        )
        lines.append(
            f"| {name} | {np.corrcoef(plain.ravel(), np.rot90(turned, -1, (0, 2)).ravel())[0, 1]:.4f} |"
        )
        print(lines[-1], flush=True)
    text = (
        f"# Invented detail: {model.name}{f', averaged over {a.average} orientations' if a.average else ''}\n\n"
        + "\n".join(lines)
        + "\n"
    )
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
