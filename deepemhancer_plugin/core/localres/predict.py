"""A map and a mask in, the local resolution of every voxel in the mask out."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.data import (
    BLOCK,
    BOX_EDGE,
    RANGES,
    cut_boxes,
    local_spectra,
    low_pass_to,
    place_molecule,
)
from deepemhancer_plugin.core.localres.networks import Dense, Published, load_weights
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.simulation.molecule import Molecule, compute_potential
from deepemhancer_plugin.core.simulation.molecule import mask_atoms as molecule_mask

MODELS = Path(__file__).parent / "models"
AROUND = 24  # voxels of the map around the mask that the local spectra are made from
SLAB = 2**18  # blocks that go through the network at a time
BOXES = 1024  # of 13^3 voxels that the published network takes at a time
FINE_MEDIAN = 3.2  # A; where the network at 1 A/voxel finds the median under it, the one at 0.5 A/voxel has the better range

Progress = Callable[[str, int, int], None]


def load_network(name: str, kind: str = "dense") -> Dense | Published:
    """The package's network "1.0" or "0.5" (dense: deepres_1.0A.npz), or one in a file that training wrote."""
    path = (
        MODELS / f"deepres_{name}A{'' if kind == 'dense' else '_' + kind}.npz"
        if name in RANGES
        else Path(name)
    )
    if not path.is_file():
        raise InputError(
            f"--network {name}: no such network; auto, {', '.join(RANGES)} or a weights file is right"
        )
    return load_weights(path)[0]


def calibrate(
    network: Dense, molecules: Sequence[Molecule], seed: int = 0, edge: int = 64
) -> tuple[list[float], list[float]]:
    """What the network says of plainly low-passed maps of held-out molecules, without noise and with a little, and the truth: medians in A.

    The training's conditions are wide, and a median over all of them may be off a little for the plainest. Sets `network.calibration`.
    """
    rng, span, shape = np.random.default_rng(seed), network.span, (edge,) * 3
    said: list[float] = []
    truth = np.geomspace(span.finest * 1.1, span.coarsest * 0.85, 10)
    network.calibration = [], []
    for resolution in truth:
        medians = []
        for number, molecule in enumerate(molecules):
            atoms = place_molecule(molecule, rng, span, edge)
            inside = molecule_mask(atoms, shape, span.rate, 3.0) > 0.5
            data = low_pass_to(
                fft.irfftn(compute_potential(atoms, shape, span.rate), s=shape),
                span.rate,
                float(resolution),
            )
            data += rng.standard_normal(shape, np.float32) * np.float32(
                0.08 * (number % 2) * data.max()
            )
            medians.append(
                float(np.median(predict_resolution(data, inside, span.rate, network)[inside]))
            )
        said.append(round(float(np.mean(medians)), 3))
    if all(
        a < b for a, b in itertools.pairwise(said)
    ):  # else the network has not learned enough to be calibrated
        network.calibration = said, [round(float(d), 3) for d in truth]
    return network.calibration


def predict_resolution(
    volume: np.ndarray,
    mask: np.ndarray,
    rate: float,
    network: Dense | Published,
    progress: Progress | None = None,
) -> np.ndarray:
    """Local resolution in A, float32 (z, y, x), of every voxel in the mask; zero outside of it.

    The map is brought to the network's sampling rate; the values stay within the network's range and are not finer than 2 `rate`.

    Args:
        volume: the map (z, y, x), any unit; the level of its solvent (the median outside the mask) is taken off.
        mask: boolean (z, y, x), the same box.
        rate: A/voxel.
        network: from `load`.
        progress: called with ("local resolution", done, of how much).

    Raises:
        InputError: boxes differ; the mask is empty.
    """
    if volume.shape != mask.shape:
        raise InputError(
            f"map and mask differ in box: {volume.shape} and {mask.shape} (z, y, x): both need the same"
        )
    if not mask.any():
        raise InputError("the mask is empty: it needs voxels to tell the resolution of")
    tell = progress or (lambda step, done, total: None)
    outside = volume[~mask]
    level = float(np.median(outside)) if outside.size else 0.0
    shape = resampled_shape(volume.shape, rate, network.span.rate)
    scale = np.array(shape) / volume.shape
    working = resample(volume - np.float32(level), shape)
    at = np.argwhere(mask)
    places = at * scale
    log_resolution = (
        _dense(working, places, network, tell)
        if isinstance(network, Dense)
        else _sliding(working, places, network, tell)
    )
    said, true = network.calibration
    if said:
        log_resolution = log_resolution + np.interp(
            log_resolution, np.log(said), np.log(true) - np.log(said)
        )
    result = np.zeros(mask.shape, np.float32)
    result[mask] = np.clip(
        np.exp(log_resolution),
        max(network.span.finest, min(2 * rate, network.span.coarsest)),
        network.span.coarsest,
    )
    return result


def _dense(working: np.ndarray, at: np.ndarray, network: Dense, tell: Progress) -> np.ndarray:
    """ln(resolution) at the places `at` (n, 3), voxels of the working map with fractions: the blocks' values, interpolated linearly."""
    tell("local resolution", 0, 1)
    # Only what is around the mask, to a whole number of blocks.
    low = np.floor(at.min(0)).astype(int) - AROUND
    size = -(-(np.ceil(at.max(0)).astype(int) + 1 + AROUND - low) // BLOCK) * BLOCK
    size = np.array([fft.next_fast_len(int(n) // BLOCK) * BLOCK for n in size])
    within = tuple(
        slice(max(a, 0), min(a + n, m)) for a, n, m in zip(low, size, working.shape, strict=True)
    )
    around = [(s.start - a, a + n - s.stop) for a, n, s in zip(low, size, within, strict=True)]
    spectra = local_spectra(np.pad(working[within], around), workers=-1)
    call, reach = _callable(network), network.reach
    values = np.empty(spectra.shape[:3], np.float32)
    slab = max(1, SLAB // (spectra.shape[1] * spectra.shape[2]))
    for start in range(0, len(values), slab):
        first, last = max(start - reach, 0), min(start + slab + reach, len(values))
        values[start : start + slab] = call(spectra[first:last][None])[
            0, start - first : start - first + slab, :, :, 0
        ]
    tell("local resolution", 1, 1)
    return ndimage.map_coordinates(
        values, ((at - low - (BLOCK - 1) / 2) / BLOCK).T, order=1, mode="nearest"
    )


def _sliding(working: np.ndarray, at: np.ndarray, network: Published, tell: Progress) -> np.ndarray:
    """ln(resolution) at the voxels nearest to the places `at` (n, 3), one box of 13^3 voxels for each, as the paper has it."""
    padded = np.pad(working, BOX_EDGE // 2)
    voxels = np.minimum(np.round(at).astype(int), np.array(working.shape) - 1)
    call = _callable(network)
    values = []
    for start in range(0, len(voxels), BOXES):
        values.append(
            call(cut_boxes(padded, voxels[start : start + BOXES] + BOX_EDGE // 2)[..., None])[:, 0]
        )
        tell("local resolution", min(start + BOXES, len(voxels)), len(voxels))
    return np.log(np.clip(np.concatenate(values), network.span.finest, network.span.coarsest))


@functools.lru_cache(4)
def _callable(network: Dense | Published) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function, traced once for however many maps."""
    import keras

    call = network.model.predict_on_batch
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(network.model, reduce_retracing=True)  # frees memory as it goes
        return lambda values: np.asarray(function(tf.constant(values), training=False))
    return lambda values: np.asarray(call(values))
