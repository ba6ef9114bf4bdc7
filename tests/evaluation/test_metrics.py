"""Map-model metrics against closed forms."""

import numpy as np
import pytest

from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.evaluation.metrics import cc_peaks, fsc_average


@pytest.fixture(scope="module")
def white():
    return np.random.default_rng(0).standard_normal((40, 44, 48)).astype(np.float32)


def noise(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rate", [1.0, 0.83, 1.5])
def test_identical_maps_agree_to_nyquist(white, rate):
    scores = score(white, white, np.ones_like(white), rate)
    assert scores.fsc_masked == pytest.approx(2 * rate) and scores.fsc_unmasked == pytest.approx(
        2 * rate
    )
    assert scores.cc_mask == pytest.approx(1) and scores.cc_box == pytest.approx(1)


def test_scale_and_offset_do_not_matter_and_the_sign_does(white):
    same, inverse = (score(s * white + 7, white, np.ones_like(white), 1.0) for s in (1e-4, -2.0))
    assert same.cc_box == pytest.approx(1, abs=1e-3) and inverse.cc_box == pytest.approx(-1)
    assert inverse.fsc_unmasked > 20


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_correlation_with_white_noise_added(white, sigma):
    """1 / sqrt(1 + sigma^2); its scatter over 84,480 voxels is below 0.0035."""
    scores = score(white + sigma * noise(white.shape), white, np.ones_like(white), 1.0)
    assert scores.cc_box == pytest.approx(1 / np.sqrt(1 + sigma**2), abs=0.012)
    assert scores.cc_mask == pytest.approx(scores.cc_box)


@pytest.mark.parametrize(("resolution", "rate"), [(4.0, 1.0), (7.0, 1.5)])
def test_resolution_with_noise_that_grows_with_frequency(white, resolution, rate):
    """Noise of power 3 (k / k0)^4 and unit signal: FSC = 1 / sqrt(1 + 3 (k / k0)^4), 0.5 at k0."""
    shape = white.shape
    square = sum(
        g**2
        for g in np.meshgrid(
            *(np.fft.fftfreq(n, rate) for n in shape[:2]),
            np.fft.rfftfreq(shape[2], rate),
            indexing="ij",
        )
    )
    coloured = np.fft.irfftn(
        np.fft.rfftn(noise(shape)) * np.sqrt(3) * square * resolution**2, s=shape
    )
    assert score(white + coloured, white, np.ones_like(white), rate).fsc_unmasked == pytest.approx(
        resolution, rel=0.06
    )


def test_mask_keeps_out_what_is_outside(white):
    mask = np.zeros_like(white)
    mask[:20] = 1
    spoiled = white.copy()
    spoiled[20:] = 10 * noise(white[20:].shape)
    scores = score(spoiled, white, mask, 1.0)
    assert scores.cc_mask == pytest.approx(1) and scores.fsc_masked == pytest.approx(2.0)
    assert abs(scores.cc_box) < 0.1 and scores.fsc_unmasked > 10


def test_nothing_correlates_with_an_empty_map(white):
    scores = score(np.zeros_like(white), white, np.ones_like(white), 1.0)
    assert scores.cc_box == 0 and scores.cc_mask == 0 and scores.fsc_unmasked > 20


@pytest.mark.parametrize(("rate", "edge"), [(1.0, 6.0), (0.8, 8.0)])
def test_soft_mask_of_a_ball(rate, edge):
    """1 in the ball and `distance` beyond its 5 A surface, then half a cosine `edge` wide."""
    n = 80
    axis = (np.arange(n) - n // 2) * rate
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    mask = soft_mask(np.exp(-(radius**2) / (2 * 4.0**2)).astype(np.float32), rate, 3.0, edge)
    assert mask.dtype == np.float32 and mask.min() == 0 and mask.max() == 1
    along, profile = axis[n // 2 :], mask[n // 2, n // 2, n // 2 :]
    assert (np.diff(profile) <= 0).all()
    end = np.interp(-0.5, -profile, along)  # half way down the edge
    inner, outer = along[profile > 0.9999].max(), along[profile < 0.0001].min()
    assert outer - inner == pytest.approx(edge, abs=2.1 * rate) and end == pytest.approx(
        (inner + outer) / 2, abs=rate
    )
    surface = inner - 3.0
    # The low-pass exp(-25 k^2) adds 25 / (2 pi^2) A^2 to the variance; a tenth of the maximum,
    # nearly, lies at sqrt(2 ln 10) sigma.
    assert surface == pytest.approx(np.sqrt(2 * np.log(10) * (16 + 25 / (2 * np.pi**2))), abs=1.2)
    np.testing.assert_allclose(mask, mask.transpose(2, 0, 1))  # as round as the ball
    in_between = (profile > 0.01) & (profile < 0.99)
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip((along - end) / edge + 0.5, 0, 1))
    np.testing.assert_allclose(profile[in_between], expected[in_between], atol=0.06)


def test_soft_mask_grows_by_the_distance():
    model = np.zeros((48, 48, 48), np.float32)
    model[20:28, 20:28, 20:28] = 1
    near, far = (np.flatnonzero(soft_mask(model, 1.0, d, 4.0)[24, 24] == 1) for d in (1.0, 5.0))
    assert near[0] - far[0] == 4 and far[-1] - near[-1] == 4


def test_peaks_are_the_highest_voxels_of_either_map(white):
    volume = white + noise(white.shape)
    mask = np.zeros_like(white)
    mask.ravel()[:3000] = 1
    taken = sorted(set(np.argsort(volume.ravel())[-3000:]) | set(np.argsort(white.ravel())[-3000:]))
    expected = np.corrcoef(volume.ravel()[taken], white.ravel()[taken])[0, 1]
    assert cc_peaks(volume, white, mask) == pytest.approx(expected, abs=1e-9)
    assert cc_peaks(volume, white, np.ones_like(white)) == pytest.approx(
        score(volume, white, mask, 1.0).cc_box, abs=1e-9
    )


def test_density_that_the_model_lacks_lowers_the_peaks_and_not_the_mask(white):
    volume, mask = white.copy(), np.zeros_like(white)
    mask[:10] = 1
    volume[30:] += 10
    assert (
        score(volume, white, mask, 1.0).cc_mask == pytest.approx(1)
        and cc_peaks(volume, white, mask) < 0.1
    )


@pytest.mark.parametrize("shape", [(40, 40, 40), (30, 48, 40)])
def test_average_weighs_shells_by_their_coefficients(shape):
    """Coefficients counted one by one: the shells' volumes are their numbers within 1 %."""
    k = np.sqrt(sum(g**2 for g in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")))
    counts = np.bincount(np.floor(k * min(shape) + 0.5).astype(int).ravel())
    frequency = np.arange(min(shape) // 2 + 1) / min(shape)
    curve = 1 - 1.9 * frequency + 0.2 * np.sin(40 * frequency)
    n = int(0.3 * min(shape)) + 1
    assert fsc_average(frequency, curve, 0.3) == pytest.approx(
        np.average(curve[1:n], weights=counts[1:n]), abs=0.01
    )
    assert fsc_average(frequency, np.full_like(curve, 0.7), 0.5) == pytest.approx(0.7)


def test_average_of_a_straight_line_is_its_integral():
    """FSC = 1 - k / k0 up to k0: 3 times the integral of x^2 (1 - x) from 0 to 1, a quarter."""
    frequency = np.arange(201) / 400
    assert fsc_average(frequency, 1 - 2 * frequency, 0.5) == pytest.approx(0.25, abs=0.005)
