"""RELION's auto-refinement of simulated particles, plain and with the enhancer, and the truth.

    python benchmarks/relion_refinement.py --work DIR [--structures DIR]
        [--cases membrane,preferred,cut] [--output docs/relion.md] [--picture docs/relion_fsc.png]

Three cases: a membrane protein with its nanodisc (2R6G); a protein seen mostly from one side
(1E4K); and the same protein from all sides, its density cut at 5 A before the noise is added, where
nothing finer than 5 A may come out. Without --structures, synthetic proteins. DIR of --work keeps
the particles and RELION's files; a refinement that ended is not run again.
"""

import argparse
import json
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import starfile
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.evaluation.halfmaps import half_map_fsc
from deepemhancer_plugin.core.evaluation.qscore import draw_atoms, q_scores
from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.relion.example import (
    ANGLES,
    low_pass_to,
    make_particles,
    make_rotations,
    refine_command,
    run_program,
)
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    Simulated,
    from_structure,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein

CUT = 5.0  # A, where the density of the third case ends
RATE = 1.8  # A/voxel
BOX = 80
PARTICLES = 500
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Case:
    """What is refined.

    Attributes:
        title: for the table.
        file: the atomic model, in the folder of --structures.
        micelle: density of a detergent belt relative to the molecule's.
        preferred: part of the views that lie within 30 degrees of one direction.
        cut: whether the density is cut at 5 A.
        resolution: in A, that the noise leaves to half maps from the true angles.
        diameter: of RELION's mask in A.
        order: healpix order that the angular searches begin at. Without views from the side the
            errors stay so large that RELION stops at 3.
    """

    title: str
    file: str
    micelle: float = 0.0
    preferred: float = 0.0
    cut: bool = False
    resolution: float = 6.5
    diameter: float = 136.0
    order: int = 3


CASES = {
    "membrane": Case("membrane protein in a nanodisc (2R6G)", "2r6g_bound.pdb.gz", micelle=0.6),
    "preferred": Case(
        "80 % of the views within 30° of one direction (1E4K)",
        "1E4K_target.pdb.gz",
        preferred=0.8,
        resolution=4.8,
        order=4,
    ),
    "cut": Case(
        "density cut at 5 Å before the noise was added (1E4K): nothing finer may come out",
        "1E4K_target.pdb.gz",
        cut=True,
        resolution=5.5,
    ),
}


def simulate_case(case: Case, structures: str | None) -> Simulated:
    """Simulate the density of a case, without noise, and its target."""
    molecule: Molecule
    if structures:
        molecule = read_molecule(Path(structures) / case.file)
    else:
        molecule = from_structure(build_protein(len(case.file) % 7))
    return simulate_halves(
        molecule,
        Conditions(
            sampling_rate=RATE,
            box=BOX,
            noise=0,
            random_pose=False,
            b_factor=60,
            disorder=60,
            micelle=case.micelle,
            micelle_height=18,
        ),
        0,
        workers=2,
    )


def refine(case: Case, folder: Path, truth: Simulated, hook: bool) -> None:
    """Run one refinement, unless it is there already."""
    name = "hook" if hook else "plain"
    if (folder / name / "run_class001.mrc").exists():
        return
    if not (folder / "particles.star").exists():
        density = low_pass_to(truth.half1, RATE, CUT) if case.cut else truth.half1
        ratio = make_particles(
            density, RATE, folder, PARTICLES, case.resolution, seed=1, preferred=case.preferred
        )
        print(f"{folder.name}: noise {ratio:.2f} times the signal", flush=True)
    (folder / name).mkdir(exist_ok=True)
    started = time.perf_counter()
    program = str(Path(sys.executable).parent / "deepemhancer-relion")
    environment = {"RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE": program} if hook else {}
    command = refine_command(f"{name}/run", case.diameter, case.order, hook)
    text = run_program(command, folder, environment)
    (folder / name / "log.txt").write_text(text)
    (folder / name / "seconds").write_text(f"{time.perf_counter() - started:.0f}")
    print(f"{folder.name}, {name}: {time.perf_counter() - started:.0f} s", flush=True)


