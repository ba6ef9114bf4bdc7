"""The way of a map through the program, from top to bottom. Arrays in, arrays and a report out; no files."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.enhancement import amplitudes, windows
from deepemhancer_plugin.core.enhancement.orientations import (
    AVERAGES,
    average_orientations,
    combine_orientations,
)
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps.components import Removed, remove_small_components
from deepemhancer_plugin.core.maps.filters import low_pass
from deepemhancer_plugin.core.maps.resampling import resample, resample_density, resampled_shape
from deepemhancer_plugin.core.maps.spectrum import find_low_pass, fsc, resolution
from deepemhancer_plugin.core.maps.symmetry import Operator, impose_symmetry
from deepemhancer_plugin.core.noise import statistics as normalization
from deepemhancer_plugin.core.noise.directions import (
    EVEN_SAMPLING,
    UNEVEN,
    measure_sampling,
    whiten_directions,
)
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.weights.embedded import EmbeddedModel
from deepemhancer_plugin.core.weights.official import classic
from deepemhancer_plugin.core.weights.official.checkpoint import OfficialModel
from deepemhancer_plugin.core.weights.prepare import MASK_RULE, prepare, prepare_masked

Model = EmbeddedModel | OfficialModel


@dataclass(frozen=True)
class Options:
    """What the user may choose besides maps and model.

    noise       "auto": from the halves' difference, or from the solvent of a single map; "classic": the original's estimate; or the numbers
    mask        boolean (z, y, x), the map's box: what is outside becomes zero; also the normalisation of official `masked` weights
    cleaning    0-1: components smaller than this share of the positive voxels are removed; None: no cleaning
    batch       the most tiles or windows at a time; None: chosen
    precision   "auto", "float32", "bfloat16" or "float16"
    classic     the original program's own steps, voxel by voxel (official weights only)
    average     1, 2, 4 or 24: each window is shown in so many orientations (orientations.py); None: as the weights and the map's size ask for
    symmetry    operators (symmetry.point_group, symmetry.helix) over which the enhanced map is averaged
    amplitudes  raised where the embedded network lets them fade, and a share of the data added (amplitudes.py); a single map in which the network
                sees no molecule comes out empty
    band_limit  where the input was low-passed, the output ends there too: what the network puts beyond is a guess (not with `classic`)
    """

    noise: str | NoiseStats = "auto"
    mask: np.ndarray | None = None
    cleaning: float | None = None
    batch: int | None = None
    precision: str = "auto"
    classic: bool = False
    average: int | None = None
    symmetry: list[Operator] | None = None
    amplitudes: bool = True
    band_limit: bool = True


@dataclass(frozen=True)
class Enhanced:
    """The enhanced map (z, y, x), float32, on the input's grid, and what there is to say about it (JSON values)."""

    data: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)


