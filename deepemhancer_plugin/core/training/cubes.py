"""Cubes of simulated maps to train on, and the interface of every source of cubes."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.enhancement.windows import pad_to_tile
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.noise.directions import measure_views
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.noise.statistics import noise_from_map
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    Simulated,
    random_conditions,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.conditions import FINE_VOXEL
from deepemhancer_plugin.core.simulation.molecule import mask_atoms
from deepemhancer_plugin.core.training.processing import draw_processing, process_map
from deepemhancer_plugin.core.weights.networks import Architecture
from deepemhancer_plugin.core.weights.prepare import network_input, network_input_in_mask

# Fractions of the simulated volumes.
NOISE_ONLY = 0.10  # hold nothing but noise
TYPICAL = 0.5  # are made under the commonest conditions
SINGLE_MAP = 0.2  # have their noise estimated as that of a single map is,
SINGLE_MAP_OF_NOISE = 0.7  # and of those without a molecule
WRONG_NOISE = 0.3  # of the processed ones have a noise level that is wrong
WRONG_BY = 2.0  # times at most, up or down
PEPTIDES = 0.1  # of the volumes of a wide range hold a piece of the molecule alone
PEPTIDE_ATOMS = 150, 1000

LEAST_NOISE = 1e-5  # of a map's deviation: the emptiest maps allow no estimate
NOISE_EXPONENTS = (-2.5, 1.2)  # lowest and highest, of the amplitude's growth with frequency
NOISE_B_FACTOR = 300  # A^2, the largest of a volume of noise
NEAR_MOLECULE = 0.75  # of the cubes lie about an atom, the rest anywhere in the box
SHARP_RESOLUTION = 4.0  # A, the coarsest of maps for the target "sharp"
FINEST_RESOLUTION = 2.3  # A, of these maps
LARGEST_INPUT = 65000  # just within float16
USERS_MASKS = (2, 8)  # A from the atoms to the edge of masks as users make them


@dataclass(frozen=True)
class Task:
    """What a network is shown, and what it should make of it.

    Attributes:
        channels: of the input (`prepare.network_input`).
        compress: whether the input goes through arcsinh (`prepare.network_input`).
        masked: whether the input is normalised in a mask like those that users make, and blank
            outside of it (`prepare.network_input_in_mask`).
        target: "tight": the map in a tight mask; "wide": in a mask 5 A wider, with what surrounds
            the molecule; "sharp": as "tight", for maps better than 4 A, with less disorder kept;
            "model": the model's own map, without mask, filter and disorder, to be trained on with
            squared errors.
    """

    channels: int = 2
    compress: bool = True
    masked: bool = False
    target: str = "tight"

    @classmethod
    def of(cls, architecture: Architecture, target: str = "tight") -> "Task":
        """Make the task of a network of that architecture."""
        masked = architecture.normalization == "mask"
        return cls(architecture.channels, architecture.compressed, masked, target)


@dataclass(frozen=True)
class Variety:
    """How many of the simulated volumes are as people's maps are, as fractions.

    Attributes:
        processed: single maps that went through other programs (`processing.draw_processing`).
        uneven: noise that differs over the molecule (`simulation.random_conditions`).
        wide: any resolution from 1.75 to 16 A, and peptides.
    """

    processed: float = 0.0
    uneven: float = 0.0
    wide: float = 0.0


class Source(Protocol):
    """A number of entries (molecules, pairs of half maps) that cubes are made of."""

    def __len__(self) -> int: ...

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the number of an entry."""

    def make_cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make cubes of an entry.

        Returns:
            Inputs (count, edge, edge, edge, channels) and targets (count, edge, edge, edge, 1),
            float16.
        """


@dataclass(frozen=True)
class Simulation:
    """Source of cubes of half maps simulated from molecules.

    Attributes:
        molecules: the entries.
        task: what the network is shown and asked.
        noise_only: fraction of the volumes without any molecule.
        typical: fraction of the volumes under the commonest conditions.
        variety: fractions of the volumes that are as people's maps are.
    """

    molecules: Sequence[Molecule]
    task: Task = Task()
    noise_only: float = NOISE_ONLY
    typical: float = TYPICAL
    variety: Variety = Variety()

    def __len__(self) -> int:
        return len(self.molecules)

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the number of a molecule."""
        return int(rng.integers(len(self)))

    def make_cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make cubes of one simulated map of the molecule (see `Source`)."""
        return simulate_cubes(
            self.molecules[entry],
            rng,
            count,
            edge,
            self.task,
            self.noise_only,
            self.typical,
            self.variety,
        )


@dataclass(frozen=True)
class Mixed:
    """Two sources as one, their entries numbered in turns.

    Attributes:
        first: one source.
        second: the other source.
        share: probability of an entry of `second` to be drawn.
    """

    first: Source
    second: Source
    share: float

    def __len__(self) -> int:
        return 2 * max(len(self.first), len(self.second))

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the number of an entry."""
        second = int(rng.random() < self.share)
        return 2 * (self.first, self.second)[second].draw(rng) + second

    def make_cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make cubes of an entry (see `Source`)."""
        source = (self.first, self.second)[entry % 2]
        return source.make_cubes(entry // 2 % len(source), rng, count, edge)


class Volume(NamedTuple):
    """A simulated map as a network is shown it, at 1 A/voxel.

    Attributes:
        inputs: (z, y, x, channels), float32.
        target: (z, y, x), float32.
        atoms: positions (n, 3) as z, y, x in voxels.
    """

    inputs: np.ndarray
    target: np.ndarray
    atoms: np.ndarray


def simulate_volume(
    molecule: Molecule,
    rng: np.random.Generator,
    box: tuple[int, int],
    task: Task = Task(),
    noise_only: float = NOISE_ONLY,
    typical: float = TYPICAL,
    variety: Variety = Variety(),
) -> Volume:
    """Simulate half maps of a molecule, or of nothing but noise, and their target.

    Args:
        molecule: whose half maps these are.
        rng: draws the conditions.
        box: the smallest and the largest edge in A.
        task: what the network is shown and asked.
        noise_only: probability of nothing but noise.
        typical: probability of the commonest conditions.
        variety: probabilities of what people's maps are like. A processed map may be smaller than
            the box.
    """
    wide = _draw(rng, variety.wide)
    conditions = _draw_conditions(rng, box, task, typical, _draw(rng, variety.uneven), wide)
    if wide and rng.random() < PEPTIDES:
        molecule = _cut_peptide(molecule, rng)
    empty = bool(rng.random() < noise_only)
    if empty:
        exponent = rng.uniform(*NOISE_EXPONENTS)
        b_factor = NOISE_B_FACTOR * rng.random()
        conditions = replace(conditions, noise_exponent=exponent, b_factor=b_factor)
    seed = int(rng.integers(2**31))
    simulated = simulate_halves(molecule, conditions, seed, target=task.target)
    if _draw(rng, variety.processed):
        return _process(simulated, conditions, empty, task, rng)
    shape = resampled_shape(simulated.target.shape, simulated.sampling_rate)
    inputs = _make_inputs(simulated, empty, task, rng)
    target = resample(np.zeros_like(simulated.target) if empty else simulated.target, shape, 1)
    extent = simulated.target.shape[0] * simulated.sampling_rate
    atoms = simulated.molecule.positions[:, ::-1] * (shape[0] / extent)
    return Volume(inputs, target, atoms)


def _draw(rng: np.random.Generator, probability: float) -> bool:
    """Whether it happens; what never happens draws nothing, so that all else stays as it was."""
    return probability > 0 and bool(rng.random() < probability)


def _cut_peptide(molecule: Molecule, rng: np.random.Generator) -> Molecule:
    """Cut a short run of atoms out of a molecule."""
    count = int(np.exp(rng.uniform(*np.log(PEPTIDE_ATOMS))))
    start = int(rng.integers(max(1, len(molecule) - count + 1)))
    return molecule[start : start + count]


def _draw_conditions(
    rng: np.random.Generator,
    box: tuple[int, int],
    task: Task,
    typical: float,
    uneven: bool,
    wide: bool,
) -> Conditions:
    conditions = random_conditions(rng, box, uneven=uneven, wide=wide)
    if rng.random() < typical:
        plain = random_conditions(rng, box, typical=True, uneven=uneven, wide=wide)
        fine = plain.sampling_rate <= FINE_VOXEL
        edge = box[0] if fine else rng.integers(box[0], box[1] + 1)
        conditions = replace(plain, box=fft.next_fast_len(math.ceil(edge / plain.sampling_rate)))
    return _draw_sharp(conditions, rng) if task.target == "sharp" else conditions


def _draw_sharp(conditions: Conditions, rng: np.random.Generator) -> Conditions:
    """The same conditions for a map better than 4 A: fine voxels, as large a box, no filter."""
    resolution = 1 / rng.uniform(1 / SHARP_RESOLUTION, 1 / FINEST_RESOLUTION)
    rate = min(conditions.sampling_rate, 0.4 * resolution)
    box = conditions.box and fft.next_fast_len(
        math.ceil(conditions.box * conditions.sampling_rate / rate)
    )
    return replace(conditions, resolution=resolution, sampling_rate=rate, box=box, low_pass=None)


def _process(
    simulated: Simulated, conditions: Conditions, empty: bool, task: Task, rng: np.random.Generator
) -> Volume:
    """Make a volume of a map that went through other programs, all alone."""
    rate = simulated.sampling_rate
    sign = -1 if empty else 1
    mean = (simulated.half1 + sign * simulated.half2) / 2
    processing = draw_processing(rng, conditions.resolution, conditions.b_factor, rate)
    volume, target, box = process_map(simulated, mean, processing, rng)
    left = volume[volume != 0]
    if left.size == 0 or np.ptp(left) == 0:  # what a mask or FSC weights may leave of noise
        processing = replace(processing, surrounding="whole", weighted=False)
        volume, target, box = process_map(simulated, mean, processing, rng)
    if task.masked:
        users = mask_atoms(simulated.molecule, mean.shape, rate, rng.uniform(*USERS_MASKS))[box]
        inside = users > 0
        # Next to nothing may be left of the user's mask in a zone about something else.
        if not inside.any() or np.ptp(np.percentile(volume[inside], (10, 95))) == 0:
            inside = volume != 0
        inputs = network_input_in_mask(volume, rate, inside, task.channels, task.compress, None, 1)
    else:
        noise = _estimate_noise_of_processed(volume, rng)
        inputs = network_input(volume, rate, noise, task.channels, task.compress, None, 1)
    shape = inputs.shape[:3]
    target = resample(np.zeros_like(target) if empty else target, shape, 1)
    start = np.array([part.start for part in box])
    atoms = (simulated.molecule.positions[:, ::-1] / rate - start) * shape / volume.shape
    return Volume(inputs, target, atoms)


def _estimate_noise_of_processed(volume: np.ndarray, rng: np.random.Generator) -> NoiseStats:
    """The noise that a user's map shows, or half or twice of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        noise = noise_from_map(volume)
    least = LEAST_NOISE * float(volume.std())
    # Not a number is neither.
    std = noise.std if noise.std > least else least
    mean = noise.mean if np.isfinite(noise.mean) else 0.0
    factor = WRONG_BY ** rng.uniform(-1, 1) if rng.random() < WRONG_NOISE else 1.0
    return NoiseStats(mean, factor * std, noise.source)


