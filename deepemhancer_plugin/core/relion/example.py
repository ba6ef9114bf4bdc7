"""Simulated particles of a molecule, and a refinement of them.

For a first try, for the tests and for the benchmark.
"""

import os
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import starfile
from scipy import fft
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.maps.filters import distance_from_centre, low_pass
from deepemhancer_plugin.core.relion.external import join_last_lines

VOLTAGE_KV = 300.0
SPHERICAL_ABERRATION_MM = 2.7
AMPLITUDE_CONTRAST = 0.1
DEFOCUS_RANGE = 8000.0, 20000.0  # A
REFERENCE_RESOLUTION = 15.0  # A: where the first reference is cut
PREFERRED_TILT = 30.0  # degrees from the z axis within which preferred views lie
POWER_IMAGES = 200  # whose mean power stands for that of all

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
SHIFTS = ["rlnOriginXAngst", "rlnOriginYAngst"]


def draw_views(number: int, rng: np.random.Generator, preferred: float = 0.0) -> np.ndarray:
    """Draw directions of views, uniform on the sphere.

    Args:
        number: of views.
        rng: random numbers.
        preferred: part (0 to 1) of the views drawn from within 30 degrees of the z axis.

    Returns:
        Euler angles (number, 3): rot, tilt, psi in degrees.
    """
    height = rng.uniform(-1, 1, number)
    crowded = rng.random(number) < preferred
    height[crowded] = rng.uniform(np.cos(np.deg2rad(PREFERRED_TILT)), 1, crowded.sum())
    rot = rng.uniform(-180, 180, number)
    tilt = np.rad2deg(np.arccos(height))
    psi = rng.uniform(-180, 180, number)
    return np.stack([rot, tilt, psi], 1)


def make_rotations(angles: np.ndarray) -> Rotation:
    """Make rotations of RELION's Euler angles (n, 3) in degrees."""
    return Rotation.from_euler("ZYZ", angles, degrees=True)


def perturb_angles(angles: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """Turn views further at random.

    Args:
        angles: Euler angles (n, 3) in degrees.
        error: standard deviation in degrees of the rotation vector along each axis.
        rng: random numbers.

    Returns:
        Euler angles (n, 3) in degrees.
    """
    vectors = rng.normal(0, np.deg2rad(error), angles.shape)
    turned = make_rotations(angles) * Rotation.from_rotvec(vectors)
    return np.asarray(turned.as_euler("ZYZ", degrees=True))


def make_particles(
    density: np.ndarray,
    rate: float,
    folder: Path,
    number: int,
    resolution: float,
    seed: int = 0,
    preferred: float = 0.0,
    angle_error: float = 3.0,
    shift_error: float = 1.0,
) -> float:
    """Make particle images of a density, with CTF and white noise, by `relion_project`.

    Writes into `folder`: particles.mrcs; particles.star with angles and shifts that are off;
    truth.star without errors; density.mrc; reference.mrc, the density cut at 15 A in the images'
    unit.

    Args:
        density: (z, y, x), a cube.
        rate: its sampling rate in A/voxel, and that of the images.
        folder: made where there is none.
        number: of particles.
        resolution: in A, where the FSC of unmasked half maps from the true angles falls to 0.143.
        seed: of the random numbers.
        preferred: see `draw_views`.
        angle_error: standard deviation in degrees of the angles' errors.
        shift_error: standard deviation in A of the shifts, and of their errors.

    Returns:
        The noise's standard deviation over the signal's in an image.

    Raises:
        InputError: `relion_project` is missing, or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    edge = len(density)
    truth = _draw_particles(number, rng, preferred, shift_error)
    start = truth.copy()
    start[ANGLES] = perturb_angles(truth[ANGLES].to_numpy(), angle_error, rng)
    start[SHIFTS] += rng.normal(0, shift_error, (number, 2))
    optics = _describe_optics(rate, edge)
    for name, table in (("truth", truth), ("particles", start)):
        starfile.write({"optics": optics, "particles": table}, folder / f"{name}.star")

    like = mrc.new_map(density, rate)
    mrc.write_map(folder / "density.mrc", density, like)
    images = _project(rate, folder)
    sigma = _choose_noise(images, number, edge * rate / resolution)
    ratio = sigma / float(images.std())
    images += rng.normal(0, sigma, images.shape).astype(np.float32)
    images /= np.float32(sigma)  # RELION wants noise of standard deviation 1
    mrcfile.write(folder / "particles.mrcs", images, overwrite=True, voxel_size=rate)
    reference = low_pass_to(density, rate, REFERENCE_RESOLUTION) / np.float32(sigma)
    mrc.write_map(folder / "reference.mrc", reference, like)
    return ratio


def _draw_particles(
    number: int, rng: np.random.Generator, preferred: float, shift_error: float
) -> pd.DataFrame:
    """RELION's table of particles with random views, shifts and defocus."""
    angles = draw_views(number, rng, preferred)
    shifts = rng.normal(0, shift_error, (number, 2))
    defocus = rng.uniform(*DEFOCUS_RANGE, number)
    columns = dict(zip(ANGLES, angles.T, strict=True)) | dict(zip(SHIFTS, shifts.T, strict=True))
    return pd.DataFrame(
        columns
        | {
            "rlnDefocusU": defocus,
            "rlnDefocusV": defocus,
            "rlnDefocusAngle": 0.0,
            "rlnOpticsGroup": 1,
            "rlnRandomSubset": 1 + np.arange(number) % 2,
            "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(number)],
        }
    )


def _describe_optics(rate: float, edge: int) -> pd.DataFrame:
    """RELION's table of the one group of optics."""
    return pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["simulated"],
            "rlnVoltage": [VOLTAGE_KV],
            "rlnSphericalAberration": [SPHERICAL_ABERRATION_MM],
            "rlnAmplitudeContrast": [AMPLITUDE_CONTRAST],
            "rlnImagePixelSize": [rate],
            "rlnImageSize": [edge],
            "rlnImageDimensionality": [2],
        }
    )


