"""How well `deepemhancer localres` finds resolutions that are known, and how fast.

The tables and pictures of docs/localres.md:

    python benchmarks/localres.py [--network 1.0|0.5] [--structures DIR] [--published FILE]
        [--pictures DIR] [--output FILE.md]

Maps of atomic models at 1 and 0.5 A/voxel, low-passed with a raised cosine of 0.02 that begins at
the resolution, all atoms with a B factor of 10 A^2 unless said otherwise, voxels within 3 A of an
atom. DIR holds atomic models and index.tsv, of which the split "test" is taken; without it,
synthetic proteins. Noise is white, its standard deviation in units of the noise-free map's maximum.
A file of the paper's own network (`localres-train --kind published`) adds its columns, on a fifth
of the voxels, as it takes its time.
"""

import argparse
import csv
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.localres import figures
from deepemhancer_plugin.core.localres.data import ROLL_OFF, SHARP_B
from deepemhancer_plugin.core.localres.networks import Dense, Published
from deepemhancer_plugin.core.localres.predict import load_network, predict_resolution
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

NOISE = 0.08  # of the map's maximum
COUNT = 4  # molecules of a kind
LARGEST = 3600  # atoms: larger molecules say the same and take longer
VOXELS_OF_PUBLISHED = 0.2  # of all
PAPER = {3.0: (3.2, 0.2), 5.0: (5.0, 0.3), 7.0: (7.1, 0.5), 9.0: (8.9, 0.5)}  # 1hvj: median, SD
PAPER_FINE = {2.0: (2.3, 0.3), 4.0: (4.0, 0.3)}  # 3r4f
TOLERANCE, COARSE_TOLERANCE = 0.2, 0.5  # A, of a median; the latter at 9 A
B_FACTORS = (0, -60, -100)  # A^2, of the sharpening

Network = Dense | Published
Networks = Mapping[str, Network]


