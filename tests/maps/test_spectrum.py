"""Radial spectra against slow definitions in float64 and closed forms."""

import numpy as np
import pytest
from scipy import fft

from deepemhancer_plugin.core.maps import filters, spectrum
from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.halves import simulate_halves
from deepemhancer_plugin.core.simulation.molecule import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein


def frequencies(shape, rate):
    return np.sqrt(
        sum(g**2 for g in np.meshgrid(*(np.fft.fftfreq(n, rate) for n in shape), indexing="ij"))
    )


def slow_fsc(a, b, rate):
    """By the definition, on the full transform, shell after shell."""
    a, b = np.fft.fftn(a.astype(np.float64)), np.fft.fftn(b.astype(np.float64))
    width = 1 / (min(a.shape) * rate)
    shell = np.floor(frequencies(a.shape, rate) / width + 0.5)
    curve = [1.0]
    for i in range(1, min(a.shape) // 2 + 1):
        x, y = a[shell == i], b[shell == i]
        curve.append(
            (x * y.conj()).sum().real / np.sqrt((np.abs(x) ** 2).sum() * (np.abs(y) ** 2).sum())
        )
    return np.arange(len(curve)) * width, np.array(curve)


@pytest.mark.parametrize(
    "shape", [(16, 16, 16), (15, 15, 15), (24, 8, 40), (30, 10, 10)]
)  # no coefficient between two shells
@pytest.mark.parametrize("rate", [1.0, 0.83, 1.3])
def test_fsc_is_its_definition(shape, rate):
    rng = np.random.default_rng(1)
    a = rng.standard_normal(shape).astype(np.float32)
    b = (a + rng.standard_normal(shape)).astype(np.float32)
    for got, expected in zip(spectrum.fsc(a, b, rate), slow_fsc(a, b, rate), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("edge", range(8, 65, 4))
def test_fsc_reaches_nyquist_whatever_the_sampling_rate(edge):
    """0.5 / rate / width is a hair under a whole number for some sampling rates."""
    volume = np.random.default_rng(0).standard_normal((edge,) * 3).astype(np.float32)
    for rate in (0.65, 0.83, 1.07, 1.1, 1.31):
        frequency, curve = spectrum.fsc(volume, volume, rate)
        assert frequency[-1] == pytest.approx(0.5 / rate) and len(curve) == edge // 2 + 1


def test_fsc_ignores_scale_and_sees_the_sign():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((12, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(spectrum.fsc(a, 1e-6 * a)[1], 1, atol=1e-5)
    np.testing.assert_allclose(spectrum.fsc(a, -3 * a)[1][1:], -1, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16, 16), (9, 15, 11), (42, 6, 18)])
def test_power_obeys_parseval(shape):
    """Shell means times shell sizes make the volume's sum of squares."""
    volume = np.random.default_rng(3).standard_normal(shape)
    mean = spectrum.power(fft.rfftn(volume), shape)
    size = np.bincount(
        np.floor(frequencies(shape, 1.0) * min(shape) + 0.5).astype(int).ravel(),
        minlength=len(mean),
    )
    assert (mean * size).sum() / volume.size == pytest.approx((volume**2).sum(), rel=1e-5)


@pytest.mark.parametrize("shape", [(36, 8, 8), (7, 12, 9)])
def test_radial_mean_of_a_radial_function(shape):
    k = frequencies(shape, 1.4)[..., : shape[2] // 2 + 1]
    width = filters.shell_width(shape, 1.4)
    got = spectrum.radial_mean(np.floor(k / width + 0.5), shape, 1.4)
    np.testing.assert_allclose(got, np.arange(len(got)), rtol=1e-6)


def test_resolution_interpolates_linearly():
    frequency = np.arange(11) * 0.05
    assert spectrum.resolution(frequency, 1 - 2 * frequency, 0.333) == pytest.approx(1 / 0.3335)
    assert spectrum.resolution(frequency, 1 - 2 * frequency, 0.5) == pytest.approx(4.0)


def test_resolution_is_the_first_crossing_or_nyquist():
    frequency = np.arange(6) * 0.1
    assert spectrum.resolution(frequency, np.array([1, 1, 0, 1, 1, 1.0]), 0.5) == pytest.approx(
        1 / 0.15
    )
    assert spectrum.resolution(frequency, np.ones(6), 0.5) == pytest.approx(2.0)
    assert (
        spectrum.resolution(frequency, np.array([1, -1, -1, -1, -1, -1.0]), 0.99) <= 2 / 0.1
    )  # not beyond all bounds


@pytest.fixture(scope="module")
def coloured():
    """Noise with blobs, so that it is no Gaussian field; its amplitude falls by fifty."""
    volume = np.random.default_rng(4).standard_normal((40, 36, 44)) ** 3
    return filtered(volume, 60.0)


def filtered(volume, b_factor):
    k = frequencies(volume.shape, 1.0)
    return np.fft.ifftn(np.fft.fftn(volume) * np.exp(-b_factor / 4 * k**2)).real.astype(np.float32)


def test_flattened_amplitudes_are_flat(coloured):
    amplitude = np.sqrt(
        spectrum.power(fft.rfftn(spectrum.flatten_and_scale(coloured, 1)), coloured.shape)
    )[2:19]
    before = np.sqrt(spectrum.power(fft.rfftn(coloured), coloured.shape))[2:19]
    assert before.max() / before.min() > 20
    assert amplitude.max() / amplitude.min() < 1.15


def test_lowest_frequencies_of_a_long_box_are_not_raised():
    """They lie between shell 0, whose only other coefficient is the mean, and shell 1."""
    volume = np.random.default_rng(6).standard_normal((24, 28, 44)).astype(np.float32)
    amplitude = np.abs(np.fft.rfftn(spectrum.flatten_and_scale(volume, 1)) / np.fft.rfftn(volume))
    assert amplitude[0, 0, 1] == pytest.approx(amplitude[8, 8, 8], rel=0.5)


def test_flattened_has_its_own_scale_and_no_mean(coloured):
    result = spectrum.flatten_and_scale(coloured + 5, 1).astype(np.float64)
    assert (result**4).mean() / (result**2).mean() == pytest.approx(1, rel=1e-4)
    assert abs(result.mean()) < 1e-5


@pytest.mark.parametrize("scale", [1e-12, 1e-3, -1.0, 1e9])
def test_flattened_forgets_the_unit(coloured, scale):
    expected = np.sign(scale) * spectrum.flatten_and_scale(coloured, 1)
    np.testing.assert_allclose(
        spectrum.flatten_and_scale(coloured * np.float32(scale), 1),
        expected,
        atol=2e-4 * np.abs(expected).max(),
    )


@pytest.mark.parametrize("b_factor", [-25.0, -10.0, 25.0])
def test_flattened_forgets_a_b_factor(b_factor):
    volume = np.random.default_rng(5).standard_normal((40, 36, 44)) ** 3
    a, b = (
        spectrum.flatten_and_scale(volume.astype(np.float32), 1),
        spectrum.flatten_and_scale(filtered(volume, b_factor), 1),
    )
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.998
    assert b.std() == pytest.approx(a.std(), rel=0.02)


def test_flattened_leaves_an_empty_map_empty():
    assert not spectrum.flatten_and_scale(np.zeros((8, 9, 10), np.float32), 1).any()


def test_gain_is_the_inverse_amplitude_up_to_its_limit():
    amplitude = np.array(
        [1e5, 4.0, 2.0, 1.0, 0.1, 1e-6]
    )  # the first shells, coarser than 20 A, are no measure of the strongest
    gain = spectrum.flattening_gain(amplitude**2, 0.05)
    np.testing.assert_allclose((gain * amplitude)[1:4], 1, rtol=0.02)
    assert gain[-1] == pytest.approx(spectrum.LARGEST_GAIN / 4.0, rel=1e-3) and gain[
        0
    ] == pytest.approx(1e-5)


def low_pass(volume, rate, cut, width):
    """By the definition, on the full transform.

    1 up to `cut`, 0 from (1 + width) cut on, half a cosine in between.
    """
    k = frequencies(volume.shape, rate)
    gain = 0.5 + 0.5 * np.cos(np.pi * np.clip((k / cut - 1) / max(width, 1e-9), 0, 1))
    return fft.ifftn(fft.fftn(volume) * gain).real.astype(np.float32)


@pytest.fixture(scope="module", params=[(72, 72, 72), (90, 64, 77)])
def protein_like(request):
    """A ball of signal in noise, 1.3 A/voxel, both with B = 150 A^2."""
    rng, shape = np.random.default_rng(3), request.param
    k = frequencies(shape, 1.3)
    ball = (
        sum(
            ((np.arange(n) - n / 2) ** 2).reshape([-1 if a == b else 1 for b in range(3)])
            for a, n in enumerate(shape)
        )
        < (min(shape) / 4) ** 2
    )
    signal, noise = (
        fft.ifftn(fft.fftn(rng.standard_normal(shape) * where) * np.exp(-150 / 4 * k**2)).real
        for where in (ball, 0.1)
    )
    return (signal + noise).astype(np.float32)


@pytest.mark.parametrize("cut", [4.0, 5.0, 8.0])
@pytest.mark.parametrize("width", [0.0, 0.1])
@pytest.mark.parametrize("half", [False, True])
def test_a_low_pass_is_found_and_nothing_else(protein_like, cut, width, half):
    assert spectrum.find_low_pass(protein_like, 1.3) is None
    filtered = low_pass(protein_like, 1.3, 1 / cut, width)
    if half:
        filtered = filtered.astype(np.float16).astype(np.float32)
    assert cut <= 1 / spectrum.find_low_pass(700 * filtered + 50, 1.3) < 1.25 * cut


def test_a_low_pass_is_seen_through_a_sphere_and_not_through_a_mask(protein_like):
    filtered = low_pass(protein_like, 1.3, 1 / 5.0, 0.1)
    radius = np.sqrt(
        sum(
            ((np.arange(n) - n / 2) ** 2).reshape([-1 if a == b else 1 for b in range(3)])
            for a, n in enumerate(filtered.shape)
        )
    )
    sphere = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - min(filtered.shape) / 2 + 4) / 3.5, 0, 1))
    assert 5 <= 1 / spectrum.find_low_pass((filtered * sphere).astype(np.float32), 1.3) < 6.25
    assert spectrum.find_low_pass(filtered * (radius < min(filtered.shape) / 4), 1.3) is None


