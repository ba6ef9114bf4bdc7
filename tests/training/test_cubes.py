"""Cubes of simulated maps: their conditions, inputs and targets."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.noise import directions
from deepemhancer_plugin.core.noise.directions import measure_sampling
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.noise.statistics import noise_from_map
from deepemhancer_plugin.core.simulation import Conditions, simulate_halves
from deepemhancer_plugin.core.training import cubes as cubes_module
from deepemhancer_plugin.core.training.cubes import (
    Mixed,
    Task,
    Variety,
    simulate_cubes,
    simulate_volume,
)
from deepemhancer_plugin.core.training.processing import Processing


def test_a_simulated_map_and_its_cubes(molecule):
    inputs, target, atoms = simulate_volume(
        molecule, np.random.default_rng(5), (96, 100), noise_only=0
    )
    assert inputs.shape == (*target.shape, 2) and all(95 <= n <= 101 for n in target.shape)
    z, y, x = np.round(atoms).astype(int).T
    assert target[z, y, x].mean() > 10 * target.mean()  # atoms are given in voxels of the map
    xs, ys = simulate_cubes(molecule, np.random.default_rng(5), 3, 24)
    assert (
        xs.shape == (3, 24, 24, 24, 2)
        and ys.shape == (3, 24, 24, 24, 1)
        and xs.dtype == ys.dtype == np.float16
    )
    assert np.isfinite(xs).all() and np.isfinite(ys).all()
    again = simulate_cubes(molecule, np.random.default_rng(5), 3, 24)
    np.testing.assert_array_equal(xs, again[0])


def test_volumes_of_noise_have_an_empty_target_and_the_noise_that_a_single_map_would_show(
    molecule, monkeypatch
):
    seen, counts = [], []

    def estimate(a_map):
        seen.append(noise_from_map(a_map))
        return seen[-1]

    monkeypatch.setattr(cubes_module, "noise_from_map", estimate)
    for share in (1.0, 0.0):
        seen.clear()
        made = [
            simulate_volume(molecule, np.random.default_rng(seed), (48, 52), noise_only=share)
            for seed in range(24)
        ]
        assert all(np.any(target) == (share == 0) for _, target, _ in made)
        counts.append(len(seen))
    assert 0 < counts[1] < counts[0] < 24


def test_noise_is_of_every_colour(molecule, monkeypatch):
    seen, simulate_halves = [], cubes_module.simulate_halves
    monkeypatch.setattr(
        cubes_module,
        "simulate_halves",
        lambda *a, **k: seen.append(a[1]) or simulate_halves(*a, **k),
    )
    for seed in range(24):
        simulate_volume(molecule, np.random.default_rng(seed), (48, 52), noise_only=1)
    factors, exponents = zip(*((c.b_factor, c.noise_exponent) for c in seen), strict=True)
    assert (
        0 <= min(factors) < 30
        and 270 < max(factors) <= 300
        and -2.5 <= min(exponents) < -2
        and 0.5 < max(exponents) <= 1.2
    )


def test_a_noise_of_nothing_is_not_believed(molecule, monkeypatch):
    monkeypatch.setattr(cubes_module, "SINGLE_MAP", 1.0)
    monkeypatch.setattr(cubes_module, "noise_from_map", lambda _: NoiseStats(0.0, 1e-154, "shell"))
    inputs, _, _ = simulate_volume(molecule, np.random.default_rng(5), (48, 52), noise_only=0)
    assert np.isfinite(inputs).all() and np.abs(inputs).max() < 20


@pytest.mark.parametrize("single", [0.0, 1.0])
def test_noise_of_preferred_views_is_evened_out_where_halves_tell_it(molecule, monkeypatch, single):
    crowded = Conditions(resolution=8.0, box=64, preferred=0.8, reconstruction=False)
    monkeypatch.setattr(cubes_module, "random_conditions", lambda *_, **__: crowded)
    monkeypatch.setattr(cubes_module, "SINGLE_MAP", single)

    def anisotropy():
        rng, task = np.random.default_rng(5), Task(compress=False)
        made = simulate_volume(molecule, rng, (64, 64), task, noise_only=0, typical=0)
        return measure_sampling(made.inputs[..., 0])[1]

    made = anisotropy()
    monkeypatch.setattr(directions, "LEAST_ANISOTROPY", np.inf)
    left = anisotropy()
    assert left > 2 and (made == left if single else made < 0.6 * left)


def drawn(molecule, task, seed, monkeypatch, micelle=0.5):
    """A simulated map of the task with a micelle around the molecule, and its conditions."""
    seen = []
    random_conditions, simulate_halves = (
        cubes_module.random_conditions,
        cubes_module.simulate_halves,
    )

    def conditions(*arguments, **keywords):
        return replace(
            random_conditions(*arguments, **keywords),
            micelle=micelle,
            micelle_width=10.0,
            low_pass=None,
            weak=1.0,
        )

    def simulated(molecule, conditions, seed, target):
        seen.append(conditions)
        return simulate_halves(molecule, conditions, seed, target=target)

    with monkeypatch.context() as patch:
        patch.setattr(cubes_module, "random_conditions", conditions)
        patch.setattr(cubes_module, "simulate_halves", simulated)
        return *simulate_volume(
            molecule, np.random.default_rng(seed), (96, 100), task, noise_only=0
        ), seen[0]


@pytest.mark.parametrize("micelle", [0.5, 0.0])
def test_wide_target_is_the_tight_one_and_what_surrounds_it(molecule, monkeypatch, micelle):
    (inputs, tight, atoms, _), (same, wide, _, _) = (
        drawn(molecule, Task(target=target), 3, monkeypatch, micelle)
        for target in ("tight", "wide")
    )
    np.testing.assert_array_equal(inputs, same)
    free = np.ones(tight.shape, bool)
    free[tuple(np.round(atoms).astype(int).T)] = False
    away = ndimage.distance_transform_edt(free)
    shell = (away > 5) & (away < 7)  # beyond the tight mask, in the wide one
    assert np.abs(tight[shell]).max() < 0.03 and np.abs(wide[away > 11]).max() < 0.03
    assert wide[shell].mean() > 0.02 if micelle else abs(wide[shell].mean()) < 0.01
    assert np.corrcoef(tight[away < 1.5], wide[away < 1.5])[0, 1] > 0.95


def test_sharp_target_is_of_maps_better_than_4_a_and_sharper(molecule, monkeypatch):
    for seed in range(3):
        _, _, _, conditions = drawn(molecule, Task(target="sharp"), seed, monkeypatch)
        assert (
            conditions.resolution <= 4
            and 2.5 * conditions.sampling_rate <= 1.001 * conditions.resolution
        )
        assert (
            95 <= conditions.box * conditions.sampling_rate <= 115 and conditions.low_pass is None
        )
    at = Conditions(resolution=2.5, box=64, disorder=150.0)
    tight, sharp = (
        simulate_halves(molecule, at, 0, target=target) for target in ("tight", "sharp")
    )
    np.testing.assert_array_equal(tight.half1, sharp.half1)
    fine = spectrum_from(2.5, 4.0, 64)
    power = [np.square(np.abs(np.fft.fftn(s.target)[fine])).mean() for s in (tight, sharp)]
    assert power[1] > 1.1 * power[0]


@pytest.mark.parametrize("rate", [1.0, 1.5])
def test_model_target_is_the_models_map_as_far_as_the_halves_reach(molecule, rate):
    at = Conditions(resolution=5.0, box=64, sampling_rate=rate, disorder=150.0, sphere=False)
    plain = simulate_halves(molecule, at, 0, target="model")
    np.testing.assert_allclose(plain.target, 2 * plain.model, atol=1e-4 * plain.model.max())
    low = simulate_halves(molecule, replace(at, low_pass=8.0), 0, target="model")
    power = np.square(np.abs(np.fft.fftn(low.target)))
    assert power[spectrum_from(2 * rate, 7.2, 64, rate)].sum() < 1e-6 * power.sum()
    kept = spectrum_from(8.6, 1000, 64, rate)
    np.testing.assert_allclose(
        np.fft.fftn(low.target)[kept], np.fft.fftn(plain.target)[kept], rtol=1e-3, atol=1e-2
    )


def test_every_second_volume_is_of_the_conditions_that_are_met_most(molecule, monkeypatch):
    simulate_halves, random_conditions = (
        cubes_module.simulate_halves,
        cubes_module.random_conditions,
    )
    seen, typical = [], []

    def conditions(*arguments, **keywords):
        made = random_conditions(*arguments, **keywords)
        typical.extend([made] * bool(keywords.get("typical")))
        return made

    monkeypatch.setattr(cubes_module, "random_conditions", conditions)
    monkeypatch.setattr(
        cubes_module,
        "simulate_halves",
        lambda *a, **k: seen.append(a[1]) or simulate_halves(*a, **k),
    )
    for seed in range(24):
        simulate_volume(molecule, np.random.default_rng(seed), (48, 52), noise_only=0)
    used = [c for c in seen if replace(c, box=None) in typical]
    assert (
        len(seen) == 24
        and 8 <= len(used) == len(typical) <= 16
        and all(48 <= c.box <= 54 for c in used)
    )


def spectrum_from(finest, coarsest, n, rate=1.0):
    """Coefficients of a box of n voxels of `rate` A between two resolutions in A."""
    k = np.sqrt(
        sum(np.square(g) for g in np.meshgrid(*[np.fft.fftfreq(n, rate)] * 3, indexing="ij"))
    )
    return (k > 1 / coarsest) & (k < 1 / finest)


def test_masked_input_is_blank_outside_of_a_mask_about_the_molecule(molecule, monkeypatch):
    inputs, target, atoms, _ = drawn(molecule, Task(masked=True), 4, monkeypatch)
    plain, same, _, _ = drawn(molecule, Task(), 4, monkeypatch)
    assert inputs.shape == plain.shape and np.array_equal(same, target)
    blank = np.abs(inputs[..., 0]) < 0.02 * np.abs(inputs[..., 0]).max()
    z, y, x = np.round(atoms).astype(int).T
    assert (
        0.5 < blank.mean() and blank[z, y, x].mean() < 0.2 and np.abs(plain[blank, 0]).mean() > 0.03
    )
    assert (np.abs(target[blank]) > 0.3).sum() < 0.05 * (np.abs(target) > 0.3).sum()


def test_mixed_sources_are_drawn_by_their_share():
    class Constant:
        def __init__(self, value, length):
            self.value, self.length = value, length

        def __len__(self):
            return self.length

        def draw(self, rng):
            return int(rng.integers(self.length))

        def make_cubes(self, entry, rng, count, edge):
            assert 0 <= entry < self.length
            return np.full((count, edge, edge, edge, 1), self.value), np.full(
                (count, edge, edge, edge, 1), entry
            )

    mixed, rng = Mixed(Constant(1, 3), Constant(2, 7), 0.3), np.random.default_rng(0)
    drawn = [mixed.make_cubes(mixed.draw(rng), rng, 1, 2) for _ in range(2000)]
    values, entries = (np.array([d[i].flat[0] for d in drawn]) for i in range(2))
    assert (values == 2).mean() == pytest.approx(0.3, abs=0.04)
    assert set(entries[values == 1]) == set(range(3)) and set(entries[values == 2]) == set(range(7))
    in_turn = [mixed.make_cubes(i, rng, 1, 2)[0].flat[0] for i in range(len(mixed))]
    assert in_turn == [1, 2] * 7  # a validation set sees both


def test_variety_that_is_off_changes_nothing(molecule, monkeypatch):
    """No step is called, and no random number is drawn for it."""
    plain, off = (np.random.default_rng(3) for _ in range(2))
    expected = simulate_volume(molecule, plain, (48, 52))
    for name in ("draw_processing", "process_map", "_process", "_cut_peptide"):
        monkeypatch.delattr(cubes_module, name)
    made = simulate_volume(molecule, off, (48, 52), variety=Variety(0.0, 0.0, 0.0))
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert plain.random() == off.random()


@pytest.mark.parametrize("empty", [0.0, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_processed_maps_are_finite_and_empty_ones_ask_for_nothing(molecule, empty, masked):
    everything = Variety(1.0, 1.0, 0.0)
    for seed in range(6):
        rng, task = np.random.default_rng(seed), Task(masked=masked)
        made = simulate_volume(molecule, rng, (48, 52), task, empty, 0.5, everything)
        assert made.inputs.shape == (*made.target.shape, 2)
        assert np.isfinite(made.inputs).all() and np.isfinite(made.target).all()
        assert np.any(made.target) == (empty == 0)


def test_cut_maps_are_smaller_than_the_box_and_padded_to_cubes(molecule, monkeypatch):
    step = Processing(surrounding="cut", edge=24.0)
    monkeypatch.setattr(cubes_module, "draw_processing", lambda *_: step)
    variety = Variety(processed=1.0)
    made = simulate_volume(molecule, np.random.default_rng(1), (48, 52), Task(), 0, 1, variety)
    assert max(made.target.shape) <= 24 and made.inputs.shape[:3] == made.target.shape
    inside = np.all((made.atoms >= 0) & (made.atoms < made.target.shape), axis=1)
    z, y, x = (
        np.minimum(np.round(made.atoms[inside]), np.array(made.target.shape) - 1).astype(int).T
    )
    assert inside.any() and made.target[z, y, x].mean() > 1.5 * made.target.mean()
    xs, ys = simulate_cubes(molecule, np.random.default_rng(1), 2, 48, Task(), 0, 1, variety)
    assert xs.shape[1:4] == ys.shape[1:4] == (48, 48, 48)
    # The wrapped input comes with the target of what it shows.
    assert np.corrcoef(xs[..., 1].ravel(), ys[..., 0].ravel())[0, 1] > 0.2


def test_processed_maps_show_the_noise_that_use_finds_or_half_or_twice_of_it(molecule, monkeypatch):
    monkeypatch.setattr(cubes_module, "draw_processing", lambda *_: Processing())
    seen, found = [], []
    network_input = cubes_module.network_input

    def show(volume, rate, noise, *others):
        seen.append(noise.std)
        return network_input(volume, rate, noise, *others)

    def estimate(volume):
        found.append(noise_from_map(volume))
        return found[-1]

    monkeypatch.setattr(cubes_module, "network_input", show)
    monkeypatch.setattr(cubes_module, "noise_from_map", estimate)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        simulate_volume(molecule, rng, (40, 44), Task(), 0, 1, Variety(processed=1.0))
    ratio = np.array(seen) / [noise.std for noise in found]
    right = np.isclose(ratio, 1)
    assert 5 <= right.sum() < 12 and ((ratio >= 0.5) & (ratio <= 2)).all()


def test_a_wide_range_has_peptides_and_uneven_noise_is_asked_for(molecule, monkeypatch):
    simulate_halves, seen = cubes_module.simulate_halves, []

    def simulate(molecule, conditions, *others, **named):
        seen.append((len(molecule), conditions))
        small = replace(conditions, box=32, sampling_rate=1.0, resolution=4.0, symmetry="C1")
        return simulate_halves(molecule, small, *others, **named)

    monkeypatch.setattr(cubes_module, "simulate_halves", simulate)
    monkeypatch.setattr(cubes_module, "PEPTIDES", 0.3)
    monkeypatch.setattr(cubes_module, "PEPTIDE_ATOMS", (150, 300))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        simulate_volume(molecule, rng, (40, 44), Task(), 0, 0.5, Variety(0.0, 1.0, 1.0))
    counts, conditions = zip(*seen, strict=True)
    assert min(counts) < 400 and counts.count(400) > 15
    assert all(c.noise_growth > 0 for c in conditions)
    resolutions = [c.resolution for c in conditions]
    assert min(resolutions) < 2.2 and max(resolutions) > 11
    # The boxes are as large as asked for in A, whatever the voxels are.
    assert all(39 <= c.box * c.sampling_rate <= 60 for c in conditions)
