"""The local FSC against slow definitions in float64, and on halves of known resolution."""

import numpy as np
import pytest
from half_maps import FALL, frequencies, half_maps
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import blocres
from deepemhancer_plugin.core.localres.blocres import local_fsc, soft_sphere
from deepemhancer_plugin.core.maps import filters, spectrum


def crossing(resolution, threshold):
    """Where the FSC of `half_maps` falls to the threshold, in A."""
    return resolution / np.sqrt(1 + np.log(1 / threshold - 1) / (2 * FALL))


def box_mask(shape, margin):
    mask = np.zeros(shape, bool)
    mask[(slice(margin, -margin),) * 3] = True
    return mask


def slow_resolution(half1, half2, rate, centre, edge, threshold):
    """One window by the definition, in float64, with loops over voxels and shells."""
    mean = (half1.astype(float) + half2) / 2
    amplitude = np.sqrt(spectrum.power(np.fft.rfftn(mean - mean.mean()), mean.shape, rate))
    gain = 1 / np.maximum(amplitude, 1e-5 * amplitude.max())
    gain[0] = gain[:2].min()
    k = frequencies(mean.shape, rate)
    gains = np.interp(k, np.arange(len(gain)) * filters.shell_width(mean.shape, rate), gain)
    pair = []
    for half in (half1, half2):
        white = np.fft.ifftn(np.fft.fftn(half.astype(float) - half.mean(dtype=float)) * gains).real
        piece = np.zeros((edge,) * 3)
        for index in np.ndindex(*piece.shape):
            at = [c + i - edge // 2 for c, i in zip(centre, index, strict=True)]
            r = np.sqrt(sum((i - edge // 2) ** 2 for i in index))
            if r < edge / 2 and all(0 <= a < n for a, n in zip(at, mean.shape, strict=True)):
                piece[index] = white[tuple(at)] * (0.5 + 0.5 * np.cos(2 * np.pi * r / edge))
        pair.append(np.fft.fftn(piece))
    shell = np.floor(frequencies((edge,) * 3, 1.0) * edge + 0.5)
    a, b = pair
    curve = [1.0] + [
        (a * b.conj())[shell == i].sum().real
        / np.sqrt((abs(a[shell == i]) ** 2).sum() * (abs(b[shell == i]) ** 2).sum())
        for i in range(1, edge // 2 + 1)
    ]
    for i in range(1, len(curve)):
        if curve[i] < threshold:
            return (
                edge * rate / max(i - 1 + (curve[i - 1] - threshold) / (curve[i - 1] - curve[i]), 1)
            )
    return 2 * rate


@pytest.fixture(scope="module")
def five():
    return half_maps((48, 44, 52), 1.2, 5.0, b_factor=60.0)


@pytest.mark.parametrize("threshold", [0.5, 0.143])
@pytest.mark.parametrize(
    "centre", [(24, 20, 28), (4, 40, 24), (47, 43, 51)]
)  # inside, near the edge, the last voxel
def test_one_window_is_its_definition(five, centre, threshold):
    mask = np.zeros(five[0].shape, bool)
    mask[centre] = True
    got = local_fsc(*five, 1.2, mask, window=20 * 1.2, step=1, threshold=threshold)
    assert got[mask][0] == pytest.approx(
        slow_resolution(*five, 1.2, centre, 20, threshold), rel=1e-3
    )
    assert not got[~mask].any()


def test_curves_are_those_of_the_whole_map():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((5, 18, 18, 18)).astype(np.float32)
    b = (a + rng.standard_normal(a.shape)).astype(np.float32)
    curves = blocres._fsc_curves(
        a * soft_sphere(18), b * soft_sphere(18), spectrum.shell_matrix(18)
    )
    for curve, one, two in zip(curves, a, b, strict=True):
        np.testing.assert_allclose(
            curve, spectrum.fsc(one * soft_sphere(18), two * soft_sphere(18))[1], atol=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(0.1, 0.9))
def test_crossing_is_that_of_a_single_curve(values, threshold):
    curve = np.array([1.0, *values])
    k = np.arange(len(curve)) * 0.1
    expected = min(spectrum.resolution(k, curve, threshold), 10.0)  # never coarser than shell 1
    assert 1 / (0.1 * blocres._find_crossings(curve[None], threshold)[0]) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize("resolution", [3.0, 4.0, 6.0])
def test_known_resolution(resolution):
    halves = half_maps((64,) * 3, 1.0, resolution, b_factor=100.0)
    inside = box_mask((64,) * 3, 16)
    for threshold in (0.5, 0.143):
        truth = crossing(resolution, threshold)
        found = local_fsc(*halves, 1.0, inside, threshold=threshold)[inside]
        assert np.median(found) == pytest.approx(truth, rel=0.08)
        assert found.std() < 0.08 * truth


def test_resolution_that_varies_in_space():
    """3 A on one side and 6 A on the other: both sides right, the border where it is."""
    shape = (64,) * 3
    truth = np.full(shape, 3.0)
    truth[32:] = 6.0
    found = local_fsc(*half_maps(shape, 1.0, truth), 1.0, box_mask(shape, 8), window=20.0)
    assert np.median(found[10:22, 8:-8, 8:-8]) == pytest.approx(3.0, rel=0.08)
    assert np.median(found[42:54, 8:-8, 8:-8]) == pytest.approx(6.0, rel=0.15)
    profile = np.median(found[8:-8, 8:-8, 8:-8], (1, 2))
    border = 8 + np.argmax(profile > 4.2)
    assert abs(border - 32) <= 4


def test_noise_agrees_nowhere():
    rng = np.random.default_rng(2)
    halves = rng.standard_normal((2, 48, 48, 48)).astype(np.float32)
    inside = box_mask((48,) * 3, 12)
    found = local_fsc(*halves, 1.0, inside, window=24.0)[inside]
    assert np.median(found) > 20 and found.max() == pytest.approx(24) and found.min() > 6


def test_identical_halves_reach_nyquist_and_a_filter_ends_them(five):
    inside = box_mask(five[0].shape, 14)
    np.testing.assert_allclose(
        local_fsc(five[0], five[0], 1.2, inside, window=24.0)[inside], 2.4, rtol=1e-5
    )
    k = np.fft.rfftfreq(64)
    grid = np.sqrt(np.fft.fftfreq(64)[:, None, None] ** 2 + np.fft.fftfreq(64)[:, None] ** 2 + k**2)
    cut = fft.irfftn(
        fft.rfftn(np.random.default_rng(3).standard_normal((64,) * 3)) * (grid < 1 / 5), s=(64,) * 3
    ).astype(np.float32)
    inside = box_mask((64,) * 3, 16)
    found = local_fsc(cut, cut, 1.0, inside, window=30.0)[inside]
    assert (
        30 / 7.6 < found.min() and found.max() < 30 / 5.9
    )  # shell 6; a shell and a half is what the window leaks over a sharp cut


def test_a_b_factor_and_the_unit_change_nothing():
    shape, inside = (48,) * 3, box_mask((48,) * 3, 16)
    plain, blurred = half_maps(shape, 1.0, 4.0), half_maps(shape, 1.0, 4.0, b_factor=120.0)
    a, b = (
        local_fsc(*(h * np.float32(1e-6) for h in pair), 1.0, inside, window=24.0)[inside]
        for pair in (plain, blurred)
    )
    assert np.abs(a / b - 1).mean() < 0.02


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 14)] * 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_grid_serves_every_voxel_of_the_mask_and_has_no_spare_points(shape, step, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.05
    needed = np.zeros([-(-n // step) + 1 for n in shape], bool)
    for voxel in np.argwhere(mask):
        needed[tuple(slice(v // step, v // step + 2) for v in voxel)] = True
    np.testing.assert_array_equal(blocres._grid_points(mask, step), needed)


def test_between_the_grids_points_the_frequency_is_interpolated():
    frequency = np.random.default_rng(4).uniform(0.1, 0.4, (4, 5, 6)).astype(np.float32)
    mask = np.ones((9, 12, 15), bool)
    got = blocres._interpolate(frequency, mask, 3, 100.0)
    np.testing.assert_allclose(got[::3, ::3, ::3], 1 / frequency[:3, :4, :5], rtol=1e-5)
    np.testing.assert_allclose(
        1 / got[1, 2, 4],
        ndimage.map_coordinates(frequency.astype(float), [[1 / 3], [2 / 3], [4 / 3]], order=1)[0],
        rtol=1e-5,
    )


def test_a_step_costs_little(five):
    inside = box_mask(five[0].shape, 17)
    fine, coarse = (
        local_fsc(*five, 1.2, inside, window=24.0, step=step)[inside] for step in (1, 4)
    )
    assert np.abs(coarse / fine - 1).mean() < 0.03


def test_threads_are_those_of_the_machine(five, monkeypatch):
    monkeypatch.setattr(blocres, "cpu_cores", lambda: 3)
    threads = []
    inside = box_mask(five[0].shape, 14)
    local_fsc(
        *five, 1.2, inside, window=24.0, progress=lambda *_: threads.append(fft.get_workers())
    )
    assert set(threads) == {3} and fft.get_workers() == 1


def test_progress_reaches_its_end(five):
    seen = []
    local_fsc(
        *five, 1.2, box_mask(five[0].shape, 14), window=48.0, progress=lambda *now: seen.append(now)
    )
    assert seen[-1][1] == seen[-1][2] and [done for _, done, _ in seen] == sorted(
        done for _, done, _ in seen
    )


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"window": 10.0}, "window 10"),
        ({"window": 70.0}, "window 70"),
        ({"step": 0}, "step 0"),
        ({"threshold": 1.5}, "1.5"),
        ({"mask": np.zeros((48, 44, 52), bool)}, "empty"),
        ({"mask": np.ones((4, 4, 4), bool)}, "box"),
    ],
)
def test_refusals_are_one_line(five, changes, word):
    arguments = {"mask": box_mask(five[0].shape, 14), "window": 24.0, **changes}
    with pytest.raises(InputError, match=word) as error:
        local_fsc(*five, 1.2, **arguments)
    assert "\n" not in str(error.value)
