"""The FSC of half maps in the report of an enhancement."""

import numpy as np

from deepemhancer_plugin.core.localres.half_map_fsc import measure_half_maps
from deepemhancer_plugin.core.maps.spectrum import resolution
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein


def test_masked_curve_is_finer_than_the_unmasked_one():
    """The corrected FSC of half maps simulated at 5 A ends at a finer resolution."""
    conditions = Conditions(resolution=5.0, sampling_rate=1.5, margin=15.0, random_pose=False)
    made = simulate_halves(from_structure(build_protein(0)), conditions, 3)
    found = measure_half_maps((made.half1, made.half2), sampling_rate=1.5)
    shells = len(found["frequency"])
    for name in ("unmasked", "masked", "randomised", "corrected"):
        assert len(found[name]) == shells
    band = np.abs(np.array(found["frequency"]) - 1 / 5.5) < 0.02
    assert np.mean(np.array(found["corrected"])[band]) > np.mean(np.array(found["unmasked"])[band])
    unmasked = resolution(np.array(found["frequency"]), np.array(found["unmasked"]), 0.143)
    assert 4.5 < found["resolution"] < unmasked


def test_without_anything_to_mask_there_is_the_unmasked_curve():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 32, 32, 32)).astype(np.float32)
    found = measure_half_maps(tuple(noise), sampling_rate=1.5)
    assert "masked" not in found and len(found["unmasked"]) == len(found["frequency"])
