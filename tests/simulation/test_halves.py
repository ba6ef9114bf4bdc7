"""Simulated half maps against what was asked for, and the potential against a direct sum over the atoms."""

import gzip
import warnings
from dataclasses import replace
from itertools import pairwise

import gemmi
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.simulation import (
    Conditions,
    from_structure,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.assembly import assemble
from deepemhancer_plugin.core.simulation.ligands import SUGAR, add_ligands
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms
from deepemhancer_plugin.core.simulation.synthetic import build_protein

# Nothing but signal and noise: what has a closed form.
PLAIN = Conditions(
    resolution=4.0,
    box=72,
    b_factor=40.0,
    disorder=0.0,
    angle_error=0.0,
    solvent=0.0,
    sphere=False,
    reconstruction=False,
)
RECONSTRUCTED = replace(PLAIN, reconstruction=True)


@pytest.fixture(scope="module")
def structure():
    return build_protein()


@pytest.fixture(scope="module")
def molecule(structure):
    return from_structure(structure)


@pytest.fixture(scope="module")
def plain(molecule):
    return simulate_halves(molecule, PLAIN, seed=1)


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
    """F(k) = sum occ f(k) exp(-B k^2 / 4) exp(-2 pi i k x), f the electron form factors of Peng et al. 1996; to 1 % up to Nyquist."""
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


def test_same_seed_same_maps(molecule, plain):
    again, other = (
        simulate_halves(molecule, PLAIN, seed=1),
        simulate_halves(molecule, PLAIN, seed=2),
    )
    for name in ("half1", "half2", "target", "model", "mask"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plain, name))
        assert not np.array_equal(getattr(other, name), getattr(plain, name))


def test_maps_are_of_the_asked_size(plain):
    for name in ("half1", "half2", "target", "model", "mask"):
        volume = getattr(plain, name)
        assert (
            volume.shape == (72, 72, 72)
            and volume.dtype == np.float32
            and np.isfinite(volume).all()
        )
    assert plain.mask.min() >= 0 and plain.mask.max() <= 1


def test_noise_of_the_halves_is_independent_and_as_strong_as_said(molecule, plain):
    difference = (plain.half1 - plain.half2) / 2
    assert difference.std() == pytest.approx(plain.noise_std, rel=0.01)
    solvent = (
        mask_atoms(plain.molecule, plain.half1.shape, 1.0, 8.0) == 0
    )  # nothing but noise there
    first, second = plain.half1[solvent], plain.half2[solvent]
    assert ((first + second) / 2).std() == pytest.approx(plain.noise_std, rel=0.02)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@pytest.mark.parametrize(("resolution", "rate", "box"), [(3.0, 1.0, 72), (5.0, 1.4, 52)])
def test_halves_agree_to_the_asked_resolution(molecule, resolution, rate, box):
    """FSC of 0.143 in the molecule's volume. Mean of four simulations and of the shells within 5 %; a shell's own scatter is some 0.03."""
    values = []
    for seed in range(4):
        made = simulate_halves(
            molecule, replace(PLAIN, resolution=resolution, sampling_rate=rate, box=box), seed
        )
        hull = mask_atoms(made.molecule, made.half1.shape, rate, 3.5)
        frequency, curve = spectrum.fsc(made.half1 * hull, made.half2 * hull, rate)
        values.append(curve[np.abs(frequency * resolution - 1) < 0.06].mean())
    assert np.mean(values) == pytest.approx(0.143, abs=0.04)


