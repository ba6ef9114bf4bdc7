"""Guinier curve and B factor against closed forms."""

import numpy as np
import pytest

from deepemhancer_plugin.core.evaluation.profile import amplitude_profile
from deepemhancer_plugin.core.maps.resampling import resample
from deepemhancer_plugin.core.maps.spectrum import fit_b_factor


def blob(shape, rate, sigma):
    grid = np.meshgrid(*((np.arange(n) - n // 2) * rate for n in shape), indexing="ij")
    return np.exp(-sum(g**2 for g in grid) / (2 * sigma**2))


@pytest.mark.parametrize(("shape", "rate"), [((48, 48, 48), 1.0), ((40, 54, 45), 0.9)])
@pytest.mark.parametrize("sigma", [0.9, 1.3])
def test_gaussian_blob_has_its_b_factor(shape, rate, sigma):
    """|F| = exp(-2 pi^2 sigma^2 / d^2), which is B = 8 pi^2 sigma^2: 64 and 133 A^2."""
    square, log_amplitude = amplitude_profile(blob(shape, rate, sigma), rate)
    assert fit_b_factor(square, log_amplitude, 3.0) == pytest.approx(
        8 * np.pi**2 * sigma**2, rel=0.01
    )
    expected = (
        np.log((2 * np.pi * sigma**2) ** 1.5 / (np.prod(shape) * rate**3))
        - 2 * np.pi**2 * sigma**2 * square
    )
    np.testing.assert_allclose(log_amplitude[1:12], expected[1:12], atol=0.05)


def test_white_noise_is_flat():
    """Its amplitudes are Rayleigh's: mean sqrt(pi / 4 N), whatever the shell."""
    volume = np.random.default_rng(0).standard_normal((40, 40, 40))
    square, log_amplitude = amplitude_profile(volume, 1.0)
    np.testing.assert_allclose(log_amplitude[5:], 0.5 * np.log(np.pi / 4 / volume.size), atol=0.06)
    assert abs(fit_b_factor(square, log_amplitude, 2.2)) < 3


def test_amplitudes_do_not_depend_on_the_sampling():
    volume = blob((40, 40, 40), 1.0, 1.8).astype(np.float32)
    for (square, one), (again, other) in [
        (amplitude_profile(volume, 1.0), amplitude_profile(resample(volume, (60, 60, 60)), 40 / 60))
    ]:
        np.testing.assert_allclose(square, again[: len(square)])
        np.testing.assert_allclose(one[:10], other[:10], atol=1e-3)


def test_sharpening_makes_it_negative_and_too_few_shells_make_none():
    square = np.arange(30) ** 2 / 60**2
    assert fit_b_factor(square, 0.5 + 20 * square, 3.0) == pytest.approx(-80)
    assert fit_b_factor(square, 0.5 + 20 * square, 8.0) is None
    assert fit_b_factor(square, 0.5 + 20 * square, 12.0) is None
