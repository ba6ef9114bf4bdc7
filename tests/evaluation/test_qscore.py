"""Q-scores against closed forms, a slow version of the definition, and the published rule."""

import numpy as np
import pytest

from deepemhancer_plugin.core.evaluation import qscore
from deepemhancer_plugin.core.evaluation.qscore import draw_atoms, q_scores
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.assembly import spread_directions
from deepemhancer_plugin.core.simulation.synthetic import build_protein

RADII = np.arange(21) * 0.1


def gaussians(positions, sigma, shape, rate):
    """Sum of Gaussians of `sigma` A at positions x, y, z in A, on a grid (z, y, x)."""
    grid = np.stack(np.meshgrid(*(np.arange(n) * rate for n in shape), indexing="ij"), -1)[
        ..., ::-1
    ]
    return sum(
        np.exp(-0.5 * (np.linalg.norm(grid - p, axis=-1) / sigma) ** 2)
        for p in np.asarray(positions, float)
    )


def linear(volume, points, rate):
    """Trilinear interpolation at points (x, y, z) in A, by the formula."""
    index = np.asarray(points)[:, ::-1] / rate
    low = np.floor(index).astype(int)
    t = index - low
    total = np.zeros(len(index))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, t, 1 - t), axis=1)
        total += weight * volume[tuple((low + corner).T)]
    return total


@pytest.mark.parametrize("sigma", [0.4, 0.6, 1.0, 1.5])
def test_lone_gaussian_has_its_closed_form(sigma):
    """Correlation of two Gaussians over spheres that count alike; voxels of 0.25 A."""
    volume = 3 * gaussians([(5.1, 5.0, 4.9)], sigma, (42, 40, 41), 0.25) + 2
    expected = np.corrcoef(np.exp(-0.5 * (RADII / sigma) ** 2), np.exp(-0.5 * (RADII / 0.6) ** 2))[
        0, 1
    ]
    assert q_scores(volume, [(5.1, 5.0, 4.9)], 0.25)[0] == pytest.approx(expected, abs=0.01)
    assert q_scores(-volume, [(5.1, 5.0, 4.9)], 0.25)[0] == pytest.approx(-expected, abs=0.01)


@pytest.fixture(scope="module")
def crowd():
    """Atoms 1.4 A apart and more in a noisy map."""
    rng = np.random.default_rng(1)
    places = []
    while len(places) < 60:
        place = rng.uniform(4, 14, 3)
        if all(np.linalg.norm(place - other) > 1.4 for other in places):
            places.append(place)
    shape, rate = (23, 22, 24), 0.8
    return (
        gaussians(places, 0.9, shape, rate) + 0.1 * rng.standard_normal(shape),
        np.array(places),
        rate,
    )


def slow(volume, positions, rate, atom):
    """Atom by atom, sphere by sphere, point by point."""
    u, v, weights = [], [], []
    for radius in RADII:
        points = positions[atom] + radius * spread_directions(qscore.DIRECTIONS)
        others = np.linalg.norm(points[:, None] - np.delete(positions, atom, 0), axis=2).min(1)
        points = points[others >= 0.9 * radius]
        u.append(linear(volume, points, rate))
        v.append(np.full(len(points), 7 * np.exp(-0.5 * (radius / 0.6) ** 2) - 1))
        weights.append(np.full(len(points), 1 / max(len(points), 1)))
    u, v, weights = map(np.concatenate, (u, v, weights))
    u, v = u - np.average(u, weights=weights), v - np.average(v, weights=weights)
    return (weights * u * v).sum() / np.sqrt((weights * u * u).sum() * (weights * v * v).sum())


def test_scores_are_their_definition(crowd):
    volume, positions, rate = crowd
    expected = [slow(volume, positions, rate, atom) for atom in range(len(positions))]
    assert np.std(expected) > 0.03
    np.testing.assert_allclose(q_scores(volume, positions, rate), expected, atol=1e-9)


