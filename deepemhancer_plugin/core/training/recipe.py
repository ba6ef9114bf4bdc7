"""Recipes: files that say how weights are made, and the training by them.

A recipe is a TOML file of at most three stages, which run one after the other. Each begins with the
weights of the one before.
"""

import json
import math
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder, replacing, write_text
from deepemhancer_plugin.core.training.cubes import Source
from deepemhancer_plugin.core.training.options import MEAN, OPTIONS, are_edges
from deepemhancer_plugin.core.training.plot import plot_history
from deepemhancer_plugin.core.training.run import read_state
from deepemhancer_plugin.core.training.structures import read_list
from deepemhancer_plugin.core.training.train import PUBLISHED_SETTINGS, Settings, train
from deepemhancer_plugin.core.weights.embedded import FOLDER as MODELS
from deepemhancer_plugin.core.weights.networks import PUBLISHED, Architecture, load_architecture

RECIPES = Path(__file__).parent / "recipes"
MOST_STAGES = 3
HEAD = ("about", "structures", "all", "stage")  # keys of a recipe
NETWORK = ("network", "architecture", "masked")  # keys of a stage besides the settings
EXPECTED = ("cubes", "hours")  # keys of what a stage expects

Named = Callable[[str], str]


def _name_flag(option: str) -> str:
    return f"--{option}"


