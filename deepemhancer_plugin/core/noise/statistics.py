"""Noise statistics of a map: level and standard deviation of the noise of its solvent.

The map meant is the one that goes into the network, the mean of the halves where there are halves.
Reconstruction noise is stationary, so windows of solvent, wherever they lie, share one power;
windows with molecule have more, each another one. The histogram of the logarithm of the local power
therefore has a narrow peak at the noise and a broad rest above it. The estimates below look for
that peak over the whole box, and need not know where the molecule is. The mode of the logarithm of
a chi-square variable lies at the variable's mean, so windows of few independent voxels do not bias
it.
"""

import math
import warnings

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.noise.moments import (
    LocalMoments,
    measure_moments,
    measure_moments_in,
)
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.noise.zone import NO_SOLVENT, level_of_halves, noise_of_zone

_SOLVENT_AT_LEAST = 0.1  # of the windows: what the search for the solvent's level takes for granted
_FEWEST_WINDOWS = 50  # below which a histogram of them says nothing
_FEWEST_VOXELS = 1000  # outside a mask that noise is measured in
_SPHERE_FILLS = math.pi / 6  # of the box
_MAD_TO_STD = 1.4826  # of a normal distribution
_BIN = 0.02  # of the histogram of ln(power)
_KERNEL = 6  # bins; a Gaussian of 6 % of the deviation is narrower than any real noise's peak
_REACH = 30  # of ln(power), about the median; what lies lower is rounding
_MARGIN = 40  # empty bins on either side, for the kernel
_LEAST_PEAK = 0.15  # of the highest one


def noise_from_halves(half1: np.ndarray, half2: np.ndarray) -> NoiseStats:
    """Estimate the noise of (half1 + half2) / 2 from the difference of the halves.

    The signal cancels in the difference, whose half has the noise of the mean map:
    std(half1 - half2) / 2. Voxels where both halves are the same (outside the reconstruction
    sphere, outside a mask) carry no noise and do not count. Where the noise differs between solvent
    and molecule (alignment errors, flexible parts), the number is the solvent's. The level (the
    mean) is that of the solvent in the mean map.

    Args:
        half1: The first half map (z, y, x).
        half2: The second one.

    Returns:
        The statistics.

    Raises:
        InputError: The halves differ in shape, or are the same map.

    Warns:
        MapWarning: Too little of the map shows noise for a sound estimate.
    """
    if half1.shape != half2.shape:
        raise InputError(f"the half maps differ in shape: {half1.shape} and {half2.shape}")
    difference = measure_moments(lambda z: 0.5 * (half1[z] - half2[z]), half1.shape)
    if difference is None or len(difference.mean) < _FEWEST_WINDOWS:
        return _noise_of_few_voxels(half1, half2)
    std = math.exp(0.5 * _find_lowest_peak(np.log(difference.power(0.0)))[0])
    both = measure_moments_in(lambda z: 0.5 * (half1[z] + half2[z]), half1.shape, difference.kept)
    quiet = both.mean[both.variance < 2 * std**2]
    enough = len(quiet) > max(_FEWEST_WINDOWS, 0.02 * len(both.mean))
    level = _find_level(quiet if enough else both.mean)[0]
    return NoiseStats(level_of_halves(level, std, half1, half2), std, "half maps")


def noise_from_map(volume: np.ndarray) -> NoiseStats:
    """Estimate the noise of one map from its solvent.

    The solvent may be around the molecule, in a hollow shell, beside a fibre or in a corner. The
    level is the mode of the local means; the standard deviation is the lowest clear peak of the
    local power, among the windows near that level. What lies outside a reconstruction sphere, or is
    constant, does not count.

    Args:
        volume: The map (z, y, x), neither masked nor sharpened.

    Returns:
        The statistics.

    Raises:
        InputError: The map is constant.

    Warns:
        MapWarning: The estimate is shaky (masked map, hardly any solvent, uneven noise); it names
            the numbers used.
    """
    windows = measure_moments(lambda z: volume[z], volume.shape)
    if windows is None or len(windows.mean) < _FEWEST_WINDOWS:
        stats = _noise_of_voxels(volume)
        zone = noise_of_zone(volume, stats, 1.0)
        _warn(zone or stats, NO_SOLVENT if zone else "the map has too few voxels with data")
        return zone or stats
    level, spread = _find_level(windows.mean)
    power = np.log(windows.power(level))
    near = np.abs(windows.mean - level) < 2.5 * spread
    peak, sharpness = _find_lowest_peak(power[near] if near.sum() >= _FEWEST_WINDOWS else power)
    stats = NoiseStats(level, math.exp(0.5 * peak), "shell")
    zone = noise_of_zone(volume, stats, sharpness)
    if zone:
        _warn(zone, NO_SOLVENT)
        return zone
    unclear = spread > 0.5 * stats.std or sharpness < 0.5
    _warn_if_uncertain(stats, windows, float(np.mean(np.abs(power - peak) < 0.6)), unclear)
    return stats


