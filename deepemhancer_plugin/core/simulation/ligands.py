"""Small ligands and glycans that are not in the atomic model, so that a network keeps them."""

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.molecule import Molecule, join_molecules

BOND = 1.45  # A
HYDROGEN_BOND = 2.9  # A
NOT_BONDED = 2.4  # A, least distance of atoms that are not bonded to each other
NOT_TOUCHING = 2.8  # A, least distance from the molecule's atoms, but for those near the anchor
FARTHEST = 6.0  # A that an atom of a ligand strays from the molecule
B_OF_A_SUGAR = 12.0  # A^2 that each sugar has more than the one before it
CROWD_RADIUS = 7.0  # A, of the sphere in which an atom's neighbours are counted
EXPOSED = 0.2  # fraction of the N and O atoms, those with fewest neighbours
TRIES = 20  # orientations of a sugar

# A sugar in its chair, in A: C1 C2 C3 C4 C5 O5, the substituents of C2, C3 and C4 and the arm of
# C5; C1 at the origin and C4 along x.
_ANGLES = np.deg2rad(180 - 60 * np.arange(6))
_RING = np.stack(
    [1.43 * np.cos(_ANGLES), 1.43 * np.sin(_ANGLES), 0.25 * (-1.0) ** np.arange(6)], axis=1
)
_OUT = np.stack(
    [2.83 * np.cos(_ANGLES), 2.83 * np.sin(_ANGLES), -0.15 * (-1.0) ** np.arange(6)], axis=1
)
SUGAR = np.concatenate([_RING, _OUT[1:5]]) - _RING[0]
SUGAR_ELEMENTS = np.array(["C", "C", "C", "C", "C", "O", "O", "O", "O", "C"])
LINKS = 8, 7, 9  # atoms of a sugar that the next hangs on: O4, O3, C6

Grown = tuple[np.ndarray, np.ndarray, np.ndarray]  # elements, positions (n, 3), sugars before


def add_ligands(molecule: Molecule, count: int, rng: np.random.Generator) -> Molecule:
    """Add ligands or glycans to a molecule, on exposed N and O atoms, as far as they fit.

    A glycan is a tree of one to six sugars, a ligand a branched chain of 6 to 30 atoms, both with
    ideal bond lengths and free of clashes, and nothing more chemical than that. A third of them is
    at partial occupancy.

    Args:
        molecule: its atoms stay the first ones.
        count: number of ligands and glycans.
        rng: draws them.
    """
    anchors = np.flatnonzero(np.isin(molecule.elements, ["N", "O"]))
    if not len(anchors):
        return molecule
    tree = cKDTree(molecule.positions)
    crowd = tree.query_ball_point(molecule.positions[anchors], CROWD_RADIUS, return_length=True)
    anchors = anchors[crowd <= np.quantile(crowd, EXPOSED)]
    parts = [molecule]
    for anchor in rng.permutation(anchors)[:count]:
        grow = _grow_glycan if rng.random() < 0.5 else _grow_ligand
        elements, positions, steps = grow(molecule.positions, int(anchor), tree, rng)
        b = np.clip(molecule.b_factors[anchor] + B_OF_A_SUGAR * steps, 12, 150)
        occupancy = rng.uniform(0.4, 1) if rng.random() < 1 / 3 else 1.0
        parts.append(Molecule(elements, positions, b, np.full(len(b), occupancy)))
        tree = cKDTree(np.concatenate([p.positions for p in parts]))
    return join_molecules(parts)


def _point_outwards(place: np.ndarray, tree: cKDTree) -> np.ndarray:
    """Unit vector at `place` (3,) away from the fifty nearest atoms."""
    away: np.ndarray = place - tree.data[tree.query(place, min(50, tree.n))[1]].mean(0)
    away /= max(float(np.linalg.norm(away)), 1e-6)
    return away