def test_an_empty_map_has_no_band_limit():
    assert spectrum.find_low_pass(np.zeros((32, 32, 32), np.float32), 1.0) is None


FILTERS = {
    "hard": lambda k, cut, width: k <= cut,
    "RELION": lambda k, cut, width: filters.raised_cosine(k, cut - width, cut + width),
    "cosine": lambda k, cut, width: filters.raised_cosine(k, cut, 1.1 * cut),
    "Butterworth": lambda k, cut, width: 1 / np.sqrt(1 + (k / cut) ** 32),
}


@pytest.fixture(scope="module")
def protein():
    """A protein that no threshold was set on."""
    return from_structure(build_protein(4))


def halves_of(protein, b_factor, rate=1.0, resolution=4.0, box=96, sphere=True):
    """Half maps whose signal and noise are blurred alike."""
    conditions = Conditions(
        resolution=resolution,
        b_factor=b_factor,
        sampling_rate=rate,
        box=box,
        disorder=0,
        pose_error=0,
        angle_error=0,
        sphere=sphere,
        random_pose=False,
    )
    simulated = simulate_halves(protein, conditions, 0)
    return simulated.half1, simulated.half2


def filtered_by(name, volume, rate, cut):
    k = filters.frequencies(volume.shape, rate)
    gain = FILTERS[name](k, 1 / cut, filters.shell_width(volume.shape, rate))
    return fft.irfftn(fft.rfftn(volume) * gain, s=volume.shape).astype(np.float32)


