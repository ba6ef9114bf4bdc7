"""What is said of maps that were masked, sharpened or sampled coarsely."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps import appearance, mrc
from deepemhancer_plugin.core.maps.filters import frequencies

SIZE, RATE = 64, 1.25


def noise(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ball(radius, size=SIZE):
    """True within a radius, 1 at the faces of the box."""
    axis = (np.arange(size) - size // 2) / (size / 2)
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < radius**2


def particle(b_factor, noise_level=0.0, rate=RATE, seed=0):
    """Atoms in a ball, their amplitudes falling with a B factor (A^2), in white noise.

    The noise is given relative to the map's deviation.
    """
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(SIZE,) * 3) * ball(0.55)
    frequency = [np.fft.fftfreq(SIZE, rate)] * 3
    square = sum(f**2 for f in np.meshgrid(*frequency, indexing="ij"))
    volume = np.fft.ifftn(np.fft.fftn(atoms) * np.exp(-b_factor / 4 * square)).real
    return (volume / volume.std() + noise_level * rng.normal(size=volume.shape)).astype(np.float32)


def messages(data, rate=RATE):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        appearance.warn_if_processed(mrc.new_map(data, rate, path="some.mrc"))
    assert all(w.category is MapWarning and str(w.message).startswith("some.mrc: ") for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("radius", [2.0, 1.0, 0.95])
def test_reconstruction_sphere_is_normal(radius):
    assert messages(particle(100, 0.3) * ball(radius)) == []


@pytest.mark.parametrize(("radius", "outside"), [(0.7, 0.0), (0.5, 0.0), (0.5, -0.25)])
def test_tight_mask_is_warned_about(radius, outside):
    message, *others = messages(np.where(ball(radius), particle(100, 0.3), np.float32(outside)))
    assert "looks masked" in message and f"exactly {outside:g}" in message
    assert not others


def test_maps_of_integers_are_not_masked():
    assert messages(np.round(10 * particle(100, 0.3))) == []


@pytest.mark.parametrize("b_factor", [60, 100, 200])
@pytest.mark.parametrize("noise_level", [0.0, 0.1, 0.5])
def test_unsharpened_maps_are_not_warned_about(b_factor, noise_level):
    assert messages(particle(b_factor, noise_level)) == []


@pytest.mark.parametrize("b_factor", [0, -50])
@pytest.mark.parametrize("noise_level", [0.0, 0.3])
def test_sharpened_maps_are_warned_about(b_factor, noise_level):
    (message,) = messages(particle(b_factor, noise_level))
    assert "looks sharpened" in message


@pytest.mark.parametrize("b_factor", [-60, 0, 50, 150])
def test_b_factor_is_the_one_that_was_applied(b_factor):
    assert appearance._b_factor(particle(b_factor), RATE) == pytest.approx(b_factor, abs=12)


def test_b_factor_does_not_see_the_noise():
    assert appearance._b_factor(particle(150, 2), RATE) == pytest.approx(150, abs=30)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_b_factor_does_not_depend_on_the_size_of_the_voxels(scale):
    assert appearance._b_factor(particle(100) * np.float32(scale), RATE) == pytest.approx(
        appearance._b_factor(particle(100), RATE), rel=1e-3
    )


def test_box_full_of_sharp_density_is_warned_about():
    (message,) = messages(noise((48, 48, 48)))
    assert "looks sharpened" in message


def test_coarse_sampling_is_warned_about():
    (message,) = messages(particle(800, rate=3.5), 3.5)
    assert "3.5 A/voxel holds nothing finer than 7 A" in message


@pytest.mark.parametrize(
    "data", [noise((3, 4, 5)), noise((2, 2, 2)), np.zeros((20, 20, 20), np.float32)]
)
def test_odd_maps_are_judged_without_failing(data):
    with np.errstate(all="raise", under="ignore"):
        assert len(messages(data)) <= 2


def inverted(data, rate=RATE):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        appearance.warn_if_inverted(mrc.new_map(data, rate, path="some.mrc"))
    return [str(w.message) for w in caught]


def protein_like(noise_level, seed=0):
    """Positive atoms in a ball, blurred by 100 A^2, in noise relative to the map's deviation."""
    rng = np.random.default_rng(seed)
    atoms = (rng.random((SIZE,) * 3) < 0.03) * ball(0.5)
    volume = np.asarray(ndimage.gaussian_filter(atoms.astype(np.float32), 1.2))
    return volume / volume.std() + noise_level * noise((SIZE,) * 3)


@pytest.mark.parametrize("noise_level", [0, 1, 3])
@pytest.mark.parametrize("level", [0, 20])
@pytest.mark.parametrize("mask", [None, 0.9, 0.55])
def test_inverted_contrast_is_warned_about(noise_level, level, mask):
    """In noise, on any level, masked to the sphere, or to the molecule."""
    volume = protein_like(noise_level)
    shown = [sign * volume + level for sign in (1, -1)]
    if mask is not None:
        shown = [np.where(ball(mask), v, np.float32(0)) for v in shown]
    assert inverted(shown[0]) == []
    (message,) = inverted(shown[1])
    assert message.startswith("some.mrc: the molecule looks darker than the solvent")
    assert "multiply by -1" in message


@pytest.mark.parametrize("exponent", [-1.5, -1, 0, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_of_any_colour_is_not_inverted(exponent, seed):
    rng = np.random.default_rng(seed)
    k = frequencies((SIZE,) * 3)
    k[0, 0, 0] = 1
    spectrum = np.fft.rfftn(rng.normal(size=(SIZE,) * 3)) * k**exponent
    volume = np.fft.irfftn(spectrum, (SIZE,) * 3, (0, 1, 2)).astype(np.float32)
    assert inverted(volume) == [] and inverted(-volume) == []


def test_a_constant_map_is_not_inverted():
    assert inverted(np.zeros((8, 8, 8), np.float32)) == []


def test_half_maps_are_not_advised_to_be_half_maps():
    sharp = np.where(ball(0.6), particle(-50), np.float32(0))
    for half in (False, True):
        with pytest.warns(MapWarning) as caught:
            appearance.warn_if_processed(mrc.new_map(sharp, RATE, path="some.mrc"), half)
        texts = [str(w.message) for w in caught]
        assert all(("best the two half maps" in text) != half for text in texts)
        assert any("unmasked half maps" in text for text in texts) == half
