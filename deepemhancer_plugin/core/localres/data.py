"""Volumes whose local resolution is known, for training and for tests: atomic models low-passed, blurred, made noisy.

After Ramirez-Aportela et al. 2019 (IUCrJ 6, 1054): maps of atomic models through electron scattering factors, low-passed at the label with
a raised cosine of 0.02 (normalised frequency). Besides the paper: B factors, noise, bulk solvent, masks, and two resolutions in one volume.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.maps.filters import frequencies, low_pass, raised_cosine
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms

SHARP_B = 10.0  # A^2 of every atom in what counts as a sharp map
ROLL_OFF = 0.02  # of the raised cosine, in 1/voxel
BOX_EDGE = 13  # voxels, the edge of the boxes that are scaled to unit norm
SCREEN = 8.0  # A, the detail that bulk solvent has
CORNER = 0.1  # 1/voxel: below it bands are equally wide, above it in proportion; narrower ones would see too far beyond a border
_PLACES = np.linspace(math.asinh(1 / 16 / CORNER), math.asinh(0.5 / CORNER), 16)
BANDS = tuple(
    float(b) for b in CORNER * np.sinh(_PLACES)
)  # 1/voxel, the middles of the bands; the last one reaches into the corners
BLOCK = 4  # voxels, the spacing of the local spectra
SPREADS = (
    0.7,
    1.6,
)  # blocks, standard deviations of the Gaussian windows that spectra are averaged over
DITHER = 0.015  # of the local root mean square: white noise that every spectrum is taken to hold, so that none ends in nothing
# Shares of white noise: a band's squared gain over its shell, 4 pi k^2 times its width; the last one has the rest.
_WHITE = [
    4 * math.pi * b**2 * (_PLACES[1] - _PLACES[0]) * math.hypot(b, CORNER) for b in BANDS[:-1]
]
WHITE = np.array([*_WHITE, 1 - sum(_WHITE)], np.float32)


@dataclass(frozen=True)
class Range:
    """What a network is for: its sampling rate and the finest and coarsest label, all in A."""

    rate: float
    finest: float
    coarsest: float

    @property
    def name(self) -> str:
        return f"{self.rate:.1f}"


RANGES = {"1.0": Range(1.0, 2.5, 13.0), "0.5": Range(0.5, 1.5, 6.0)}


def low_pass_to(volume: np.ndarray, rate: float, resolution: float) -> np.ndarray:
    """The map (z, y, x) without what is finer than `resolution` A, as the labels mean it."""
    return low_pass(volume, rate, 1 / resolution, 1 / resolution + ROLL_OFF / rate)


def effective_resolution(resolution: float, blur: float) -> float:
    """The label of a map low-passed at `resolution` A whose B factor is `blur` A^2 over that of a sharp one.

    The coarser of the two: the low-pass, and where the blur leaves half of the amplitude, exp(-B k^2 / 4) = 1/2. Over-sharpening
    (blur < 0) does not make a map finer than its low-pass.
    """
    return max(resolution, math.sqrt(max(blur, 0.0) / (4 * math.log(2))))


def sharpen_atoms(molecule: Molecule) -> Molecule:
    """The same atoms, all with the B factor of a sharp map."""
    return replace(molecule, b_factors=np.full(len(molecule), SHARP_B))


def local_spectra(volume: np.ndarray, workers: int = 1) -> np.ndarray:
    """The local power spectrum of each block of 4^3 voxels: (z / 4, y / 4, x / 4, 32), float32; the edges are multiples of four.

    The logarithm of each band's share of the power, from the squared band-passed map averaged over the block and a Gaussian of two widths,
    scaled to about -2 (next to nothing) to 2 (all of it). Independent of the map's scale, as the paper's boxes of unit norm are.
    """
    spectrum, place = (
        fft.rfftn(volume, workers=workers),
        np.arcsinh(frequencies(volume.shape) / np.float32(CORNER)),
    )
    blocks = [n for edge in volume.shape for n in (edge // BLOCK, BLOCK)]
    width = np.float32(_PLACES[1] - _PLACES[0])
    powers = []
    for middle in _PLACES.astype(np.float32):
        distance = np.abs(place - middle) / width
        if middle == np.float32(_PLACES[-1]):
            distance[place > middle] = 0
        part = fft.irfftn(
            spectrum * np.cos(np.float32(np.pi / 2) * np.minimum(distance, 1)),
            s=volume.shape,
            workers=workers,
        )
        powers.append(np.square(part).reshape(blocks).mean((1, 3, 5)))
    return np.concatenate(
        [
            _compress_shares(np.stack([ndimage.gaussian_filter(p, spread) for p in powers], -1))
            for spread in SPREADS
        ],
        -1,
    )


def _compress_shares(powers: np.ndarray) -> np.ndarray:
    total = powers.sum(-1, keepdims=True)
    shares = np.maximum(powers, 0) / np.maximum(total, max(1e-6 * float(total.max()), 1e-30))
    return ((np.log(shares + DITHER**2 * WHITE) + 6) / 3).astype(np.float32)


@dataclass(frozen=True)
class LabelledVolume:
    """A volume and its truth.

    data     (z, y, x), float32, solvent at about 0
    label    resolution of each voxel in A
    inside   where it is known: in the molecule
    """

    data: np.ndarray
    label: np.ndarray
    inside: np.ndarray


def place_molecule(
    molecule: Molecule, rng: np.random.Generator, span: Range, edge: int
) -> Molecule:
    """The sharp molecule in a random pose within a box of `edge` voxels, cut by the box where it is larger."""
    rotated = molecule.rotate(Rotation.random(random_state=rng))
    # Centred on an atom, or up to half a box beside it: the molecule's border and corners are as common as its middle.
    centre = (
        rotated.positions[rng.integers(len(rotated))]
        + rng.uniform(-0.25, 0.25, 3) * edge * span.rate
    )
    moved = rotated.shift(edge * span.rate / 2 - centre)
    margin = rng.uniform(0, 4)
    kept = sharpen_atoms(
        moved[((moved.positions > margin) & (moved.positions < edge * span.rate - margin)).all(1)]
    )
    return kept if len(kept) >= 20 else place_molecule(molecule, rng, span, edge)


def simulate_volumes(
    molecule: Molecule, rng: np.random.Generator, span: Range, edge: int, count: int
) -> list[LabelledVolume]:
    """`count` volumes of one pose of the molecule under conditions drawn anew for each."""
    shape = (edge, edge, edge)
    atoms = place_molecule(molecule, rng, span, edge)
    inside = mask_atoms(atoms, shape, span.rate, rng.uniform(2.5, 4.5)) > 0.5
    spectrum = compute_potential(atoms, shape, span.rate)
    k = frequencies(shape)
    envelope = fft.rfftn(mask_atoms(atoms, shape, span.rate, 2.5)) * raised_cosine(
        k, span.rate / SCREEN, span.rate / SCREEN + ROLL_OFF
    )
    density = float(spectrum[0, 0, 0].real / max(envelope[0, 0, 0].real, 1))  # mean in the molecule
    return [_conditions(spectrum, envelope * density, k, inside, rng, span) for _ in range(count)]


def _conditions(
    spectrum: np.ndarray,
    screen: np.ndarray,
    k: np.ndarray,
    inside: np.ndarray,
    rng: np.random.Generator,
    span: Range,
) -> LabelledVolume:
    """One volume of a molecule's spectrum and its bulk solvent's."""
    shape = inside.shape
    if rng.random() < 0.5:
        spectrum = spectrum - screen * np.float32(rng.uniform(0, 0.7))
    cuts = [_draw(rng, span) for _ in range(2 if rng.random() < 0.5 else 1)]
    parts = [
        fft.irfftn(spectrum * _filter(k / span.rate, k, span.rate / d, b), s=shape) for d, b in cuts
    ]
    labels = [min(max(effective_resolution(d, b), span.finest), span.coarsest) for d, b in cuts]
    data, label = parts[0], np.full(shape, np.log(labels[0]), np.float32)
    if len(cuts) == 2:
        # On either side of a plane through the molecule the same density: the finer side is brought to the coarser one's scale.
        weight = _half_space(inside, rng, span.rate)
        second = parts[1] * np.sqrt(
            np.square(parts[0][inside]).mean() / max(np.square(parts[1][inside]).mean(), 1e-30)
        )
        second = parts[1] if rng.random() < 0.75 else second
        data = weight * data + (1 - weight) * second
        label = (weight * np.log(labels[0]) + (1 - weight) * np.log(labels[1])).astype(np.float32)
    scale = np.sqrt(np.square(data[inside]).mean())
    data = data / max(scale, 1e-30) + _noise(k, rng, span, max(d for d, _ in cuts))
    if rng.random() < 0.25:
        wider = ndimage.binary_dilation(inside, iterations=int(rng.integers(1, 4))).astype(
            np.float32
        )
        data = data * ndimage.gaussian_filter(wider, rng.uniform(0.5, 2))
    return LabelledVolume(data.astype(np.float32), np.exp(label), inside)


def _filter(s: np.ndarray, k: np.ndarray, cut: float, blur: float) -> np.ndarray:
    """Low-pass and B factor at |k| in 1/A (`s`) and 1/voxel (`k`)."""
    gain = raised_cosine(k, cut, cut + ROLL_OFF)
    kept = gain > 0
    gain[kept] *= np.exp(-blur / 4 * s[kept] ** 2)
    return gain


def _draw(rng: np.random.Generator, span: Range) -> tuple[float, float]:
    """Low-pass in A and blur in A^2."""
    # Uniform in resolution as the paper's, or in its logarithm, and from beyond the range: what is finer is to be called its finest.
    low, high = max(span.finest * 0.8, 2.05 * span.rate), span.coarsest * 1.05
    d = (
        rng.uniform(low, high)
        if rng.random() < 0.4
        else math.exp(rng.uniform(math.log(low), math.log(high)))
    )
    kind = rng.random()
    scale = (d / 3.0) ** 2  # B factors that change as much at this low-pass as at 3 A
    blur = (
        rng.uniform(-10, 20) * scale
        if kind < 0.6
        else rng.uniform(-60, 0) * scale
        if kind < 0.75
        else rng.uniform(0, 250) * span.rate**2
    )
    return d, min(blur, span.coarsest**2 * 4 * math.log(2))


def _half_space(inside: np.ndarray, rng: np.random.Generator, rate: float) -> np.ndarray:
    """0 to 1 across a plane through a voxel of the molecule, over 1-8 A, sharp ones as often as soft ones."""
    voxels = np.argwhere(inside)
    point = voxels[rng.integers(len(voxels))]
    normal = rng.standard_normal(3)
    normal /= np.linalg.norm(normal)
    z, y, x = (np.arange(n) - p for n, p in zip(inside.shape, point, strict=True))
    distance = z[:, None, None] * normal[0] + y[:, None] * normal[1] + x * normal[2]
    return 1 / (1 + np.exp(-distance * rate / math.exp(rng.uniform(math.log(0.15), math.log(2)))))


def _noise(
    k: np.ndarray, rng: np.random.Generator, span: Range, coarsest: float
) -> np.ndarray | float:
    """Noise relative to the molecule's root mean square: none, white, rising with frequency, or cut where a coarser voxel would."""
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


