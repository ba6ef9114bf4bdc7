"""`deepemhancer train` and `deepemhancer fine-tune`."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepemhancer_plugin.core.commands.terminal import collect_warnings, log
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder
from deepemhancer_plugin.core.training.options import OPTIONS, are_edges

if TYPE_CHECKING:
    from deepemhancer_plugin.core.simulation import Molecule
    from deepemhancer_plugin.core.training.cubes import Source
    from deepemhancer_plugin.core.training.recipe import Recipe
    from deepemhancer_plugin.core.training.train import Settings

# Fine-tuning takes a tenth of the rate and a fifth of the steps, so that the weights keep what they
# know, and a shorter average to match.
FINE_TUNE: dict[str, Any] = {
    "rate": 6e-5,
    "steps": 4000,
    "warmup": 100,
    "validate_every": 500,
    "average": 0.99,
}
FINE_TUNED = "tightTarget"  # the weights that `fine-tune` starts from where none are given
# Flags that go with --recipe: what a machine allows, and where things are.
WITH_RECIPE = ("recipe", "structures", "output", "minutes", "workers", "pool", "precision")


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
    from deepemhancer_plugin.core.training.recipe import find_weights
    from deepemhancer_plugin.core.training.train import Settings
    from deepemhancer_plugin.core.training.train import train as run

    parser = make_parser(name, description, Settings(**changes))
    a = parser.parse_args(arguments)
    _check(name, a)
    if getattr(a, "recipe", None):
        _check_recipe_flags(parser, a)
        return _follow_recipe(a)
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


def _check_recipe_flags(parser: argparse.ArgumentParser, a: argparse.Namespace) -> None:
    """Refuse what a recipe decides."""
    if not a.structures:
        raise InputError("--recipe: --structures DIR is needed, the folder with atomic models")
    for key, value in vars(a).items():
        if key not in WITH_RECIPE and value != parser.get_default(key):
            raise InputError(
                f"--{key}: the recipe decides that; with --recipe only --minutes, --workers, "
                "--pool and --precision may be given, or change a copy of the file"
            )


def _follow_recipe(a: argparse.Namespace) -> int:
    from deepemhancer_plugin.core.training import recipe as recipes

    recipe = recipes.load_recipe(recipes.find_recipe(a.recipe))
    read_molecules = _MoleculeReader(Path(a.structures), recipe)
    limits = recipes.Limits(
        math.inf if a.minutes is None else a.minutes, a.workers, a.pool, a.precision
    )
    folder = make_folder(a.output)
    finished = recipes.run_recipe(
        recipe,
        folder,
        lambda settings: _simulate(read_molecules(), settings),
        limits,
        lambda entry, settings: log(_describe(entry, settings)),
        log,
    )
    if finished:
        log(f"wrote {folder / 'weights.npz'}: use it with --weights")
    return 0


class _MoleculeReader:
    """Reads the structures that a recipe names, once, when they are asked for."""

    def __init__(self, structures: Path, recipe: "Recipe | None" = None) -> None:
        from deepemhancer_plugin.core.training.structures import (
            select_structures,
            split_structures,
        )

        listed = recipe.splits if recipe else None
        with collect_warnings():
            if listed is None:
                self._files = split_structures(structures)
                missing: list[str] = []
            else:
                self._files, missing = select_structures(structures, listed)
        if missing:
            names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            log(
                f"warning: {len(missing)} structures of the recipe's list are not in {structures} "
                f"({names}): the weights will be others"
            )
        self._molecules: dict[str, list[Molecule]] = {}

    def __call__(self) -> dict[str, list["Molecule"]]:
        from deepemhancer_plugin.core.simulation import read_molecule

        if not self._molecules:
            files = self._files
            log(
                f"{len(files['train'])} structures to train on, {len(files['validation'])} held out"
            )
            self._molecules = {
                split: [read_molecule(f) for f in files[split]] for split in ("train", "validation")
            }
        return self._molecules


def make_parser(name: str, description: str, defaults: "Settings") -> argparse.ArgumentParser:
    """Make the parser of the sub-command `name`, whose help shows the default settings."""
    p = argparse.ArgumentParser(f"deepemhancer {name}", description=description)
    data = p.add_argument_group("data (one of --structures and --pairs, or both)")
    data.add_argument(
        "--structures",
        metavar="DIR",
        help="atomic models (PDB, mmCIF, .gz), from which half maps are simulated on the fly; "
        "index.tsv with columns file and split (train, validation, test) if there is one, else a "
        "tenth of the files is held out, related proteins together where MMseqs2 is installed",
    )
    if name == "train":
        data.add_argument(
            "--recipe",
            metavar="NAME|FILE",
            help="train by a recipe: tightTarget, wideTarget, highRes, masked, or a TOML file; "
            "--minutes then pauses, and the same command goes on",
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
        default=0.6,
        metavar="CC",
        help="CC_mask of map and model, under which a pair is left out (default: %(default)s)",
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
    for flag in OPTIONS:
        p.add_argument(f"--{flag.name}", type=flag.kind, help=flag.help, choices=flag.choices)
    values = {flag.name: getattr(defaults, flag.setting) for flag in OPTIONS}
    values["edges"] = ",".join(map(str, defaults.edges))
    p.epilog = "defaults: " + ", ".join(f"--{flag} {value}" for flag, value in values.items())
    return p


def _check(name: str, a: argparse.Namespace) -> None:
    if not a.structures and not a.pairs:
        raise InputError(
            f"deepemhancer {name}: --structures DIR or --pairs TABLE is needed: "
            "there is nothing to train on"
        )
    for option in OPTIONS:
        value = getattr(a, option.name)
        fault = None if value is None else option.check(value)
        if fault:
            raise InputError(f"--{option.name} {value}: {fault}")
    if not 0 < a.pairShare < 1:
        raise InputError(
            f"--pairShare {a.pairShare:g}: between 0 and 1 is right; "
            "leave out --structures or --pairs for all of the other"
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
    from deepemhancer_plugin.core.training import recipe

    given = {option.setting: getattr(a, option.name) for option in OPTIONS}
    values = changes | {name: value for name, value in given.items() if value is not None}
    if a.edges is not None:
        values["edges"] = _read_edges(a.edges)
    differences = _read_architecture(a.architecture)
    architecture = recipe.choose_network(start, a.network, differences, a.masked)
    return recipe.make_settings(values, architecture)


def _read_architecture(text: str | None) -> dict[str, Any]:
    """The changes that the JSON text of --architecture asks for."""
    try:
        changes = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(
            f'--architecture {text}: {error}; JSON like \'{{"norm": "group"}}\' is right'
        ) from error
    if not isinstance(changes, dict):
        raise InputError(f'--architecture {text}: JSON like \'{{"norm": "group"}}\' is right')
    return changes


def _read_edges(text: str) -> tuple[int, ...]:
    edges = tuple(int(e) for e in text.split(",") if e.strip().isdigit())
    if not are_edges(edges):
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
        kinds.append(_simulate(_MoleculeReader(Path(a.structures))(), settings))
    if a.pairs:
        kinds.append(_prepare_pairs(a, settings, folder / "prepared"))
    sources = {}
    for split in ("train", "validation"):
        found = [kind[split] for kind in kinds if len(kind[split])]
        mixed = len(found) == 2
        sources[split] = Mixed(found[0], found[1], a.pairShare) if mixed else found[0]
    return sources


def _simulate(molecules: dict[str, list["Molecule"]], settings: "Settings") -> dict[str, "Source"]:
    from deepemhancer_plugin.core.training.cubes import Simulation

    return {
        split: Simulation(
            found,
            settings.task,
            settings.noise_only,
            settings.typical,
            settings.variety,
        )
        for split, found in molecules.items()
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
