"""An atomic model in the place of a map: its own map, and the least ordered of its atoms."""

import warnings

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps.filters import low_pass_spectrum, soft_edge
from deepemhancer_plugin.core.maps.mrc import Map
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms

NEIGHBOURHOOD = 8.0  # A over which order is averaged: a loop or a helix, not a single side chain
LEAST_ORDERED = 0.2  # fraction of the atoms
MASK_RADIUS = 3.0  # A round an atom where a soft mask is 1
MASK_EDGE = 6.0  # A from there to where it is 0
FADE_START, FADE_END = 0.42, 0.5  # 1/voxel, where a model's map ends so as not to ring


def place_in_map(molecule: Molecule, volume: Map, name: str) -> Molecule:
    """Give the atoms in a map's own frame, without those outside of the box.

    Args:
        molecule: positions x, y, z in A.
        volume: the map.
        name: of the model, for messages.

    Returns:
        Atoms with positions x, y, z in A from the centre of the first voxel.

    Raises:
        InputError: no atom is in the box.

    Warns:
        MapWarning: some are not.
    """
    start = np.array(volume.position)
    shifted = molecule.shift(-start)
    size = (np.array(volume.data.shape[::-1]) - 1) * volume.sampling_rate
    inside = np.all((shifted.positions >= 0) & (shifted.positions <= size), axis=1)
    if not inside.any():
        low, high = molecule.positions.min(0), molecule.positions.max(0)
        raise InputError(
            f"{name}: the model, {_describe_corner(low)} to {_describe_corner(high)} A (x, y, z), "
            f"lies outside of {volume.path}, {_describe_corner(start)} to "
            f"{_describe_corner(size + start)} A: fit it into the map, or correct the map's origin "
            "or sampling rate (-s)"
        )
    if not inside.all():
        warnings.warn(
            f"{name}: {np.count_nonzero(~inside)} of {len(inside)} atoms lie outside of "
            f"{volume.path} and are left out",
            MapWarning,
            stacklevel=2,
        )
    return shifted[inside]


def _describe_corner(corner: np.ndarray) -> str:
    return f"({', '.join(f'{value:.0f}' for value in corner)})"


def compute_model_map(molecule: Molecule, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """Compute the scattering potential of atoms with their own B factors.

    Args:
        molecule: positions x, y, z in A from the centre of the first voxel.
        shape: of the map (z, y, x).
        rate: sampling rate in A/voxel.

    Returns:
        The map (z, y, x), as fine as its grid can hold it.
    """
    spectrum = compute_potential(molecule, shape, rate, workers=-1)
    low_pass_spectrum(spectrum, FADE_START, FADE_END, shape)
    return np.asarray(fft.irfftn(spectrum, s=shape, workers=-1))


def find_least_ordered(molecule: Molecule) -> np.ndarray:
    """Find the fifth of the atoms whose surroundings have the highest B factors.

    Returns:
        Their indices, by the mean B factor of all atoms within 8 A.
    """
    tree = cKDTree(molecule.positions)
    pairs = tree.query_pairs(NEIGHBOURHOOD, output_type="ndarray")
    n = len(molecule)
    total, count = molecule.b_factors.astype(float), np.ones(n)
    for one, other in (pairs.T, pairs.T[::-1]):
        total += np.bincount(one, molecule.b_factors[other], n)
        count += np.bincount(one, minlength=n)
    order = np.argsort(total / count, kind="stable")
    return order[n - max(1, round(LEAST_ORDERED * n)) :]


def mask_molecule(molecule: Molecule, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """Make a soft mask round atoms: 1 up to 3 A from each, then half a cosine of 6 A.

    Args:
        molecule: positions x, y, z in A from the centre of the first voxel.
        shape: of the mask (z, y, x).
        rate: sampling rate in A/voxel.
    """
    return soft_edge(mask_atoms(molecule, shape, rate, MASK_RADIUS) > 0.5, rate, 0.0, MASK_EDGE)
