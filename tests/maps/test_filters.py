"""Filters and soft edges against closed forms and NumPy in float64."""

import numpy as np
import pytest
from scipy import fft
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.maps import filters

SHAPES = [(16, 16, 16), (15, 9, 12), (34, 8, 9), (70, 5, 6)]


def whole_frequencies(shape, rate):
    """|k| of the whole transform by NumPy, in float64."""
    return np.sqrt(
        sum(g**2 for g in np.meshgrid(*(np.fft.fftfreq(n, rate) for n in shape), indexing="ij"))
    )


def filtered(volume, gain):
    return np.fft.ifftn(np.fft.fftn(volume.astype(np.float64)) * gain).real


@pytest.fixture(params=SHAPES, ids=str)
def volume(request):
    return np.random.default_rng(0).standard_normal(request.param).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [1.0, 0.83, 2.6])
def test_frequencies_are_those_of_numpy(shape, rate):
    expected = whole_frequencies(shape, rate)[..., : shape[2] // 2 + 1]
    k = filters.frequencies(shape, rate)
    assert k.dtype == np.float32
    np.testing.assert_allclose(k, expected, rtol=1e-6)
    slabs = list(filters.frequency_slabs(shape, rate))
    np.testing.assert_allclose(np.concatenate([k for _, k in slabs]), expected, rtol=1e-6)
    planes = [z for planes, _ in slabs for z in range(*planes.indices(shape[0]))]
    assert planes == list(range(shape[0]))


def test_frequencies_of_an_image():
    expected = np.hypot(np.fft.fftfreq(6, 1.5)[:, None], np.fft.rfftfreq(9, 1.5))
    np.testing.assert_allclose(filters.frequencies((6, 9), 1.5), expected, rtol=1e-6)


def test_a_raised_cosine_is_a_soft_step():
    values = np.array([-1, 2, 2.5, 3, 3.5, 4, 9])
    half = np.sqrt(0.5) / 2
    expected = [1, 1, 0.5 + half, 0.5, 0.5 - half, 0, 0]
    np.testing.assert_allclose(filters.raised_cosine(values, 2, 4), expected, atol=1e-15)
    assert filters.raised_cosine(values.astype(np.float32), 2, 4).dtype == np.float32


@pytest.mark.parametrize("rate", [1.0, 1.3])
def test_a_low_pass_is_its_definition(volume, rate):
    before = volume.copy()
    k = whole_frequencies(volume.shape, rate)
    for start, end in ((0.1, 0.2), (0.2, 0.21), (0.0, 0.9), (0.3, 0.5)):
        gain = np.where(k < start, 1, np.where(k > end, 0, np.nan))
        edge = np.isnan(gain)
        gain[edge] = np.cos(np.pi / 2 * (k[edge] - start) / (end - start)) ** 2
        result = filters.low_pass(volume, rate, start, end)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, filtered(volume, gain), atol=2e-5)
    np.testing.assert_array_equal(volume, before)


def test_a_low_pass_keeps_the_mean_and_a_coarse_wave():
    z = np.arange(40)
    coarse, fine = np.cos(2 * np.pi * 4 * z / 40), np.cos(2 * np.pi * 12 * z / 40)
    volume = np.broadcast_to((3 + coarse + fine)[:, None, None], (40, 4, 4))
    result = filters.low_pass(volume, 2.0, 0.05, 0.15)  # they are at 0.05 and 0.15 1/A
    np.testing.assert_allclose(result[:, 1, 2], 3 + coarse, atol=1e-5)


@pytest.mark.parametrize("b_factor", [-20.0, 0.0, 60.0, 300.0])
def test_a_b_factor_is_its_definition(volume, b_factor):
    gain = np.exp(-b_factor / 4 * whole_frequencies(volume.shape, 1.2) ** 2)
    result = filters.apply_b_factor(volume, 1.2, b_factor)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, filtered(volume, gain), atol=3e-6 * gain.max())


def test_a_b_factor_makes_a_point_a_gaussian():
    """exp(-B k^2 / 4) is the transform of a Gaussian of variance B / (8 pi^2)."""
    point = np.zeros((48, 48, 48), np.float32)
    point[24, 24, 24] = 1
    rate, b_factor = 1.5, 400.0
    variance = b_factor / (8 * np.pi**2)
    distance = rate * filters.distance_from_centre((48, 48, 48))
    expected = np.exp(-(distance**2) / (2 * variance)) / (2 * np.pi * variance) ** 1.5 * rate**3
    result = filters.apply_b_factor(point, rate, b_factor)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_multiply_by_a_linear_gain_is_exact():
    shape, rate = (34, 8, 9), 1.2
    ones = np.ones((34, 8, 5), np.complex64)
    gain = 1 + 3 * np.arange(30) * filters.shell_width(shape, rate)
    filters.apply_gain(ones, gain, shape, rate)
    np.testing.assert_allclose(
        ones.real, 1 + 3 * whole_frequencies(shape, rate)[..., :5], rtol=1e-5
    )


def test_a_gain_between_shells_is_interpolated_and_beyond_them_the_last(volume):
    spectrum = fft.rfftn(volume)
    expected = spectrum.copy()
    gain = np.array([1.0, 5.0, 2.0])
    filters.apply_gain(spectrum, gain, volume.shape, 1.4)
    k = whole_frequencies(volume.shape, 1.4)[..., : volume.shape[2] // 2 + 1]
    place = np.minimum(k * min(volume.shape) * 1.4, 2)
    expected *= np.where(place < 1, 1 + 4 * place, 5 - 3 * (place - 1))
    np.testing.assert_allclose(spectrum, expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("distance, edge", [(0.0, 5.0), (3.0, 4.0)])
def test_a_soft_edge_is_a_cosine_of_the_distance(distance, edge):
    inside = np.random.default_rng(1).random((14, 15, 16)) > 0.996
    places = np.argwhere(np.ones(inside.shape, bool))
    away = 1.3 * cKDTree(np.argwhere(inside)).query(places)[0].reshape(inside.shape)
    ramp = np.clip((away - distance) / edge, 0, 1)
    soft = filters.soft_edge(inside, 1.3, distance, edge)
    assert soft.dtype == np.float32 and (soft[inside] == 1).all()
    np.testing.assert_allclose(soft, np.cos(np.pi / 2 * ramp) ** 2, atol=1e-6)


def test_distances_from_the_centre_and_from_a_point():
    z, y, x = np.indices((4, 5, 6))
    expected = np.sqrt((z - 2.0) ** 2 + (y - 2.0) ** 2 + (x - 3.0) ** 2)
    np.testing.assert_allclose(filters.distance_from_centre((4, 5, 6)), expected)
    expected = np.sqrt((z - 0.5) ** 2 + (y + 1.0) ** 2 + x**2)
    np.testing.assert_allclose(filters.distance_from_centre((4, 5, 6), (0.5, -1, 0)), expected)


@pytest.mark.parametrize("shape, expected", [((10, 20, 40), 0.05), ((32, 32, 32), 1 / 64)])
def test_shells_are_as_wide_as_the_coarsest_step(shape, expected):
    assert filters.shell_width(shape, 2.0) == pytest.approx(expected)
