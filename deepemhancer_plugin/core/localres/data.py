"""Simulated volumes whose local resolution is known, for training and for tests.

After Ramirez-Aportela et al. 2019 (IUCrJ 6, 1054): maps of atomic models through electron
scattering factors, low-passed at the label with a raised cosine of 0.02 (normalised frequency).
Besides the paper: B factors, noise, bulk solvent, masks, and two resolutions in one volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.localres.inputs import BOX_EDGE, Range, cut_boxes
from deepemhancer_plugin.core.maps.filters import frequencies, low_pass, raised_cosine
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms

SHARP_B = 10.0  # A^2, of every atom of what counts as a sharp map
ROLL_OFF = 0.02  # 1/voxel, width of the low-pass's raised cosine
SOLVENT_DETAIL = 8.0  # A, the finest detail of bulk solvent
FEWEST_ATOMS = 20  # in a box
VOLUMES_PER_POSE = 4
HALF_AMPLITUDE = 4 * math.log(2)  # B k^2 where exp(-B k^2 / 4) is a half


def low_pass_to(volume: np.ndarray, rate: float, resolution: float) -> np.ndarray:
    """Low-pass filter a map (z, y, x) at a resolution in A, as the labels mean it."""
    return low_pass(volume, rate, 1 / resolution, 1 / resolution + ROLL_OFF / rate)


def effective_resolution(resolution: float, blur: float) -> float:
    """Give the label of a map that was low-passed and blurred.

    It is the coarser of two: the low-pass, and where the blur leaves half of the amplitude,
    exp(-B k^2 / 4) = 1/2. Over-sharpening does not make a map finer than its low-pass.

    Args:
        resolution: of the low-pass, A.
        blur: B factor over that of a sharp map, A^2; negative where it was over-sharpened.

    Returns:
        The resolution in A.
    """
    return max(resolution, math.sqrt(max(blur, 0.0) / HALF_AMPLITUDE))


def sharpen_atoms(molecule: Molecule) -> Molecule:
    """Give all atoms the B factor of a sharp map."""
    return replace(molecule, b_factors=np.full(len(molecule), SHARP_B))


@dataclass(frozen=True)
class LabelledVolume:
    """A volume and its truth.

    Attributes:
        data: map (z, y, x), float32, solvent at about 0.
        label: resolution of each voxel in A (z, y, x).
        inside: boolean (z, y, x), true in the molecule, where the label is known.
    """

    data: np.ndarray
    label: np.ndarray
    inside: np.ndarray


def place_in_box(molecule: Molecule, rng: np.random.Generator, span: Range, edge: int) -> Molecule:
    """Place a sharp copy of a molecule in a box, in a random pose.

    Args:
        molecule: the atoms; those that fall outside of the box go.
        rng: the source of chance.
        span: gives the sampling rate.
        edge: of the box, in voxels.

    Returns:
        At least `FEWEST_ATOMS` atoms, with positions in A from the box's corner.
    """
    width = edge * span.rate
    rotated = molecule.rotate(Rotation.random(random_state=rng))
    # Boxes centred on an atom, or up to a quarter of a box beside it, show a molecule's border and
    # corners as often as its middle.
    atom = rotated.positions[rng.integers(len(rotated))]
    centre = atom + rng.uniform(-0.25, 0.25, 3) * edge * span.rate
    moved = rotated.shift(width / 2 - centre)
    margin = rng.uniform(0, 4)
    within = ((moved.positions > margin) & (moved.positions < width - margin)).all(1)
    placed = sharpen_atoms(moved[np.flatnonzero(within)])
    return placed if len(placed) >= FEWEST_ATOMS else place_in_box(molecule, rng, span, edge)


def simulate_volumes(
    molecule: Molecule, rng: np.random.Generator, span: Range, edge: int, count: int
) -> list[LabelledVolume]:
    """Simulate volumes of one pose of a molecule, under conditions drawn anew for each.

    Args:
        molecule: the atoms.
        rng: the source of chance.
        span: sampling rate and range of labels.
        edge: of the volumes, in voxels.
        count: how many.
    """
    shape = (edge, edge, edge)
    atoms = place_in_box(molecule, rng, span, edge)
    inside = mask_atoms(atoms, shape, span.rate, rng.uniform(2.5, 4.5)) > 0.5
    spectrum = compute_potential(atoms, shape, span.rate)
    k = frequencies(shape)
    cut = span.rate / SOLVENT_DETAIL
    solvent = fft.rfftn(mask_atoms(atoms, shape, span.rate, 2.5))
    solvent = solvent * raised_cosine(k, cut, cut + ROLL_OFF)
    mean_density = float(spectrum[0, 0, 0].real / max(solvent[0, 0, 0].real, 1))
    solvent = solvent * mean_density
    return [_simulate_volume(spectrum, solvent, k, inside, rng, span) for _ in range(count)]


def _simulate_volume(
    spectrum: np.ndarray,
    solvent: np.ndarray,
    k: np.ndarray,
    inside: np.ndarray,
    rng: np.random.Generator,
    span: Range,
) -> LabelledVolume:
    """One volume of a molecule's half spectrum and that of its bulk solvent; k in 1/voxel."""
    shape = inside.shape
    if rng.random() < 0.5:
        spectrum = spectrum - solvent * np.float32(rng.uniform(0, 0.7))
    cuts = [_draw_cut(rng, span) for _ in range(2 if rng.random() < 0.5 else 1)]
    parts = [fft.irfftn(spectrum * _cut_gain(k, span.rate, d, b), s=shape) for d, b in cuts]
    labels = [min(max(effective_resolution(d, b), span.finest), span.coarsest) for d, b in cuts]
    data = parts[0]
    log_label = np.full(shape, np.log(labels[0]), np.float32)
    if len(cuts) == 2:
        weight = _half_space(inside, rng, span.rate)
        # In a quarter of the volumes both sides have the same root mean square, as in a molecule
        # that is as dense here as there; in the others the coarser side is weaker.
        first, second = (_root_mean_square(part, inside) for part in parts)
        other = parts[1] if rng.random() < 0.75 else parts[1] * (first / max(second, 1e-15))
        data = weight * data + (1 - weight) * other
        log_label = weight * np.log(labels[0]) + (1 - weight) * np.log(labels[1])
        log_label = log_label.astype(np.float32)
    data = data / max(_root_mean_square(data, inside), 1e-30)
    data = data + _simulate_noise(k, rng, span, max(d for d, _ in cuts))
    if rng.random() < 0.25:
        data = data * _soft_mask(inside, rng)
    return LabelledVolume(data.astype(np.float32), np.exp(log_label), inside)


