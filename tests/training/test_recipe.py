"""Recipes: what a file may say, and trainings by them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_recipe import shrink, synthetic_sources

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training import recipe as recipe_module
from deepemhancer_plugin.core.training.recipe import (
    RECIPES,
    Limits,
    find_recipe,
    load_recipe,
    run_recipe,
)
from deepemhancer_plugin.core.training.run import read_state
from deepemhancer_plugin.core.training.train import Settings
from deepemhancer_plugin.core.weights.embedded import FOLDER
from deepemhancer_plugin.core.weights.networks import Architecture, load_architecture

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
TWO_STAGES = """# Two stages.
about = "for a test"

[all]
target = "wide"
network = "embedded"
architecture = { widths = [4, 8], blocks = [1, 1] }
rate = 1

[[stage]]
steps = 7
edges = [32]
expects = { cubes = 56, hours = 0.5 }

[[stage]]
steps = 3
target = "model"
square_weight = 2
"""


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_recipe_becomes_settings(tmp_path):
    recipe = load_recipe(write(tmp_path, TWO_STAGES))
    first, second = recipe.stages
    network = Architecture(widths=(4, 8), blocks=(1, 1))
    assert (recipe.name, recipe.about, recipe.start) == ("mine", "for a test", None)
    assert first.settings == Settings(network, (32,), steps=7, target="wide", rate=1.0)
    assert isinstance(first.settings.rate, float)
    assert (first.cubes, first.hours, second.cubes) == (56, 0.5, None)
    assert second.settings.target == "model" and second.settings.rate == 1.0
    assert second.settings.architecture == replace(network, prediction="mean")


def test_the_next_stages_go_on_with_the_kind_of_prediction_of_the_start(tmp_path):
    stages = '[[stage]]\nstart = "tightTarget"\nsteps = 5\n[[stage]]\nsteps = 6\n'
    first, second = (s.settings for s in load_recipe(write(tmp_path, stages)).stages)
    assert first.square_weight == second.square_weight == 1 and second.target == "model"
    assert (
        second.architecture == first.architecture == load_architecture(FOLDER / "tightTarget.npz")
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 7", "step = 7", ", line 11: step: no such setting; there are edges, batch"),
        ("steps = 3", 'start = "tightTarget"', ", line 16: start: no such setting"),
        ("rate = 1", "rates = 1", ", line 8: rates: no such setting"),
        ("about", "aims", ", line 2: aims: no such setting; there are about, structures"),
        ("steps = 7", "steps = 7.5", ", line 11: steps 7.5: a whole number is right"),
        ("steps = 7", "steps = true", ", line 11: steps True: a whole number is right"),
        ("steps = 3", "steps = 0", ", line 16: steps 0: at least 1 is needed"),
        ("rate = 1", 'rate = "high"', ", line 8: rate high: a number is right"),
        ("edges = [32]", "edges = [33]", ", line 12: edges [33]: multiples of 16"),
        ("edges = [32]", "edges = []", ", line 12: edges []: multiples of 16"),
        ('target = "model"', 'target = "best"', ", line 17: target best: one of tight, wide"),
        ("rate = 1", "noise_only = 2", ", line 8: noise_only 2: a fraction"),
        ("rate = 1", "average = 1", ", line 8: average 1: from 0 to less than 1"),
        ("rate = 1", 'masked = "yes"', ", line 8: masked yes: true or false"),
        ('"embedded"', '"large"', ", line 6: network large: embedded or published"),
        ("widths =", "width =", ", line 7: architecture: there is no width; there are channels"),
        ("steps = 3", "masked = true", ", line 16: masked: the first stage, or [all], chooses"),
        ("steps = 7", 'start = "best"', ", line 11: start best: no such file, and no embedded"),
        ("cubes = 56", "cube = 56", ", line 13: expects: no cube; there are cubes, hours"),
        ("cubes = 56", "cubes = 0", ", line 13: expects: numbers are right"),
        ("about =", "about", "not a recipe in TOML"),
        ('about = "for a test"', 'structures = "no.tsv"', "no.tsv: no such file"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, old, new, words):
    assert old in TWO_STAGES
    path = write(tmp_path, TWO_STAGES.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("count", [0, 4])
def test_one_to_three_stages_are_right(tmp_path, count):
    with pytest.raises(InputError, match="one to 3 tables"):
        load_recipe(write(tmp_path, "[[stage]]\nsteps = 1\n" * count))


def test_recipes_are_found_by_path_and_by_name(tmp_path):
    path = write(tmp_path, TWO_STAGES)
    assert find_recipe(str(path)) == path
    assert find_recipe("tightTarget") == RECIPES / "tightTarget.toml"
    with pytest.raises(InputError, match=r"no recipe of that name .*highRes, masked, tightTarget"):
        find_recipe("nothing")


def test_there_is_a_recipe_for_each_of_the_shipped_weights():
    assert sorted(path.stem for path in FOLDER.glob("*.npz")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_recipes_of_the_package_say_what_they_see(name):
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert recipe.about and recipe.start == FOLDER / "tightTarget.npz"
    assert {"train", "validation", "test"} == set(recipe.splits.values())
    for stage in recipe.stages:
        settings = stage.settings
        mean = np.mean([settings.cubes_of(edge) for edge in settings.edges])
        assert stage.cubes == pytest.approx(settings.steps * mean, rel=0.02)
        assert stage.hours and settings.optimizer == "muon"
        assert settings.architecture.prediction == "mean"
    masked = recipe.stages[0].settings.architecture.normalization == "mask"
    assert masked == (name == "masked")
    assert len({stage.settings.seed for stage in recipe.stages}) == len(recipe.stages)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_of_the_package_run(name, tmp_path):
    recipe = shrink(load_recipe(RECIPES / f"{name}.toml"))
    said = []
    assert run_recipe(recipe, tmp_path, synthetic_sources, log=said.append)
    count = len(recipe.stages)
    parts = {f"stage{i + 1}" for i in range(count)}
    assert {p.name for p in tmp_path.iterdir()} == parts | {
        "history.json",
        "loss.png",
        "recipe.toml",
        "weights.npz",
    }
    last = (tmp_path / f"stage{count}" / "weights.npz").read_bytes()
    assert (tmp_path / "weights.npz").read_bytes() == last
    with np.load(tmp_path / "weights.npz") as data:
        facts = json.loads(str(data["facts"]))
    assert facts["recipe"] == name and facts["stage"] == f"{count} of {count}"
    assert facts["cubes"] == 2 and facts["entries"] == {"train": 1, "validation": 1}
    assert [stage["cubes"] for stage in facts["earlier_stages"]] == [2] * (count - 1)
    found = json.loads((tmp_path / "history.json").read_text())
    assert [entry["stage"] for entry in found["history"]] == sorted([*range(1, count + 1)] * 2)
    assert [entry["total_step"] for entry in found["history"]] == [*range(1, 2 * count + 1)]
    assert all(stage["finished"] and stage["cubes"] == 2 for stage in found["stages"])
    expected = recipe.stages[-1]
    assert f"2 cubes seen in 0.00 hours; the recipe expects {expected.cubes} cubes in" in said[-1]


@pytest.fixture
def tiny(tmp_path):
    return shrink(load_recipe(write(tmp_path, TWO_STAGES)))


def weights_of(path):
    with np.load(path) as data:
        return {key: data[key] for key in data.files if key not in ("facts", "architecture")}


def test_a_run_pauses_and_goes_on(tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    said = []
    hurry = Limits(minutes=1e-9, workers=2, pool=16, precision="float32")
    assert not run_recipe(tiny, out, synthetic_sources, hurry, log=said.append)
    assert "stage 1 of 2: pauses (step 1, 1 cubes" in said[-1]
    assert not (out / "weights.npz").exists() and not (out / "stage2").exists()
    assert read_state(out / "stage1" / "checkpoint.npz")["step"] == 1
    assert not run_recipe(tiny, out, synthetic_sources, hurry)  # stage 1 ends, 2 begins
    first = (out / "stage1" / "weights.npz").read_bytes()
    assert run_recipe(tiny, out, synthetic_sources, log=said.append)
    assert (out / "stage1" / "weights.npz").read_bytes() == first
    assert any("stage 1 of 2: finished already (step 2, 2 cubes" in line for line in said)
    with np.load(out / "weights.npz") as data:
        settings = json.loads(str(data["facts"]))["settings"]
    assert settings["steps"] == 2 and settings["target"] == "model"

    monkeypatch.setattr(recipe_module, "train", lambda *a, **k: pytest.fail("trained again"))
    assert run_recipe(tiny, out, synthetic_sources)


def test_a_stage_begins_with_the_weights_of_the_one_before(tiny, tmp_path, monkeypatch):
    starts = []
    real = recipe_module.train

    def watch(source, held_out, settings, folder, report, start, *rest):
        starts.append(start)
        return real(source, held_out, settings, folder, report, start, *rest)

    monkeypatch.setattr(recipe_module, "train", watch)
    still = replace(tiny.stages[1], settings=replace(tiny.stages[1].settings, rate=1e-30))
    recipe = replace(tiny, stages=(tiny.stages[0], still))
    run_recipe(recipe, tmp_path / "out", synthetic_sources)
    assert starts == [None, tmp_path / "out" / "stage1" / "weights.npz"]
    before, after = (weights_of(tmp_path / "out" / f"stage{i}" / "weights.npz") for i in (1, 2))
    for key, values in before.items():
        if values.dtype == np.float16:
            np.testing.assert_allclose(after[key], values, atol=1e-3)


def test_a_folder_of_another_training_is_refused(tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "recipe.toml").write_text(TWO_STAGES.replace("steps = 7", "steps = 8"))
    with pytest.raises(InputError, match="begun with another recipe"):
        run_recipe(tiny, out, synthetic_sources)
    (out / "recipe.toml").write_text("# only a comment differs\n" + TWO_STAGES)
    (out / "checkpoint.npz").touch()
    recipe_module._keep_recipe(tiny, out)
    (out / "recipe.toml").unlink()
    with pytest.raises(InputError, match="a training without a recipe"):
        run_recipe(tiny, out, synthetic_sources)
    shutil.rmtree(out)