def draw_boxes(
    volume: LabelledVolume, rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` boxes (count, 13, 13, 13) of unit norm around voxels of the molecule, and their labels in A."""
    half = BOX_EDGE // 2
    voxels = np.argwhere(volume.inside[half:-half, half:-half, half:-half])
    if not len(voxels):
        return np.zeros((0, BOX_EDGE, BOX_EDGE, BOX_EDGE), np.float32), np.zeros(0, np.float32)
    return cut_boxes(
        volume.data, chosen := voxels[rng.integers(len(voxels), size=count)] + half
    ), volume.label[tuple(chosen.T)]


def cut_boxes(volume: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Boxes (n, 13, 13, 13) of unit norm around voxels (n, 3) that lie at least 6 inside the map."""
    view = np.lib.stride_tricks.sliding_window_view(volume, (BOX_EDGE,) * 3)
    found = view[tuple((voxels - BOX_EDGE // 2).T)].astype(np.float32)
    norm = np.sqrt(np.square(found).sum((1, 2, 3), keepdims=True))
    return found / np.maximum(norm, 1e-12)


def simulate_pool(
    molecules: Sequence[Molecule], rng: np.random.Generator, span: Range, edge: int, count: int
) -> list[LabelledVolume]:
    """Volumes of `count` poses of random molecules, four of each."""
    return [
        v
        for _ in range(count)
        for v in simulate_volumes(molecules[int(rng.integers(len(molecules)))], rng, span, edge, 4)
    ]
