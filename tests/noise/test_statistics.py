"""Noise statistics on simulated maps whose noise is known, and the normalisations against plain float64 references."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.noise.normalization import (
    NoiseStats,
    noise_given,
    normalize,
    normalize_with_mask,
)
from deepemhancer_plugin.core.noise.original import noise_classic
from deepemhancer_plugin.core.noise.statistics import (
    _lowest_peak,
    noise_from_halves,
    noise_from_map,
)


def frequency(shape):
    axes = [np.fft.fftfreq(n) for n in shape[:2]] + [np.fft.rfftfreq(shape[2])]
    return np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2).astype(
        np.float32
    )


def blob(rng, atoms=2000, radius=12.0):
    """A compact molecule, (atoms, 3): a random walk of 1.5 voxels a step that is reflected at a sphere."""
    steps = rng.normal(size=(atoms, 3))
    steps *= 1.5 / np.linalg.norm(steps, axis=1)[:, None]
    place, places = np.zeros(3), []
    for step in steps:
        place = place + step if np.linalg.norm(place + step) < radius else place - step
        places.append(place)
    return np.array(places)


def turned(points, rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return points @ q


def molecule(layout, rng):
    """Atoms about the middle of the box, and the box."""
    if layout == "centred":
        return blob(rng, 4000, 16), (80, 80, 80)
    if layout == "long":
        return blob(rng, 4000, 16) * [1.3, 0.9, 0.7], (80, 80, 80)
    if layout == "off-centre":
        return blob(rng, 4000, 16) + np.array([18, -17, 19]), (80, 80, 80)
    if layout == "tight":
        atoms = blob(rng, 12000, 24) * [1, 1.1, 0.9]
        atoms -= (atoms.max(0) + atoms.min(0)) / 2
        return atoms, tuple(int(e) + 6 for e in np.ptp(atoms, axis=0))
    unit = blob(rng, 1500, 9)
    if layout == "fibre":
        units = [
            turned(unit, rng) + np.array([4.5 * i - 45, 14 * np.cos(50 * i), 14 * np.sin(50 * i)])
            for i in range(20)
        ]
        return np.concatenate(units), (88,) * 3
    directions = rng.normal(size=(60, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    return np.concatenate([turned(unit, rng) + 34 * d for d in directions]), (
        104,
        104,
        104,
    )  # "shell"


def half_maps(layout, resolution=3.5, b_factor=100.0, sphere=False, level=0.25, seed=1):
    """Half maps at 1 A/voxel, and mean and standard deviation of the noise of their mean.

    Signal and noise of a half have the same power at `resolution`; the noise's amplitude goes with sqrt(|k|); both fall off with
    B. `level` is the solvent's, in units of the noise. `sphere`: zero outside the inscribed sphere, soft edge of four voxels.
    """
    rng = np.random.default_rng(seed)
    atoms, shape = molecule(layout, rng)
    grid = np.zeros(shape, np.float32)
    index = np.round(atoms + np.array(shape) / 2).astype(int)
    inside = ((index >= 0) & (index < shape)).all(1)
    np.add.at(grid, tuple(index[inside].T), 1)
    k = frequency(shape)
    signal = fft.rfftn(grid) * np.exp(-80 * k**2 / 4)
    fields = [
        fft.rfftn(rng.standard_normal(shape, dtype=np.float32)) * np.sqrt(k) for _ in range(2)
    ]
    ring = np.abs(k - 1 / resolution) < 0.02
    scale = np.sqrt(np.mean(np.abs(signal[ring]) ** 2) / np.mean(np.abs(fields[0][ring]) ** 2))
    fall = np.exp(-b_factor * k**2 / 4)
    signal, *noise = (
        fft.irfftn(f * fall, shape).astype(np.float32)
        for f in (signal, *(scale * f for f in fields))
    )
    std = float(np.std(noise[0] + noise[1])) / 2
    halves = [signal + n + np.float32(level * std) for n in noise]
    if sphere:
        radius = np.sqrt(
            sum(
                (i - n / 2) ** 2
                for i, n in zip(np.ogrid[tuple(slice(n) for n in shape)], shape, strict=True)
            )
        )
        edge = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - min(shape) / 2 + 4) / 4, 0, 1))
        halves = [(h * edge).astype(np.float32) for h in halves]
    return *halves, level * std, std


LAYOUTS = ["centred", "off-centre", "tight", "fibre", "shell"]
SPECTRA = [(2.8, 60.0), (3.5, 120.0), (5.0, 60.0), (7.0, 200.0)]


def check(stats, mean, std):
    assert stats.std == pytest.approx(std, rel=0.1)
    assert (
        abs(stats.mean - mean) < 0.3 * std
    )  # a hundredth of a unit of the normalised map is 0.1 std


@pytest.mark.parametrize("resolution, b_factor", SPECTRA)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_noise(layout, resolution, b_factor):
    half1, half2, mean, std = half_maps(layout, resolution, b_factor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(noise_from_halves(half1, half2), mean, std)
        check(noise_from_map((half1 + half2) / 2), mean, std)


@pytest.mark.parametrize("layout", ["centred", "off-centre", "fibre", "shell"])
def test_known_noise_in_a_sphere(layout):
    half1, half2, mean, std = half_maps(layout, sphere=True)
    check(noise_from_halves(half1, half2), mean, std)
    check(noise_from_map((half1 + half2) / 2), mean, std)


def test_sphere_that_was_filtered_afterwards_leaves_no_false_noise_in_the_corners():
    half1, half2, _, _ = half_maps("centred", 5.0, 0.0, sphere=True)
    fall = np.exp(-100 * frequency(half1.shape) ** 2 / 4)
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
    """As RELION's reconstructions without padding: noise within a sphere, outside of it a level that its gridding correction raises."""
    rng = np.random.default_rng(seed)
    k = frequency((32,) * 3)
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