@dataclass(frozen=True)
class Stage:
    """A part of a recipe.

    Attributes:
        settings: how to train.
        cubes: that it expects to see; None: not said.
        hours: that it expects to take; None: not said.
    """

    settings: Settings
    cubes: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How weights are made.

    Attributes:
        name: of the recipe.
        text: the file's.
        about: what it is for, in words.
        start: a file of weights that the first stage begins with; None: random ones.
        splits: "train", "validation" or "test" for each structure by its name; None: the folder
            says it.
        stages: one after the other.
    """

    name: str
    text: str
    about: str
    start: Path | None
    splits: Mapping[str, str] | None
    stages: tuple[Stage, ...]


def find_weights(given: str | None, name: str = "--start") -> Path | None:
    """Find a file of weights by its path, or by the name of embedded ones.

    Args:
        given: path or name; None: none are asked for.
        name: of the option, for messages.

    Raises:
        InputError: there is none.
    """
    if given is None or Path(given).is_file():
        return None if given is None else Path(given)
    if "/" not in given and (MODELS / f"{given}.npz").is_file():
        return MODELS / f"{given}.npz"
    names = ", ".join(sorted(f.stem for f in MODELS.glob("*.npz")))
    raise InputError(
        f"{name} {given}: no such file, and no embedded weights of that name ({names})"
    )


def choose_network(
    start: Path | None = None,
    network: str | None = None,
    changes: Mapping[str, Any] | None = None,
    masked: bool = False,
    name: Named = _name_flag,
) -> Architecture:
    """Choose the architecture of the network to train.

    Args:
        start: a file of weights, whose architecture and kind of prediction are kept.
        network: "embedded" or "published"; None: that of `start`, or embedded.
        changes: what is to differ from the network's architecture.
        masked: whether maps are normalised in a mask of the user's.
        name: names an option in messages.

    Raises:
        InputError: there is no such network, or the weights are of another one.
    """
    base = _base_architecture(network, start, name)
    changed = _change_architecture(base, changes or {}, start, name)
    # Weights for maps that are normalised by their noise are a good start for masked ones.
    return replace(changed, normalization="mask") if masked else changed


def make_settings(
    values: Mapping[str, Any], architecture: Architecture, name: Named = _name_flag
) -> Settings:
    """Make settings of those that were chosen; the others follow from the network.

    Args:
        values: settings by name.
        architecture: of the network, with the kind of prediction that its weights have.
        name: names an option in messages.

    Raises:
        InputError: the edges do not fit the network.
    """
    chosen = dict(PUBLISHED_SETTINGS) if architecture.kind == "published" else {}
    if architecture.prediction == "mean":
        chosen |= MEAN
    settings = Settings(**chosen | dict(values) | {"architecture": architecture})
    for edge in settings.edges:
        if edge % architecture.stride:
            raise InputError(
                f"{name('edges')} {','.join(map(str, settings.edges))}: {edge} is no multiple of "
                f"{architecture.stride}, as this network needs it"
            )
    mean = settings.square_weight > settings.absolute_weight
    architecture = replace(architecture, prediction="mean" if mean else "median")
    return replace(settings, architecture=architecture)


def _base_architecture(network: str | None, start: Path | None, name: Named) -> Architecture:
    """The architecture of the weights to start from, or of a kind of network."""
    if start is None:
        return PUBLISHED if network == "published" else Architecture()
    architecture = load_architecture(start)
    if network and network != architecture.kind:
        raise InputError(
            f"{name('start')} {start}: weights of the {architecture.kind} network; "
            f"leave out {name('network')} {network}, or give other weights"
        )
    return architecture


def _change_architecture(
    architecture: Architecture, changes: Mapping[str, Any], start: Path | None, name: Named
) -> Architecture:
    """The architecture with changes."""
    unknown = set(changes) - set(architecture.to_dict())
    try:
        if unknown:
            raise ValueError(f"there is no {', '.join(sorted(unknown))}")
        changed = Architecture.from_dict(architecture.to_dict() | dict(changes))
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{name('architecture')}: {error}; there are {', '.join(architecture.to_dict())}"
        ) from error
    if start and changed != architecture:
        raise InputError(
            f"{name('start')} {start}: weights of another network than {name('architecture')} "
            "asks for; leave out one of them"
        )
    return changed


def find_recipe(given: str) -> Path:
    """Find a recipe by its path, or by the name of one in the package.

    Raises:
        InputError: there is none.
    """
    if Path(given).is_file():
        return Path(given)
    if "/" not in given and (RECIPES / f"{given}.toml").is_file():
        return RECIPES / f"{given}.toml"
    names = ", ".join(sorted(f.stem for f in RECIPES.glob("*.toml")))
    raise InputError(f"--recipe {given}: no such file, and no recipe of that name ({names})")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: the file is no recipe; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a recipe in TOML ({error})") from error
    reader = _Reader(path, text)
    reader.check_keys(values, HEAD, None)
    tables = values.get("stage")
    common = values.get("all", {})
    if not isinstance(tables, list) or not 1 <= len(tables) <= MOST_STAGES:
        raise InputError(f"{path}: one to {MOST_STAGES} tables [[stage]] are needed")
    if not isinstance(common, dict):
        raise InputError(f"{path}: all: a table [all] is right")
    start = find_weights(tables[0].get("start"), reader.name("start", 0))
    listed = values.get("structures")
    splits = None if listed is None else read_list(path.parent / str(listed))
    stages: list[Stage] = []
    for number, table in enumerate(tables):
        origin = start if number == 0 else None
        before = stages[-1].settings.architecture if stages else None
        stages.append(reader.read_stage(number, common, table, origin, before))
    about = str(values.get("about", "")).strip()
    return Recipe(path.stem, text, about, start, splits, tuple(stages))


class _Reader:
    """Reads the tables of a recipe and says in which line something is wrong.

    Attributes:
        path: of the recipe.
        lines: of its text.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def name(self, key: str, stage: int | None) -> str:
        """Name a key by file and line; of a stage's key that stands in [all], that line."""
        number = self._find_line(key, stage)
        if number is None and stage is not None:
            number = self._find_line(key, -1)
        place = "" if number is None else f", line {number}"
        return f"{self.path}{place}: {key}"

    def _find_line(self, key: str, stage: int | None) -> int | None:
        """The line of a key: of a stage, of [all] (-1), or of the file (None)."""
        table: int | None = None
        stages = -1
        for number, line in enumerate(self.lines, start=1):
            header = re.match(r"\s*\[\[?\s*([\w.-]+)", line)
            if header and header[1].split(".")[0] == "stage":
                stages += line.lstrip().startswith("[[")
                table = stages
            elif header:
                table = -1 if header[1].split(".")[0] == "all" else None
            found = re.match(r"""\s*\[*\s*(?:\w+\.)?["']?([\w-]+)["']?\s*[=.\]]""", line)
            if found and found[1] == key and (table == stage or (header and stage is None)):
                return number
        return None

    def check_keys(
        self, values: Mapping[str, Any], known: Sequence[str], stage: int | None
    ) -> None:
        """Raise an InputError that names the line of a key that there is not."""
        for key in values:
            if key not in known:
                raise InputError(
                    f"{self.name(key, stage)}: no such setting; there are {', '.join(known)}"
                )

    def read_stage(
        self,
        number: int,
        common: Mapping[str, Any],
        table: Mapping[str, Any],
        start: Path | None,
        before: Architecture | None,
    ) -> Stage:
        """Make a stage of its table and of what all stages have in common.

        `start` are the weights that the first one begins with, `before` is the network of the
        stage before.
        """
        known = (*_SETTINGS, *NETWORK)
        self.check_keys(common, known, -1)
        first = ("start",) if number == 0 else ()
        self.check_keys(table, (*known, *first, "expects"), number)
        merged = {**common, **table}
        expects = self._read_expected(table.get("expects", {}), number)
        values = {
            key: self._read_value(key, merged[key], number) for key in merged if key in _SETTINGS
        }

        def name(key: str) -> str:
            return self.name(key, number)

        if before is None:
            before = self._choose_network(merged, start, name)
        elif own := sorted({*NETWORK} & set(table)):
            raise InputError(f"{name(own[0])}: the first stage, or [all], chooses the network")
        settings = make_settings(values, before, name)
        return Stage(settings, expects.get("cubes"), expects.get("hours"))

    def _choose_network(
        self, merged: Mapping[str, Any], start: Path | None, name: Named
    ) -> Architecture:
        masked, network = merged.get("masked", False), merged.get("network")
        changes = merged.get("architecture", {})
        if not isinstance(masked, bool):
            raise InputError(f"{name('masked')} {masked}: true or false is right")
        if network not in (None, "embedded", "published"):
            raise InputError(f"{name('network')} {network}: embedded or published is right")
        if not isinstance(changes, dict):
            raise InputError(f"{name('architecture')} {changes}: a table is right")
        return choose_network(start, network, changes, masked, name)

    def _read_expected(self, table: Any, number: int) -> dict[str, Any]:
        """What a stage expects to see."""
        if not isinstance(table, dict) or not all(_is_number(v) and v > 0 for v in table.values()):
            raise InputError(
                f"{self.name('expects', number)}: numbers are right, as {{cubes = 1000, hours = 2}}"
            )
        for key in table:
            if key not in EXPECTED:
                raise InputError(
                    f"{self.name('expects', number)}: no {key}; there are {', '.join(EXPECTED)}"
                )
        return table

    def _read_value(self, key: str, value: Any, number: int) -> Any:
        """A setting of the type and in the range that it has."""
        wanted = _SETTINGS[key]
        name = f"{self.name(key, number)} {value}"
        if key == "edges":
            edges = value if isinstance(value, list) else [value]
            if not all(isinstance(e, int) and not isinstance(e, bool) for e in edges):
                raise InputError(f"{name}: a list of whole numbers is right")
            if not are_edges(edges):
                raise InputError(f"{name}: multiples of 16 from 32 on are right")
            return tuple(edges)
        if wanted is float and _is_number(value):
            value = float(value)
        if not isinstance(value, wanted) or isinstance(value, bool):
            kinds = {int: "a whole number", float: "a number", str: "a text"}
            raise InputError(f"{name}: {kinds[wanted]} is right")
        option = next((o for o in OPTIONS if o.setting == key), None)
        fault = option.check(value) if option else _check_other(key, value)
        if fault:
            raise InputError(f"{name}: {fault}")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_other(key: str, value: Any) -> str | None:
    """What is wrong with a setting that no flag has."""
    if key in ("average", "blur"):
        return None if 0 <= value < 1 else "from 0 to less than 1 is right"
    return None if value >= 1 else "at least 1 is needed"