def _make_inputs(
    simulated: Simulated, empty: bool, task: Task, rng: np.random.Generator
) -> np.ndarray:
    """What the network is shown of simulated half maps; of their noise alone if `empty`."""
    rate = simulated.sampling_rate
    difference = (simulated.half1 - simulated.half2) / 2
    mean = difference if empty else (simulated.half1 + simulated.half2) / 2
    probability = SINGLE_MAP_OF_NOISE if empty else SINGLE_MAP
    single = not task.masked and bool(rng.random() < probability)
    # The views of a single map are not known.
    known = not (single or empty)
    views = measure_views(simulated.half1, simulated.half2, rate) if known else None
    if task.masked:
        inside = mask_atoms(simulated.molecule, mean.shape, rate, rng.uniform(*USERS_MASKS)) > 0
        return network_input_in_mask(mean, rate, inside, task.channels, task.compress, views, 1)
    unit = np.float32(np.exp(rng.uniform(-2, 2)))  # densities come in any unit
    mean = unit * mean
    noise = _estimate_noise(mean, unit * difference, single, rng)
    return network_input(mean, rate, noise, task.channels, task.compress, views, 1)


def _estimate_noise(
    mean: np.ndarray, difference: np.ndarray, single: bool, rng: np.random.Generator
) -> NoiseStats:
    """The noise as a user's halves show it, some percent off, or as a `single` map shows it."""
    inside = np.abs(difference) > 1e-3 * difference.std()
    std = float(difference[inside].std()) * np.exp(rng.normal(0, 0.08))
    noise = NoiseStats(rng.normal(0, 0.1) * std, std, "given")
    if not single:
        return noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        estimate = noise_from_map(mean)
    # The emptiest maps allow no estimate: their voxels would leave every range.
    return estimate if estimate.std > 1e-3 * std else noise


