"""Half maps of a molecule under given conditions, and the map to make of them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core.maps.filters import distance_from_centre, raised_cosine
from deepemhancer_plugin.core.maps.mrc import new_map, write_map
from deepemhancer_plugin.core.simulation.conditions import COARSE, Conditions
from deepemhancer_plugin.core.simulation.grid import Grid
from deepemhancer_plugin.core.simulation.micelle import make_micelle
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms
from deepemhancer_plugin.core.simulation.noise import choose_frequency, make_noise, vary_noise
from deepemhancer_plugin.core.simulation.placement import draw_disorder, place_molecule

# Twice the potential: the target's 95th percentile inside a protein is about one.
TARGET_SCALE = 2.0
# The target keeps a fraction of the B factors of disorder and pose errors: what is lost in the
# halves, the loss shrinks by itself.
DISORDER_IN_TARGET = 0.2
DISORDER_IN_SHARP_TARGET = 0.0
TIGHT_RADIUS = 2.4  # A from an atom's centre to the edge of the target's tight mask
WIDE_RADIUS = 7.4  # A, the same for the wide mask
HULL_RADIUS = 3.5  # A, for the volume that the molecule takes from the solvent
TIGHT_EDGE = 1.5  # A that masks are smoothed to
WIDE_EDGE = 6.0
COARSE_MASK = 0.4  # radius and edge of the target's mask relative to a coarse map's resolution
SOLVENT_EDGE = 5.0
MODEL_START, MODEL_END = 0.42, 0.5  # 1/voxel, where a model's map fades out so as not to ring

OUTPUTS = "half1", "half2", "target", "model"  # the maps that `Simulated.save` writes


@dataclass(frozen=True)
class Simulated:
    """Simulated maps (z, y, x), float32.

    Attributes:
        half1: the first half map.
        half2: the second half map.
        target: what a network should make of their mean: the map at the local B factors, low-passed
            where the halves hold nothing, masked.
        model: the atomic model's own map, without disorder or any filter.
        mask: the molecule's tight mask, 0-1, with a soft edge.
        molecule: the atoms where they were put: x, y, z in A from the first voxel's centre.
        sampling_rate: A/voxel.
        noise_std: true standard deviation of the noise of the halves' mean, over the box.
        origin: position of the first voxel in the model's own frame, x, y, z in A; meaningless
            with a random pose or copies.
        observed: the atoms with the B factors and occupancies that the halves show.
    """

    half1: np.ndarray
    half2: np.ndarray
    target: np.ndarray
    model: np.ndarray
    mask: np.ndarray
    molecule: Molecule
    sampling_rate: float
    noise_std: float
    origin: tuple[float, float, float]
    observed: Molecule

    def save(
        self, prefix: str | os.PathLike[str], label: str = "simulated by deepemhancer"
    ) -> list[Path]:
        """Write the half maps, the target and the model's map in the model's place.

        Args:
            prefix: of the names PREFIX_half1.mrc, PREFIX_half2.mrc, PREFIX_target.mrc and
                PREFIX_model.mrc.
            label: for the headers, up to 80 ASCII characters.

        Returns:
            The paths of the files.

        Raises:
            InputError: a file cannot be written.
        """
        paths = name_outputs(prefix)
        for path, kind in zip(paths, OUTPUTS, strict=True):
            data = getattr(self, kind)
            write_map(path, data, new_map(data, self.sampling_rate, self.origin), [label])
        return paths


def name_outputs(prefix: str | os.PathLike[str]) -> list[Path]:
    """Name the files that `Simulated.save` writes."""
    return [Path(f"{os.fspath(prefix)}_{kind}.mrc") for kind in OUTPUTS]


def simulate_halves(
    molecule: Molecule, conditions: Conditions, seed: int, workers: int = 1, target: str = "tight"
) -> Simulated:
    """Simulate half maps of a molecule; the same seed gives the same maps.

    The steps: orientation, ligands, copies; disorder and alignment errors; scattering potential;
    solvent and micelle; two independent noise fields; reconstruction and loss of contrast.
    docs/simulation.md compares the result with RELION's half maps.

    Args:
        molecule: the atoms.
        conditions: what happens to them on the way to half maps.
        seed: draws everything that is random.
        workers: threads of the Fourier transforms.
        target: "tight"; "wide", in a mask 5 A wider and with what lies round the molecule, such as
            a micelle; "sharp", without the disorder; "model", the model's own map, neither masked
            nor low-passed but where the halves were.
    """
    rng = np.random.default_rng(seed)
    placement = place_molecule(molecule, conditions, rng)
    atoms = placement.atoms
    grid = Grid(placement.edge, conditions.sampling_rate, workers)
    disorder, occupancies = draw_disorder(placement, conditions, rng)
    observed = replace(atoms, b_factors=atoms.b_factors + disorder, occupancies=occupancies)

    signal = compute_potential(observed, grid.shape, grid.rate, workers)
    model = compute_potential(atoms, grid.shape, grid.rate, workers)
    hull = mask_atoms(atoms, grid.shape, grid.rate, HULL_RADIUS)
    surrounded, belt = _add_solvent_and_micelle(signal, hull, atoms, conditions, grid, rng)
    noises = make_noise(signal, float(hull.mean()), conditions, grid, rng)
    if conditions.noise_growth > 0:
        noises = vary_noise(noises, surrounded, hull, conditions, grid, rng)
    sphere = _make_sphere(grid, conditions)
    halves, noise_std = _reconstruct(surrounded, noises, sphere, conditions, grid)

    tight = np.clip(_mask_softly(atoms, TIGHT_RADIUS, TIGHT_EDGE, grid), 0, 1)
    ideal = model
    kept = DISORDER_IN_SHARP_TARGET if target in ("sharp", "model") else DISORDER_IN_TARGET
    if kept or conditions.weak < 1:
        ordered = replace(observed, b_factors=atoms.b_factors + kept * disorder)
        ideal = compute_potential(ordered, grid.shape, grid.rate, workers)
    if belt is not None and target == "wide":
        ideal = ideal + grid.forward(belt)
    wanted = _make_target(
        ideal, _mask_target(atoms, tight, conditions, grid), sphere, atoms, target, conditions, grid
    )
    model_map = grid.back(
        model * raised_cosine(grid.k, MODEL_START / grid.rate, MODEL_END / grid.rate)
    )
    half1, half2, wanted, model_map, tight = (
        np.ascontiguousarray(a, np.float32) for a in (*halves, wanted, model_map, tight)
    )
    return Simulated(
        half1=half1,
        half2=half2,
        target=wanted,
        model=model_map,
        mask=tight,
        molecule=atoms,
        sampling_rate=conditions.sampling_rate,
        noise_std=noise_std,
        origin=placement.origin,
        observed=observed,
    )


def _mask_softly(atoms: Molecule, radius: float, edge: float, grid: Grid) -> np.ndarray:
    """Mask (z, y, x) of what lies within `radius` A of an atom, smoothed to `edge` A."""
    return grid.smooth(mask_atoms(atoms, grid.shape, grid.rate, radius), edge)


def _mask_target(
    atoms: Molecule, tight: np.ndarray, conditions: Conditions, grid: Grid
) -> np.ndarray:
    """Mask (z, y, x) of the target: the tight one, or one whose edge suits a coarse map."""
    if conditions.resolution <= COARSE:
        return tight
    length = COARSE_MASK * conditions.resolution
    return np.asarray(np.clip(_mask_softly(atoms, length, length, grid), 0, 1))


def _add_solvent_and_micelle(
    signal: np.ndarray,
    hull: np.ndarray,
    atoms: Molecule,
    conditions: Conditions,
    grid: Grid,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the half spectrum of the molecule in its surroundings, and the micelle (z, y, x).

    The solvent itself is zero, as in a reconstruction: the molecule stands out by less.
    """
    density = grid.back(signal)
    mean_density = float(density[hull > 0].mean())
    envelope = grid.smooth(hull, SOLVENT_EDGE)
    density -= conditions.solvent * mean_density * envelope
    belt = None
    if conditions.micelle > 0:
        belt = grid.smooth(make_micelle(grid, atoms, conditions, rng), WIDE_EDGE)
        belt = conditions.micelle * mean_density * belt * (1 - envelope)
        density += belt
    return grid.forward(density), belt


