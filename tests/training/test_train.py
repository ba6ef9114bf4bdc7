"""The trainer's parts against NumPy, and short trainings of a tiny network."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from small_network import SMALL

from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.enhancement.orientations import rotate_cube
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.noise.directions import measure_sampling
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.noise.statistics import noise_from_map
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training import cubes as cubes_module
from deepemhancer_plugin.core.training import train as train_module
from deepemhancer_plugin.core.training.cubes import Mixed, Simulation, Task, cubes, volume
from deepemhancer_plugin.core.training.losses import Loss
from deepemhancer_plugin.core.training.pool import Pool, _corrupt
from deepemhancer_plugin.core.training.train import (
    PUBLISHED_SETTINGS,
    Settings,
    Trainer,
    learning_rate,
    plateau,
)
from deepemhancer_plugin.core.weights.embedded import FOLDER, load_file
from deepemhancer_plugin.core.weights.networks import (
    PUBLISHED,
    Architecture,
    build,
    load_weights,
    save_weights,
)

EDGE = 16
TINY = Settings(
    architecture=SMALL,
    edges=(EDGE,),
    batch=2,
    steps=40,
    rate=3e-3,
    warmup=5,
    precision="float32",
    average=0.8,
    validate_every=20,
    validation_cubes=2,
    workers=1,
    schedule="plateau",
)


@pytest.fixture(autouse=True)
def dtype_policy():
    import keras

    before = keras.config.dtype_policy().name
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def molecule():
    return from_structure(build_protein())[:400]


@pytest.fixture(scope="module")
def samples(molecule):
    """Cubes of one molecule that hold some of it."""
    inputs, targets = cubes(molecule, np.random.default_rng(5), 12, EDGE, noise_only=0)
    full = np.abs(targets).max((1, 2, 3, 4)) > 0.1
    assert full.sum() >= 4
    return inputs[full], targets[full]


class FixedPool:
    """The pool's interface over given cubes, the same for every run."""

    def __init__(self, samples):
        self.samples = samples

    def batch(self, count, edge, rng, blur=0.0):
        return self.samples[0][:count], self.samples[1][:count]

    def filled(self):
        return len(self.samples[0])


@pytest.mark.parametrize(
    "kind, bfloat16, precision",
    [("gpu", True, "mixed_bfloat16"), ("cpu", True, "mixed_bfloat16"), ("cpu", False, "float32")],
)
def test_precision_is_the_device_s(tmp_path, monkeypatch, kind, bfloat16, precision):
    """bfloat16 takes a CPU without units for it ten times as long and more."""
    where = Devices(["/CPU:0"], [], kind, "", "", bfloat16)
    monkeypatch.setattr(train_module.devices, "select_devices", lambda: where)
    trainer = Trainer(replace(TINY, precision="auto"), tmp_path)
    assert (
        trainer.settings.precision == precision
        and trainer.network.model.get_layer("first").dtype_policy.name == precision
    )


# ------------------------------------------------------------------------------------------------------------------------ schedule


def test_learning_rate_is_a_warm_up_and_half_a_cosine():
    settings = Settings(steps=1000, warmup=100, rate=2.0)
    assert learning_rate(settings, 0, 0) == pytest.approx(2 / 100)
    assert learning_rate(settings, 500, 0) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert learning_rate(settings, 250, 0) == pytest.approx(
        2 * (0.01 + 0.99 * (1 + np.sqrt(0.5)) / 2)
    )
    assert (
        learning_rate(settings, 1000, 0) == learning_rate(settings, 5000, 0) == pytest.approx(0.02)
    )
    rates = [learning_rate(settings, i, 0) for i in range(1000)]
    assert (
        max(rates) <= 2 and np.argmax(rates) in (98, 99, 100) and (np.diff(rates[100:]) < 0).all()
    )


def test_learning_rate_follows_the_clock_when_it_is_ahead():
    settings = Settings(steps=1000, minutes=60, warmup=1, rate=1.0)
    assert learning_rate(settings, 10, 30) == pytest.approx(0.505)
    assert learning_rate(settings, 500, 3) == pytest.approx(0.505)


def test_without_a_warm_up_the_rate_begins_at_its_peak():
    assert learning_rate(Settings(steps=1000, warmup=0, rate=2.0), 0, 0) == 2.0


