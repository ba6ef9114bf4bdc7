"""`deepemhancer localres-train`: a network of `localres`, trained on maps simulated on the fly."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from deepemhancer_plugin.core.commands.terminal import log
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer localres-train -o DIR`"""
    p = argparse.ArgumentParser(
        "deepemhancer localres-train",
        description="Train a network of `localres` on maps simulated on the fly. Stopped and "
        "run again, it goes on from its checkpoint.",
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
        help="atomic models (PDB, mmCIF, .gz), with index.tsv (columns file, split) if there is one "
        "(default: the built-in synthetic proteins)",
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
    p.add_argument("--steps", type=int, default=20000)
    p.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
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
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(arguments)
    if a.edge < 32 or a.edge % 4:
        raise InputError(f"--edge {a.edge}: a multiple of 4 from 32 on is right")
    for name, low in (
        ("steps", 1),
        ("minutes", 0.01),
        ("batch", 1),
        ("rate", 1e-9),
        ("validateEvery", 1),
        ("pool", 8),
    ):
        if not getattr(a, name) >= low:
            raise InputError(f"--{name} {getattr(a, name)}: at least {low} is needed")
    from deepemhancer_plugin.core.localres.train import Settings, Trainer
    from deepemhancer_plugin.core.simulation import from_structure, read_molecule
    from deepemhancer_plugin.core.simulation.synthetic import build_protein
    from deepemhancer_plugin.core.training.structures import split_structures

    folder = make_folder(a.output)
    if a.structures:
        molecules = {
            split: [read_molecule(f) for f in files]
            for split, files in split_structures(Path(a.structures)).items()
            if split != "test"
        }
    else:
        every = [from_structure(build_protein(seed)) for seed in range(12)]
        molecules = {"train": every[:10], "validation": every[10:]}
    log(
        f"{len(molecules['train'])} structures to train on, {len(molecules['validation'])} held out"
    )
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

    def report(entry: dict) -> None:
        log(
            f"step {entry['step']}, {entry['minutes']:.1f} min: loss {entry['loss']:.4f}; held out, per cent of the resolution: bias "
            f"{entry['bias']:+.1f}, mean absolute error {entry['mae']:.1f}, root mean square {entry['rms']:.1f}"
        )

    Trainer(settings, folder).run(molecules["train"], molecules["validation"], report)
    if a.kind == "dense":
        from deepemhancer_plugin.core.localres import networks, predict

        network, facts = networks.load_weights(folder / "weights.npz")
        assert isinstance(network, networks.Dense)
        said, true = predict.calibrate(network, molecules["validation"][:16], a.seed)
        log(
            f"calibration: {', '.join(f'{s:.2f} means {t:.2f} A' for s, t in zip(said, true, strict=True))}"
        )
        networks.save_weights(folder / "weights.npz", network, facts)
    log(f"wrote {folder / 'weights.npz'}: use it with localres --network")
    return 0