def test_signal_to_noise_has_its_closed_form(molecule, plain):
    """Power of the halves' difference (twice a half's noise) against six times the signal's over the molecule's share of the box."""
    shape = plain.half1.shape
    signal = spectrum.power(
        compute_potential(
            replace(
                plain.molecule,
                b_factors=plain.molecule.b_factors + 8 * np.pi**2 * PLAIN.pose_error**2,
            ),
            shape,
            1.0,
        ),
        shape,
    )
    noise = spectrum.power(np.fft.rfftn(plain.half1 - plain.half2), shape) / 2
    shell = round(72 / PLAIN.resolution)
    share = mask_atoms(plain.molecule, shape, 1.0, 3.5).mean()
    loss = np.exp(-PLAIN.b_factor / 2 / PLAIN.resolution**2)
    near = slice(shell - 1, shell + 2)
    assert noise[near].mean() / loss / signal[near].mean() * share == pytest.approx(
        0.857 / 0.143, rel=0.15
    )


def test_noise_has_the_colour_of_a_back_projection(molecule):
    for exponent in (0.5, -1.0):
        made = simulate_halves(molecule, replace(PLAIN, noise_exponent=exponent, b_factor=0.0), 3)
        power = spectrum.power(np.fft.rfftn(made.half1 - made.half2), made.half1.shape)[4:34]
        slope = np.polyfit(np.log(np.arange(4, 34)), np.log(power), 1)[0]
        assert slope == pytest.approx(2 * exponent, abs=0.1)


def test_contrast_loss_is_the_b_factor(molecule):
    sharp, blurred = (
        simulate_halves(molecule, replace(PLAIN, b_factor=b), 4) for b in (0.0, 120.0)
    )
    k = np.sqrt(
        sum(
            g**2 for g in np.meshgrid(*[np.fft.fftfreq(72)] * 2, np.fft.rfftfreq(72), indexing="ij")
        )
    )
    expected = np.fft.irfftn(
        np.fft.rfftn(sharp.half1) * np.exp(-120 / 4 * k**2), s=sharp.half1.shape
    )
    np.testing.assert_allclose(blurred.half1, expected, atol=1e-4 * np.ptp(expected))


def test_low_pass_cuts(molecule, plain):
    cut = simulate_halves(molecule, replace(PLAIN, low_pass=8.0), 1)
    before, after = (spectrum.power(np.fft.rfftn(m.half1), m.half1.shape) for m in (plain, cut))
    np.testing.assert_allclose(after[:9], before[:9], rtol=1e-3)
    assert after[11:36].max() < 1e-9 * before[11:36].min()
    target = spectrum.power(np.fft.rfftn(cut.target), cut.target.shape)
    assert (
        target[14:].max()
        < 0.05 * spectrum.power(np.fft.rfftn(plain.target), cut.target.shape)[14:19].max()
    )


def test_micelle_is_in_the_input_and_not_in_the_target(molecule, plain):
    belt = simulate_halves(molecule, replace(PLAIN, micelle=0.7), 1)
    np.testing.assert_array_equal(belt.target, plain.target)
    np.testing.assert_array_equal(belt.model, plain.model)
    near = (mask_atoms(plain.molecule, plain.half1.shape, 1.0, 3.5) == 0) & (
        mask_atoms(plain.molecule, plain.half1.shape, 1.0, 10.0) == 1
    )
    means = [(m.half1 + m.half2)[near].mean() / 2 for m in (belt, plain)]
    inside = plain.model[mask_atoms(plain.molecule, plain.half1.shape, 1.0, 3.5) == 1].mean()
    assert means[0] > means[1] + 0.15 * inside


def test_a_lumpy_micelle_varies_in_density_and_stays_where_it_is(molecule):
    quiet = replace(PLAIN, micelle=0.7, noise=0.0)
    even, lumpy = (
        simulate_halves(molecule, replace(quiet, micelle_lumps=lumps), 1) for lumps in (0.0, 0.8)
    )
    np.testing.assert_array_equal(lumpy.model, even.model)
    bare = simulate_halves(molecule, replace(quiet, micelle=0.0), 1).half1
    belt, lumps = even.half1 - bare, lumpy.half1 - bare
    where = belt > 0.5 * belt.max()
    ratio = lumps[where] / belt[where]
    assert (
        ratio.std() > 0.25 and ratio.min() > -0.2
    )  # smoothed by 6 A, at most 0.8; nowhere less than nothing
    assert (
        np.abs(lumps[ndimage.distance_transform_edt(belt < 0.05 * belt.max()) > 6]).max()
        < 0.1 * belt.max()
    )