def enhance(
    maps: list[np.ndarray],
    sampling_rate: float,
    model: Model,
    where: Devices,
    options: Options = Options(),
    progress: Callable[[str, int, int], None] | None = None,
) -> Enhanced:
    """Enhance one map, or the mean of two half maps.

    Args:
        maps: one map or two halves (z, y, x), float32, in any unit. The list is emptied on the way: a large map does not stand in memory twice.
        sampling_rate: A/voxel.
        model: embedded or official weights.
        where: the devices, from `devices.select_devices`.
        options: see `Options`.
        progress: called with the name of the step, how much of it is done, and of how much.

    Raises:
        InputError: noise that cannot be, options that do not fit the weights, too little memory.
    """
    tell = progress or (lambda step, done, total: None)
    clock, timings = time.perf_counter(), {}

    def lap(step: str) -> None:
        nonlocal clock
        timings[step], clock = round(time.perf_counter() - clock, 3), time.perf_counter()

    _check(model, options)
    _check_memory(maps[0].shape, sampling_rate)
    tell("noise", 0, 1)
    noise = _noise(maps, model, options)
    curve = fsc(maps[0], maps[1], sampling_rate) if len(maps) == 2 else None
    views, uneven = (
        measure_sampling(maps[0] - maps[1], sampling_rate)
        if len(maps) == 2
        else (EVEN_SAMPLING, 1.0)
    )
    volume = _mean(maps)
    if curve and uneven >= UNEVEN and isinstance(model, EmbeddedModel):
        volume = whiten_directions(volume, views, curve[1], sampling_rate)
    shape = volume.shape
    tell("noise", 1, 1)
    lap("noise")

    precision = "float32" if options.classic else _precision(options.precision, model, where)
    removed: Removed | None = None
    agreement: float | None = None
    end: float | None = None
    if options.classic:
        assert isinstance(model, OfficialModel)
        volume, removed = _classic(volume, sampling_rate, model, noise, options, where, tell)
    else:
        end = find_low_pass(volume, sampling_rate) if options.band_limit else None
        inputs = _prepared(volume, sampling_rate, model, noise, options)
        del volume
        lap("prepare")
        volume = _in_windows(inputs, model, precision, options, where, tell)
        data = np.ascontiguousarray(inputs[..., 0]) if options.amplitudes and model.agree else None
        del inputs
        lap("network")
        if data is not None:
            volume = _finished(volume, data, curve is None, model.fades)
            del data
        volume = resample_density(volume, shape)
        if options.symmetry:
            volume, agreement = _symmetrized(volume, options.symmetry, sampling_rate, tell)
        if options.mask is not None:
            volume[~options.mask] = 0
        if curve and _nothing_but_noise(curve[1]):
            volume[:] = 0
        if options.cleaning is not None:
            volume, removed = remove_small_components(volume, options.cleaning, sampling_rate)
        if end:
            volume = low_pass(volume, sampling_rate, 0.6 * end, end)  # a steeper edge rings
            if options.mask is not None:
                volume[~options.mask] = 0
    lap("finish")
    return Enhanced(
        volume,
        {
            "noise": asdict(noise) if noise else None,
            "half_map_fsc_0.143": round(resolution(*curve, 0.143), 2) if curve else None,
            "noise_anisotropy": round(uneven, 2) if curve else None,
            "input_ends_at": round(1 / end, 2) if end else None,
            "precision": precision,
            "symmetry_correlation": agreement,
            "timings": timings,
            "cleaning": asdict(removed) if removed else None,
        },
    )


def _nothing_but_noise(curve: np.ndarray) -> bool:
    """Whether the halves' FSC, a mean over five shells from the third on, stays under 0.143 everywhere; then it says so in a MapWarning."""
    means = np.convolve(curve[3:], np.ones(5) / 5, "valid") if len(curve) >= 8 else np.ones(1)
    if means.max() >= 0.143:
        return False
    warnings.warn(
        f"the half maps agree nowhere (FSC at most {means.max():.2f}): they hold nothing but noise, and the output is empty",
        MapWarning,
        stacklevel=2,
    )
    return True


def _finished(volume: np.ndarray, compressed: np.ndarray, single: bool, fades: bool) -> np.ndarray:
    """The embedded network's output, its amplitudes raised where it `fades`, with a share of its first channel, the arcsinh of the map.

    What holds no molecule stays as it is, of a single map empty with a MapWarning.
    """
    if amplitudes.sees_molecule(volume):
        return amplitudes.finished(volume, np.sinh(compressed, out=compressed), fades)
    if single:  # of half maps the FSC tells more
        warnings.warn(
            "the network sees no molecule in this map: the output is empty; half maps would tell whether it holds nothing but noise",
            MapWarning,
            stacklevel=3,
        )
        volume[:] = 0
    return volume


def _check(model: Model, options: Options) -> None:
    if options.cleaning is not None and not 0 <= options.cleaning <= 1:
        raise InputError(
            f"cleaning strength {options.cleaning:g}: a share of the positive voxels, 0 to 1, is needed"
        )
    if options.batch is not None and options.batch < 1:
        raise InputError(f"batch {options.batch}: at least 1 is needed")
    if options.average not in (None, *AVERAGES):
        raise InputError(
            f"average over {options.average} orientations: {', '.join(map(str, AVERAGES))} are right"
        )
    if options.classic and (options.average not in (None, 1) or options.symmetry):
        raise InputError(
            "--classic reproduces the original program, which knows no --average and no symmetry: leave them out"
        )
    if options.classic and not isinstance(model, OfficialModel):
        raise InputError(
            "--classic reproduces the original program, which knows official weights only: add --weights official"
        )
    if model.normalization == "mask" and options.mask is None:
        raise InputError(
            f"{model.path}: these weights are for mask normalisation: give the mask with -m, or choose other weights"
        )


