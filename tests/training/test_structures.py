"""Which atomic models train, validate and test."""

import csv
import shutil
import warnings

import pytest
from sequence_files import protein_of, random_sequence, relative_of

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.training import structures as structures_module
from deepemhancer_plugin.core.training.recipe import RECIPES
from deepemhancer_plugin.core.training.structures import (
    find_leaks,
    name_structure,
    read_list,
    select_structures,
    split_structures,
)

needs_mmseqs = pytest.mark.skipif(
    shutil.which("mmseqs") is None, reason="MMseqs2 is not installed (Debian: mmseqs2)"
)


@pytest.fixture
def no_mmseqs(monkeypatch):
    monkeypatch.setattr(structures_module.shutil, "which", lambda _: None)


def write_index(folder, *rows):
    (folder / "index.tsv").write_text("\n".join(("file\tsplit", *rows)) + "\n")


def test_an_index_decides(tmp_path):
    write_index(tmp_path, "a.pdb\ttrain", "b.cif\tvalidation", "c.pdb\ttest", "d.pdb\ttrain")
    found = split_structures(tmp_path)
    names = {split: [file.name for file in files] for split, files in found.items()}
    assert names == {"train": ["a.pdb", "d.pdb"], "validation": ["b.cif"], "test": ["c.pdb"]}
    assert found["test"] == [tmp_path / "c.pdb"]


def test_without_an_index_and_mmseqs_names_decide_with_a_warning(tmp_path, no_mmseqs):
    for i in range(200):
        (tmp_path / f"{i}{('.pdb', '.cif.gz', '.ent')[i % 3]}").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.warns(MapWarning, match=r"mmseqs.*not installed: names decide"):
        found = split_structures(tmp_path)
    assert 8 <= len(found["validation"]) <= 32 and not found["test"]
    assert len(found["train"]) + len(found["validation"]) == 200
    with pytest.warns(MapWarning):
        assert split_structures(tmp_path) == found
    (tmp_path / "another.pdb").touch()  # moves no other file into another split
    with pytest.warns(MapWarning):
        assert set(found["validation"]) <= set(split_structures(tmp_path)["validation"])


def test_of_a_few_files_one_is_held_out(tmp_path, no_mmseqs):
    for name in "abc":
        (tmp_path / f"{name}.pdb").touch()
    with pytest.warns(MapWarning):
        found = split_structures(tmp_path)
    assert len(found["train"]) == 2 and len(found["validation"]) == 1


def write_families(folder, families=12, members=3):
    """Models of families of proteins, 55 to 60 % identical within a family."""
    for family in range(families):
        first = random_sequence(family)
        for member in range(members):
            sequence = relative_of(first, 100 * family + member) if member else first
            protein_of(folder / f"f{family}m{member}.pdb", sequence)


@needs_mmseqs
def test_without_an_index_related_proteins_stay_together(tmp_path):
    write_families(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = split_structures(tmp_path)
    family = {split: {file.name.split("m")[0] for file in files} for split, files in found.items()}
    assert not family["train"] & family["validation"]
    assert family["validation"] and len(found["validation"]) == 3 * len(family["validation"])
    assert len(found["train"]) + len(found["validation"]) == 36
    assert not find_leaks(found) and split_structures(tmp_path) == found


@needs_mmseqs
def test_a_family_alone_cannot_be_split(tmp_path):
    write_families(tmp_path, families=1)
    with pytest.raises(InputError, match=r"validation; .*unrelated to the others"):
        split_structures(tmp_path)


@needs_mmseqs
def test_shared_clusters_are_found(tmp_path):
    write_families(tmp_path, families=3, members=2)
    files = {name_structure(file): file for file in tmp_path.iterdir()}
    splits = {
        "train": [files["f0m0"], files["f1m0"], files["f1m1"]],
        "validation": [files["f0m1"]],
        "test": [files["f2m0"], files["f2m1"]],
    }
    (leak,) = find_leaks(splits)
    assert leak.files == {"train": [files["f0m0"]], "validation": [files["f0m1"]]}
    assert len(leak.cluster) == 150


def test_a_list_of_names_chooses_files(tmp_path):
    for name in ("1abc.pdb.gz", "2ABC_target.cif", "3abc.ent", "other.pdb"):
        (tmp_path / name).touch()
    names = tmp_path / "names.tsv"
    rows = ["name\tsplit", "2ABC_target\ttrain", "absent\ttrain", "1abc\tvalidation"]
    names.write_text("\n".join([*rows, "3abc\ttest", "gone\ttest"]) + "\n")
    splits, missing = select_structures(tmp_path, read_list(names))
    found = {split: [file.name for file in files] for split, files in splits.items()}
    assert found == {
        "train": ["2ABC_target.cif"],
        "validation": ["1abc.pdb.gz"],
        "test": ["3abc.ent"],
    }
    assert missing == ["absent"]
    (tmp_path / "1abc.pdb.gz").unlink()
    with pytest.raises(InputError, match="no structure of the list for validation"):
        select_structures(tmp_path, read_list(names))
    names.write_text("name\tsplit\na\thalf\n")
    with pytest.raises(InputError, match=r"names\.tsv: a row without name, or with split half"):
        read_list(names)
    with pytest.raises(InputError, match="no such file"):
        read_list(tmp_path / "no.tsv")


def test_the_recipes_list_names_each_structure_once():
    path = RECIPES / "structures.tsv"
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    listed = read_list(path)
    assert len(rows) == len(listed)
    counts = {
        split: list(listed.values()).count(split) for split in ("train", "validation", "test")
    }
    assert counts == {"train": 272, "validation": 36, "test": 37}


@pytest.mark.parametrize("row", ["a.pdb\thalf", "\ttrain", "a.pdb"])
def test_a_wrong_row_is_refused(tmp_path, row):
    write_index(tmp_path, "b.pdb\ttrain", row)
    with pytest.raises(InputError, match=r"index\.tsv: a row without file, or with split"):
        split_structures(tmp_path)


def test_folders_with_nothing_to_train_or_validate_on_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        split_structures(tmp_path / "absent")
    with pytest.raises(InputError, match="no atomic models for train"):
        split_structures(tmp_path)
    write_index(tmp_path, "a.pdb\ttrain")
    with pytest.raises(InputError, match="no atomic models for validation"):
        split_structures(tmp_path)