def test_solvent_lowers_the_molecule_and_not_the_target(molecule, plain):
    solvated = simulate_halves(molecule, replace(PLAIN, solvent=0.6), 1)
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
    made = simulate_halves(molecule, replace(PLAIN, sphere=True), 1)
    z, y, x = np.ogrid[:72, :72, :72]
    outside = (z - 36) ** 2 + (y - 36) ** 2 + (x - 36) ** 2 > 36**2
    assert (
        not made.half1[outside].any()
        and not made.half2[outside].any()
        and not made.target[outside].any()
    )
    assert made.half1[(z - 36) ** 2 + (y - 36) ** 2 + (x - 36) ** 2 < 34**2].all()


def test_the_models_frame_is_kept_without_a_random_pose(structure, molecule):
    made = simulate_halves(molecule, replace(PLAIN, box=None, random_pose=False, margin=6.0), 1)
    np.testing.assert_allclose(made.molecule.positions + made.origin, molecule.positions, atol=1e-6)
    z, y, x = np.round(made.molecule.positions[:, ::-1]).astype(int).T
    assert made.model[z, y, x].mean() > 3 * made.model.std()


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


def test_a_fibre_crosses_the_box_and_a_shell_is_hollow(molecule):
    fibre = simulate_halves(molecule[:400], replace(PLAIN, symmetry="helix", box=64), 5)
    extent = np.ptp(fibre.molecule.positions, axis=0).max()
    assert extent > 62 and fibre.target.max() > 0.5
    shell = assemble(
        molecule[:100].shift(-molecule.positions[:100].mean(0)),
        "shell",
        None,
        np.random.default_rng(1),
    )
    centres = np.linalg.norm(shell.positions.reshape(-1, 100, 3).mean(1), axis=1)
    assert (
        20 <= len(centres) <= 60
        and np.ptp(centres) < 1e-6
        and np.linalg.norm(shell.positions, axis=1).min() > 0.3 * centres[0]
    )


@pytest.mark.parametrize("symmetry", ["C1", "D0", "C20", "c3", "", "fibre"])
def test_unknown_symmetry_is_refused(molecule, symmetry):
    with pytest.raises(ValueError, match="C2 to C19"):
        assemble(molecule, symmetry, None, np.random.default_rng(0))


def test_a_weak_copy_is_weak_in_the_halves_and_the_target(molecule):
    small = molecule[:200]
    made = [
        simulate_halves(small, replace(PLAIN, symmetry="C2", box=None, margin=8.0, weak=weak), seed)
        for weak in (1.0, 0.3)
        for seed in range(4)
    ]
    ratios = []
    for strong, weak in zip(made[:4], made[4:], strict=True):
        np.testing.assert_array_equal(strong.model, weak.model)
        sums = [
            m.target[tuple(np.round(m.molecule.positions[part, ::-1]).astype(int).T)].sum()
            for m in (strong, weak)
            for part in (slice(0, 200), slice(200, 400))
        ]
        ratios.append(sorted((sums[2] / sums[0], sums[3] / sums[1])))
    # One copy at 0.3 and the other whole, or the same end of both at 0.3.
    assert any(
        a == pytest.approx(0.3, abs=0.06) and b == pytest.approx(1, abs=0.06) for a, b in ratios
    )
    assert any(a == pytest.approx(b, abs=0.06) and 0.5 < a < 1 for a, b in ratios)


