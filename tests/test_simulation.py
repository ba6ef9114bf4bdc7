"""Simulated half maps against what was asked for, and the potential against a direct sum over the atoms."""
import gzip
import warnings
from dataclasses import replace

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core import spectrum
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.simulation import Conditions, from_structure, random_conditions, read_molecule, simulate
from deepemhancer_plugin.core.simulation.molecule import Molecule, mask, potential
from deepemhancer_plugin.core.synthetic import build_protein

# Nothing but signal and noise: what has a closed form.
PLAIN = Conditions(resolution=4.0, box=72, b_factor=40.0, disorder=0.0, angle_error=0.0, solvent=0.0, sphere=False)


@pytest.fixture(scope="module")
def structure():
    return build_protein()


@pytest.fixture(scope="module")
def molecule(structure):
    return from_structure(structure)


@pytest.fixture(scope="module")
def plain(molecule):
    return simulate(molecule, PLAIN, seed=1)


def atoms(*places, elements=("C",), b=30.0):
    places = np.array(places, float)
    return Molecule(np.resize(np.array(elements), len(places)), places, np.resize(np.asarray(b, float), len(places)), np.ones(len(places)))


@pytest.mark.parametrize(("shape", "rate"), [((20, 24, 18), 1.0), ((15, 12, 14), 1.6)])
def test_potential_is_the_sum_over_atoms(shape, rate):
    """F(k) = sum occ f(k) exp(-B k^2 / 4) exp(-2 pi i k x), f the electron form factors of Peng et al. 1996.

    Near Nyquist the grid aliases: exp(-18 ((1 - q)^2 - q^2)) of the coefficient at q / rate, 1 % at q = 0.37.
    """
    given = atoms((5.13, 7.9, 8.4), (9.02, 6.6, 10.9), (6.1, 9.3, 0.2), (3.0, 4.4, 12.2), elements=("C", "O", "S", "P"), b=(20, 45, 31, 80))
    given = replace(given, occupancies=np.array([1.0, 0.5, 1.0, 0.8]))
    kz, ky, kx = np.meshgrid(np.fft.fftfreq(shape[0], rate), np.fft.fftfreq(shape[1], rate), np.fft.rfftfreq(shape[2], rate), indexing="ij")
    square = kz**2 + ky**2 + kx**2
    expected = np.zeros(square.shape, complex)
    for name, (x, y, z), b, occupancy in zip(given.elements, given.positions, given.b_factors, given.occupancies, strict=True):
        coefficients = gemmi.Element(name).c4322
        form = sum(a * np.exp(-width * square / 4) for a, width in zip(coefficients.a, coefficients.b, strict=True))
        expected += occupancy * form * np.exp(-b * square / 4) * np.exp(-2j * np.pi * (kz * z + ky * y + kx * x))
    got = potential(given, shape, rate) * rate**3
    shells = np.sqrt(square) < 0.37 / rate
    assert np.abs(got - expected)[shells].max() < 0.01 * expected[0, 0, 0].real
    assert np.linalg.norm((got - expected)[shells]) < 0.01 * np.linalg.norm(expected[shells])


@pytest.mark.parametrize(("rate", "radius"), [(1.0, 3.5), (0.7, 2.4)])
def test_mask_is_what_lies_within_the_radius_of_an_atom(rate, radius):
    given = atoms((7.3, 9.1, 6.6), (9.9, 8.2, 8.8), elements=("C", "S"))
    shape = (22, 25, 24)
    grid = np.stack(np.meshgrid(*(np.arange(n) * rate for n in shape), indexing="ij"), -1)[..., ::-1]
    distance = np.min([np.linalg.norm(grid - p, axis=-1) for p in given.positions], axis=0)
    got = mask(given, shape, rate, radius)
    assert set(np.unique(got)) == {0, 1}
    np.testing.assert_array_equal(got == 1, distance < radius)


def test_same_seed_same_maps(molecule, plain):
    again, other = simulate(molecule, PLAIN, seed=1), simulate(molecule, PLAIN, seed=2)
    for name in ("half1", "half2", "target", "model", "mask"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plain, name))
        assert not np.array_equal(getattr(other, name), getattr(plain, name))


def test_maps_are_of_the_asked_size(plain):
    for name in ("half1", "half2", "target", "model", "mask"):
        volume = getattr(plain, name)
        assert volume.shape == (72, 72, 72) and volume.dtype == np.float32 and np.isfinite(volume).all()
    assert plain.mask.min() >= 0 and plain.mask.max() <= 1


