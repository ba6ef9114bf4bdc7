"""The local resolution that a network reads off a map: arrays in, an array out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.data import low_pass_to, place_in_box
from deepemhancer_plugin.core.localres.inputs import (
    BLOCK,
    BOX_EDGE,
    RANGES,
    cut_boxes,
    local_spectra,
)
from deepemhancer_plugin.core.localres.networks import Dense, Published, load_weights
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential, mask_atoms
from deepemhancer_plugin.core.weights.model import halve_batches

MODELS = Path(__file__).parent / "models"
MARGIN = 24  # voxels around the mask that the local spectra are made of
BLOCKS_AT_A_TIME = 2**18  # through the network of local spectra
BOXES_AT_A_TIME = 1024  # through the published network
FINE_MEDIAN = 3.2  # A; maps that are finer than this fit the network at 0.5 A/voxel better
CALIBRATION_NOISE = 0.08  # of the map's maximum

Progress = Callable[[str, int, int], None]
# Reads the resolution off a map: (map, A/voxel, boolean mask) -> A in the mask, zero outside.
Reader = Callable[[np.ndarray, float, np.ndarray], np.ndarray]


def find_network(name: str) -> Path:
    """Find the file of a network: the package's "1.0" or "0.5" (A/voxel), or a file.

    Raises:
        InputError: there is none.
    """
    path = MODELS / f"deepres_{name}A.npz" if name in RANGES else Path(name)
    if not path.is_file():
        raise InputError(
            f"network {name}: no such network; auto, {', '.join(RANGES)} or a weights file is right"
        )
    return path


def load_network(name: str) -> Dense | Published:
    """Load the network of that name (`find_network`)."""
    return load_weights(find_network(name))[0]


def load_reader(name: str, device: str, progress: Progress | None = None) -> Reader:
    """Load a network and make it a function that reads the resolution off maps.

    Args:
        name: "1.0", "0.5" or a file.
        device: as Keras's backend calls it.
        progress: called with ("local resolution", done, total).
    """
    keras = import_keras()

    network = load_network(name)

    def read(volume: np.ndarray, rate: float, mask: np.ndarray) -> np.ndarray:
        with keras.device(device):
            return predict_resolution(volume, mask, rate, network, progress)

    return read


def choose_network(resolution: float, rate: float) -> str:
    """Choose between the package's networks.

    Args:
        resolution: of the map, A.
        rate: its sampling rate, A/voxel.

    Returns:
        "0.5" where the map is finer than suits "1.0", and its voxels can hold what "1.0" cannot
        see; else "1.0".
    """
    return "0.5" if resolution < FINE_MEDIAN and 2 * rate < RANGES["1.0"].finest else "1.0"


def predict_resolution(
    volume: np.ndarray,
    mask: np.ndarray,
    rate: float,
    network: Dense | Published,
    progress: Progress | None = None,
) -> np.ndarray:
    """Predict the local resolution of every voxel in a mask.

    The map is brought to the network's sampling rate. Values stay within the network's range, and
    none is finer than 2 `rate`.

    Args:
        volume: the map (z, y, x), any unit; the level of its solvent (the median outside the mask)
            is taken off.
        mask: boolean (z, y, x), the same box.
        rate: A/voxel.
        network: from `load_network`.
        progress: called with ("local resolution", done, total).

    Returns:
        Resolution in A, float32 (z, y, x), zero outside the mask.

    Raises:
        InputError: boxes differ; the mask is empty.
    """
    check_mask(volume, mask)
    outside = volume[~mask]
    level = float(np.median(outside)) if outside.size else 0.0
    shape = resampled_shape(volume.shape, rate, network.span.rate)
    scale = np.array(shape) / volume.shape
    working = resample(volume - np.float32(level), shape)
    places = np.argwhere(mask) * scale
    report = progress or (lambda step, done, total: None)
    if isinstance(network, Dense):
        log_resolution = _predict_blocks(working, places, network, report)
    else:
        log_resolution = _predict_boxes(working, places, network, report)
    found, true = network.calibration
    if found:
        correction = np.log(true) - np.log(found)
        log_resolution = log_resolution + np.interp(log_resolution, np.log(found), correction)
    span = network.span
    finest = max(span.finest, min(2 * rate, span.coarsest))
    result = np.zeros(mask.shape, np.float32)
    result[mask] = np.clip(np.exp(log_resolution), finest, span.coarsest)
    return result


def check_mask(volume: np.ndarray, mask: np.ndarray) -> None:
    """Raise InputError unless a mask (z, y, x) has the map's box, and voxels."""
    if volume.shape != mask.shape:
        raise InputError(
            f"map and mask differ in box: {volume.shape} and {mask.shape} (z, y, x): "
            "both need the same"
        )
    if not mask.any():
        raise InputError("the mask is empty: it needs voxels to find the resolution of")


