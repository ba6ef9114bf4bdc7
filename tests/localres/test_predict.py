"""The package's networks on maps of known resolution, and random ones on any map."""

import numpy as np
import pytest
from random_localres import random_network
from sharp_protein import add_noise, sharp_map

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import predict
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.maps.filters import apply_b_factor


@pytest.fixture(scope="module")
def protein():
    return sharp_map(88, 1.0)


@pytest.fixture(scope="module")
def network():
    return predict.load_network("1.0")


# The synthetic fold is unlike those of the training: coarse maps of it are off by more than those
# in docs/benchmarks/localres.md.
@pytest.mark.parametrize(
    "resolution, noise, tolerance",
    [(3, 0, 0.25), (4, 0.08, 0.25), (5, 0.08, 0.25), (7, 0, 0.5), (9, 0.08, 0.8)],
)
def test_embedded_network_finds_the_low_pass(protein, network, resolution, noise, tolerance):
    data, inside = protein
    volume = add_noise(low_pass_to(data, 1.0, resolution), noise)
    found = predict.predict_resolution(volume, inside, 1.0, network)[inside]
    assert abs(np.median(found) - resolution) < tolerance
    assert found.std() < 0.5


def test_sharpening_lowers_the_median(protein, network):
    data, inside = protein
    # As a map is sharpened: what lies beyond its resolution is noise, amplified, and cut.
    blurred = add_noise(apply_b_factor(low_pass_to(data, 1.0, 3.0), 1.0, 120), 0.001)
    maps = [low_pass_to(apply_b_factor(blurred, 1.0, b), 1.0, 3.0) for b in (0, -60, -100)]
    medians = [
        float(np.median(predict.predict_resolution(volume, inside, 1.0, network)[inside]))
        for volume in maps
    ]
    assert max(medians[1:]) < medians[0] - 0.3


@pytest.mark.parametrize("resolution", [2.0, 4.0])
def test_fine_network_reads_finer_maps(resolution):
    data, inside = sharp_map(88, 0.5, atoms=700)
    volume = add_noise(low_pass_to(data, 0.5, resolution), 0.04)
    fine = predict.load_network("0.5")
    found = predict.predict_resolution(volume, inside, 0.5, fine)[inside]
    assert abs(np.median(found) - resolution) < 0.3


@pytest.mark.parametrize(
    "resolution, rate, name",
    [(3.1, 0.8, "0.5"), (3.3, 0.8, "1.0"), (3.1, 1.3, "1.0")],
)
def test_fine_network_is_for_fine_maps_in_fine_voxels(resolution, rate, name):
    assert predict.choose_network(resolution, rate) == name


def test_networks_are_names_or_files(tmp_path):
    assert predict.find_network("0.5").is_file()
    file = tmp_path / "mine.npz"
    file.touch()
    assert predict.find_network(str(file)) == file
    with pytest.raises(InputError, match=r"network 2\.0: .*auto, 1\.0, 0\.5 or a weights file"):
        predict.find_network("2.0")


@pytest.fixture(scope="module")
def dense():
    return random_network("dense")


@pytest.fixture(scope="module")
def volume():
    return low_pass_to(np.random.default_rng(0).standard_normal((64, 68, 72), np.float32), 1, 4)


@pytest.fixture(scope="module")
def mask(volume):
    inside = np.zeros(volume.shape, bool)
    inside[28:36, 28:40, 30:42] = True
    return inside


def test_values_are_in_the_mask_alone_and_in_the_range(dense, volume, mask):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    assert found.shape == volume.shape and found.dtype == np.float32
    assert np.all(found[~mask] == 0) and found[mask].min() >= 2.5 and found[mask].max() <= 13
    assert found[mask].std() > 0.01


def test_scale_and_level_of_the_map_do_not_matter(dense, volume, mask):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    np.testing.assert_allclose(
        predict.predict_resolution(1000 * volume + 300, mask, 1.0, dense), found, rtol=1e-2
    )


def test_slabs_give_what_the_whole_map_gives(dense, volume, mask, monkeypatch):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    monkeypatch.setattr(predict, "BLOCKS_AT_A_TIME", 1)
    np.testing.assert_allclose(
        predict.predict_resolution(volume, mask, 1.0, dense), found, rtol=1e-4
    )


def test_result_moves_with_the_map(dense, volume, mask):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    shift = (3, -4, 2)  # the 24 voxels around the mask stay in the box
    moved = predict.predict_resolution(
        np.roll(volume, shift, (0, 1, 2)), np.roll(mask, shift, (0, 1, 2)), 1.0, dense
    )
    np.testing.assert_allclose(moved, np.roll(found, shift, (0, 1, 2)), rtol=1e-3)


def test_mask_at_the_edge_of_the_box(dense, volume):
    everywhere = np.ones(volume.shape, bool)
    assert np.all(predict.predict_resolution(volume, everywhere, 1.0, dense) >= 2.5)


@pytest.mark.parametrize("rate", [0.8, 1.6])
def test_other_sampling_rates_come_back_on_the_maps_grid(dense, volume, mask, rate):
    found = predict.predict_resolution(volume, mask, rate, dense)
    assert found.shape == volume.shape and np.array_equal(found > 0, mask)
    assert found[mask].min() >= max(2.5, 2 * rate) - 1e-5


def test_sliding_windows_see_the_box_around_each_voxel(volume, mask):
    network = random_network("published")
    found = predict.predict_resolution(volume, mask, 1.0, network)
    level = np.median(volume[~mask])
    for z, y, x in np.argwhere(mask)[::197]:
        box = volume[z - 6 : z + 7, y - 6 : y + 7, x - 6 : x + 7] - level
        alone = float(np.asarray(network.model((box / np.linalg.norm(box))[None, ..., None]))[0, 0])
        assert found[z, y, x] == pytest.approx(np.clip(alone, 2.5, 13), rel=1e-4)


def test_mask_of_another_box_and_empty_mask_are_errors(dense, volume, mask):
    with pytest.raises(InputError, match="differ in box"):
        predict.predict_resolution(volume, mask[1:], 1.0, dense)
    with pytest.raises(InputError, match="empty"):
        predict.predict_resolution(volume, np.zeros_like(mask), 1.0, dense)
