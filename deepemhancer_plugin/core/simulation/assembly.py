"""Copies of a molecule: rings and other point groups, hollow shells, fibres."""

import re
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.molecule import Molecule, join_molecules

CONTACT = 4.0  # A between the nearest atoms of two copies in contact
MOST_ATOMS = 1500  # of a copy that contacts are looked for with
SHELL_COPIES = 20, 60  # fewest and most copies packed at random on a sphere
DISTANCE_STEP = 0.5  # A, how well the distance of a contact is found
POINT_GROUP = re.compile(r"C[2-9]|C1\d|D[2-9]|T|O|I")

# Rotations about the origin of n copies, and their shifts afterwards (n, 3) in A.
Copies = tuple[Rotation, np.ndarray]


def spread_directions(n: int) -> np.ndarray:
    """Spread n unit vectors (n, 3) evenly over the sphere: a Fibonacci lattice."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def assemble(
    molecule: Molecule, symmetry: str, length: float | None, rng: np.random.Generator
) -> Molecule:
    """Arrange copies of a molecule that stands about the origin, in contact but not in each other.

    Args:
        molecule: the first copy, whose atoms stay the first.
        symmetry: C2 to C19, D2 to D9, T, O or I with the axis of highest order along z; "helix"
            along z with a rise and twist of its own; "shell", 20 to 60 copies in random
            orientations spread over a sphere.
        length: A that a helix fills; None for nine copies.
        rng: draws what the symmetry leaves open.

    Raises:
        ValueError: another symmetry.
    """
    if symmetry == "helix":
        rotations, shifts = _arrange_helix(molecule, length, rng)
    elif symmetry == "shell":
        rotations, shifts = _arrange_shell(molecule, rng)
    elif POINT_GROUP.fullmatch(symmetry):
        rotations, shifts = _arrange_point_group(molecule, symmetry, rng)
    else:
        raise ValueError(
            f"symmetry {symmetry!r}: C2 to C19, D2 to D9, T, O, I, helix or shell are right"
        )
    copies = [
        molecule.rotate(rotation).shift(shift)
        for rotation, shift in zip(rotations, shifts, strict=True)
    ]
    return join_molecules(copies)


def _thin_out(molecule: Molecule) -> np.ndarray:
    """Positions (n, 3) of some of the atoms, spread over the molecule."""
    return molecule.positions[:: max(1, len(molecule) // MOST_ATOMS)]


def _measure_radius(molecule: Molecule) -> float:
    """Distance in A of the farthest atom from the origin."""
    return float(np.linalg.norm(molecule.positions, axis=1).max())


def _find_clearance(first: np.ndarray, others: list[np.ndarray]) -> float:
    """Distance in A between the nearest atoms of a copy (n, 3) and others, CONTACT at most."""
    tree = cKDTree(first)
    low, high = first.min(0) - CONTACT, first.max(0) + CONTACT
    clearance = CONTACT
    for other in others:
        near = other[np.all((other > low) & (other < high), axis=1)]
        if len(near):
            distance = tree.query(near, distance_upper_bound=CONTACT)[0]
            clearance = min(clearance, float(distance.min()))
    return clearance


def _find_contact(
    place: Callable[[float], list[np.ndarray]], free: float, least: float = 0.0
) -> float:
    """Find the distance that brings copies nearest without a clash, by bisection.

    Args:
        place: gives the positions (n, 3) of the first copy and of the others at a distance in A.
        free: distance at which nothing touches.
        least: smallest distance.
    """
    while free - least > DISTANCE_STEP:
        middle = (free + least) / 2
        first, *others = place(middle)
        if _find_clearance(first, others) < CONTACT:
            least = middle
        else:
            free = middle
    return free


def _arrange_point_group(molecule: Molecule, group: str, rng: np.random.Generator) -> Copies:
    """Put copies as near to the centre as they fit."""
    rotations = Rotation.create_group(group)
    atoms = _thin_out(molecule)
    # Off the axis of a ring there is one way to go; elsewhere the tightest of three is taken.
    directions = np.array([[1.0, 0.0, 0.0]])
    if group[0] != "C":
        directions = Rotation.random(3, rng=rng).apply([1.0, 0.0, 0.0])
    best, best_distance = directions[0], np.inf
    for direction in directions:

        def place(distance: float, direction: np.ndarray = direction) -> list[np.ndarray]:
            return [rotation.apply(atoms + distance * direction) for rotation in rotations]

        steps = np.linalg.norm(rotations.apply(direction) - direction, axis=1)
        free = (2 * _measure_radius(molecule) + CONTACT) / steps[steps > 1e-6].min()
        distance = _find_contact(place, free)
        if distance < best_distance:
            best, best_distance = direction, distance
    return rotations, rotations.apply(best_distance * best)


def _arrange_helix(molecule: Molecule, length: float | None, rng: np.random.Generator) -> Copies:
    """Stack copies along z, each turned and lifted against the one before it."""
    twist = np.deg2rad(rng.uniform(20, 180)) * rng.choice([-1, 1])
    radius = rng.uniform(0, 1) * _measure_radius(molecule)
    atoms = _thin_out(molecule) + np.array([radius, 0.0, 0.0])
    per_turn = int(np.ceil(2 * np.pi / abs(twist))) + 1

    def place(rise: float) -> list[np.ndarray]:
        return [
            Rotation.from_rotvec([0, 0, i * twist]).apply(atoms) + np.array([0, 0, i * rise])
            for i in range(per_turn + 1)
        ]

    rise = _find_contact(place, float(np.ptp(molecule.positions[:, 2])) + CONTACT, 1.0)
    half = 4 if length is None else int(np.ceil(length / 2 / rise)) + 1
    numbers = np.array(sorted(range(-half, half + 1), key=abs))
    rotations = Rotation.from_rotvec(np.outer(numbers * twist, [0, 0, 1]))
    return rotations, rotations.apply([radius, 0, 0]) + np.outer(numbers * rise, [0, 0, 1])


def _arrange_shell(molecule: Molecule, rng: np.random.Generator) -> Copies:
    """Spread copies evenly over a sphere, each in an orientation of its own."""
    fewest, most = SHELL_COPIES
    n = int(rng.integers(fewest, most + 1))
    points = spread_directions(n)
    nearest = cKDTree(points).query(points, 2)[0][:, 1].min()
    return Rotation.random(n, rng=rng), points * (2 * _measure_radius(molecule) + CONTACT) / nearest