def _project(rate: float, folder: Path) -> np.ndarray:
    """Images (number, y, x) of density.mrc at the views of truth.star, without noise."""
    options = ["--i", "density.mrc", "--ang", "truth.star", "--ctf", "--angpix", str(rate)]
    run_program(["relion_project", *options, "--o", "clean"], folder)
    images = np.array(mrcfile.read(folder / "clean.mrcs"))
    for name in ("clean.mrcs", "clean.star"):
        (folder / name).unlink(missing_ok=True)
    return images


def _choose_noise(images: np.ndarray, number: int, radius: float) -> float:
    """Standard deviation of the noise with which the half maps' FSC is 0.143 at a radius.

    A coefficient at a radius of r Fourier voxels is met by number / (2 r) images, and
    SSNR = FSC / (1 - FSC).
    """
    edge = images.shape[-1]
    power = np.mean([np.abs(fft.fft2(image)) ** 2 for image in images[:POWER_IMAGES]], 0)
    ring = np.abs(distance_from_centre((edge, edge)) - radius) < 1
    signal = fft.fftshift(power)[ring].mean() / edge**2
    views = number / 2 / (2 * radius)
    return float(np.sqrt(views * signal / (0.143 / (1 - 0.143))))


def low_pass_to(volume: np.ndarray, rate: float, resolution: float) -> np.ndarray:
    """Low-pass filter a map (z, y, x) of `rate` A/voxel, the edge a cosine 10 % wide.

    Nothing finer than `resolution` A is left.
    """
    return low_pass(volume, rate, 0.9 / resolution, 1 / resolution)


def refine_command(output: str, diameter: float, order: int = 3, hook: bool = True) -> list[str]:
    """Make the command of a 3D auto-refinement of the particles of `make_particles`.

    It is to be run in their folder, with what RELION's form calls "use finer angular sampling
    faster".

    Args:
        output: root of RELION's files.
        diameter: of the particles' mask, A.
        order: healpix order from which on searches are local.
        hook: with RELION's external reconstruction, which starts the enhancer.
    """
    mpi = "mpirun -n 3 --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none"
    files = ["--o", output, "--i", "particles.star", "--ref", "reference.mrc"]
    options = (
        f"--ini_high {REFERENCE_RESOLUTION:g} --auto_refine --split_random_halves "
        f"--dont_combine_weights_via_disc --pool 30 --pad 2 --ctf --particle_diameter {diameter:g} "
        f"--flatten_solvent --zero_mask --oversampling 1 --healpix_order {order} "
        f"--auto_local_healpix_order {order} --offset_range 3 --offset_step 2 "
        "--low_resol_join_halves 40 --sym C1 --norm --scale --j 1 --random_seed 7 "
        "--auto_ignore_angles --auto_resol_angles"
    )
    command = [*mpi.split(), "relion_refine_mpi", *files, *options.split()]
    return command + ["--external_reconstruct"] * hook


def run_program(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program of RELION in a folder.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        environment: variables besides those of this process.

    Returns:
        What it printed.

    Raises:
        InputError: the program is missing, or fails.
    """
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | allowed | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]}: no such program; RELION (Debian: apt-get install relion) is needed in "
            "PATH"
        ) from error
    if done.returncode:
        words = join_last_lines(done.stdout)
        raise InputError(f"{command[0]} failed with exit status {done.returncode}: {words}")
    return done.stdout
