"""`deepemhancer train` and `deepemhancer fine-tune`: arguments, files and words around the training."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepemhancer_plugin.core.commands.terminal import log
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder
from deepemhancer_plugin.core.training import optimizers


def _parser(name: str, description: str, defaults: dict[str, Any]) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(f"deepemhancer {name}", description=description)
    data = p.add_argument_group("data (one of --structures and --pairs, or both)")
    data.add_argument(
        "--structures",
        metavar="DIR",
        help="atomic models (PDB, mmCIF, .gz), from which half maps are simulated on the fly; index.tsv "
        "with columns file and split (train, validation, test) if there is one, else a tenth of the files is held out",
    )
    data.add_argument(
        "--pairs",
        metavar="TABLE",
        help="real half maps with fitted models: tab-separated, columns id, half1, half2, model, "
        "resolution, and if wanted mask, split (train, validation, test), cluster (of sequences; without it MMseqs2 finds them)",
    )
    data.add_argument(
        "--pairShare",
        type=float,
        default=0.5,
        metavar="F",
        help="share of the cubes that come from --pairs where both are given "
        "(default: %(default)s)",
    )
    data.add_argument(
        "--correlation",
        type=float,
        default=0.4,
        metavar="CC",
        help="of map and model, under which a pair is left out (default: %(default)s)",
    )
    data.add_argument(
        "--modelB",
        choices=["file", "refined"],
        default="file",
        help="B factors of the pairs' models: the file's where they differ "
        "from atom to atom, or one refined for all (default: %(default)s)",
    )
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="for weights.npz, checkpoint.npz, history.json, loss.png; prepared pairs",
    )
    p.add_argument(
        "--network",
        choices=["embedded", "published"],
        help="published: the network, loss and schedule of Sanchez-Garcia et al. 2021 "
        "(default: embedded, or that of --start)",
    )
    p.add_argument(
        "--architecture",
        metavar="JSON",
        help='what is to differ from the network\'s architecture, e.g. \'{"norm": "group"}\'',
    )
    p.add_argument(
        "--target",
        choices=["tight", "wide", "sharp", "model"],
        help="tight: a tight mask; wide: a mask 5 A wider, with what surrounds "
        "the molecule; sharp: for maps better than 4 A; model: the model's own map, for squared errors (default: tight, or model "
        "with --start of weights that squared errors made)",
    )
    p.add_argument(
        "--masked", action="store_true", help="for maps that are normalised in a mask of the user's"
    )
    p.add_argument(
        "--start",
        metavar="FILE|NAME",
        help="weights to start from instead of random ones: a file, or the name of embedded ones",
    )
    p.add_argument("--steps", type=int)
    p.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="stop after that many minutes, earlier runs included",
    )
    p.add_argument("--batch", type=int, help="cubes of the smallest edge a step")
    p.add_argument(
        "--edges", help="edges of the cubes in voxels, multiples of 16, with commas between"
    )
    p.add_argument(
        "--optimizer",
        choices=optimizers.NAMES,
        help="muon: orthogonal steps for the convolutions' kernels",
    )
    p.add_argument("--rate", type=float, help="peak learning rate")
    p.add_argument("--warmup", type=int, help="steps until it is reached")
    p.add_argument(
        "--schedule",
        choices=["cosine", "plateau"],
        help="plateau: halved after five validations without improvement",
    )
    p.add_argument("--absoluteWeight", type=float, help="of the mean absolute error")
    p.add_argument("--fscWeight", type=float, help="of the FSC term")
    p.add_argument("--squareWeight", type=float, help="of the squared error relative to the target")
    p.add_argument("--gradientWeight", type=float, help="of the gradient's mean absolute error")
    p.add_argument("--emptyWeight", type=float, help="of the error where the target is empty")
    p.add_argument(
        "--noiseOnly",
        type=float,
        metavar="F",
        help="share of the simulated volumes that hold nothing but noise",
    )
    p.add_argument(
        "--typical",
        type=float,
        metavar="F",
        help="share of the simulated volumes under the conditions that are met most",
    )
    p.add_argument("--pool", type=int, help="cubes held in memory")
    p.add_argument("--workers", type=int, help="processes that make cubes")
    p.add_argument("--precision", choices=["auto", "float32", "mixed_bfloat16", "mixed_float16"])
    p.add_argument("--validateEvery", type=int, help="steps; an epoch, for --schedule plateau")
    p.add_argument("--seed", type=int, default=0)
    p.epilog = "defaults: " + ", ".join(
        f"--{flag} {','.join(map(str, value)) if flag == 'edges' else value}"
        for flag, value in defaults.items()
    )
    return p


def _flags(settings: Any) -> dict[str, Any]:
    """The flags that have a setting each, and its value."""
    return {flag: getattr(settings, name) for flag, name in _SETTINGS.items()}


_SETTINGS = {
    "steps": "steps",
    "batch": "batch",
    "edges": "edges",
    "optimizer": "optimizer",
    "rate": "rate",
    "warmup": "warmup",
    "schedule": "schedule",
    "absoluteWeight": "absolute_weight",
    "fscWeight": "fsc_weight",
    "squareWeight": "square_weight",
    "gradientWeight": "gradient_weight",
    "emptyWeight": "empty_weight",
    "noiseOnly": "noise_only",
    "typical": "typical",
    "pool": "pool",
    "workers": "workers",
    "precision": "precision",
    "validateEvery": "validate_every",
}
_LOWEST = {
    "steps": 1,
    "minutes": 0.01,
    "batch": 1,
    "rate": 1e-9,
    "warmup": 0,
    "absoluteWeight": 0,
    "fscWeight": 0,
    "squareWeight": 0,
    "gradientWeight": 0,
    "emptyWeight": 0,
    "noiseOnly": 0,
    "typical": 0,
    "pool": 8,
    "workers": 1,
    "validateEvery": 1,
}
# Of fine-tuning: a tenth of the rate and a fifth of the steps, so that what the weights know is kept; and a shorter average to match.
FINE_TUNE: dict[str, Any] = {
    "rate": 6e-5,
    "steps": 4000,
    "warmup": 100,
    "validate_every": 500,
    "average": 0.99,
}
# What made weights that answer with a mean (networks.Architecture), and is to go on with them.
MEAN: dict[str, Any] = {
    "absolute_weight": 0.1,
    "square_weight": 1.0,
    "empty_weight": 10.0,
    "target": "model",
}


def train(arguments: Sequence[str]) -> int:
    """`deepemhancer train --structures DIR -o DIR` or `--pairs TABLE`"""
    return _run(
        "train",
        "Train a network on half maps simulated on the fly, on real half maps with fitted models, or on both. Stopped and run "
        "again, it goes on from its checkpoint.",
        {},
        arguments,
    )


def fine_tune(arguments: Sequence[str]) -> int:
    """`deepemhancer fine-tune --pairs TABLE -o DIR`"""
    return _run(
        "fine-tune",
        "Train on from weights that are there, for maps of one's own: the same as `train` with --start (default: the embedded "
        "weights), a smaller rate and fewer steps.",
        FINE_TUNE,
        arguments,
    )


def _run(name: str, description: str, changes: dict[str, Any], arguments: Sequence[str]) -> int:
    from deepemhancer_plugin.core.training.plot import plot_history
    from deepemhancer_plugin.core.training.train import Settings
    from deepemhancer_plugin.core.training.train import train as run

    a = _parser(name, description, _flags(Settings(**changes))).parse_args(arguments)
    if not a.structures and not a.pairs:
        raise InputError(
            f"deepemhancer {name}: --structures DIR or --pairs TABLE is needed: there is nothing to train on"
        )
    for flag, low in _LOWEST.items():
        if getattr(a, flag) is not None and not getattr(a, flag) >= low:
            raise InputError(f"--{flag} {getattr(a, flag)}: at least {low} is needed")
    for flag in ("noiseOnly", "typical"):
        if (getattr(a, flag) or 0) > 1:
            raise InputError(f"--{flag} {getattr(a, flag):g}: a share from 0 to 1 is right")
    if not 0 < a.pairShare < 1:
        raise InputError(
            f"--pairShare {a.pairShare:g}: between 0 and 1 is right; leave out --structures or --pairs for all of the other"
        )
    start = _start(a.start or ("tightTarget" if name == "fine-tune" else None))
    settings = _settings(a, start, changes)
    folder = make_folder(a.output)
    sources = _sources(a, settings, folder, log)

    def report(entry: dict) -> None:
        share = max(entry["step"] / settings.steps, entry["minutes"] / settings.minutes)
        log(
            f"step {entry['step']}, {entry['minutes']:.1f} min, about {entry['minutes'] * (1 / max(share, 1e-6) - 1):.0f} min left: loss "
            f"{entry['loss']:.4f}, {entry['looks']:.1f} looks at a cube; held out: error {entry['mae']:.4f}, FSC {entry['fsc']:.3f}, "
            f"correlation {entry['cc']:.3f}"
        )

    trainer = run(sources["train"], sources["validation"], settings, folder, report, start, log)
    plot_history(trainer.history, folder / "loss.png")
    log(f"wrote {folder / 'weights.npz'}: use it with --weights")
    return 0


def _start(given: str | None) -> Path | None:
    """The file of weights to start from."""
    from deepemhancer_plugin.core.weights.embedded import FOLDER

    if given is None:
        return None
    if Path(given).is_file():
        return Path(given)
    if "/" not in given and (FOLDER / f"{given}.npz").is_file():
        return FOLDER / f"{given}.npz"
    names = ", ".join(sorted(f.stem for f in FOLDER.glob("*.npz")))
    raise InputError(
        f"--start {given}: no such file, and no embedded weights of that name ({names})"
    )


def _settings(a: argparse.Namespace, start: Path | None, changes: dict[str, Any]):
    """Settings by the arguments: the published ones where that network is asked for, and the architecture of the weights to start from."""
    from deepemhancer_plugin.core.training.train import PUBLISHED_SETTINGS, Settings
    from deepemhancer_plugin.core.weights.embedded import load_file
    from deepemhancer_plugin.core.weights.networks import PUBLISHED, Architecture

    architecture = (
        load_file(str(start)).architecture
        if start
        else PUBLISHED
        if a.network == "published"
        else Architecture()
    )
    if start and a.network and a.network != architecture.kind:
        raise InputError(
            f"--start {start}: weights of the {architecture.kind} network; leave out --network {a.network}, or give other weights"
        )
    if architecture.answer == "mean":
        changes = MEAN | changes
    settings = Settings(
        **((PUBLISHED_SETTINGS if architecture.kind == "published" else {}) | changes)
    )
    if a.architecture is not None:
        try:
            given = Architecture.from_dict(architecture.to_dict() | json.loads(a.architecture))
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(
                f'--architecture {a.architecture}: {error}; JSON like \'{{"norm": "group"}}\' is right'
            ) from error
        if start and given != architecture:
            raise InputError(
                f"--start {start}: weights of another network than --architecture {a.architecture} asks for; leave out one of them"
            )
        architecture = given
    if a.masked:  # weights for maps that are normalised by their noise are a good start
        architecture = replace(architecture, normalization="mask")
    given_flags = {
        name: getattr(a, flag) for flag, name in _SETTINGS.items() if getattr(a, flag) is not None
    }
    if a.edges is not None:
        edges = tuple(int(e) for e in a.edges.split(",") if e.strip().isdigit())
        if not edges or any(e < 32 or e % 16 for e in edges):
            raise InputError(
                f"--edges {a.edges}: multiples of 16 from 32 on, with commas between, are right"
            )
        given_flags["edges"] = edges
    settings = replace(
        settings,
        architecture=architecture,
        minutes=a.minutes,
        target=a.target or settings.target,
        seed=a.seed,
        **given_flags,
    )
    answer = "mean" if settings.square_weight > settings.absolute_weight else "median"
    settings = replace(settings, architecture=replace(architecture, answer=answer))
    for edge in settings.edges:
        if edge % architecture.stride:
            raise InputError(
                f"--edges {a.edges}: {edge} is no multiple of {architecture.stride}, as this network needs it"
            )
    return settings


def _sources(a: argparse.Namespace, settings, folder: Path, log) -> dict[str, Any]:
    """Where the cubes of each split come from. With both kinds, a kind without anything to validate on leaves that to the other."""
    from deepemhancer_plugin.core.simulation import read_molecule
    from deepemhancer_plugin.core.training.cubes import Mixed, Simulation
    from deepemhancer_plugin.core.training.pairs import prepare_table
    from deepemhancer_plugin.core.training.structures import split_structures

    found: list[dict[str, Any]] = []
    if a.structures:
        files = split_structures(Path(a.structures))
        log(f"{len(files['train'])} structures to train on, {len(files['validation'])} held out")
        found.append(
            {
                split: Simulation(
                    [read_molecule(f) for f in files[split]],
                    settings.task,
                    settings.noise_only,
                    settings.typical,
                )
                for split in ("train", "validation")
            }
        )
    if a.pairs:
        pairs = prepare_table(
            Path(a.pairs),
            folder / "prepared",
            settings.task,
            settings.seed,
            a.correlation,
            a.modelB == "file",
            log,
        )
        log(
            f"{len(pairs['train'])} pairs to train on, {len(pairs['validation'])} held out; {folder / 'prepared' / 'pairs.tsv'} says why"
        )
        for split in ("train", "validation"):
            if not len(pairs[split]) and (split == "train" or not a.structures):
                raise InputError(
                    f"--pairs {a.pairs}: nothing is left for {split} (see {folder / 'prepared' / 'pairs.tsv'}); maps better than 7 A "
                    "with a fitted model are needed, of two sequence clusters at least, or --structures besides"
                )
        found.append(dict(pairs))

    def of(split: str):
        sources = [kind[split] for kind in found if len(kind[split])]
        return sources[0] if len(sources) == 1 else Mixed(sources[0], sources[1], a.pairShare)

    return {split: of(split) for split in ("train", "validation")}
