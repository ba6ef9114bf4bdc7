"""Reading of atomic models; the potential against a direct sum over the atoms."""

import gzip
import warnings
from dataclasses import replace

import gemmi
import numpy as np
import pytest

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.simulation import Molecule, from_structure, read_molecule
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms


def atoms(*places, elements=("C",), b=30.0):
    places = np.array(places, float)
    return Molecule(
        np.resize(np.array(elements), len(places)),
        places,
        np.resize(np.asarray(b, float), len(places)),
        np.ones(len(places)),
    )


@pytest.mark.parametrize(("shape", "rate"), [((20, 24, 18), 1.0), ((15, 12, 14), 1.6)])
def test_potential_is_the_sum_over_atoms(shape, rate):
    """F(k) = sum occ f(k) exp(-B k^2 / 4) exp(-2 pi i k x), to 1 % up to Nyquist.

    f: the electron form factors of Peng et al. 1996.
    """
    given = atoms(
        (5.13, 7.9, 8.4),
        (9.02, 6.6, 10.9),
        (6.1, 9.3, 0.2),
        (3.0, 4.4, 12.2),
        elements=("C", "O", "S", "P"),
        b=(20, 45, 31, 80),
    )
    given = replace(given, occupancies=np.array([1.0, 0.5, 1.0, 0.8]))
    kz, ky, kx = np.meshgrid(
        np.fft.fftfreq(shape[0], rate),
        np.fft.fftfreq(shape[1], rate),
        np.fft.rfftfreq(shape[2], rate),
        indexing="ij",
    )
    square = kz**2 + ky**2 + kx**2
    expected = np.zeros(square.shape, complex)
    for name, (x, y, z), b, occupancy in zip(
        given.elements, given.positions, given.b_factors, given.occupancies, strict=True
    ):
        coefficients = gemmi.Element(name).c4322
        form = sum(
            a * np.exp(-width * square / 4)
            for a, width in zip(coefficients.a, coefficients.b, strict=True)
        )
        expected += (
            occupancy
            * form
            * np.exp(-b * square / 4)
            * np.exp(-2j * np.pi * (kz * z + ky * y + kx * x))
        )
    got = compute_potential(given, shape, rate) * rate**3
    for low, high in ((0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.45), (0.45, 0.49)):
        shells = (np.sqrt(square) >= low / rate) & (np.sqrt(square) < high / rate)
        assert np.linalg.norm((got - expected)[shells]) < 0.012 * np.linalg.norm(expected[shells])


@pytest.mark.parametrize(("rate", "radius"), [(1.0, 3.5), (0.7, 2.4)])
def test_mask_is_what_lies_within_the_radius_of_an_atom(rate, radius):
    given = atoms((7.3, 9.1, 6.6), (9.9, 8.2, 8.8), elements=("C", "S"))
    shape = (22, 25, 24)
    grid = np.stack(np.meshgrid(*(np.arange(n) * rate for n in shape), indexing="ij"), -1)[
        ..., ::-1
    ]
    distance = np.min([np.linalg.norm(grid - p, axis=-1) for p in given.positions], axis=0)
    got = mask_atoms(given, shape, rate, radius)
    assert set(np.unique(got)) == {0, 1}
    np.testing.assert_array_equal(got == 1, distance < radius)


def test_from_structure_takes_heavy_atoms_and_standardises_b(structure):
    made = structure.clone()
    residue = made[0][0].add_residue(gemmi.Residue())
    residue.name = "HOH"
    residue.add_atom(gemmi.Atom()).element = gemmi.Element("O")
    dummy = made[0][0].add_residue(gemmi.Residue())  # a point of a membrane's plane
    dummy.name = "DUM"
    dummy.add_atom(gemmi.Atom()).element = gemmi.Element("O")
    made[0][0][0].add_atom(gemmi.Atom()).element = gemmi.Element("H")
    molecule = from_structure(made)
    assert len(molecule) == len(from_structure(structure)) == sum(1 for cra in structure[0].all())
    assert np.median(molecule.b_factors) == pytest.approx(
        30, abs=0.01
    ) and molecule.b_factors.std() == pytest.approx(15, rel=0.1)
    for chain in made[0]:
        for r in chain:
            for atom in r:
                atom.b_iso = 0.0
    np.testing.assert_array_equal(from_structure(made).b_factors, 30.0)


@pytest.mark.parametrize("name", ["model.pdb", "model.cif", "model.pdb.gz"])
def test_model_files_are_read(structure, molecule, tmp_path, name):
    path = tmp_path / name
    text = (
        structure.make_mmcif_document().as_string()
        if "cif" in name
        else structure.make_pdb_string()
    )
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    read = read_molecule(path)
    np.testing.assert_array_equal(read.elements, molecule.elements)
    np.testing.assert_allclose(read.positions, molecule.positions, atol=1e-3)


WATER = "HETATM    1  O   HOH A   1       1.000   2.000   3.000  1.00 20.00           O\nEND\n"
NOWHERE = """data_x
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
ATOM 1 C CA . ALA A 1 ? 2.0 3.0 1.0 20.0
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.pdb", None),
        ("empty.pdb", b""),
        ("text.pdb", b"what is this\n" * 20),
        ("text.cif", b"what is this\n" * 20),
        ("empty.cif", b""),
        ("bytes.cif", bytes(range(256)) * 20),
        ("bytes.pdb", bytes(range(256)) * 20),
        ("water.pdb", WATER.encode()),
        ("damaged.pdb.gz", b"\x1f\x8b" + bytes(50)),
        ("short.pdb.gz", gzip.compress(WATER.encode() * 50)[:60]),
        ("nowhere.cif", NOWHERE.encode()),
        ("unknown.xyz", b"1\n\nC 0 0 0\n"),
    ],
)
def test_bad_model_files_are_refused(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        read_molecule(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_directory_is_no_model(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_molecule(tmp_path)
