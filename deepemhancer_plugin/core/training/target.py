"""What a network should make of real half maps: their mean with the amplitudes of a fitted model.

The published preparation (Sanchez-Garcia et al. 2021, Commun. Biol. 4, 874): the LocScale map times
a tight mask. All maps here are at 1 A/voxel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps import filters, mrc, spectrum
from deepemhancer_plugin.core.simulation import Molecule, read_molecule
from deepemhancer_plugin.core.simulation.halves import (
    TARGET_SCALE,
    TIGHT_EDGE,
    TIGHT_RADIUS,
    WIDE_EDGE,
    WIDE_RADIUS,
)
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms
from deepemhancer_plugin.core.training.locscale import scale_locally

LEAST_INSIDE = 0.9  # of the model's atoms lie in the map
FIT_RADIUS = 3.0  # A from the atoms: where map and model are compared
LOOSE_RADIUS = 8.0  # A from the atoms, and width of the edge: where the B factor is refined
SMALLEST_B = 30.0  # A^2, of a refined B factor, and the mean of the simulation's molecules
LARGEST_B = 250.0  # A^2, of any
FIRST_B = 60.0  # A^2, at which a B factor's refinement begins
LEAST_SPREAD_B = 1.0  # A^2: B factors of a file that differ less are no B factors
CUT_OFF_RATIO = 1.2  # of the frequency where the maps end to that of the resolution


class UnfitPair(Exception):
    """A pair is left out of the training; the text says why."""


@dataclass(frozen=True)
class Fit:
    """A model in its map.

    Attributes:
        molecule: the atoms, positions x, y, z in A from the first voxel's centre, with the B
            factors of the target.
        source: of the B factors: "file" or "refined".
        volume: the mean of the halves (z, y, x), low-passed at the resolution.
        model: the model's map, low-passed likewise.
        correlation: of both.
    """

    molecule: Molecule
    source: str
    volume: np.ndarray
    model: np.ndarray
    correlation: float


def place_model(path: Path, header: mrc.Map, shape: tuple[int, ...]) -> Molecule:
    """Read a model into the frame of its map at 1 A/voxel.

    Args:
        path: of the model.
        header: the map as it was read.
        shape: of the map at 1 A/voxel (z, y, x).

    Returns:
        The atoms in the map with the file's B factors, positions x, y, z in A from the first
        voxel's centre.

    Raises:
        InputError: no atomic model.
        UnfitPair: several models in the file, or too few atoms in the map.
    """
    try:
        count = len(gemmi.read_structure(str(path)))
    except (RuntimeError, ValueError, OSError, LookupError):
        count = 1  # read_molecule says what is wrong
    if count > 1:
        raise UnfitPair(f"its file holds {count} models; one is needed")
    molecule = read_molecule(path, standardise=False)
    box = np.array(shape[::-1])
    extent = np.array(header.data.shape[::-1]) * header.sampling_rate
    scale = box / extent  # a box is rounded to whole A
    positions = (molecule.positions - np.array(header.position)) * scale
    inside = np.all((positions >= -0.5) & (positions < box - 0.5), axis=1)
    if inside.mean() < LEAST_INSIDE:
        raise UnfitPair(f"only {100 * inside.mean():.0f} % of the model lies in the map")
    return replace(molecule, positions=positions)[inside]


def fit_model(
    molecule: Molecule, halves: Sequence[np.ndarray], level: float, resolution: float, use_b: bool
) -> Fit:
    """Give a model its B factors and compare it with its map.

    Args:
        molecule: of `place_model`.
        halves: the half maps (z, y, x).
        level: of their solvent.
        resolution: in A.
        use_b: whether to use the file's B factors where they differ from atom to atom. Else one for
            all is refined.
    """
    shape = halves[0].shape
    mean = (halves[0] + halves[1]) / 2 - np.float32(level)
    source = "file" if use_b and _has_b_factors(molecule) else "refined"
    if source == "refined":
        flat = replace(molecule, b_factors=np.full(len(molecule), FIRST_B))
        loose = smooth_mask(mask_atoms(molecule, shape, 1.0, LOOSE_RADIUS), LOOSE_RADIUS)
        curve = spectrum.fsc(halves[0] * loose, halves[1] * loose)[1]
        b = refine_b_factor(mean * loose, _model_map(flat, shape), curve, resolution, FIRST_B)
        molecule = replace(molecule, b_factors=np.full(len(molecule), b))
    molecule = replace(molecule, b_factors=np.clip(molecule.b_factors, 5, LARGEST_B))
    cut_off = 1 / resolution
    model = filters.low_pass(_model_map(molecule, shape), 1.0, cut_off, CUT_OFF_RATIO * cut_off)
    volume = filters.low_pass(mean, 1.0, cut_off, CUT_OFF_RATIO * cut_off)
    inside = mask_atoms(molecule, shape, 1.0, FIT_RADIUS) > 0
    return Fit(molecule, source, volume, model, correlate(volume, model, inside))


def _has_b_factors(molecule: Molecule) -> bool:
    spread = molecule.b_factors.std()
    return bool(spread >= LEAST_SPREAD_B and 1 < np.median(molecule.b_factors) < LARGEST_B)


def _model_map(molecule: Molecule, shape: tuple[int, ...]) -> np.ndarray:
    volume: np.ndarray = fft.irfftn(compute_potential(molecule, shape, 1.0, -1), s=shape)
    return volume


def make_target(fit: Fit, kind: str, mask: np.ndarray | None) -> np.ndarray:
    """Make the target: the map with the model's local amplitudes, times a soft mask.

    Args:
        fit: of `fit_model`.
        kind: "wide": a wide mask; else a tight one.
        mask: the user's (z, y, x), in place of a tight mask around the atoms.
    """
    shape = fit.volume.shape
    if kind == "wide":
        region = smooth_mask(mask_atoms(fit.molecule, shape, 1.0, WIDE_RADIUS), WIDE_EDGE)
    elif mask is not None:
        region = smooth_mask(mask, TIGHT_EDGE)
    else:
        region = smooth_mask(mask_atoms(fit.molecule, shape, 1.0, TIGHT_RADIUS), TIGHT_EDGE)
    scaled = scale_locally(fit.volume, fit.model, region > 0.01, workers=-1)
    target: np.ndarray = TARGET_SCALE * region * scaled
    return target


def smooth_mask(region: np.ndarray, length: float) -> np.ndarray:
    """Smooth a mask (z, y, x) to `length` A by a Gaussian, as the simulation's masks are."""
    sigma = length / (math.pi * math.sqrt(2))
    smooth = ndimage.gaussian_filter(region.astype(np.float32), sigma)
    return np.asarray(np.clip(smooth, 0, 1))


