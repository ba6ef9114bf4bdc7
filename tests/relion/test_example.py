"""Simulated particles: RELION's angles, and the errors and noise that were asked for."""

import shutil

import mrcfile
import numpy as np
import pytest
import starfile
from scipy import fft

from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.relion import example


def test_rotations_are_relions():
    """RELION's matrix takes the object into the view: rot, tilt, psi about z, y, z.

    Heymann et al. 2005, J. Struct. Biol. 151, 196.
    """
    rot, tilt, psi = np.deg2rad([20.0, 70.0, -40.0])

    def about_z(a):
        return np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])

    about_y = np.array(
        [[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]]
    )
    view = about_z(psi) @ about_y @ about_z(rot)
    np.testing.assert_allclose(
        example.make_rotations(np.array([[20.0, 70.0, -40.0]])).as_matrix()[0], view.T, atol=1e-12
    )


def test_views_are_uniform_or_crowd():
    rng = np.random.default_rng(0)
    direction = example.make_rotations(example.draw_views(20000, rng)).apply([0, 0, 1])
    np.testing.assert_allclose(direction.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.square(direction).mean(0), 1 / 3, atol=0.02)
    tilt = example.draw_views(20000, rng, preferred=0.8)[:, 1]
    assert np.mean(tilt < 30) == pytest.approx(0.8 + 0.2 * (1 - np.cos(np.pi / 6)) / 2, abs=0.01)


def test_errors_of_the_angles():
    rng = np.random.default_rng(1)
    angles = example.draw_views(20000, rng)
    off = (
        example.make_rotations(angles).inv()
        * example.make_rotations(example.perturb_angles(angles, 3.0, rng))
    ).as_rotvec(degrees=True)
    np.testing.assert_allclose(off.std(0), 3.0, rtol=0.03)
    np.testing.assert_allclose(off.mean(0), 0.0, atol=0.1)


def test_low_pass_keeps_what_is_coarser_and_nothing_finer():
    volume = np.random.default_rng(2).standard_normal((32, 32, 32)).astype(np.float32)
    before, after = (np.abs(fft.fftn(v)) for v in (volume, example.low_pass_to(volume, 1.5, 6.0)))
    k = np.sqrt(sum(g**2 for g in np.meshgrid(*[fft.fftfreq(32, 1.5)] * 3, indexing="ij")))
    np.testing.assert_allclose(after[k < 0.9 / 6], before[k < 0.9 / 6], rtol=1e-3)
    assert after[k > 1.001 / 6].max() < 1e-3 * before.max()


def test_without_relion_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["relion", "--example", str(tmp_path / "new")]) == 1
    message = capsys.readouterr().err
    assert "relion_project: no such program; RELION" in message and message.count("\n") == 1


def test_program_that_fails(tmp_path):
    with pytest.raises(InputError, match="false failed with exit status 1"):
        example.run_program(["false"], tmp_path)


@pytest.mark.skipif(
    not shutil.which("relion_reconstruct"),
    reason="RELION is not installed (Debian: apt-get install relion, or .ci/relion)",
)
def test_half_maps_from_the_true_angles_reach_the_resolution(tmp_path):
    rng = np.random.default_rng(3)
    density = example.low_pass_to(rng.standard_normal((32, 32, 32)).astype(np.float32), 2.0, 4.2)
    z, y, x = np.meshgrid(*[np.arange(32) - 16] * 3, indexing="ij")
    density *= np.exp(-(np.maximum(np.sqrt(z**2 + y**2 + x**2) - 8, 0) ** 2) / 4)
    example.make_particles(density, 2.0, tmp_path, 300, 7.0, seed=4)
    for half in (1, 2):
        example.run_program(
            [
                "relion_reconstruct",
                "--i",
                "truth.star",
                "--ctf",
                "--subset",
                str(half),
                "--o",
                f"half{half}.mrc",
            ],
            tmp_path,
        )
    halves = [mrcfile.read(tmp_path / f"half{half}.mrc") for half in (1, 2)]
    assert spectrum.resolution(*spectrum.fsc(*halves, 2.0), 0.143) == pytest.approx(7.0, rel=0.15)
    images, table = (
        mrcfile.read(tmp_path / "particles.mrcs"),
        starfile.read(tmp_path / "particles.star")["particles"],
    )
    corners = images[:, :6, :6]
    assert corners.std() == pytest.approx(1, rel=0.05) and len(table) == len(images) == 300
