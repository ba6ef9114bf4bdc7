"""The function for scripts: paths, maps and arrays alike; what it changes (nothing) and refuses."""

import json

import numpy as np
import pytest

from deepemhancer_plugin.core import InputError, MapWarning, evaluate, new_map, read_map, simulate
from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.evaluation.modelmap import compute_model_map
from deepemhancer_plugin.core.evaluation.plot import plot_evaluation
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein

RATE = 2.0


@pytest.fixture(scope="module")
def molecule():
    return from_structure(build_protein(0))


@pytest.fixture(scope="module")
def simulated(molecule):
    made = simulate(molecule, resolution=5, sampling_rate=RATE)
    for name in ("half1", "half2", "target", "model"):
        getattr(made, name).flags.writeable = False
    return made


@pytest.fixture(scope="module")
def evaluation(simulated):
    return evaluate(
        simulated.target,
        halves=(simulated.half1, simulated.half2),
        model=simulated.molecule,
        sampling_rate=RATE,
    )


def test_metrics_are_those_of_the_functions(simulated, evaluation):
    shape = simulated.target.shape
    model = compute_model_map(simulated.molecule, shape, RATE)
    expected = score(simulated.target, model, soft_mask(model, RATE), RATE)
    metrics = evaluation.maps[1].metrics
    assert [m.name for m in evaluation.maps] == ["mean of halves", "map"]
    assert metrics["fsc_0.5_masked"] == expected.fsc_masked
    assert metrics["cc_mask"] == expected.cc_mask and metrics["cc_box"] == expected.cc_box
    np.testing.assert_array_equal(evaluation.model_map, model)
    assert evaluation.resolution == evaluation.half_map_metrics["fsc_0.143_corrected"]


def test_files_and_maps_are_as_good_as_arrays(molecule, simulated, evaluation, tmp_path):
    maps = [new_map(getattr(simulated, n), RATE) for n in ("target", "half1", "half2")]
    of_maps = evaluate(maps[0], halves=maps[1:], model=simulated.molecule)
    half1, half2, target, _ = simulated.save(tmp_path / "p")
    of_files = evaluate(str(target), halves=(half1, read_map(half2)), model=molecule)
    assert [m.name for m in of_files.maps] == ["mean of halves", "p_target"]
    for found in (of_maps, of_files):
        assert found.half_map_metrics == evaluation.half_map_metrics
        for m, expected in zip(found.maps, evaluation.maps, strict=True):
            assert m.metrics == pytest.approx(expected.metrics, rel=1e-3)


def test_the_report_is_json_and_holds_the_metrics(evaluation):
    report = json.loads(json.dumps(evaluation.report))
    assert report["sampling_rate"] == RATE and report["model"] == "model"
    assert report["maps"][1]["cc_mask"] == evaluation.maps[1].metrics["cc_mask"]
    assert report["halves"]["files"] == ["half map 1", "half map 2"]
    assert report["atoms"] == report["atoms_scored"] == len(report["maps"][0]["q_scores"])


def test_several_arrays_are_numbered_and_integers_are_maps(simulated):
    integers = np.round(100 * simulated.target).astype(np.int16)
    found = evaluate([simulated.target, integers], model_map=simulated.model, sampling_rate=RATE)
    assert [m.name for m in found.maps] == ["map 1", "map 2"]
    assert found.maps[1].metrics["cc_mask"] == pytest.approx(
        found.maps[0].metrics["cc_mask"], abs=1e-3
    )


def test_a_mask_of_any_type_is_one_from_0_to_1(simulated):
    mask = simulated.mask > 0.5
    given = {"model_map": simulated.model, "sampling_rate": RATE}
    expected = evaluate(simulated.target, mask=mask.astype(np.float32), **given).maps[0].metrics
    assert evaluate(simulated.target, mask=mask, **given).maps[0].metrics == expected
    with pytest.warns(MapWarning, match="255"):
        found = evaluate(simulated.target, mask=mask.astype(np.uint8) * np.uint8(255), **given)
    assert found.maps[0].metrics == expected


def test_a_model_in_another_place_is_warned_about(simulated):
    away = simulated.molecule.shift(np.array([0.0, 0.0, 40.0]))
    with pytest.warns(MapWarning) as caught:
        evaluate(simulated.target, model=away, sampling_rate=RATE, atoms=20)
    messages = [str(w.message) for w in caught]
    assert any("atoms lie outside of map" in m for m in messages)
    assert any("does not seem to lie in the map's place" in m for m in messages)


def test_progress_ends_where_all_is_done(simulated):
    seen = []
    evaluate(
        simulated.target, sampling_rate=RATE, progress=lambda *arguments: seen.append(arguments)
    )
    assert seen[0] == ("metrics", 0, 2) and seen[-1] == ("metrics", 2, 2)


@pytest.mark.parametrize("known", ["map", "halves", "model map", "all"])
def test_the_picture_has_a_panel_for_what_is_known(simulated, evaluation, tmp_path, known):
    if known == "map":
        evaluation = evaluate(simulated.target, sampling_rate=RATE)
    elif known == "halves":
        evaluation = evaluate(halves=(simulated.half1, simulated.half2), sampling_rate=RATE)
    elif known == "model map":
        evaluation = evaluate(simulated.target, model_map=simulated.model, sampling_rate=RATE)
    path = tmp_path / "picture.png"
    plot_evaluation(path, evaluation)
    content = path.read_bytes()
    assert content[:4] == b"\x89PNG"
    panels = {"map": 1, "halves": 2, "model map": 2, "all": 4}[known]
    assert int.from_bytes(content[16:20], "big") == int(110 * 5.2 * panels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"maps": ()}, "nothing to evaluate"),
        ({"sampling_rate": None}, "map: an array has no sampling rate"),
        ({"halves": ["half1"]}, "half maps: 1 were given: two are needed"),
        ({"halves": ["half1", "half1"]}, "the same map"),
        ({"resolution": 3.0}, "resolution 3 A: between Nyquist (4 A) and 100 A"),
        ({"atoms": 0}, "atoms 0: at least 1"),
        ({"model_map": np.eye(4)}, "model map: an array of shape (4, 4)"),
        ({"model": "absent.pdb"}, "absent.pdb: no such file"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(simulated, arguments, words):
    given = {"maps": simulated.target, "sampling_rate": RATE, **arguments}
    if "halves" in given:
        given["halves"] = [getattr(simulated, name) for name in given["halves"]]
    with pytest.raises(InputError) as caught:
        evaluate(given.pop("maps"), **given)
    assert words in str(caught.value)
