"""Where the atoms of a simulation lie: orientation, copies, place in the box, disorder."""

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.assembly import assemble
from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.ligands import add_ligands
from deepemhancer_plugin.core.simulation.molecule import U_TO_B, Molecule

FEWEST_ATOMS = 50  # in the box; with fewer, those outside of it are kept too
EDGE_ROOM = 4.0  # A left free at the box's edge where the molecule is put off its centre


@dataclass(frozen=True)
class Placement:
    """A molecule, or its copies, in the box.

    Attributes:
        atoms: those in the box, positions x, y, z in A from the centre of the first voxel.
        kept: of all atoms of all copies, whether they are in the box (n,).
        unit: one copy about the origin.
        copies: number of copies, in the box or not.
        edge: edge of the box in voxels.
        origin: position of the first voxel in the model's own frame, x, y, z in A, where the
            model has kept its orientation.
    """

    atoms: Molecule
    kept: np.ndarray
    unit: Molecule
    copies: int
    edge: int
    origin: tuple[float, float, float]


def place_molecule(
    molecule: Molecule, conditions: Conditions, rng: np.random.Generator
) -> Placement:
    """Orient a molecule, add its ligands and copies, and put it into the box."""
    rate = conditions.sampling_rate
    length = conditions.box and 3**0.5 * conditions.box * rate
    unit, atoms = _arrange_copies(molecule, conditions, length, rng)
    copies = len(atoms) // len(unit)
    if conditions.random_pose:
        extent = np.ptp(atoms.positions, axis=0).max()
    else:
        extent = 2 * np.abs(atoms.positions).max()
    edge = conditions.box or _choose_edge(extent + 2 * conditions.margin, rate)
    size, middle = edge * rate, (edge // 2) * rate

    shift = _draw_shift(atoms, extent, size, conditions, rng)
    atoms = atoms.shift(shift + middle)
    inside = np.all((atoms.positions > 0) & (atoms.positions < size), axis=1)
    if inside.sum() <= FEWEST_ATOMS:
        inside = np.full(len(atoms), True)
    x, y, z = (float(value) for value in _find_middle(molecule) - shift - middle)
    return Placement(atoms[inside], inside, unit, copies, edge, (x, y, z))


def draw_disorder(
    placement: Placement, conditions: Conditions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw what disorder and alignment errors do to the atoms in the box.

    An error of the shifts adds the same B factor everywhere, one of the orientations adds a B
    factor that grows with the square of the distance from the box's centre.

    Returns:
        B factors (n,) in A^2 to add, and occupancies (n,).
    """
    atoms, kept, copies = placement.atoms, placement.kept, placement.copies
    if copies == 1:
        flexibility = _draw_flexibility(atoms.positions, rng)
    else:  # copies are disordered alike
        flexibility = np.tile(_draw_flexibility(placement.unit.positions, rng), copies)[kept]
    middle = (placement.edge // 2) * conditions.sampling_rate
    distance = np.linalg.norm(atoms.positions - middle, axis=1)
    extra = conditions.disorder * flexibility
    extra = extra + U_TO_B * (
        conditions.pose_error**2 + (np.deg2rad(conditions.angle_error) * distance) ** 2 / 2
    )
    occupancies = atoms.occupancies
    if conditions.weak < 1:
        weak = flexibility > np.quantile(flexibility, rng.uniform(0.67, 0.9))
        if copies > 1 and rng.random() < 0.5:
            weak = (np.flatnonzero(kept) // len(placement.unit)) == rng.integers(copies)
        occupancies = occupancies * np.where(weak, conditions.weak, 1.0)
    return extra, occupancies


def _find_middle(molecule: Molecule) -> np.ndarray:
    low, high = molecule.positions.min(0), molecule.positions.max(0)
    return np.asarray((low + high) / 2)


def _choose_edge(size: float, rate: float) -> int:
    """Give the edge in voxels of a box of `size` A that a Fourier transform is fast on."""
    return int(fft.next_fast_len(int(2 * np.ceil(size / rate / 2)), real=True))


def _arrange_copies(
    molecule: Molecule, conditions: Conditions, length: float | None, rng: np.random.Generator
) -> tuple[Molecule, Molecule]:
    """Give one copy, and all about the origin in an orientation; a fibre is `length` A long."""
    rotation = Rotation.random(rng=rng) if conditions.random_pose else Rotation.identity()
    unit = molecule.shift(-_find_middle(molecule)).rotate(rotation)
    if conditions.ligands:
        unit = add_ligands(unit, conditions.ligands, rng)
    if conditions.symmetry == "C1":
        return unit, unit
    turn = Rotation.random(rng=rng) if conditions.random_pose else Rotation.identity()
    return unit, assemble(unit, conditions.symmetry, length, rng).rotate(turn)


def _draw_shift(
    atoms: Molecule, extent: float, size: float, conditions: Conditions, rng: np.random.Generator
) -> np.ndarray:
    """Draw the shift (3,) in A of atoms that stand about the box's centre."""
    shift = np.zeros(3)
    if conditions.random_pose:
        shift = rng.uniform(-0.5, 0.5, 3) * conditions.sampling_rate
    if not conditions.centred:
        room = max(0.0, (size - extent) / 2 - EDGE_ROOM)
        shift = shift + rng.uniform(-0.5, 0.5, 3) * room
    if extent > size and conditions.symmetry != "helix":
        # The box is too small for all: some part of the molecule comes into its middle.
        shift = shift - atoms.positions[rng.integers(len(atoms))]
    return shift


def _draw_flexibility(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a flexibility from 0 to 1 for atoms (n, 3), a sigmoid along a random direction."""
    direction = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    along = positions @ direction
    low, high = np.percentile(along, [2, 98])
    middle, slope = rng.uniform(0.4, 0.9), rng.uniform(0.05, 0.2)
    return np.asarray(1 / (1 + np.exp(-((along - low) / max(high - low, 1.0) - middle) / slope)))
