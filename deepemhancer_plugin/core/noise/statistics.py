"""Noise statistics of a map, and the normalisation that they serve: noise of mean 0 and standard deviation 0.1.

The noise meant everywhere is that of the solvent, in the map that goes into the network (the mean of the halves where there are
halves). Reconstruction noise is stationary, so windows of solvent, wherever they lie, share one power; windows with molecule
have more, each another one. The histogram of the logarithm of the local power therefore has a narrow peak at the noise and a
broad rest above it: the estimates below look for that peak over the whole box, and need not know where the molecule is. The mode
of the logarithm of a chi-square variable lies at the variable's mean, so windows of few independent voxels do not bias it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps.filters import distance_from_centre
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.noise.zone import ZONED, level_of_halves, noise_of_zone

_SOLVENT_AT_LEAST = 0.1  # of the windows: what the search for the solvent's level takes for granted
_ENOUGH = 50  # windows, below which a histogram of them says nothing
_SPHERE_FILLS = math.pi / 6


def noise_from_halves(half1: np.ndarray, half2: np.ndarray) -> NoiseStats:
    """Noise of (half1 + half2) / 2, from the difference of the halves.

    The signal cancels in the difference, whose half has the noise of the mean map: std(half1 - half2) / 2. Voxels where both
    halves are the same (outside the reconstruction sphere, outside a mask) carry no noise and do not count. Where the noise
    differs between solvent and molecule (alignment errors, flexible parts), the number is the solvent's. The level (the mean) is
    that of the solvent in the mean map.

    Args:
        half1, half2: the half maps, (z, y, x).

    Raises:
        InputError: the halves differ in shape, or are the same map.

    Warns:
        MapWarning: too little of the map shows noise for a sound estimate.
    """
    if half1.shape != half2.shape:
        raise InputError(f"the half maps differ in shape: {half1.shape} and {half2.shape}")
    difference = _Windows.of(lambda planes: 0.5 * (half1[planes] - half2[planes]), half1.shape)
    if difference is None or len(difference.mean) < _ENOUGH:
        selected = half1 != half2
        if not selected.any():
            raise InputError("the half maps are the same map: give two independent halves")
        level = float(np.median(0.5 * (half1[selected] + half2[selected])))
        std = float(0.5 * np.std(half1[selected] - half2[selected], dtype=np.float64))
        stats = NoiseStats(level_of_halves(level, std, half1, half2), std, "half maps")
        _warn(stats, "the half maps differ in few voxels")
        return stats
    std = math.exp(0.5 * _lowest_peak(np.log(difference.power(0.0)))[0])

    both = _Windows.of(
        lambda planes: 0.5 * (half1[planes] + half2[planes]), half1.shape, difference.kept
    )
    assert both is not None  # `kept` is given
    quiet = both.mean[both.variance < 2 * std**2]
    level = _level(quiet if len(quiet) > max(_ENOUGH, 0.02 * len(both.mean)) else both.mean)[0]
    return NoiseStats(level_of_halves(level, std, half1, half2), std, "half maps")


def noise_from_map(volume: np.ndarray) -> NoiseStats:
    """Noise of one map, from its solvent wherever that is: around the molecule, in a hollow shell, beside a fibre, in a corner.

    The level is the mode of the local means; the standard deviation is the lowest clear peak of the local power, among the
    windows near that level. What lies outside a reconstruction sphere, or is constant, does not count.

    Args:
        volume: the map, (z, y, x), neither masked nor sharpened.

    Raises:
        InputError: the map is constant.

    Warns:
        MapWarning: the estimate is shaky (masked map, hardly any solvent, uneven noise); names the numbers used.
    """
    windows = _Windows.of(lambda planes: volume[planes], volume.shape)
    if windows is None or len(windows.mean) < _ENOUGH:
        stats = _noise_of_voxels(volume)
        zoned = noise_of_zone(volume, stats, 1.0)
        _warn(zoned or stats, ZONED if zoned else "the map has too few voxels with data")
        return zoned or stats
    level, spread = _level(windows.mean)
    power = np.log(windows.power(level))
    near = np.abs(windows.mean - level) < 2.5 * spread
    peak, sharpness = _lowest_peak(power[near] if near.sum() >= _ENOUGH else power)
    stats = NoiseStats(level, math.exp(0.5 * peak), "shell")

    zoned = noise_of_zone(volume, stats, sharpness)
    if zoned:
        _warn(zoned, ZONED)
        return zoned
    solvent = float(np.mean(np.abs(power - peak) < 0.6))
    if windows.with_data < 0.65 * _SPHERE_FILLS:
        _warn(
            stats,
            f"only {100 * windows.with_data:.0f} % of the box carries data: the map looks masked",
        )
    elif solvent < 0.05:
        _warn(stats, f"only {100 * solvent:.0f} % of the map looks like solvent")
    elif spread > 0.5 * stats.std or sharpness < 0.5:
        _warn(
            stats,
            "the map has no clear level of noise (hardly any solvent, filtered or uneven noise)",
        )
    return stats


def noise_outside(volume: np.ndarray, mask: np.ndarray) -> NoiseStats:
    """Noise of a map (z, y, x) from the voxels outside a boolean mask, blank ones (a sphere or an earlier mask left them) not counted.

    Where next to nothing is left outside, the map's own statistics (`noise_from_map`).
    """
    outside = volume[~mask & (volume != volume[0, 0, 0])]
    if outside.size < 1000 or not outside.std() > 0:
        return noise_from_map(volume)
    return NoiseStats(
        float(outside.mean(dtype=np.float64)),
        float(outside.std(dtype=np.float64)),
        "outside the mask",
    )


# ------------------------------------------------------------------------------------------------------------------ local moments


@dataclass(frozen=True)
class _Windows:
    """First and second moments of overlapping cubic windows that carry data throughout."""

    mean: np.ndarray
    square: np.ndarray
    with_data: float  # fraction of the box, in blocks
    kept: np.ndarray  # which windows of the grid these are

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(self.square - self.mean**2, 0)

    def power(self, level: float) -> np.ndarray:
        """Mean square about `level`, above 0."""
        return np.maximum(self.square - 2 * level * self.mean + level**2, np.finfo(np.float64).tiny)

    @classmethod
    def of(
        cls,
        planes: Callable[[slice], np.ndarray],
        shape: tuple[int, ...],
        kept: np.ndarray | None = None,
    ) -> _Windows | None:
        """Windows of 8^3 voxels (4^3 in a box under 40), every half window. None: the box is too small, or nothing in it varies.

        `planes` gives a slab of the map; one at a time is held, the map is never copied. `kept`: the windows of an earlier call.
        """
        edge = 4 if min(shape) >= 40 else 2
        grid = tuple(n // edge for n in shape)
        if min(grid) < 3:
            return None
        start = [(n - g * edge) // 2 for n, g in zip(shape, grid, strict=True)]
        crop = tuple(slice(s, s + g * edge) for s, g in zip(start[1:], grid[1:], strict=True))
        mean, square, varies = np.empty(grid), np.empty(grid), np.empty(grid, bool)
        reference = np.float32(np.median(planes(slice(shape[0] // 2, shape[0] // 2 + 1))))
        for i in range(grid[0]):
            z = start[0] + i * edge
            slab = (
                planes(slice(z, z + edge))[(slice(None), *crop)] - reference
            )  # near 0: float32 sums of squares suffice
            blocks = slab.reshape(edge, grid[1], edge, grid[2], edge)
            mean[i] = blocks.mean((0, 2, 4))
            square[i] = np.einsum("zyaxb,zyaxb->yx", blocks, blocks) / edge**3
            varies[i] = (blocks != blocks[:1, :, :1, :, :1]).any((0, 2, 4))
        if kept is None and not varies.any():
            return None
        with_data = float(varies.mean())
        if (
            kept is None and not varies.all()
        ):  # blocks at the border of the data are partly empty, or faded by a soft edge
            inner = ndimage.binary_erosion(varies, np.ones((3, 3, 3)), border_value=1)
            varies = inner if inner.sum() > _ENOUGH else varies
        mean, square = _pairs(mean), _pairs(square)
        if kept is None:
            kept = _pairs(varies.astype(np.float64)) > 0.99
            variance = np.maximum(square - mean**2, np.finfo(np.float64).tiny)
            kept &= _in_sphere(mean, np.log(variance), kept, grid)
        square = square[kept] + 2 * float(reference) * mean[kept] + float(reference) ** 2
        return cls(mean[kept] + float(reference), square, with_data, kept)


def _pairs(blocks: np.ndarray) -> np.ndarray:
    """Means of two neighbouring blocks along each axis."""
    for axis in range(3):
        first, second = [slice(None)] * 3, [slice(None)] * 3
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        blocks = 0.5 * (blocks[tuple(first)] + blocks[tuple(second)])
    return blocks


def _in_sphere(
    mean: np.ndarray, log_variance: np.ndarray, kept: np.ndarray, grid: tuple[int, ...]
) -> np.ndarray:
    """Windows within the reconstruction sphere, where the corners of a cubic box hold no real noise; else all windows.

    A map that was cut by a sphere and filtered afterwards has ripples and gradients in its corners, far below its noise. They
    differ from the solvent in the corners of a box that is full of molecule: their power falls off outwards, even to nothing, or
    their level changes by more than they vary within a window.
    """
    everywhere = np.ones(kept.shape, bool)
    if len(set(grid)) > 1:
        return everywhere
    radius = distance_from_centre(kept.shape, tuple((n - 1) / 2 for n in kept.shape)) / (
        0.5 * grid[0]
    )
    shell, near, corner = (
        (radius >= low) & (radius < high) for low, high in ((0.7, 0.95), (1.12, 1.3), (1.38, 2))
    )
    if min((shell & kept).sum(), (near & kept).sum()) < 20:
        return everywhere
    outside = np.median(log_variance[near & kept])
    if outside > np.percentile(log_variance[shell & kept], 10) - math.log(4):
        return everywhere
    empty = (corner & kept).sum() < 0.5 * corner.sum()
    falls = empty or (
        corner.any() and abs(outside - np.median(log_variance[corner & kept])) > math.log(1.5)
    )
    # A smooth drift alone, as RELION's gridding correction leaves in the corners of a small box, gives 0.8 there.
    drifts = any(
        np.var(mean[part]) > times * math.exp(np.median(log_variance[part]))
        for part, times in ((near & kept, 1.0), (corner & kept, 0.6))
        if part.any()
    )
    return (
        radius < 0.95 - 2 / grid[0] if falls or drifts else everywhere
    )  # less half a window: not across the soft edge


def _level(means: np.ndarray) -> tuple[float, float]:
    """Mode of the windows' means, and how far the solvent's means scatter about it.

    The start is the shortest interval that holds `_SOLVENT_AT_LEAST` of them; the scatter comes from below, where no molecule is.
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
        spread = 1.4826 * float(np.median(below))
        near = np.abs(means - level) <= 1.5 * spread
        if not near.any():
            break
        level = float(means[near].mean())
    return level, spread


