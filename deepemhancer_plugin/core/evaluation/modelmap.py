"""An atomic model in the place of a map: its own map on the same grid, and the part of it that is least ordered."""

import warnings

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.evaluation.metrics import soft_edge
from deepemhancer_plugin.core.maps.filters import low_pass_spectrum
from deepemhancer_plugin.core.maps.mrc import Map
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms

NEIGHBOURHOOD = 8.0  # A over which order is averaged: a loop or a helix, not a single side chain
LEAST_ORDERED = 0.2  # of the atoms
CORE, EDGE = 3.0, 6.0  # A round an atom where a soft mask is 1, and from there to where it is 0
PASS, STOP = 0.42, 0.5  # in 1/voxel: a model's map ends before Nyquist instead of ringing


def placed(molecule: Molecule, volume: Map, name: str) -> Molecule:
    """The atoms in the map's own frame: x, y, z in A from the centre of its first voxel. Those outside of the box are left out.

    Raises:
        InputError: no atom is in the box; `name` is the model's file.

    Warns:
        MapWarning: some are not.
    """
    moved = molecule.shift(-np.array(volume.position))
    last = (np.array(volume.data.shape[::-1]) - 1) * volume.sampling_rate
    inside = np.all((moved.positions >= 0) & (moved.positions <= last), axis=1)
    if not inside.any():
        low, high = (
            f"({', '.join(f'{v:.0f}' for v in corner)})"
            for corner in (molecule.positions.min(0), molecule.positions.max(0))
        )
        start, end = (
            f"({', '.join(f'{v:.0f}' for v in corner)})"
            for corner in (np.array(volume.position), last + volume.position)
        )
        raise InputError(
            f"{name}: the model, {low} to {high} A (x, y, z), lies outside of {volume.path}, {start} to {end} A: fit it into the map, "
            "or correct the map's origin or sampling rate (-s)"
        )
    if not inside.all():
        outside = np.count_nonzero(~inside)
        warnings.warn(
            f"{name}: {outside} of {len(inside)} atoms lie outside of {volume.path} and are left out",
            MapWarning,
            stacklevel=2,
        )
    return moved[inside]


def model_map(molecule: Molecule, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """The electron-scattering potential (z, y, x) of placed atoms with their own B factors, as finely as the grid of `rate` A/voxel can hold it."""
    spectrum = compute_potential(molecule, shape, rate, workers=-1)
    low_pass_spectrum(spectrum, PASS, STOP, shape)
    return fft.irfftn(spectrum, s=shape, workers=-1)


def least_ordered(molecule: Molecule) -> np.ndarray:
    """Indices of the fifth of the atoms whose surroundings have the highest B factors (mean over the atoms within 8 A)."""
    tree = cKDTree(molecule.positions)
    pairs = tree.query_pairs(NEIGHBOURHOOD, output_type="ndarray")
    n = len(molecule)
    total, count = molecule.b_factors.astype(float), np.ones(n)
    for one, other in (pairs.T, pairs.T[::-1]):
        total += np.bincount(one, molecule.b_factors[other], n)
        count += np.bincount(one, minlength=n)
    return np.argsort(total / count, kind="stable")[n - max(1, round(LEAST_ORDERED * n)) :]


def mask_of(molecule: Molecule, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """Soft mask (z, y, x), 0-1, round placed atoms: 1 up to 3 A from each, then half a cosine of 6 A."""
    return soft_edge(mask_atoms(molecule, shape, rate, CORE) > 0.5, rate, 0.0, EDGE)
