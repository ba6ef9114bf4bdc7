"""RELION's auto-refinement of simulated particles, plain and with the enhancer as its external reconstruction, judged by the truth.

    python benchmarks/relion_refinement.py --work DIR [--structures DIR] [--cases membrane,preferred,cut]
                                           [--output docs/relion.md] [--picture docs/relion_fsc.png]

Three cases: a membrane protein with its nanodisc (2R6G), a protein seen mostly from one side (1E4K), and the honesty experiment: the same protein
from all sides, its density cut at 5 A before the noise is added, where nothing may come out finer than 5 A. Without --structures, synthetic
proteins. DIR of --work keeps the particles and RELION's files; a refinement that ended is not run again.
"""

import argparse
import json
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

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
    refine_command,
    rotations,
    run,
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

CUT = 5.0  # A, of the honesty experiment
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Case:
    """What is refined; `diameter` of RELION's mask in A, `preferred`: share of the views within 30 degrees of one direction."""

    title: str
    file: str
    micelle: float = 0.0
    preferred: float = 0.0
    cut: bool = False
    resolution: float = 6.5  # A, that the noise would leave to half maps from the true angles
    diameter: float = 136.0
    order: int = 3  # healpix order that the angular searches begin at: without views from the side the errors stay so large that RELION stops at 3


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
RATE, BOX, PARTICLES = 1.8, 80, 500


def made(case: Case, structures: str | None) -> Simulated:
    molecule: Molecule = (
        read_molecule(Path(structures) / case.file)
        if structures
        else from_structure(build_protein(len(case.file) % 7))
    )
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
    """One refinement, unless it is there already."""
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
    text = run(refine_command(f"{name}/run", case.diameter, case.order, hook), folder, environment)
    (folder / name / "log.txt").write_text(text)
    (folder / name / "seconds").write_text(f"{time.perf_counter() - started:.0f}")
    print(f"{folder.name}, {name}: {time.perf_counter() - started:.0f} s", flush=True)


@dataclass(frozen=True)
class Result:
    """What a refinement came to; `curves`: the FSC of the half maps, and of their mean with the model's map, in the mask."""

    frequency: np.ndarray
    curves: tuple[np.ndarray, np.ndarray]
    numbers: dict[str, float]
    volume: np.ndarray


def measure(folder: Path, truth: Simulated) -> Result:
    """A refinement's unfiltered half maps and angles against the truth (`truth.star` beside it)."""
    halves = [
        mrcfile.read(folder / f"run_half{n}_class001_unfil.mrc").astype(np.float32) for n in (1, 2)
    ]
    mask = soft_mask(truth.model, RATE)
    # The particles' common shift is free: the map is put where the model is, to a twentieth of a voxel.
    mean = (halves[0] + halves[1]) / 2
    shift = phase_cross_correlation(
        low_pass_to(truth.model, RATE, 6) * mask,
        low_pass_to(mean, RATE, 6) * mask,
        upsample_factor=20,
    )[0]
    halves = [ndimage.fourier_shift(np.fft.fftn(h), shift) for h in halves]
    halves = [np.ascontiguousarray(np.fft.ifftn(h).real, np.float32) for h in halves]
    mean = (halves[0] + halves[1]) / 2
    half_fsc = half_map_fsc(*halves, RATE, mask)
    frequency, model_fsc = spectrum.fsc(mean * mask, truth.model * mask, RATE)
    assert half_fsc.corrected is not None
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
        "beyond": float(half_fsc.corrected[frequency > 1.05 / CUT].max()),
        "iterations": len(list(folder.glob("run_it*_half1_model.star"))) - 1,
        "enhanced": sum(call["enhanced"] for call in calls),
        "shift": float(np.linalg.norm(shift) * RATE),
    }
    return Result(frequency, (half_fsc.corrected, model_fsc), numbers, mean)


def angular_errors(found: Path, true: Path) -> tuple[np.ndarray, float]:
    """Angles in degrees between the particles' orientations and the true ones, less the rotation that all have in common, and that rotation."""
    one, other = (
        starfile.read(f, always_dict=True)["particles"]
        .set_index("rlnImageName")
        .sort_index()[ANGLES]
        .to_numpy()
        for f in (found, true)
    )
    estimated, right = rotations(one), rotations(other)
    common = (estimated * right.inv()).mean()
    return np.rad2deg((common.inv() * estimated * right.inv()).magnitude()), float(
        np.rad2deg(common.magnitude())
    )


