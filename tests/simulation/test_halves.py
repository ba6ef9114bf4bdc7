"""Simulated half maps against what was asked for."""

from dataclasses import replace
from itertools import pairwise

import gemmi
import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.simulation import (
    Conditions,
    from_structure,
    random_conditions,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.assembly import assemble
from deepemhancer_plugin.core.simulation.grid import Grid
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms

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
def plain(molecule):
    return simulate_halves(molecule, PLAIN, seed=1)


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
    """FSC of 0.143 in the molecule's volume, in the mean of four simulations and some shells."""
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
    """Noise has six times the signal's power, over the fraction of the box that it fills."""
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
    assert ratio.std() > 0.25 and ratio.min() > -0.2
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
    """Its power is |k| over the mean CTF^2, nothing beyond Nyquist; the resolution is as asked."""
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
    """Weight of a direction k: exp(kappa cos^2) summed over the views on the circle across k."""
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


def test_typical_conditions_and_their_maps_stay_what_they_were(molecule):
    """Benchmarks compare with tables that were made before.

    Draws are the same to the last digit, maps to the aliasing of the potential.
    """
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


def test_target_of_a_coarse_map_is_as_coarse(molecule):
    """The edge of the tight mask would show in it, and holes between large voxels."""
    at = Conditions(resolution=15.0, sampling_rate=3.5, box=36, b_factor=300.0, sphere=False)
    made = simulate_halves(molecule, at, 1)
    power = np.square(np.abs(np.fft.rfftn(made.target)))
    k = Grid(36, 3.5).k
    assert power[k > 1.5 / 15].sum() < 0.002 * power.sum()
    inside = mask_atoms(made.molecule, made.target.shape, 3.5, 3.5) > 0
    assert np.percentile(made.target[inside], 5) > 0.1 * made.target.max()
    assert np.corrcoef(made.target.ravel(), make_low_pass(made, k).ravel())[0, 1] > 0.95


def make_low_pass(made, k):
    """The model's map up to 15 A."""
    spectrum_of_model = np.fft.rfftn(made.model) * (k < 1.1 / 15)
    return np.fft.irfftn(spectrum_of_model, s=made.model.shape)
