"""The mask that a map or its halves are given, on the synthetic protein and on noise."""

import numpy as np
import pytest
from scipy import ndimage
from sharp_protein import add_noise, sharp_map

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.localres.mask import auto_mask


@pytest.fixture(scope="module")
def protein():
    return sharp_map(88, 1.0)


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_mask_made_of_a_map_covers_the_molecule_and_little_else(protein, level):
    data, inside = protein
    made = auto_mask(add_noise(low_pass_to(data, 1.0, 5.0), level) + 3, 1.0)
    assert made[ndimage.binary_erosion(inside, iterations=2)].mean() > 0.97
    assert made[~ndimage.binary_dilation(inside, iterations=6)].mean() < 0.01


def test_mask_made_of_halves(protein):
    data, inside = protein
    low = low_pass_to(data, 1.0, 4.0)
    halves = add_noise(low, 0.3, 1), add_noise(low, 0.3, 2)
    made = auto_mask((halves[0] + halves[1]) / 2, 1.0, halves)
    assert made[ndimage.binary_erosion(inside, iterations=2)].mean() > 0.9
    assert made[~ndimage.binary_dilation(inside, iterations=6)].mean() < 0.01


def test_pure_noise_makes_no_mask():
    halves = tuple(
        np.random.default_rng(seed).standard_normal((40, 40, 40), np.float32) for seed in (1, 2)
    )
    with pytest.raises(InputError, match="give a mask"):
        auto_mask(sum(halves) / 2, 1.0, halves)
