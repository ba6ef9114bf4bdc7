"""Point-group and helical symmetry: the operators in RELION's conventions, and maps averaged over them.

The axes go through voxel n // 2 of each axis, RELION's centre of a box; the main axis (of a helix too) is z.
"""

import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.errors import InputError

GOLDEN = (1 + 5**0.5) / 2
# Axes (order; x, y, z) that generate a group (Heymann, Chagoyen & Belnap 2005, J. Struct. Biol. 151, 196); I is I2, as in RELION.
GENERATORS: dict[str, list[tuple[int, tuple[float, float, float]]]] = {
    "T": [(3, (0, 0, 1)), (2, (0, 2**0.5, 1))],
    "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
    "I1": [(2, (1, 0, 0)), (5, (GOLDEN, 0, -1))],
    "I2": [(3, (1, 1, 1)), (5, (GOLDEN, 1, 0))],
    "I3": [(5, (0, 0, 1)), (2, (-1, 0, GOLDEN))],
    "I4": [(5, (0, 0, 1)), (2, (1, 0, GOLDEN))],
}
NAMES = "Cn, Dn (n a number), T, O, I, I1, I2, I3 or I4"
HELICAL_TURNS = 4  # copies on either side that a helical average takes: nine subunits, and little loss at the ends


@dataclass(frozen=True)
class Operator:
    """x -> matrix x + shift, x, y, z in A about the box's centre."""

    matrix: np.ndarray
    shift: float = 0.0  # along z


def point_group(name: str) -> list[Operator]:
    """The group's rotations, the identity first. InputError for a name that is none of RELION's."""
    text = name.strip().upper()
    match = re.fullmatch(r"([CD])([1-9]\d*)", text)
    if match:
        n = int(match[2])
        generators = [(n, (0.0, 0.0, 1.0))] + ([(2, (1.0, 0.0, 0.0))] if match[1] == "D" else [])
    else:
        generators = GENERATORS.get("I2" if text == "I" else text, [])
    if not generators:
        raise InputError(f"symmetry {name}: {NAMES} is right")
    rotations = [np.eye(3)]
    turns = [
        Rotation.from_rotvec(2 * np.pi / order * np.array(axis) / np.linalg.norm(axis)).as_matrix()
        for order, axis in generators
    ]
    for found in rotations:  # grows while it is walked, until products lead nowhere new
        for turn in turns:
            product = turn @ found
            if not any(np.allclose(product, known, atol=1e-6) for known in rotations):
                rotations.append(product)
    return [Operator(matrix) for matrix in rotations]


def helix(rise: float, twist: float) -> list[Operator]:
    """Neighbouring subunits of a helix: rise in A along z, twist in degrees (positive: right-handed), on either side; the identity first."""
    if not rise > 0 or not -180 <= twist <= 180:
        raise InputError(
            f"helical rise {rise:g} A and twist {twist:g} degrees: a rise over 0 and a twist from -180 to 180 are right"
        )
    steps = sorted(range(-HELICAL_TURNS, HELICAL_TURNS + 1), key=abs)
    return [
        Operator(Rotation.from_euler("z", i * twist, degrees=True).as_matrix(), i * rise)
        for i in steps
    ]


def impose_symmetry(
    volume: np.ndarray,
    operators: list[Operator],
    rate: float,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> tuple[np.ndarray, float]:
    """The mean of a map's copies under `operators`, and how well the map had the symmetry before.

    Args:
        volume: (z, y, x), float32, finite.
        operators: of `point_group` or `helix`.
        rate: A/voxel.
        progress: called with the number of copies done, and of all.

    Returns:
        The mean of each voxel over the copies that reach it (cubic splines), float32; and the lowest correlation of the map with one of its
        copies, over the voxels where both are dense (1 where the identity is all there is): inside, because outlines alone agree well enough.
    """
    dense = 0.1 * float(np.percentile(volume, 99.9))
    coefficients = ndimage.spline_filter(volume, 3, np.float32, mode="mirror")
    centre = np.array([n // 2 for n in volume.shape], float)
    total, count, lowest = (
        np.zeros(volume.shape, np.float32),
        np.zeros(volume.shape, np.uint16),
        1.0,
    )
    slabs = [slice(a, min(a + 16, len(volume))) for a in range(0, len(volume), 16)]

    def turned(operator: Operator, slab: slice) -> tuple[np.ndarray, np.ndarray]:
        """The copy's planes, and which of their voxels come from inside the box."""
        # In (z, y, x) order; the value at v is the map's at M^-1 (v - c - shift) + c.
        inverse = operator.matrix.T[::-1, ::-1]
        shift = np.array([operator.shift / rate, 0, 0])
        offset = inverse @ (np.array([slab.start, 0, 0]) - centre - shift) + centre
        shape = (slab.stop - slab.start, *volume.shape[1:])
        axes = np.ogrid[tuple(slice(0, n) for n in shape)]
        inside = np.ones(shape, bool)
        for row, start, length in zip(inverse, offset, volume.shape, strict=True):
            at = start + sum(r * a for r, a in zip(row, axes, strict=True))
            inside &= (at > -1e-3) & (at < length - 1 + 1e-3)
        copy = ndimage.affine_transform(
            coefficients,
            inverse,
            offset,
            shape,
            np.float32,
            order=3,
            mode="mirror",
            prefilter=False,
        )
        copy[~inside] = 0
        return copy, inside

    with ThreadPoolExecutor(workers) as pool:
        for done, operator in enumerate(operators, 1):
            moments = np.zeros(6)
            for slab, (copy, inside) in zip(
                slabs, pool.map(turned, itertools.repeat(operator), slabs), strict=True
            ):
                total[slab] += copy
                count[slab] += inside
                both = inside & (volume[slab] > dense) & (copy > dense)
                a, b = volume[slab][both].astype(np.float64), copy[both].astype(np.float64)
                moments += np.array([len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b])
            n, sum_a, sum_b, aa, bb, ab = map(float, moments)
            variances = (n * aa - sum_a**2) * (n * bb - sum_b**2)
            lowest = min(
                lowest, (n * ab - sum_a * sum_b) / variances**0.5 if variances > 0 else 0.0
            )
            if progress:
                progress(done, len(operators))
    total /= np.maximum(count, 1)
    return total, lowest
