"""The labelled volumes and local spectra against closed forms."""

import numpy as np
import pytest
from scipy import fft

from deepemhancer_plugin.core.localres import data
from deepemhancer_plugin.core.maps import filters
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein


@pytest.fixture(scope="module")
def molecule():
    return from_structure(build_protein())


def wave(k, shape=(32, 32, 32)):
    """A cosine of k cycles/voxel along x."""
    return np.broadcast_to(np.cos(2 * np.pi * k * np.arange(shape[2])), shape).astype(np.float32)


def test_raised_cosine_begins_at_the_cut():
    k = np.array([0.0, 0.2, 0.21, 0.22, 0.4])
    np.testing.assert_allclose(filters.raised_cosine(k, 0.2, 0.22), [1, 1, 0.5, 0, 0], atol=1e-12)


def test_low_pass_keeps_what_is_coarser_and_removes_what_is_finer():
    coarse, fine = wave(4 / 32), wave(8 / 32)
    np.testing.assert_allclose(data.low_pass_to(coarse + fine, 1.5, 1.5 / 0.2), coarse, atol=1e-5)


def test_sharpening_multiplies_amplitudes_by_the_b_factor():
    k, rate = 8 / 32, 1.2
    np.testing.assert_allclose(
        filters.apply_b_factor(wave(k), rate, -60),
        wave(k) * np.exp(60 / 4 * (k / rate) ** 2),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "resolution, blur, label",
    [(3, 0, 3), (3, -100, 3), (3, 24, 3), (3, 400 * np.log(2), 10), (12, 400 * np.log(2), 12)],
)
def test_effective_resolution_is_where_half_of_the_amplitude_is_left(resolution, blur, label):
    assert data.effective_resolution(resolution, blur) == pytest.approx(label)
    if label > resolution:
        assert np.exp(-blur / 4 / label**2) == pytest.approx(0.5)


def place(k):
    """Where a frequency stands among the bands, which are equally far apart there."""
    return np.arcsinh(np.asarray(k) / data.CORNER)


def test_bands_reach_nyquist_in_equal_steps():
    steps = np.diff(place(data.BANDS))
    assert data.BANDS[0] == pytest.approx(1 / 16) and data.BANDS[-1] == pytest.approx(1 / 2)
    np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("band", [3, 8, 14])
def test_a_wave_is_all_in_its_band(band):
    shape = (48, 48, 48)
    k = round(data.BANDS[band] * 48) / 48
    spectra = data.local_spectra(wave(k, shape))
    assert spectra.shape == (12, 12, 12, 2 * len(data.BANDS))
    near = int(np.argmin(np.abs(place(data.BANDS) - place(k))))
    assert np.all(spectra[..., : len(data.BANDS)].argmax(-1) == near)
    shares = np.exp(3 * spectra[6, 6, 6, : len(data.BANDS)] - 6) - data.DITHER**2 * data.WHITE
    assert shares.sum() == pytest.approx(1, abs=1e-3)


def test_spectra_are_local_and_independent_of_the_scale():
    rng = np.random.default_rng(0)
    left, right = (
        data.low_pass_to(rng.standard_normal((64, 64, 64), np.float32), 1, d) for d in (3, 12)
    )
    both = np.where(np.arange(64) < 32, left / left.std(), right / right.std()).astype(np.float32)
    found = data.local_spectra(both)
    np.testing.assert_allclose(data.local_spectra(1e6 * both), found, atol=1e-3)
    top = found[..., np.argmin(np.abs(np.array(data.BANDS) - 0.25))]
    assert top[:, :, 2:5].min() > top[:, :, 11:14].max()


def test_white_noise_has_the_power_of_each_bands_volume():
    noise = np.random.default_rng(1).standard_normal((64, 64, 64), np.float32)
    found = np.exp(3 * data.local_spectra(noise)[..., : len(data.BANDS)] - 6).mean((0, 1, 2))
    k = filters.frequencies((64, 64, 64))
    weight = np.full(k.shape, 2.0)
    weight[..., 0] = weight[..., -1] = 1
    step = place(data.BANDS[1]) - place(data.BANDS[0])
    gains = [
        np.cos(np.pi / 2 * np.minimum(np.abs(place(k) - place(b)) / step, 1)) ** 2
        for b in data.BANDS
    ]
    gains[-1][k > data.BANDS[-1]] = 1
    expected = np.array([(g * weight).sum() for g in gains])
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.15, atol=1e-4)


@pytest.mark.parametrize("name", ["1.0", "0.5"])
def test_volumes_have_no_signal_beyond_their_finest_label(molecule, name):
    span, rng = data.RANGES[name], np.random.default_rng(3)
    volumes = data.simulate_pool([molecule], rng, span, 32, 6)
    assert len(volumes) == 24
    for volume in volumes:
        assert (
            volume.data.shape == volume.label.shape == (32, 32, 32)
            and volume.data.dtype == np.float32
        )
        assert volume.inside.any() and np.isfinite(volume.data).all()
        assert span.finest - 1e-3 < volume.label.min() <= volume.label.max() <= span.coarsest + 1e-3
    assert len({round(float(v.label.min()), 4) for v in volumes}) > 12


def test_clean_volume_ends_at_its_label(molecule, monkeypatch):
    monkeypatch.setattr(data, "_draw", lambda rng, span: (5.0, 0.0))
    monkeypatch.setattr(data, "_noise", lambda *a: 0.0)
    span = data.RANGES["1.0"]
    k = filters.frequencies((32, 32, 32))
    clean = 0
    for volume in data.simulate_pool([molecule], np.random.default_rng(0), span, 32, 4):
        power = np.abs(fft.rfftn(volume.data)) ** 2
        np.testing.assert_allclose(volume.label, 5.0, rtol=1e-5)
        clean += power[k > 1 / 5 + 0.021].max() < 1e-6 * power.max()
    assert (
        clean > 8
    )  # a quarter of the volumes is masked, which makes finer detail at the mask's edge


def test_boxes_have_unit_norm_and_are_those_around_the_voxels():
    volume = np.random.default_rng(0).standard_normal((20, 21, 22)).astype(np.float32)
    voxels = np.array([[6, 6, 6], [13, 14, 15]])
    found = data.cut_boxes(volume, voxels)
    np.testing.assert_allclose(np.square(found).sum((1, 2, 3)), 1, rtol=1e-5)
    expected = volume[7:20, 8:21, 9:22]
    np.testing.assert_allclose(found[1], expected / np.linalg.norm(expected), rtol=1e-5)
    assert np.all(data.cut_boxes(np.zeros((13, 13, 13), np.float32), np.array([[6, 6, 6]])) == 0)


def test_windows_come_from_the_molecule_with_its_labels(molecule):
    volume = data.simulate_pool([molecule], np.random.default_rng(1), data.RANGES["1.0"], 32, 1)[0]
    found, labels = data.draw_boxes(volume, np.random.default_rng(0), 50)
    assert found.shape == (50, 13, 13, 13) and labels.shape == (50,)
    assert (
        volume.label[volume.inside].min() <= labels.min()
        and labels.max() <= volume.label[volume.inside].max()
    )
