"""Simulated particles of a molecule and the refinement of them: for a first try by hand, for the tests and for the benchmark."""

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
from deepemhancer_plugin.core.maps.filters import low_pass

VOLTAGE, CS, CONTRAST = 300.0, 2.7, 0.1  # kV, mm, amplitude contrast
ANGLES, SHIFTS = (
    ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"],
    ["rlnOriginXAngst", "rlnOriginYAngst"],
)
START = 15.0  # A: where the first reference is cut


def views(number: int, rng: np.random.Generator, preferred: float = 0.0) -> np.ndarray:
    """Euler angles (number, 3), rot, tilt, psi in degrees; the share `preferred` of the views lies within 30 degrees of the z axis."""
    height = rng.uniform(-1, 1, number)
    crowded = rng.random(number) < preferred
    height[crowded] = rng.uniform(np.cos(np.deg2rad(30)), 1, crowded.sum())
    return np.stack(
        [
            rng.uniform(-180, 180, number),
            np.rad2deg(np.arccos(height)),
            rng.uniform(-180, 180, number),
        ],
        1,
    )


def rotations(angles: np.ndarray) -> Rotation:
    """RELION's Euler angles (n, 3) in degrees as rotations."""
    return Rotation.from_euler("ZYZ", angles, degrees=True)


def perturbed(angles: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """Euler angles turned further by a random rotation, whose vector has a standard deviation of `error` degrees along each axis."""
    turned = rotations(angles) * Rotation.from_rotvec(
        rng.normal(0, np.deg2rad(error), angles.shape)
    )
    return turned.as_euler("ZYZ", degrees=True)


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
    """Particle images of a density (z, y, x) at `rate` A/voxel, with CTF and white noise, made by `relion_project`.

    Writes into `folder`: particles.mrcs; particles.star with angles (in degrees) and shifts (in A) off by Gaussian errors; truth.star without
    errors; density.mrc; reference.mrc, the density cut at START A, in the images' unit. The noise is so strong that the FSC of unmasked half maps
    from the true angles falls to 0.143 at `resolution` A: a coefficient at radius r (in Fourier voxels) is met by number / (2 r) images, and
    SSNR = FSC / (1 - FSC).

    Returns:
        the noise's standard deviation over the signal's in an image.

    Raises:
        InputError: `relion_project` is missing, or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    edge = len(density)
    angles, shifts = views(number, rng, preferred), rng.normal(0, shift_error, (number, 2))
    defocus = rng.uniform(8000, 20000, number)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["simulated"],
            "rlnVoltage": [VOLTAGE],
            "rlnSphericalAberration": [CS],
            "rlnAmplitudeContrast": [CONTRAST],
            "rlnImagePixelSize": [rate],
            "rlnImageSize": [edge],
            "rlnImageDimensionality": [2],
        }
    )
    truth = pd.DataFrame(
        {
            "rlnAngleRot": angles[:, 0],
            "rlnAngleTilt": angles[:, 1],
            "rlnAnglePsi": angles[:, 2],
            "rlnOriginXAngst": shifts[:, 0],
            "rlnOriginYAngst": shifts[:, 1],
            "rlnDefocusU": defocus,
            "rlnDefocusV": defocus,
            "rlnDefocusAngle": 0.0,
            "rlnOpticsGroup": 1,
            "rlnRandomSubset": 1 + np.arange(number) % 2,
            "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(number)],
        }
    )
    start = truth.copy()
    start[ANGLES] = perturbed(angles, angle_error, rng)
    start[SHIFTS] += rng.normal(0, shift_error, shifts.shape)
    for name, table in (("truth", truth), ("particles", start)):
        starfile.write({"optics": optics, "particles": table}, folder / f"{name}.star")

    mrc.write_map(folder / "density.mrc", density, mrc.new_map(density, rate))
    run(
        [
            "relion_project",
            "--i",
            "density.mrc",
            "--ang",
            "truth.star",
            "--ctf",
            "--angpix",
            str(rate),
            "--o",
            "clean",
        ],
        folder,
    )
    images = np.array(mrcfile.read(folder / "clean.mrcs"))
    k = np.hypot(fft.fftfreq(edge)[:, None], fft.fftfreq(edge)) / rate
    power = np.mean([np.abs(fft.fft2(image)) ** 2 for image in images[:200]], 0) / edge**2
    ring = np.abs(k - 1 / resolution) < 1 / (edge * rate)
    sigma = float(
        np.sqrt(
            number / 2 / (2 * edge * rate / resolution) * power[ring].mean() / (0.143 / (1 - 0.143))
        )
    )
    ratio = sigma / float(images.std())
    images += rng.normal(0, sigma, images.shape).astype(np.float32)
    images /= np.float32(sigma)  # RELION wants noise of standard deviation 1
    mrcfile.write(folder / "particles.mrcs", images, overwrite=True, voxel_size=rate)
    for name in ("clean.mrcs", "clean.star"):
        (folder / name).unlink(missing_ok=True)
    mrc.write_map(
        folder / "reference.mrc",
        low_pass_to(density, rate, START) / np.float32(sigma),
        mrc.new_map(density, rate),
    )
    return ratio


def low_pass_to(volume: np.ndarray, rate: float, length: float) -> np.ndarray:
    """The map (z, y, x) without what is finer than `length` A; the edge of the filter is a cosine 10 % wide."""
    return low_pass(volume, rate, 0.9 / length, 1 / length)


def refine_command(output: str, diameter: float, order: int = 3, hook: bool = True) -> list[str]:
    """The 3D auto-refinement of the particles of `make_particles`, to be run in their folder: local searches of healpix order `order` and finer,
    with what RELION's form calls "use finer angular sampling faster".

    Args:
        output: root of RELION's files.
        diameter: of the particles' mask, A.
        hook: with RELION's external reconstruction, the enhancer's entrance.
    """
    command = [
        "mpirun",
        "-n",
        "3",
        "--oversubscribe",
        "--bind-to",
        "none",
        "--mca",
        "btl_vader_single_copy_mechanism",
        "none",
        "relion_refine_mpi",
        "--o",
        output,
        "--i",
        "particles.star",
        "--ref",
        "reference.mrc",
        "--ini_high",
        f"{START:g}",
        "--auto_refine",
        "--split_random_halves",
        "--dont_combine_weights_via_disc",
        "--pool",
        "30",
        "--pad",
        "2",
        "--ctf",
        "--particle_diameter",
        f"{diameter:g}",
        "--flatten_solvent",
        "--zero_mask",
        "--oversampling",
        "1",
        "--healpix_order",
        str(order),
        "--auto_local_healpix_order",
        str(order),
        "--offset_range",
        "3",
        "--offset_step",
        "2",
        "--low_resol_join_halves",
        "40",
        "--sym",
        "C1",
        "--norm",
        "--scale",
        "--j",
        "1",
        "--random_seed",
        "7",
        "--auto_ignore_angles",
        "--auto_resol_angles",
    ]
    return command + ["--external_reconstruct"] * hook


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program of RELION in a folder; returns what it printed. InputError with its last line where it is missing or fails."""
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
            f"{command[0]}: no such program; RELION (Debian: apt-get install relion) is needed in PATH"
        ) from error
    if done.returncode:
        raise InputError(
            f"{command[0]} failed with exit status {done.returncode}:\n{done.stdout[-2000:]}"
        )
    return done.stdout