PROGRAM_MEMORY, VOXEL_MEMORY = (
    1.0e9,
    32.0,
)  # bytes: the program with TensorFlow and a window, and for each voxel (docs/benchmarks/embedded.md)


def _check_memory(shape: tuple[int, ...], sampling_rate: float) -> None:
    """Rather an error now than a killed job later. What the maps take already counts as used, and is counted here again: on the safe side."""
    voxels = max(
        np.prod(shape, dtype=float), np.prod(resampled_shape(shape, sampling_rate), dtype=float)
    )
    needed, free = PROGRAM_MEMORY + VOXEL_MEMORY * voxels, devices.free_host_memory()
    if needed > free:
        raise InputError(
            f"not enough memory: a map of {' x '.join(map(str, shape))} voxels at {sampling_rate:.3g} A/voxel needs "
            f"{needed / 2**30:.1f} GB, {free / 2**30:.1f} GB are free: free some, crop the box, or use a larger machine"
        )


# Of the map's standard deviation: below this the network sees steps of density that no training showed it. What a map without noise gave, taken to
# have a thousandth, 3 thousandths, a hundredth of noise, correlated with the model's map by 0.929, 0.949, 0.965.
LEAST_NOISE = 0.01


def _noise(maps: Sequence[np.ndarray], model: Model, options: Options) -> NoiseStats | None:
    """The noise's statistics in the input's units; None where a mask normalises instead."""
    if model.normalization == "mask":
        return None
    if isinstance(options.noise, NoiseStats):
        return options.noise
    if options.noise == "classic":
        return normalization.noise_classic(maps[0] if len(maps) == 1 else (maps[0] + maps[1]) / 2)
    if len(maps) == 2:
        return normalization.noise_from_halves(*maps)
    if options.mask is not None:
        return normalization.noise_outside(maps[0], options.mask)
    stats = normalization.noise_from_map(maps[0])
    least = LEAST_NOISE * float(maps[0].std(dtype=np.float64))
    if stats.std >= least:
        return stats
    warnings.warn(
        f"the map holds next to no noise; taken for it is {least:.5g}, {100 * LEAST_NOISE:g} % of the map's standard deviation",
        MapWarning,
        stacklevel=2,
    )
    return replace(stats, std=least)


def _mean(maps: list[np.ndarray]) -> np.ndarray:
    """The map or the mean of the halves; the inputs are let go of."""
    if len(maps) == 1:
        return maps.pop()
    second, first = maps.pop(), maps.pop()
    result = np.add(first, second)
    result *= np.float32(0.5)
    return result


def _precision(asked: str, model: Model, where: Devices) -> str:
    """Narrow types where the device is faster with them; what they cost is in docs/benchmarks.md."""
    if asked != "auto":
        return asked
    if isinstance(model, OfficialModel):
        return "mixed" if where.bfloat16 else "float32"
    if where.kind == "gpu":
        return "float16"
    return "bfloat16" if where.bfloat16 else "float32"


def _normalized(
    volume: np.ndarray, model: OfficialModel, noise: NoiseStats | None, options: Options
) -> np.ndarray:
    if noise is not None:
        return normalization.normalize(volume, noise)
    assert options.mask is not None and model.mask_rule is not None
    return normalization.normalize_with_mask(volume, options.mask, model.mask_rule)


def _prepared(
    volume: np.ndarray,
    sampling_rate: float,
    model: Model,
    noise: NoiseStats | None,
    options: Options,
) -> np.ndarray:
    """What the network sees, at its sampling rate: (z, y, x) or (z, y, x, channels)."""
    shape = resampled_shape(volume.shape, sampling_rate)
    if isinstance(model, OfficialModel):
        return resample(_normalized(volume, model, noise, options), shape)
    compress = model.architecture.compressed
    if noise is None:
        assert options.mask is not None
        return prepare_masked(
            resample(normalization.normalize_with_mask(volume, options.mask, MASK_RULE), shape),
            model.channels,
            compress=compress,
        )
    return prepare(
        resample(volume, shape), noise.mean, noise.std, model.channels, compress=compress
    )


