"""LocScale against its definition in float64, and on maps whose scaled form is known."""

import numpy as np
import pytest

from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.locscale import measure_profiles, scale_locally


def by_definition(volume, reference, voxel, edge):
    """The scaled map at one voxel.

    Windows are cut out and Fourier transformed, their profiles divided, and the central voxel of
    the inverse transform is kept.
    """
    half = edge // 2
    index = np.ix_(
        *(np.arange(v - half, v + half + 1) % n for v, n in zip(voxel, volume.shape, strict=True))
    )
    window, like = (np.fft.fftn(v[index].astype(np.float64)) for v in (volume, reference))
    k = np.sqrt(
        sum(np.square(g) for g in np.meshgrid(*[np.fft.fftfreq(edge, 1 / edge)] * 3, indexing="ij"))
    )
    shells = np.arange(half + 1)
    ratio = [
        np.abs(like[np.round(k) == s]).mean() / np.abs(window[np.round(k) == s]).mean()
        for s in shells
    ]
    return np.fft.ifftn(window * np.interp(k, shells, ratio)).real[half, half, half]


@pytest.fixture(scope="module")
def protein():
    """A model map, a noisy one whose contrast falls along z, and the molecule's mask."""
    molecule = from_structure(build_protein())
    shape = (64, 60, 66)
    molecule.positions[:] += np.array(shape[::-1]) / 2 - molecule.positions.mean(0)
    model = np.fft.irfftn(compute_potential(molecule, shape, 1.0), s=shape).astype(np.float32)
    model = cut(model)
    worse = blurred(model, 120.0)
    z = np.linspace(0, 1, shape[0])[:, None, None]
    volume = (
        (1 - z) * blurred(model, 40.0)
        + z * worse
        + 0.02 * np.random.default_rng(0).standard_normal(shape) * worse.std()
    )
    return model, volume.astype(np.float32), mask_atoms(molecule, shape, 1.0, 3.0) > 0


def frequencies(shape):
    axes = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    return np.sqrt(sum(np.square(g) for g in np.meshgrid(*axes, indexing="ij")))


def cut(volume, at=0.3):
    k = frequencies(volume.shape)
    return np.fft.irfftn(
        np.fft.rfftn(volume) * (0.5 + 0.5 * np.cos(np.pi * np.clip((k - at) / 0.1, 0, 1))),
        s=volume.shape,
    ).astype(np.float32)


def blurred(volume, b):
    return np.fft.irfftn(
        np.fft.rfftn(volume) * np.exp(-b / 4 * frequencies(volume.shape) ** 2), s=volume.shape
    ).astype(np.float32)


@pytest.mark.parametrize(
    ("edge", "step", "tolerance"), [(15, 1, 1e-4), (25, 1, 1e-4), (25, 4, 0.02)]
)
def test_voxels_are_those_of_the_definition(protein, edge, step, tolerance):
    model, volume, inside = protein
    if step == 1:  # every voxel has a window of its own: some are enough
        part = np.zeros_like(inside)
        part[28:33, 26:30, 30:34] = True
        inside = inside & part
    got = scale_locally(volume, model, inside, edge, step)
    assert got.dtype == np.float32 and not got[~inside].any()
    voxels = np.argwhere(inside)[
        np.random.default_rng(1).choice(int(inside.sum()), 40, replace=False)
    ]
    expected = np.array([by_definition(volume, model, v, edge) for v in voxels])
    assert np.abs(got[tuple(voxels.T)] - expected).max() < tolerance * np.abs(expected).max()


def test_windows_wrap_at_the_border(protein):
    model, volume, _ = protein
    inside = np.zeros(model.shape, bool)
    inside[:3, -2:, 5:8] = True
    noise = (
        np.random.default_rng(3).standard_normal(model.shape).astype(np.float32)
        * 0.01
        * volume.std()
    )
    got = scale_locally(volume + noise, model, inside, 15, 2)
    voxel = (0, model.shape[1] - 2, 5)  # of the coarse grid: nothing is interpolated
    assert got[voxel] == pytest.approx(by_definition(volume + noise, model, voxel, 15), rel=1e-3)


def test_a_factor_is_taken_out_exactly(protein):
    model, _, inside = protein
    got = scale_locally(0.01 * model, model, inside)
    np.testing.assert_allclose(got[inside], model[inside], atol=1e-4 * model.max())


def test_waves_of_two_shells_are_scaled_by_the_ratio_of_their_amplitudes():
    """Closed form: waves whose periods fit the window have the same amplitude in each window."""
    edge, n = 15, 45
    z, y, x = np.meshgrid(*[np.arange(n)] * 3, indexing="ij")
    volume = 2.0 * np.cos(2 * np.pi * 3 * z / edge + 0.4) + 0.5 * np.cos(
        2 * np.pi * 6 * x / edge - 1
    )
    reference = 3.0 * np.cos(2 * np.pi * 3 * y / edge) + 4.0 * np.cos(2 * np.pi * 6 * z / edge + 2)
    inside = np.zeros((n,) * 3, bool)
    inside[3:40:7, 5:30:4, 8:44:5] = True
    expected = 3.0 * np.cos(2 * np.pi * 3 * z / edge + 0.4) + 4.0 * np.cos(
        2 * np.pi * 6 * x / edge - 1
    )
    got = scale_locally(volume.astype(np.float32), reference.astype(np.float32), inside, edge)
    np.testing.assert_allclose(got[inside], expected[inside], atol=2e-4)


def test_profile_of_white_noise_is_flat():
    noise = np.random.default_rng(0).standard_normal((75, 75, 75)).astype(np.float32)
    corners = np.stack(np.meshgrid(*[np.arange(0, 75, 25)] * 3), -1).reshape(
        -1, 3
    )  # independent windows
    curve = measure_profiles(noise, corners, 25).mean(0)
    # The mean amplitude of complex Gaussian coefficients of power N is sqrt(pi N) / 2.
    np.testing.assert_allclose(curve[3:], np.sqrt(np.pi * 25**3) / 2, rtol=0.04)
    assert curve[0] == pytest.approx(
        np.sqrt(2 * 25**3 / np.pi), rel=0.35
    )  # the mean itself is real


@pytest.mark.parametrize(
    ("b", "correlation", "finest", "tolerance"), [(60.0, 0.99, 4.6, 0.05), (150.0, 0.94, 5.5, 0.08)]
)
def test_a_radial_loss_of_contrast_is_restored(protein, b, correlation, finest, tolerance):
    """Of a model times a Gaussian in Fourier space the model comes back.

    It does so as far as the leakage of a window with hard edges lets it.
    """
    model, _, inside = protein
    volume = blurred(model, b)
    got = scale_locally(volume, model, inside)
    before, after = (np.corrcoef(v[inside], model[inside])[0, 1] for v in (volume, got))
    assert after > correlation and 1 - after < 0.25 * (1 - before)
    ratio = np.sqrt(
        spectrum.power(np.fft.rfftn(got), model.shape)
        / spectrum.power(np.fft.rfftn(np.where(inside, model, 0)), model.shape)
    )
    shells = ratio[1 : int(min(model.shape) / finest) + 1]
    assert 1 - tolerance < shells.min() and shells.max() < 1 + tolerance


def test_an_even_window_has_no_central_voxel(protein):
    model, volume, inside = protein
    with pytest.raises(ValueError, match="odd"):
        scale_locally(volume, model, inside, 24)
    assert not scale_locally(volume, model, np.zeros_like(inside)).any()
