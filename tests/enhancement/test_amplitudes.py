"""Restored amplitudes and blended data: the tables, and a map whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import fft, ndimage
from scipy.stats import norm

from deepemhancer_plugin.core.enhancement.amplitudes import (
    BLEND_WITH_MEAN,
    BLEND_WITH_MEDIAN,
    EXPECTED,
    FREQUENCIES,
    GAINS,
    RATIOS,
    blend_data,
    compare_amplitudes,
    finish_map,
    measure_uncertainty,
    restore_amplitudes,
    sees_molecule,
)
from deepemhancer_plugin.core.maps import filters, spectrum
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein


@pytest.fixture(scope="module")
def truth():
    """The map of an atomic model that the tables were not made from."""
    made = simulate_halves(
        from_structure(build_protein(2)), Conditions(resolution=3.0, margin=14.0), 1
    )
    return np.maximum(made.model, 0) / np.percentile(made.model[made.mask > 0.5], 95)


def filtered(volume, gain):
    """Through a radial gain, a function of the frequency in 1/A."""
    z, y, x = (
        f(n) for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), volume.shape, strict=True)
    )
    k = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    return fft.irfftn(fft.rfftn(volume) * gain(k), s=volume.shape).astype(np.float32)


def test_amplitudes_of_a_molecule_are_the_expected_ones(truth):
    amplitude = np.sqrt(spectrum.power(fft.rfftn(truth), truth.shape))
    k = np.arange(len(amplitude)) * filters.shell_width(truth.shape, 1.0)
    level = np.sqrt(np.mean(amplitude[(k > 1 / 15) & (k < 1 / 8)] ** 2))
    ratio = np.interp(FREQUENCIES[:-1], k, amplitude / level) / EXPECTED[:-1]
    assert 0.75 < ratio.min() and ratio.max() < 1.3


def test_a_gain_never_lowers_what_has_not_vanished():
    assert np.all(np.diff(RATIOS) > 0) and GAINS[-1] == 1 and np.all(GAINS[RATIOS >= 0.01] >= 1)
    assert np.all(
        np.diff((RATIOS * GAINS)[RATIOS >= 0.01]) > 0
    )  # what compare_amplitudes more stays less


def test_faded_detail_is_raised(truth):
    faint = np.maximum(filtered(truth, lambda k: np.exp(-40 / 4 * k**2)), 0)
    result, _ = restore_amplitudes(faint)
    assert (
        np.corrcoef(result.ravel(), truth.ravel())[0, 1]
        > np.corrcoef(faint.ravel(), truth.ravel())[0, 1] + 0.01
    )
    _, ratio = compare_amplitudes(fft.rfftn(faint), faint.shape)
    assert ratio[0] == 1 and np.all(np.diff(ratio) <= 0) and ratio[-1] < 0.5


def test_what_is_empty_stays_empty_and_nothing_is_negative(truth):
    result, _ = restore_amplitudes(truth)
    assert (
        result.dtype == np.float32
        and result.min() >= 0
        and not result[truth <= 0.01].any()
        and (truth <= 0.01).mean() > 0.5
    )
    assert not restore_amplitudes(np.zeros((20, 24, 22), np.float32))[0].any()


def test_uncertain_is_what_has_faded_at_side_chains(truth):
    assert restore_amplitudes(truth)[1] < 0.2
    assert restore_amplitudes(filtered(truth, lambda k: 1 - 0.6 * (k > 0.15)))[1] == pytest.approx(
        0.6, abs=0.1
    )
    assert restore_amplitudes(filtered(truth, lambda k: k < 0.15))[1] == pytest.approx(1, abs=0.01)


def test_a_molecule_is_a_body_of_its_size(truth):
    assert sees_molecule(truth) and sees_molecule(np.float32(0.7) * truth)
    assert not sees_molecule(np.float32(0.29 / truth.max()) * truth)
    pieces = np.zeros_like(truth)  # as much density, nowhere together
    pieces[::2, ::2, ::2] = 1
    assert (
        np.count_nonzero(pieces) > 3000
        and not sees_molecule(pieces)
        and not sees_molecule(np.zeros_like(truth))
    )


def test_no_shell_between_15_and_8_angstrom_leaves_the_amplitudes():
    small = np.random.default_rng(0).random((6, 6, 6), dtype=np.float32) + 1
    result, uncertain = restore_amplitudes(small)
    np.testing.assert_allclose(result, small, rtol=1e-5)
    assert uncertain == 0


@pytest.fixture(scope="module")
def hole(truth):
    """Where a ball of 3 A radius is missing in the middle of the molecule."""
    inside = np.argwhere(ndimage.binary_erosion(truth > 0.1, iterations=2))[100]
    return np.sum((np.indices(truth.shape) - inside[:, None, None, None]) ** 2, axis=0) < 3**2


def test_the_data_come_back_where_the_network_saw_nothing(truth, hole):
    enhanced = np.where(hole, 0, truth)
    noise = np.random.default_rng(3).normal(0, 0.1, truth.shape).astype(np.float32)
    result = blend_data(enhanced.copy(), 0.0, 20 * (truth + noise), BLEND_WITH_MEDIAN)
    assert np.corrcoef(result[hole], truth[hole])[0, 1] > 0.5
    dense = enhanced > 0.1
    assert np.percentile((result - enhanced)[dense], 95) == pytest.approx(
        BLEND_WITH_MEDIAN.least * np.percentile(enhanced[dense], 95), rel=0.05
    )
    far = ndimage.distance_transform_edt(~dense) > 9  # A
    np.testing.assert_array_equal(result[far], enhanced[far])
    assert result.min() == 0 and result.dtype == np.float32


@pytest.mark.parametrize("share", (BLEND_WITH_MEDIAN, replace(BLEND_WITH_MEAN, least=0.1)))
@pytest.mark.parametrize("uncertain", (0.3, 0.7))
def test_more_of_the_data_where_the_output_is_weak_and_uncertain(truth, hole, uncertain, share):
    enhanced = np.where(hole, 0, truth)
    low = ndimage.gaussian_filter(truth, 2) + 1  # positive, so that nothing is cut off at 0
    certain, result = (
        blend_data(enhanced.copy(), u, low, share) - enhanced for u in (0.0, uncertain)
    )
    inside, more = (
        ndimage.binary_erosion(hole) & (certain > 0),
        share.more * uncertain**share.power / share.least,
    )
    np.testing.assert_allclose(result[inside] / certain[inside], 1 + more, rtol=1e-3)
    half = (np.abs(enhanced - share.weak / 2) < 0.01) & (certain > 0.005)
    assert half.sum() > 10 and np.median(result[half] / certain[half]) == pytest.approx(
        1 + more / 2, rel=0.02
    )
    strong = enhanced > share.weak
    np.testing.assert_allclose(result[strong], certain[strong], atol=1e-5)


def test_the_share_has_no_unit(truth):
    data = truth + np.random.default_rng(4).normal(0, 0.1, truth.shape).astype(np.float32)
    np.testing.assert_allclose(
        blend_data(truth.copy(), 0.5, 1000 * data, BLEND_WITH_MEDIAN),
        blend_data(truth.copy(), 0.5, data.copy(), BLEND_WITH_MEDIAN),
        atol=1e-4,
    )


@pytest.mark.parametrize("around", (3.0, 6.0))
def test_the_share_fades_as_a_gaussians_integral_from_the_body(around):
    body = np.zeros((96, 64, 64), np.float32)
    body[:40] = 0.2
    noise = np.random.default_rng(4).normal(size=body.shape).astype(np.float32)
    added = np.maximum(
        blend_data(body.copy(), 0.0, noise, replace(BLEND_WITH_MEDIAN, least=0.1, reach=around))
        - body,
        0,
    ).mean((1, 2))
    planes = np.arange(42, 50)
    np.testing.assert_allclose(
        added[planes] / added[5:20].mean(), 2 * norm.sf((planes - 39.5) / around) - 0.01, atol=0.03
    )


def test_no_body_no_data(truth):
    faint = np.float32(0.09 / truth.max()) * truth
    np.testing.assert_array_equal(
        blend_data(faint.copy(), 0.5, truth.copy(), BLEND_WITH_MEDIAN), faint
    )
    np.testing.assert_array_equal(
        blend_data(truth.copy(), 0.5, np.zeros_like(truth), BLEND_WITH_MEDIAN), truth
    )


def test_a_mean_keeps_its_amplitudes_and_a_median_is_raised(truth):
    faint = np.maximum(filtered(truth, lambda k: np.exp(-40 / 4 * k**2)), 0)
    data = truth + np.random.default_rng(5).normal(0, 0.1, truth.shape).astype(np.float32)
    uncertain = measure_uncertainty(*compare_amplitudes(fft.rfftn(faint), faint.shape))
    kept = np.where(faint > 0.01, faint, 0)
    np.testing.assert_allclose(
        finish_map(faint.copy(), data, False),
        blend_data(kept.copy(), uncertain, data, BLEND_WITH_MEAN),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        finish_map(faint.copy(), data, True),
        blend_data(*restore_amplitudes(faint), data, BLEND_WITH_MEDIAN),
        atol=1e-5,
    )
    certain = finish_map(
        truth.copy(), data, False
    )  # nothing but what is weak gets any of the data, and little of that
    strong = truth > BLEND_WITH_MEAN.weak
    np.testing.assert_array_equal(certain[strong], truth[strong])
