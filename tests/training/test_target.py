"""Targets of real maps: the fit of the model, in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from deepemhancer_plugin.core.maps import filters, spectrum
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.molecule import compute_potential
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.target import correlate, refine_b_factor


@pytest.mark.parametrize("b", [40.0, 90.0])
def test_refined_b_is_that_of_a_perfect_half_map_pair(b):
    """A map of any amplitudes with the model's phases is refined to the true B.

    The FSC is such that C_ref is the model's amplitude at that B.
    """
    molecule = from_structure(build_protein())[:300]
    molecule = replace(
        molecule,
        positions=molecule.positions - molecule.positions.mean(0) + 32,
        b_factors=np.full(300, 60.0),
    )
    shape = (64,) * 3
    model = compute_potential(molecule, shape, 1.0)
    at = np.sqrt(spectrum.power(model, shape)) * np.exp(-(b - 60) / 4 * (np.arange(56) / 64) ** 2)
    cref = 0.99 * at[:33] / at[1:33].max()
    curve = cref**2 / (2 - cref**2)
    mean = model.copy()
    filters.apply_gain(mean, np.exp(-np.arange(56) / 8.0), shape)
    got = refine_b_factor(
        np.fft.irfftn(mean, s=shape), np.fft.irfftn(model, s=shape), curve, 3.0, 60.0
    )
    assert got == pytest.approx(b, abs=8)


def test_correlation_does_not_see_the_b_factor():
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((32, 32, 32))
    blurred = np.fft.rfftn(volume)
    filters.apply_gain(blurred, np.exp(-np.arange(30) / 5.0), volume.shape)
    inside = np.zeros(volume.shape, bool)
    inside[8:24, 8:24, 8:24] = True
    assert correlate(volume, np.fft.irfftn(blurred, s=volume.shape), inside) > 0.99
    assert abs(correlate(volume, rng.standard_normal(volume.shape), inside)) < 0.1