@pytest.mark.parametrize("rate, box", [(0.7, 104), (1.0, 96), (1.5, 64)])
@pytest.mark.parametrize("b_factor", [0, 100, 200, 300, 400, 500])
def test_blur_is_no_low_pass(protein, rate, box, b_factor):
    halves = halves_of(protein, b_factor, rate, box=box)
    assert spectrum.find_low_pass((halves[0] + halves[1]) / 2, rate) is None
    assert spectrum.find_low_pass(halves[0], rate) is None
    assert spectrum.find_low_pass_of_halves(*halves, rate) is None


@pytest.mark.parametrize("b_factor", [300, 600, 1000])
def test_a_gaussian_filter_is_a_blur(protein, b_factor):
    """On white noise too, which has no detail of its own."""
    volume = sum(halves_of(protein, 0))
    noise = np.random.default_rng(0).standard_normal((64, 64, 64)).astype(np.float32)
    for plain in (volume, noise):
        assert spectrum.find_low_pass(filters.apply_b_factor(plain, 1.0, b_factor), 1.0) is None


@pytest.mark.parametrize("name", ["hard", "RELION", "cosine"])
@pytest.mark.parametrize("cut", [4.0, 6.0, 9.0, 12.0])
@pytest.mark.parametrize("b_factor", [0, 100, 300])
def test_filters_are_found_in_maps_and_halves(protein, name, cut, b_factor):
    halves = [filtered_by(name, half, 1.0, cut) for half in halves_of(protein, b_factor)]
    for end in (
        spectrum.find_low_pass((halves[0] + halves[1]) / 2, 1.0),
        spectrum.find_low_pass_of_halves(*halves, 1.0),
    ):
        assert 0.9 * cut < 1 / end < 1.35 * cut


