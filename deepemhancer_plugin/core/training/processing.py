"""What people's programs do to a map before it is enhanced: filters, masks, cuts, other values.

Each step is a function of its own. `draw_processing` draws which of them a map goes through, and
`process_map` applies them to the mean of simulated half maps, in the order in which programs do.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps.filters import frequencies, raised_cosine, soft_edge
from deepemhancer_plugin.core.maps.spectrum import fsc
from deepemhancer_plugin.core.simulation import Simulated
from deepemhancer_plugin.core.simulation.molecule import Molecule, mask_atoms

Filter = Literal["hard", "cosine", "gaussian"]
Surrounding = Literal["whole", "mask", "zone", "cut"]
FILTERS: tuple[Filter, ...] = ("hard", "cosine", "gaussian")
FILTER_FRACTIONS = 0.15, 0.6, 0.25

# Fractions of the processed maps.
SHARPENED = 0.75
BLURRED = 0.1
WEIGHTED = 0.5  # by the FSC
LOW_PASSED = 0.35  # whatever their resolution is; sharpened ones without weights nearly always are
LOCALLY_SHARPENED = 0.2
SURROUNDINGS: dict[Surrounding, float] = {"whole": 0.4, "mask": 0.3, "zone": 0.2, "cut": 0.1}
PARTIAL = 0.4  # of the masks and zones: about a part of the molecule
TRIMMED = 0.6  # of the zones: cut to their box
OTHER_LEVEL = 0.3
OTHER_VALUES = 0.5  # another unit
EIGHT_BIT = 0.1

MOLECULE_B_FACTOR = 60.0  # A^2, of the atoms and their disorder: programs sharpen by that as well
SHARPENINGS = 0.2, 1.8  # times the B factor that would undo the loss of contrast
BLURS = 10.0, 200.0  # A^2
STRONG = 0.5  # FSC
LARGEST_EXPONENT = 6.0  # of a sharpening's gain at the resolution
LARGEST_LOG_GAIN = 20.0  # anywhere, so that nothing leaves the range of float32
LOCAL_B_FACTORS = 20.0, 150.0  # A^2, half the range over one map
LOCAL_LEVELS = 4  # filtered maps that are blended
WAVELENGTHS = 30.0, 100.0  # A, of the field by which local B factors vary
LOW_PASSES = 3.0, 12.0  # A
NEAR_RESOLUTION = 0.8, 1.3  # times the resolution
MASK_DISTANCES = 2.0, 10.0  # A from the atoms
MASK_EDGES = 3.0, 8.0  # A
ZONE_DISTANCES = 2.0, 6.0  # A
FOCUSED_FRACTIONS = 0.3, 0.8  # of the atoms
CUT_EDGES = 40.0, 72.0  # A
CUT_FRACTION = 0.7  # of the molecule's extent at most, so that it fills the cut
SMALLEST_CUT = 16  # voxels
CUT_TRIALS = 8  # places, of which the fullest is taken
LARGEST_MARGIN = 6  # voxels about a zone
COSINE_EDGE = 0.1  # width of a cosine filter, relative to its frequency
FAINT_GAIN = 0.01  # of a Gaussian filter, under which nothing is asked of the target
LEVELS = 256  # of 8-bit values


@dataclass(frozen=True)
class Processing:
    """What is done to a map.

    Attributes:
        b_factor: A^2, multiplies amplitudes by exp(-B k^2 / 4): negative sharpens.
        local_b: A^2, by which the B factor differs over the map, up and down.
        weighted: whether shells are weighted by C_ref of the half maps' FSC in a mask.
        low_pass: A; None: none.
        filter: kind of the low-pass.
        surrounding: "whole", or what is left: "mask" with a soft edge, "zone" with a hard one,
            "cut": a box within the molecule, which leaves no solvent.
        distance: A from the atoms to the edge of a mask or a zone.
        edge: A, width of a mask's soft edge; edge of a cut's box.
        fraction: of the atoms that a mask or a zone is about.
        margin: voxels that are left about a zone; None: the whole box.
        level: of the solvent, relative to the map's standard deviation.
        scale: factor of all values.
        eight_bit: whether the values are whole numbers from 0 to 255.
    """

    b_factor: float = 0.0
    local_b: float = 0.0
    weighted: bool = False
    low_pass: float | None = None
    filter: Filter = "cosine"
    surrounding: Surrounding = "whole"
    distance: float = 4.0
    edge: float = 5.0
    fraction: float = 1.0
    margin: int | None = None
    level: float = 0.0
    scale: float = 1.0
    eight_bit: bool = False


class Processed(NamedTuple):
    """A processed map and what belongs to it, on its grid.

    Attributes:
        volume: the map (z, y, x), float32.
        target: what is asked for where the map holds something.
        box: slices (z, y, x) of the simulated box that are left.
    """

    volume: np.ndarray
    target: np.ndarray
    box: tuple[slice, ...]


def draw_processing(
    rng: np.random.Generator, resolution: float, b_factor: float, rate: float
) -> Processing:
    """Draw what is done to a map.

    Args:
        rng: what draws.
        resolution: of the map in A.
        b_factor: its loss of contrast, A^2.
        rate: its sampling rate in A/voxel.
    """
    weighted = bool(rng.random() < WEIGHTED)
    applied = _draw_b_factor(rng, resolution, b_factor)
    low_pass = rng.uniform(*LOW_PASSES) if rng.random() < LOW_PASSED else None
    kind: Filter = rng.choice(FILTERS, p=FILTER_FRACTIONS)
    # Programs end a sharpened map about its resolution. Where the gain grows beyond measure after
    # that, nobody leaves the filter out.
    steep = -applied / 4 * (0.5 / rate) ** 2 > LARGEST_EXPONENT
    if applied < 0 and (steep or rng.random() < 0.8):
        end = resolution * rng.uniform(*NEAR_RESOLUTION)
        low_pass = max(low_pass or 0.0, end)
        kind = "cosine" if steep else kind
    local_b = rng.uniform(*LOCAL_B_FACTORS) if rng.random() < LOCALLY_SHARPENED else 0.0
    surrounding = rng.choice(list(SURROUNDINGS), p=list(SURROUNDINGS.values()))
    zone, cut = surrounding == "zone", surrounding == "cut"
    return Processing(
        b_factor=applied,
        local_b=min(local_b, _largest_b_factor(resolution)),
        weighted=weighted,
        low_pass=low_pass,
        filter=kind,
        surrounding=surrounding,
        distance=rng.uniform(*(ZONE_DISTANCES if zone else MASK_DISTANCES)),
        edge=rng.uniform(*(CUT_EDGES if cut else MASK_EDGES)),
        fraction=rng.uniform(*FOCUSED_FRACTIONS) if rng.random() < PARTIAL else 1.0,
        margin=int(rng.integers(LARGEST_MARGIN + 1)) if zone and rng.random() < TRIMMED else None,
        level=rng.normal() if rng.random() < OTHER_LEVEL else 0.0,
        scale=float(10 ** rng.uniform(-3, 3)) if rng.random() < OTHER_VALUES else 1.0,
        eight_bit=bool(rng.random() < EIGHT_BIT),
    )


def _draw_b_factor(rng: np.random.Generator, resolution: float, b_factor: float) -> float:
    """B factor in A^2 that a program applies: too much or too little of what was lost."""
    kind = rng.random()
    if kind < SHARPENED:
        lost = b_factor + MOLECULE_B_FACTOR
        return -min(rng.uniform(*SHARPENINGS) * lost, _largest_b_factor(resolution))
    return rng.uniform(*BLURS) if kind < SHARPENED + BLURRED else 0.0


def _largest_b_factor(resolution: float) -> float:
    """B factor in A^2 whose gain at the resolution is the largest that a program applies."""
    return 4 * LARGEST_EXPONENT * resolution**2


def process_map(
    simulated: Simulated, volume: np.ndarray, processing: Processing, rng: np.random.Generator
) -> Processed:
    """Process a map as people's programs do.

    Args:
        simulated: half maps, their target and their molecule.
        volume: the mean of the half maps, or of their noise (z, y, x).
        processing: what is done.
        rng: draws the part of the molecule that is left, and the field of local B factors.
    """
    rate = simulated.sampling_rate
    k = frequencies(volume.shape, rate)
    gain = compute_gain(simulated, k, processing)
    if processing.local_b:
        b_factors = draw_wave(volume.shape, rate, rng) * np.float32(processing.local_b)
        volume = sharpen_locally(filter_map(volume, gain), k, b_factors)
    else:
        volume = filter_map(volume, gain)
    target = limit_target(simulated.target, k, processing)
    if processing.level:
        volume = volume + np.float32(processing.level * volume.std())
    mask, box = choose_region(simulated, processing, rng)
    if mask is not None:
        volume, target = volume * mask, target * mask
    volume, target = volume[box], target[box]
    if processing.eight_bit:
        volume = quantise(volume)
    volume = np.ascontiguousarray(volume * np.float32(processing.scale), np.float32)
    return Processed(volume, np.ascontiguousarray(target, np.float32), box)


def compute_gain(simulated: Simulated, k: np.ndarray, processing: Processing) -> np.ndarray:
    """Compute the gain of all filters at frequencies `k` in 1/A."""
    gain = scale_by_b_factor(k, processing.b_factor)
    if processing.weighted:
        mask = simulated.mask
        frequency, curve = fsc(
            simulated.half1 * mask, simulated.half2 * mask, simulated.sampling_rate
        )
        gain = gain * np.interp(k, frequency, weigh_by_fsc(curve), right=0.0)
    if processing.low_pass:
        gain = gain * pass_low(k, 1 / processing.low_pass, processing.filter)
    return np.asarray(gain, np.float32)


def scale_by_b_factor(k: np.ndarray, b_factor: float) -> np.ndarray:
    """Give the gain exp(-B k^2 / 4) at frequencies in 1/A, within the range of float32.

    Args:
        k: frequencies.
        b_factor: A^2; negative sharpens.
    """
    exponent = np.float32(-b_factor / 4) * np.square(k)
    return np.asarray(np.exp(np.minimum(exponent, np.float32(LARGEST_LOG_GAIN))))


def weigh_by_fsc(curve: np.ndarray) -> np.ndarray:
    """Turn the FSC of half maps into the weights of their mean.

    C_ref = sqrt(2 FSC / (1 + FSC)), Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721-745. Shells
    without correlation get nothing, nor does what lies beyond the first of them behind the last
    strong shell.

    Args:
        curve: FSC of the shells, from frequency 0 on.
    """
    shells = np.arange(len(curve))
    strong = int(np.flatnonzero(curve > STRONG)[-1]) if np.any(curve > STRONG) else 0
    ends = np.flatnonzero((curve <= 0) & (shells > strong))
    end = ends[0] if strong and len(ends) else len(curve)
    positive = np.where(shells < end, np.clip(curve, 0, 1), 0)
    return np.asarray(np.sqrt(2 * positive / (1 + positive)))


def pass_low(k: np.ndarray, frequency: float, kind: Filter) -> np.ndarray:
    """Give the gain of a low-pass at frequencies `k`.

    Args:
        k: frequencies in 1/A.
        frequency: 1/A where the filter ends ("hard") or begins to fall ("cosine"), or the standard
            deviation of the "gaussian".
        kind: of the filter.
    """
    if kind == "hard":
        return np.asarray(k <= frequency, np.float32)
    if kind == "gaussian":
        return np.asarray(np.exp(np.square(k) * np.float32(-0.5 / frequency**2)))
    return raised_cosine(k, frequency, (1 + COSINE_EDGE) * frequency)


def filter_map(volume: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Multiply the half spectrum of a map (z, y, x) by a gain."""
    filtered = fft.irfftn(fft.rfftn(volume, workers=1) * gain, s=volume.shape, workers=1)
    return np.asarray(filtered, np.float32)


