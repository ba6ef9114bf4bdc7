"""Which atomic models train, validate and test."""

import csv
import hashlib
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.training.clusters import cluster_models, link_groups

SPLITS = ("train", "validation", "test")
HELD_OUT = 26  # of the 256 first bytes of a name's hash: a tenth of the files validates
LARGEST_GROUP = 0.5  # of the files: a larger group of related ones trains
ENDINGS = (".pdb", ".cif", ".ent")


class Leak(NamedTuple):
    """A sequence cluster that is in two splits.

    Attributes:
        cluster: its representative sequence.
        files: of each split, those with a chain of it.
    """

    cluster: str
    files: dict[str, list[Path]]


def split_structures(folder: Path) -> dict[str, list[Path]]:
    """Divide the atomic models of a folder into those to train, to validate and to test on.

    Args:
        folder: with PDB or mmCIF files (.gz too). An index.tsv in it, with the columns file and
            split, decides. Without one about a tenth of the files validates, and where MMseqs2 is
            installed none of these shares a sequence cluster with one that trains.

    Returns:
        The files for "train", "validation" and "test".

    Raises:
        InputError: no such folder, a wrong row of the index, a file that is no atomic model, or
            nothing to train or validate on.

    Warns:
        MapWarning: there is no index and no MMseqs2, so that the names decide.
    """
    _check_folder(folder)
    index = folder / "index.tsv"
    if index.is_file():
        splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
        for name, split in _read_rows(index, "file"):
            splits[split].append(folder / name)
    else:
        splits = _hold_out(folder)
    for split in ("train", "validation"):
        if not splits[split]:
            raise InputError(
                f"{folder}: no atomic models for {split}; at least one (PDB or mmCIF) is needed"
                + (", unrelated to the others" if splits["train"] else "")
            )
    return splits


def read_list(path: Path) -> dict[str, str]:
    """Read which structures train, validate and test.

    Args:
        path: a tab-separated table with the columns name (a file's name without its ending) and
            split.

    Returns:
        The split of each name.

    Raises:
        InputError: no such file, or a wrong row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; a table with the columns name and split is needed")
    return dict(_read_rows(path, "name"))


def select_structures(
    folder: Path, listed: Mapping[str, str]
) -> tuple[dict[str, list[Path]], list[str]]:
    """Find the atomic models of a list in a folder.

    Args:
        folder: with PDB or mmCIF files (.gz too).
        listed: the split of each name (`read_list`).

    Returns:
        The files for "train", "validation" and "test", in the list's order, and the names of those
        that train or validate and are not there.

    Raises:
        InputError: no such folder, or none of them to train or to validate on.
    """
    _check_folder(folder)
    there = {name_structure(file): file for file in _list_models(folder)}
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for name, split in listed.items():
        if name in there:
            splits[split].append(there[name])
    for split in ("train", "validation"):
        if not splits[split]:
            raise InputError(f"--structures {folder}: holds no structure of the list for {split}")
    missing = [name for name, split in listed.items() if split != "test" and name not in there]
    return splits, missing


def name_structure(file: Path) -> str:
    """Return the name of a file with an atomic model, without its ending."""
    name = file.name.removesuffix(".gz")
    return name[: -len(ENDINGS[0])] if name.lower().endswith(ENDINGS) else name


def find_leaks(splits: Mapping[str, Sequence[Path]]) -> list[Leak]:
    """Find the sequence clusters that two splits share (`clusters.cluster_models`).

    Args:
        splits: the files of each.

    Raises:
        InputError: a file is no atomic model, or MMseqs2 is not installed.
    """
    files = [(split, file) for split, found in splits.items() for file in found]
    members = cluster_models([file for _, file in files])
    where: dict[str, dict[str, list[Path]]] = {}
    for (split, file), clusters in zip(files, members, strict=True):
        for cluster in clusters:
            where.setdefault(cluster, {}).setdefault(split, []).append(file)
    return [Leak(cluster, found) for cluster, found in where.items() if len(found) > 1]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"--structures {folder}: no such folder; one with atomic models is needed")


def _list_models(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir())
    return [f for f in files if f.name.lower().removesuffix(".gz").endswith(ENDINGS)]


def _read_rows(table: Path, column: str) -> list[tuple[str, str]]:
    """The name in `column` and the split of each row."""
    rows = []
    with open(table, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            name, split = row.get(column), row.get("split")
            if not name or split not in SPLITS:
                raise InputError(
                    f"{table}: a row without {column}, or with split {split}; "
                    "train, validation or test is right"
                )
            rows.append((name, split))
    return rows


def _hold_out(folder: Path) -> dict[str, list[Path]]:
    """Let about a tenth of the files validate, in whole groups of related ones."""
    files = _list_models(folder)
    if shutil.which("mmseqs") and len(files) > 1:
        group = link_groups(cluster_models(files))
    else:
        group = list(range(len(files)))
        if len(files) > 1:
            warnings.warn(
                f"{folder}: no index.tsv, and the program mmseqs (Debian: mmseqs2) is not "
                "installed: names decide which structures are held out, so related proteins may "
                "be on both sides, and what is measured on them looks better than it is",
                MapWarning,
                stacklevel=3,
            )
    groups: dict[int, list[Path]] = {}
    for file, number in zip(files, group, strict=True):
        groups.setdefault(number, []).append(file)
    return _choose_groups(list(groups.values()))


def _choose_groups(groups: Sequence[list[Path]]) -> dict[str, list[Path]]:
    """Let those groups validate whose first name's hash says so, or else the smallest one."""
    count = sum(map(len, groups))
    small = [group for group in groups if len(group) <= LARGEST_GROUP * count]
    chosen = [group for group in small if _hash(group[0]) < HELD_OUT]
    if not chosen and small:
        chosen = [min(small, key=lambda group: (len(group), _hash(group[0])))]
    if len(chosen) == len(groups):
        chosen = chosen[1:]
    held_out = {file for group in chosen for file in group}
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in sorted(file for group in groups for file in group):
        splits["validation" if file in held_out else "train"].append(file)
    return splits


def _hash(file: Path) -> int:
    return hashlib.sha256(file.name.encode()).digest()[0]