def test_subset_and_batches_change_nothing(crowd, monkeypatch):
    volume, positions, rate = crowd
    all_of_them = q_scores(volume, positions, rate)
    some = np.array([50, 3, 17])
    np.testing.assert_allclose(
        q_scores(volume, positions, rate, some), all_of_them[some], atol=1e-12
    )
    monkeypatch.setattr(qscore, "BATCH", 7)
    np.testing.assert_allclose(q_scores(volume, positions, rate), all_of_them, atol=1e-12)
    assert len(q_scores(volume, positions, rate, np.zeros(0, int))) == 0


def test_scale_and_offset_do_not_matter(crowd):
    volume, positions, rate = crowd
    np.testing.assert_allclose(
        q_scores(1e-6 * volume + 3e-6, positions, rate),
        q_scores(volume, positions, rate),
        atol=1e-6,
    )


def test_second_conformer_in_the_same_place_takes_nothing_away(crowd):
    volume, positions, rate = crowd
    twice = q_scores(volume, np.concatenate([positions, positions[:5]]), rate)
    np.testing.assert_allclose(
        twice, np.concatenate([(once := q_scores(volume, positions, rate)), once[:5]]), atol=1e-9
    )


def test_constant_map_scores_nothing():
    assert not q_scores(np.full((12, 12, 12), 0.3), [(5, 5, 5), (6.4, 5, 5)], 1.0).any()


def eight_points(volume, positions, rate, atom):
    """The published rule: the first spiral of 8, 10, 12 ... points that leaves the atom eight."""
    u, v = [], []
    for radius in RADII:
        for n in range(8, 208, 2):
            points = positions[atom] + radius * spread_directions(n)
            others = np.linalg.norm(points[:, None] - np.delete(positions, atom, 0), axis=2).min(1)
            points = points[others >= 0.9 * radius][:8]
            if len(points) == 8:
                break
        u.append(linear(volume, points, rate))
        v.append(np.full(len(points), np.exp(-0.5 * (radius / 0.6) ** 2)))
    return np.corrcoef(np.concatenate(u), np.concatenate(v))[0, 1]


@pytest.mark.parametrize(("resolution", "low", "high"), [(2.3, 0.7, 0.95), (4.0, 0.3, 0.6)])
def test_agrees_with_the_rule_of_eight_points(resolution, low, high):
    """The mean of 30 atoms is the published rule's, and the scores fall with the resolution."""
    made = simulate_halves(
        from_structure(build_protein()),
        Conditions(resolution, box=64, sampling_rate=1.1, b_factor=0, disorder=0, pose_error=0),
        3,
    )
    volume = np.pad((made.half1 + made.half2).astype(float) / 2, 2)
    positions = made.molecule.positions + 2 * made.sampling_rate
    some = np.arange(0, len(positions), len(positions) // 30)[:30]
    got = q_scores(volume, positions, made.sampling_rate, some)
    expected = np.array(
        [
            eight_points(
                volume,
                positions[np.linalg.norm(positions - positions[i], axis=1).argsort()[:60]],
                made.sampling_rate,
                0,
            )
            for i in some
        ]
    )
    assert low < expected.mean() < high
    assert got.mean() == pytest.approx(expected.mean(), abs=0.015) and np.std(got - expected) < 0.06


def test_sphere_is_even():
    points = spread_directions(64)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(points.T @ points / 64, np.eye(3) / 3, atol=0.01)


def test_sample_is_drawn_once_each_and_repeats_with_its_seed():
    assert draw_atoms(10, None, 0) is None and draw_atoms(10, 10, 0) is None
    drawn = draw_atoms(1000, 100, 5)
    assert len(np.unique(drawn)) == 100 and drawn.max() < 1000 and (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, draw_atoms(1000, 100, 5))
    assert not np.array_equal(drawn, draw_atoms(1000, 100, 6))