def _root_mean_square(data: np.ndarray, inside: np.ndarray) -> float:
    return math.sqrt(np.square(data[inside]).mean())


def _cut_gain(k: np.ndarray, rate: float, resolution: float, blur: float) -> np.ndarray:
    """Gain of a low-pass (A) and a B factor (A^2) at k (1/voxel)."""
    gain: np.ndarray = raised_cosine(k, rate / resolution, rate / resolution + ROLL_OFF)
    passed = gain > 0
    gain[passed] *= np.exp(-blur / 4 * (k[passed] / rate) ** 2)
    return gain


def _draw_cut(rng: np.random.Generator, span: Range) -> tuple[float, float]:
    """Low-pass in A and blur in A^2."""
    # Uniform in the resolution as the paper has it, or in its logarithm. The range is exceeded on
    # either side, so that the network calls finer detail its finest.
    low = max(span.finest * 0.8, 2.05 * span.rate)
    high = span.coarsest * 1.05
    if rng.random() < 0.4:
        resolution = rng.uniform(low, high)
    else:
        resolution = math.exp(rng.uniform(math.log(low), math.log(high)))
    kind = rng.random()
    scale = (resolution / 3.0) ** 2  # B factors that change as much at this low-pass as at 3 A
    if kind < 0.6:
        blur = rng.uniform(-10, 20) * scale
    elif kind < 0.75:
        blur = rng.uniform(-60, 0) * scale
    else:
        blur = rng.uniform(0, 250) * span.rate**2
    return resolution, min(blur, span.coarsest**2 * HALF_AMPLITUDE)


