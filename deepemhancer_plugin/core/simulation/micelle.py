"""The belt of detergent or lipid round a membrane protein."""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.grid import Grid
from deepemhancer_plugin.core.simulation.molecule import Molecule


def make_micelle(
    grid: Grid, molecule: Molecule, conditions: Conditions, rng: np.random.Generator
) -> np.ndarray:
    """Make the density (z, y, x) of a belt round a molecule, about 1 inside, with hard edges.

    Half of them are nanodiscs with an upright rim, the others micelles that bulge.
    """
    axis, centre, width = _fit_belt(molecule, conditions, rng)
    height = conditions.micelle_height
    z, y, x = np.ix_(
        *(
            np.arange(n, dtype=np.float32) * np.float32(grid.rate) - np.float32(c)
            for n, c in zip(grid.shape, centre[::-1], strict=True)
        )
    )
    along = z * np.float32(axis[2]) + y * np.float32(axis[1]) + x * np.float32(axis[0])
    radius = np.sqrt(np.maximum(z * z + y * y + x * x - along**2, 0))
    belt: np.ndarray
    if rng.random() < 0.5:
        belt = ((np.abs(along) < height) & (radius < width)).astype(np.float32)
    else:
        belt = ((along / height) ** 4 + (radius / width) ** 4 < 1).astype(np.float32)
    # Head groups scatter more than the tails in the middle plane.
    tails = np.float32(rng.uniform(0, 0.6))
    belt *= 1 - tails * np.exp(-((along / np.float32(0.4 * height)) ** 2))
    if conditions.micelle_lumps:  # where lipids are in order, or missing
        noise = rng.standard_normal(grid.shape, np.float32)
        lumps = ndimage.gaussian_filter(noise, rng.uniform(2.5, 12) / grid.rate, mode="wrap")
        belt *= np.maximum(1 + np.float32(conditions.micelle_lumps / lumps.std()) * lumps, 0)
    return belt


def _fit_belt(
    molecule: Molecule, conditions: Conditions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Choose the belt's axis (3,), its centre x, y, z in A, and its radius in A."""
    positions, mean = molecule.positions, molecule.positions.mean(0)
    axis = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    if rng.random() < 0.5:  # along the longest or the shortest axis, as membrane proteins stand
        _, _, axes = np.linalg.svd(positions - mean, full_matrices=False)
        axis = axes[rng.choice([0, 2])]
    centre = mean + axis * rng.uniform(-0.3, 0.3) * np.ptp((positions - mean) @ axis)
    inside = positions[np.abs((positions - centre) @ axis) < conditions.micelle_height]
    if len(inside) < 10:
        inside = positions
    # The belt is centred on the atoms that it holds.
    offset = inside.mean(0) - centre
    centre += offset - axis * (offset @ axis)
    radial = np.linalg.norm((inside - centre) - np.outer((inside - centre) @ axis, axis), axis=1)
    return axis, centre, float(np.percentile(radial, 90)) + conditions.micelle_width
