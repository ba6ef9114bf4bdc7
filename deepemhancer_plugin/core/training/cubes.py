"""Cubes of simulated maps: what the network sees, and what it should make of it."""
from dataclasses import replace

import numpy as np

from deepemhancer_plugin.core.prepare import prepare
from deepemhancer_plugin.core.resampling import resample, resampled_shape
from deepemhancer_plugin.core.simulation import Molecule, random_conditions, simulate

NOISE_ONLY = 0.10      # share of volumes that hold nothing but noise, of any colour
NEAR_MOLECULE = 0.75   # share of cubes that lie about an atom; the rest anywhere in the box


def volume(molecule: Molecule, rng: np.random.Generator, box: tuple[int, int], channels: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input (z, y, x, channels), target (z, y, x), and atoms (n, 3) as z, y, x in voxels of one simulated map at 1 A/voxel.

    `box`: the smallest and the largest edge in A.
    """
    conditions = random_conditions(rng, box)
    noise_only = rng.random() < NOISE_ONLY
    if noise_only:
        conditions = replace(conditions, noise_exponent=rng.uniform(-2, 1))
    simulated = simulate(molecule, conditions, int(rng.integers(2**31)))
    rate = simulated.sampling_rate
    mean, difference, target = (simulated.half1 + simulated.half2) / 2, (simulated.half1 - simulated.half2) / 2, simulated.target
    if noise_only:
        mean, target = difference, np.zeros_like(target)
    shape = resampled_shape(mean.shape, rate)
    atoms = simulated.molecule.positions[:, ::-1] * (shape[0] / (mean.shape[0] * rate))
    unit = np.float32(np.exp(rng.uniform(-2, 2)))  # densities come in any unit
    mean, difference = (unit * resample(a, shape, 1) for a in (mean, difference))
    # Estimates of the noise are off by some percent.
    std = float(difference[np.abs(difference) > 1e-3 * difference.std()].std()) * np.exp(rng.normal(0, 0.08))
    return prepare(mean, rng.normal(0, 0.1) * std, std, channels, 1), resample(target, shape, 1), atoms


def cubes(molecule: Molecule, rng: np.random.Generator, count: int, edge: int, channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """`count` cubes of one simulated map: inputs (count, edge, edge, edge, channels) and targets (count, edge, edge, edge, 1), float16."""
    inputs, target, atoms = volume(molecule, rng, (max(96, edge), max(128, edge + 12)), channels)
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
    return np.stack(xs).astype(np.float16), np.stack(ys).astype(np.float16)