def test_noise_of_a_reconstruction(molecule):
    """Its power is |k| over the mean CTF^2, nothing beyond the Nyquist sphere; the resolution stays what was asked for."""
    made = simulate_halves(molecule, replace(RECONSTRUCTED, b_factor=0.0, defocus=1.5), 3)
    shape, k = made.half1.shape, np.arange(1, 36) / 72
    power = spectrum.power(np.fft.rfftn(made.half1 - made.half2), shape)
    z = np.linspace(0.75e4, 2.25e4, 500)[:, None]
    ctf = np.sqrt(0.99) * np.sin(
        chi := np.pi * 0.0197 * z * k**2 - np.pi / 2 * 2.7e7 * 0.0197**3 * k**4
    ) + 0.1 * np.cos(chi)
    expected = k / np.mean(ctf**2, axis=0)
    ratio = power[1:36] / expected
    np.testing.assert_allclose(
        ratio[2:32] / np.median(ratio), 1, atol=0.2
    )  # 300 coefficients and more a shell
    assert power[1] > 3 * power[8] / 8  # the CTF's rise is steeper than a shell
    assert power[40:].max() < 1e-9 * power[20]
    values = []
    for seed in range(4):
        made = simulate_halves(molecule, RECONSTRUCTED, seed)
        hull = mask_atoms(made.molecule, made.half1.shape, 1.0, 3.5)
        frequency, curve = spectrum.fsc(made.half1 * hull, made.half2 * hull)
        values.append(curve[np.abs(frequency * RECONSTRUCTED.resolution - 1) < 0.06].mean())
    assert np.mean(values) == pytest.approx(0.143, abs=0.04)


def test_preferred_views_leave_the_noise_of_a_watson_distribution(molecule):
    """Weight of the direction k: the integral of exp(kappa cos^2) over the views on the great circle across k, done by sums."""
    made = simulate_halves(
        molecule, replace(RECONSTRUCTED, preferred=1.0, b_factor=0.0, defocus=0.0), 3
    )
    power = np.abs(np.fft.rfftn(made.half1 - made.half2)) ** 2
    grid = np.stack(
        np.meshgrid(np.fft.fftfreq(72), np.fft.fftfreq(72), np.fft.rfftfreq(72), indexing="ij"), -1
    )
    k = np.linalg.norm(grid, axis=-1)
    some = (k > 0.1) & (k < 0.4)
    unit, weight = grid[some] / k[some][:, None], power[some] / k[some]
    axis = np.linalg.eigh((unit * weight[:, None]).T @ unit)[1][:, -1]
    along = np.abs(unit @ axis)
    phi = np.linspace(0, 2 * np.pi, 400)
    bins = np.linspace(0, 1, 6)
    measured = np.array([weight[(along >= a) & (along < b)].mean() for a, b in pairwise(bins)])
    expected = np.array(
        [
            np.mean(
                [
                    1 / np.exp(5 * (1 - c * c) * np.cos(phi) ** 2).mean()
                    for c in np.linspace(a, b, 50)
                ]
            )
            for a, b in pairwise(bins)
        ]
    )
    np.testing.assert_allclose(measured / measured.sum(), expected / expected.sum(), rtol=0.1)


def test_the_sphere_of_a_reconstruction_ends_outside_of_half_the_box(molecule):
    made = simulate_halves(molecule, replace(RECONSTRUCTED, sphere=True, b_factor=0.0), 1)
    z, y, x = np.ogrid[:72, :72, :72]
    radius = np.sqrt((z - 36) ** 2 + (y - 36) ** 2 + (x - 36) ** 2)
    inside = made.half1[(radius > 28) & (radius < 34)].std()
    assert made.half1[(radius > 34.5) & (radius < 35.9)].std() == pytest.approx(inside, rel=0.05)
    assert made.half1[radius > 40].std() < 0.02 * inside and not np.allclose(
        made.half1[(radius > 36.2) & (radius < 37)], 0
    )


