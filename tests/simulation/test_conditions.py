"""Conditions that are drawn."""

from dataclasses import replace

import numpy as np
import pytest

from deepemhancer_plugin.core.simulation import Conditions, random_conditions


def test_random_conditions_are_repeatable_and_within_their_range():
    drawn = [random_conditions(np.random.default_rng(i), typical=True) for i in range(50)]
    assert drawn == [random_conditions(np.random.default_rng(i), typical=True) for i in range(50)]
    assert all(
        2.6 <= c.resolution <= 6 and c.low_pass is None and c.symmetry == "C1" for c in drawn
    )
    assert len({c.resolution for c in drawn}) == 50
    wide = [random_conditions(np.random.default_rng(i)) for i in range(200)]
    assert all(0.5 <= c.sampling_rate <= 2.2 and 96 <= c.box * c.sampling_rate < 138 for c in wide)
    assert min(c.sampling_rate for c in wide) < 1 and {"C1", "helix", "shell", "D2"} <= {
        c.symmetry for c in wide
    }


def test_what_is_drawn_for_real_maps_leaves_the_other_draws_as_they_were():
    """The figures are those that were drawn before uneven noise and wide ranges existed."""
    rng = np.random.default_rng(0)
    plain = random_conditions(rng)
    assert plain.resolution == pytest.approx(3.102510164259263, abs=1e-12)
    assert plain.sampling_rate == pytest.approx(1.490417669388115, abs=1e-12)
    assert (plain.box, plain.noise_growth) == (80, 0.0)
    assert rng.random() == pytest.approx(0.7214883401940817, abs=1e-15)
    rng = np.random.default_rng(1)
    assert random_conditions(rng, typical=True).noise_growth == 0
    assert rng.random() == pytest.approx(0.32973171649909216, abs=1e-15)
    uneven = random_conditions(np.random.default_rng(0), uneven=True)
    same = replace(uneven, noise_growth=0.0, noise_follows=Conditions().noise_follows)
    assert same == plain


def test_uneven_noise_covers_the_range_of_real_maps():
    rng = np.random.default_rng(0)
    drawn = [random_conditions(rng, typical=i % 2 == 0, uneven=True) for i in range(60)]
    growths, follows = zip(*((c.noise_growth, c.noise_follows) for c in drawn), strict=True)
    assert 0.3 <= min(growths) < 0.35 and 0.55 < max(growths) <= 0.6
    assert 0.55 <= min(follows) < 0.6 and 0.95 < max(follows) <= 1


def test_wide_conditions_reach_from_2_to_16_a_and_the_grid_holds_them():
    rng = np.random.default_rng(0)
    drawn = [random_conditions(rng, wide=True) for _ in range(200)]
    assert min(c.resolution for c in drawn) < 1.85 and max(c.resolution for c in drawn) > 15
    assert all(2.5 * c.sampling_rate <= 1.001 * c.resolution for c in drawn)
    assert all(95 <= c.box * c.sampling_rate < 150 for c in drawn)
    assert max(c.sampling_rate for c in drawn) > 3
    # Fine maps cost no more voxels than they need.
    assert max(c.box for c in drawn) <= 200
