"""Which atomic models train, validate and test."""

import csv
import hashlib
from pathlib import Path

from deepemhancer_plugin.core.errors import InputError

SPLITS = ("train", "validation", "test")
HELD_OUT = 26  # of the 256 first bytes of a name's hash: a tenth of the files validates


def split_structures(folder: Path) -> dict[str, list[Path]]:
    """Divide the atomic models of a folder into those to train, to validate and to test on.

    Args:
        folder: with PDB or mmCIF files (.gz too). An index.tsv in it, with the columns file and
            split, decides; without one a tenth of the files, by the hash of the name, validates.

    Returns:
        The files for "train", "validation" and "test".

    Raises:
        InputError: no such folder, a wrong row of the index, or nothing to train or validate on.
    """
    if not folder.is_dir():
        raise InputError(f"--structures {folder}: no such folder; one with atomic models is needed")
    index = folder / "index.tsv"
    splits = _read_index(index) if index.is_file() else _hash_names(folder)
    for split in ("train", "validation"):
        if not splits[split]:
            raise InputError(
                f"{folder}: no atomic models for {split}; at least one (PDB or mmCIF) is needed"
            )
    return splits


def _read_index(index: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    with open(index, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            if row.get("split") not in splits or not row.get("file"):
                raise InputError(
                    f"{index}: a row without file, or with split {row.get('split')}; "
                    "train, validation or test is right"
                )
            splits[row["split"]].append(index.parent / row["file"])
    return splits


def _hash_names(folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in sorted(folder.iterdir()):
        if file.name.lower().removesuffix(".gz").endswith((".pdb", ".cif", ".ent")):
            held_out = hashlib.sha256(file.name.encode()).digest()[0] < HELD_OUT
            splits["validation" if held_out else "train"].append(file)
    return splits
