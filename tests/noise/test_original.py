"""The original program's estimate of the noise."""

import numpy as np
import pytest
from maps_with_noise import check_noise, simulate_half_maps

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.noise.original import noise_as_original


def test_classic_agrees_on_an_easy_map():
    half1, half2, mean, std = simulate_half_maps("centred", 5.0, 60.0, sphere=True)
    stats = noise_as_original((half1 + half2) / 2)
    assert stats.source == "classic"
    check_noise(stats, mean, std)


def test_classic_stops_at_hollow_maps():
    half1, half2, _, _ = simulate_half_maps("shell", sphere=True)
    with pytest.raises(InputError, match="hollow"):
        # What it stops at depends on the map's scale.
        noise_as_original(np.float32(50) * (half1 + half2))


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_classic_finds_no_noise_in_a_constant_map(value):
    with pytest.raises(InputError, match="finds no noise"):
        noise_as_original(np.full((24, 25, 26), value, np.float32))
