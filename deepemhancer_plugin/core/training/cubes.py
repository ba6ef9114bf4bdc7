"""Cubes of simulated maps: what the network sees, and what it should make of it. And the interface of every source of cubes."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.noise.directions import measure_views
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.noise.statistics import noise_from_map
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    random_conditions,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.molecule import mask_atoms
from deepemhancer_plugin.core.weights.networks import Architecture
from deepemhancer_plugin.core.weights.prepare import network_input, network_input_in_mask

NOISE_ONLY = 0.10  # share of volumes that hold nothing but noise, of any colour,
COLOURS = -2.5, 1.2  # its amplitude's growth with frequency, from and to these exponents
NOISE_B = 300  # A^2: the largest B factor of such noise
SINGLE, SINGLE_NOISE = (
    0.2,
    0.7,
)  # share of volumes, with a molecule and without, whose noise is estimated as that of a single map is
NEAR_MOLECULE = 0.75  # share of cubes that lie about an atom; the rest anywhere in the box
SHARP_BELOW = 4.0  # A: the resolution that maps for the target "sharp" have at least
TYPICAL = 0.5  # share of volumes under the conditions that are met most


@dataclass(frozen=True)
class Task:
    """What a network is shown, and what it should make of it.

    channels, compress   see `prepare.network_input`
    masked               the input is normalised in a mask like those that users make, and blank outside (prepare.network_input_in_mask)
    target               "tight"; "wide": a mask 5 A wider, with what surrounds the molecule; "sharp": maps better than 4 A, less disorder kept;
                         "model": the model's own map, without mask, filter and disorder, to be trained on with squared errors
    """

    channels: int = 2
    compress: bool = True
    masked: bool = False
    target: str = "tight"

    @classmethod
    def of(cls, architecture: Architecture, target: str = "tight") -> "Task":
        return cls(
            architecture.channels,
            architecture.compressed,
            architecture.normalization == "mask",
            target,
        )


class Source(Protocol):
    """Where cubes come from: `len` entries (molecules, pairs of half maps), each of which gives as many cubes as are wanted."""

    def __len__(self) -> int: ...

    def draw(self, rng: np.random.Generator) -> int:
        """A random entry."""

    def cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (count, edge, edge, edge, channels) and targets (count, edge, edge, edge, 1), float16."""


@dataclass(frozen=True)
class Simulation:
    """Source of cubes of half maps simulated from molecules; the shares `noise_only` of them without any molecule, and `typical` of
    those under the conditions that are met most."""

    molecules: Sequence[Molecule]
    task: Task = Task()
    noise_only: float = NOISE_ONLY
    typical: float = TYPICAL

    def __len__(self) -> int:
        return len(self.molecules)

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self)))

    def cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return cubes(
            self.molecules[entry], rng, count, edge, self.task, self.noise_only, self.typical
        )


