"""Variants of network and loss, trained for equal minutes on one pool, compared on the same cubes.

On a GPU, and on two cores:

    KERAS_BACKEND=jax python benchmarks/variants.py --structures DIR --minutes 20 --workers 12 \\
        --pool 8000 --work variants
    python benchmarks/variants.py --structures DIR --minutes 10 --scale 3 --batch 4 \\
        --precision float32 --pool 2400

DIR holds atomic models with an index.tsv (columns file and split); train and validation are used.
Every variant has a folder in --work; stopped and run again, the comparison goes on where it was,
also within a variant. --only trains some of them; the table holds all that are finished. --scale
divides all widths (to multiples of 8): small networks of the same kinds, where there is no GPU.
--reconstructions adds whole maps (NAME_half1.mrc.gz, NAME_half2.mrc.gz, NAME_model.mrc.gz).
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.simulation import read_molecule
from deepemhancer_plugin.core.training.cubes import Simulation
from deepemhancer_plugin.core.training.pool import Pool
from deepemhancer_plugin.core.training.structures import split_structures
from deepemhancer_plugin.core.training.train import (
    PUBLISHED_SETTINGS,
    Settings,
    Trainer,
    make_validation_set,
)
from deepemhancer_plugin.core.weights.networks import Architecture

BASE = Architecture()
# What differs from the baseline, the settings of `deepemhancer train`.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": (
        "as shipped: widths 48/96/160/192, space-to-depth, layer normalisation, "
        "MAE + 0.05 (1 - FSC)",
        {},
    ),
    "narrow": ("widths 32/64/112/128", {"architecture": replace(BASE, widths=(32, 64, 112, 128))}),
    "wide": ("widths 64/128/208/256", {"architecture": replace(BASE, widths=(64, 128, 208, 256))}),
    "three levels": (
        "widths 48/96/160",
        {"architecture": replace(BASE, widths=(48, 96, 160), blocks=(2, 2, 2))},
    ),
    "full entrance": (
        "no space-to-depth: one more level, 16 features at 1 A/voxel",
        {
            "architecture": replace(
                BASE, widths=(16, 48, 96, 160, 192), blocks=(1, 2, 2, 2, 2), entrance=1
            )
        },
    ),
    "no normalisation": (
        "residual blocks without normalisation",
        {"architecture": replace(BASE, norm="none")},
    ),
    "group normalisation": (
        "over groups of eight features and the window",
        {"architecture": replace(BASE, norm="group")},
    ),
    "one channel": ("without the flattened map", {"architecture": replace(BASE, channels=1)}),
    "MAE": ("loss without the FSC term", {"fsc_weight": 0.0}),
    "more FSC": ("MAE + 0.2 (1 - FSC)", {"fsc_weight": 0.2}),
    "squares": ("MAE + 0.05 (1 - FSC) + 0.5 relative squared error", {"square_weight": 0.5}),
    "gradient": ("MAE + 0.05 (1 - FSC) + 0.3 gradient", {"gradient_weight": 0.3}),
    "published": ("the published network, loss and schedule", PUBLISHED_SETTINGS),
}


@dataclass(frozen=True)
class View:
    """Inputs of the shared pool as a variant's network is shown them.

    They may have fewer channels, or go without the compression, which sinh undoes.

    Attributes:
        architecture: of the variant.
    """

    architecture: Architecture

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        inputs = inputs[..., : self.architecture.channels]
        return (
            inputs
            if self.architecture.compressed
            else np.sinh(inputs.astype(np.float32)).clip(-65000, 65000).astype(np.float16)
        )


class Shared:
    """The pool's interface for a Trainer."""

    def __init__(self, pool: Pool, view: View):
        self._pool = pool
        self._view = view
        self.count_made = pool.count_made

    def draw_batch(
        self, count: int, edge: int, rng: np.random.Generator, blur: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = self._pool.draw_batch(count, edge, rng, blur)
        return self._view(inputs), targets


def make_settings(name: str, common: dict[str, Any], scale: float) -> Settings:
    """A variant's settings; data, minutes and device are common to all."""
    made = Settings(**({"rate": 8e-4} | VARIANTS[name][1] | common))
    if scale == 1:
        return made
    widths = tuple(max(8, 8 * round(w / scale / 8)) for w in made.architecture.widths)
    return replace(made, architecture=replace(made.architecture, widths=widths))


def _print_entry(name: str, entry: dict[str, Any]) -> None:
    print(
        f"{name}: step {entry['step']}, {entry['minutes']:.1f} min, error {entry['mae']:.4f}, "
        f"FSC {entry['fsc']:.3f}, correlation {entry['cc']:.3f}",
        flush=True,
    )


def train(
    name: str,
    settings: Settings,
    pool: Pool,
    validation: tuple[np.ndarray, np.ndarray],
    folder: Path,
    quality: Callable[[Path], dict[str, float]] | None,
) -> dict[str, Any]:
    """Train one variant, or go on with it; result.json in its folder keeps what is returned."""
    import keras

    result = folder / "result.json"
    if result.is_file() and json.loads(result.read_text())["minutes"] >= settings.minutes:
        return json.loads(result.read_text())
    keras.backend.clear_session()
    gc.collect()
    view = View(settings.architecture)
    trainer = Trainer(settings, folder)
    held_out = view(validation[0]), validation[1]
    trainer.run(
        Shared(pool, view),
        held_out,
        lambda entry: _print_entry(name, entry),
    )
    last = trainer.history[-1]
    model = trainer.models[held_out[0].shape[1]]
    started = time.perf_counter()
    for cube in held_out[0][:8]:
        np.asarray(model.predict_on_batch(cube[None]))
    found = {
        "minutes": settings.minutes,
        "steps": trainer.step,
        "parameters": trainer.network.model.count_params(),
        "window_ms": 1000 * (time.perf_counter() - started) / len(held_out[0][:8]),
        **{k: last[k] for k in ("mae", "fsc", "cc", "noise")},
    }
    if quality:
        found |= quality(folder / "weights.npz")
    result.write_text(json.dumps(found, indent=1))
    return found


def make_quality(folder: Path) -> Callable[[Path], dict[str, float]]:
    """Make a function from a file of weights to the median gains on a folder's reconstructions."""
    from deepemhancer_plugin.core import enhance, read_map
    from deepemhancer_plugin.core.evaluation import score, soft_mask

    def measure(weights: Path) -> dict[str, float]:
        gains = []
        for first in sorted(folder.glob("*_half1.mrc.gz")):
            half1, half2, truth = (
                read_map(str(first).replace("half1", part)) for part in ("half1", "half2", "model")
            )
            rate = truth.sampling_rate
            mask = soft_mask(truth.data, rate)
            before = (half1.data + half2.data) / 2
            after = enhance(half1, half2, weights=weights).data
            scores = [astuple(score(v, truth.data, mask, rate)) for v in (before, after)]
            gains.append((np.array(scores[1]) - scores[0]) * (-1, -1, 1, 1))
        names = ("masked", "unmasked", "cc_mask", "cc_box")
        return dict(zip(names, np.median(gains, axis=0).tolist(), strict=True))

    return measure


def table(
    results: dict[str, dict[str, Any]],
    common: dict[str, Any],
    scale: float,
    device: str,
    cubes: int,
) -> str:
    """Write the comparison as Markdown."""
    with_maps = all("masked" in r for r in results.values())
    head = [
        "variant",
        "what differs",
        "parameters (M)",
        "steps",
        "ms a window",
        "MAE",
        "mean FSC",
        "correlation",
        "output on noise",
    ]
    head += ["gain FSC-0.5 masked (A)", "unmasked (A)", "CC_mask", "CC_box"] if with_maps else []
    text = (
        f"Each trained for {common['minutes']:g} minutes on {device}, in batches of as many voxels "
        f"as {common['batch']} cubes of {min(common['edges'])}^3, from one pool of simulated "
        f"cubes; compared on the same {cubes} held-out cubes of {max(common['edges'])}^3. MAE, FSC "
        "and correlation are those to the target, whose 95th percentile in a protein is about 1; "
        "the output on noise is the mean of the 99.9th percentiles on held-out cubes without any "
        "molecule."
    )
    if scale != 1:
        text += f" All widths are divided by {scale:g}, to multiples of 8."
    if with_maps:
        text += " Gains are medians over half maps reconstructed by RELION."
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines = ["# Variants of network and loss", "", text, "", *rows]
    for name, r in results.items():
        cells = [
            name,
            VARIANTS[name][0],
            f"{r['parameters'] / 1e6:.1f}",
            f"{r['steps']}",
            f"{r['window_ms']:.0f}",
            f"{r['mae']:.4f}",
            f"{r['fsc']:.3f}",
            f"{r['cc']:.3f}",
            f"{r['noise']:.3f}",
        ]
        cells += (
            [f"{r[key]:+.2f}" for key in ("masked", "unmasked", "cc_mask", "cc_box")]
            if with_maps
            else []
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--structures", required=True)
    p.add_argument("--reconstructions")
    p.add_argument(
        "--work", default="variants", help="folder of the trainings (default: %(default)s)"
    )
    p.add_argument(
        "--minutes", type=float, default=20, help="of training for each (default: %(default)s)"
    )
    p.add_argument(
        "--only", help="names with commas between (default: all): " + ", ".join(VARIANTS)
    )
    p.add_argument("--scale", type=float, default=1, help="that the widths are divided by")
    p.add_argument("--edges", default="64", help="of the cubes (default: %(default)s)")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--pool", type=int, default=4000)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--validationCubes", type=int, default=64)
    p.add_argument("--precision", default="mixed_bfloat16")
    p.add_argument("--output", help="Markdown file to write")
    a = p.parse_args()
    names = a.only.split(",") if a.only else list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        p.error(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    common = {
        "minutes": a.minutes,
        "edges": tuple(int(e) for e in a.edges.split(",")),
        "batch": a.batch,
        "steps": 10**9,
        "pool": a.pool,
        "workers": a.workers,
        "precision": a.precision,
        "validation_cubes": a.validationCubes,
        "validate_every": 1000,
    }
    settings, work = Settings(**common), Path(a.work)
    files = split_structures(Path(a.structures))
    train_on, held_out = (
        Simulation([read_molecule(f) for f in files[split]]) for split in ("train", "validation")
    )
    with Pool(
        train_on, settings.pool, max(settings.edges), 2, settings.workers, settings.seed
    ) as pool:
        validation = make_validation_set(held_out, settings)
        pool.wait(settings.pool)  # the first variant has no fewer cubes than the last
        quality = make_quality(Path(a.reconstructions)) if a.reconstructions else None
        for name in names:
            train(
                name,
                make_settings(name, common, a.scale),
                pool,
                validation,
                work / name.replace(" ", "_"),
                quality,
            )
    from deepemhancer_plugin.core.devices import select_devices

    folders = {name: work / name.replace(" ", "_") / "result.json" for name in VARIANTS}
    results = {
        name: json.loads(path.read_text()) for name, path in folders.items() if path.is_file()
    }
    text = table(results, common, a.scale, select_devices(None).description, len(validation[0]))
    print(text)
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
