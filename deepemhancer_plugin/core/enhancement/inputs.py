"""Arguments of an enhancement: read, checked, judged, and brought together."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.enhancement.job import Options
from deepemhancer_plugin.core.enhancement.orientations import AVERAGES
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps import symmetry
from deepemhancer_plugin.core.maps.appearance import warn_if_inverted, warn_if_processed
from deepemhancer_plugin.core.maps.masks import as_mask
from deepemhancer_plugin.core.maps.mrc import Map, MapLike, as_map, check_halves
from deepemhancer_plugin.core.maps.resampling import resampled_shape
from deepemhancer_plugin.core.maps.spectrum import find_low_pass, find_low_pass_of_halves
from deepemhancer_plugin.core.noise.independence import (
    correlate,
    find_dependence,
    match_scale,
)
from deepemhancer_plugin.core.noise.normalization import NoiseStats, noise_from_numbers
from deepemhancer_plugin.core.noise.original import noise_as_original
from deepemhancer_plugin.core.noise.statistics import (
    noise_from_halves,
    noise_from_map,
    noise_outside,
)
from deepemhancer_plugin.core.weights.model import Model

PROGRAM_MEMORY, VOXEL_MEMORY = 1.0e9, 32.0  # bytes: the program with a window, and of each voxel
OPPOSITE = -0.1  # correlation of half maps, one of which is inverted
AGREEMENT = 3.0  # standard deviations of the FSC of noise
LEAST_NOISE = 0.01  # of the map's standard deviation: with less, density has steps as never seen


def read_inputs(
    maps: Sequence[MapLike], sampling_rate: float | None, mask: MapLike | None
) -> tuple[list[np.ndarray], Map, np.ndarray | None]:
    """Read one map or two half maps, and the mask.

    Args:
        maps: paths, maps or arrays.
        sampling_rate: A/voxel, for arrays, or in place of the headers'.
        mask: path, map or array.

    Returns:
        The maps' voxels (z, y, x), not to be written to; the first map without its voxels; and the
        boolean mask (z, y, x). Of half maps that are not independent, their mean alone.

    Raises:
        InputError: no map or more than two, maps that cannot be read or do not belong together, or
            too little memory for them.

    Warns:
        MapWarning: half maps of two scales, or that are not independent; a map that looks
            processed or inverted.
    """
    if len(maps) not in (1, 2):
        raise InputError(f"{len(maps)} maps: one map, or two half maps are needed")
    names = ["map"] if len(maps) == 1 else ["half map 1", "half map 2"]
    read = [as_map(m, sampling_rate, name) for m, name in zip(maps, names, strict=True)]
    check_memory(read[0].data.shape, read[0].sampling_rate)
    if len(read) == 2:
        check_halves(*read)
        _match_halves(*read)
    warn_if_processed(read[0], len(read) == 2)
    volumes = [m.data for m in read]
    warn_if_inverted(replace(read[0], data=average_maps(list(volumes))))
    if len(read) == 2 and _are_dependent(*read):
        volumes = [average_maps(volumes)]
    inside = None if mask is None else as_mask(mask, read[0], sampling_rate)
    path = " and ".join(m.path for m in read)
    geometry = replace(read[0], data=np.empty((0, 0, 0), np.float32), path=path)
    return volumes, geometry, inside


def _match_halves(first: Map, second: Map) -> None:
    """Bring the second half map to the scale and level of the first, in place, where they differ.

    Raises:
        InputError: one half is the negative of what the other shows.

    Warns:
        MapWarning: they differed.
    """
    both = f"half maps {first.path} and {second.path}"
    if correlate(first.data, second.data) < OPPOSITE:
        raise InputError(f"{both}: one is the negative of the other: multiply one by -1")
    change = match_scale(first.data, second.data)
    if change is None:
        return
    factor, summand = change
    second.data[:] = factor * second.data + summand
    warnings.warn(
        f"{both}: of two scales or levels: the second is multiplied by {factor:.4g}, and "
        f"{summand:.4g} is added",
        MapWarning,
        stacklevel=4,
    )


def _are_dependent(first: Map, second: Map) -> bool:
    """Tell whether two half maps are not two independent halves processed alike.

    Warns:
        MapWarning: they are not.
    """
    reason = find_dependence(first.data, second.data)
    if reason is None:
        return False
    warnings.warn(
        f"half maps {first.path} and {second.path}: not two independent halves processed alike "
        f"({reason}): their mean is treated as a single map",
        MapWarning,
        stacklevel=4,
    )
    return True


def find_operators(group: str | None, helix: tuple[float, float] | None) -> list[symmetry.Operator]:
    """Give the operators of a point group or a helix (rise in A, twist in degrees); [] without.

    Raises:
        InputError: both, or none of RELION's groups.
    """
    if group and helix:
        raise InputError("a point group and a helix exclude each other: choose one")
    if group:
        return symmetry.point_group(group)
    return symmetry.helix(*helix) if helix else []


def check_options(options: Options, model: Model, masked: bool, classic: bool) -> None:
    """Raise InputError for options out of range, or that do not fit the weights."""
    if options.cleaning is not None and not 0 <= options.cleaning <= 1:
        raise InputError(
            f"cleaning strength {options.cleaning:g}: a part of the positive voxels, 0 to 1, is "
            "needed"
        )
    if options.batch is not None and options.batch < 1:
        raise InputError(f"batch {options.batch}: at least 1 is needed")
    if options.average not in (None, *AVERAGES):
        right = ", ".join(map(str, AVERAGES))
        raise InputError(f"average over {options.average} orientations: {right} are right")
    if classic and (options.average not in (None, 1) or options.symmetry):
        raise InputError(
            "--classic reproduces the original program, which knows no --average and no symmetry: "
            "leave them out"
        )
    if classic and model.kind != "official":
        raise InputError(
            "--classic reproduces the original program, which knows official weights only: "
            "add --weights official"
        )
    if model.normalization == "mask" and not masked:
        raise InputError(
            f"{model.path}: these weights are for mask normalisation: give the mask with -m, or "
            "choose other weights"
        )


def check_memory(shape: tuple[int, ...], sampling_rate: float) -> None:
    """Raise InputError where a map (z, y, x) will not fit, before anything is computed.

    What the maps take already counts as used and is counted again: on the safe side.
    """
    working = resampled_shape(shape, sampling_rate)
    needed = PROGRAM_MEMORY + VOXEL_MEMORY * max(math.prod(shape), math.prod(working))
    free = devices.free_host_memory()
    if needed > free:
        raise InputError(
            f"not enough memory: a map of {' x '.join(map(str, shape))} voxels at "
            f"{sampling_rate:.3g} A/voxel needs {needed / 2**30:.1f} GB, {free / 2**30:.1f} GB are "
            "free: free some, crop the box, or use a larger machine"
        )


def estimate_noise(
    volumes: Sequence[np.ndarray],
    mask: np.ndarray | None,
    noise: str | tuple[float, float] | NoiseStats,
    normalization: str,
) -> NoiseStats | None:
    """Estimate the noise of a map, or of the mean of two half maps (z, y, x).

    Args:
        volumes: the map or the half maps.
        mask: boolean (z, y, x), or None.
        noise: "auto", "classic", or the numbers.
        normalization: of the weights; None is returned for "mask".

    Raises:
        InputError: a constant map, or numbers that cannot be.

    Warns:
        MapWarning: the estimate is shaky.
    """
    if normalization == "mask":
        return None
    if isinstance(noise, NoiseStats):
        return noise
    if isinstance(noise, tuple):
        return noise_from_numbers(*noise)
    if noise == "classic":
        return noise_as_original(np.asarray(np.mean(volumes, axis=0, dtype=np.float32)))
    if noise != "auto":
        raise InputError(f"noise {noise}: auto, classic, or mean and standard deviation are right")
    if len(volumes) == 2:
        return noise_from_halves(*volumes)
    if mask is not None:
        return noise_outside(volumes[0], mask)
    stats = noise_from_map(volumes[0])
    least = LEAST_NOISE * float(volumes[0].std(dtype=np.float64))
    if stats.std >= least:
        return stats
    warnings.warn(
        f"the map holds next to no noise; taken for it is {least:.5g}, {100 * LEAST_NOISE:g} % of "
        "the map's standard deviation",
        MapWarning,
        stacklevel=3,
    )
    return replace(stats, std=least)


def average_maps(volumes: list[np.ndarray]) -> np.ndarray:
    """Give the map, or the mean of the half maps; empties the list, so that they can go."""
    if len(volumes) == 1:
        return volumes.pop()
    result: np.ndarray = np.add(volumes.pop(0), volumes.pop(0))
    result *= np.float32(0.5)
    return result


def check_agreement(curve: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Tell whether the FSC of half maps stands out of that of noise.

    The FSC of noise scatters about 0 by 1 / sqrt(n), n being the independent coefficients of a
    shell, of which the sphere of reconstruction leaves about half. The correlation of all
    coefficients up to some shell is asked to exceed AGREEMENT standard deviations.

    Of 110 pairs of noise alone, amplitudes growing as k^-1 to k^1.2, none exceeded 2.0. Steeper
    noise leaks through the edge of the sphere and passes for agreement in 4 of 10 pairs. A protein
    of 25 kDa at 9 A had 3.4 and more, at 10 A in a small box 1.6 to 2.9.

    Args:
        curve: FSC of each shell, from the mean on.
        shape: of the maps (z, y, x).

    Warns:
        MapWarning: it does not.
    """
    if len(curve) < 8:
        return True
    shells = np.arange(2, len(curve))
    independent = math.pi * shells**2 * math.prod(shape) / min(shape) ** 3
    significance = np.cumsum(independent * curve[2:]) / np.sqrt(np.cumsum(independent))
    if significance.max() > AGREEMENT:
        return True
    warnings.warn(
        f"the half maps agree nowhere (their correlation is {significance.max():.1f} standard "
        "deviations of that of noise at most): they seem to hold nothing but noise",
        MapWarning,
        stacklevel=4,
    )
    return False


def find_end(volumes: Sequence[np.ndarray], rate: float) -> float | None:
    """Find the frequency in 1/A where a low-pass filter ended the maps; None without one."""
    if len(volumes) == 2:
        return find_low_pass_of_halves(volumes[0], volumes[1], rate)
    return find_low_pass(volumes[0], rate)