def _make_sphere(grid: Grid, conditions: Conditions) -> np.ndarray | np.float32:
    """Sphere of reconstruction (z, y, x), 1 inside; RELION's edge lies outside of half the box."""
    if not conditions.sphere:
        return np.float32(1)
    half = grid.edge / 2
    start, end = (half, half + 3) if conditions.reconstruction else (half - 4, half - 0.5)
    return raised_cosine(distance_from_centre(grid.shape).astype(np.float32), start, end)


def _reconstruct(
    signal: np.ndarray,
    noises: list[np.ndarray],
    sphere: np.ndarray | np.float32,
    conditions: Conditions,
    grid: Grid,
) -> tuple[list[np.ndarray], float]:
    """Make half maps (z, y, x) of half spectra, and measure the noise of their mean.

    A reconstruction is cut by its sphere before the contrast is lost, and holds nothing beyond
    Nyquist's sphere in Fourier space.
    """
    contrast = np.exp(-conditions.b_factor / 4 * grid.square)
    if conditions.low_pass:
        cut = 1 / conditions.low_pass
        contrast = contrast * raised_cosine(grid.k, cut, 1.1 * cut)
    if conditions.reconstruction:
        reach = grid.k <= 0.5 / grid.rate
        noises = [noise * reach for noise in noises]
        cut_maps = [grid.back(signal * reach + noise) * sphere for noise in noises]
        halves = [grid.back(grid.forward(cut_map) * contrast) for cut_map in cut_maps]
    else:
        halves = [grid.back((signal + noise) * contrast) * sphere for noise in noises]
    power = sum(np.square(grid.back(n * contrast)).mean(dtype=np.float64) for n in noises)
    noise_std = float(np.sqrt(power) / 2)
    halves = [half + np.float32(conditions.offset * noise_std * 2**0.5) for half in halves]
    if conditions.float16:
        halves = [half.astype(np.float16) for half in halves]
    return halves, noise_std


