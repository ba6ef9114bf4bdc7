"""The synthetic protein has the geometry of a real one."""

import gemmi
import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepemhancer_plugin.core.simulation.synthetic import build_protein

STRANDS = [range(first, first + 8) for first in range(0, 276, 35)]
HELICES = [range(first + 12, first + 29) for first in range(0, 276, 35)]


@pytest.fixture(scope="module", params=[0, 7])
def protein(request):
    return build_protein(request.param)


def chain(structure):
    return structure[0]["A"]


def places(structure, name):
    return np.array([r[name][0].pos.tolist() for r in chain(structure)])


def atoms(structure):
    """Places, and the number of each one's residue."""
    found = [(a.pos.tolist(), i) for i, r in enumerate(chain(structure)) for a in r]
    return np.array([p for p, _ in found]), np.array([i for _, i in found])


def lengths(a, b):
    return np.linalg.norm(a - b, axis=-1)


def angles(a, b, c):
    u, v = a - b, c - b
    return np.degrees(np.arccos((u * v).sum(-1) / lengths(a, b) / lengths(c, b)))


def test_composition(protein):
    names = [r.name for r in chain(protein)]
    assert len(protein) == 1 and len(protein[0]) == 1 and 250 <= len(names) <= 320
    assert len(set(names)) == 20 and names.count("GLY") < 0.2 * len(names)
    assert all(gemmi.find_tabulated_residue(n).is_amino_acid() for n in names)
    assert all(a.element.name in "CNOS" for r in chain(protein) for a in r)
    for residue in chain(
        protein
    ):  # heavy atoms in the residue: the formula's, less the oxygen that the peptide bond costs
        weight = gemmi.find_tabulated_residue(residue.name).weight - 15.999
        present = sum(a.element.weight for a in residue if a.name != "OXT")
        assert 0 < weight - present < 17, residue.name  # hydrogens


def test_backbone_geometry(protein):
    n, ca, c, o = (places(protein, name) for name in ("N", "CA", "C", "O"))
    assert lengths(n, ca) == pytest.approx(1.458, abs=0.01) and lengths(ca, c) == pytest.approx(
        1.525, abs=0.01
    )
    assert lengths(c[:-1], n[1:]) == pytest.approx(1.329, abs=0.01) and lengths(
        c, o
    ) == pytest.approx(1.231, abs=0.01)
    assert lengths(ca[:-1], ca[1:]) == pytest.approx(3.80, abs=0.03)
    assert angles(n, ca, c) == pytest.approx(111, abs=1) and angles(ca, c, o) == pytest.approx(
        120.1, abs=1
    )
    assert angles(ca[:-1], c[:-1], n[1:]) == pytest.approx(116.9, abs=1)
    assert angles(o[:-1], c[:-1], n[1:]) == pytest.approx(123, abs=1)
    assert angles(c[:-1], n[1:], ca[1:]) == pytest.approx(121.7, abs=1)
    omega = [
        abs(np.degrees(gemmi.calculate_omega(a, b)))
        for a, b in zip(chain(protein)[:-1], chain(protein)[1:], strict=True)
    ]
    assert min(omega) > 178


def test_torsions_are_allowed(protein):
    """Only glycine has a positive phi; helices and strands lie where Ramachandran has them."""
    residues = list(chain(protein))
    for i in range(1, len(residues) - 1):
        phi, psi = np.degrees(gemmi.calculate_phi_psi(*residues[i - 1 : i + 2]))
        assert phi < 0 or residues[i].name == "GLY"
        if any(i in h for h in HELICES):
            assert -75 < phi < -55 and -55 < psi < -30
        if any(i in s for s in STRANDS):
            assert -150 < phi < -90 and 100 < psi < 160


