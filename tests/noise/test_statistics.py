"""Noise statistics on simulated maps whose noise is known."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from maps_with_noise import check_noise, frequencies, simulate_half_maps
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.noise.normalization import normalize, normalize_with_mask
from deepemhancer_plugin.core.noise.statistics import (
    _find_lowest_peak,
    noise_from_halves,
    noise_from_map,
    noise_outside,
)

LAYOUTS = ["centred", "off-centre", "tight", "fibre", "shell"]
SPECTRA = [(2.8, 60.0), (3.5, 120.0), (5.0, 60.0), (7.0, 200.0)]


@pytest.mark.parametrize("resolution, b_factor", SPECTRA)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_noise(layout, resolution, b_factor):
    half1, half2, mean, std = simulate_half_maps(layout, resolution, b_factor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_noise(noise_from_halves(half1, half2), mean, std)
        check_noise(noise_from_map((half1 + half2) / 2), mean, std)


@pytest.mark.parametrize("layout", ["centred", "off-centre", "fibre", "shell"])
def test_known_noise_in_a_sphere(layout):
    half1, half2, mean, std = simulate_half_maps(layout, sphere=True)
    check_noise(noise_from_halves(half1, half2), mean, std)
    check_noise(noise_from_map((half1 + half2) / 2), mean, std)


def test_sphere_that_was_filtered_afterwards_leaves_no_false_noise_in_the_corners():
    half1, half2, _, _ = simulate_half_maps("centred", 5.0, 0.0, sphere=True)
    fall = np.exp(-100 * frequencies(half1.shape) ** 2 / 4)
    half1, half2 = (
        fft.irfftn(fft.rfftn(h) * fall, h.shape).astype(np.float32) + np.float32(3)
        for h in (half1, half2)
    )
    shell = (
        slice(4, 10),
        slice(34, 46),
        slice(34, 46),
    )  # solvent, between the molecule and the soft edge
    std = 0.5 * float(np.std(half1[shell] - half2[shell]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stats in noise_from_halves(half1, half2), noise_from_map((half1 + half2) / 2):
            assert stats.std == pytest.approx(std, rel=0.2)  # of a few thousand correlated voxels


@pytest.mark.parametrize("seed", range(4))
def test_a_small_box_whose_corners_hold_a_smooth_drift_instead_of_noise(seed):
    """As RELION's reconstructions without padding.

    There is noise within a sphere; outside of it, the gridding correction raises the level.
    """
    rng = np.random.default_rng(seed)
    k = frequencies((32,) * 3)
    radius = np.sqrt(sum((i - 16) ** 2 for i in np.ogrid[:32, :32, :32]))
    inside = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - 16) / 3, 0, 1))
    noise = fft.irfftn(
        fft.rfftn(rng.standard_normal((32,) * 3)) * np.exp(-60 * k**2 / 4), (32,) * 3
    )
    std = noise[(radius > 8) & (radius < 15)].std()
    drift = 0.02 * std * np.maximum(radius - 16, 0) ** 2
    volume = (noise * inside + 25 * std * np.exp(-((radius / 4) ** 2)) - drift).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is little solvent
        assert noise_from_map(volume).std == pytest.approx(std, rel=0.15)


def test_halves_give_the_noise_of_the_solvent_where_the_molecule_has_more():
    half1, half2, mean, std = simulate_half_maps("centred")
    inside = np.zeros(half1.shape, np.float32)
    inside[12:-12, 12:-12, 12:-12] = 1
    more = 0.5 * inside * (half1 - half2)  # twice the noise in a third of the box
    check_noise(noise_from_halves(half1 + more, half2 - more), mean, std)


def test_pure_noise():
    rng = np.random.default_rng(0)
    half1, half2 = rng.normal(-7, 2, (2, 64, 60, 56)).astype(np.float32)
    check_noise(noise_from_halves(half1, half2), -7, np.sqrt(2))
    check_noise(noise_from_map(half1), -7, 2)


def test_level_far_above_the_noise_costs_no_digits():
    half1, half2, mean, std = simulate_half_maps("fibre", level=3000)
    check_noise(noise_from_halves(half1, half2), mean, std)
    check_noise(noise_from_map((half1 + half2) / 2), mean, std)


def test_sources_and_scale():
    half1, half2, _, _ = simulate_half_maps("centred")
    stats, larger = noise_from_halves(half1, half2), noise_from_halves(1e6 * half1, 1e6 * half2)
    assert stats.source == "half maps" and noise_from_map(half1).source == "shell"
    assert larger.std == pytest.approx(1e6 * stats.std, rel=1e-3)
    assert larger.mean == pytest.approx(1e6 * stats.mean, rel=1e-2)


def test_input_maps_are_left_alone():
    half1, half2, _, _ = simulate_half_maps("tight")
    copies = half1.copy(), half2.copy()
    stats = noise_from_halves(half1, half2)
    noise_from_map(half1)
    normalize(half1, stats)
    normalize_with_mask(half1, half1 > 0, 1)
    assert np.array_equal(half1, copies[0]) and np.array_equal(half2, copies[1])


@pytest.mark.parametrize("edge", [6, 12, 20, 31])
def test_small_boxes(edge):
    rng = np.random.default_rng(3)
    half1, half2 = rng.normal(1, 0.1, (2, edge, edge + 1, edge + 2)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stats, std in (
            (noise_from_halves(half1, half2), 0.1 / np.sqrt(2)),
            (noise_from_map(half1), 0.1),
        ):
            assert stats.std == pytest.approx(std, rel=0.1) and stats.mean == pytest.approx(
                1, abs=0.03
            )


def test_windows_of_rounding_errors_are_no_noise():
    """Nearly half of the windows hold next to nothing.

    The others hold noise of any strength, most of them the same.
    """
    rng = np.random.default_rng(0)
    log_power = np.concatenate(
        [np.full(4800, -708.0), rng.uniform(-9, 9, 3200), rng.normal(0, 0.1, 2000)]
    )
    place, sharpness = _find_lowest_peak(log_power)
    assert place == pytest.approx(0, abs=0.05) and sharpness > 0.9
    flat, _ = _find_lowest_peak(
        np.concatenate([np.full(4800, -708.0), np.linspace(-300, 300, 5200)])
    )
    assert -300 <= flat <= 300


@given(st.lists(st.floats(-708, 100), min_size=1))
def test_there_is_always_a_peak_within_the_range(log_power):
    place, sharpness = _find_lowest_peak(np.array(log_power))
    assert min(log_power) - 0.5 < place < max(log_power) + 0.5 and sharpness > 0


def test_masked_map_warns_and_names_the_number():
    half1, half2, _, _ = simulate_half_maps("centred")
    volume = (half1 + half2) / 2
    volume[ndimage.gaussian_filter(volume, 3) < 0.1 * volume.std()] = 0
    with pytest.warns(MapWarning, match="masked|solvent|no clear level") as caught:
        stats = noise_from_map(volume)
    assert f"{stats.std:.5g}" in str(caught[0].message) and f"{stats.mean:.5g}" in str(
        caught[0].message
    )


def test_box_without_solvent_warns():
    half1, half2, _, _ = simulate_half_maps("tight", 7.0, 200.0)
    with pytest.warns(MapWarning, match="noise is uncertain"):
        noise_from_map(((half1 + half2) / 2)[12:-12, 12:-12, 12:-12].copy())


def test_refused_maps():
    half1 = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    with pytest.raises(InputError, match="shape"):
        noise_from_halves(half1, half1[:-1])
    with pytest.raises(InputError, match="same map"):
        noise_from_halves(half1, half1.copy())
    for value in 0, 1.5:
        with pytest.raises(InputError, match="constant"):
            noise_from_map(np.full((40, 40, 40), value, np.float32))


def test_noise_outside_a_mask_is_that_of_the_voxels_that_are_not_blank():
    rng = np.random.default_rng(0)
    volume = rng.normal(3, 0.5, (30, 31, 32)).astype(np.float32)
    volume[:4] = 0
    mask = np.zeros(volume.shape, bool)
    mask[10:20, 10:20] = True
    volume[mask] = 50
    stats = noise_outside(volume, mask)
    values = volume[4:][~mask[4:]].astype(np.float64)
    assert stats.source == "outside the mask"
    assert (stats.mean, stats.std) == pytest.approx((values.mean(), values.std()))


@pytest.mark.parametrize("outside", [0, 500])
def test_a_mask_that_leaves_nothing_outside_is_not_measured_there(outside):
    volume = np.random.default_rng(0).normal(3, 0.5, (40, 40, 40)).astype(np.float32)
    mask = np.ones(volume.shape, bool)
    mask.flat[:outside] = False
    assert noise_outside(volume, mask) == noise_from_map(volume)
