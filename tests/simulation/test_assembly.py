"""Copies of a molecule against their symmetry, and against each other."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.assembly import assemble


@pytest.mark.parametrize(
    ("symmetry", "order"), [("C3", 3), ("C7", 7), ("D3", 6), ("O", 24), ("I", 60)]
)
def test_copies_map_onto_themselves_under_their_group(molecule, symmetry, order):
    small = molecule[:150].shift(-molecule.positions[:150].mean(0))
    made = assemble(small, symmetry, None, np.random.default_rng(2))
    assert len(made) == order * 150
    tree = cKDTree(made.positions)
    n = int(symmetry[1:] or 1)
    operations = [Rotation.from_rotvec([0, 0, 2 * np.pi / n])] if n > 1 else []
    operations += [Rotation.from_rotvec([np.pi, 0, 0])] if symmetry[0] == "D" else []
    operations += {
        "O": [
            Rotation.from_rotvec([0, 0, np.pi / 2]),
            Rotation.from_rotvec(2 * np.pi / 3 * np.ones(3) / 3**0.5),
        ],
        "I": [
            Rotation.from_rotvec([0, 0, np.pi]),
            Rotation.from_rotvec(2 * np.pi / 3 * np.ones(3) / 3**0.5),
        ],
    }.get(symmetry, [])
    assert operations
    for operation in operations:
        distance, partner = tree.query(operation.apply(made.positions))
        assert distance.max() < 1e-6 and len(set(partner)) == len(made)
        np.testing.assert_array_equal(made.elements[partner], made.elements)


@pytest.mark.parametrize("symmetry", ["C2", "C5", "D2", "T", "helix", "shell"])
def test_copies_do_not_run_into_each_other_and_touch(molecule, symmetry):
    small = molecule[:300].shift(-molecule.positions[:300].mean(0))
    made = assemble(small, symmetry, None, np.random.default_rng(3))
    parts = made.positions.reshape(-1, 300, 3)
    nearest = min(cKDTree(parts[0]).query(np.concatenate(parts[1:]))[0].min(), 99)
    assert nearest >= 4.0 - 1e-9
    if symmetry != "shell":
        assert nearest < 6.5


def test_a_helix_maps_onto_itself_under_rise_and_twist(molecule):
    small = molecule[:100].shift(-molecule.positions[:100].mean(0))
    for seed in range(3):
        made = assemble(small, "helix", 150.0, np.random.default_rng(seed))
        parts = made.positions.reshape(-1, 100, 3)
        rotation, error = Rotation.align_vectors(
            parts[1] - parts[1].mean(0), parts[0] - parts[0].mean(0)
        )
        twist, rise = rotation.as_rotvec(), (parts[1] - rotation.apply(parts[0])).mean(0)
        assert error < 1e-4 and np.abs(twist[:2]).max() < 1e-6 and np.abs(rise[:2]).max() < 1e-6
        assert np.ptp(parts[:, :, 2]) >= 150
        inner = made.positions[np.abs(made.positions[:, 2]) < 60 - abs(rise[2])]
        assert (
            len(inner)
            and cKDTree(made.positions)
            .query(rotation.apply(inner) + np.array([0, 0, rise[2]]))[0]
            .max()
            < 1e-6
        )


@pytest.mark.parametrize("symmetry", ["C1", "D0", "C20", "c3", "", "fibre"])
def test_unknown_symmetry_is_refused(molecule, symmetry):
    with pytest.raises(ValueError, match="C2 to C19"):
        assemble(molecule, symmetry, None, np.random.default_rng(0))
