"""Local moments against plain float64 arithmetic."""

import numpy as np
import pytest

from deepemhancer_plugin.core.noise.moments import measure_moments, measure_moments_in


def windows_of(volume, edge):
    """Windows of two blocks each way, half a window apart, in the middle of the box."""
    grid = [n // edge for n in volume.shape]
    start = [(n - g * edge) // 2 for n, g in zip(volume.shape, grid, strict=True)]
    for place in np.ndindex(*(g - 1 for g in grid)):
        corner = [s + edge * p for s, p in zip(start, place, strict=True)]
        yield volume[tuple(slice(c, c + 2 * edge) for c in corner)].astype(np.float64)


@pytest.mark.parametrize("shape, edge", [((41, 44, 47), 4), ((13, 15, 12), 2)])
def test_moments_are_those_of_every_window(shape, edge):
    volume = np.random.default_rng(0).normal(900, 3, shape).astype(np.float32)
    moments = measure_moments(lambda z: volume[z], shape)
    expected = [(w.mean(), w.var(), ((w - 899) ** 2).mean()) for w in windows_of(volume, edge)]
    mean, variance, power = np.array(expected).T
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.variance, variance, rtol=1e-3)
    np.testing.assert_allclose(moments.power(899), power, rtol=1e-3)
    assert moments.with_data == 1 and moments.kept.all()


def test_blank_windows_and_those_across_the_border_of_the_data_are_left_out():
    volume = np.random.default_rng(0).normal(size=(48, 64, 64)).astype(np.float32)
    volume[:, :32] = 7
    moments = measure_moments(lambda z: volume[z], volume.shape)
    assert moments.with_data == 0.5
    assert not moments.kept[:, :8].any() and moments.kept[1:-1, 10:-1, 1:-1].all()
    assert np.abs(moments.mean).max() < 0.5


def test_corners_outside_a_sphere_that_was_filtered_are_left_out():
    rng = np.random.default_rng(0)
    radius = np.sqrt(sum((i - 40) ** 2 for i in np.ogrid[:80, :80, :80]))
    volume = rng.normal(size=(80, 80, 80)) * np.where(radius < 40, 1, 1e-4 * (70 - radius))
    moments = measure_moments(lambda z: volume[z].astype(np.float32), volume.shape)
    assert moments.variance.min() > 0.5
    assert 0.25 < moments.kept.mean() < 0.5


def test_windows_of_another_map_are_taken_over():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 44, 44, 44)).astype(np.float32)
    one[:20] = 0
    first = measure_moments(lambda z: one[z], one.shape)
    second = measure_moments_in(lambda z: other[z], other.shape, first.kept)
    whole = measure_moments(lambda z: other[z], other.shape)
    np.testing.assert_array_equal(second.kept, first.kept)
    np.testing.assert_allclose(second.mean, whole.mean[first.kept[whole.kept]])


@pytest.mark.parametrize("shape", [(5, 40, 40), (4, 4, 4)])
def test_boxes_too_small_for_windows(shape):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert measure_moments(lambda z: volume[z], shape) is None


def test_a_constant_map_has_no_windows():
    assert measure_moments(lambda z: np.full((40, 40, 40), 2.0, "f4")[z], (40, 40, 40)) is None
