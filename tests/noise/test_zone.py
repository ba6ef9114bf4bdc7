"""Noise of maps that are masked to a zone around a molecule."""

import warnings

import numpy as np
import pytest
from maps_with_noise import check_noise, place_atoms, simulate_half_maps
from scipy import ndimage

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.noise.statistics import noise_from_halves, noise_from_map


def zoned(volumes, layout, reach, seed=1):
    """The maps, zero farther than `reach` voxels from the atoms."""
    atoms, shape = place_atoms(layout, np.random.default_rng(seed))
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
    half1, half2, _, std = simulate_half_maps("long", resolution, b_factor)
    half1, half2 = zoned((half1, half2), "long", reach)
    with pytest.warns(MapWarning, match="masked so tightly"):
        stats = noise_from_map((half1 + half2) / 2)
    assert stats.source == "zone" and stats.mean == 0 and std / 3 < stats.std < 4 * std
    check_noise(noise_from_halves(half1, half2), 0, std)


@pytest.mark.parametrize("radius", [20, 30, 40])
def test_noise_in_a_ball_is_no_molecule(radius):
    half1, half2, _, std = simulate_half_maps("centred")
    ball = sum((i - 40) ** 2 for i in np.ogrid[:80, :80, :80]) < radius**2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks masked
        stats = noise_from_map(np.where(ball, (half1 - half2) / 2, 0).astype(np.float32))
    assert stats.source == "shell"
    check_noise(stats, 0, std)
