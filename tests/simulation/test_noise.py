"""Uneven noise against what was asked for."""

from dataclasses import replace

import numpy as np
import pytest

from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.simulation import Conditions, halves, simulate_halves
from deepemhancer_plugin.core.simulation.grid import Grid
from deepemhancer_plugin.core.simulation.molecule import mask_atoms
from deepemhancer_plugin.core.simulation.noise import compute_local_amplitude

EDGE = 48
# Noise alone is compared, so contrast and edges are left out.
PLAIN = Conditions(
    resolution=4.0, box=EDGE, b_factor=0.0, sphere=False, reconstruction=False, noise_exponent=0.0
)
UNEVEN = replace(PLAIN, noise_growth=0.5, noise_follows=0.8)


def make_blob(grid):
    """A ball of density one that falls off to its edge, and where it is."""
    z, y, x = np.mgrid[:EDGE, :EDGE, :EDGE] - EDGE / 2
    density = np.exp(-(z**2 + y**2 + 0.5 * x**2) / 72).astype(np.float32)
    return grid.forward(density), density, density > 0.3


def test_even_noise_draws_nothing_more(molecule, monkeypatch):
    monkeypatch.delattr(halves, "vary_noise")
    made = simulate_halves(molecule[:300], PLAIN, 1)
    assert np.isfinite(made.half1).all()


def test_local_amplitude_has_the_deviation_that_is_asked_for():
    grid = Grid(EDGE, 1.0)
    signal, _, inside = make_blob(grid)
    conditions = replace(UNEVEN, noise_growth=0.4, noise_follows=0.0)
    rng = np.random.default_rng(0)
    logarithm = np.log(compute_local_amplitude(signal, inside, conditions, grid, rng))
    assert logarithm[inside].std() == pytest.approx(0.4, rel=1e-3)
    assert abs(logarithm[:3]).max() < 1e-3  # even in the solvent
    steps = np.abs(np.diff(logarithm, axis=0))
    assert steps.max() < 0.3  # smooth, though it ends at the surface


def test_local_amplitude_follows_the_density():
    grid = Grid(EDGE, 1.0)
    signal, density, inside = make_blob(grid)
    conditions = replace(UNEVEN, noise_growth=0.4, noise_follows=1.0)
    rng = np.random.default_rng(0)
    amplitude = compute_local_amplitude(signal, inside, conditions, grid, rng)
    assert np.corrcoef(np.log(amplitude[inside]), density[inside])[0, 1] > 0.98
    # The solvent's is that of the molecule's faintest parts.
    assert amplitude[0, 0, 0] == pytest.approx(np.exp(-0.4), rel=1e-3)


def test_uneven_noise_is_independent_in_the_halves_and_strong_where_the_molecule_is(molecule):
    even, uneven = (simulate_halves(molecule[:600], c, 1) for c in (PLAIN, UNEVEN))
    inside = mask_atoms(uneven.molecule, uneven.half1.shape, 1.0, 3.5) > 0
    outside = mask_atoms(uneven.molecule, uneven.half1.shape, 1.0, 8.0) == 0
    ratio = []
    for made in (even, uneven):
        difference = (made.half1 - made.half2) / 2
        ratio.append(difference[inside].std() / difference[outside].std())
        correlation = np.corrcoef(made.half1[outside], made.half2[outside])[0, 1]
        assert abs(correlation) < 0.05
    assert ratio[0] == pytest.approx(1, abs=0.03) and 1.3 < ratio[1] < 2.5
    # The molecule's own noise is as strong as before: the resolution stays.
    assert uneven.half1.shape == even.half1.shape
    deviations = [(s.half1 - s.half2)[inside].std() for s in (even, uneven)]
    assert deviations[1] == pytest.approx(deviations[0], rel=0.03)


def test_uneven_noise_keeps_its_colour(molecule):
    even, uneven = (
        simulate_halves(molecule[:600], replace(c, noise_exponent=0.5), 1) for c in (PLAIN, UNEVEN)
    )
    powers = [
        spectrum.power(np.fft.rfftn(s.half1 - s.half2), s.half1.shape)[3:22] for s in (even, uneven)
    ]
    ratio = powers[1] / powers[0]
    assert np.abs(np.log(ratio / np.median(ratio))).max() < 0.25