def test_hands_of_the_amino_acids(protein):
    """Signed volumes: L-amino acids, and the second centre of threonine (R) and isoleucine (S)."""

    def volume(residue, centre, *around):
        middle = np.array(residue[centre][0].pos.tolist())
        return np.linalg.det([np.array(residue[a][0].pos.tolist()) - middle for a in around])

    for residue in chain(protein):
        if residue.name != "GLY":
            assert volume(residue, "CA", "N", "C", "CB") == pytest.approx(2.5, abs=0.3)
        if residue.name == "THR":
            assert volume(residue, "CB", "CA", "OG1", "CG2") == pytest.approx(2.5, abs=0.3)
        if residue.name == "ILE":
            assert volume(residue, "CB", "CA", "CG1", "CG2") == pytest.approx(2.6, abs=0.3)


RINGS = {
    "PHE": [("CZ", "CE2", 1.38)],
    "TYR": [("CZ", "CE2", 1.38)],
    "PRO": [("CD", "N", 1.47)],
    "HIS": [("CE1", "NE2", 1.32)],
    "TRP": [("NE1", "CE2", 1.37), ("CZ3", "CH2", 1.40)],
}


def test_side_chains(protein):
    """Every atom is bonded, none too near another; rings, built from one side, close."""
    for residue in chain(protein):
        p = np.array([a.pos.tolist() for a in residue])
        d = lengths(p[:, None], p[None]) + 9 * np.eye(len(p))
        assert d.min() > 1.2 and d.min(1).max() < 1.83, residue.name
        for a, b, expected in RINGS.get(residue.name, []):
            found = residue[a][0].pos.dist(residue[b][0].pos)
            assert found == pytest.approx(expected, abs=0.06), residue.name


def test_helices_and_strands(protein):
    ca, n, o = (places(protein, name) for name in ("CA", "N", "O"))
    for helix in HELICES:
        axis = np.array([ca[i : i + 4].mean(0) for i in helix[:-3]])
        assert 3.6 * lengths(axis[0], axis[-1]) / (len(axis) - 1) == pytest.approx(
            5.4, abs=0.25
        )  # pitch
        assert np.median([lengths(o[i], n[i + 4]) for i in helix[1:-5]]) == pytest.approx(
            3.0, abs=0.5
        )
    for one, other in zip(
        STRANDS, STRANDS[1:] + STRANDS[:1], strict=True
    ):  # the barrel is closed: the last meets the first
        d = lengths(ca[one][1:7, None], ca[other][None])
        assert d.min(1).mean() == pytest.approx(4.9, abs=0.4)
        bonds = (
            np.minimum(
                lengths(n[one][:, None], o[other][None]), lengths(o[one][:, None], n[other][None])
            )
            < 3.5
        )
        assert bonds.sum() >= 3


def test_compact_without_clashes(protein):
    p, residue = atoms(protein)
    radius = np.sqrt(((p - p.mean(0)) ** 2).sum(1).mean())
    assert radius == pytest.approx(2.2 * (residue.max() + 1) ** 0.38, rel=0.1)
    tree = cKDTree(p)
    pairs = tree.query_pairs(4.0, output_type="ndarray")
    far = np.abs(np.diff(residue[pairs], axis=1)[:, 0]) > 1
    d = lengths(*p[pairs[far]].transpose(1, 0, 2))
    assert d.min() > 2.3 and (d < 2.6).mean() < 0.002
    neighbours = [
        len(x) for x in tree.query_ball_point(p, 8)
    ]  # in the core of crystal structures: 0.048 to 0.052 atoms/A^3
    assert np.percentile(neighbours, 90) / (4 / 3 * np.pi * 8**3) == pytest.approx(0.049, abs=0.004)


def test_centre_and_b_factors(protein):
    assert np.abs(places(protein, "CA").mean(0)).max() < 1e-3
    p, _ = atoms(protein)
    b = np.array([a.b_iso for r in chain(protein) for a in r])
    assert b.min() >= 15 and b.max() <= 60 and 25 < b.mean() < 45
    distance = np.linalg.norm(p - p.mean(0), axis=1)
    assert (
        b[distance > np.percentile(distance, 80)].mean()
        > b[distance < np.percentile(distance, 20)].mean()
    )


def test_seed():
    def text(structure):
        return structure.make_pdb_string()

    assert text(build_protein(3)) == text(build_protein(3)) != text(build_protein(4))