def test_offset_and_half_precision(molecule, plain):
    moved = simulate_halves(molecule, replace(PLAIN, offset=1.5, float16=True), 1)
    np.testing.assert_allclose(
        moved.half1, plain.half1 + 1.5 * 2**0.5 * plain.noise_std, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_array_equal(moved.half1, moved.half1.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(moved.target, plain.target)


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


def test_ligands_are_in_the_mask_and_the_target(molecule):
    made = simulate_halves(molecule, replace(PLAIN, ligands=4, box=96), 2)
    grown = made.molecule[len(molecule) :]
    assert len(grown) > 20
    z, y, x = np.round(grown.positions[:, ::-1]).astype(int).T
    assert made.mask[z, y, x].min() > 0.5
    assert (
        made.target[z, y, x].mean()
        > 0.25
        * made.target[
            tuple(np.round(made.molecule.positions[: len(molecule), ::-1]).astype(int).T)
        ].mean()
    )


def test_random_conditions_are_repeatable_and_within_their_range():
    drawn = [random_conditions(np.random.default_rng(i), typical=True) for i in range(50)]
    assert drawn == [random_conditions(np.random.default_rng(i), typical=True) for i in range(50)]
    assert all(
        2.6 <= c.resolution <= 6 and c.low_pass is None and c.symmetry == "C1" for c in drawn
    )
    assert len({c.resolution for c in drawn}) == 50
    wide = [random_conditions(np.random.default_rng(i)) for i in range(200)]
    assert all(0.5 <= c.sampling_rate <= 2.2 and 96 <= c.box * c.sampling_rate < 138 for c in wide)
    assert min(c.sampling_rate for c in wide) < 1 and {"C1", "helix", "shell", "D2"} <= {
        c.symmetry for c in wide
    }


def test_typical_conditions_and_their_maps_stay_what_they_were(molecule):
    """Benchmarks compare with tables of earlier versions: the draws to the last digit, the maps to the potential's
    aliasing; the target has kept a fifth of the disorder since, instead of half."""
    rng = np.random.default_rng([1, 3])
    drawn = random_conditions(rng, typical=True)
    assert (drawn.resolution, drawn.b_factor, rng.random()) == pytest.approx(
        (5.891609406353812, 102.07182960332764, 0.3939960187362245), abs=1e-12
    )
    made = simulate_halves(molecule, drawn, 3)
    assert made.half1.shape == (72, 72, 72)
    np.testing.assert_allclose(
        [
            made.noise_std,
            made.half1[36, 36, 36],
            made.half1[36, 36, 43],
            made.half2[36, 45, 36],
            made.target.std(),
        ],
        [0.057441, 0.122268, 0.041983, -0.062926, 0.086917],
        rtol=3e-3,
    )


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


def test_ligands_of_the_model_are_kept_at_partial_occupancy(structure, molecule):
    made = structure.clone()
    ligand = gemmi.Residue()
    ligand.name, ligand.het_flag = "NAG", "H"
    places = molecule.positions.max(0) + np.array([[2.0, 0, 0], [3.4, 0, 0], [4.1, 1.2, 0]])
    for name, place in zip(("C1", "O5", "C5"), places, strict=True):
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos, atom.occ, atom.b_iso = (
            name,
            gemmi.Element(name[0]),
            gemmi.Position(*place),
            0.4,
            30.0,
        )
        ligand.add_atom(atom)
    made[0][0].add_residue(ligand)
    read = from_structure(made)
    assert len(read) == len(molecule) + 3
    np.testing.assert_allclose(np.sort(read.occupancies)[:4], [0.4, 0.4, 0.4, 1.0])
    simulated = simulate_halves(read, replace(PLAIN, box=96, random_pose=False, pose_error=0.0), 1)
    where = [int(np.argmin(np.linalg.norm(read.positions - place, axis=1))) for place in places]
    z, y, x = np.round(simulated.molecule.positions[where][:, ::-1]).astype(int).T
    assert (
        simulated.mask[z, y, x].min() > 0.5
        and simulated.target[z, y, x].min() > 3 * np.abs(simulated.target[:10]).max()
    )


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