def _predict_blocks(
    working: np.ndarray, places: np.ndarray, network: Dense, report: Progress
) -> np.ndarray:
    """ln(resolution) at places (n, 3) of the working map: the blocks' values, interpolated."""
    report("local resolution", 0, 1)
    corner, surroundings = _cut_surroundings(working, places)
    spectra = local_spectra(surroundings, workers=-1)
    call, reach = _compile(network), network.reach
    values = np.empty(spectra.shape[:3], np.float32)
    slab = max(1, BLOCKS_AT_A_TIME // (spectra.shape[1] * spectra.shape[2]))
    for start in range(0, len(values), slab):
        first, last = max(start - reach, 0), min(start + slab + reach, len(values))
        slabs = call(spectra[first:last][None])[0, ..., 0]
        values[start : start + slab] = slabs[start - first : start - first + slab]
    report("local resolution", 1, 1)
    blocks = (places - corner - (BLOCK - 1) / 2) / BLOCK
    found: np.ndarray = ndimage.map_coordinates(values, blocks.T, order=1, mode="nearest")
    return found


def _cut_surroundings(working: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map around places (n, 3), in whole blocks, zero beyond the box; and its corner."""
    corner = np.floor(places.min(0)).astype(int) - MARGIN
    edges = np.ceil(places.max(0)).astype(int) + 1 + MARGIN - corner
    edges = np.array([fft.next_fast_len(-(-int(n) // BLOCK)) * BLOCK for n in edges])
    first = np.maximum(corner, 0)
    last = np.minimum(corner + edges, working.shape)
    inside = working[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    return corner, np.pad(inside, np.stack([first - corner, corner + edges - last], 1))


def _predict_boxes(
    working: np.ndarray, places: np.ndarray, network: Published, report: Progress
) -> np.ndarray:
    """ln(resolution) at the voxels nearest to places (n, 3), a box for each as the paper has it."""
    half = BOX_EDGE // 2
    padded = np.pad(working, half)
    voxels = np.minimum(np.round(places).astype(int), np.array(working.shape) - 1)
    call = halve_batches(_compile(network))
    values = []
    for start in range(0, len(voxels), BOXES_AT_A_TIME):
        some = voxels[start : start + BOXES_AT_A_TIME]
        values.append(call(cut_boxes(padded, some + half)[..., None])[:, 0])
        report("local resolution", start + len(some), len(voxels))
    resolution = np.clip(np.concatenate(values), network.span.finest, network.span.coarsest)
    return np.asarray(np.log(resolution))


@functools.lru_cache(4)
def _compile(network: Dense | Published) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function, traced once for all maps."""
    keras = import_keras()

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # predict_on_batch would keep its memory until the next map.
        function = tf.function(network.model, reduce_retracing=True)
        return lambda values: np.asarray(function(tf.constant(values), training=False))
    return lambda values: np.asarray(network.model.predict_on_batch(values))


def calibrate(
    network: Dense, molecules: Sequence[Molecule], seed: int = 0, edge: int = 64
) -> tuple[list[float], list[float]]:
    """Measure what a network reads off plain low-passed maps, and set `network.calibration`.

    The conditions of the training are wide, and a median over all of them may be off a little for
    the plainest. A network whose readings do not rise with the truth is left without calibration.

    Args:
        network: as trained.
        molecules: held out of the training; every second one's map gets a little noise.
        seed: of poses and noise.
        edge: of the maps, in voxels.

    Returns:
        Medians of what the network reads, and the truth, in A.
    """
    rng = np.random.default_rng(seed)
    found: list[float] = []
    true = np.geomspace(network.span.finest * 1.1, network.span.coarsest * 0.85, 10)
    network.calibration = [], []
    for resolution in true:
        medians = []
        for number, molecule in enumerate(molecules):
            noise = CALIBRATION_NOISE * (number % 2)
            data, inside = _low_passed_map(molecule, rng, network, float(resolution), noise, edge)
            read = predict_resolution(data, inside, network.span.rate, network)
            medians.append(float(np.median(read[inside])))
        found.append(round(float(np.mean(medians)), 3))
    if all(a < b for a, b in itertools.pairwise(found)):
        network.calibration = found, [round(float(d), 3) for d in true]
    return network.calibration


def _low_passed_map(
    molecule: Molecule,
    rng: np.random.Generator,
    network: Dense,
    resolution: float,
    noise: float,
    edge: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A map of the molecule in a random pose, with noise, and where the molecule is."""
    rate, shape = network.span.rate, (edge,) * 3
    atoms = place_in_box(molecule, rng, network.span, edge)
    inside = mask_atoms(atoms, shape, rate, 3.0) > 0.5
    density = fft.irfftn(compute_potential(atoms, shape, rate), s=shape)
    data = low_pass_to(density, rate, resolution)
    data += rng.standard_normal(shape, np.float32) * np.float32(noise * data.max())
    return data, inside
