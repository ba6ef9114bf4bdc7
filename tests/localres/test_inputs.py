"""Local spectra and boxes, against closed forms."""

import numpy as np
import pytest

from deepemhancer_plugin.core.localres import inputs
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.maps import filters


def wave(k, shape=(32, 32, 32)):
    """A cosine of k cycles/voxel along x."""
    return np.broadcast_to(np.cos(2 * np.pi * k * np.arange(shape[2])), shape).astype(np.float32)


def place(k):
    """Where a frequency stands among the bands, which are equally far apart there."""
    return np.arcsinh(np.asarray(k) / inputs.CORNER)


def test_bands_reach_nyquist_in_equal_steps():
    steps = np.diff(place(inputs.BANDS))
    assert inputs.BANDS[0] == pytest.approx(1 / 16) and inputs.BANDS[-1] == pytest.approx(1 / 2)
    np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("band", [3, 8, 14])
def test_a_wave_is_all_in_its_band(band):
    shape = (48, 48, 48)
    k = round(inputs.BANDS[band] * 48) / 48
    spectra = inputs.local_spectra(wave(k, shape))
    assert spectra.shape == (12, 12, 12, 2 * len(inputs.BANDS))
    near = int(np.argmin(np.abs(place(inputs.BANDS) - place(k))))
    assert np.all(spectra[..., : len(inputs.BANDS)].argmax(-1) == near)
    shares = np.exp(3 * spectra[6, 6, 6, : len(inputs.BANDS)] - 6) - inputs.DITHER**2 * inputs.WHITE
    assert shares.sum() == pytest.approx(1, abs=1e-3)


def test_spectra_are_local_and_independent_of_the_scale():
    rng = np.random.default_rng(0)
    left, right = (
        low_pass_to(rng.standard_normal((64, 64, 64), np.float32), 1, d) for d in (3, 12)
    )
    both = np.where(np.arange(64) < 32, left / left.std(), right / right.std()).astype(np.float32)
    found = inputs.local_spectra(both)
    np.testing.assert_allclose(inputs.local_spectra(1e6 * both), found, atol=1e-3)
    top = found[..., np.argmin(np.abs(np.array(inputs.BANDS) - 0.25))]
    assert top[:, :, 2:5].min() > top[:, :, 11:14].max()


def test_white_noise_has_the_power_of_each_bands_volume():
    noise = np.random.default_rng(1).standard_normal((64, 64, 64), np.float32)
    found = np.exp(3 * inputs.local_spectra(noise)[..., : len(inputs.BANDS)] - 6).mean((0, 1, 2))
    k = filters.frequencies((64, 64, 64))
    weight = np.full(k.shape, 2.0)
    weight[..., 0] = weight[..., -1] = 1
    step = place(inputs.BANDS[1]) - place(inputs.BANDS[0])
    gains = [
        np.cos(np.pi / 2 * np.minimum(np.abs(place(k) - place(b)) / step, 1)) ** 2
        for b in inputs.BANDS
    ]
    gains[-1][k > inputs.BANDS[-1]] = 1
    expected = np.array([(g * weight).sum() for g in gains])
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.15, atol=1e-4)


def test_boxes_have_unit_norm_and_are_those_around_the_voxels():
    volume = np.random.default_rng(0).standard_normal((20, 21, 22)).astype(np.float32)
    voxels = np.array([[6, 6, 6], [13, 14, 15]])
    found = inputs.cut_boxes(volume, voxels)
    np.testing.assert_allclose(np.square(found).sum((1, 2, 3)), 1, rtol=1e-5)
    expected = volume[7:20, 8:21, 9:22]
    np.testing.assert_allclose(found[1], expected / np.linalg.norm(expected), rtol=1e-5)
    assert np.all(inputs.cut_boxes(np.zeros((13, 13, 13), np.float32), np.array([[6, 6, 6]])) == 0)