def _grow_glycan(atoms: np.ndarray, anchor: int, tree: cKDTree, rng: np.random.Generator) -> Grown:
    """Grow a tree of sugars from an anchor."""
    sugars: list[np.ndarray] = []
    steps: list[np.ndarray] = []
    open_ends = [(atoms[anchor], 1)]
    for _ in range(int(rng.integers(1, 7))):
        if not open_ends:
            break
        link, step = open_ends.pop(0)
        sugar = _place_sugar(link, step, sugars, atoms[anchor], tree, rng)
        if sugar is None:
            continue
        sugars.append(sugar)
        steps.append(np.full(len(sugar), step))
        ends = rng.permutation(LINKS)[: rng.choice([1, 2], p=[0.7, 0.3])]
        open_ends += [(sugar[i], step + 1) for i in ends]
    return (
        np.tile(SUGAR_ELEMENTS, len(sugars)),
        np.concatenate([*sugars, np.zeros((0, 3))]),
        np.concatenate([*steps, np.zeros(0)]),
    )


def _place_sugar(
    link: np.ndarray,
    step: int,
    sugars: list[np.ndarray],
    anchor: np.ndarray,
    tree: cKDTree,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Hang a sugar (10, 3) on a link (3,) where it clashes with nothing; None where none fits."""
    out = _point_outwards(link, tree)
    own = np.concatenate([*sugars, np.zeros((0, 3))])
    own = own[np.linalg.norm(own - link, axis=1) > 2.0]
    for _ in range(TRIES):
        along = out + 0.5 * rng.standard_normal(3)
        along /= np.linalg.norm(along)
        towards = along + 0.3 * rng.standard_normal(3)
        turn, _ = Rotation.align_vectors([towards / np.linalg.norm(towards)], [[1.0, 0.0, 0.0]])
        spin = Rotation.from_rotvec([rng.uniform(0, 2 * np.pi), 0, 0])
        sugar: np.ndarray = (turn * spin).apply(SUGAR) + link + BOND * along
        if step > 1:
            free = tree.query(sugar[1:])[0].min() > NOT_TOUCHING
        else:
            free = _is_clear(sugar, anchor, tree)
        if free and (not len(own) or cKDTree(own).query(sugar)[0].min() > NOT_BONDED):
            return sugar
    return None


def _is_clear(grown: np.ndarray, anchor: np.ndarray, tree: cKDTree) -> bool:
    """Whether grown atoms (n, 3) stay off the molecule; near the anchor, as its neighbours do."""
    near = np.linalg.norm(grown - anchor, axis=1) < 3.0
    distance = tree.query(grown)[0]
    return bool((distance[~near] > NOT_TOUCHING).all() and (distance[near] > BOND - 0.05).all())


def _grow_ligand(atoms: np.ndarray, anchor: int, tree: cKDTree, rng: np.random.Generator) -> Grown:
    """Grow a chain beside the molecule, at the distance of a hydrogen bond from an anchor."""
    start = atoms[anchor] + HYDROGEN_BOND * _point_outwards(atoms[anchor], tree)
    grown = [start] if tree.query(start)[0] > NOT_TOUCHING else []
    wanted = int(rng.integers(6, 31)) if grown else 0
    for _ in range(6 * wanted):
        if len(grown) == wanted:
            break
        # Mostly from the end, sometimes a branch.
        root = grown[-1] if rng.random() < 0.7 else grown[rng.integers(len(grown))]
        step = rng.standard_normal(3)
        new = root + BOND * step / np.linalg.norm(step)
        distance = np.linalg.norm(np.array(grown) - new, axis=1)
        if (
            np.sort(distance)[1:2].min(initial=NOT_BONDED) >= NOT_BONDED
            and NOT_TOUCHING < tree.query(new)[0] < FARTHEST
        ):
            grown.append(new)
    elements = rng.choice(["C", "O", "N", "P", "S"], len(grown), p=[0.68, 0.17, 0.11, 0.02, 0.02])
    return elements, np.array(grown).reshape(-1, 3), np.zeros(len(grown))
