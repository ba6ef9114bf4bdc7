"""Map-model metrics before and after the embedded network, on simulated half maps, on reconstructions, and on pure noise.

    python benchmarks/quality.py [--structures DIR] [--reconstructions DIR] [--relion] [--variant NAME] [--mask] [--output FILE.md]

DIR of structures: atomic models with an index.tsv (columns file and split), of which the test split is used; without it synthetic proteins.
DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz and NAME_model.mrc.gz. Their atoms are not known: no Q-score, no least ordered fifth.
--mask: the weights get a mask as with -m, that of the molecule with 6 A round it; the variant masked always does.
--relion: beside them what a user gets every day, relion_mask_create and relion_postprocess --auto_bfac on the same halves (RELION on the PATH).
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement.enhance import Options, enhance
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.evaluation.modelmap import find_least_ordered, mask_molecule
from deepemhancer_plugin.core.evaluation.qscore import draw_atoms, q_scores
from deepemhancer_plugin.core.evaluation.report import Reference
from deepemhancer_plugin.core.maps import mrc, spectrum
from deepemhancer_plugin.core.simulation import (
    Molecule,
    from_structure,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.weights.embedded import EmbeddedModel, load_embedded, load_file

COLUMNS = (
    "FSC-0.5 masked (A)",
    "FSC-0.5 unmasked (A)",
    "CC_mask",
    "CC_box",
    "Q-score",
    "FSC-0.5 least ordered fifth (A)",
)
LOWER_IS_BETTER = np.array([True, True, False, False, False, True])
SCORED_ATOMS = (
    1500  # of a map, drawn with a seed: the standard error of a mean Q-score is about 0.005
)
NUCLEIC = 10  # phosphorus atoms: a nucleic acid, not a cofactor


def molecules(folder: str | None) -> list[tuple[str, Molecule]]:
    if folder is None:
        return [(f"synthetic {seed}", from_structure(build_protein(seed))) for seed in range(4)]
    with open(Path(folder) / "index.tsv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["split"] == "test"]
    return [(row["file"].split(".")[0], read_molecule(Path(folder) / row["file"])) for row in rows]


def measured(volume: np.ndarray, truth: Reference, rate: float) -> np.ndarray:
    """A map's values in the order of COLUMNS, as far as the truth tells them."""
    values = list(astuple(score(volume, truth.model, truth.mask, rate)))
    if truth.positions is not None and truth.least_ordered is not None:
        values.append(float(q_scores(volume, truth.positions, rate, truth.scored).mean()))
        values.append(
            spectrum.resolution(
                *spectrum.fsc(
                    volume * truth.least_ordered, truth.model * truth.least_ordered, rate
                ),
                0.5,
            )
        )
    return np.array(values)


def postprocessed(half1: np.ndarray, half2: np.ndarray, rate: float) -> np.ndarray | None:
    """The halves' sharpened, weighted and masked map as RELION makes it (None where it finds no B factor).

    The mask: the mean low-passed at 15 A over five standard deviations of its noise, grown by 3 voxels, with a soft edge of 6.
    """
    k = [
        f(n, rate)
        for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), half1.shape, strict=True)
    ]
    low = k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2 < 15.0**-2
    noise = fft.irfftn(fft.rfftn((half1 - half2) / 2) * low, s=half1.shape).std()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("half1", half1), ("half2", half2), ("mean", (half1 + half2) / 2)):
            mrc.write_map(f"{folder}/{name}.mrc", data, mrc.new_map(data, rate))
        mask = [
            "relion_mask_create",
            "--i",
            "mean.mrc",
            "--o",
            "mask.mrc",
            "--lowpass",
            "15",
            "--angpix",
            f"{rate}",
            "--ini_threshold",
            f"{5 * noise}",
            "--extend_inimask",
            "3",
            "--width_soft_edge",
            "6",
        ]
        sharpen = [
            "relion_postprocess",
            "--i",
            "half1.mrc",
            "--i2",
            "half2.mrc",
            "--mask",
            "mask.mrc",
            "--angpix",
            f"{rate}",
            "--auto_bfac",
            "--autob_lowres",
            "10",
            "--o",
            "./post",
        ]
        for command in (mask, sharpen):
            subprocess.run(
                command, cwd=folder, capture_output=True
            )  # its status also tells of the PDF that it may fail to draw
        output = f"{folder}/post_masked.mrc"
        return mrc.read_map(output).data if os.path.isfile(output) else None


Row = tuple[
    str, str, set[str], np.ndarray
]  # the map, its conditions and kinds, values (methods, metrics): mean of halves, perhaps RELION, enhanced