COLUMNS = {
    "half_fsc": "half-map FSC 0.143 (Å)",
    "model_fsc": "map-model FSC 0.5 (Å)",
    "cc": "CC_mask",
    "q": "Q-score",
    "angle": "angular error, median (°)",
    "worst": "its 90th percentile (°)",
    "beyond": f"largest half-map FSC beyond {CUT / 1.05:.2f} Å",
}


def table(results: dict[tuple[str, str], Result]) -> str:
    rows = [
        "| case | refined | "
        + " | ".join(COLUMNS.values())
        + " | iterations, half maps enhanced |",
        "|---|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for (name, way), result in results.items():
        numbers = [
            f"{result.numbers[key]:.{3 if key in ('cc', 'q', 'beyond') else 2}f}" for key in COLUMNS
        ]
        if not CASES[name].cut:
            numbers[list(COLUMNS).index("beyond")] = "–"
        rows.append(
            f"| {CASES[name].title} | {'plain' if way == 'plain' else 'with the enhancer'} | "
            + " | ".join(numbers)
            + f" | {result.numbers['iterations']}, {result.numbers['enhanced']} |"
        )
    return "\n".join(rows) + "\n"


def picture(path: Path, results: dict[tuple[str, str], Result]) -> None:
    """FSC curves of every case, and below them the middle planes of the mean half maps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _ in results))
    figure = plt.figure(figsize=(5 * len(names), 7.4), layout="constrained")
    grid = figure.add_gridspec(2, 2 * len(names), height_ratios=[1.35, 1])
    for column, name in enumerate(names):
        plot = figure.add_subplot(grid[0, 2 * column : 2 * column + 2])
        for place, (way, colour) in enumerate((("plain", "tab:gray"), ("hook", "tab:blue"))):
            if (name, way) not in results:
                continue
            result = results[name, way]
            label = "plain" if way == "plain" else "with the enhancer"
            for curve, style, what in zip(
                result.curves, (":", "-"), ("half maps", "map-model"), strict=True
            ):
                plot.plot(result.frequency, curve, style, color=colour, label=f"{what}, {label}")
            image = figure.add_subplot(grid[1, 2 * column + place])
            middle = result.volume.shape[0] // 2
            plane = low_pass_to(result.volume, RATE, 4.2)[middle]
            edge = plane.shape[1] * RATE
            image.imshow(
                plane,
                cmap="gray",
                origin="lower",
                extent=(0, edge, 0, edge),
                vmin=np.percentile(plane, 5),
                vmax=np.percentile(plane, 99.7),
            )
            image.set(title=label, xlabel="x (Å)", ylabel="y (Å)" if place == 0 else "")
        for threshold in (0.143, 0.5):
            plot.axhline(threshold, color="black", linewidth=0.5)
        if CASES[name].cut:
            plot.axvline(
                1 / CUT, color="tab:red", linewidth=0.8, label=f"no density beyond {CUT:g} Å"
            )
        ticks = [20, 10, 7, 6, 5, 4.5, 4]
        plot.set_xticks([1 / t for t in ticks], [f"{t:g}" for t in ticks])
        plot.set(
            title=textwrap.fill(CASES[name].title.partition(":")[0], 38),
            xlabel="resolution (Å)",
            ylabel="FSC in the mask",
        )
        plot.set(xlim=(0, 0.5 / RATE), ylim=(-0.1, 1.03))
        plot.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--work", required=True, type=Path)
    p.add_argument("--structures")
    p.add_argument("--cases", default=",".join(CASES))
    p.add_argument("--ways", default="plain,hook")
    p.add_argument(
        "--output",
        help="a page in Markdown whose part between two comments, results and end of results, the table replaces",
    )
    p.add_argument("--picture")
    a = p.parse_args()
    results = {}
    for name in a.cases.split(","):
        truth = made(CASES[name], a.structures)
        for way in a.ways.split(","):
            refine(CASES[name], a.work / name, truth, way == "hook")
            results[name, way] = measure(a.work / name / way, truth)
            print(
                name,
                way,
                json.dumps(
                    {key: round(value, 3) for key, value in results[name, way].numbers.items()}
                ),
                flush=True,
            )
    text = table(results)
    print(text)
    if a.output:
        before, _, rest = Path(a.output).read_text().partition(BEGIN)
        Path(a.output).write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    if a.picture:
        picture(Path(a.picture), results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