class Case:
    """A molecule in the middle of its box.

    Attributes:
        rate: A/voxel.
        shape: of the box.
        molecule: its atoms, with the B factor given to all, or the file's (standardised).
        inside: boolean (z, y, x), within 3 A of an atom.
    """

    def __init__(self, molecule: Molecule, rate: float, b_factor: float | None = SHARP_B):
        low, high = molecule.positions.min(0), molecule.positions.max(0)
        edge = fft.next_fast_len(int(np.ceil(((high - low).max() + 16) / rate)), real=True)
        self.rate, self.shape = rate, (edge,) * 3
        self.molecule = molecule.shift(edge * rate / 2 - (low + high) / 2)
        if b_factor is not None:
            self.molecule = replace(self.molecule, b_factors=np.full(len(molecule), b_factor))
        self._spectrum = compute_potential(self.molecule, self.shape, rate, workers=-1)
        self.inside = mask_atoms(self.molecule, self.shape, rate, 3.0) > 0.5

    def map(self, resolution: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
        """The map low-passed at a resolution in A, with noise."""
        cut = self.rate / resolution
        gain = raised_cosine(frequencies(self.shape), cut, cut + ROLL_OFF)
        data = fft.irfftn(self._spectrum * gain, s=self.shape).astype(np.float32)
        white = np.random.default_rng(seed).standard_normal(self.shape, np.float32)
        return data + white * np.float32(noise * data.max())


def read_molecules(folder: str | None) -> tuple[dict[str, Molecule], dict[str, Molecule]]:
    """Proteins, and molecules of nucleic acid, by name."""
    if not folder:
        seeds = (100, 101, 102)
        return {f"synthetic {seed}": from_structure(build_protein(seed)) for seed in seeds}, {}
    with open(Path(folder) / "index.tsv", newline="") as stream:
        rows = [
            row
            for row in csv.DictReader(stream, delimiter="\t")
            if row["split"] == "test" and int(row["heavy_atoms"]) < LARGEST
        ]
    one_of_each_group = {row["group"]: row for row in rows if int(row["nucleotides"]) > 20}
    proteins = [Path(folder) / row["file"] for row in rows if row["nucleotides"] == "0"]
    nucleic = [Path(folder) / row["file"] for row in one_of_each_group.values()]
    return (
        {file.name.split(".")[0]: read_molecule(file) for file in proteins[:COUNT]},
        {file.name.split(".")[0]: read_nucleic_acid(file) for file in nucleic[:COUNT]},
    )


def read_nucleic_acid(path: Path) -> Molecule:
    """The nucleic acid alone of a complex."""
    import gemmi

    structure = gemmi.read_structure(str(path))
    for chain in structure[0]:
        for number in reversed(range(len(chain))):
            if not gemmi.find_tabulated_residue(chain[number].name).is_nucleic_acid():
                del chain[number]
    return from_structure(structure)


def read_cases(
    cases: list[Case], network: Network, resolution: float, noise: float
) -> tuple[float, float, list[float]]:
    """Median and standard deviation over the voxels of all cases, and each one's median."""
    found = []
    for case in cases:
        mask = case.inside
        if network.kind == "published":
            some = np.random.default_rng(0).random(case.shape) < VOXELS_OF_PUBLISHED
            mask = mask & some
        volume = case.map(resolution, noise)
        found.append(predict_resolution(volume, mask, case.rate, network)[mask])
    every = np.concatenate(found)
    medians = [float(np.median(values)) for values in found]
    return float(np.median(every)), float(every.std(dtype=np.float64)), medians


def accuracy(
    cases: list[Case],
    networks: Networks,
    resolutions: Iterable[float],
    paper: Mapping[float, tuple[float, float]],
) -> list[str]:
    """Rows of a table.

    Resolution, noise, and for each network median, standard deviation and the extremes of the
    molecules' medians.
    """
    lines = []
    for resolution in resolutions:
        published = paper.get(resolution)
        last = f"{published[0]:g} | {published[1]:g}" if published else "- | -"
        tolerance = COARSE_TOLERANCE if resolution == 9 else TOLERANCE
        for noise in (0.0, NOISE):
            cells = []
            for network in networks.values():
                median, spread, each = read_cases(cases, network, resolution, noise)
                mark = "" if abs(median - resolution) <= tolerance else " (!)"
                cells.append(f"{median:.2f}{mark} | {spread:.2f} | {min(each):.2f}-{max(each):.2f}")
            lines.append(f"| {resolution:g} | {noise:g} | {' | '.join(cells)} | {last} |")
            print(lines[-1], flush=True)
    return lines


def header(networks: Networks) -> list[str]:
    """The head of that table."""
    names = " | ".join(f"{name}: median | SD | molecules' medians" for name in networks)
    return [
        f"| truth (Å) | noise | {names} | paper's median | SD |",
        "|---|---|" + "---|---|---|" * len(networks) + "---|---|",
    ]


def two_sides(
    case: Case, network: Network, fine: float, coarse: float, noise: float, picture: Path | None
) -> str:
    """Cells for a map of two resolutions, one on either side of a plane across x."""
    middle = case.shape[2] // 2
    left = np.arange(case.shape[2]) < middle
    data = np.where(left, case.map(fine, noise), case.map(coarse, noise, 1)).astype(np.float32)
    found = predict_resolution(data, case.inside, case.rate, network)
    between = float(np.sqrt(fine * coarse))
    distance = (np.arange(case.shape[2]) - middle + 0.5) * case.rate
    sides = [
        float(np.median(found[case.inside & side]))
        for side in (distance < -6, distance > 6)  # A from the plane
    ]
    if picture:
        place = f"{middle * case.rate:g} Å"
        title = f"low-passed at {fine:g} Å where x < {place}, at {coarse:g} Å beyond"
        figures.plot_slices(picture, data, found, case.rate, title)
    crossings = find_crossings(found, case.inside, between)
    crossing = f"{distance[crossings[0]]:+.1f}" if crossings else "none"
    off = np.abs(find_border(found, case.inside, between)) * case.rate
    borders = f"{np.median(off):.1f} | {np.percentile(off, 90):.1f}" if len(off) else "- | -"
    return f"| {sides[0]:.2f} | {sides[1]:.2f} | {crossing} | {borders} |"


def find_crossings(found: np.ndarray, inside: np.ndarray, between: float) -> list[int]:
    """Where the profile of medians along x rises over a value, within 20 voxels of the middle."""
    middle = found.shape[2] // 2
    profile = np.full(found.shape[2], np.nan)
    for x in range(found.shape[2]):
        if inside[..., x].sum() > 30:
            profile[x] = np.median(found[..., x][inside[..., x]])
    return [x for x in range(middle - 20, middle + 20) if profile[x] <= between < profile[x + 1]]


def find_border(found: np.ndarray, inside: np.ndarray, between: float) -> list[int]:
    """How many voxels from the middle each line along x turns from fine to coarse.

    Of lines that lie in the molecule for 12 voxels on either side; the border is where the fewest
    voxels are on the wrong side.
    """
    middle = found.shape[2] // 2
    near = slice(middle - 12, middle + 12)
    offsets = []
    for z, y in np.argwhere(inside[:, :, near].all(2)):
        line = found[z, y, near] > between
        wrong = [line[:i].sum() + (~line[i:]).sum() for i in range(len(line) + 1)]
        offsets.append(int(np.argmin(wrong)) - 12)
    return offsets


def b_factors(cases: Mapping[str, Case], network: Network) -> list[str]:
    """Rows of medians before and after sharpening."""
    lines = []
    for name, case in cases.items():
        blurred = apply_b_factor(case.map(3.0), case.rate, 100.0)
        conditions = Conditions(
            resolution=3.5, b_factor=100.0, disorder=0.0, random_pose=False, box=case.shape[0]
        )
        made = simulate_halves(case.molecule, conditions, 0)
        mean = (made.half1 + made.half2) / 2
        dense = made.model > 0.1 * np.percentile(made.model, 99.9)
        cells = []
        for data, mask in ((case.map(5.0), case.inside), (blurred, case.inside), (mean, dense)):
            for b_factor in B_FACTORS:
                sharpened = apply_b_factor(data, case.rate, b_factor)
                found = predict_resolution(sharpened, mask, case.rate, network)
                cells.append(f"{np.median(found[mask]):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def speed(networks: Networks) -> list[str]:
    """Rows for a map of 200^3 voxels, 10^5 of them in the mask, the network's start included."""
    data = np.random.default_rng(0).standard_normal((200, 200, 200), np.float32)
    grid = np.arange(200) - 100
    inside = grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2 < 28.8**2
    rows: list[str] = []
    first = None
    for name, network in networks.items():
        started = time.perf_counter()
        predict_resolution(data, inside, 1.0, network)
        seconds = time.perf_counter() - started
        first = first or seconds
        rows.append(f"| {name} | {int(inside.sum())} | {seconds:.1f} | {seconds / first:.1f} |")
        print(rows[-1], flush=True)
    return rows


def special_tables(
    proteins: Mapping[str, Molecule], networks: Networks, picture: Path | None
) -> list[str]:
    """Tables for 1 A/voxel: other B factors, two resolutions in one map, sharpening, speed."""
    ours = networks["ours"]
    two = dict(list(proteins.items())[:2])
    own = [Case(molecule, 1.0, None) for molecule in two.values()]
    lines = [
        "## The files' own B factors (standardised to 30 ± 15 Å²)",
        "",
        *header({"ours": ours}),
        *accuracy(own, {"ours": ours}, (3.0, 5.0), {}),
        "",
        "## One side at 3 Å, the other at 7 Å",
        "",
        "Medians more than 6 Å from the plane on either side; where the profile of medians along x",
        "crosses 4.6 Å; and over all lines of voxels along x, how far from the plane the border is "
        "found: median and 90th percentile.",
        "",
        "| molecule | noise | side at 3 Å | side at 7 Å | crossing (Å) | border off by (Å) | "
        "90 % within (Å) |",
        "|" + "---|" * 7,
    ]
    cases = {name: Case(molecule, 1.0) for name, molecule in two.items()}
    for number, (name, case) in enumerate(cases.items()):
        for noise in (0.0, NOISE):
            drawn = picture if noise and not number else None
            cells = two_sides(case, ours, 3.0, 7.0, noise, drawn)
            lines.append(f"| {name} | {noise:g} {cells}")
            print(lines[-1], flush=True)
    return [
        *lines,
        "",
        "## B factors",
        "",
        "Medians before and after sharpening by B = -60 and -100 Å²: a sharp map at 5 Å; a map at "
        "3 Å blurred by",
        "100 Å²; the mean of simulated half maps (FSC = 0.143 at 3.5 Å, B 100 Å²).",
        "",
        "| molecule | 5 Å | -60 | -100 | 3 Å, B 100 | -60 | -100 | half maps | -60 | -100 |",
        "|" + "---|" * 10,
        *b_factors(cases, ours),
        "",
        "## Speed",
        "",
        "A map of 200^3 voxels at 1 Å/voxel, other programs on the same cores; the program's own "
        "start not included.",
        "",
        "| network | voxels in the mask | seconds | ratio |",
        "|---|---|---|---|",
        *speed(networks),
        "",
    ]


def introduction(
    a: argparse.Namespace, proteins: Iterable[str], nucleic: Iterable[str]
) -> list[str]:
    """The page's first lines."""
    options = f" --network {a.network}"
    options += " --structures DIR" if a.structures else ""
    options += " --published FILE" if a.published else ""
    proteins, nucleic = list(proteins), list(nucleic)
    names = f"{len(proteins)} proteins ({', '.join(proteins)})"
    if nucleic:
        names += f", the DNA of {len(nucleic)} complexes ({', '.join(nucleic)})"
    machine = select_devices("-1").description
    return [
        f"# Local resolution of maps whose resolution is known, {a.network} Å/voxel",
        "",
        f"By `python benchmarks/localres.py{options}` on {machine}.",
        f"Molecules that no training saw: {names}. (!) marks a median off by more than "
        f"{TOLERANCE} Å ({COARSE_TOLERANCE} Å at 9 Å). Noise in units of the maximum.",
        "",
    ]


def main() -> int:
    """Make the tables; returns the exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--structures", metavar="DIR")
    p.add_argument("--network", choices=["1.0", "0.5"], default="1.0")
    p.add_argument("--published", metavar="FILE", help="weights of the paper's network")
    p.add_argument("--pictures", metavar="DIR", help="where localres_two_sides.png goes")
    p.add_argument("--output")
    a = p.parse_args()
    proteins, nucleic = read_molecules(a.structures)
    networks = {"ours": load_network(a.network)}
    if a.published:
        networks["paper's network"] = load_network(a.published)
    lines = introduction(a, proteins, nucleic)
    coarse = a.network == "1.0"
    resolutions = (3.0, 4.0, 5.0, 7.0, 9.0) if coarse else tuple(PAPER_FINE)
    for kind, molecules in (("Proteins", proteins), ("Nucleic acids", nucleic)):
        if molecules:
            some = list(molecules.values())[: COUNT if coarse else 2]
            cases = [Case(molecule, float(a.network)) for molecule in some]
            paper = PAPER if coarse else PAPER_FINE
            table = accuracy(cases, networks, resolutions, paper)
            lines += [f"## {kind}", "", *header(networks), *table, ""]
    if coarse:
        picture = Path(a.pictures) / "localres_two_sides.png" if a.pictures else None
        lines += special_tables(proteins, networks, picture)
    if a.output:
        Path(a.output).write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
