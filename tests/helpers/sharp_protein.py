"""The map of a synthetic protein without noise, and where the protein is."""

import numpy as np

from deepemhancer_plugin.core.localres.data import sharpen_atoms
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms
from deepemhancer_plugin.core.simulation.synthetic import build_protein


def sharp_map(edge, rate, atoms=None):
    """A map (z, y, x) of the first `atoms` atoms, and a boolean mask of 3 A around them."""
    molecule = sharpen_atoms(from_structure(build_protein(200)))[:atoms]
    low, high = molecule.positions.min(0), molecule.positions.max(0)
    molecule.positions[:] += edge * rate / 2 - (low + high) / 2
    shape = (edge,) * 3
    data = np.fft.irfftn(compute_potential(molecule, shape, rate), s=shape)
    return data.astype(np.float32), mask_atoms(molecule, shape, rate, 3.0) > 0.5


def add_noise(data, level, seed=0):
    """White noise; its standard deviation is a part of the map's maximum."""
    noise = np.random.default_rng(seed).standard_normal(data.shape, np.float32)
    return data + noise * np.float32(level * data.max())
