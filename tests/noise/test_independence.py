"""Halves that are not two independent halves of one data set."""

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.maps.filters import low_pass
from deepemhancer_plugin.core.noise.independence import find_dependence, match_scale

SIZE = 64


def halves(signal=40.0, noise=0.3, blur=1.2, seed=0):
    """A blob of 300 atoms in two noises."""
    rng = np.random.default_rng(seed)
    atoms = np.zeros((SIZE,) * 3, np.float32)
    atoms[tuple(rng.integers(22, 42, (3, 300)))] = 1
    density = ndimage.gaussian_filter(atoms, blur) * signal
    return tuple(
        (density + noise * rng.standard_normal(density.shape)).astype(np.float32) for _ in "12"
    )


def sphere(radius):
    axis = (np.arange(SIZE) - SIZE // 2) / (SIZE / 2)
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < radius**2


@pytest.mark.parametrize("signal", [0, 5, 40, 400])
@pytest.mark.parametrize("blur", [0.6, 1.2, 3])
def test_independent_halves(signal, blur):
    assert find_dependence(*halves(signal, blur=blur)) is None


@pytest.mark.parametrize("radius", [1.0, 0.9, 0.5, 0.35])
def test_independent_halves_in_a_mask(radius):
    """With next to no solvent and signal up to Nyquist, too."""
    for blur in (0.5, 1.2):
        one, two = (half * sphere(radius) for half in halves(60, blur=blur))
        assert find_dependence(one, two) is None


@pytest.mark.parametrize("cut", [3.0, 6.0])
def test_independent_halves_that_were_low_passed_alike(cut):
    one, two = (low_pass(half, 1.2, 1 / cut, 1.1 / cut) for half in halves())
    assert find_dependence(one, two) is None


DEPENDENT = {
    "full map": lambda one, two: (one + two) / 2,
    "copy": lambda one, two: one * np.float32(1.001),
    "rounded": lambda one, two: one.astype(np.float16).astype(np.float32),
    "blurred": lambda one, two: ndimage.gaussian_filter(one, 0.7),
    "smoothed": lambda one, two: ndimage.gaussian_filter(one, 2),
    "low-passed": lambda one, two: low_pass(one, 1.2, 1 / 6, 1.1 / 6),
    "other half sharpened": lambda one, two: two - 0.9 * ndimage.gaussian_filter(two, 1),
    "other half blurred": lambda one, two: ndimage.gaussian_filter(two, 0.8),
}


@pytest.mark.parametrize("kind", DEPENDENT)
@pytest.mark.parametrize("signal", [5, 40, 400])
def test_dependent_halves(kind, signal):
    one, two = halves(signal)
    assert find_dependence(one, DEPENDENT[kind](one, two))


@pytest.mark.parametrize("factor", [1.0, 0.8, 1.4])
def test_halves_of_about_one_scale_stay(factor):
    one, two = halves()
    assert match_scale(one, two * np.float32(factor)) is None


@pytest.mark.parametrize(("factor", "level"), [(5, 0), (0.01, 0), (1, 3), (5, -100)])
def test_another_scale_or_level_is_brought_back(factor, level):
    one, two = halves()
    change = match_scale(one, np.float32(factor) * two + np.float32(level))
    assert change is not None
    back = change[0] * (factor * two + level) + change[1]
    np.testing.assert_allclose(back, two, atol=0.02)


def test_independent_noise_in_small_boxes_is_no_copy():
    rng = np.random.default_rng(0)
    for shape in ((3, 4, 5), (2, 2, 2), (9, 30, 12)):
        one, two = rng.standard_normal((2, *shape)).astype(np.float32)
        assert find_dependence(one, two) is None