def draw_wave(shape: tuple[int, ...], rate: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a field (z, y, x) from -1 to 1, a plane wave of random direction and length."""
    direction = rng.standard_normal(3)
    vector = direction / np.linalg.norm(direction) * rate / rng.uniform(*WAVELENGTHS)
    axes = np.ix_(*(2 * np.pi * v * np.arange(n) for v, n in zip(vector, shape, strict=True)))
    return np.asarray(np.cos(sum(axes) + rng.uniform(0, 2 * np.pi)), np.float32)


def sharpen_locally(volume: np.ndarray, k: np.ndarray, b_factors: np.ndarray) -> np.ndarray:
    """Sharpen each place of a map by a B factor of its own, as local sharpening programs do.

    Maps filtered by some B factors between the least and the largest are blended linearly.

    Args:
        volume: the map (z, y, x).
        k: frequencies of its half spectrum in 1/A.
        b_factors: A^2 at each voxel, smooth; negative sharpens.
    """
    low, high = float(b_factors.min()), float(b_factors.max())
    levels = np.linspace(low, high, LOCAL_LEVELS)
    step = max(levels[1] - levels[0], 1e-6)
    spectrum = fft.rfftn(volume, workers=1)
    result = np.zeros(volume.shape, np.float32)
    for level in levels:
        filtered = fft.irfftn(spectrum * scale_by_b_factor(k, level), s=volume.shape, workers=1)
        result += filtered * np.clip(1 - np.abs(b_factors - np.float32(level)) / step, 0, 1)
        if high - low < 1e-6:
            break
    return result


def limit_target(target: np.ndarray, k: np.ndarray, processing: Processing) -> np.ndarray:
    """Low-pass a target (z, y, x) where the map was: nothing is asked for beyond its end.

    A Gaussian ends where it leaves one percent.
    """
    if not processing.low_pass:
        return target
    end = 1 / processing.low_pass
    if processing.filter == "gaussian":
        end *= np.sqrt(-2 * np.log(FAINT_GAIN))
    if end >= float(k[0, 0, -1]):
        return target
    return filter_map(target, raised_cosine(k, 0.95 * end, 1.1 * end).astype(np.float32))


def choose_region(
    simulated: Simulated, processing: Processing, rng: np.random.Generator
) -> tuple[np.ndarray | None, tuple[slice, ...]]:
    """Choose what is left of a map: a mask (z, y, x) from 0 to 1, if any, and a box."""
    shape, rate = simulated.target.shape, simulated.sampling_rate
    whole = tuple(slice(0, n) for n in shape)
    atoms = simulated.molecule
    if processing.surrounding == "whole":
        return None, whole
    if processing.surrounding == "cut":
        return None, place_cut(atoms.positions[:, ::-1] / rate, shape, processing.edge / rate, rng)
    part = choose_part(atoms, processing.fraction, rng)
    distance = max(processing.distance, rate)  # no holes between large voxels
    if processing.surrounding == "mask":
        inside = mask_atoms(part, shape, rate, distance) > 0
        return soft_edge(inside, rate, 0.0, processing.edge), whole
    zone = mask_atoms(part, shape, rate, distance)
    if processing.margin is None or not zone.any():
        return zone, whole
    return zone, bound_region(zone > 0, processing.margin)


def choose_part(atoms: Molecule, fraction: float, rng: np.random.Generator) -> Molecule:
    """Choose the fraction of the atoms that lie nearest to a random one of them."""
    if fraction >= 1:
        return atoms
    middle = atoms.positions[rng.integers(len(atoms))]
    away = np.linalg.norm(atoms.positions - middle, axis=1)
    return atoms[away <= np.quantile(away, fraction)]


def bound_region(inside: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Give the box (z, y, x) about what is inside, with a margin in voxels where there is room."""
    box = []
    for axis, n in enumerate(inside.shape):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        found = np.flatnonzero(inside.any(axis=others))
        box.append(slice(max(0, found[0] - margin), min(n, found[-1] + 1 + margin)))
    return tuple(box)


def place_cut(
    atoms: np.ndarray, shape: tuple[int, ...], edge: float, rng: np.random.Generator
) -> tuple[slice, ...]:
    """Place a box smaller than the molecule about an atom, where the molecule fills it.

    Args:
        atoms: positions (n, 3) as z, y, x in voxels.
        shape: of the map (z, y, x).
        edge: the largest edge of the box in voxels.
        rng: draws some atoms, of which the one with most others about it is taken.
    """
    within = atoms[np.all((atoms >= 0) & (atoms < shape), axis=1)]
    atoms = within if len(within) else np.array(shape)[None] / 2
    low, high = np.percentile(atoms, (5, 95), axis=0)
    edges = np.clip(CUT_FRACTION * (high - low), SMALLEST_CUT, max(edge, SMALLEST_CUT))
    edges = np.minimum(edges.astype(int), shape)
    middles = atoms[rng.integers(len(atoms), size=CUT_TRIALS)]
    counts = [int(np.all(np.abs(atoms - middle) < edges / 2, axis=1).sum()) for middle in middles]
    start = np.round(middles[int(np.argmax(counts))] - edges / 2).astype(int)
    start = np.clip(start, 0, np.array(shape) - edges)
    return tuple(slice(int(s), int(s + n)) for s, n in zip(start, edges, strict=True))


def quantise(volume: np.ndarray) -> np.ndarray:
    """Round the values of a map to the 256 levels of 8 bits between its least and its largest."""
    low, high = float(volume.min()), float(volume.max())
    step = (high - low) / (LEVELS - 1)
    if step == 0:
        return volume
    return np.asarray(np.round((volume - low) / step), np.float32)
