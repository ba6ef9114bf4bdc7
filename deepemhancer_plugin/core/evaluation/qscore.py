"""Q-scores: how well the density round each atom looks like that of an atom.

Pintilie et al. 2020, Nat. Methods 17, 328. Map values u are taken on spheres of 0 to 2 A round the
atom, at points that are nearer to it than to any other atom, and correlated about their mean with
the values v of a Gaussian of sigma 0.6 A at the same points:

    Q = <u - <u>, v - <v>> / (|u - <u>| |v - <v>|)

Height and offset of the Gaussian (from the map's mean and standard deviation in the paper) are lost
in the correlation, so they need not be known.

The paper draws eight points on each sphere, spread evenly over what other atoms leave of it. Here
all of DIRECTIONS, spread evenly, that are left on a sphere have that sphere's weight in equal
parts, which is what the eight stand for. A direction is left up to the radius where another atom
comes nearer, so one number for each atom and direction decides for all spheres.

As in the authors' program, and so in the values that are published, a point at r from its atom
counts as taken by another atom within 0.9 r.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.simulation.assembly import spread_directions

SIGMA = 0.6  # A, of the Gaussian
LARGEST_RADIUS = 2.0  # A
RADIUS_STEP = 0.1  # A, between the spheres
DIRECTIONS = 64  # more change nothing
NEARER = 0.9  # of the distance to its own atom: where another atom takes a point
BATCH = 2000  # atoms at a time: a few hundred MB


def q_scores(
    volume: np.ndarray, positions: np.ndarray, rate: float, which: np.ndarray | None = None
) -> np.ndarray:
    """Compute the Q-scores of atoms.

    Args:
        volume: the map (z, y, x), interpolated linearly; beyond the box its outermost voxels count.
        positions: all atoms (n, 3), as x, y, z in A from the centre of the first voxel.
        rate: sampling rate in A/voxel.
        which: indices of the atoms to score; all by default. The others still keep what is nearer
            to them.

    Returns:
        Scores from -1 to 1, 0 where the map is constant.
    """
    positions = np.asarray(positions, np.float64)
    which = np.arange(len(positions)) if which is None else np.asarray(which)
    tree, directions = cKDTree(positions), spread_directions(DIRECTIONS)
    scores = [np.zeros(0)]
    for start in range(0, len(which), BATCH):
        atoms = which[start : start + BATCH]
        reach = _find_reach(tree, atoms, directions)
        scores.append(_score_atoms(volume, positions[atoms], reach, directions, rate))
    return np.concatenate(scores)


def draw_atoms(count: int, most: int | None, seed: int) -> np.ndarray | None:
    """Draw the indices of `most` of `count` atoms, in order.

    Returns:
        None, which means all atoms, where there are no more than that.
    """
    if most is None or most >= count:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _find_reach(tree: cKDTree, atoms: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Find how far in A a point can go from an atom before another one takes the point.

    An atom at the distance d, at an angle of cosine c from the direction, takes what has
    r^2 - 2 r d c + d^2 < (NEARER r)^2.

    Args:
        tree: all atoms.
        atoms: indices of the atoms in question.
        directions: unit vectors (directions, 3).

    Returns:
        Reach (atoms, directions).
    """
    reach = np.full((len(atoms), len(directions)), np.inf)
    own = cKDTree(tree.data[atoms]).sparse_distance_matrix(
        tree, (1 + NEARER) * LARGEST_RADIUS, output_type="coo_matrix"
    )
    apart = own.data > 1e-3  # not itself, nor the same atom of another conformer
    first, other, distance = own.row[apart], own.col[apart], own.data[apart]
    order = np.argsort(first, kind="stable")
    first, other, distance = first[order], other[order], distance[order]
    cosine = ((tree.data[other] - tree.data[atoms[first]]) / distance[:, None]) @ directions.T
    free = 1 - NEARER**2
    discriminant = np.where(cosine > 0, cosine**2 - free, -1)
    border = distance[:, None] * (cosine - np.sqrt(np.maximum(discriminant, 0))) / free
    border[discriminant < 0] = np.inf
    found, starts = np.unique(first, return_index=True)
    if len(found):
        reach[found] = np.minimum.reduceat(border, starts, axis=0)
    return reach


def _score_atoms(
    volume: np.ndarray, centres: np.ndarray, reach: np.ndarray, directions: np.ndarray, rate: float
) -> np.ndarray:
    """Correlate with the Gaussian, from each sphere's mean of u and of u^2."""
    radii = np.arange(0, LARGEST_RADIUS + RADIUS_STEP / 2, RADIUS_STEP)
    shape = len(radii), len(centres)
    mean, square, used = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for s, radius in enumerate(radii):
        atom, direction = np.nonzero(reach >= radius)
        points = (centres[atom] + radius * directions[direction])[:, ::-1].T / rate
        values = ndimage.map_coordinates(volume, points, order=1, mode="nearest", output=np.float64)
        count = np.bincount(atom, minlength=len(centres))
        mean[s] = np.bincount(atom, values, len(centres)) / np.maximum(count, 1)
        square[s] = np.bincount(atom, values**2, len(centres)) / np.maximum(count, 1)
        used[s] = count > 0
    used /= used.sum(0)
    gauss = np.exp(-0.5 * (radii / SIGMA) ** 2)[:, None]
    u, v = (used * mean).sum(0), (used * gauss).sum(0)
    covariance = (used * mean * gauss).sum(0) - u * v
    variance = ((used * square).sum(0) - u * u) * ((used * gauss**2).sum(0) - v * v)
    scores = np.zeros(len(centres))
    scale = np.sqrt(np.maximum(variance, 0))
    np.divide(covariance, scale, out=scores, where=variance > 1e-12 * u**2)
    return scores