@dataclass(frozen=True)
class Mixed:
    """Two sources as one: a drawn entry is of the second with the probability `share`; entries are numbered by turns."""

    first: Source
    second: Source
    share: float

    def __len__(self) -> int:
        return 2 * max(len(self.first), len(self.second))

    def draw(self, rng: np.random.Generator) -> int:
        second = int(rng.random() < self.share)
        return 2 * (self.first, self.second)[second].draw(rng) + second

    def cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        source = (self.first, self.second)[entry % 2]
        return source.cubes(entry // 2 % len(source), rng, count, edge)


def _sharp(conditions: Conditions, rng: np.random.Generator) -> Conditions:
    """The same conditions, but better than 4 A, sampled finely enough for it in a box of the same size, and not filtered."""
    resolution = 1 / rng.uniform(1 / SHARP_BELOW, 1 / 2.3)
    rate = min(conditions.sampling_rate, 0.4 * resolution)
    box = conditions.box and fft.next_fast_len(
        math.ceil(conditions.box * conditions.sampling_rate / rate)
    )
    return replace(conditions, resolution=resolution, sampling_rate=rate, box=box, low_pass=None)


def volume(
    molecule: Molecule,
    rng: np.random.Generator,
    box: tuple[int, int],
    task: Task = Task(),
    noise_only: float = NOISE_ONLY,
    typical: float = TYPICAL,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input (z, y, x, channels), target (z, y, x), and atoms (n, 3) as z, y, x in voxels of one simulated map at 1 A/voxel.

    `box`: the smallest and the largest edge in A. `noise_only`, `typical`: how likely nothing but noise, and plain conditions.
    """
    conditions = random_conditions(rng, box)
    if rng.random() < typical:
        edge = fft.next_fast_len(int(rng.integers(box[0], box[1] + 1)))
        conditions = replace(random_conditions(rng, typical=True), box=edge)
    if task.target == "sharp":
        conditions = _sharp(conditions, rng)
    empty = rng.random() < noise_only
    if empty:
        conditions = replace(
            conditions, noise_exponent=rng.uniform(*COLOURS), b_factor=NOISE_B * rng.random()
        )
    simulated = simulate_halves(molecule, conditions, int(rng.integers(2**31)), target=task.target)
    rate = simulated.sampling_rate
    mean, difference, target = (
        (simulated.half1 + simulated.half2) / 2,
        (simulated.half1 - simulated.half2) / 2,
        simulated.target,
    )
    if empty:
        mean, target = difference, np.zeros_like(target)
    single = not task.masked and rng.random() < (SINGLE_NOISE if empty else SINGLE)
    views = None
    if not (single or empty):
        views = measure_views(simulated.half1, simulated.half2, rate)
    shape = resampled_shape(mean.shape, rate)
    atoms = simulated.molecule.positions[:, ::-1] * (shape[0] / (mean.shape[0] * rate))
    if task.masked:
        # As users make them: two to eight A around the atoms.
        inside = mask_atoms(simulated.molecule, mean.shape, rate, rng.uniform(2, 8)) > 0
        return (
            network_input_in_mask(mean, rate, inside, task.channels, task.compress, 1),
            resample(target, shape, 1),
            atoms,
        )
    unit = np.float32(np.exp(rng.uniform(-2, 2)))  # densities come in any unit
    mean, difference = unit * mean, unit * difference
    # Estimates from halves are off by some percent.
    std = float(difference[np.abs(difference) > 1e-3 * difference.std()].std()) * np.exp(
        rng.normal(0, 0.08)
    )
    level = rng.normal(0, 0.1) * std
    if single:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MapWarning)
            noise = noise_from_map(mean)
        if (
            noise.std > 1e-3 * std
        ):  # of the emptiest maps there is no estimate, and their voxels would leave every range
            level, std = noise.mean, noise.std
    return (
        network_input(
            mean, rate, NoiseStats(level, std, "given"), task.channels, task.compress, views, 1
        ),
        resample(target, shape, 1),
        atoms,
    )


def cubes(
    molecule: Molecule,
    rng: np.random.Generator,
    count: int,
    edge: int,
    task: Task = Task(),
    noise_only: float = NOISE_ONLY,
    typical: float = TYPICAL,
) -> tuple[np.ndarray, np.ndarray]:
    """`count` cubes of one simulated map: inputs (count, edge, edge, edge, channels) and targets (count, edge, edge, edge, 1), float16."""
    inputs, target, atoms = volume(
        molecule, rng, (max(96, edge), max(128, edge + 12)), task, noise_only, typical
    )
    room = np.array(target.shape) - edge
    xs, ys = [], []
    for _ in range(count):
        start = rng.integers(0, room + 1)
        if rng.random() < NEAR_MOLECULE:
            middle = atoms[rng.integers(len(atoms))] + rng.uniform(-edge / 4, edge / 4, 3)
            start = np.clip(np.round(middle - edge / 2).astype(int), 0, room)
        index = tuple(slice(s, s + edge) for s in start)
        xs.append(inputs[index])
        ys.append(target[index][..., None])
    return as_float16(np.stack(xs)), as_float16(np.stack(ys))


def as_float16(values: np.ndarray) -> np.ndarray:
    """Without infinities: an uncompressed map with next to no noise may leave the type's range."""
    return np.clip(values, -65000, 65000).astype(np.float16)