def _lowest_peak(log_power: np.ndarray) -> tuple[float, float]:
    """Place of the lowest peak of the histogram that has 15 % of the highest one, and its density per unit."""
    step, width, reach, margin = (
        0.02,
        6,
        30,
        40,
    )  # a Gaussian kernel of 0.12: 6 % of the deviation, narrower than any real noise's peak
    low = float(np.median(log_power)) - reach
    log_power = log_power[
        log_power > low
    ]  # what is left is rounding: as good as constant, and may be the most frequent of all
    bins = np.minimum((log_power - low) / step, 2 * reach / step).astype(np.intp)
    density = ndimage.gaussian_filter1d(
        np.pad(np.bincount(bins).astype(np.float64), margin), width, mode="constant"
    )
    inner = density[1:-1]
    peaks = (
        np.flatnonzero(
            (inner > density[:-2]) & (inner >= density[2:]) & (inner >= 0.15 * density.max())
        )
        + 1
    )
    return low + (int(peaks[0]) - margin + 0.5) * step, float(density[peaks[0]]) / (
        len(log_power) * step
    )


def _noise_of_voxels(volume: np.ndarray) -> NoiseStats:
    """Median and median absolute deviation: for boxes too small for windows, and maps that are hardly more than a mask."""
    values = volume[volume != 0]
    if values.size == 0 or values.max() == values.min():
        raise InputError("the map is constant: there is no noise to measure")
    mean = float(np.median(values))
    std = 1.4826 * float(np.median(np.abs(values - mean))) or float(values.std(dtype=np.float64))
    return NoiseStats(mean, std, "shell")


def _warn(stats: NoiseStats, why: str) -> None:
    warnings.warn(
        f"the noise is uncertain: {why}; used mean {stats.mean:.5g} and standard deviation {stats.std:.5g} "
        "(give both half maps, or --noiseStats MEAN STD)",
        MapWarning,
        stacklevel=3,
    )
