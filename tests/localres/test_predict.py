"""The package's networks on maps of the synthetic protein, whose resolution is known."""

import numpy as np
import pytest
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
