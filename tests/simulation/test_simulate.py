"""The function for scripts against the simulation it stands for, and what it refuses."""

import numpy as np
import pytest

from deepemhancer_plugin.core import InputError, read_map, simulate
from deepemhancer_plugin.core.simulation import (
    Conditions,
    from_structure,
    read_molecule,
    simulate_halves,
)

SMALL = {"resolution": 5.0, "sampling_rate": 2.0, "box": 40}


@pytest.fixture(scope="module")
def model(structure, tmp_path_factory):
    path = tmp_path_factory.mktemp("simulate") / "protein.pdb"
    structure.write_pdb(str(path))
    return path


def test_maps_are_those_of_the_conditions(model):
    made = simulate(model, **SMALL, micelle=0.4, preferred=0.5, seed=3)
    conditions = Conditions(**SMALL, micelle=0.4, preferred=0.5, random_pose=False)
    expected = simulate_halves(read_molecule(model), conditions, 3)
    for name in ("half1", "half2", "target", "model", "mask"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))


def test_a_molecule_is_as_good_as_its_file_and_stays_what_it_was(model):
    molecule = read_molecule(model)
    before = molecule.positions.copy()
    made = simulate(molecule, **SMALL)
    np.testing.assert_array_equal(made.half1, simulate(str(model), **SMALL).half1)
    np.testing.assert_array_equal(molecule.positions, before)


def test_saved_maps_lie_in_the_models_place(model, tmp_path):
    made = simulate(model, **SMALL)
    paths = made.save(tmp_path / "p", "a label")
    assert [p.name for p in paths] == [
        "p_half1.mrc",
        "p_half2.mrc",
        "p_target.mrc",
        "p_model.mrc",
    ]
    half = read_map(paths[0])
    np.testing.assert_array_equal(half.data, made.half1)
    np.testing.assert_allclose(half.origin, made.origin, rtol=1e-6)
    assert half.sampling_rate == 2.0
    assert half.header.label[0].decode().startswith("a label")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resolution": 3.0, "sampling_rate": 2.0}, "resolution 3 A: between twice"),
        ({"resolution": float("nan")}, "resolution nan A"),
        ({"sampling_rate": 0.0}, "sampling rate 0: between 0.1 and 15"),
        ({"box": 8}, "box 8: between 24 and 1024"),
        ({"b_factor": -1.0}, "B factor -1: between 0 and 1000"),
        ({"micelle": 2.0}, "micelle 2: between 0 and 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(structure, arguments, words):
    with pytest.raises(InputError) as caught:
        simulate(from_structure(structure), **arguments)
    assert words in str(caught.value)


def test_a_molecule_without_atoms_is_refused(structure):
    with pytest.raises(InputError, match="without atoms"):
        simulate(from_structure(structure)[:0])