def simulate_cubes(
    molecule: Molecule,
    rng: np.random.Generator,
    count: int,
    edge: int,
    task: Task = Task(),
    noise_only: float = NOISE_ONLY,
    typical: float = TYPICAL,
    variety: Variety = Variety(),
) -> tuple[np.ndarray, np.ndarray]:
    """Cut cubes out of one simulated map.

    Args:
        molecule: whose map it is.
        rng: draws the conditions and the places of the cubes.
        count: of the cubes.
        edge: of the cubes in voxels.
        task: what the network is shown and asked.
        noise_only: probability of nothing but noise.
        typical: probability of the commonest conditions.
        variety: probabilities of what people's maps are like.

    Returns:
        Inputs (count, edge, edge, edge, channels) and targets (count, edge, edge, edge, 1),
        float16.
    """
    box = (max(96, edge), max(128, edge + 12))
    volume = simulate_volume(molecule, rng, box, task, noise_only, typical, variety)
    volume = _pad(volume, edge)
    room = np.array(volume.target.shape) - edge
    inputs, targets = [], []
    for _ in range(count):
        start = rng.integers(0, room + 1)
        if rng.random() < NEAR_MOLECULE:
            atom = volume.atoms[rng.integers(len(volume.atoms))]
            middle = atom + rng.uniform(-edge / 4, edge / 4, 3)
            start = np.clip(np.round(middle - edge / 2).astype(int), 0, room)
        index = tuple(slice(s, s + edge) for s in start)
        inputs.append(volume.inputs[index])
        targets.append(volume.target[index][..., None])
    return as_float16(np.stack(inputs)), as_float16(np.stack(targets))


def _pad(volume: Volume, edge: int) -> Volume:
    """Pad a volume to at least a cube, as enhancement pads a map to a window."""
    inputs, inside = pad_to_tile(volume.inputs, edge)
    # The target repeats with the input.
    target, _ = pad_to_tile(volume.target, edge)
    return Volume(inputs, target, volume.atoms + [part.start for part in inside])


def as_float16(values: np.ndarray) -> np.ndarray:
    """Narrow to float16 without infinities, which a map with next to no noise would have."""
    return np.asarray(np.clip(values, -LARGEST_INPUT, LARGEST_INPUT), np.float16)
