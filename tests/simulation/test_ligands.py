"""Ligands and glycans that are added to a molecule."""

import numpy as np
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.simulation.ligands import SUGAR, add_ligands


def test_ligands_and_glycans_hang_on_the_molecule_without_a_clash(molecule):
    made = add_ligands(molecule, 8, np.random.default_rng(5))
    grown = made[len(molecule) :]
    assert len(grown) > 40 and set(grown.elements) <= {"C", "N", "O", "P", "S"}
    np.testing.assert_array_equal(made.positions[: len(molecule)], molecule.positions)
    distance, _ = cKDTree(molecule.positions).query(grown.positions)
    assert distance.min() > 1.39 and np.mean(distance > 2.8) > 0.8 and distance.max() < 40
    nearest = cKDTree(made.positions).query(grown.positions, 2)[0][:, 1]
    assert 1.3 < nearest.min() and np.median(nearest) < 1.55
    assert ((grown.occupancies > 0.4) & (grown.occupancies <= 1)).all() and (
        grown.b_factors <= 150
    ).all()


def test_a_sugar_is_a_chair():
    bonds = [np.linalg.norm(SUGAR[i] - SUGAR[(i + 1) % 6]) for i in range(6)] + [
        np.linalg.norm(SUGAR[i] - SUGAR[i + 5]) for i in range(1, 5)
    ]
    np.testing.assert_allclose(bonds, 1.48, atol=0.05)
    apart = np.linalg.norm(SUGAR[:, None] - SUGAR[None], axis=-1)[np.triu_indices(10, 1)]
    assert (apart > 1.4).all() and np.sum(apart < 2) == 10