def _half_space(inside: np.ndarray, rng: np.random.Generator, rate: float) -> np.ndarray:
    """0 to 1 across a random plane through the molecule, over 1-8 A."""
    voxels = np.argwhere(inside)
    point = voxels[rng.integers(len(voxels))]
    normal = rng.standard_normal(3)
    normal /= np.linalg.norm(normal)
    z, y, x = np.ix_(*(np.arange(n) - p for n, p in zip(inside.shape, point, strict=True)))
    distance = z * normal[0] + y * normal[1] + x * normal[2]
    width = math.exp(rng.uniform(math.log(0.15), math.log(2)))
    weight: np.ndarray = 1 / (1 + np.exp(-distance * rate / width))
    return weight


def _simulate_noise(
    k: np.ndarray, rng: np.random.Generator, span: Range, coarsest: float
) -> np.ndarray | float:
    """Noise in units of the molecule's root mean square.

    None, white, rising with the frequency, or cut where a coarser voxel would cut it.
    """
    shape = (k.shape[0],) * 3
    if rng.random() < 0.15:
        return 0.0
    level = math.exp(rng.uniform(math.log(0.005), math.log(0.6)))
    noise = rng.standard_normal(shape, np.float32)
    kind = rng.random()
    if kind > 0.5:
        spectrum = fft.rfftn(noise)
        if kind > 0.75:
            spectrum *= np.sqrt(k)
        if kind < 0.9:
            cut = rng.uniform(span.rate / coarsest, 0.5)
            spectrum *= raised_cosine(k, cut, cut + ROLL_OFF)
        noise = fft.irfftn(spectrum, s=shape)
        noise /= max(float(noise.std()), 1e-12)
    return level * noise


def _soft_mask(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask somewhat wider than the molecule, with a soft edge."""
    wider = ndimage.binary_dilation(inside, iterations=int(rng.integers(1, 4)))
    soft: np.ndarray = ndimage.gaussian_filter(wider.astype(np.float32), rng.uniform(0.5, 2))
    return soft


def draw_boxes(
    volume: LabelledVolume, rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw boxes around voxels of the molecule.

    Returns:
        Boxes (count, 13, 13, 13) of unit norm, and their labels (count,) in A. Both are empty where
        no voxel of the molecule is far enough from the faces.
    """
    half = BOX_EDGE // 2
    voxels = np.argwhere(volume.inside[half:-half, half:-half, half:-half])
    if not len(voxels):
        return np.zeros((0, BOX_EDGE, BOX_EDGE, BOX_EDGE), np.float32), np.zeros(0, np.float32)
    chosen = voxels[rng.integers(len(voxels), size=count)] + half
    return cut_boxes(volume.data, chosen), volume.label[tuple(chosen.T)]


def simulate_pool(
    molecules: Sequence[Molecule], rng: np.random.Generator, span: Range, edge: int, poses: int
) -> list[LabelledVolume]:
    """Simulate volumes of random poses of random molecules, `VOLUMES_PER_POSE` of each pose.

    Args:
        molecules: to draw from.
        rng: the source of chance.
        span: sampling rate and range of labels.
        edge: of the volumes, in voxels.
        poses: how many.
    """
    volumes: list[LabelledVolume] = []
    for _ in range(poses):
        molecule = molecules[int(rng.integers(len(molecules)))]
        volumes += simulate_volumes(molecule, rng, span, edge, VOLUMES_PER_POSE)
    return volumes