def correlate(volume: np.ndarray, model: np.ndarray, inside: np.ndarray) -> float:
    """Correlate map and model map in a mask (z, y, x), whatever their B factors.

    The model's radial amplitudes are made the map's first.
    """
    shape = volume.shape
    map_spectrum, model_spectrum = fft.rfftn(volume, workers=-1), fft.rfftn(model, workers=-1)
    map_power = spectrum.power(map_spectrum, shape)
    gain = np.sqrt(map_power / np.maximum(spectrum.power(model_spectrum, shape), 1e-20))
    filters.apply_gain(model_spectrum, gain, shape)
    like = fft.irfftn(model_spectrum, s=shape, workers=-1)
    return float(np.corrcoef(volume[inside], like[inside])[0, 1])


def refine_b_factor(
    mean: np.ndarray, model: np.ndarray, curve: np.ndarray, resolution: float, b: float
) -> float:
    """Refine one B factor for all atoms, as sharp as the half maps justify.

    The model's map then correlates best, up to the resolution, with the map of flat amplitudes
    times C_ref = sqrt(2 FSC / (1 + FSC)), which is what the half maps hold of the perfect map
    (Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721).

    Args:
        mean: of the halves (z, y, x).
        model: the model's map at `b`.
        curve: FSC of the halves at each shell.
        resolution: in A.
        b: the model's B factor in A^2.
    """
    shape = mean.shape
    map_spectrum, model_spectrum = fft.rfftn(mean, workers=-1), fft.rfftn(model, workers=-1)
    width = filters.shell_width(shape, 1.0)
    used = np.arange(1, min(len(curve), int(1 / resolution / width) + 1))
    s = used * width
    fsc = np.maximum(curve[used], 0)
    weight = np.sqrt(2 * fsc / (1 + fsc))
    count = 3 * used**2 + 0.25  # proportional to the coefficients of a shell
    cross = spectrum.radial_mean((map_spectrum * np.conj(model_spectrum)).real, shape)[used]
    cross = cross / np.sqrt(np.maximum(spectrum.power(map_spectrum, shape)[used], 1e-30))
    power = spectrum.power(model_spectrum, shape)[used]
    candidates = np.arange(SMALLEST_B, LARGEST_B + 1, 2.0)
    falls = np.exp(-(candidates[:, None] - b) / 4 * s**2)
    scores = (count * weight * cross * falls).sum(1) / np.sqrt((count * power * falls**2).sum(1))
    return float(candidates[np.argmax(scores)])
