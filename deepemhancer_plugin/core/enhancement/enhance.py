"""The way of a map through the program, from top to bottom."""

import logging
import os
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from deepemhancer_plugin.core.devices import Devices, select_devices
from deepemhancer_plugin.core.enhancement.amplitudes import finish_map, sees_molecule
from deepemhancer_plugin.core.enhancement.inputs import (
    average_maps,
    check_agreement,
    check_options,
    estimate_noise,
    find_end,
    find_operators,
    read_inputs,
)
from deepemhancer_plugin.core.enhancement.job import Clock, Job, Options, Progress
from deepemhancer_plugin.core.enhancement.network import predict_map
from deepemhancer_plugin.core.enhancement.original import run_original
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps.components import remove_small_components
from deepemhancer_plugin.core.maps.filters import low_pass
from deepemhancer_plugin.core.maps.mrc import Map, MapLike, write_map
from deepemhancer_plugin.core.maps.resampling import resample_density
from deepemhancer_plugin.core.maps.spectrum import resolution
from deepemhancer_plugin.core.maps.symmetry import impose_symmetry
from deepemhancer_plugin.core.noise.directions import Views, measure_views
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.weights.load import load_weights
from deepemhancer_plugin.core.weights.model import Model
from deepemhancer_plugin.version import __version__

logger = logging.getLogger(__name__)

LOW_PASS_EDGE = 1.15  # the output's low-pass falls from the input's end to so many times it
LEAST_SYMMETRY_CORRELATION = 0.5  # of a map with its copies, where it has the symmetry


@dataclass(frozen=True)
class Enhanced:
    """An enhanced map.

    Attributes:
        data: (z, y, x), float32, on the input's grid.
        report: what there is to say about it, as JSON values.
        geometry: the input's header and place; its data is empty.
    """

    data: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)
    geometry: Map | None = None

    def save(self, path: str | os.PathLike[str], float16: bool = False) -> None:
        """Write the map as MRC with the input's header and geometry, whole or not at all.

        Args:
            path: the file.
            float16: half the size, with three digits of each value.

        Raises:
            InputError: the file cannot be written.
        """
        if self.geometry is None:
            raise ValueError("an enhanced map without geometry cannot be saved")
        weights = self.report["weights"]
        label = f"{weights['kind']} {weights['name']} {weights['sha256'][:12]}"
        labels = [f"deepemhancer {__version__} {label}"]
        write_map(path, self.data, self.geometry, labels, float16)


