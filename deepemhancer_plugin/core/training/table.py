"""The table that names half maps with fitted models, and which of them are used for what.

Selection and splits are those of Sanchez-Garcia et al. 2021, Commun. Biol. 4, 874.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training.clusters import assign_splits, cluster_models, link_groups
from deepemhancer_plugin.core.training.cubes import SHARP_RESOLUTION, Task
from deepemhancer_plugin.core.training.structures import SPLITS

COARSEST_RESOLUTION = 7.0  # A: maps as coarse are left out, as published
COLUMNS = ("id", "half1", "half2", "model", "resolution")


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        name: the row's id.
        half1: file of the first half map.
        half2: file of the second half map.
        models: files of the fitted models; one is right.
        resolution: in A.
        mask: file of a mask for the target.
        split: "train", "validation" or "test".
        cluster: names of the sequence clusters of the model's chains.
    """

    name: str
    half1: Path
    half2: Path
    models: tuple[Path, ...]
    resolution: float
    mask: Path | None = None
    split: str | None = None
    cluster: tuple[str, ...] | None = None


class Choice(NamedTuple):
    """An entry that may be used, for which split, and the number of its group of clusters."""

    entry: Entry
    split: str
    group: int


def read_table(path: Path) -> list[Entry]:
    """Read a tab-separated table of half maps with fitted models.

    The columns are id, half1, half2, model, resolution and, if wanted, mask, split, cluster. Files
    are looked for beside the table. Several models or clusters of a map have commas between them.

    Raises:
        InputError: no such table, a column or value missing or wrong, a file that is not there, an
            id twice.
    """
    if not path.is_file():
        raise InputError(
            f"--pairs {path}: no such file; a tab-separated table with the columns "
            f"{', '.join(COLUMNS)} is needed"
        )
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(sorted(missing))}; tab-separated columns with these "
                "names in the first line are needed"
            )
        entries = [
            _read_row(path, number, {k: (v or "").strip() for k, v in row.items() if k})
            for number, row in enumerate(reader, start=2)
        ]
    _check_entries(path, entries)
    return entries


def _check_entries(path: Path, entries: Sequence[Entry]) -> None:
    if not entries:
        raise InputError(f"{path}: no rows; at least one pair of half maps is needed")
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{path}: the id {name} stands there {names.count(name)} times; each needs its own"
            )
    for column in ("split", "cluster"):
        if len({getattr(entry, column) is None for entry in entries}) > 1:
            raise InputError(f"{path}: some rows have no {column}; all or none need one")


def _read_row(table: Path, line: int, row: dict[str, str]) -> Entry:
    def find(column: str, name: str) -> Path:
        if not name or not (table.parent / name).is_file():
            raise InputError(
                f"{table}, line {line}: {column} {name or 'is empty'}: no such file; "
                "a path, absolute or beside the table, is needed"
            )
        return table.parent / name

    if not re.fullmatch(r"[\w.+-]+", row["id"]) or row["id"].startswith("."):
        raise InputError(
            f"{table}, line {line}: id {row['id']!r}: letters, digits and ._+- are right"
        )
    try:
        resolution = float(row["resolution"])
    except ValueError:
        resolution = math.nan
    if not 0.5 < resolution < 100:
        raise InputError(
            f"{table}, line {line}: resolution {row['resolution']!r}: a number of A is needed"
        )
    split = row.get("split") or None
    if split not in (None, *SPLITS):
        raise InputError(f"{table}, line {line}: split {split}: train, validation or test is right")
    names = row.get("cluster")
    return Entry(
        name=row["id"],
        half1=find("half1", row["half1"]),
        half2=find("half2", row["half2"]),
        models=tuple(find("model", name.strip()) for name in row["model"].split(",")),
        resolution=resolution,
        mask=find("mask", row["mask"]) if row.get("mask") else None,
        split=split,
        cluster=tuple(c.strip() for c in names.split(",") if c.strip()) if names else None,
    )


def choose_entries(
    entries: Sequence[Entry], table: Path, task: Task, seed: int
) -> tuple[list[Choice], list[tuple[Entry, str]]]:
    """Choose the maps that may be used, and for which split.

    Args:
        entries: the rows of the table.
        table: its path, for messages.
        task: whose target asks for a resolution.
        seed: of the random splits, where the table has none.

    Returns:
        The chosen entries, best resolution first, and those left out with the reason.

    Raises:
        InputError: a cluster is in two splits of the table.
    """
    coarsest = SHARP_RESOLUTION if task.target == "sharp" else COARSEST_RESOLUTION
    fine = [e for e in entries if e.resolution < coarsest]
    left_out = [
        (e, f"{e.resolution:g} A, better than {coarsest:g} A is asked for")
        for e in entries
        if e.resolution >= coarsest
    ]
    left_out += [(e, f"{len(e.models)} models, one is needed") for e in fine if len(e.models) != 1]
    fit = [e for e in fine if len(e.models) == 1 and e.split != "test"]
    if not fit:
        return [], left_out
    # Groups are those of all rows: a map that is left out, or kept for tests, may link two others.
    if entries[0].cluster is not None:
        members = [e.cluster or () for e in entries]
    else:
        members = cluster_models([e.models[0] for e in entries])
    group = dict(zip((e.name for e in entries), link_groups(members), strict=True))
    if fit[0].split is None:
        names = [e.name for e in fit]
        split = dict(zip(names, assign_splits([group[n] for n in names], seed), strict=True))
    else:
        _check_splits(entries, group, table)
        split = {e.name: str(e.split) for e in entries}
    fit = sorted(fit, key=lambda e: e.resolution)
    return [Choice(e, split[e.name], group[e.name]) for e in fit], left_out


def _check_splits(entries: Sequence[Entry], group: dict[str, int], table: Path) -> None:
    first: dict[int, Entry] = {}
    for entry in entries:
        other = first.setdefault(group[entry.name], entry)
        if other.split != entry.split:
            raise InputError(
                f"{table}: {other.name} ({other.split}) and {entry.name} ({entry.split}) share a "
                "sequence cluster, or are linked by others that do; "
                "maps of one cluster need the same split"
            )
