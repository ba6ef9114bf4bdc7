"""How well `deepemhancer localres` finds resolutions that are known, and how fast: the tables and pictures of docs/localres.md.

    python benchmarks/localres.py [--network 1.0|0.5] [--structures DIR] [--published FILE] [--pictures DIR] [--output FILE.md]

Maps of atomic models at 1 and 0.5 A/voxel, low-passed with a raised cosine of 0.02 that begins at the resolution, all atoms with a B factor of
10 A^2 unless said otherwise, voxels within 3 A of an atom. DIR holds atomic models and index.tsv, of which the split "test" is taken; without
it, synthetic proteins. Noise is white, its standard deviation in units of the noise-free map's maximum. A file of the paper's own network
(`localres-train --kind published`) adds its columns, on a fifth of the voxels, as it takes its time.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.localres import figures, predict
from deepemhancer_plugin.core.localres.data import ROLL_OFF, SHARP_B
from deepemhancer_plugin.core.maps.filters import apply_b_factor, frequencies, raised_cosine
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    from_structure,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms
from deepemhancer_plugin.core.simulation.synthetic import build_protein

NOISE = 0.08
COUNT = 4  # molecules of a kind
PAPER = {
    3.0: (3.2, 0.2),
    5.0: (5.0, 0.3),
    7.0: (7.1, 0.5),
    9.0: (8.9, 0.5),
}  # 1hvj: median and standard deviation
PAPER_FINE = {2.0: (2.3, 0.3), 4.0: (4.0, 0.3)}  # 3r4f
LARGEST = 3600  # atoms: larger molecules say the same and take longer


class Case:
    """A molecule in the middle of its box at `rate` A/voxel; `b_factor` None keeps the file's (standardised to 30 +- 15 A^2)."""

    def __init__(self, molecule: Molecule, rate: float, b_factor: float | None = SHARP_B):
        low, high = molecule.positions.min(0), molecule.positions.max(0)
        self.rate, n = (
            rate,
            fft.next_fast_len(int(np.ceil(((high - low).max() + 16) / rate)), real=True),
        )
        self.shape = (n, n, n)
        self.molecule = molecule.shift(n * rate / 2 - (low + high) / 2)
        if b_factor is not None:
            self.molecule = replace(self.molecule, b_factors=np.full(len(molecule), b_factor))
        self.spectrum = compute_potential(self.molecule, self.shape, rate, workers=-1)
        self.inside = mask_atoms(self.molecule, self.shape, rate, 3.0) > 0.5

    def map(self, resolution: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
        data = fft.irfftn(
            self.spectrum
            * raised_cosine(
                frequencies(self.shape), self.rate / resolution, self.rate / resolution + ROLL_OFF
            ),
            s=self.shape,
        ).astype(np.float32)
        return data + np.random.default_rng(seed).standard_normal(
            self.shape, np.float32
        ) * np.float32(noise * data.max())


def molecules(folder: str | None) -> tuple[dict[str, Molecule], dict[str, Molecule]]:
    """Proteins, and molecules with nucleic acid, by name."""
    if not folder:
        return {
            f"synthetic {seed}": from_structure(build_protein(seed)) for seed in (100, 101, 102)
        }, {}
    with open(Path(folder) / "index.tsv", newline="") as stream:
        rows = [
            r
            for r in csv.DictReader(stream, delimiter="\t")
            if r["split"] == "test" and int(r["heavy_atoms"]) < LARGEST
        ]
    proteins = [r["file"] for r in rows if r["nucleotides"] == "0"][:COUNT]
    nucleic = [
        r["file"] for r in {r["group"]: r for r in rows if int(r["nucleotides"]) > 20}.values()
    ][:COUNT]
    proteins, nucleic = (
        {f.split(".")[0]: read_molecule(Path(folder) / f) for f in files}
        for files in (proteins, nucleic)
    )
    return proteins, {name: of_nucleotides(Path(folder) / f"{name}.pdb.gz") for name in nucleic}


def of_nucleotides(path: Path) -> Molecule:
    """The nucleic acid alone of a complex."""
    import gemmi

    structure = gemmi.read_structure(str(path))
    for chain in structure[0]:
        for number in reversed(
            [
                i
                for i, r in enumerate(chain)
                if not gemmi.find_tabulated_residue(r.name).is_nucleic_acid()
            ]
        ):
            del chain[number]
    return from_structure(structure)


def over_all(
    cases: list[Case], network, resolution: float, noise: float
) -> tuple[float, float, list[float]]:
    """Median and standard deviation over the voxels of all cases, and each one's median."""
    found = []
    for case in cases:
        where = (
            case.inside & (np.random.default_rng(0).random(case.shape) < 0.2)
            if network.kind == "published"
            else case.inside
        )
        found.append(
            predict.predict_resolution(case.map(resolution, noise), where, case.rate, network)[
                where
            ]
        )
    every = np.concatenate(found)
    return (
        float(np.median(every)),
        float(every.std(dtype=np.float64)),
        [float(np.median(f)) for f in found],
    )


def accuracy(
    cases: list[Case],
    networks: dict[str, Any],
    resolutions: dict[float, tuple | None],
    tolerance: dict[float, float],
) -> list[str]:
    """Rows of the table: resolution, noise, and for each network median, standard deviation and the extremes of the molecules' medians."""
    lines = []
    for resolution, paper in resolutions.items():
        for noise in (0.0, NOISE):
            cells = []
            for network in networks.values():
                median, spread, each = over_all(cases, network, resolution, noise)
                cells.append(
                    f"{median:.2f}{'' if abs(median - resolution) <= tolerance.get(resolution, 0.2) else ' (!)'} | {spread:.2f} | "
                    f"{min(each):.2f}-{max(each):.2f}"
                )
            lines.append(
                f"| {resolution:g} | {noise:g} | {' | '.join(cells)} | {f'{paper[0]:g} | {paper[1]:g}' if paper else '- | -'} |"
            )
            print(lines[-1], flush=True)
    return lines


def header(networks: dict[str, Any]) -> list[str]:
    names = " | ".join(f"{name}: median | SD | molecules' medians" for name in networks)
    return [
        f"| truth (Å) | noise | {names} | paper's median | SD |",
        "|---|---|" + "---|---|---|" * len(networks) + "---|---|",
    ]


def two_sides(
    case: Case, network, fine: float, coarse: float, noise: float, picture: Path | None = None
) -> str:
    """One side of a plane low-passed at `fine`, the other at `coarse`: how far from the plane the middle value is met, along x."""
    middle = case.shape[2] // 2
    data = np.where(
        np.arange(case.shape[2]) < middle, case.map(fine, noise), case.map(coarse, noise, 1)
    ).astype(np.float32)
    found = predict.predict_resolution(data, case.inside, case.rate, network)
    profile = np.array(
        [
            np.median(found[..., x][case.inside[..., x]])
            if case.inside[..., x].sum() > 30
            else np.nan
            for x in range(case.shape[2])
        ]
    )
    between = np.sqrt(fine * coarse)
    distance = (np.arange(case.shape[2]) - middle + 0.5) * case.rate
    crossings = [
        distance[x]
        for x in range(middle - 20, middle + 20)
        if profile[x] <= between < profile[x + 1]
    ]
    away = distance[None, None, :] * np.ones(case.shape)
    # The border of each line of voxels along x that crosses the plane within the molecule: where fine turns into coarse at the least cost.
    offsets = []
    for z, y in np.argwhere(case.inside[:, :, middle - 12 : middle + 12].all(2)):
        line = found[z, y, middle - 12 : middle + 12] > between
        wrong = [line[:i].sum() + (~line[i:]).sum() for i in range(len(line) + 1)]
        offsets.append((int(np.argmin(wrong)) - 12) * case.rate)
    far = case.inside & (np.abs(away) > 6)
    sides = [float(np.median(found[far & side])) for side in (away < 0, away > 0)]
    if picture:
        figures.slices(
            picture,
            data,
            found,
            case.rate,
            f"low-passed at {fine:g} Å where x < {middle * case.rate:g} Å, at {coarse:g} Å beyond",
        )
    mean = f"{crossings[0]:+.1f}" if crossings else "none"
    off = np.abs(offsets)
    return (
        f"| {sides[0]:.2f} | {sides[1]:.2f} | {mean} | {np.median(off):.1f} | {np.percentile(off, 90):.1f} |"
        if len(off)
        else f"| {sides[0]:.2f} | {sides[1]:.2f} | {mean} | - | - |"
    )


def b_factors(cases: dict[str, Case], network) -> list[str]:
    lines = []
    for name, case in cases.items():
        blurred = apply_b_factor(case.map(3.0), case.rate, 100.0)
        made = simulate_halves(
            case.molecule,
            Conditions(
                resolution=3.5, b_factor=100.0, disorder=0.0, random_pose=False, box=case.shape[0]
            ),
            0,
        )
        mean, inside = (made.half1 + made.half2) / 2, mask_of(case, made)
        cells = []
        for data, where in ((case.map(5.0), case.inside), (blurred, case.inside), (mean, inside)):
            for b in (0, -60, -100):
                found = predict.predict_resolution(
                    apply_b_factor(data, case.rate, b), where, case.rate, network
                )
                cells.append(f"{np.median(found[where]):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def mask_of(case: Case, made) -> np.ndarray:
    """The molecule in the box of the simulated halves, which is where their noise-free map stands out."""
    return made.model > 0.1 * np.percentile(made.model, 99.9)


def speed(networks: dict[str, Any]) -> list[str]:
    """A map of 200^3 voxels, 10^5 of them in the mask, in this process, the network's start (first call) included."""
    data = np.random.default_rng(0).standard_normal((200, 200, 200), np.float32)
    grid = np.arange(200) - 100
    inside = grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2 < 28.8**2
    rows, first = [], None
    for name, network in networks.items():
        started = time.perf_counter()
        predict.predict_resolution(data, inside, 1.0, network)
        seconds = time.perf_counter() - started
        first = first or seconds
        rows.append(f"| {name} | {int(inside.sum())} | {seconds:.1f} | {seconds / first:.1f} |")
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--structures", metavar="DIR")
    p.add_argument("--network", choices=["1.0", "0.5"], default="1.0")
    p.add_argument("--published", metavar="FILE", help="weights of the paper's network")
    p.add_argument("--pictures", metavar="DIR", help="where localres_two_sides.png goes")
    p.add_argument("--output")
    a = p.parse_args()
    proteins, nucleic = molecules(a.structures)
    networks = {
        "ours": predict.load_network(a.network),
        **({"paper's network": predict.load_network(a.published)} if a.published else {}),
    }
    where = f"{len(proteins)} proteins ({', '.join(proteins)})" + (
        f", the DNA of {len(nucleic)} complexes ({', '.join(nucleic)})" if nucleic else ""
    )
    options = f" --network {a.network}{' --structures DIR' if a.structures else ''}{' --published FILE' if a.published else ''}"
    lines = [
        f"# Local resolution of maps whose resolution is known, {a.network} Å/voxel",
        "",
        f"By `python benchmarks/localres.py{options}` on {select_devices('-1').description}.",
        f"Molecules that no training saw: {where}. (!) marks a median off by more than 0.2 Å (0.5 Å at 9 Å). Noise in units of the maximum.",
        "",
    ]
    rate, resolutions = (
        float(a.network),
        {"1.0": {d: PAPER.get(d) for d in (3.0, 4.0, 5.0, 7.0, 9.0)}, "0.5": PAPER_FINE}[a.network],
    )
    for kind, chosen in (("proteins", proteins), ("nucleic acids", nucleic)):
        if chosen:
            cases = [Case(m, rate) for m in list(chosen.values())[: COUNT if rate == 1 else 2]]
            lines += [
                f"## {kind.capitalize()}",
                "",
                *header(networks),
                *accuracy(cases, networks, resolutions, {9.0: 0.5}),
                "",
            ]
    if rate == 1:
        lines += more(
            proteins, networks, Path(a.pictures) / "localres_two_sides.png" if a.pictures else None
        )
    if a.output:
        Path(a.output).write_text("\n".join(lines))
    return 0


def more(
    proteins: dict[str, Molecule], networks: dict[str, Any], picture: Path | None
) -> list[str]:
    """The tables for 1 A/voxel alone: other B factors, two resolutions in one map, sharpening, speed."""
    ours = networks["ours"]
    lines = [
        "## The files' own B factors (standardised to 30 ± 15 Å²)",
        "",
        *header({"ours": ours}),
        *accuracy(
            [Case(m, 1.0, None) for m in list(proteins.values())[:2]],
            {"ours": ours},
            {3.0: None, 5.0: None},
            {},
        ),
        "",
    ]
    lines += [
        "## One side at 3 Å, the other at 7 Å",
        "",
        "Medians more than 6 Å from the plane on either side; where the profile of medians along x",
        "crosses 4.6 Å; and over all lines of voxels along x, how far from the plane the border is found: median and 90th percentile.",
        "",
        "| molecule | noise | side at 3 Å | side at 7 Å | crossing (Å) | border off by (Å) | 90 % within (Å) |",
        "|" + "---|" * 7,
    ]
    for number, (name, molecule) in enumerate(list(proteins.items())[:2]):
        for noise in (0.0, NOISE):
            found = two_sides(
                Case(molecule, 1.0),
                ours,
                3.0,
                7.0,
                noise,
                picture if noise and not number else None,
            )
            lines.append(f"| {name} | {noise:g} {found}")
            print(lines[-1], flush=True)
    lines += [
        "",
        "## B factors",
        "",
        "Medians before and after sharpening by B = -60 and -100 Å²: a sharp map at 5 Å; a map at 3 Å blurred by",
        "100 Å²; the mean of simulated half maps (FSC = 0.143 at 3.5 Å, B 100 Å²).",
        "",
        "| molecule | 5 Å | -60 | -100 | 3 Å, B 100 | -60 | -100 | half maps | -60 | -100 |",
        "|" + "---|" * 10,
        *b_factors({name: Case(m, 1.0) for name, m in list(proteins.items())[:2]}, ours),
        "",
    ]
    return [
        *lines,
        "## Speed",
        "",
        "A map of 200^3 voxels at 1 Å/voxel, other programs on the same cores; the program's own start not included.",
        "",
        "| network | voxels in the mask | seconds | ratio |",
        "|---|---|---|---|",
        *speed(networks),
        "",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