def enhance(
    *maps: MapLike,
    sampling_rate: float | None = None,
    weights: str | os.PathLike[str] | Model = "tightTarget",
    device: str | Devices | None = None,
    mask: MapLike | None = None,
    noise: str | tuple[float, float] | NoiseStats = "auto",
    symmetry: str | None = None,
    helix: tuple[float, float] | None = None,
    cleaning: float | None = None,
    average: int | None = None,
    batch: int | None = None,
    precision: str = "auto",
    classic: bool = False,
    amplitudes: bool = True,
    band_limit: bool = True,
    progress: Progress | None = None,
) -> Enhanced:
    """Enhance one map, or two half maps, which serve better.

    Args:
        *maps: the map, or the two half maps: paths, maps as read, or arrays (z, y, x) of any real
            type, unmasked and unsharpened. They are not changed.
        sampling_rate: A/voxel; needed for arrays, wins over a file's header.
        weights: a name, "official:NAME", a file, or weights from `load_weights`.
        device: GPUs, such as "0" or "0,1"; "-1" is the CPU; None: a GPU where there is one.
        mask: path, map or array of the map's box; what is outside becomes zero.
        noise: "auto": from the halves' difference, or the solvent of a single map; "classic": the
            original program's estimate; or the noise's mean and standard deviation.
        symmetry: point group in RELION's conventions over which the enhanced map is averaged.
        helix: rise in A and twist in degrees, likewise, along z.
        cleaning: connected components smaller than this part (0 to 1) of the density are removed.
        average: 1, 2, 4 or 24: in so many orientations each window is shown; None: as the weights
            and the map's size need it.
        batch: at most so many windows at a time; None: chosen.
        precision: "auto", "float32", "bfloat16", "float16", or "mixed" (official weights).
        classic: the original program's steps, voxel by voxel (official weights only).
        amplitudes: restore amplitudes, and blend some of the data in, where weights of ours need
            it; False: the network's output as it is.
        band_limit: where the input was low-passed, the output ends there, too.
        progress: called with a step's name, how much of it is done, and of how much.

    Returns:
        The enhanced map on the input's grid.

    Raises:
        InputError: input that cannot be used, or more than two maps; options that do not fit the
            weights; too little memory. One line that names the value and what would be right.

    Warns:
        MapWarning: what makes the result less trustworthy.

    Examples:
        Half maps as arrays, here of a synthetic protein at 4 A:

        >>> from deepemhancer_plugin.core import enhance, simulate
        >>> from deepemhancer_plugin.core.simulation.synthetic import build_protein
        >>> from deepemhancer_plugin.core.simulation import from_structure
        >>> halves = simulate(from_structure(build_protein(0)), resolution=4, box=64)
        >>> result = enhance(halves.half1, halves.half2, sampling_rate=1.0, device="-1")
        >>> result.data.shape, result.report["noise"]["source"]
        ((64, 64, 64), 'half maps')
    """
    model = load_weights(weights) if isinstance(weights, str | os.PathLike) else weights
    options = Options(
        cleaning, average, batch, precision, amplitudes, find_operators(symmetry, helix)
    )
    check_options(options, model, mask is not None, classic)
    volumes, geometry, inside = read_inputs(maps, sampling_rate, mask)
    rate, shape = geometry.sampling_rate, volumes[0].shape
    machine = device if isinstance(device, Devices) else select_devices(device)
    report = _describe(model, machine, geometry, shape)

    clock = Clock(progress)
    clock.start("noise")
    views = measure_views(volumes[0], volumes[1], rate) if len(volumes) == 2 else None
    stats = estimate_noise(volumes, inside, noise, model.normalization)
    end = find_end(volumes, rate) if band_limit and not classic else None
    volume = average_maps(volumes)  # lets go of the half maps
    report |= _describe_noise(stats, views, shape)

    job = Job(model, machine, rate, stats, views, end, inside, options, clock)
    if classic:
        enhanced, facts = run_original(volume, job)
    else:
        enhanced, facts = _run_network(volume, job)
    return Enhanced(enhanced, report | facts | {"timings": clock.stop()}, geometry)


