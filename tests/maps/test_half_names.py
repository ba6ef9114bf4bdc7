"""The second half map is found by its name."""

import os

import pytest
from map_files import refused

from deepemhancer_plugin.core.maps.half_names import find_other_half, name_other_halves

PAIRS = [
    ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"),
    ("run_it025_half1_class001.mrc", "run_it025_half2_class001.mrc"),
    ("cryosparc_P1_J12_003_volume_map_half_A.mrc", "cryosparc_P1_J12_003_volume_map_half_B.mrc"),
    ("emd_1234_half_map_1.map.gz", "emd_1234_half_map_2.map.gz"),
    ("emd_1234_half_map_1.map", "emd_1234_half_map_2.map"),
    ("threed_05_even.hdf", "threed_05_odd.hdf"),
    ("Half-1.mrc", "Half-2.mrc"),
    ("HALF_A.MRC", "HALF_B.MRC"),
    ("map_halfA_final.mrc", "map_halfB_final.mrc"),
    ("half map 1.mrc", "half map 2.mrc"),
    ("half_vol1.mrc", "half_vol2.mrc"),
    ("x.half1.mrc", "x.half2.mrc"),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("backwards", [False, True])
def test_names_of_programs(tmp_path, pair, backwards):
    first, second = (str(tmp_path / name) for name in (pair[::-1] if backwards else pair))
    open(second, "w").close()
    assert find_other_half(first) == second


def test_halves_in_folders_of_their_own(tmp_path):
    for number in "12":
        os.makedirs(tmp_path / f"half{number}")
        (tmp_path / f"half{number}" / "map.mrc").touch()
    assert find_other_half(f"{tmp_path}/half1/map.mrc") == f"{tmp_path}/half2/map.mrc"


@pytest.mark.parametrize(
    "name", ["map.mrc", "half.mrc", "behalf1.mrc", "half12.mrc", "half_axis.mrc", "oddity.mrc"]
)
def test_names_that_tell_no_half(name):
    assert name_other_halves(name) == []
    assert "the name tells no half" in refused(find_other_half, name)


def test_a_missing_half_is_named(tmp_path):
    message = refused(find_other_half, str(tmp_path / "run_half1_unfil.mrc"))
    assert "was not found; tried" in message and str(tmp_path / "run_half2_unfil.mrc") in message


def test_two_candidates_are_named(tmp_path):
    for name in ("half1_half2.mrc", "half2_half1.mrc"):
        (tmp_path / name).touch()
    message = refused(find_other_half, str(tmp_path / "half1_half1.mrc"))
    assert "half1_half2.mrc" in message and "half2_half1.mrc" in message and "pass one" in message