def zoned(volumes, layout, reach, seed=1):
    """The maps, zero farther than `reach` voxels from the atoms."""
    atoms, shape = molecule(layout, np.random.default_rng(seed))
    empty = np.ones(shape, bool)
    empty[tuple(np.round(atoms + np.array(shape) / 2).astype(int).T)] = False
    return [
        np.where(ndimage.distance_transform_edt(empty) <= reach, v, 0).astype(np.float32)
        for v in volumes
    ]


@pytest.mark.parametrize("reach", [3, 6, 9])
@pytest.mark.parametrize("resolution, b_factor", [(9.0, 200.0), (12.0, 100.0), (16.0, 100.0)])
def test_zone_without_solvent_has_the_level_of_the_blank(resolution, b_factor, reach):
    """There is no solvent to measure in: the molecule is not taken for it."""
    half1, half2, _, std = half_maps("long", resolution, b_factor)
    half1, half2 = zoned((half1, half2), "long", reach)
    with pytest.warns(MapWarning, match="masked so tightly"):
        stats = noise_from_map((half1 + half2) / 2)
    assert stats.source == "zone" and stats.mean == 0 and std / 3 < stats.std < 4 * std
    check(noise_from_halves(half1, half2), 0, std)


@pytest.mark.parametrize("radius", [20, 30, 40])
def test_noise_in_a_ball_is_no_molecule(radius):
    half1, half2, _, std = half_maps("centred")
    ball = sum((i - 40) ** 2 for i in np.ogrid[:80, :80, :80]) < radius**2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks masked
        stats = noise_from_map(np.where(ball, (half1 - half2) / 2, 0).astype(np.float32))
    assert stats.source == "shell"
    check(stats, 0, std)


def test_halves_give_the_noise_of_the_solvent_where_the_molecule_has_more():
    half1, half2, mean, std = half_maps("centred")
    inside = np.zeros(half1.shape, np.float32)
    inside[12:-12, 12:-12, 12:-12] = 1
    more = 0.5 * inside * (half1 - half2)  # twice the noise in a third of the box
    check(noise_from_halves(half1 + more, half2 - more), mean, std)


def test_pure_noise():
    rng = np.random.default_rng(0)
    half1, half2 = rng.normal(-7, 2, (2, 64, 60, 56)).astype(np.float32)
    check(noise_from_halves(half1, half2), -7, np.sqrt(2))
    check(noise_from_map(half1), -7, 2)


def test_level_far_above_the_noise_costs_no_digits():
    half1, half2, mean, std = half_maps("fibre", level=3000)
    check(noise_from_halves(half1, half2), mean, std)
    check(noise_from_map((half1 + half2) / 2), mean, std)


def test_sources_and_scale():
    half1, half2, _, _ = half_maps("centred")
    stats, larger = noise_from_halves(half1, half2), noise_from_halves(1e6 * half1, 1e6 * half2)
    assert stats.source == "half maps" and noise_from_map(half1).source == "shell"
    assert larger.std == pytest.approx(1e6 * stats.std, rel=1e-3)
    assert larger.mean == pytest.approx(1e6 * stats.mean, rel=1e-2)


def test_input_maps_are_left_alone():
    half1, half2, _, _ = half_maps("tight")
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
    """Nearly half of the windows hold next to nothing, the others noise of any strength, most of them the same."""
    rng = np.random.default_rng(0)
    log_power = np.concatenate(
        [np.full(4800, -708.0), rng.uniform(-9, 9, 3200), rng.normal(0, 0.1, 2000)]
    )
    place, sharpness = _lowest_peak(log_power)
    assert place == pytest.approx(0, abs=0.05) and sharpness > 0.9
    flat, _ = _lowest_peak(np.concatenate([np.full(4800, -708.0), np.linspace(-300, 300, 5200)]))
    assert -300 <= flat <= 300


