"""The face for people who write Python: what it takes, what it checks, what it leaves alone."""

import doctest
import importlib

import mrcfile
import numpy as np
import pytest

import deepemhancer_plugin.core as core
from deepemhancer_plugin.core import InputError, enhance, load_weights, read_map, write_map
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein

ORIGIN = (12.5, -40.0, 7.25)


@pytest.fixture(scope="module")
def halves():
    """Two half maps of the synthetic protein at 1.2 A/voxel."""
    made = simulate_halves(
        from_structure(build_protein(0)),
        Conditions(resolution=4.0, sampling_rate=1.2, margin=8.0, random_pose=False),
        3,
    )
    return made.half1, made.half2


@pytest.fixture(scope="module")
def files(halves, tmp_path_factory):
    """The same as files, with an origin."""
    folder = tmp_path_factory.mktemp("face")
    for name, data in zip(("half1.mrc", "half2.mrc"), halves, strict=True):
        write_map(folder / name, data, core.new_map(data, 1.2, ORIGIN))
    return folder / "half1.mrc", folder / "half2.mrc"


@pytest.fixture(scope="module")
def from_files(files):
    return enhance(*files, device="-1")


def test_five_lines_enhance_two_arrays(halves, tmp_path, monkeypatch):
    """As README.rst has them."""
    monkeypatch.chdir(tmp_path)
    half1, half2 = halves
    from deepemhancer_plugin.core import enhance

    result = enhance(half1, half2, sampling_rate=1.06)
    result.save("enhanced.mrc")
    assert read_map("enhanced.mrc").sampling_rate == pytest.approx(1.06)
    assert np.array_equal(read_map("enhanced.mrc").data, result.data)


def test_paths_maps_and_arrays_give_the_same(files, halves, from_files):
    maps = [read_map(str(file)) for file in files]
    for given, options in ((maps, {}), (halves, {"sampling_rate": 1.2})):
        result = enhance(*given, device="-1", **options)
        np.testing.assert_array_equal(result.data, from_files.data)
    assert from_files.report["noise"]["source"] == "half maps"


def test_result_is_saved_with_the_inputs_header(files, from_files, tmp_path):
    from_files.save(tmp_path / "out.mrc")
    with mrcfile.open(files[0]) as before, mrcfile.open(tmp_path / "out.mrc") as after:
        for field in ("nx", "nxstart", "mx", "cella", "mapc", "ispg", "origin"):
            assert before.header[field] == after.header[field], field
        assert "tightTarget" in bytes(after.header.label[int(after.header.nlabl) - 1]).decode()


def test_arguments_are_left_as_they_were(halves, files):
    copies = [half.copy() for half in halves]
    maps = [read_map(file) for file in files]
    mask = np.zeros(halves[0].shape, np.uint8)
    mask[8:-8, 8:-8, 8:-8] = 255
    kept = mask.copy()
    enhance(*halves, sampling_rate=1.2, mask=mask, cleaning=0.1, device="-1")
    enhance(*maps, device="-1")
    for half, copy, read in zip(halves, copies, maps, strict=True):
        np.testing.assert_array_equal(half, copy)
        np.testing.assert_array_equal(read.data, copy)
    np.testing.assert_array_equal(mask, kept)


def test_mask_of_integers_is_a_mask(halves):
    mask = np.zeros(halves[0].shape, np.uint8)
    mask[10:40, 10:40, 10:40] = 1
    result = enhance(*halves, sampling_rate=1.2, mask=mask, device="-1").data
    assert not result[~mask.astype(bool)].any() and result[mask.astype(bool)].any()


def test_one_map_is_enough(halves, from_files):
    single = enhance((halves[0] + halves[1]) / 2, sampling_rate=1.2, device="-1")
    assert np.corrcoef(single.data.ravel(), from_files.data.ravel())[0, 1] > 0.9
    assert single.report["half_map_fsc_0.143"] is None


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ((), {}, "0 maps"),
        (("a", "a", "a"), {}, "3 maps: one map, or two half maps"),
        (("a",), {"sampling_rate": None}, "no sampling rate"),
        (("a",), {"sampling_rate": 0.0}, "sampling rate 0 A/voxel"),
        (("image",), {}, "a 3-D map"),
        (("nan",), {}, "NaN"),
        (("complex",), {}, "real numbers"),
        (("flat",), {}, "all voxels are 1"),
        (("a", "small"), {}, "box 53 x 54 x 54"),
        (("a", "a"), {}, "the same map"),
        (("a",), {"mask": "small"}, "box"),
        (("a",), {"mask": "a"}, "mask"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(halves, given, options, words):
    a = halves[0]
    known = {
        "a": a,
        "image": a[0],
        "small": a[1:],
        "nan": np.where(a == a.max(), np.nan, a),
        "complex": a.astype(np.complex64),
        "flat": np.ones_like(a),
    }
    options = {"sampling_rate": 1.2} | options
    if "mask" in options:
        options["mask"] = known[options["mask"]]
    with pytest.raises(InputError, match=words) as refused:
        enhance(*(known[name] for name in given), device="-1", **options)
    assert "\n" not in str(refused.value)


def test_weights_by_name_file_and_model(tmp_path):
    model = load_weights("highRes")
    assert load_weights(model.path).sha256 == model.sha256
    with pytest.raises(InputError, match=r"absent\.npz: no such file; tightTarget"):
        load_weights(tmp_path / "absent.npz")
    with pytest.raises(InputError, match="deepemhancer download"):
        load_weights("official:tightTarget", tmp_path)


def test_everything_named_is_there():
    for name in core.__all__:
        assert getattr(core, name) is not None and name in dir(core)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        core.nothing_like_it  # noqa: B018


@pytest.mark.parametrize(
    "module",
    [
        "enhancement.enhance",
        "evaluation.evaluate",
        "localres.resolution",
        "maps.mrc",
        "simulation.simulate",
        "weights.load",
    ],
)
def test_examples_of_docstrings(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = importlib.import_module(f"deepemhancer_plugin.core.{module}")
    results = doctest.testmod(found)
    assert results.failed == 0 and (results.attempted > 0 or module == "maps.mrc")
