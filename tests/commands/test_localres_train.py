"""The command `localres-train`."""

import json

import pytest

from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.localres.predict import load_network
from deepemhancer_plugin.core.simulation.synthetic import build_protein

SHORT = ["--steps", "2", "--edge", "32", "--pool", "8", "--validateEvery", "2"]


def test_without_structures_it_takes_synthetic_proteins(tmp_path, capsys):
    assert main(["localres-train", "-o", str(tmp_path), *SHORT]) == 0
    assert load_network(str(tmp_path / "weights.npz")).span.rate == 1.0
    assert [e["step"] for e in json.loads((tmp_path / "history.json").read_text())] == [2]
    said = capsys.readouterr().out
    assert "10 structures to train on, 2 held out" in said and "step 2," in said


def test_structures_of_a_folder_and_the_published_network(tmp_path, capsys):
    for split in ("train", "validation"):
        build_protein(0).write_pdb(str(tmp_path / f"{split}.pdb"))
    rows = ("file\tsplit", "train.pdb\ttrain", "validation.pdb\tvalidation")
    (tmp_path / "index.tsv").write_text("\n".join(rows) + "\n")
    runs = tmp_path / "runs"
    arguments = ["--structures", str(tmp_path), "--kind", "published", "-o", str(runs)]
    assert main(["localres-train", *arguments, *SHORT]) == 0
    assert load_network(str(runs / "weights.npz")).kind == "published"
    assert "1 structures to train on, 1 held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--edge", "30"], "--edge 30: a multiple of 4"),
        (["--steps", "0"], "--steps 0: at least 1"),
        (["--minutes", "nan"], "--minutes nan: at least 0.01"),
        (["--structures", "nowhere"], "--structures nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, tmp_path, capsys):
    assert main(["localres-train", "-o", str(tmp_path / "runs"), *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
