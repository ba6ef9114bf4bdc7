"""Conditions that are drawn."""

import numpy as np

from deepemhancer_plugin.core.simulation import random_conditions


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