def test_plateau_halves_after_five_validations_without_a_new_best():
    assert plateau([]) == plateau([3, 2, 1, 0.5]) == plateau([1, 2, 2, 2, 2]) == 1
    assert plateau([1, 2, 2, 2, 2, 1]) == plateau([1, 2, 2, 2, 2, 2, 0.5, 3]) == 0.5
    assert plateau([1] * 11) == 0.25


# ---------------------------------------------------------------------------------------------------------------------------- loss


def numpy_shells(a, b):
    """Sums over the shells of a b*, |a|^2 and |b|^2."""
    n = len(a)
    a, b = np.fft.fftn(a.astype(np.float64)), np.fft.fftn(b.astype(np.float64))
    shell = np.round(
        np.sqrt(sum(g**2 for g in np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 3, indexing="ij")))
    ).astype(int)
    return [
        np.array([values[shell == i].sum() for i in range(1, n // 2 + 1)])
        for values in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    ]


def numpy_fsc(a, b):
    cross, first, second = numpy_shells(a, b)
    return cross / np.sqrt(first * second)


@pytest.mark.parametrize("edge", [8, 12])
def test_fsc_of_the_loss_is_that_of_the_fft(edge):
    target = np.random.default_rng(0).standard_normal((3, edge, edge, edge, 1)).astype(np.float32)
    prediction = target + np.random.default_rng(1).standard_normal(target.shape).astype(np.float32)
    curve, filled = (np.asarray(a) for a in Loss(1.0).shells(target, prediction))
    assert curve.shape == (3, edge // 2) and (filled == 1).all()
    for i in range(3):
        np.testing.assert_allclose(
            curve[i], numpy_fsc(target[i, ..., 0], prediction[i, ..., 0]), atol=1e-4
        )


def test_shells_that_the_target_leaves_empty_do_not_count():
    z = np.arange(16)
    target = np.zeros((2, 16, 16, 16, 1), np.float32)
    target[0] = np.cos(2 * np.pi * 3 * z / 16)[
        :, None, None, None
    ]  # the third shell alone; the second cube is empty
    _, filled = Loss(1.0).shells(target, target)
    np.testing.assert_array_equal(np.asarray(filled), [[0, 0, 1, 0, 0, 0, 0, 0], [0] * 8])


def test_loss_is_the_mean_absolute_error_and_the_fsc():
    target = np.random.default_rng(0).standard_normal((1, 8, 8, 8, 1)).astype(np.float32)
    assert float(Loss(0.0)(target, target + 0.25)) == pytest.approx(0.25, rel=1e-4)
    assert float(Loss(0.0, absolute_weight=0.2)(target, target + 0.25)) == pytest.approx(
        0.05, rel=1e-4
    )
    assert float(Loss(0.5)(target, target)) == pytest.approx(0, abs=1e-4)
    half = np.where(np.arange(8)[:, None] < 4, target, 0.01)  # the other half is next to nothing
    share = (np.abs(half) < 0.02).mean()
    assert float(Loss(0.0, empty_weight=7.0)(half, half + 0.25)) == pytest.approx(
        0.25 * (1 + 6 * share), rel=1e-4
    )
    other = np.random.default_rng(1).standard_normal(target.shape).astype(np.float32)
    expected = (
        np.abs(target - other).mean()
        + 0.5 * (1 - numpy_fsc(target[0, ..., 0], other[0, ..., 0])).mean()
    )
    assert float(Loss(0.5)(target, other)) == pytest.approx(expected, rel=1e-3)


def test_squared_error_is_relative_to_each_cube_and_asks_for_the_mean():
    """Where 0 and 1 are equally likely the best answer is a half, while every answer between them has the same absolute error."""
    target, prediction = (
        np.random.default_rng(i).standard_normal((2, 6, 6, 6, 1)).astype(np.float32)
        for i in range(2)
    )
    target[1] *= 0.1
    error, power = (
        np.square(a.astype(np.float64)).mean((1, 2, 3, 4)) for a in (target - prediction, target)
    )
    expected = np.abs(target - prediction).mean() + 0.3 * (error / (power + 2e-3)).mean()
    assert float(Loss(0.0, square_weight=0.3)(target, prediction)) == pytest.approx(
        expected, rel=1e-5
    )
    likely = (np.arange(216) % 2).astype(np.float32).reshape(1, 6, 6, 6, 1)
    answers = np.linspace(0, 1, 11)
    losses = [
        float(Loss(0.0, square_weight=1.0)(likely, np.full_like(likely, answer)))
        for answer in answers
    ]
    assert answers[np.argmin(losses)] == pytest.approx(0.5)


def test_gradient_term_is_the_mean_error_of_the_differences_of_neighbours():
    target, prediction = (
        np.random.default_rng(i).standard_normal((2, 6, 6, 6, 1)).astype(np.float32)
        for i in range(2)
    )
    error = (target - prediction)[..., 0].astype(np.float64)
    expected = np.abs(error).mean() + 0.3 * np.mean(
        [np.abs(np.diff(error, axis=axis)).mean() for axis in (1, 2, 3)]
    )
    assert float(Loss(0.0, 0.3)(target, prediction)) == pytest.approx(expected, rel=1e-5)
    assert float(Loss(0.0, 0.3)(target, target + 1)) == pytest.approx(
        1, rel=1e-5
    )  # a constant has no gradient


# --------------------------------------------------------------------------------------------------------------------------- cubes


def test_rotations_are_the_24_proper_ones():
    """Each turns the cube of coordinates by a signed permutation matrix of determinant +1; all are different."""
    n = 4
    coordinates = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2] * 3, indexing="ij"), -1)
    found = set()
    for i in range(24):
        turned = rotate_cube(coordinates, i).reshape(-1, 3)
        matrix, residual, _, _ = np.linalg.lstsq(coordinates.reshape(-1, 3), turned, rcond=None)
        assert residual.max() < 1e-20 and np.linalg.det(matrix) == pytest.approx(1)
        np.testing.assert_allclose(
            np.sort(np.abs(matrix), axis=None), [0] * 6 + [1] * 3, atol=1e-12
        )
        found.add(tuple(np.round(matrix).astype(int).ravel()))
    assert len(found) == 24


def test_a_simulated_map_and_its_cubes(molecule):
    inputs, target, atoms = volume(molecule, np.random.default_rng(5), (96, 100), noise_only=0)
    assert inputs.shape == (*target.shape, 2) and all(95 <= n <= 101 for n in target.shape)
    z, y, x = np.round(atoms).astype(int).T
    assert target[z, y, x].mean() > 10 * target.mean()  # atoms are given in voxels of the map
    xs, ys = cubes(molecule, np.random.default_rng(5), 3, 24)
    assert (
        xs.shape == (3, 24, 24, 24, 2)
        and ys.shape == (3, 24, 24, 24, 1)
        and xs.dtype == ys.dtype == np.float16
    )
    assert np.isfinite(xs).all() and np.isfinite(ys).all()
    again = cubes(molecule, np.random.default_rng(5), 3, 24)
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
            volume(molecule, np.random.default_rng(seed), (48, 52), noise_only=share)
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
        volume(molecule, np.random.default_rng(seed), (48, 52), noise_only=1)
    factors, exponents = zip(*((c.b_factor, c.noise_exponent) for c in seen), strict=True)
    assert (
        0 <= min(factors) < 30
        and 270 < max(factors) <= 300
        and -2.5 <= min(exponents) < -2
        and 0.5 < max(exponents) <= 1.2
    )


def test_a_noise_of_nothing_is_not_believed(molecule, monkeypatch):
    monkeypatch.setattr(cubes_module, "SINGLE", 1.0)
    monkeypatch.setattr(cubes_module, "noise_from_map", lambda _: NoiseStats(0.0, 1e-154, "shell"))
    inputs, _, _ = volume(molecule, np.random.default_rng(5), (48, 52), noise_only=0)
    assert np.isfinite(inputs).all() and np.abs(inputs).max() < 20


@pytest.mark.parametrize("single", [0.0, 1.0])
def test_noise_of_preferred_views_is_evened_out_where_halves_tell_it(molecule, monkeypatch, single):
    crowded = Conditions(resolution=8.0, box=64, preferred=0.8, reconstruction=False)
    monkeypatch.setattr(cubes_module, "random_conditions", lambda *_, **__: crowded)
    monkeypatch.setattr(cubes_module, "SINGLE", single)
    make = lambda: volume(
        molecule, np.random.default_rng(5), (64, 64), Task(compress=False), noise_only=0, typical=0
    )[0][..., 0]  # noqa: E731
    made = measure_sampling(make())[1]
    monkeypatch.setattr(cubes_module, "UNEVEN", np.inf)
    left = measure_sampling(make())[1]
    assert left > 2 and (made == left if single else made < 0.6 * left)


def drawn(molecule, task, seed, monkeypatch, micelle=0.5):
    """A simulated map of the given task with a micelle around the molecule, and the conditions that it was simulated under."""
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
        return *volume(molecule, np.random.default_rng(seed), (96, 100), task, noise_only=0), seen[
            0
        ]


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
        volume(molecule, np.random.default_rng(seed), (48, 52), noise_only=0)
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

        def cubes(self, entry, rng, count, edge):
            assert 0 <= entry < self.length
            return np.full((count, edge, edge, edge, 1), self.value), np.full(
                (count, edge, edge, edge, 1), entry
            )

    mixed, rng = Mixed(Constant(1, 3), Constant(2, 7), 0.3), np.random.default_rng(0)
    drawn = [mixed.cubes(mixed.draw(rng), rng, 1, 2) for _ in range(2000)]
    values, entries = (np.array([d[i].flat[0] for d in drawn]) for i in range(2))
    assert (values == 2).mean() == pytest.approx(0.3, abs=0.04)
    assert set(entries[values == 1]) == set(range(3)) and set(entries[values == 2]) == set(range(7))
    in_turn = [mixed.cubes(i, rng, 1, 2)[0].flat[0] for i in range(len(mixed))]
    assert in_turn == [1, 2] * 7  # a validation set sees both


@pytest.mark.parametrize("edge", [8, 16, 32])
def test_corruption_is_a_patch_of_noise_with_an_empty_target(edge):
    for seed in range(20):
        cube, target = (
            np.zeros((edge, edge, edge, 2), np.float16),
            np.ones((edge, edge, edge, 1), np.float16),
        )
        _corrupt(cube, target, np.random.default_rng(seed))
        patch = target[..., 0] == 0
        assert patch.any() and not cube[~patch].any()
        extents = [
            np.flatnonzero(patch.any(tuple(b for b in range(3) if b != a))) for a in range(3)
        ]
        assert all(
            len(e) == e[-1] - e[0] + 1 <= edge // 3 for e in extents
        ) and patch.sum() == np.prod([len(e) for e in extents])
        assert (cube[patch] != 0).mean() > 0.9


# ---------------------------------------------------------------------------------------------------------------------------- pool

POOL = """
import os
import numpy as np
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.pool import Pool
from deepemhancer_plugin.core.training.cubes import Simulation
with Pool(Simulation([from_structure(build_protein())[:200]]), 8, 32, 2, 1, 0) as pool:
    pool.wait(8)
    processes = pool._processes
    assert all(p.is_alive() for p in processes) and pool.filled() >= 8
    inputs, targets = pool.batch(5, 24, np.random.default_rng(0))
assert inputs.shape == (5, 24, 24, 24, 2) and targets.shape == (5, 24, 24, 24, 1) and inputs.dtype == np.float16
assert np.isfinite(inputs).all() and inputs.std((1, 2, 3)).min() > 0
assert not any(p.is_alive() for p in processes)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no children")
"""


def test_pool_gives_cubes_and_leaves_no_process():
    done = subprocess.run(
        [sys.executable, "-c", POOL],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stdout == "no children\n", done.stderr[-2000:]


def test_batches_are_parts_of_the_cubes_turned():
    """Without processes: the pool's memory filled by hand."""
    pool = Pool(Simulation([]), 8, 12, 1, 1, 0)
    values = np.arange(12**3, dtype=np.float16).reshape(12, 12, 12, 1) / 2
    pool.inputs[:], pool.targets[:], pool.version[:] = values, values + 1, 2
    parts = {
        tuple(rotate_cube(values[a : a + 10, b : b + 10, c : c + 10], i).ravel()[:200])
        for i in range(24)
        for a, b, c in itertools.product(range(3), repeat=3)
    }
    inputs, targets = pool.batch(60, 10, np.random.default_rng(0))
    same = [i for i in range(60) if np.array_equal(inputs[i] + 1, targets[i])]
    assert 45 <= len(same) < 60  # about a tenth is corrupted
    assert (
        all(tuple(inputs[i].ravel()[:200]) in parts for i in same)
        and len({float(inputs[i, 0, 0, 0, 0]) for i in same}) > 10
    )


def test_blur_takes_detail_from_some_inputs_and_none_from_the_targets():
    pool = Pool(Simulation([]), 8, 16, 1, 1, 0)
    pool.inputs[:] = pool.targets[:] = np.random.default_rng(0).standard_normal((8, 16, 16, 16, 1))
    pool.version[:] = 2
    inputs, targets = pool.batch(40, 16, np.random.default_rng(0), blur=0.5)
    assert targets.astype(np.float32).std((1, 2, 3, 4)).min() > 0.9
    blurred = inputs.astype(np.float32).std((1, 2, 3, 4)) < 0.7
    assert 8 <= blurred.sum() <= 32


def test_cubes_are_renewed_as_fast_as_they_are_used(molecule):
    with Pool(Simulation([molecule]), 16, 16, 2, 1, 0) as pool:
        pool.wait(16)
        for drawn, filled in ((0, 16), (3, 24), (8, 32)):  # eight come from one volume
            pool.batch(drawn, 16, np.random.default_rng(0))
            end = time.monotonic() + 60
            while pool.filled() < filled and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.5)
            assert pool.filled() == filled


def test_a_dead_worker_is_noticed(molecule):
    with Pool(Simulation([molecule]), 8, 32, 2, 1, 0) as pool:
        pool._processes[0].kill()
        pool._processes[0].join()
        with pytest.raises(RuntimeError, match="died"):
            pool.wait(8)
        pool.version[:] = 2  # once filled, the same cubes would serve for ever
        with pytest.raises(RuntimeError, match="died"):
            pool.batch(1, 32, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------------------------------ training


def variables(trainer):
    return [np.asarray(v) for v in trainer._variables()]


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory):
    """Forty steps at once: the trainer, what it reported, its folder."""
    folder, reports = tmp_path_factory.mktemp("at once"), []
    trainer = Trainer(TINY, folder)
    trainer.run(FixedPool(samples), (samples[0][:2], samples[1][:2]), reports.append)
    return trainer, reports, folder


def test_training_reduces_the_loss(trained, samples):
    trainer, reports, _ = trained
    untrained = float(
        Loss(TINY.fsc_weight)(samples[1][:2], np.zeros_like(samples[1][:2]))
    )  # a new network gives zeros
    with trainer.averaged():
        loss = float(
            trainer.loss(samples[1][:2], trainer.network.model(samples[0][:2].astype(np.float32)))
        )
    assert loss < 0.9 * untrained
    assert (
        reports[0]["step"] == 20
        and reports[-1]["step"] == 40
        and reports[-1]["loss"] < reports[0]["loss"]
    )
    assert [entry["looks"] for entry in reports] == [
        20 * TINY.batch / len(samples[0]),
        20 * TINY.batch,
    ]  # no new cube came later
    assert reports[-1]["mae"] < np.abs(samples[1][:2]).mean() and reports[-1]["cc"] > 0.2


def test_files_of_a_training(trained, samples):
    trainer, reports, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.npz",
        "history.json",
        "weights.npz",
    ]
    assert json.loads((folder / "history.json").read_text()) == reports
    network, facts = load_weights(folder / "weights.npz")
    assert (
        network.architecture == SMALL
        and facts["step"] == 40
        and facts["settings"]["minutes"] is None
    )
    raw = [np.asarray(v) for v in trainer.network.model.trainable_variables]
    with trainer.averaged():
        averaged = [np.asarray(v) for v in trainer.network.model.trainable_variables]
    for value, mean in zip(network.model.trainable_variables, averaged, strict=True):
        np.testing.assert_array_equal(np.asarray(value), mean.astype(np.float16))
    assert max(np.abs(a - b).max() for a, b in zip(raw, averaged, strict=True)) > 1e-4
    for before, after in zip(raw, trainer.network.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(
            before, np.asarray(after)
        )  # the training goes on with its own weights


def test_a_training_with_muon_resumes_with_it_alone(samples, tmp_path):
    settings = replace(
        TINY,
        architecture=replace(SMALL, widths=(16,) * len(SMALL.widths)),
        optimizer="muon",
        steps=4,
    )
    first = Trainer(settings, tmp_path)
    first.run(FixedPool(samples), (samples[0][:2], samples[1][:2]), lambda entry: None)
    for a, b in zip(variables(first), variables(Trainer(settings, tmp_path)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="the settings that it was begun with"):
        Trainer(replace(settings, optimizer="adam"), tmp_path)


def test_stop_and_resume_is_as_one_training(trained, samples, tmp_path):
    validation = (samples[0][:2], samples[1][:2])
    first = Trainer(replace(TINY, steps=20), tmp_path)
    first.run(FixedPool(samples), validation, lambda entry: None)
    second = Trainer(TINY, tmp_path)
    assert second.step == 20 and second.history == first.history
    for a, b in zip(variables(first), variables(second), strict=True):
        np.testing.assert_array_equal(a, b)
    second.run(FixedPool(samples), validation, lambda entry: None)
    assert second.step == 40
    for a, b in zip(variables(trained[0]), variables(second), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * max(1e-3, np.abs(a).max()))


def test_a_finished_training_started_again_changes_nothing(trained, samples):
    _, reports, folder = trained
    before = (folder / "checkpoint.npz").read_bytes()
    again = Trainer(TINY, folder)
    again.run(
        FixedPool(samples),
        (samples[0][:2], samples[1][:2]),
        lambda entry: pytest.fail("nothing is to be done"),
    )
    assert (
        again.step == 40
        and again.history == reports
        and (folder / "checkpoint.npz").read_bytes() == before
    )


def test_training_can_start_from_weights(trained, tmp_path):
    started = Trainer(TINY, tmp_path, start=trained[2] / "weights.npz")
    assert started.step == 0
    with trained[0].averaged():
        for a, b in zip(
            trained[0].network.model.trainable_variables,
            started.network.model.trainable_variables,
            strict=True,
        ):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-6)
    # Also for maps that are normalised in another way: what the network has learned of molecules stays.
    masked = Trainer(
        replace(TINY, architecture=replace(SMALL, normalization="mask")),
        tmp_path / "masked",
        start=trained[2] / "weights.npz",
    )
    assert masked.network.architecture.normalization == "mask"


def test_a_loss_that_is_no_number_stops_the_training(samples, tmp_path):
    broken = (np.full_like(samples[0], np.nan), samples[1])
    trainer = Trainer(TINY, tmp_path)
    with pytest.raises(FloatingPointError, match=r"nan at step [12];"):
        trainer.run(FixedPool(broken), (samples[0][:2], samples[1][:2]), lambda entry: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage", [b"", b"PK", b"no checkpoint", "truncated", "flipped", "other network"]
)
def test_a_damaged_checkpoint_is_an_error_in_one_line(trained, tmp_path, damage):
    path, content = (
        tmp_path / "checkpoint.npz",
        bytearray((trained[2] / "checkpoint.npz").read_bytes()),
    )
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 3] ^= 0x55
    elif isinstance(damage, bytes):
        content = bytearray(damage)
    path.write_bytes(content)
    settings = (
        replace(TINY, architecture=replace(SMALL, widths=(4, 8, 4)))
        if damage == "other network"
        else TINY
    )
    with pytest.raises(
        InputError, match="another network" if damage == "other network" else "damaged"
    ) as caught:
        Trainer(settings, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_architecture_cannot_be_started_from(trained, tmp_path):
    with pytest.raises(InputError, match=r"weights\.npz: weights of another network"):
        Trainer(
            replace(TINY, architecture=replace(SMALL, channels=1)),
            tmp_path,
            start=trained[2] / "weights.npz",
        )


def test_held_out_cubes_without_any_molecule_give_numbers(samples, tmp_path):
    found = Trainer(TINY, tmp_path).validate(samples[0][:2], np.zeros_like(samples[1][:2]))
    assert (
        found["fsc"] == found["cc"] == 0 and found["noise"] == 0 and found["mae"] == 0
    )  # a new network gives nothing


def test_what_a_thread_of_batches_raises_arrives_at_once():
    def make(rng):
        raise KeyError("a broken pool")

    batches = train_module._Prefetch(make, [0], 2)
    started = time.monotonic()
    with pytest.raises(KeyError, match="a broken pool"):
        batches.get()
    batches.close()
    assert time.monotonic() - started < 5


def test_plateau_goes_on_where_a_resumed_training_was(samples, tmp_path):
    """Three validations that get no better, a stop, three more: the rate is halved once, as without the stop."""

    class Trap(Trainer):
        def validate(self, inputs, targets):
            return {"mae": 1.0, "fsc": 0.0, "cc": 0.0, "noise": 0.0}

    rates = []
    for steps in (6, 14):
        trainer = Trap(replace(TINY, steps=steps, validate_every=2), tmp_path)
        trainer.run(
            FixedPool(samples),
            (samples[0][:1], samples[1][:1]),
            lambda entry: rates.append((entry["step"], entry["rate"])),
        )
    assert dict(rates)[12] == TINY.rate and dict(rates)[14] == TINY.rate / 2


# ---------------------------------------------------------------------------------------------------------- architectures and commands

VARIANTS = [
    Architecture(channels=1, widths=(4, 8), blocks=(1, 1), norm="none", entrance=1),
    replace(SMALL, norm="group"),
    replace(PUBLISHED, widths=(4, 8), blocks=(1, 1)),
]


@pytest.mark.parametrize("architecture", VARIANTS, ids=["entrance 1", "group", "published"])
def test_every_architecture_trains_and_comes_back_from_its_file(architecture, samples, tmp_path):
    settings = replace(
        TINY,
        architecture=architecture,
        steps=4,
        validate_every=4,
        **{"average": 0.0} if architecture.kind == "published" else {},
    )
    mine = (samples[0][..., : architecture.channels], samples[1])
    trainer = Trainer(settings, tmp_path)
    before = variables(trainer)
    trainer.run(FixedPool(mine), (mine[0][:1], mine[1][:1]), lambda entry: None)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, variables(trainer), strict=True))
    model = load_file(str(tmp_path / "weights.npz"))
    assert model.architecture == architecture and model.stride == (
        16 if architecture.kind == "published" else 48
    )
    cube = mine[0][:1].astype(np.float32)
    expected = np.asarray(trainer.network.model(cube))[..., 0]
    if (
        architecture.kind == "published"
    ):  # without an average the weights in the file are the last ones
        np.testing.assert_allclose(
            model.predictor()(cube), expected, atol=0.02 * max(1.0, np.abs(expected).max())
        )