# Type of each setting by its default.
_SETTINGS: dict[str, type] = {
    field.name: type(getattr(Settings(), field.name))
    for field in fields(Settings)
    if field.name != "architecture"
}


@dataclass(frozen=True)
class Limits:
    """What a machine allows: it changes how long a training takes, not what is trained on.

    Attributes:
        minutes: after which a run pauses, to be gone on with later.
        workers: processes that make cubes; None: as the recipe says.
        pool: cubes held in memory.
        precision: of the arithmetic.
    """

    minutes: float = math.inf
    workers: int | None = None
    pool: int | None = None
    precision: str | None = None

    def apply(self, settings: Settings) -> Settings:
        """Return the settings within these limits."""
        values = {"workers": self.workers, "pool": self.pool, "precision": self.precision}
        chosen: dict[str, Any] = {key: v for key, v in values.items() if v is not None}
        return replace(settings, **chosen)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    make_sources: Callable[[Settings], Mapping[str, Source]],
    limits: Limits = Limits(),
    report: Callable[[dict[str, Any], Settings], None] = lambda entry, settings: None,
    log: Callable[[str], None] = lambda line: None,
) -> bool:
    """Train by a recipe, and go on from what is there already.

    The folder gets stage1, stage2, ... (`run.Run`) and, of all stages, history.json and loss.png;
    weights.npz is the last stage's once that is finished. recipe.toml is the recipe itself.

    Args:
        recipe: what to do.
        folder: for the files.
        make_sources: makes the sources to train and to validate on ("train", "validation") for
            the settings of a stage.
        limits: what the machine allows.
        report: is called with each new entry of the history and the settings of its stage.
        log: is called with lines about the stages.

    Returns:
        Whether all stages are finished; else the minutes are spent.

    Raises:
        InputError: the folder was begun with another recipe, or as `train.train`.
    """
    _keep_recipe(recipe, make_folder(folder))
    left = limits.minutes
    start = recipe.start
    for number, stage in enumerate(recipe.stages, start=1):
        part = folder / f"stage{number}"
        before = _read_progress(part)
        name = f"stage {number} of {len(recipe.stages)}"
        if _is_finished(stage, part):
            log(f"{name}: finished already ({_describe(stage, before)})")
        else:
            settings = limits.apply(stage.settings)
            source = start.stem if start and number == 1 else f"stage {number - 1}"
            log(f"{name}, from {source if start else 'random weights'}")
            sources = make_sources(settings)
            facts = _collect_facts(recipe, number, folder, sources)
            train(
                sources["train"],
                sources["validation"],
                settings,
                part,
                lambda entry, settings=settings: report(entry, settings),  # type: ignore[misc]
                start,
                log,
                facts,
                left,
            )
            state = _read_progress(part)
            left -= state["minutes"] - before["minutes"]
            _write_history(recipe, folder)
            if not _is_finished(stage, part):
                log(f"{name}: pauses ({_describe(stage, state)}); the same command goes on")
                return False
            log(f"{name}: finished ({_describe(stage, state)})")
        start = part / "weights.npz"
    _write_history(recipe, folder)
    with replacing(folder / "weights.npz") as temporary:
        shutil.copyfile(part / "weights.npz", temporary)
    return True


