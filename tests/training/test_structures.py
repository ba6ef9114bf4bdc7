"""Which atomic models train, validate and test."""

import pytest

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training.structures import split_structures


def write_index(folder, *rows):
    (folder / "index.tsv").write_text("\n".join(("file\tsplit", *rows)) + "\n")


def test_an_index_decides(tmp_path):
    write_index(tmp_path, "a.pdb\ttrain", "b.cif\tvalidation", "c.pdb\ttest", "d.pdb\ttrain")
    found = split_structures(tmp_path)
    names = {split: [file.name for file in files] for split, files in found.items()}
    assert names == {"train": ["a.pdb", "d.pdb"], "validation": ["b.cif"], "test": ["c.pdb"]}
    assert found["test"] == [tmp_path / "c.pdb"]


def test_without_an_index_a_tenth_validates_and_always_the_same(tmp_path):
    for i in range(200):
        (tmp_path / f"{i}{('.pdb', '.cif.gz', '.ent')[i % 3]}").touch()
    (tmp_path / "notes.txt").touch()
    found = split_structures(tmp_path)
    assert 8 <= len(found["validation"]) <= 32 and not found["test"]
    assert len(found["train"]) + len(found["validation"]) == 200
    assert split_structures(tmp_path) == found
    (tmp_path / "another.pdb").touch()  # moves no other file into another split
    assert set(found["validation"]) <= set(split_structures(tmp_path)["validation"])


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
