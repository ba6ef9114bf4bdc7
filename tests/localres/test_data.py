"""Simulated volumes of known resolution, against closed forms."""

import numpy as np
import pytest
from scipy import fft

from deepemhancer_plugin.core.localres import data, inputs
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


@pytest.mark.parametrize("name", ["1.0", "0.5"])
def test_volumes_have_no_signal_beyond_their_finest_label(molecule, name):
    span, rng = inputs.RANGES[name], np.random.default_rng(3)
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
    monkeypatch.setattr(data, "_draw_cut", lambda rng, span: (5.0, 0.0))
    monkeypatch.setattr(data, "_simulate_noise", lambda *a: 0.0)
    span = inputs.RANGES["1.0"]
    k = filters.frequencies((32, 32, 32))
    clean = 0
    for volume in data.simulate_pool([molecule], np.random.default_rng(0), span, 32, 4):
        power = np.abs(fft.rfftn(volume.data)) ** 2
        np.testing.assert_allclose(volume.label, 5.0, rtol=1e-5)
        clean += power[k > 1 / 5 + 0.021].max() < 1e-6 * power.max()
    assert (
        clean > 8
    )  # a quarter of the volumes is masked, which makes finer detail at the mask's edge


def test_windows_come_from_the_molecule_with_its_labels(molecule):
    volume = data.simulate_pool([molecule], np.random.default_rng(1), inputs.RANGES["1.0"], 32, 1)[
        0
    ]
    found, labels = data.draw_boxes(volume, np.random.default_rng(0), 50)
    assert found.shape == (50, 13, 13, 13) and labels.shape == (50,)
    assert (
        volume.label[volume.inside].min() <= labels.min()
        and labels.max() <= volume.label[volume.inside].max()
    )
