"""Simulated half maps of molecules of several layouts, whose noise is known."""

import numpy as np
import pytest
from scipy import fft


def frequencies(shape):
    """|k| in 1/voxel of the half spectrum of a map (z, y, x)."""
    z, y, x = *(np.fft.fftfreq(n) for n in shape[:2]), np.fft.rfftfreq(shape[2])
    return np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2).astype(np.float32)


def blob(rng, atoms=2000, radius=12.0):
    """A compact molecule, (atoms, 3): a random walk that is reflected at a sphere."""
    steps = rng.normal(size=(atoms, 3))
    steps *= 1.5 / np.linalg.norm(steps, axis=1)[:, None]
    place, places = np.zeros(3), []
    for step in steps:
        place = place + step if np.linalg.norm(place + step) < radius else place - step
        places.append(place)
    return np.array(places)


def turn(points, rng):
    """Points in a random orientation."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return points @ q


def place_atoms(layout, rng):
    """Atoms about the middle of the box, and the box."""
    if layout == "centred":
        return blob(rng, 4000, 16), (80, 80, 80)
    if layout == "long":
        return blob(rng, 4000, 16) * [1.3, 0.9, 0.7], (80, 80, 80)
    if layout == "off-centre":
        return blob(rng, 4000, 16) + np.array([18, -17, 19]), (80, 80, 80)
    if layout == "tight":
        atoms = blob(rng, 12000, 24) * [1, 1.1, 0.9]
        atoms -= (atoms.max(0) + atoms.min(0)) / 2
        return atoms, tuple(int(e) + 6 for e in np.ptp(atoms, axis=0))
    unit = blob(rng, 1500, 9)
    if layout == "fibre":
        units = [
            turn(unit, rng) + np.array([4.5 * i - 45, 14 * np.cos(50 * i), 14 * np.sin(50 * i)])
            for i in range(20)
        ]
        return np.concatenate(units), (88,) * 3
    directions = rng.normal(size=(60, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    hollow_shell = np.concatenate([turn(unit, rng) + 34 * d for d in directions])
    return hollow_shell, (104, 104, 104)


def simulate_half_maps(layout, resolution=3.5, b_factor=100.0, sphere=False, level=0.25, seed=1):
    """Half maps at 1 A/voxel, and mean and standard deviation of the noise of their mean.

    Signal and noise of a half have the same power at `resolution`; the noise's amplitude goes with
    sqrt(|k|); both fall off with B. `level` is the solvent's, in units of the noise. `sphere`: zero
    outside the inscribed sphere, with a soft edge of four voxels.
    """
    rng = np.random.default_rng(seed)
    atoms, shape = place_atoms(layout, rng)
    grid = np.zeros(shape, np.float32)
    index = np.round(atoms + np.array(shape) / 2).astype(int)
    inside = ((index >= 0) & (index < shape)).all(1)
    np.add.at(grid, tuple(index[inside].T), 1)
    k = frequencies(shape)
    signal = fft.rfftn(grid) * np.exp(-80 * k**2 / 4)
    fields = [
        fft.rfftn(rng.standard_normal(shape, dtype=np.float32)) * np.sqrt(k) for _ in range(2)
    ]
    ring = np.abs(k - 1 / resolution) < 0.02
    scale = np.sqrt(np.mean(np.abs(signal[ring]) ** 2) / np.mean(np.abs(fields[0][ring]) ** 2))
    fall = np.exp(-b_factor * k**2 / 4)
    signal, *noise = (
        fft.irfftn(f * fall, shape).astype(np.float32)
        for f in (signal, *(scale * f for f in fields))
    )
    std = float(np.std(noise[0] + noise[1])) / 2
    halves = [signal + n + np.float32(level * std) for n in noise]
    if sphere:
        radius = np.sqrt(
            sum(
                (i - n / 2) ** 2
                for i, n in zip(np.ogrid[tuple(slice(n) for n in shape)], shape, strict=True)
            )
        )
        edge = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - min(shape) / 2 + 4) / 4, 0, 1))
        halves = [(h * edge).astype(np.float32) for h in halves]
    return *halves, level * std, std


def check_noise(stats, mean, std):
    """Assert that noise was found; a hundredth of a unit of the normalised map is 0.1 std."""
    assert stats.std == pytest.approx(std, rel=0.1)
    assert abs(stats.mean - mean) < 0.3 * std