def noise_outside(volume: np.ndarray, mask: np.ndarray) -> NoiseStats:
    """Measure the noise of a map outside a mask.

    Blank voxels, which a sphere or an earlier mask left, do not count. Where next to nothing is
    left outside, the map's own statistics are taken (`noise_from_map`).

    Args:
        volume: The map (z, y, x).
        mask: The boolean mask.

    Returns:
        The statistics.
    """
    outside = volume[~mask & (volume != volume[0, 0, 0])]
    if outside.size < _FEWEST_VOXELS or not outside.std() > 0:
        return noise_from_map(volume)
    mean = float(outside.mean(dtype=np.float64))
    return NoiseStats(mean, float(outside.std(dtype=np.float64)), "outside the mask")


def _find_level(means: np.ndarray) -> tuple[float, float]:
    """Mode of the windows' means, and how far the solvent's means scatter about it.

    The start is the shortest interval that holds `_SOLVENT_AT_LEAST` of them; the scatter comes
    from below, where no molecule is.
    """
    ordered = np.sort(means)
    number = max(int(_SOLVENT_AT_LEAST * len(ordered)), 1)
    first = int(np.argmin(ordered[number:] - ordered[:-number]))
    level = float(ordered[first : first + number + 1].mean())
    spread = 0.0
    for _ in range(3):
        below = level - means[means < level]
        if len(below) == 0:
            break
        spread = _MAD_TO_STD * float(np.median(below))
        near = np.abs(means - level) <= 1.5 * spread
        if not near.any():
            break
        level = float(means[near].mean())
    return level, spread


def _find_lowest_peak(log_power: np.ndarray) -> tuple[float, float]:
    """Place of the lowest clear peak of the histogram, and its density per unit.

    A peak is clear that has _LEAST_PEAK of the highest one.
    """
    low = float(np.median(log_power)) - _REACH
    # Rounding is as good as constant, and may be the most frequent of all.
    log_power = log_power[log_power > low]
    bins = np.minimum((log_power - low) / _BIN, 2 * _REACH / _BIN).astype(np.intp)
    counts = np.pad(np.bincount(bins).astype(np.float64), _MARGIN)
    density = ndimage.gaussian_filter1d(counts, _KERNEL, mode="constant")
    inner = density[1:-1]
    is_peak = (inner > density[:-2]) & (inner >= density[2:])
    peak = int(np.flatnonzero(is_peak & (inner >= _LEAST_PEAK * density.max()))[0]) + 1
    sharpness = float(density[peak]) / (len(log_power) * _BIN)
    return low + (peak - _MARGIN + 0.5) * _BIN, sharpness


def _noise_of_few_voxels(half1: np.ndarray, half2: np.ndarray) -> NoiseStats:
    """Median and deviation where the halves differ: for boxes too small for windows."""
    selected = half1 != half2
    if not selected.any():
        raise InputError("the half maps are the same map: give two independent halves")
    level = float(np.median(0.5 * (half1[selected] + half2[selected])))
    std = float(0.5 * np.std(half1[selected] - half2[selected], dtype=np.float64))
    stats = NoiseStats(level_of_halves(level, std, half1, half2), std, "half maps")
    _warn(stats, "the half maps differ in few voxels", "--noiseStats MEAN STD")
    return stats


def _noise_of_voxels(volume: np.ndarray) -> NoiseStats:
    """Median and its absolute deviation: for boxes too small for windows, and tight masks."""
    values = volume[volume != 0]
    if values.size == 0 or values.max() == values.min():
        raise InputError("the map is constant: there is no noise to measure")
    mean = float(np.median(values))
    deviation = _MAD_TO_STD * float(np.median(np.abs(values - mean)))
    return NoiseStats(mean, deviation or float(values.std(dtype=np.float64)), "shell")


def _warn_if_uncertain(
    stats: NoiseStats, windows: LocalMoments, solvent: float, unclear: bool
) -> None:
    """Warn where the box carries few data, little `solvent` (a fraction), or no clear level."""
    if windows.with_data < 0.65 * _SPHERE_FILLS:
        data = 100 * windows.with_data
        _warn(stats, f"only {data:.0f} % of the box carries data")
    elif solvent < 0.05:
        _warn(stats, f"only {100 * solvent:.0f} % of the map looks like solvent")
    elif unclear:
        _warn(
            stats,
            "the map has no clear level of noise (hardly any solvent, filtered or uneven noise)",
        )


def _warn(
    stats: NoiseStats, why: str, better: str = "two independent half maps, or --noiseStats MEAN STD"
) -> None:
    warnings.warn(
        f"the noise is uncertain: {why}; used mean {stats.mean:.5g} and standard deviation "
        f"{stats.std:.5g} (give {better})",
        MapWarning,
        stacklevel=3,
    )