def orientations(model: Model, shape: tuple[int, ...]) -> int:
    """In how many a map (z, y, x) is shown where the user does not say: one alone depends on the map's own, four are better than two
    (docs/benchmarks.md), and take the 27 windows of 160^3 voxels no longer than two take the 64 of the next larger maps."""
    if not model.agree:
        return 1
    return 4 if max(shape) <= model.tile + 2 * model.stride else 2


def _in_windows(
    inputs: np.ndarray,
    model: Model,
    precision: str,
    options: Options,
    where: Devices,
    tell: Callable[[str, int, int], None],
) -> np.ndarray:
    mask = resample(options.mask, inputs.shape[:3]) > 0.01 if options.mask is not None else None
    combined = combine_orientations if model.agree else average_orientations
    predictors = [
        combined(
            model.predictor(precision, name),
            options.average or orientations(model, inputs.shape[:3]),
        )
        for name in where.names
    ]
    tell("network", 0, 1)
    return windows.enhance_windows(
        inputs,
        predictors,
        model.tile,
        model.stride,
        _batch(model, options, where),
        mask,
        progress=lambda done, total: tell("network", done, total),
    )


def _symmetrized(
    volume: np.ndarray,
    operators: list[Operator],
    sampling_rate: float,
    tell: Callable[[str, int, int], None],
) -> tuple[np.ndarray, float]:
    """The map averaged over its symmetry, and its lowest correlation with a copy; a MapWarning where that says it has none."""
    volume, agreement = impose_symmetry(
        volume, operators, sampling_rate, lambda done, total: tell("symmetry", done, total)
    )
    if agreement < 0.5:
        warnings.warn(
            f"the enhanced map agrees with its symmetry copies with a correlation of only {agreement:.2f}: wrong symmetry, wrong axis "
            "(the axes go through the box's centre, the main one along z), or wrong hand",
            MapWarning,
            stacklevel=2,
        )
    return volume, round(agreement, 4)


WINDOW_MEMORY = (
    700 * 2**20
)  # bytes, an upper bound for a window of 64^3: the whole program peaks at 0.76 GB for a small map


def _batch(model: Model, options: Options, where: Devices) -> int:
    """Windows at a time: one on a CPU, whose cache holds just one; on a GPU eight, or as many as its free memory holds."""
    wanted = options.batch or (1 if where.kind == "cpu" else 8)
    fitting = int(devices.free_memory(where) / (WINDOW_MEMORY * (model.tile / 64) ** 3))
    if fitting < 1:
        raise InputError(
            f"not enough memory on {where.description}: a window needs {WINDOW_MEMORY / 2**30:.1f} GB, "
            f"{devices.free_memory(where) / 2**30:.1f} GB are free: free some, or use a device with more"
        )
    return min(wanted, fitting)


def _classic(
    volume: np.ndarray,
    sampling_rate: float,
    model: OfficialModel,
    noise: NoiseStats | None,
    options: Options,
    where: Devices,
    tell: Callable[[str, int, int], None],
) -> tuple[np.ndarray, Removed | None]:
    removed: list[Removed] = []

    def clean(v: np.ndarray) -> np.ndarray:
        assert options.cleaning is not None
        # At this point of the original's steps a voxel is 1 A wide.
        cleaned, what = remove_small_components(v, options.cleaning, 1.0, classic=True)
        removed.append(what)
        return cleaned

    result = classic.enhance_classic(
        volume,
        sampling_rate,
        model.predictor("float32", where.names[0]),
        model.tile,
        model.stride,
        lambda v: _normalized(v, model, noise, options),
        options.mask,
        clean if options.cleaning is not None else None,
        options.batch or 1,
        lambda done, total: tell("network", done, total),
    )
    return result, removed[0] if removed else None