def test_the_published_network_is_the_published_one():
    """Seven blocks (three down, the bottom, three up) of three convolutions with group normalisation and PReLU; 168 GFLOP a window of 64^3."""
    from keras import layers

    model = build(PUBLISHED).model
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(layers.GroupNormalization) == kinds.count(layers.PReLU) == 21
    assert {layer.filters for layer in model.layers if isinstance(layer, layers.Conv3D)} == {
        32,
        64,
        128,
        1,
    }
    grids = {
        "down": (64, 32, 16),
        "reduce": (32, 16, 8),
        "bottom": (0, 0, 8),
        "up": (64, 32, 16),
        "expand": (32, 16, 8),
    }
    operations = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv3D | layers.Conv3DTranspose) and layer.name != "last":
            way, level = re.match(r"([a-z]+)(\d)", layer.name).groups()
            operations += 2 * grids[way][int(level)] ** 3 * np.prod(layer.kernel.shape)
    assert operations == pytest.approx(168e9, rel=0.01)
    assert PUBLISHED.stride == 8 and not PUBLISHED.compressed
    settings = Settings(**PUBLISHED_SETTINGS)
    assert (
        settings.batch,
        settings.rate,
        settings.schedule,
        settings.fsc_weight,
        settings.edges,
    ) == (8, 1e-3, "plateau", 0.0, (64,))


def test_an_older_file_has_the_defaults(tmp_path):
    import json as text

    old = {"channels": 2, "widths": [4, 8, 8], "blocks": [1, 1, 1], "norm": "layer"}
    assert Architecture.from_dict(old) == SMALL
    assert load_file(str(FOLDER / "tightTarget.npz")).architecture == replace(
        Architecture(), answer="mean"
    )
    for name, value in (
        ("norm", "batch"),
        ("entrance", 3),
        ("kind", "other"),
        ("normalization", "min"),
        ("answer", "mode"),
        ("blocks", [1, 1]),
    ):
        save_weights(tmp_path / "w.npz", build(SMALL), {})
        with np.load(tmp_path / "w.npz") as data:
            arrays = dict(data)
        arrays["architecture"] = text.dumps(old | {name: value})
        np.savez(tmp_path / "w.npz", **arrays)
        with pytest.raises(InputError, match=rf"w\.npz.*{name}"):
            load_file(str(tmp_path / "w.npz"))
