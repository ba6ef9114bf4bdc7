"""Noise that differs from direction to direction: measured and made even."""

import numpy as np
import pytest
from scipy import fft

from deepemhancer_plugin.core.maps import filters, spectrum
from deepemhancer_plugin.core.noise import directions


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
    found, expected = coefficients @ directions._quartic(DIRECTIONS), views(DIRECTIONS)
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
    shell = np.floor(filters.frequencies((56, 56, 56)) * 56 + 0.5)
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
    assert ratio == 1 and coefficients @ directions._quartic(DIRECTIONS) == pytest.approx(1)
