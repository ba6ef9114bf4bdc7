"""Radial spectra against slow definitions in float64 and closed forms."""

import numpy as np
import pytest
from scipy import fft

from deepemhancer_plugin.core.maps import filters, spectrum
from deepemhancer_plugin.core.noise import directions


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


def test_multiply_by_a_linear_gain_is_exact():
    shape, rate = (34, 8, 9), 1.2
    ones = np.ones((34, 8, 5), np.complex64)
    gain = 1 + 3 * np.arange(30) * filters.shell_width(shape, rate)
    filters.apply_gain(ones, gain, shape, rate)
    np.testing.assert_allclose(ones.real, 1 + 3 * frequencies(shape, rate)[..., :5], rtol=1e-5)


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
    """Noise whose amplitude falls by a factor of fifty, with blobs so that it is no Gaussian field."""
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
    """By the definition, on the full transform: 1 up to `cut`, 0 from (1 + width) cut on, half a cosine in between."""
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


def test_low_passed_is_its_definition(protein_like):
    for end in (0.2, 0.35, 0.6):
        wanted = low_pass(protein_like, 1.3, 0.6 * end, 2 / 3)
        np.testing.assert_allclose(
            filters.low_pass(protein_like, 1.3, 0.6 * end, end), wanted, atol=1e-5 * wanted.max()
        )


def test_an_empty_map_has_no_band_limit():
    assert spectrum.find_low_pass(np.zeros((32, 32, 32), np.float32), 1.0) is None


# ------------------------------------------------------------------------------------------------------------- directions of the noise


def noise_of(power, shape, seed=0):
    """White noise (z, y, x) with `power` of the unit vectors (3, ...) of k in each direction."""
    kz, ky, kx = np.meshgrid(
        np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]), indexing="ij"
    )
    k = np.stack([kz, ky, kx])
    values = np.fft.rfftn(np.random.default_rng(seed).standard_normal(shape)) * np.sqrt(
        power(k / np.maximum(np.linalg.norm(k, axis=0), 1e-9))
    )
    return np.fft.irfftn(values, s=shape).astype(np.float32)


DIRECTIONS = np.random.default_rng(5).normal(size=(3, 300))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=0)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 0, 1), (0.6, 0, 0.8), (2 / 3, -1 / 3, 2 / 3)])
@pytest.mark.parametrize("shape, rate", [((48, 48, 48), 1.0), ((40, 64, 52), 1.3)])
def test_sampling_finds_the_views_that_made_the_noise(axis, shape, rate):
    views = lambda along: 1.02 - 0.8 * np.tensordot(axis, along, 1) ** 2  # noqa: E731
    coefficients, ratio = directions.measure_sampling(
        noise_of(lambda along: 1 / views(along), shape), rate
    )
    found, expected = coefficients @ spectrum._quartic(DIRECTIONS), views(DIRECTIONS)
    np.testing.assert_allclose(found / found.mean(), expected / expected.mean(), atol=0.1)
    assert ratio == pytest.approx(1.02 / 0.22, rel=0.3)


def test_evened_noise_is_the_same_in_all_directions_and_as_strong():
    noise = noise_of(lambda along: 1 / (1.02 - 0.9 * along[1] ** 2), (56, 56, 56))
    coefficients, before = directions.measure_sampling(noise)
    even = directions.whiten_directions(noise + 3, coefficients, np.zeros(29))
    assert before > 5 and directions.measure_sampling(even)[1] < 1.2
    assert even.mean() == pytest.approx(3, abs=1e-3)
    ours, theirs = (spectrum.power(fft.rfftn(v), v.shape)[3:28] for v in (even, noise))
    np.testing.assert_allclose(ours, theirs, rtol=0.1)


def test_even_noise_stays_as_it_is():
    noise = noise_of(lambda along: np.ones(along.shape[1:]), (56, 56, 56))
    coefficients, ratio = directions.measure_sampling(noise)
    assert ratio < 1.2
    np.testing.assert_allclose(
        directions.whiten_directions(noise, directions.EVEN_SAMPLING, np.zeros(29)),
        noise,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        directions.whiten_directions(noise, coefficients, np.zeros(29)),
        noise,
        atol=0.3 * noise.std(),
    )


def test_strong_signal_is_not_filtered():
    noise = noise_of(lambda along: 1 / (1.02 - 0.9 * along[1] ** 2), (56, 56, 56))
    strong = np.repeat([1.0, 0.0], [20, 9])  # the FSC, in the shells' order
    spectra = [
        fft.rfftn(v)
        for v in (
            noise,
            directions.whiten_directions(noise, directions.measure_sampling(noise)[0], strong),
        )
    ]
    shell = np.floor(frequencies((56, 56, 56), 1.0)[..., :29] * 56 + 0.5)
    np.testing.assert_allclose(
        spectra[1][shell < 17],
        spectra[0][shell < 17],
        rtol=0.02,
        atol=0.02 * np.abs(spectra[0]).mean(),
    )
    assert np.abs(spectra[1] / spectra[0])[(shell > 22) & (shell < 28)].std() > 0.2


def test_imposed_symmetry_is_no_lack_of_views():
    noise = np.random.default_rng(3).standard_normal((57, 57, 57)).astype(np.float32)
    assert directions.measure_sampling(sum(np.rot90(noise, i, (1, 2)) for i in range(4)))[1] < 1.3


@pytest.mark.parametrize("rise", [5, 12])
def test_layer_lines_are_no_lack_of_views(rise):
    """As white noise averaged over translations along z has them."""
    noise = np.random.default_rng(3).standard_normal((60, 60, 60))
    assert directions.measure_sampling(
        sum(np.roll(noise, i, 0) for i in range(0, 60, rise)).astype(np.float32)
    ) == (pytest.approx(directions.EVEN_SAMPLING), 1)


@pytest.mark.parametrize(
    "difference", [np.random.default_rng(0).standard_normal((12, 13, 14)), np.zeros((48, 48, 48))]
)
def test_too_little_noise_to_tell_directions(difference):
    coefficients, ratio = directions.measure_sampling(difference.astype(np.float32))
    assert ratio == 1 and coefficients @ spectrum._quartic(DIRECTIONS) == pytest.approx(1)
