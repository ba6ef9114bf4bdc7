"""Which atomic models train, validate and test."""

import csv
import hashlib
from pathlib import Path

from deepemhancer_plugin.core.errors import InputError


def split_structures(folder: Path) -> dict[str, list[Path]]:
    """Files of each split: by index.tsv, or every tenth (by its name's hash) held out."""
    if not folder.is_dir():
        raise InputError(f"--structures {folder}: no such folder; one with atomic models is needed")
    index = folder / "index.tsv"
    splits: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    if index.is_file():
        with open(index, newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                if row.get("split") not in splits or not row.get("file"):
                    raise InputError(
                        f"{index}: a row without file, or with split {row.get('split')}; train, validation or test is right"
                    )
                splits[row["split"]].append(folder / row["file"])
    else:
        for file in sorted(
            f
            for f in folder.iterdir()
            if f.name.lower().removesuffix(".gz").endswith((".pdb", ".cif", ".ent"))
        ):
            held_out = hashlib.sha256(file.name.encode()).digest()[0] < 26
            splits["validation" if held_out else "train"].append(file)
    for split in ("train", "validation"):
        if not splits[split]:
            raise InputError(
                f"{folder}: no atomic models for {split}; at least one (PDB or mmCIF) is needed"
            )
    return splits
