"""Copies of a molecule: rings and other point groups, hollow shells, fibres."""

import re

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.molecule import Molecule

GAP = 4.0  # A between the nearest atoms of two copies in contact
SPARSE = 1500  # atoms of a copy that contacts are looked for with
SHELL = 20, 60  # copies packed at random on a sphere
POINT_GROUP = re.compile(r"C[2-9]|C1\d|D[2-9]|T|O|I")

Copies = tuple[
    Rotation, np.ndarray
]  # rotations about the origin of n copies, and their shifts afterwards (n, 3) in A


def assemble(
    molecule: Molecule, symmetry: str, length: float | None, rng: np.random.Generator
) -> Molecule:
    """Copies of a molecule that stands about the origin, the first one's atoms first, in contact but not in each other.

    symmetry: C2 to C19, D2 to D9, T, O, I (axis of order n along z, scipy's groups); "helix" along z with a rise and twist of its own, over
    `length` A (None: nine copies); "shell": 20 to 60 copies in random orientations spread over a sphere. ValueError for anything else.
    """
    if symmetry == "helix":
        rotations, shifts = _helix(molecule, length, rng)
    elif symmetry == "shell":
        rotations, shifts = _shell(molecule, rng)
    elif POINT_GROUP.fullmatch(symmetry):
        rotations, shifts = _point_group(molecule, symmetry, rng)
    else:
        raise ValueError(
            f"symmetry {symmetry!r}: C2 to C19, D2 to D9, T, O, I, helix or shell are right"
        )
    n = len(shifts)
    positions = np.concatenate(
        [r.apply(molecule.positions) + s for r, s in zip(rotations, shifts, strict=True)]
    )
    return Molecule(
        np.tile(molecule.elements, n),
        positions,
        np.tile(molecule.b_factors, n),
        np.tile(molecule.occupancies, n),
    )


def _sparse(molecule: Molecule) -> np.ndarray:
    return molecule.positions[:: max(1, len(molecule) // SPARSE)]


def _radius(molecule: Molecule) -> float:
    return float(np.linalg.norm(molecule.positions, axis=1).max())


def _nearest(first: np.ndarray, others: list[np.ndarray]) -> float:
    """Distance in A between the nearest atoms of one copy (n, 3) and of any of the others; GAP where it is more."""
    tree = cKDTree(first)
    low, high = first.min(0) - GAP, first.max(0) + GAP
    near = [
        part for o in others for part in [o[np.all((o > low) & (o < high), axis=1)]] if len(part)
    ]
    return float(
        min([tree.query(part, distance_upper_bound=GAP)[0].min() for part in near], default=GAP)
    )


def _contact(copies, free: float, least: float = 0.0) -> float:
    """The distance between `least` and `free` (at which nothing touches) that brings the copies nearest without a clash.

    copies(distance): positions (n, 3) of the first copy and of the others.
    """
    while free - least > 0.5:
        middle = (free + least) / 2
        first, *others = copies(middle)
        if _nearest(first, others) < GAP:
            least = middle
        else:
            free = middle
    return free


def _point_group(molecule: Molecule, group: str, rng: np.random.Generator) -> Copies:
    rotations = Rotation.create_group(group)
    atoms, best = _sparse(molecule), (np.inf, np.zeros(3))
    # Off the axis of a ring there is one way to go; elsewhere the tightest of three.
    for direction in (
        [np.array([1.0, 0.0, 0.0])]
        if group[0] == "C"
        else Rotation.random(3, rng=rng).apply([1.0, 0.0, 0.0])
    ):
        steps = np.linalg.norm(rotations.apply(direction) - direction, axis=1)
        free = (2 * _radius(molecule) + GAP) / steps[steps > 1e-6].min()
        distance = _contact(
            lambda d, u=direction: [r.apply(atoms + d * u) for r in rotations], free
        )
        if distance < best[0]:
            best = distance, direction
    return rotations, rotations.apply(best[0] * best[1])


def _helix(molecule: Molecule, length: float | None, rng: np.random.Generator) -> Copies:
    twist, radius = (
        np.deg2rad(rng.uniform(20, 180)) * rng.choice([-1, 1]),
        rng.uniform(0, 1) * _radius(molecule),
    )
    atoms = _sparse(molecule) + np.array([radius, 0.0, 0.0])
    turn = (
        int(np.ceil(2 * np.pi / abs(twist))) + 1
    )  # copies up to the one that lies above the first

    def copies(rise: float) -> list[np.ndarray]:
        return [
            Rotation.from_rotvec([0, 0, i * twist]).apply(atoms) + np.array([0, 0, i * rise])
            for i in range(turn + 1)
        ]

    rise = _contact(copies, float(np.ptp(molecule.positions[:, 2])) + GAP, 1.0)
    half = 4 if length is None else int(np.ceil(length / 2 / rise)) + 1
    numbers = np.array(sorted(range(-half, half + 1), key=abs))
    rotations = Rotation.from_rotvec(np.outer(numbers * twist, [0, 0, 1]))
    return rotations, rotations.apply([radius, 0, 0]) + np.outer(numbers * rise, [0, 0, 1])


def _shell(molecule: Molecule, rng: np.random.Generator) -> Copies:
    n = int(rng.integers(SHELL[0], SHELL[1] + 1))
    # Points of a golden spiral: evenly spread.
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    points = np.stack(
        [np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1
    )
    nearest = cKDTree(points).query(points, 2)[0][:, 1].min()
    return Rotation.random(n, rng=rng), points * (2 * _radius(molecule) + GAP) / nearest
