"""What is said of the inputs of an enhancement, and what is made of them."""

import os
import warnings

import numpy as np
import pytest
from map_files import refused

from deepemhancer_plugin.core.enhancement.inputs import LEAST_NOISE, estimate_noise, read_inputs
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein

RATE = 1.2


@pytest.fixture(scope="module")
def halves():
    """Two half maps of the synthetic protein."""
    conditions = Conditions(resolution=4.0, sampling_rate=RATE, margin=14.0, random_pose=False)
    made = simulate_halves(from_structure(build_protein(0)), conditions, 3)
    return made.half1, made.half2


def read(*maps):
    """What is made of the maps, and what is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volumes, _, _ = read_inputs(maps, RATE, None)
    return volumes, [str(w.message) for w in caught if w.category is MapWarning]


def noise_of(volumes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        return estimate_noise(volumes, None, "auto", "noise").std


def test_good_halves_are_taken_as_they_are(halves):
    volumes, said = read(*halves)
    assert said == []
    np.testing.assert_array_equal(volumes, halves)


@pytest.mark.parametrize("kind", ["full map", "copy"])
def test_halves_that_are_not_independent_are_one_map(halves, kind):
    """Their noise is that of their mean, not of a difference that holds none of it."""
    one, two = halves
    second = (one + two) / 2 if kind == "full map" else one * np.float32(1.001)
    volumes, said = read(one, second)
    assert len(volumes) == 1 and len(said) == 1 and "not two independent halves" in said[0]
    np.testing.assert_allclose(volumes[0], (one + second) / 2, atol=1e-5)
    assert noise_of(volumes) > 0.9 * noise_of([one, two])
    assert noise_of([one, second]) < 0.75 * noise_of([one, two])  # without the judgement


def test_a_copy_has_at_least_the_noise_of_a_single_map():
    axis = np.arange(40) - 20.0
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    ball = np.exp(-square / 40).astype(np.float32)
    volumes, _ = read(ball, ball * np.float32(1.001))
    assert len(volumes) == 1 and noise_of(volumes) >= 0.999 * LEAST_NOISE * volumes[0].std()


def test_halves_of_another_scale_are_brought_to_one(halves):
    one, two = halves
    given = 5 * two + 3
    volumes, said = read(one, given)
    assert len(said) == 1 and "two scales or levels" in said[0] and "0.2" in said[0]
    np.testing.assert_allclose(volumes[1], two, atol=0.03)
    np.testing.assert_array_equal(given, 5 * two + 3)
    assert noise_of(volumes) == pytest.approx(noise_of([one, two]), rel=0.03)


def test_one_inverted_half_is_refused(halves):
    assert "multiply one by -1" in refused(read_inputs, (halves[0], -halves[1]), RATE, None)


@pytest.mark.parametrize("number", [1, 2])
def test_inverted_contrast_is_said_once(halves, number):
    _, said = read(*(-half for half in halves[:number]))
    assert len(said) == 1 and "multiply by -1" in said[0]


def test_messages_name_the_target_of_a_link(halves, tmp_path):
    """Scipion passes links in a folder that is gone after the run."""
    for number, half in enumerate(halves, 1):
        mrc.write_map(tmp_path / f"mine{number}.mrc", -half, mrc.new_map(half, RATE))
        os.symlink(tmp_path / f"mine{number}.mrc", tmp_path / f"inputHalf{number}.mrc")
    _, said = read(tmp_path / "inputHalf1.mrc", tmp_path / "inputHalf2.mrc")
    assert said and all("mine1.mrc" in text and "inputHalf" not in text for text in said)


def test_no_half_maps_are_asked_for_where_they_were_given(halves):
    masked = []
    for half in halves:
        cut = half.copy()
        cut[:16] = 0
        masked.append(cut)
    said = read(*masked)[1]
    assert any("looks masked" in text for text in said)
    assert not any("best the two half maps" in text for text in said)
    assert any("best the two half maps" in text for text in read(masked[0])[1])