@pytest.mark.parametrize("cut", [4.0, 6.0, 9.0, 12.0])
def test_a_steep_butterworth_filter_is_found(protein, cut):
    volume = filtered_by("Butterworth", sum(halves_of(protein, 60)), 1.0, cut)
    assert 0.8 * cut < 1 / spectrum.find_low_pass(volume, 1.0) < 1.35 * cut


def test_halves_that_agree_beyond_an_edge_were_not_filtered(protein):
    """Signal of a millionth of the power, which a map alone cannot tell from rounding."""
    halves = halves_of(protein, 0, resolution=2.5)
    coarse = [filtered_by("hard", half, 1.0, 6.0) for half in halves]
    weak = [h - c for h, c in zip(halves, coarse, strict=True)]
    halves = [c + np.float32(1e-3) * w for c, w in zip(coarse, weak, strict=True)]
    assert 1 / spectrum.find_low_pass((halves[0] + halves[1]) / 2, 1.0) > 5.5
    assert spectrum.find_low_pass_of_halves(*halves, 1.0) is None


def test_a_sphere_after_the_filter_does_not_hide_it_in_halves(protein):
    halves = [filtered_by("RELION", half, 1.0, 8.0) for half in halves_of(protein, 80)]
    sphere = filters.raised_cosine(filters.distance_from_centre((96, 96, 96)), 42, 46)
    halves = [(half * sphere).astype(np.float32) for half in halves]
    assert 7 < 1 / spectrum.find_low_pass_of_halves(*halves, 1.0) < 10


@pytest.mark.parametrize("b_factor", [-50.0, 0.0, 120.0])
def test_b_factor_of_a_straight_line(b_factor):
    square = np.linspace(0, 0.2, 60)
    line = 3 - b_factor / 4 * square
    assert spectrum.fit_b_factor(square, line, 3.0) == pytest.approx(b_factor, abs=1e-9)
    line[square < 0.01] = 100  # coarser than 10 A
    assert spectrum.fit_b_factor(square, line, 3.0) == pytest.approx(b_factor, abs=1e-9)
    assert spectrum.fit_b_factor(square[:4], line[:4], 3.0) is None
