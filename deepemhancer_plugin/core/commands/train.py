"""`deepemhancer train` and `deepemhancer fine-tune`."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepemhancer_plugin.core.commands.terminal import log
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder
from deepemhancer_plugin.core.training import optimizers

if TYPE_CHECKING:
    from deepemhancer_plugin.core.training.cubes import Source
    from deepemhancer_plugin.core.training.train import Settings
    from deepemhancer_plugin.core.weights.networks import Architecture


@dataclass(frozen=True)
class Flag:
    """A flag of the command line that has a setting of its own.

    Attributes:
        name: of the flag.
        setting: field of `training.train.Settings`.
        kind: type of the value.
        help: what the flag does.
        least: smallest value.
        fraction: whether 1 is the largest value.
        choices: the values there are.
    """

    name: str
    setting: str
    kind: Callable[[str], Any]
    help: str | None = None
    least: float | None = None
    fraction: bool = False
    choices: tuple[str, ...] | None = None


TARGETS = (
    "tight: a tight mask; wide: a mask 5 A wider, with what surrounds the molecule; "
    "sharp: for maps better than 4 A; model: the model's own map, for squared errors "
    "(default: tight, or model with --start of weights that squared errors made)"
)
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
FLAGS = (
    Flag("target", "target", str, TARGETS, choices=("tight", "wide", "sharp", "model")),
    Flag("steps", "steps", int, "stop after that many steps", 1),
    Flag("minutes", "minutes", float, "stop after that many minutes, earlier runs included", 0.01),
    Flag("batch", "batch", int, "cubes of the smallest edge a step", 1),
    Flag("edges", "edges", str, "edges of the cubes in voxels, multiples of 16, commas between"),
    Flag(
        "optimizer",
        "optimizer",
        str,
        "muon: orthogonal steps for the convolutions' kernels",
        choices=optimizers.NAMES,
    ),
    Flag("rate", "rate", float, "peak learning rate", 1e-9),
    Flag("warmup", "warmup", int, "steps until it is reached", 0),
    Flag(
        "schedule",
        "schedule",
        str,
        "plateau: halved after five validations without improvement",
        choices=("cosine", "plateau"),
    ),
    Flag("absoluteWeight", "absolute_weight", float, "of the mean absolute error", 0),
    Flag("fscWeight", "fsc_weight", float, "of the FSC term", 0),
    Flag("squareWeight", "square_weight", float, "of the squared error relative to the target", 0),
    Flag("gradientWeight", "gradient_weight", float, "of the gradient's mean absolute error", 0),
    Flag("emptyWeight", "empty_weight", float, "of the error where the target is empty", 0),
    Flag(
        "noiseOnly",
        "noise_only",
        float,
        "fraction of the simulated volumes that hold nothing but noise",
        0,
        fraction=True,
    ),
    Flag(
        "typical",
        "typical",
        float,
        "fraction of the simulated volumes under the commonest conditions",
        0,
        fraction=True,
    ),
    Flag("pool", "pool", int, "cubes held in memory", 8),
    Flag("workers", "workers", int, "processes that make cubes", 1),
    Flag("precision", "precision", str, "of the arithmetic", choices=PRECISIONS),
    Flag("validateEvery", "validate_every", int, "steps; an epoch, for --schedule plateau", 1),
    Flag("seed", "seed", int, "of all random numbers"),
)

# Fine-tuning takes a tenth of the rate and a fifth of the steps, so that the weights keep what they
# know, and a shorter average to match.
FINE_TUNE: dict[str, Any] = {
    "rate": 6e-5,
    "steps": 4000,
    "warmup": 100,
    "validate_every": 500,
    "average": 0.99,
}
# Weights that predict a mean (`networks.Architecture`) were made with these and go on with them.
MEAN: dict[str, Any] = {
    "absolute_weight": 0.1,
    "square_weight": 1.0,
    "empty_weight": 10.0,
    "target": "model",
}
FINE_TUNED = "tightTarget"  # the weights that `fine-tune` starts from where none are given
SMALLEST_EDGE = 32  # voxels, of the cubes; edges are multiples of half of it


def train(arguments: Sequence[str]) -> int:
    """Run `deepemhancer train --structures DIR -o DIR` or `--pairs TABLE`; return the status."""
    description = (
        "Train a network on half maps simulated on the fly, on real half maps with fitted models, "
        "or on both. Stopped and run again, it goes on from its checkpoint."
    )
    return _run("train", description, {}, arguments)


def fine_tune(arguments: Sequence[str]) -> int:
    """Run `deepemhancer fine-tune --pairs TABLE -o DIR` and return the exit status."""
    description = (
        "Train on from weights that are there, for maps of one's own: the same as `train` with "
        "--start (default: the embedded weights), a smaller rate and fewer steps."
    )
    return _run("fine-tune", description, FINE_TUNE, arguments)


def _run(name: str, description: str, changes: dict[str, Any], arguments: Sequence[str]) -> int:
    from deepemhancer_plugin.core.training.plot import plot_history
    from deepemhancer_plugin.core.training.train import Settings
    from deepemhancer_plugin.core.training.train import train as run

    a = make_parser(name, description, Settings(**changes)).parse_args(arguments)
    _check(name, a)
    start = find_weights(a.start or (FINE_TUNED if name == "fine-tune" else None))
    settings = make_settings(a, start, changes)
    folder = make_folder(a.output)
    sources = _make_sources(a, settings, folder)
    trainer = run(
        sources["train"],
        sources["validation"],
        settings,
        folder,
        lambda entry: log(_describe(entry, settings)),
        start,
        log,
    )
    plot_history(trainer.history, folder / "loss.png")
    log(f"wrote {folder / 'weights.npz'}: use it with --weights")
    return 0


def make_parser(name: str, description: str, defaults: "Settings") -> argparse.ArgumentParser:
    """Make the parser of the sub-command `name`, whose help shows the default settings."""
    p = argparse.ArgumentParser(f"deepemhancer {name}", description=description)
    data = p.add_argument_group("data (one of --structures and --pairs, or both)")
    data.add_argument(
        "--structures",
        metavar="DIR",
        help="atomic models (PDB, mmCIF, .gz), from which half maps are simulated on the fly; "
        "index.tsv with columns file and split (train, validation, test) if there is one, else a "
        "tenth of the files is held out",
    )
    data.add_argument(
        "--pairs",
        metavar="TABLE",
        help="real half maps with fitted models: tab-separated, columns id, half1, half2, model, "
        "resolution, and if wanted mask, split (train, validation, test), cluster (of sequences; "
        "without it MMseqs2 finds them)",
    )
    data.add_argument(
        "--pairShare",
        type=float,
        default=0.5,
        metavar="F",
        help="fraction of the cubes that come from --pairs where both are given "
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
        help="B factors of the pairs' models: the file's where they differ from atom to atom, or "
        "one refined for all (default: %(default)s)",
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
        "--masked", action="store_true", help="for maps that are normalised in a mask of the user's"
    )
    p.add_argument(
        "--start",
        metavar="FILE|NAME",
        help="weights to start from instead of random ones: a file, or the name of embedded ones",
    )
    for flag in FLAGS:
        p.add_argument(f"--{flag.name}", type=flag.kind, help=flag.help, choices=flag.choices)
    values = {flag.name: getattr(defaults, flag.setting) for flag in FLAGS}
    values["edges"] = ",".join(map(str, defaults.edges))
    p.epilog = "defaults: " + ", ".join(f"--{flag} {value}" for flag, value in values.items())
    return p


def _check(name: str, a: argparse.Namespace) -> None:
    if not a.structures and not a.pairs:
        raise InputError(
            f"deepemhancer {name}: --structures DIR or --pairs TABLE is needed: "
            "there is nothing to train on"
        )
    for flag in FLAGS:
        value = getattr(a, flag.name)
        if value is None:
            continue
        if flag.least is not None and not value >= flag.least:
            raise InputError(f"--{flag.name} {value}: at least {flag.least} is needed")
        if flag.fraction and value > 1:
            raise InputError(f"--{flag.name} {value:g}: a fraction from 0 to 1 is right")
    if not 0 < a.pairShare < 1:
        raise InputError(
            f"--pairShare {a.pairShare:g}: between 0 and 1 is right; "
            "leave out --structures or --pairs for all of the other"
        )


def find_weights(given: str | None) -> Path | None:
    """Find a file of weights by its path, or by the name of embedded ones.

    Raises:
        InputError: there is none.
    """
    from deepemhancer_plugin.core.weights.embedded import FOLDER

    if given is None or Path(given).is_file():
        return None if given is None else Path(given)
    if "/" not in given and (FOLDER / f"{given}.npz").is_file():
        return FOLDER / f"{given}.npz"
    names = ", ".join(sorted(f.stem for f in FOLDER.glob("*.npz")))
    raise InputError(
        f"--start {given}: no such file, and no embedded weights of that name ({names})"
    )


def make_settings(a: argparse.Namespace, start: Path | None, changes: dict[str, Any]) -> "Settings":
    """Make the settings that the arguments ask for.

    Args:
        a: the arguments.
        start: a file of weights, whose architecture and kind of prediction are kept.
        changes: of the sub-command's settings from the plain ones.

    Raises:
        InputError: arguments that are wrong or do not fit each other.
    """
    from deepemhancer_plugin.core.training.train import PUBLISHED_SETTINGS, Settings

    base = _base_architecture(a.network, start)
    architecture = _change_architecture(base, a.architecture, start)
    if a.masked:  # weights for maps that are normalised by their noise are a good start
        architecture = replace(architecture, normalization="mask")
    chosen = dict(PUBLISHED_SETTINGS) if base.kind == "published" else {}
    if base.prediction == "mean":
        chosen |= MEAN
    given = {flag.setting: getattr(a, flag.name) for flag in FLAGS}
    chosen |= changes | {name: value for name, value in given.items() if value is not None}
    if a.edges is not None:
        chosen["edges"] = _read_edges(a.edges)
    settings = Settings(**chosen | {"architecture": architecture})
    prediction: Literal["mean", "median"] = (
        "mean" if settings.square_weight > settings.absolute_weight else "median"
    )
    for edge in settings.edges:
        if edge % architecture.stride:
            raise InputError(
                f"--edges {a.edges}: {edge} is no multiple of {architecture.stride}, "
                "as this network needs it"
            )
    return replace(settings, architecture=replace(architecture, prediction=prediction))


def _base_architecture(network: str | None, start: Path | None) -> "Architecture":
    """The architecture of the weights to start from, or of a kind of network."""
    from deepemhancer_plugin.core.weights.networks import (
        PUBLISHED,
        Architecture,
        load_architecture,
    )

    if start is None:
        return PUBLISHED if network == "published" else Architecture()
    architecture = load_architecture(start)
    if network and network != architecture.kind:
        raise InputError(
            f"--start {start}: weights of the {architecture.kind} network; "
            f"leave out --network {network}, or give other weights"
        )
    return architecture


def _change_architecture(
    architecture: "Architecture", text: str | None, start: Path | None
) -> "Architecture":
    """The architecture with the changes that the JSON text of --architecture asks for."""
    from deepemhancer_plugin.core.weights.networks import Architecture

    if text is None:
        return architecture
    try:
        changed = Architecture.from_dict(architecture.to_dict() | json.loads(text))
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f'--architecture {text}: {error}; JSON like \'{{"norm": "group"}}\' is right'
        ) from error
    if start and changed != architecture:
        raise InputError(
            f"--start {start}: weights of another network than --architecture {text} asks for; "
            "leave out one of them"
        )
    return changed


def _read_edges(text: str) -> tuple[int, ...]:
    edges = tuple(int(e) for e in text.split(",") if e.strip().isdigit())
    if not edges or any(e < SMALLEST_EDGE or e % (SMALLEST_EDGE // 2) for e in edges):
        raise InputError(
            f"--edges {text}: multiples of 16 from 32 on, with commas between, are right"
        )
    return edges


def _make_sources(a: argparse.Namespace, settings: "Settings", folder: Path) -> dict[str, "Source"]:
    """The sources of cubes to train and to validate on.

    Where one of two kinds of data has nothing to validate on, the other one validates alone.
    """
    from deepemhancer_plugin.core.training.cubes import Mixed

    kinds = []
    if a.structures:
        kinds.append(_simulate(Path(a.structures), settings))
    if a.pairs:
        kinds.append(_prepare_pairs(a, settings, folder / "prepared"))
    sources = {}
    for split in ("train", "validation"):
        found = [kind[split] for kind in kinds if len(kind[split])]
        mixed = len(found) == 2
        sources[split] = Mixed(found[0], found[1], a.pairShare) if mixed else found[0]
    return sources


def _simulate(structures: Path, settings: "Settings") -> dict[str, "Source"]:
    from deepemhancer_plugin.core.simulation import read_molecule
    from deepemhancer_plugin.core.training.cubes import Simulation
    from deepemhancer_plugin.core.training.structures import split_structures

    files = split_structures(structures)
    log(f"{len(files['train'])} structures to train on, {len(files['validation'])} held out")
    return {
        split: Simulation(
            [read_molecule(f) for f in files[split]],
            settings.task,
            settings.noise_only,
            settings.typical,
        )
        for split in ("train", "validation")
    }


def _prepare_pairs(
    a: argparse.Namespace, settings: "Settings", folder: Path
) -> dict[str, "Source"]:
    from deepemhancer_plugin.core.training.pairs import prepare_table

    use_file_b = a.modelB == "file"
    pairs = prepare_table(
        Path(a.pairs), folder, settings.task, settings.seed, a.correlation, use_file_b, log
    )
    reasons = folder / "pairs.tsv"
    log(
        f"{len(pairs['train'])} pairs to train on, {len(pairs['validation'])} held out; "
        f"{reasons} says why"
    )
    for split, source in pairs.items():
        if not len(source) and (split == "train" or not a.structures):
            raise InputError(
                f"--pairs {a.pairs}: nothing is left for {split} (see {reasons}); "
                "maps better than 7 A with a fitted model are needed, of two sequence clusters at "
                "least, or --structures besides"
            )
    return dict(pairs)


def _describe(entry: dict[str, Any], settings: "Settings") -> str:
    """A line for the log about a validation."""
    minutes = entry["minutes"]
    progress = max(entry["step"] / settings.steps, minutes / settings.minutes, 1e-6)
    return (
        f"step {entry['step']}, {minutes:.1f} min, about {minutes * (1 / progress - 1):.0f} min "
        f"left: loss {entry['loss']:.4f}, {entry['looks']:.1f} looks at a cube; held out: "
        f"error {entry['mae']:.4f}, FSC {entry['fsc']:.3f}, correlation {entry['cc']:.3f}"
    )