def _keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the recipe into the folder, or check that it is the one that lies there."""
    path = folder / "recipe.toml"
    if not path.is_file():
        if (folder / "checkpoint.npz").is_file():
            raise InputError(f"{folder}: holds a training without a recipe; give another folder")
        write_text(path, recipe.text)
        return
    try:
        same = tomllib.loads(path.read_text(encoding="utf-8")) == tomllib.loads(recipe.text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        same = False
    if not same:
        raise InputError(
            f"{folder}: was begun with another recipe, which is {path}; "
            "go on with that one, or give another folder"
        )


def _read_progress(part: Path) -> dict[str, Any]:
    """The state of a stage, which may not have begun."""
    path = part / "checkpoint.npz"
    if path.is_file():
        return read_state(path)
    return {"step": 0, "minutes": 0.0, "cubes": 0, "history": []}


def _is_finished(stage: Stage, part: Path) -> bool:
    state = _read_progress(part)
    spent = state["step"] >= stage.settings.steps or state["minutes"] >= stage.settings.minutes
    return bool(spent and (part / "weights.npz").is_file())


def _describe(stage: Stage, state: Mapping[str, Any]) -> str:
    """What a stage has seen and what it expects."""
    seen = f"step {state['step']}, {state['cubes']} cubes seen in {state['minutes'] / 60:.2f} hours"
    expected = [
        f"{value:g} {unit}"
        for value, unit in ((stage.cubes, "cubes"), (stage.hours, "hours"))
        if value is not None
    ]
    return f"{seen}; the recipe expects {' in '.join(expected)}" if expected else seen


def _collect_facts(
    recipe: Recipe, number: int, folder: Path, sources: Mapping[str, Source]
) -> dict[str, Any]:
    """What the weights of a stage say about their recipe."""
    return {
        "recipe": recipe.name,
        "stage": f"{number} of {len(recipe.stages)}",
        "start": recipe.start.stem if recipe.start else "random weights",
        "entries": {split: len(source) for split, source in sources.items()},
        "earlier_stages": _list_stages(recipe, folder)[: number - 1],
    }


def _list_stages(recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
    """The facts of each stage so far."""
    stages: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.stages, start=1):
        state = _read_progress(folder / f"stage{number}")
        facts = {
            "stage": number,
            "steps": state["step"],
            "cubes": state["cubes"],
            "hours": round(state["minutes"] / 60, 3),
            "expected_cubes": stage.cubes,
            "expected_hours": stage.hours,
            "finished": _is_finished(stage, folder / f"stage{number}"),
        }
        stages.append(facts)
    return stages


def _write_history(recipe: Recipe, folder: Path) -> None:
    """Write the history and the picture of all stages."""
    entries: list[dict[str, Any]] = []
    steps, minutes = 0, 0.0
    for number in range(1, len(recipe.stages) + 1):
        state = _read_progress(folder / f"stage{number}")
        for entry in state["history"]:
            total = {
                "total_step": steps + entry["step"],
                "total_minutes": round(minutes + entry["minutes"], 2),
            }
            entries.append({"stage": number, **entry, **total})
        steps += state["step"]
        minutes += state["minutes"]
    stages = _list_stages(recipe, folder)
    content = {"recipe": recipe.name, "stages": stages, "history": entries}
    write_text(folder / "history.json", json.dumps(content, indent=1))
    plot_history(entries, folder / "loss.png")