def test_noise_of_the_halves_is_independent_and_as_strong_as_said(molecule, plain):
    difference = (plain.half1 - plain.half2) / 2
    assert difference.std() == pytest.approx(plain.noise_std, rel=0.01)
    solvent = mask(plain.molecule, plain.half1.shape, 1.0, 8.0) == 0  # nothing but noise there
    first, second = plain.half1[solvent], plain.half2[solvent]
    assert ((first + second) / 2).std() == pytest.approx(plain.noise_std, rel=0.02)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@pytest.mark.parametrize(("resolution", "rate", "box"), [(3.0, 1.0, 72), (5.0, 1.4, 52)])
def test_halves_agree_to_the_asked_resolution(molecule, resolution, rate, box):
    """FSC of 0.143 in the molecule's volume. Mean of four simulations and of the shells within 5 %; a shell's own scatter is some 0.03."""
    values = []
    for seed in range(4):
        made = simulate(molecule, replace(PLAIN, resolution=resolution, sampling_rate=rate, box=box), seed)
        hull = mask(made.molecule, made.half1.shape, rate, 3.5)
        frequency, curve = spectrum.fsc(made.half1 * hull, made.half2 * hull, rate)
        values.append(curve[np.abs(frequency * resolution - 1) < 0.06].mean())
    assert np.mean(values) == pytest.approx(0.143, abs=0.04)


def test_signal_to_noise_has_its_closed_form(molecule, plain):
    """Power of the halves' difference (twice a half's noise) against six times the signal's over the molecule's share of the box."""
    shape = plain.half1.shape
    signal = spectrum.power(potential(replace(plain.molecule, b_factors=plain.molecule.b_factors + 8 * np.pi**2 * PLAIN.pose_error**2), shape, 1.0),
                            shape)
    noise = spectrum.power(np.fft.rfftn(plain.half1 - plain.half2), shape) / 2
    shell = round(72 / PLAIN.resolution)
    share = mask(plain.molecule, shape, 1.0, 3.5).mean()
    loss = np.exp(-PLAIN.b_factor / 2 / PLAIN.resolution**2)
    near = slice(shell - 1, shell + 2)
    assert noise[near].mean() / loss / signal[near].mean() * share == pytest.approx(0.857 / 0.143, rel=0.15)


def test_noise_has_the_colour_of_a_back_projection(molecule):
    for exponent in (0.5, -1.0):
        made = simulate(molecule, replace(PLAIN, noise_exponent=exponent, b_factor=0.0), 3)
        power = spectrum.power(np.fft.rfftn(made.half1 - made.half2), made.half1.shape)[4:34]
        slope = np.polyfit(np.log(np.arange(4, 34)), np.log(power), 1)[0]
        assert slope == pytest.approx(2 * exponent, abs=0.1)


def test_contrast_loss_is_the_b_factor(molecule):
    sharp, blurred = (simulate(molecule, replace(PLAIN, b_factor=b), 4) for b in (0.0, 120.0))
    k = np.sqrt(sum(g**2 for g in np.meshgrid(*[np.fft.fftfreq(72)] * 2, np.fft.rfftfreq(72), indexing="ij")))
    expected = np.fft.irfftn(np.fft.rfftn(sharp.half1) * np.exp(-120 / 4 * k**2), s=sharp.half1.shape)
    np.testing.assert_allclose(blurred.half1, expected, atol=1e-4 * np.ptp(expected))


def test_low_pass_cuts(molecule, plain):
    cut = simulate(molecule, replace(PLAIN, low_pass=8.0), 1)
    before, after = (spectrum.power(np.fft.rfftn(m.half1), m.half1.shape) for m in (plain, cut))
    np.testing.assert_allclose(after[:9], before[:9], rtol=1e-3)
    assert after[11:36].max() < 1e-9 * before[11:36].min()
    target = spectrum.power(np.fft.rfftn(cut.target), cut.target.shape)
    assert target[14:].max() < 0.05 * spectrum.power(np.fft.rfftn(plain.target), cut.target.shape)[14:19].max()


def test_micelle_is_in_the_input_and_not_in_the_target(molecule, plain):
    belt = simulate(molecule, replace(PLAIN, micelle=0.7), 1)
    np.testing.assert_array_equal(belt.target, plain.target)
    np.testing.assert_array_equal(belt.model, plain.model)
    near = (mask(plain.molecule, plain.half1.shape, 1.0, 3.5) == 0) & (mask(plain.molecule, plain.half1.shape, 1.0, 10.0) == 1)
    means = [(m.half1 + m.half2)[near].mean() / 2 for m in (belt, plain)]
    inside = plain.model[mask(plain.molecule, plain.half1.shape, 1.0, 3.5) == 1].mean()
    assert means[0] > means[1] + 0.15 * inside


