"""Cleaning against scikit-image's pieces in the original program's order, and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import closing

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.components import RemovedComponents, remove_small_components


def blobs(shape=(24, 28, 32), seed=0, count=12):
    """Smooth blobs of several sizes over weak noise."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(0, 0.01, shape)
    grid = np.indices(shape)
    for _ in range(count):
        centre = rng.uniform(2, np.array(shape) - 2)[:, None, None, None]
        volume += rng.uniform(0.5, 1) * np.exp(
            -((grid - centre) ** 2).sum(0) / (2 * rng.uniform(0.7, 3) ** 2)
        )
    return volume.astype(np.float32)


def cubes(*sides):
    """Cubes of one on zero, far from each other, in one row; the first one in the centre."""
    size = 16 * (2 * len(sides) - 1)
    volume = np.zeros((24, 24, size), np.float32)
    for n, side in enumerate(sides):
        start = size // 2 - 8 + 16 * n + 4
        volume[8 : 8 + side, 8 : 8 + side, start : start + side] = 1
    return volume


def reference(volume, fraction, classic):
    """The steps with scikit-image, voxel lists in place of label arithmetic."""
    z, y, x = np.indices(volume.shape)
    centre = [n // 2 for n in volume.shape]
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    inner = volume[distance < int(0.33 * (min(volume.shape) // 2))].astype(float).mean()
    dense = closing(volume, np.ones((3, 3, 3))) >= (threshold_otsu(volume) + inner) / 2
    labels = label(dense, connectivity=3)
    out = volume.copy()
    if classic:
        out[~dense] = volume.min()
    components = voxels = 0
    for number in range(1, labels.max() + 1):
        member = labels == number
        if member.sum() < fraction * dense.sum():
            out[member] = volume.min()
            components, voxels = components + 1, voxels + int(member.sum())
    return out, components, voxels


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("fraction", [0, 0.05, 0.3, 1])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_steps_of_scikit_image(seed, fraction, classic):
    volume = blobs(seed=seed)
    expected, components, voxels = reference(volume, fraction, classic)
    cleaned, removed = remove_small_components(volume, fraction, 1.5, classic)
    np.testing.assert_array_equal(cleaned, expected)
    assert removed == RemovedComponents(components, voxels, pytest.approx(voxels * 1.5**3))
    assert cleaned.dtype == np.float32


def test_counts_and_volume_in_closed_form():
    volume = cubes(8, 4, 2)  # 512, 64 and 8 voxels: 87.7, 11.0 and 1.4 % of 584
    for fraction, gone in [(0, ()), (0.01, ()), (0.05, (2,)), (0.12, (4, 2)), (0.8, (4, 2))]:
        cleaned, removed = remove_small_components(volume, fraction, 2.0)
        voxels = sum(side**3 for side in gone)
        assert removed == RemovedComponents(len(gone), voxels, 8.0 * voxels)
        assert cleaned.sum() == 584 - voxels


def test_exactly_the_fraction_stays():
    volume = cubes(8, 8)  # half of the density each
    assert remove_small_components(volume, 0.5, 1)[1].components == 0
    assert remove_small_components(volume, 0.501, 1)[1].components == 2


def test_corners_connect():
    volume = cubes(8)
    volume[16:18, 16:18, volume.shape[2] // 2 + 4 : volume.shape[2] // 2 + 6] = (
        1  # touches the cube in one corner
    )
    assert remove_small_components(volume, 0.5, 1)[1].components == 0


def test_closing_joins_what_one_voxel_parts():
    volume = cubes(8)
    x = volume.shape[2] // 2 + 5
    assert not volume[:, :, x - 1].any()
    volume[8:16, 8:16, x : x + 2] = 1  # one empty plane from the cube
    assert remove_small_components(volume, 0.5, 1)[1].components == 0


def test_removed_voxels_take_the_minimum_and_the_rest_stays():
    volume = blobs() - 0.5
    cleaned, removed = remove_small_components(volume, 0.2, 1)
    changed = cleaned != volume
    assert removed.voxels > 0
    assert np.all(cleaned[changed] == volume.min())
    assert changed.sum() == removed.voxels


def test_the_input_is_not_touched():
    volume = blobs()
    before = volume.copy()
    remove_small_components(volume, 0.5, 1, classic=True)
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_constant_map_stays(value):
    volume = np.full((9, 10, 11), value, np.float32)
    cleaned, removed = remove_small_components(volume, 0.5, 1)
    np.testing.assert_array_equal(cleaned, volume)
    assert removed == RemovedComponents(0, 0, 0.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(5, 18)] * 3), st.floats(0, 1))
def test_more_strength_removes_more(seed, shape, fraction):
    volume = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1).astype(
        np.float32
    )
    less = remove_small_components(volume, fraction / 2, 1)[1]
    more = remove_small_components(volume, fraction, 1)[1]
    assert less.components <= more.components
    assert less.voxels <= more.voxels


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
def test_strength_outside_0_to_1_is_refused(fraction):
    with pytest.raises(InputError, match=r"cleaning strength .*between 0 .* and 1"):
        remove_small_components(blobs(), fraction, 1)
