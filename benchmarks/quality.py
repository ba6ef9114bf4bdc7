"""Map-model metrics before and after the embedded network, on simulated half maps, on reconstructions, and on pure noise.

    python benchmarks/quality.py [--structures DIR] [--reconstructions DIR] [--output FILE.md]

DIR of structures: atomic models with an index.tsv (columns file and split), of which the test split is used; without it synthetic proteins.
DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz and NAME_model.mrc.gz.
"""
import argparse
import csv
import sys
import time
import warnings
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core import mrc
from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.embedded import EmbeddedModel, load_embedded, load_file
from deepemhancer_plugin.core.enhance import Options, enhance
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.simulation import Molecule, from_structure, random_conditions, read_molecule, simulate
from deepemhancer_plugin.core.synthetic import build_protein

COLUMNS = ("FSC-0.5 masked (A)", "FSC-0.5 unmasked (A)", "CC_mask", "CC_box")


def molecules(folder: str | None) -> list[tuple[str, Molecule]]:
    if folder is None:
        return [(f"synthetic {seed}", from_structure(build_protein(seed))) for seed in range(4)]
    with open(Path(folder) / "index.tsv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["split"] == "test"]
    return [(row["file"].split(".")[0], read_molecule(Path(folder) / row["file"])) for row in rows]


def table(title: str, rows: list[tuple[str, str, np.ndarray]]) -> str:
    """Markdown: the medians, the worst change, and every map."""
    values = np.array([row[2] for row in rows])  # (maps, before and after, metrics)
    change = (values[:, 1] - values[:, 0]) * np.array([-1, -1, 1, 1])
    lines = [f"## {title}", "", f"{len(rows)} maps; a gain is positive where the enhanced map is better.", "",
             "| | " + " | ".join(COLUMNS) + " |", "|---|---|---|---|---|"]
    for name, line in (("median, mean of halves", np.median(values[:, 0], 0)), ("median, enhanced", np.median(values[:, 1], 0)),
                       ("**median gain**", np.median(change, 0)), ("smallest gain", change.min(0))):
        lines.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in line) + " |")
    lines += ["", "| map | conditions | " + " | ".join(COLUMNS) + " |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {what} | " + " | ".join(f"{a:.2f} → {b:.2f}" for a, b in zip(*v, strict=True)) + " |" for name, what, v in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--structures")
    p.add_argument("--reconstructions")
    p.add_argument("--weights")
    p.add_argument("--maps", type=int, default=1000, help="at most so many simulated ones")
    p.add_argument("--stride", type=int, default=EmbeddedModel.stride, help="voxels between windows")
    p.add_argument("--precision", default="auto")
    p.add_argument("--output")
    a = p.parse_args()
    EmbeddedModel.stride = a.stride
    where = select_devices(None)
    model = load_file(a.weights) if a.weights else load_embedded("tightTarget")

    def run(maps: list[np.ndarray], rate: float) -> np.ndarray:
        return enhance(maps, rate, model, where, Options(precision=a.precision)).data

    def compare(name: str, what: str, half1: np.ndarray, half2: np.ndarray, truth: np.ndarray, rate: float) -> tuple[str, str, np.ndarray]:
        started = time.perf_counter()
        mask = soft_mask(truth, rate)
        after = run([half1.copy(), half2.copy()], rate)
        values = np.array([astuple(score(v, truth, mask, rate)) for v in ((half1 + half2) / 2, after)])
        print(f"{name:16} {what:50} {np.round(values, 2).tolist()} {time.perf_counter() - started:.0f} s", flush=True)
        return name, what, values

    warnings.simplefilter("ignore", MapWarning)  # pure noise is warned about
    parts, rows, noise, signal = [], [], [], []
    for i, (name, molecule) in enumerate(molecules(a.structures)[:a.maps]):
        c = random_conditions(np.random.default_rng([1, i]), typical=True)
        s = simulate(molecule, c, i, workers=2)
        what = f"{c.resolution:.1f} A, B {c.b_factor:.0f}" + (", micelle" if c.micelle else "") + (", preferred views" if c.preferred else "")
        rows.append(compare(name, what, s.half1, s.half2, s.model, 1.0))
        if i % 6 == 0:  # half maps without a molecule: two independent differences
            other = simulate(molecule, replace(c, box=len(s.half1)), i + 10**6, workers=2)
            pure = [s.half1 - s.half2, other.half1 - other.half2]
            noise.append([float(np.percentile(run(maps, 1.0), 99.9)) for maps in ([sum(pure) / 2], pure)])
            signal.append(float(np.percentile(s.target[s.mask > 0.5], 95)))
    source = "the test split's structures" if a.structures else "synthetic proteins"
    parts.append(table(f"Simulated half maps of {source}", rows))
    single, halves = 100 * (np.array(noise) / np.array(signal)[:, None]).max(0)
    parts.append(f"## Pure noise\n\nNoise alone, {len(noise)} maps: the 99.9th percentile of the output is at most {halves:.1f} % of the 95th "
                 f"percentile inside a protein where there are two half maps, {single:.1f} % where there is but their mean as a single map.\n")
    if a.reconstructions:
        rows = []
        for first in sorted(Path(a.reconstructions).glob("*_half1.mrc.gz")):
            halves = [mrc.read_map(str(first).replace("half1", part)) for part in ("half1", "half2", "model")]
            rows.append(compare(first.name.split("_")[0], "", *(h.data for h in halves), halves[0].sampling_rate))
        parts.append(table("Half maps reconstructed by RELION", rows))
    text = "\n".join(parts)
    print(text)
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