def _run_network(volume: np.ndarray, job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Enhance a map (z, y, x) by our way; returns it on its grid, and facts for the report."""
    options, clock, shape = job.options, job.clock, volume.shape
    facts: dict[str, Any] = {}

    clock.start("prepare")
    shown = job.model.prepare(volume, job.rate, job.noise, job.mask, job.views)
    del volume

    clock.start("network")
    output, facts["precision"] = predict_map(shown, job)

    clock.start("finish")
    if options.amplitudes and job.model.prediction != "map":
        output, facts["sees_molecule"] = _finish(output, shown[..., 0], job)
    del shown
    output = resample_density(output, shape)
    if options.symmetry:
        output, facts["symmetry_correlation"] = _average_symmetry(output, job)
    _apply_mask(output, job.mask)
    if options.cleaning is not None:
        output, removed = remove_small_components(output, options.cleaning, job.rate)
        facts["cleaning"] = asdict(removed)
    if job.end is not None:
        output = low_pass(output, job.rate, job.end, LOW_PASS_EDGE * job.end)
        _apply_mask(output, job.mask)
        facts["input_ends_at"] = round(1 / job.end, 2)
        logger.info("the input ends at %.1f A, low-passed: so does the output", 1 / job.end)
    return output, facts


def _finish(output: np.ndarray, compressed: np.ndarray, job: Job) -> tuple[np.ndarray, bool]:
    """Make the output of a network of ours ready for use, where it sees a molecule.

    Else the output stays as the network gave it, and of a single map a MapWarning says so.

    Args:
        output: of the network (z, y, x), at 1 A/voxel.
        compressed: what the network was shown first: the arcsinh of the normalised map (z, y, x).
        job: what was asked for.
    """
    if sees_molecule(output):
        fades = job.model.prediction == "median"
        return finish_map(output, np.sinh(compressed), fades), True
    if job.views is None:
        warnings.warn(
            "the network sees no body of a molecule's size and density in this map: it may hold "
            "nothing but noise (half maps would tell), a small part of a molecule, or inverted "
            "contrast (dark on bright)",
            MapWarning,
            stacklevel=4,
        )
    return output, False


def _average_symmetry(output: np.ndarray, job: Job) -> tuple[np.ndarray, float]:
    """Average a map over its symmetry; returns the lowest correlation with a copy, too.

    A MapWarning says where the map has no such symmetry.
    """
    job.clock.start("symmetry")
    output, agreement = impose_symmetry(output, job.options.symmetry, job.rate, job.clock)
    job.clock.start("finish")
    if agreement < LEAST_SYMMETRY_CORRELATION:
        warnings.warn(
            f"the enhanced map agrees with its symmetry copies with a correlation of only "
            f"{agreement:.2f}: wrong symmetry, wrong axis (the axes go through the box's centre, "
            "the main one along z), or wrong hand",
            MapWarning,
            stacklevel=4,
        )
    logger.info(
        "symmetry: the map and its copies correlated with at least %.2f before the average",
        agreement,
    )
    return output, round(agreement, 4)


def _apply_mask(volume: np.ndarray, mask: np.ndarray | None) -> None:
    if mask is not None:
        volume[~mask] = 0


def _describe(
    model: Model, machine: Devices, geometry: Map, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Begin the report, and log what is used and why."""
    box = " x ".join(map(str, shape[::-1]))
    logger.info("%s: %s voxels at %.4g A/voxel", geometry.path, box, geometry.sampling_rate)
    logger.info("device: %s (%s)", machine.description, machine.why)
    logger.info("weights: %s %s (%s)", model.kind, model.name, model.path)
    return {
        "version": __version__,
        "weights": {
            "kind": model.kind,
            "name": model.name,
            "file": os.path.basename(model.path),
            "sha256": model.sha256,
        },
        "device": machine.description,
        "devices": machine.names,
        "sampling_rate": geometry.sampling_rate,
        "box": list(shape),
        "origin": list(geometry.origin),
        "sees_molecule": None,
        "symmetry_correlation": None,
        "input_ends_at": None,
        "cleaning": None,
    }


def _describe_noise(
    stats: NoiseStats | None, views: Views | None, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Put the noise into the report and the log."""
    facts: dict[str, Any] = {
        "noise": asdict(stats) if stats else None,
        "half_map_fsc_0.143": None,
        "halves_agree": None,
        "noise_anisotropy": None,
    }
    if stats:
        logger.info(
            "noise: mean %.4g, standard deviation %.4g (from %s)",
            stats.mean,
            stats.std,
            stats.source,
        )
    if views:
        limit = resolution(views.frequency, views.fsc, 0.143)
        falls = bool((views.fsc[1:] < 0.143).any())
        facts["half_map_fsc_0.143"] = round(limit, 2) if falls else None
        facts["halves_agree"] = check_agreement(views.fsc, shape)
        facts["noise_anisotropy"] = round(views.anisotropy, 2)
        if falls:
            logger.info(
                "half-map FSC = 0.143 at %.2f A, unmasked (in the molecule alone it is finer)",
                limit,
            )
        else:
            logger.info("half-map FSC = 0.143 beyond Nyquist (%.2f A)", limit)
        logger.info(
            "noise's power in the worst direction of views over that in the best: %.1f",
            views.anisotropy,
        )
    return facts