@given(st.lists(st.floats(-708, 100), min_size=1))
def test_there_is_always_a_peak_within_the_range(log_power):
    place, sharpness = _lowest_peak(np.array(log_power))
    assert min(log_power) - 0.5 < place < max(log_power) + 0.5 and sharpness > 0


def test_masked_map_warns_and_names_the_number():
    half1, half2, _, _ = half_maps("centred")
    volume = (half1 + half2) / 2
    volume[ndimage.gaussian_filter(volume, 3) < 0.1 * volume.std()] = 0
    with pytest.warns(MapWarning, match="masked|solvent|no clear level") as caught:
        stats = noise_from_map(volume)
    assert f"{stats.std:.5g}" in str(caught[0].message) and f"{stats.mean:.5g}" in str(
        caught[0].message
    )


def test_box_without_solvent_warns():
    half1, half2, _, _ = half_maps("tight", 7.0, 200.0)
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


def test_given():
    assert noise_given(-0.003, 0.002) == NoiseStats(-0.003, 0.002, "given")
    for mean, std in (0, 0), (0, -1), (0, np.nan), (np.nan, 1), (np.inf, 1), (0, np.inf):
        with pytest.raises(InputError, match="noise"):
            noise_given(mean, std)


def test_classic_agrees_on_an_easy_map():
    half1, half2, mean, std = half_maps("centred", 5.0, 60.0, sphere=True)
    stats = noise_classic((half1 + half2) / 2)
    assert stats.source == "classic"
    check(stats, mean, std)


def test_classic_stops_at_hollow_maps():
    half1, half2, _, _ = half_maps("shell", sphere=True)
    with pytest.raises(InputError, match="hollow"):
        noise_classic(
            np.float32(50) * (half1 + half2)
        )  # what it stops at depends on the map's scale


@pytest.mark.parametrize(
    "shape, target", [((60, 52, 44), (100,) * 3), ((130, 104, 117), (100,) * 3), ((40,) * 3,) * 2]
)
def test_classic_resizing_is_that_of_scikit_image(shape, target):
    resize = pytest.importorskip("skimage.transform").resize
    from deepemhancer_plugin.core.maps.resampling import resize_as_original as _resize

    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = resize(volume, target, order=3, mode="reflect", anti_aliasing=True)
    np.testing.assert_allclose(_resize(volume, target), expected, atol=2e-5)


def test_normalize():
    volume = np.random.default_rng(0).normal(5, 3, (7, 8, 9)).astype(np.float32)
    result = normalize(volume, NoiseStats(5, 3, "given"))
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, (volume.astype(np.float64) - 5) / 30, atol=1e-6)


def reference_with_mask(volume, mask, rule):
    """The guide's words, voxel by voxel in float64."""
    volume, mask = volume.astype(np.float64), mask.astype(np.float64)
    if rule < 3:
        padded = np.pad(mask, 1, mode="symmetric")
        nz, ny, nx = mask.shape
        mask = np.max(
            [
                padded[a : a + nz, b : b + ny, c : c + nx]
                for a in range(3)
                for b in range(3)
                for c in range(3)
            ],
            axis=0,
        )
        binary = mask >= mask.min() + 0.01 * (mask.max() - mask.min())
    else:
        binary = mask > 0.01
    values = np.sort(volume[binary & (volume > 0)] if rule > 1 else volume[binary])

    def percentile(p):
        place = p / 100 * (len(values) - 1)
        low = int(place)
        return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])

    return (volume - percentile(50)) / (percentile(95) - percentile(10)) * binary


@pytest.mark.parametrize("kind", ["boolean", "soft", "touching the border"])
@pytest.mark.parametrize("rule", [1, 2, 3])
def test_normalize_with_mask(rule, kind):
    rng = np.random.default_rng(rule)
    volume = rng.normal(0.3, 1, (20, 24, 28)).astype(np.float32)
    mask = np.zeros(volume.shape, np.float32)
    mask[5:15, 6:18, 7:20] = 1
    if kind == "soft":
        mask = ndimage.gaussian_filter(mask, 1.5)  # has values between 0 and 0.01
    if kind == "touching the border":
        mask[:3] = 1
    given = mask > 0 if kind == "boolean" else mask
    result = normalize_with_mask(volume, given, rule)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_with_mask(volume, given, rule), atol=2e-6)


def test_mask_that_does_not_serve():
    volume = np.ones((8, 8, 8), np.float32)
    mask = np.zeros((8, 8, 8), bool)
    mask[2:5] = True
    with pytest.raises(InputError, match="shape"):
        normalize_with_mask(volume, mask[1:], 1)
    with pytest.raises(InputError, match="constant"):
        normalize_with_mask(volume, mask, 1)
    with pytest.raises(InputError, match="above 0"):
        normalize_with_mask(-volume, mask, 2)
    with pytest.raises(InputError, match="no voxel"):
        normalize_with_mask(volume, np.zeros_like(volume), 3)