def table(title: str, rows: list[Row]) -> str:
    """Markdown: medians of all maps and of each kind, the worst change, and every map."""
    values = np.array([row[3] for row in rows])
    n = values.shape[2]
    methods = (
        ("mean of halves", "relion_postprocess", "enhanced")
        if values.shape[1] == 3
        else ("mean of halves", "enhanced")
    )
    sign = np.where(LOWER_IS_BETTER[:n], -1, 1)
    head = ["| | " + " | ".join(COLUMNS[:n]) + " |", "|---" * (n + 1) + "|"]

    def line(name: str, cells: np.ndarray) -> str:
        return (
            f"| {name} | "
            + " | ".join(
                f"{v:.{2 if lower else 3}f}"
                for v, lower in zip(cells, LOWER_IS_BETTER[:n], strict=True)
            )
            + " |"
        )

    lines = [
        f"## {title}",
        "",
        f"{len(rows)} maps; a gain is positive where the enhanced map is better.",
        "",
        *head,
    ]
    lines += [
        line(f"median, {method}", np.nanmedian(values[:, i], 0)) for i, method in enumerate(methods)
    ]
    for i, method in enumerate(methods[:-1]):
        gain = (values[:, -1] - values[:, i]) * sign
        lines += [
            line(f"**median gain** over {method}", np.nanmedian(gain, 0)),
            line(f"smallest gain over {method}", np.nanmin(gain, 0)),
        ]
    for kind in sorted(set().union(*(row[2] for row in rows))):
        chosen = np.array([kind in row[2] for row in rows])
        lines += [
            line(f"{kind} ({chosen.sum()}): median, {method}", np.nanmedian(values[chosen, i], 0))
            for i, method in enumerate(methods)
        ]
    lines += [
        "",
        "Each map: mean of halves → enhanced"
        + (", in brackets relion_postprocess." if len(methods) == 3 else "."),
        "",
        "| map | conditions | " + " | ".join(COLUMNS[:n]) + " |",
        "|---" * (n + 2) + "|",
    ]
    for name, what, _, v in rows:
        cells = [
            f"{first:.2f} → {last:.2f}" + "".join(f" ({r:.2f})" for r in rest)
            for first, *rest, last in v.T
        ]
        lines.append(f"| {name} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--structures")
    p.add_argument("--reconstructions")
    p.add_argument("--relion", action="store_true")
    p.add_argument("--variant", default="tightTarget", help="of the embedded weights")
    p.add_argument("--weights", help="a file, instead")
    p.add_argument("--mask", action="store_true")
    p.add_argument("--maps", type=int, default=1000, help="at most so many simulated ones")
    p.add_argument(
        "--stride", type=int, default=EmbeddedModel.stride, help="voxels between windows"
    )
    p.add_argument("--precision", default="auto")
    p.add_argument("--output")
    a = p.parse_args()
    EmbeddedModel.stride = a.stride
    where = select_devices(None)
    model = load_file(a.weights) if a.weights else load_embedded(a.variant)
    masked = a.mask or model.normalization == "mask"

    def run(maps: list[np.ndarray], rate: float, mask: np.ndarray) -> np.ndarray:
        return enhance(
            maps,
            rate,
            model,
            where,
            Options(precision=a.precision, mask=mask > 0.5 if masked else None),
        ).data

    def compare(
        name: str,
        what: str,
        kinds: set[str],
        half1: np.ndarray,
        half2: np.ndarray,
        truth: Reference,
        rate: float,
    ) -> Row:
        started = time.perf_counter()
        maps: list[np.ndarray | None] = [(half1 + half2) / 2]
        if a.relion:
            maps.append(postprocessed(half1, half2, rate))
        maps.append(run([half1.copy(), half2.copy()], rate, truth.mask))
        known = [None if v is None else measured(v, truth, rate) for v in maps]
        assert known[0] is not None
        values = np.array([np.full_like(known[0], np.nan) if v is None else v for v in known])
        print(
            f"{name:16} {what:50} {np.round(values, 3).tolist()} {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        return name, what, kinds, values

    warnings.simplefilter("ignore", MapWarning)  # pure noise is warned about
    parts, rows, noise, signal = [], [], [], []
    for i, (name, molecule) in enumerate(molecules(a.structures)[: a.maps]):
        c = random_conditions(np.random.default_rng([1, i]), typical=True)
        s = simulate_halves(molecule, c, i, workers=2)
        what = (
            f"{c.resolution:.1f} A, B {c.b_factor:.0f}"
            + (", micelle" if c.micelle else "")
            + (", preferred views" if c.preferred else "")
        )
        kinds = {
            kind
            for kind, true in (
                ("membrane", c.micelle > 0),
                ("preferred views", c.preferred > 0),
                ("nucleic acid", np.count_nonzero(molecule.elements == "P") >= NUCLEIC),
            )
            if true
        }
        truth = Reference(
            s.model,
            soft_mask(s.model, 1.0),
            mask_molecule(s.molecule[find_least_ordered(s.observed)], s.model.shape, 1.0),
            s.molecule.positions,
            draw_atoms(len(s.molecule), SCORED_ATOMS, i),
        )
        rows.append(compare(name, what, kinds, s.half1, s.half2, truth, 1.0))
        if i % 6 == 0:  # half maps without a molecule: two independent differences
            other = simulate_halves(molecule, replace(c, box=len(s.half1)), i + 10**6, workers=2)
            pure = [s.half1 - s.half2, other.half1 - other.half2]
            noise.append(
                [
                    float(np.percentile(run(maps, 1.0, truth.mask), 99.9))
                    for maps in ([sum(pure) / 2], pure)
                ]
            )
            signal.append(float(np.percentile(s.target[s.mask > 0.5], 95)))
    source = "the test split's structures" if a.structures else "synthetic proteins"
    parts.append(table(f"Simulated half maps of {source}", rows))
    single, halves = 100 * (np.array(noise) / np.array(signal)[:, None]).max(0)
    parts.append(
        f"## Pure noise\n\nNoise alone, {len(noise)} maps: the 99.9th percentile of the output is at most {halves:.1f} % of the 95th "
        f"percentile inside a protein where there are two half maps, {single:.1f} % where there is but their mean as a single map.\n"
    )
    if a.reconstructions:
        rows = []
        for first in sorted(Path(a.reconstructions).glob("*_half1.mrc.gz")):
            halves = [
                mrc.read_map(str(first).replace("half1", part))
                for part in ("half1", "half2", "model")
            ]
            rate, model_map = halves[0].sampling_rate, halves[2].data
            truth = Reference(model_map, soft_mask(model_map, rate))
            rows.append(
                compare(
                    first.name.split("_")[0], "", set(), halves[0].data, halves[1].data, truth, rate
                )
            )
        parts.append(table("Half maps reconstructed by RELION", rows))
    text = "\n".join(parts)
    print(text)
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
