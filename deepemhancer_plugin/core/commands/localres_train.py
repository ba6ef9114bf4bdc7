"""`deepemhancer localres-train`: a network of `localres`, trained on maps simulated on the fly."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepemhancer_plugin.core.commands.terminal import collect_warnings, log
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder

if TYPE_CHECKING:
    from deepemhancer_plugin.core.simulation import Molecule

PROTEINS = 12  # synthetic ones, where no structures are given,
HELD_OUT_PROTEINS = 2  # and how many of them validate
CALIBRATION_MOLECULES = 16  # at most
LEAST = {"steps": 1, "minutes": 0.01, "batch": 1, "rate": 1e-9, "validateEvery": 1, "pool": 8}


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer localres-train",
        description="Train a network of `localres` on maps simulated on the fly. Stopped and run "
        "again, it goes on from its checkpoint.",
    )
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="for weights.npz, checkpoint.npz, history.json",
    )
    p.add_argument(
        "--structures",
        metavar="DIR",
        help="atomic models (PDB, mmCIF, .gz), with index.tsv (columns file, split) if there is "
        "one (default: the built-in synthetic proteins)",
    )
    p.add_argument(
        "--network",
        choices=["1.0", "0.5"],
        default="1.0",
        help="A/voxel, and so the range (default: %(default)s)",
    )
    p.add_argument(
        "--kind",
        choices=["dense", "published"],
        default="dense",
        help="ours or the paper's (default: %(default)s)",
    )
    p.add_argument("--steps", type=int, default=20000, help="(default: %(default)s)")
    p.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="stop after that many minutes, earlier runs included",
    )
    p.add_argument(
        "--rate", type=float, default=3e-3, help="peak learning rate (default: %(default)s)"
    )
    p.add_argument("--batch", type=int, default=3, help="volumes a step (default: %(default)s)")
    p.add_argument(
        "--edge",
        type=int,
        default=48,
        help="their edge in voxels, a multiple of four (default: %(default)s)",
    )
    p.add_argument(
        "--pool",
        type=int,
        default=800,
        help="volumes held in memory, four of a pose (default: %(default)s)",
    )
    p.add_argument("--validateEvery", type=int, default=500, help="steps (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return p


def _check(a: argparse.Namespace) -> None:
    if a.edge < 32 or a.edge % 4:
        raise InputError(f"--edge {a.edge}: a multiple of 4 from 32 on is right")
    for flag, least in LEAST.items():
        if not getattr(a, flag) >= least:
            raise InputError(f"--{flag} {getattr(a, flag)}: at least {least} is needed")


def _read_molecules(structures: str | None) -> dict[str, list["Molecule"]]:
    """The molecules to train and to validate on."""
    from deepemhancer_plugin.core.simulation import from_structure, read_molecule
    from deepemhancer_plugin.core.simulation.synthetic import build_protein
    from deepemhancer_plugin.core.training.structures import split_structures

    if structures is None:
        proteins = [from_structure(build_protein(seed)) for seed in range(PROTEINS)]
        return {
            "train": proteins[:-HELD_OUT_PROTEINS],
            "validation": proteins[-HELD_OUT_PROTEINS:],
        }
    with collect_warnings():
        files = split_structures(Path(structures))
    return {split: [read_molecule(f) for f in files[split]] for split in ("train", "validation")}


def _report(entry: dict[str, Any]) -> None:
    log(
        f"step {entry['step']}, {entry['minutes']:.1f} min: loss {entry['loss']:.4f}; "
        f"held out, per cent of the resolution: bias {entry['bias']:+.1f}, "
        f"mean absolute error {entry['mae']:.1f}, root mean square {entry['rms']:.1f}"
    )


def main(arguments: Sequence[str]) -> int:
    """Run `deepemhancer localres-train -o DIR` and return the exit status."""
    a = _parser().parse_args(arguments)
    _check(a)
    from deepemhancer_plugin.core.localres.train import Settings, Trainer

    folder = make_folder(a.output)
    molecules = _read_molecules(a.structures)
    train, held_out = molecules["train"], molecules["validation"]
    log(f"{len(train)} structures to train on, {len(held_out)} held out")
    settings = Settings(
        rate=a.network,
        kind=a.kind,
        edge=a.edge,
        batch=a.batch,
        steps=a.steps,
        minutes=a.minutes,
        learning_rate=a.rate,
        pool=a.pool,
        validate_every=a.validateEvery,
        seed=a.seed,
    )
    Trainer(settings, folder).run(train, held_out, _report)
    if a.kind == "dense":
        _calibrate(folder / "weights.npz", held_out[:CALIBRATION_MOLECULES], a.seed)
    log(f"wrote {folder / 'weights.npz'}: use it with localres --network")
    return 0


def _calibrate(path: Path, molecules: list["Molecule"], seed: int) -> None:
    """Calibrate the network in a file of weights."""
    from deepemhancer_plugin.core.localres.networks import Dense, load_weights, save_weights
    from deepemhancer_plugin.core.localres.predict import calibrate

    network, facts = load_weights(path)
    if not isinstance(network, Dense):
        raise TypeError(f"{path} holds a network without calibration")
    predicted, true = calibrate(network, molecules, seed)
    pairs = (f"{p:.2f} means {t:.2f} A" for p, t in zip(predicted, true, strict=True))
    log(f"calibration: {', '.join(pairs)}")
    save_weights(path, network, facts)