def test_solvent_lowers_the_molecule_and_not_the_target(molecule, plain):
    solvated = simulate(molecule, replace(PLAIN, solvent=0.6), 1)
    np.testing.assert_array_equal(solvated.target, plain.target)
    assert solvated.half1.sum() == pytest.approx(0.4 * plain.half1.sum(), rel=0.1)


def test_target_ends_at_its_mask_and_is_no_sharper_than_the_data(plain):
    assert np.abs(plain.target[plain.mask < 1e-6]).max() < 1e-4 * plain.target.max()
    _, curve = spectrum.fsc(plain.target, plain.model)
    assert curve[3:18].min() > 0.7
    power = spectrum.power(np.fft.rfftn(plain.target), plain.target.shape)
    model = spectrum.power(np.fft.rfftn(plain.model), plain.target.shape)
    assert (power / model)[24:28].max() < 0.1 * (power / model)[4:16].mean()


def test_sphere_of_reconstruction(molecule):
    made = simulate(molecule, replace(PLAIN, sphere=True), 1)
    z, y, x = np.ogrid[:72, :72, :72]
    outside = (z - 36) ** 2 + (y - 36) ** 2 + (x - 36) ** 2 > 36**2
    assert not made.half1[outside].any() and not made.half2[outside].any() and not made.target[outside].any()
    assert made.half1[(z - 36) ** 2 + (y - 36) ** 2 + (x - 36) ** 2 < 34**2].all()


def test_the_models_frame_is_kept_without_a_random_pose(structure, molecule):
    made = simulate(molecule, replace(PLAIN, box=None, random_pose=False, margin=6.0), 1)
    np.testing.assert_allclose(made.molecule.positions + made.origin, molecule.positions, atol=1e-6)
    z, y, x = np.round(made.molecule.positions[:, ::-1]).astype(int).T
    assert made.model[z, y, x].mean() > 3 * made.model.std()


def test_copies_touch_around_an_axis(molecule):
    small = molecule[:300]
    made = simulate(small, replace(PLAIN, copies=3, box=None, margin=8.0), 1)
    parts = made.molecule.positions.reshape(3, 300, 3)
    distances = [np.linalg.norm(parts[i].mean(0) - parts[j].mean(0)) for i, j in ((0, 1), (1, 2), (0, 2))]
    np.testing.assert_allclose(distances, distances[0], rtol=1e-6)
    rotation, error = Rotation.align_vectors(parts[1] - parts[1].mean(0), parts[0] - parts[0].mean(0))
    assert error < 1e-3 and np.degrees(rotation.magnitude()) == pytest.approx(120, abs=1e-3)


def test_random_conditions_are_repeatable_and_within_their_range():
    drawn = [random_conditions(np.random.default_rng(i), typical=True) for i in range(50)]
    assert drawn == [random_conditions(np.random.default_rng(i), typical=True) for i in range(50)]
    assert all(2.6 <= c.resolution <= 6 and c.low_pass is None and c.copies == 1 for c in drawn)
    assert len({c.resolution for c in drawn}) == 50


def test_from_structure_takes_heavy_atoms_and_standardises_b(structure):
    made = structure.clone()
    residue = made[0][0].add_residue(gemmi.Residue())
    residue.name = "HOH"
    residue.add_atom(gemmi.Atom()).element = gemmi.Element("O")
    made[0][0][0].add_atom(gemmi.Atom()).element = gemmi.Element("H")
    molecule = from_structure(made)
    assert len(molecule) == len(from_structure(structure)) == sum(1 for cra in structure[0].all())
    assert np.median(molecule.b_factors) == pytest.approx(30, abs=0.01) and molecule.b_factors.std() == pytest.approx(15, rel=0.1)
    for chain in made[0]:
        for r in chain:
            for atom in r:
                atom.b_iso = 0.0
    np.testing.assert_array_equal(from_structure(made).b_factors, 30.0)


@pytest.mark.parametrize("name", ["model.pdb", "model.cif", "model.pdb.gz"])
def test_model_files_are_read(structure, molecule, tmp_path, name):
    path = tmp_path / name
    text = structure.make_mmcif_document().as_string() if "cif" in name else structure.make_pdb_string()
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


@pytest.mark.parametrize(("name", "content"), [
    ("absent.pdb", None), ("empty.pdb", b""), ("text.pdb", b"what is this\n" * 20), ("text.cif", b"what is this\n" * 20), ("empty.cif", b""),
    ("bytes.cif", bytes(range(256)) * 20), ("bytes.pdb", bytes(range(256)) * 20), ("water.pdb", WATER.encode()),
    ("damaged.pdb.gz", b"\x1f\x8b" + bytes(50)),
    ("short.pdb.gz", gzip.compress(WATER.encode() * 50)[:60]), ("nowhere.cif", NOWHERE.encode()),
    ("unknown.xyz", b"1\n\nC 0 0 0\n")])
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