@dataclass(frozen=True)
class Result:
    """What a refinement came to.

    Attributes:
        frequency: of the shells in 1/A.
        curves: FSC in the mask of the half maps, and of their mean with the model's map.
        numbers: the metrics by name.
        volume: the mean half map (z, y, x), put where the model is.
    """

    frequency: np.ndarray
    curves: tuple[np.ndarray, np.ndarray]
    numbers: dict[str, float]
    volume: np.ndarray


def measure(folder: Path, truth: Simulated) -> Result:
    """Compare a refinement's unfiltered half maps and angles with the truth."""
    mask = soft_mask(truth.model, RATE)
    halves, shift = read_halves(folder, truth.model, mask)
    mean = (halves[0] + halves[1]) / 2
    half_fsc = half_map_fsc(halves[0], halves[1], RATE, mask)
    corrected = np.asarray(half_fsc.corrected)
    frequency, model_fsc = spectrum.fsc(mean * mask, truth.model * mask, RATE)
    scores = score(mean, truth.model, mask, RATE)
    angles, common = angular_errors(folder / "run_data.star", folder.parent / "truth.star")
    atoms = draw_atoms(len(truth.molecule), 2000, 0)
    log = folder / "run_deepemhancer.jsonl"
    calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    numbers = {
        "half_fsc": half_fsc.resolution(0.143),
        "model_fsc": scores.fsc_masked,
        "cc": scores.cc_mask,
        "q": float(q_scores(mean, truth.molecule.positions, RATE, atoms).mean()),
        "angle": float(np.median(angles)),
        "worst": float(np.percentile(angles, 90)),
        "common": common,
        "beyond": float(corrected[frequency > 1.05 / CUT].max()),
        "iterations": len(list(folder.glob("run_it*_half1_model.star"))) - 1,
        "enhanced": sum(call["enhanced"] for call in calls),
        "shift": float(np.linalg.norm(shift) * RATE),
    }
    return Result(frequency, (corrected, model_fsc), numbers, mean)


