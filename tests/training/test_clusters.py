"""Sequence clusters, their groups, and splits that share none."""

import shutil

import pytest
from sequence_files import protein_of, random_sequence, relative_of

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training import clusters as clusters_module
from deepemhancer_plugin.core.training.clusters import (
    assign_splits,
    cluster_models,
    link_groups,
    read_sequences,
)


def test_groups_are_linked_by_shared_clusters():
    group = link_groups([["a"], ["b"], ["a", "c"], [], ["c"], [], ["b", "d"]])
    assert group[0] == group[2] == group[4] and group[1] == group[6]
    assert len({group[0], group[1], group[3], group[5]}) == 4


def test_splits_hold_out_whole_groups():
    group = [i // 4 for i in range(100)]
    for seed in range(5):
        split = assign_splits(group, seed)
        assert 15 <= split.count("validation") <= 18
        assert all(
            len({s for s, g in zip(split, group, strict=True) if g == number}) == 1
            for number in group
        )
    assert assign_splits(group, 0) == assign_splits(group, 0) != assign_splits(group, 1)
    assert assign_splits([3, 3, 3], 0) == ["train"] * 3
    assert sorted(assign_splits([1, 2], 0)) == ["train", "validation"]


@pytest.mark.skipif(
    shutil.which("mmseqs") is None, reason="MMseqs2 is not installed (apt-get install mmseqs2)"
)
def test_mmseqs_clusters_related_sequences(tmp_path):
    first = random_sequence(0)
    related = relative_of(first, 1)
    models = [
        protein_of(tmp_path / f"{i}.pdb", s)
        for i, s in enumerate((first, related, random_sequence(3), first[:10]))
    ]
    found = cluster_models(models)
    assert found[0] == found[1] and len(found[0]) == 1 and found[2] != found[0] and found[3] == ()
    group = link_groups(found)
    assert group[0] == group[1] and len(set(group)) == 3


def test_sequences_are_those_of_the_polymers(tmp_path, monkeypatch):
    text = random_sequence(4, 40)
    path = protein_of(tmp_path / "a.pdb", text)
    assert read_sequences(path) == [text]
    (tmp_path / "broken.cif").write_text("nothing\n")
    with pytest.raises(InputError, match=r"broken\.cif: not an atomic model"):
        read_sequences(tmp_path / "broken.cif")
    monkeypatch.setattr(clusters_module.shutil, "which", lambda _: None)
    assert cluster_models([path, path]) == [(text,), (text,)]  # one sequence needs no program
    with pytest.raises(InputError, match=r"MMseqs2.*column cluster"):
        cluster_models([path, protein_of(tmp_path / "b.pdb", random_sequence(5, 40))])
