"""The table of half maps: its rows, and which of them are chosen."""

import shutil
from pathlib import Path

import pytest
from pair_files import COLUMNS, entry_of, row, write_table

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training.cubes import Task
from deepemhancer_plugin.core.training.table import Entry, choose_entries, read_table


def test_rows_of_a_table(files):
    folder, _ = files
    path = write_table(
        folder,
        row("one", "3.5", "a, b", "train"),
        row("two", "4", "c", "test"),
        columns=f"{COLUMNS}\tcluster\tsplit",
    )
    first, second = read_table(path)
    assert first == entry_of(folder, cluster=("a", "b"), split="train")
    assert second.resolution == 4 and second.split == "test" and second.mask is None
    several = read_table(
        write_table(folder, ("x", "half1.mrc", "half2.mrc", "model.pdb, model.pdb", "3"))
    )[0]
    assert len(several.models) == 2 and several.split is several.cluster is None


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([row()], "id\thalf1\tmodel", "no column half2, resolution"),
        ([], COLUMNS, "no rows"),
        ([row(), row()], COLUMNS, "id one stands there 2 times"),
        (
            [("one", "absent.mrc", "half2.mrc", "model.pdb", "3")],
            COLUMNS,
            "line 2: half1 absent.mrc",
        ),
        ([row(), ("two", "half1.mrc", "", "model.pdb", "3")], COLUMNS, "line 3: half2 is empty"),
        ([row(resolution="fine")], COLUMNS, "resolution 'fine'"),
        ([row(resolution="-3")], COLUMNS, "resolution '-3'"),
        ([row("../one")], COLUMNS, "id '../one'"),
        ([row("one", "3", "half")], f"{COLUMNS}\tsplit", "split half"),
        (
            [row("one", "3", "a"), row("two", "3", "")],
            f"{COLUMNS}\tcluster",
            "some rows have no cluster",
        ),
    ],
)
def test_wrong_tables_are_refused_in_one_line(files, tmp_path, rows, columns, words):
    for name in ("half1.mrc", "half2.mrc", "model.pdb"):
        shutil.copy(files[0] / name, tmp_path)
    with pytest.raises(InputError) as caught:
        read_table(write_table(tmp_path, *rows, columns=columns))
    assert (
        words in str(caught.value)
        and "table.tsv" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.tsv: no such file"):
        read_table(tmp_path / "absent.tsv")


def test_what_is_chosen(tmp_path):
    def entry(name, resolution, cluster, split=None, models=1):
        return Entry(
            name, tmp_path, tmp_path, (tmp_path,) * models, resolution, None, split, (cluster,)
        )

    entries = [
        entry("coarse", 7.0, "a"),
        entry("two models", 3.0, "b", models=2),
        entry("c", 6.9, "c"),
        entry("d", 3.0, "d"),
        entry("e", 4.5, "e"),
    ]
    chosen, left_out = choose_entries(entries, Path("t.tsv"), Task(), 0)
    assert [e.name for e, _, _ in chosen] == ["d", "e", "c"] and {e.name for e, _ in left_out} == {
        "coarse",
        "two models",
    }
    assert [split for _, split, _ in chosen].count("validation") == 1
    sharp, _ = choose_entries(entries, Path("t.tsv"), Task(target="sharp"), 0)
    assert [e.name for e, _, _ in sharp] == ["d"]
    kept = [
        entry("x", 3, "a", "train"),
        entry("y", 3, "b", "validation"),
        entry("z", 3, "c", "test"),
    ]
    assert [
        (e.name, split) for e, split, _ in choose_entries(kept, Path("t.tsv"), Task(), 0)[0]
    ] == [
        ("x", "train"),
        ("y", "validation"),
    ]
    for other in ("validation", "test"):
        with pytest.raises(
            InputError, match=rf"t\.tsv: x \(train\) and y \({other}\) share a sequence cluster"
        ):
            choose_entries(
                [entry("x", 3, "a", "train"), entry("y", 3, "a", other)], Path("t.tsv"), Task(), 0
            )
