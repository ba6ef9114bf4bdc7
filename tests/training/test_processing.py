"""What programs do to maps, against closed forms."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.maps.filters import apply_b_factor, frequencies
from deepemhancer_plugin.core.maps.spectrum import fsc
from deepemhancer_plugin.core.simulation import Conditions, simulate_halves
from deepemhancer_plugin.core.training.processing import (
    Processing,
    bound_region,
    choose_part,
    compute_gain,
    draw_processing,
    draw_wave,
    filter_map,
    limit_target,
    pass_low,
    place_cut,
    process_map,
    quantise,
    scale_by_b_factor,
    sharpen_locally,
    weigh_by_fsc,
)

EDGE = 48
K = frequencies((EDGE,) * 3)


@pytest.fixture(scope="module")
def simulated(molecule):
    return simulate_halves(molecule, Conditions(resolution=4.0, box=EDGE, sphere=False), 1)


@pytest.fixture
def mean(simulated):
    return (simulated.half1 + simulated.half2) / 2


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((EDGE,) * 3).astype(np.float32)


def make_wave(cycles):
    """A cosine along x of so many cycles in the box."""
    x = np.arange(EDGE) * 2 * np.pi * cycles / EDGE
    return np.broadcast_to(np.cos(x), (EDGE,) * 3).astype(np.float32)


@pytest.mark.parametrize("b_factor", [-80.0, 0.0, 120.0])
def test_sharpening_and_blurring_scale_a_wave_by_its_b_factor(noise, b_factor):
    wave, k = make_wave(12), 12 / EDGE
    made = filter_map(wave, scale_by_b_factor(K, b_factor))
    np.testing.assert_allclose(made, np.exp(-b_factor / 4 * k**2) * wave, atol=1e-4)
    expected = apply_b_factor(noise, 1.0, b_factor)
    np.testing.assert_allclose(
        filter_map(noise, scale_by_b_factor(K, b_factor)),
        expected,
        rtol=2e-3,
        atol=2e-3 * expected.std(),
    )


def test_no_gain_leaves_the_range_of_float32(noise):
    made = filter_map(noise, scale_by_b_factor(K, -1e5))
    assert np.isfinite(made).all() and np.isfinite(np.square(made)).all()


def test_weights_are_those_of_rosenthal_and_henderson():
    made = weigh_by_fsc(np.array([1.0, 0.6, 1 / 3, 0.143, -0.01, 0.3]))
    expected = [1, np.sqrt(1.2 / 1.6), np.sqrt(0.5), 0.5002, 0, 0]
    np.testing.assert_allclose(made, expected, atol=1e-4)
    # Noise of the lowest shells does not end the map, and without a strong shell none does.
    made = weigh_by_fsc(np.array([1.0, -0.1, 0.9, 0.0, 0.5]))
    np.testing.assert_allclose(made, [1, 0, np.sqrt(1.8 / 1.9), 0, 0], atol=1e-4)
    made = weigh_by_fsc(np.array([1.0, -0.1, 1 / 3]))
    np.testing.assert_allclose(made, [1, 0, np.sqrt(0.5)], atol=1e-4)


def test_a_map_is_weighted_by_the_fsc_of_its_halves_in_the_mask(simulated, mean):
    made = filter_map(mean, compute_gain(simulated, K, Processing(weighted=True)))
    frequency, curve = fsc(simulated.half1 * simulated.mask, simulated.half2 * simulated.mask)
    ratio = np.fft.rfftn(made) / np.fft.rfftn(mean)
    for shell in (4, 8, 12):
        at = (0, 0, shell)  # the coefficients along x lie on the shells
        assert abs(ratio[at]) == pytest.approx(weigh_by_fsc(curve)[shell], rel=1e-3)
    assert frequency[12] == pytest.approx(K[0, 0, 12])


@pytest.mark.parametrize(
    "kind, inside, at, beyond",
    [
        ("hard", 1.0, 1.0, 0.0),
        ("cosine", 1.0, 1.0, 0.0),
        ("gaussian", np.exp(-0.125), np.exp(-0.5), np.exp(-0.5 * 1.15**2)),
    ],
)
def test_low_passes_end_where_they_should(kind, inside, at, beyond):
    k = np.array([0.1, 0.2, 0.23], np.float32)
    np.testing.assert_allclose(pass_low(k, 0.2, kind), [inside, at, beyond], atol=1e-5)
    if kind == "cosine":
        assert pass_low(np.array([0.21]), 0.2, kind)[0] == pytest.approx(0.5, abs=1e-6)


def test_local_sharpening_by_one_b_factor_is_sharpening(noise):
    everywhere = np.full(noise.shape, -40.0, np.float32)
    made = sharpen_locally(noise, K, everywhere)
    expected = filter_map(noise, scale_by_b_factor(K, -40.0))
    np.testing.assert_allclose(made, expected, atol=1e-4 * expected.std())


def test_local_sharpening_gives_each_place_its_own_b_factor(noise):
    b_factors = np.zeros(noise.shape, np.float32)
    b_factors[EDGE // 2 :] = -60.0
    made = sharpen_locally(noise, K, b_factors)
    plain, sharp = noise, filter_map(noise, scale_by_b_factor(K, -60.0))
    np.testing.assert_allclose(made[: EDGE // 2], plain[: EDGE // 2], atol=1e-4)
    np.testing.assert_allclose(made[EDGE // 2 :], sharp[EDGE // 2 :], atol=1e-3)


def test_the_field_of_local_b_factors_is_smooth_and_within_one():
    wave = draw_wave((EDGE,) * 3, 1.0, np.random.default_rng(0))
    assert -1 <= wave.min() < 0 < wave.max() <= 1
    # The shortest wave has 30 A.
    assert all(np.abs(np.diff(wave, axis=axis)).max() <= 2 * np.pi / 30 for axis in range(3))


@pytest.mark.parametrize("kind, end", [("hard", 8.0), ("cosine", 8.0), ("gaussian", 8 / 3.035)])
def test_nothing_is_asked_of_the_target_beyond_the_low_pass(noise, kind, end):
    limited = limit_target(noise, K, Processing(low_pass=8.0, filter=kind))
    power, before = (np.square(np.abs(np.fft.rfftn(v))) for v in (limited, noise))
    beyond, within = K > 1.11 / end, K < 0.94 / end
    assert power[beyond].max() < 1e-6 * before.mean()
    np.testing.assert_allclose(power[within], before[within], rtol=1e-3)
    assert limit_target(noise, K, Processing()) is noise


def test_soft_masks_fall_to_zero_over_their_edge(simulated, mean):
    made = process_map(
        simulated,
        mean,
        Processing(surrounding="mask", distance=3.0, edge=4.0),
        np.random.default_rng(0),
    )
    away = measure_distances(simulated)
    np.testing.assert_allclose(made.volume[away < 2.5], mean[away < 2.5], atol=1e-5)
    assert not made.volume[away > 9].any() and not made.target[away > 9].any()
    edge = (away > 4.0) & (away < 5.5)
    ratio = np.abs(made.volume[edge]).sum() / np.abs(mean[edge]).sum()
    assert 0.2 < ratio < 0.95


def test_zones_are_hard_and_cut_to_their_box(simulated, mean):
    step = Processing(surrounding="zone", distance=4.0, margin=2)
    made = process_map(simulated, mean, step, np.random.default_rng(0))
    away = measure_distances(simulated)[made.box]
    inside, part = away < 3, mean[made.box]
    assert made.volume.shape == away.shape and min(away.shape) < EDGE
    np.testing.assert_allclose(made.volume[inside], part[inside], atol=1e-5)
    assert not made.volume[away > 5].any()
    assert made.volume[2:-2].any() and not made.volume[0].any()


def test_a_zone_may_be_about_a_part_of_the_molecule(molecule):
    part = choose_part(molecule, 0.5, np.random.default_rng(0))
    assert len(part) == pytest.approx(0.5 * len(molecule), rel=0.02)
    assert choose_part(molecule, 1.0, np.random.default_rng(0)) is molecule


def test_the_box_about_a_region_has_its_margin_where_there_is_room():
    inside = np.zeros((10, 12, 14), bool)
    inside[2:4, 5, 1:13] = True
    assert bound_region(inside, 2) == (slice(0, 6), slice(3, 8), slice(0, 14))


def test_a_cut_is_full_of_density():
    rng = np.random.default_rng(0)
    atoms = 40 + 40 * rng.random((4000, 3))  # a cube of 40 voxels
    box = place_cut(atoms, (100, 100, 100), 60, rng)
    sizes = [part.stop - part.start for part in box]
    assert all(16 <= size <= 28 for size in sizes)
    within = np.all(
        [(atoms[:, i] >= p.start) & (atoms[:, i] < p.stop) for i, p in enumerate(box)], 0
    )
    assert within.sum() > 0.6 * 4000 * np.prod(sizes) / 40**3


def test_a_cut_leaves_what_it_holds(simulated, mean):
    step = Processing(surrounding="cut", edge=24.0)
    made = process_map(simulated, mean, step, np.random.default_rng(0))
    np.testing.assert_allclose(made.volume, mean[made.box], atol=1e-5)
    np.testing.assert_array_equal(made.target, simulated.target[made.box])
    assert max(made.volume.shape) <= 24


def test_eight_bits_have_256_values(noise):
    made = quantise(noise)
    assert len(np.unique(made)) <= 256 and made.min() == 0 and made.max() == 255
    step = np.ptp(noise) / 255
    np.testing.assert_allclose(made * step + noise.min(), noise, atol=0.501 * step)
    assert not quantise(np.zeros_like(noise)).any()


def test_level_and_scale(simulated, mean):
    made = process_map(
        simulated, mean, Processing(level=-0.5, scale=20.0), np.random.default_rng(0)
    )
    np.testing.assert_allclose(
        made.volume, 20 * (mean - 0.5 * mean.std()), atol=1e-3 * 20 * mean.std()
    )
    np.testing.assert_array_equal(made.target, simulated.target)


def test_a_map_that_nothing_is_done_to_stays(simulated, mean):
    made = process_map(simulated, mean, Processing(), np.random.default_rng(0))
    np.testing.assert_allclose(made.volume, mean, atol=1e-5 * mean.std() * 10)


def test_every_step_is_drawn_and_every_map_stays_finite(simulated, mean):
    rng = np.random.default_rng(0)
    drawn = [draw_processing(rng, 4.0, 150.0, 1.0) for _ in range(300)]
    signs = [np.sign(p.b_factor) for p in drawn]
    assert {-1, 0, 1} == set(signs)
    sharpened = [-p.b_factor for p in drawn if p.b_factor < 0]
    assert min(sharpened) < 100 and max(sharpened) > 250  # 210 would undo all that was lost
    assert {p.surrounding for p in drawn} == {"whole", "mask", "zone", "cut"}
    assert {p.filter for p in drawn if p.low_pass} == {"hard", "cosine", "gaussian"}
    assert {p.weighted for p in drawn} == {p.eight_bit for p in drawn} == {True, False}
    assert any(p.local_b for p in drawn) and any(p.level for p in drawn)
    for step in drawn[:25]:
        made = process_map(simulated, mean, step, rng)
        assert np.isfinite(made.volume).all() and made.volume.shape == made.target.shape


def test_steep_sharpening_always_ends(simulated):
    rng = np.random.default_rng(0)
    steep = [draw_processing(rng, 8.0, 500.0, 1.0) for _ in range(100)]
    steep = [p for p in steep if p.b_factor < -96]
    assert len(steep) > 20 and all(p.low_pass and p.low_pass >= 6.4 for p in steep)
    assert {p.filter for p in steep} == {"cosine"}


def measure_distances(simulated):
    """Distance of each voxel from the nearest atom, in A."""
    places = np.argwhere(np.ones(simulated.half1.shape, bool))[:, ::-1] * simulated.sampling_rate
    tree = cKDTree(simulated.molecule.positions)
    return tree.query(places)[0].reshape(simulated.half1.shape)
