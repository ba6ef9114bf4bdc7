"""The commands `train` and `fine-tune`."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from pair_files import COLUMNS, row, write_pair, write_table

from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.commands import train as command
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.cubes import Task, Variety
from deepemhancer_plugin.core.training.options import MEAN
from deepemhancer_plugin.core.training.recipe import find_weights
from deepemhancer_plugin.core.training.train import PUBLISHED_SETTINGS, Settings
from deepemhancer_plugin.core.weights.networks import Architecture, load_architecture

SHORT = ["--batch", "1", "--edges", "32", "--pool", "8", "--precision", "float32"]
FILES = {"weights.npz", "checkpoint.npz", "history.json", "loss.png"}


@pytest.fixture(autouse=True)
def dtype_policy():
    """A training changes Keras's policy."""
    import keras

    before = keras.config.dtype_policy().name
    yield
    keras.config.set_dtype_policy(before)


def test_training_on_structures_writes_weights_and_its_curve(tmp_path, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    for split in ("train", "validation"):
        build_protein(0).write_pdb(str(folder / f"{split}.pdb"))
    rows = ("file\tsplit", "train.pdb\ttrain", "validation.pdb\tvalidation")
    (folder / "index.tsv").write_text("\n".join(rows) + "\n")
    runs = tmp_path / "runs"
    arguments = ["--structures", str(folder), "-o", str(runs), *SHORT, "--steps", "2"]
    assert cli.main(["train", *arguments, "--validateEvery", "1"]) == 0
    assert {p.name for p in runs.iterdir()} == FILES
    history = json.loads((runs / "history.json").read_text())
    assert [entry["step"] for entry in history] == [1, 2]
    assert load_architecture(runs / "weights.npz") == Architecture()
    assert "min left" in capsys.readouterr().out


def test_training_and_fine_tuning_on_pairs(tmp_path, capsys):
    write_pair(tmp_path)
    table = write_table(
        tmp_path,
        row("a", "3.5", "x", "train"),
        row("b", "3.6", "y", "validation"),
        columns=f"{COLUMNS}\tcluster\tsplit",
    )
    common = ["--pairs", str(table), *SHORT, "--validateEvery", "2"]
    first, second = tmp_path / "first", tmp_path / "second"
    small = '{"widths": [4, 4], "blocks": [1, 1], "channels": 1}'
    assert (
        cli.main(["train", *common, "-o", str(first), "--steps", "2", "--architecture", small]) == 0
    )
    assert {p.name for p in first.iterdir()} == {*FILES, "prepared"}
    assert "1 pairs to train on, 1 held out" in capsys.readouterr().out
    start = ["--start", str(first / "weights.npz")]
    assert cli.main(["fine-tune", *common, "-o", str(second), "--steps", "1", *start]) == 0
    with np.load(second / "weights.npz") as data:
        settings = json.loads(str(data["facts"]))["settings"]
    assert settings["rate"] == 6e-5 and settings["architecture"]["widths"] == [4, 4]


RECIPE = """about = "two stages"
structures = "names.tsv"

[all]
edges = [32]
batch = 1
pool = 16
validate_every = 1
validation_cubes = 1
optimizer = "muon"
steps = 1

[[stage]]
start = "tightTarget"
expects = { cubes = 1 }

[[stage]]
target = "wide"
"""


def write_recipe(folder):
    """A recipe with its list of names, and a folder with these structures."""
    models = folder / "models"
    models.mkdir()
    for name in ("a", "b", "c"):
        build_protein(0).write_pdb(str(models / f"{name}.pdb"))
    (folder / "mine.toml").write_text(RECIPE)
    names = ("name\tsplit", "a\ttrain", "b\tvalidation", "c\ttest", "d\ttrain")
    (folder / "names.tsv").write_text("\n".join(names) + "\n")
    return ["--recipe", str(folder / "mine.toml"), "--structures", str(models)]


def test_training_by_a_recipe(tmp_path, capsys):
    runs = tmp_path / "runs"
    arguments = ["train", *write_recipe(tmp_path), "-o", str(runs)]
    limits = ["--precision", "float32", "--pool", "8", "--workers", "1"]
    assert cli.main([*arguments, *limits]) == 0
    out = capsys.readouterr().out
    assert "1 structures of the recipe's list are not in" in out and "(d)" in out
    assert "1 structures to train on, 1 held out" in out
    assert "stage 1 of 2, from tightTarget" in out and "stage 2 of 2, from stage 1" in out
    assert "stage 1 of 2: finished (step 1, 1 cubes seen in 0.0" in out
    assert "the recipe expects 1 cubes)" in out and "weights.npz: use it with" in out
    assert (runs / "weights.npz").read_bytes() == (runs / "stage2" / "weights.npz").read_bytes()
    with np.load(runs / "weights.npz") as data:
        facts = json.loads(str(data["facts"]))
    assert facts["start"] == "tightTarget" and facts["settings"]["pool"] == 8
    assert facts["settings"]["target"] == "wide" and facts["entries"]["train"] == 1
    assert cli.main([*arguments, *limits, "--minutes", "5"]) == 0
    assert "stage 2 of 2: finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "1"], "--rate: the recipe decides that; with --recipe only --minutes"),
        (["--seed", "0"], "--seed: the recipe decides that"),
        (["--start", "tightTarget"], "--start: the recipe decides that"),
        (["--masked"], "--masked: the recipe decides that"),
        (["--pairs", "t"], "--pairs: the recipe decides that"),
        (["--workers", "0"], "--workers 0: at least 1"),
        (["--recipe", "nothing"], "--recipe nothing: no such file, and no recipe of that name"),
        (["--structures", "nowhere"], "--structures nowhere: no such folder"),
    ],
)
def test_flags_that_do_not_go_with_a_recipe_are_one_line(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    common = ["train", *write_recipe(tmp_path), "-o", "runs"]
    assert cli.main([*common, *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_recipe_needs_structures(capsys, tmp_path):
    assert cli.main(["train", "--recipe", "tightTarget", "-o", str(tmp_path)]) == 1
    assert "--structures DIR" in capsys.readouterr().err


def settings_of(*arguments, changes=None):
    parser = command.make_parser("train", "", Settings())
    a = parser.parse_args(["--pairs", "t", "-o", "o", *arguments])
    return command.make_settings(a, find_weights(a.start), changes or {})


def test_help_shows_the_defaults():
    text = " ".join(command.make_parser("train", "", Settings()).format_help().split())
    assert "--steps 20000" in text and "--edges 64,96,128" in text and "--rate 0.0006" in text


def test_settings_by_the_flags():
    plain, published = settings_of(), settings_of("--network", "published", "--steps", "7")
    assert plain == Settings() and plain.task == Task()
    assert published == replace(Settings(**PUBLISHED_SETTINGS), steps=7) and published.task == Task(
        channels=1, compress=False
    )
    assert settings_of("--target", "wide", "--gradientWeight", "0.2") == replace(
        Settings(), target="wide", gradient_weight=0.2
    )
    assert settings_of("--noiseOnly", "0.4", "--typical", "0.7", "--emptyWeight", "6") == replace(
        Settings(), noise_only=0.4, typical=0.7, empty_weight=6.0
    )
    varied = settings_of("--processed", "0.5", "--unevenNoise", "0.6", "--wideRange", "0.3")
    assert varied == replace(Settings(), processed=0.5, uneven_noise=0.6, wide_range=0.3)
    assert varied.variety == Variety(0.5, 0.6, 0.3) and Settings().variety == Variety()
    masked = settings_of("--masked", "--target", "sharp")
    assert (
        masked.task == Task(masked=True, target="sharp")
        and masked.architecture.normalization == "mask"
    )
    assert settings_of(
        "--architecture", '{"norm": "group", "entrance": 1}'
    ).architecture == replace(Architecture(), norm="group", entrance=1)
    mean = replace(Architecture(), prediction="mean")
    tuned = settings_of("--start", "tightTarget", "--rate", "1e-5", changes=command.FINE_TUNE)
    assert tuned == replace(Settings(mean, **command.FINE_TUNE, **MEAN), rate=1e-5)
    assert (
        settings_of("--start", "tightTarget", "--absoluteWeight", "2").architecture.prediction
        == "median"
    )
    assert settings_of("--squareWeight", "1", "--absoluteWeight", "0.5").architecture == mean
    with pytest.raises(InputError, match="32 is no multiple of 64"):
        settings_of(
            "--edges",
            "32",
            "--architecture",
            '{"widths": [4, 4, 4, 4, 4, 4], "blocks": [1, 1, 1, 1, 1, 1]}',
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--structures DIR or --pairs TABLE"),
        (["--pairs", "absent.tsv"], "absent.tsv"),
        (["--pairs", "t", "--pairShare", "1"], "--pairShare"),
        (["--pairs", "t", "--start", "nothing"], "--start nothing: no such file"),
        (["--pairs", "t", "--architecture", "{"], "--architecture {"),
        (["--pairs", "t", "--architecture", '{"norm": "batch"}'], "norm batch is none of"),
        (
            ["--pairs", "t", "--start", "tightTarget", "--network", "published"],
            "weights of the embedded network",
        ),
        (
            ["--pairs", "t", "--start", "tightTarget", "--architecture", '{"norm": "none"}'],
            "weights of another network",
        ),
        (["--pairs", "t", "--noiseOnly", "1.5"], "--noiseOnly 1.5: a fraction"),
        (["--pairs", "t", "--typical", "1.5"], "--typical 1.5: a fraction"),
        (["--pairs", "t", "--warmup", "-1"], "--warmup -1"),
        (["--structures", "nowhere"], "--structures nowhere: no such folder"),
        (["--pairs", "t", "--edges", "63"], "--edges 63: multiples of 16"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-o", "runs", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert os.listdir(tmp_path) in ([], ["runs"])