def read_halves(
    folder: Path, model: np.ndarray, mask: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Read a refinement's half maps and put them where the model is.

    The particles' common shift is free, so that it is taken away, to a twentieth of a voxel.

    Returns:
        The half maps (z, y, x), and their shift in voxels.
    """
    files = [folder / f"run_half{n}_class001_unfil.mrc" for n in (1, 2)]
    halves = [mrcfile.read(file).astype(np.float32) for file in files]
    mean = (halves[0] + halves[1]) / 2
    coarse = [low_pass_to(volume, RATE, 6) * mask for volume in (model, mean)]
    shift = phase_cross_correlation(*coarse, upsample_factor=20)[0]
    moved = [np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(half), shift)) for half in halves]
    return [np.ascontiguousarray(half.real, np.float32) for half in moved], shift


def angular_errors(found: Path, true: Path) -> tuple[np.ndarray, float]:
    """Compare the particles' orientations with the true ones.

    Returns:
        The angles in degrees between them, less the rotation that all have in common, and that.
    """
    estimated, right = (make_rotations(read_angles(file)) for file in (found, true))
    common = (estimated * right.inv()).mean()
    errors = (common.inv() * estimated * right.inv()).magnitude()
    return np.rad2deg(errors), float(np.rad2deg(common.magnitude()))


def read_angles(file: Path) -> np.ndarray:
    """Euler angles (n, 3) in degrees of the particles, sorted by their images' names."""
    table = starfile.read(file, always_dict=True)["particles"]
    return table.set_index("rlnImageName").sort_index()[ANGLES].to_numpy()


COLUMNS = {
    "half_fsc": "half-map FSC 0.143 (Å)",
    "model_fsc": "map-model FSC 0.5 (Å)",
    "cc": "CC_mask",
    "q": "Q-score",
    "angle": "angular error, median (°)",
    "worst": "its 90th percentile (°)",
    "beyond": f"largest half-map FSC beyond {CUT / 1.05:.2f} Å",
}


WAYS = {"plain": ("plain", "tab:gray"), "hook": ("with the enhancer", "tab:blue")}


def make_table(results: dict[tuple[str, str], Result]) -> str:
    """Make the table in Markdown."""
    titles = ["case", "refined", *COLUMNS.values(), "iterations, half maps enhanced"]
    rows = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(COLUMNS) + 1)]
    for (name, way), result in results.items():
        cells = [CASES[name].title, WAYS[way][0]]
        for key in COLUMNS:
            digits = 3 if key in ("cc", "q", "beyond") else 2
            known = key != "beyond" or CASES[name].cut
            cells.append(f"{result.numbers[key]:.{digits}f}" if known else "–")
        cells.append(f"{result.numbers['iterations']}, {result.numbers['enhanced']}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def draw_picture(path: Path, results: dict[tuple[str, str], Result]) -> None:
    """Draw FSC curves of every case, and below them the middle planes of the mean half maps."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for name, _ in results))
    figure = Figure(figsize=(5 * len(names), 7.4), layout="constrained")
    grid = figure.add_gridspec(2, 2 * len(names), height_ratios=[1.35, 1])
    for column, name in enumerate(names):
        plot = figure.add_subplot(grid[0, 2 * column : 2 * column + 2])
        draw_curves(plot, name, results)
        for place, (way, (label, _)) in enumerate(WAYS.items()):
            if (name, way) in results:
                image = figure.add_subplot(grid[1, 2 * column + place])
                draw_plane(image, results[name, way].volume)
                image.set(title=label, xlabel="x (Å)", ylabel="y (Å)" if place == 0 else "")
    figure.savefig(path, dpi=100)


def draw_curves(plot: Any, name: str, results: dict[tuple[str, str], Result]) -> None:
    """Draw the FSC curves of a case, plain and with the enhancer."""
    case = CASES[name]
    for way, (label, colour) in WAYS.items():
        if (name, way) not in results:
            continue
        result = results[name, way]
        kinds = (("half maps", ":"), ("map-model", "-"))
        for curve, (kind, style) in zip(result.curves, kinds, strict=True):
            plot.plot(result.frequency, curve, style, color=colour, label=f"{kind}, {label}")
    for threshold in (0.143, 0.5):
        plot.axhline(threshold, color="black", linewidth=0.5)
    if case.cut:
        label = f"no density beyond {CUT:g} Å"
        plot.axvline(1 / CUT, color="tab:red", linewidth=0.8, label=label)
    ticks = [20, 10, 7, 6, 5, 4.5, 4]
    plot.set_xticks([1 / t for t in ticks], [f"{t:g}" for t in ticks])
    title = textwrap.fill(case.title.partition(":")[0], 38)
    plot.set(title=title, xlabel="resolution (Å)", ylabel="FSC in the mask")
    plot.set(xlim=(0, 0.5 / RATE), ylim=(-0.1, 1.03))
    plot.legend(fontsize=8, loc="lower left")


def draw_plane(image: Any, volume: np.ndarray) -> None:
    """Draw the middle plane of a map (z, y, x), low-passed at 4.2 A."""
    plane = low_pass_to(volume, RATE, 4.2)[volume.shape[0] // 2]
    edge = plane.shape[1] * RATE
    low, high = np.percentile(plane, 5), np.percentile(plane, 99.7)
    extent = (0, edge, 0, edge)
    image.imshow(plane, cmap="gray", origin="lower", extent=extent, vmin=low, vmax=high)


def main() -> int:
    """Refine, measure, and write the table and the picture."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--work", required=True, type=Path)
    p.add_argument("--structures")
    p.add_argument("--cases", default=",".join(CASES))
    p.add_argument("--ways", default=",".join(WAYS))
    p.add_argument(
        "--output",
        help="a page in Markdown whose part between two comments, results and end of results, the "
        "table replaces",
    )
    p.add_argument("--picture")
    a = p.parse_args()
    results = {}
    for name in a.cases.split(","):
        truth = simulate_case(CASES[name], a.structures)
        for way in a.ways.split(","):
            refine(CASES[name], a.work / name, truth, way == "hook")
            results[name, way] = measure(a.work / name / way, truth)
            numbers = {key: round(n, 3) for key, n in results[name, way].numbers.items()}
            print(name, way, json.dumps(numbers), flush=True)
    text = make_table(results)
    print(text)
    if a.output:
        before, _, rest = Path(a.output).read_text().partition(BEGIN)
        Path(a.output).write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    if a.picture:
        draw_picture(Path(a.picture), results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