def _make_target(
    ideal: np.ndarray,
    tight: np.ndarray,
    sphere: np.ndarray | np.float32,
    atoms: Molecule,
    target: str,
    conditions: Conditions,
    grid: Grid,
) -> np.ndarray:
    """Make the target (z, y, x) of the half spectrum of a map without noise."""
    density = grid.back(ideal * _filter_target(target, conditions, grid))
    density = density * sphere * np.float32(TARGET_SCALE)
    if target == "wide":
        density *= np.clip(_mask_softly(atoms, WIDE_RADIUS, WIDE_EDGE, grid), 0, 1)
    elif target != "model":
        density *= tight
    return density


def _filter_target(target: str, conditions: Conditions, grid: Grid) -> np.ndarray:
    """Filter of the target's half spectrum: nothing is asked for where the halves hold nothing."""
    if target == "model":
        # The networks' grid is one of 1 A.
        coarsest = max(grid.rate, 1)
        kept = raised_cosine(grid.k, MODEL_START / coarsest, MODEL_END / coarsest)
    else:
        frequency = choose_frequency(conditions)
        kept = raised_cosine(grid.k, frequency, 1.2 * frequency)
    if conditions.low_pass:
        cut = 1 / conditions.low_pass
        kept = kept * raised_cosine(grid.k, 0.95 * cut, 1.1 * cut)
    return kept
