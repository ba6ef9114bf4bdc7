"""`local_resolution` for people who write Python: what it takes, gives and refuses."""

import json

import numpy as np
import pytest
from half_maps import half_maps

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.resolution import local_resolution
from deepemhancer_plugin.core.localres.statistics import summarize
from deepemhancer_plugin.core.maps import mrc

SHAPE, RATE, ORIGIN = (40, 42, 44), 1.2, (10.0, -20.0, 30.0)


@pytest.fixture(scope="module")
def halves():
    return half_maps(SHAPE, RATE, 5.0, b_factor=80.0)


@pytest.fixture(scope="module")
def volume(halves):
    return (halves[0] + halves[1]) / 2


@pytest.fixture(scope="module")
def mask():
    inside = np.zeros(SHAPE, bool)
    inside[12:28, 13:29, 14:30] = True
    return inside


@pytest.fixture(scope="module")
def result(volume, halves, mask):
    return local_resolution(volume, halves=halves, mask=mask, sampling_rate=RATE, device="-1")


def written(folder, name, data, origin=ORIGIN):
    path = folder / f"{name}.mrc"
    data = np.asarray(data, np.float32)
    mrc.write_map(path, data, mrc.new_map(data, RATE, origin))
    return path


def test_values_in_the_mask_alone_and_a_report_of_json_values(result, mask):
    for data, key in ((result.data, "local_resolution"), (result.local_fsc, "local_fsc")):
        assert data.shape == SHAPE and data.dtype == np.float32
        assert np.array_equal(data > 0, mask) and np.array_equal(result.mask, mask)
        assert result.report[key] == summarize(data[mask])
    assert json.loads(json.dumps(result.report)) == result.report
    assert result.report["mask"] == {"source": "array", "voxels": int(mask.sum())}
    assert result.report["network"] == "1.0" and result.report["device"].startswith("CPU")


def test_paths_maps_and_arrays_give_the_same(result, volume, halves, mask, tmp_path):
    files = [written(tmp_path, f"half{i}", half) for i, half in enumerate(halves)]
    path, mask_file = written(tmp_path, "map", volume), written(tmp_path, "mask", mask)
    cpu = devices.select_devices("-1")
    # Arrays of halves have no place of their own: they lie where the map does.
    of_map = local_resolution(mrc.read_map(path), halves=halves, mask=mask_file, device=cpu)
    of_paths = local_resolution(str(path), halves=files, mask=mrc.read_map(mask_file), device=cpu)
    for other in (of_map, of_paths):
        np.testing.assert_array_equal(other.data, result.data)
        np.testing.assert_array_equal(other.local_fsc, result.local_fsc)
        assert other.report["mask"]["source"] == str(mask_file)
        assert other.report["origin"] == list(ORIGIN)


def test_saved_maps_lie_where_the_map_does(volume, halves, mask, tmp_path):
    path = written(tmp_path, "map", volume)
    found = local_resolution(path, halves=halves, mask=mask, device="-1")
    found.save(tmp_path / "resolution.mrc")
    found.save_local_fsc(tmp_path / "fsc.mrc")
    for name, data in (("resolution", found.data), ("fsc", found.local_fsc)):
        saved = mrc.read_map(tmp_path / f"{name}.mrc")
        assert saved.origin == ORIGIN and saved.sampling_rate == RATE
        np.testing.assert_array_equal(saved.data, data)


def test_without_halves_there_is_no_local_fsc(volume, mask):
    found = local_resolution(volume, mask=mask, sampling_rate=RATE, device="-1")
    assert found.local_fsc is None and "local_fsc" not in found.report
    with pytest.raises(ValueError, match="half maps"):
        found.save_local_fsc("unused.mrc")


def test_arguments_stay_as_they_were(volume, halves, mask):
    given = [volume.copy(), [h.copy() for h in halves], mask.copy()]
    for array in (given[0], *given[1], given[2]):
        array.flags.writeable = False
    local_resolution(given[0], halves=given[1], mask=given[2], sampling_rate=RATE, device="-1")
    assert len(given[1]) == 2


def test_other_types_of_numbers_mean_the_same(result, volume, halves, mask):
    found = local_resolution(
        volume.astype(float),
        halves=[h.astype(float) for h in halves],
        mask=mask.astype(np.uint8),
        sampling_rate=RATE,
        device="-1",
    )
    np.testing.assert_array_equal(found.data, result.data)
    np.testing.assert_array_equal(found.local_fsc, result.local_fsc)


def test_fine_network_is_chosen_for_a_fine_map(mask):
    fine = half_maps(SHAPE, 0.6, 1.8)[0]
    found = local_resolution(fine, mask=mask, sampling_rate=0.6, device="-1")
    assert found.report["network"] == "0.5" and found.data[mask].min() < 2.5


def test_progress_reaches_its_end(volume, halves, mask):
    seen = {}
    local_resolution(
        volume,
        halves=halves,
        mask=mask,
        sampling_rate=RATE,
        device="-1",
        progress=lambda step, done, total: seen.update({step: (done, total)}),
    )
    assert set(seen) == {"local resolution", "local FSC"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"sampling_rate": None}, "sampling rate"),
        ({"map": np.full(SHAPE, np.nan)}, "NaN|finite"),
        ({"map": np.zeros((4, 4))}, "3-D"),
        ({"mask": np.ones((8, 8, 8), bool)}, "mask"),
        ({"network": "3.0"}, "no such network"),
        ({"device": "x"}, "-g x"),
        ({"halves": [np.ones(SHAPE)]}, "1 half maps: two"),
    ],
)
def test_refusals_are_one_line(volume, mask, changes, word):
    arguments = {"map": volume, "mask": mask, "sampling_rate": RATE, "device": "-1", **changes}
    with pytest.raises(InputError, match=word) as error:
        local_resolution(arguments.pop("map"), **arguments)
    assert "\n" not in str(error.value)


def test_halves_that_do_not_fit_are_refused(volume, halves, mask, tmp_path):
    with pytest.raises(InputError, match="box"):
        cut = [half[1:] for half in halves]
        local_resolution(volume, halves=cut, mask=mask, sampling_rate=RATE, device="-1")
    with pytest.raises(InputError, match="same map"):
        twice = [halves[0], halves[0]]
        local_resolution(volume, halves=twice, mask=mask, sampling_rate=RATE, device="-1")
    files = [written(tmp_path, f"half{i}", half) for i, half in enumerate(halves)]
    elsewhere = written(tmp_path, "map", volume, origin=(60.0, -20.0, 30.0))
    with pytest.raises(InputError, match="first voxel lies at"):
        local_resolution(elsewhere, halves=files, mask=mask, device="-1")
