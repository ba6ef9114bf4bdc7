"""Point-group and helical symmetry: operators in RELION's conventions, and averages over them.

The axes go through voxel n // 2 of each axis, RELION's centre of a box; the main axis (of a helix
too) is z.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.devices import cpu_cores
from deepemhancer_plugin.core.errors import InputError

GOLDEN_RATIO = (1 + 5**0.5) / 2
# Axes (order; x, y, z) that generate a group; I is I2, as in RELION.
# Heymann, Chagoyen & Belnap 2005, J. Struct. Biol. 151, 196-207.
GENERATORS: dict[str, list[tuple[int, tuple[float, float, float]]]] = {
    "T": [(3, (0, 0, 1)), (2, (0, 2**0.5, 1))],
    "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
    "I1": [(2, (1, 0, 0)), (5, (GOLDEN_RATIO, 0, -1))],
    "I2": [(3, (1, 1, 1)), (5, (GOLDEN_RATIO, 1, 0))],
    "I3": [(5, (0, 0, 1)), (2, (-1, 0, GOLDEN_RATIO))],
    "I4": [(5, (0, 0, 1)), (2, (1, 0, GOLDEN_RATIO))],
}
GROUP_NAMES = "Cn, Dn (n a number), T, O, I, I1, I2, I3 or I4"
# Copies on either side in a helical average: nine subunits, and little loss at the ends.
HELICAL_NEIGHBOURS = 4
DENSE = 0.1  # of the 99.9th percentile: density over it is compared between copies
SLAB = 16  # planes of a copy at a time


@dataclass(frozen=True)
class Operator:
    """A rotation and a shift: x -> matrix x + shift, about the centre of the box.

    Attributes:
        matrix: rotation (3, 3) of x, y, z.
        shift: along z in A.
    """

    matrix: np.ndarray
    shift: float = 0.0


def point_group(name: str) -> list[Operator]:
    """Give the rotations of a point group, the identity first.

    Args:
        name: RELION's name of the group, in any case.

    Returns:
        As many operators as the group has.

    Raises:
        InputError: The name is none of RELION's.
    """
    text = name.strip().upper()
    match = re.fullmatch(r"([CD])([1-9]\d*)", text)
    if match:
        generators = [(int(match[2]), (0.0, 0.0, 1.0))]
        if match[1] == "D":
            generators.append((2, (1.0, 0.0, 0.0)))
    else:
        generators = GENERATORS.get("I2" if text == "I" else text, [])
    if not generators:
        raise InputError(f"symmetry {name}: {GROUP_NAMES} is right")
    rotations = [np.eye(3)]
    turns = [
        Rotation.from_rotvec(2 * np.pi / order * np.array(axis) / np.linalg.norm(axis)).as_matrix()
        for order, axis in generators
    ]
    # The list grows while it is walked, until no product is new.
    for found in rotations:
        for turn in turns:
            product = turn @ found
            if not any(np.allclose(product, known, atol=1e-6) for known in rotations):
                rotations.append(product)
    return [Operator(matrix) for matrix in rotations]


def helix(rise: float, twist: float) -> list[Operator]:
    """Give the operators to the neighbouring subunits of a helix, the identity first.

    Args:
        rise: Along z, A.
        twist: Degrees; positive is right-handed.

    Returns:
        The operators of HELICAL_NEIGHBOURS subunits on either side.

    Raises:
        InputError: A rise of 0 or less, or a twist beyond half a turn.
    """
    if not rise > 0 or not -180 <= twist <= 180:
        raise InputError(
            f"helical rise {rise:g} A and twist {twist:g} degrees: a rise over 0 and a twist from "
            "-180 to 180 are right"
        )
    steps = sorted(range(-HELICAL_NEIGHBOURS, HELICAL_NEIGHBOURS + 1), key=abs)
    return [
        Operator(Rotation.from_euler("z", i * twist, degrees=True).as_matrix(), i * rise)
        for i in steps
    ]


def impose_symmetry(
    volume: np.ndarray,
    operators: list[Operator],
    rate: float,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray, float]:
    """Average a map over its symmetry, and measure how well it had it before.

    Args:
        volume: The map (z, y, x), float32, finite.
        operators: Of `point_group` or `helix`.
        rate: Sampling rate in A/voxel.
        progress: Called with the number of copies done, and of all.
        workers: Threads; None: the cores of the machine.

    Returns:
        The mean of each voxel over the copies that reach it (cubic splines), float32; and the
        lowest correlation of the map with one of its copies where both are dense. It is 1 with the
        identity alone. Dense voxels only, because outlines alone agree well enough.
    """
    dense = DENSE * float(np.percentile(volume, 99.9))
    coefficients = ndimage.spline_filter(volume, 3, np.float32, mode="mirror")
    total = np.zeros(volume.shape, np.float32)
    count = np.zeros(volume.shape, np.uint16)
    lowest = 1.0
    slabs = [slice(a, min(a + SLAB, len(volume))) for a in range(0, len(volume), SLAB)]
    with ThreadPoolExecutor(workers or cpu_cores()) as pool:
        for done, operator in enumerate(operators, 1):
            moments = np.zeros(6)
            copies = pool.map(partial(_copy_slab, coefficients, operator, rate), slabs)
            for slab, (copy, inside) in zip(slabs, copies, strict=True):
                total[slab] += copy
                count[slab] += inside
                both = inside & (volume[slab] > dense) & (copy > dense)
                moments += _sum_moments(volume[slab][both], copy[both])
            lowest = min(lowest, _correlation(moments))
            if progress:
                progress(done, len(operators))
    total /= np.maximum(count, 1)
    return total, lowest


def _copy_slab(
    coefficients: np.ndarray, operator: Operator, rate: float, slab: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Planes of a map's copy, from its spline coefficients, and which voxels the map reaches."""
    lengths = coefficients.shape
    centre = np.array([n // 2 for n in lengths], float)
    # In (z, y, x) order; the value at v is the map's at M^-1 (v - c - shift) + c.
    inverse = operator.matrix.T[::-1, ::-1]
    shift = np.array([operator.shift / rate, 0, 0])
    offset = inverse @ (np.array([slab.start, 0, 0]) - centre - shift) + centre
    shape = (slab.stop - slab.start, *lengths[1:])
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    inside = np.ones(shape, bool)
    for row, start, length in zip(inverse, offset, lengths, strict=True):
        at = start + sum(r * a for r, a in zip(row, axes, strict=True))
        inside &= (at > -1e-3) & (at < length - 1 + 1e-3)
    copy = ndimage.affine_transform(
        coefficients, inverse, offset, shape, np.float32, order=3, mode="mirror", prefilter=False
    )
    copy[~inside] = 0
    return copy, inside


def _sum_moments(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The number of values, their sums, and the sums of their squares and products."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return np.array([len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b])


def _correlation(moments: np.ndarray) -> float:
    """The correlation that `_sum_moments` gives; 0 where one of the two does not vary."""
    n, sum_a, sum_b, aa, bb, ab = map(float, moments)
    variances = (n * aa - sum_a**2) * (n * bb - sum_b**2)
    return (n * ab - sum_a * sum_b) / variances**0.5 if variances > 0 else 0.0
