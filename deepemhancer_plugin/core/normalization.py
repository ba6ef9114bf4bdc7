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
from typing import Literal

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning

_SOLVENT_AT_LEAST = 0.1    # of the windows: what the search for the solvent's level takes for granted
_ENOUGH = 50               # windows, below which a histogram of them says nothing
_SPHERE_FILLS = math.pi / 6


@dataclass(frozen=True)
class NoiseStats:
    """Mean (the solvent's level) and standard deviation of a map's noise, in the map's units.

    `source` says where they come from: "half maps", "shell" (one map, its solvent), "zone" (one map, masked to
    where no solvent is), "outside the mask", "given" or "classic".
    """

    mean: float
    std: float
    source: str


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
        selected = (half1 != half2)
        if not selected.any():
            raise InputError("the half maps are the same map: give two independent halves")
        level = float(np.median(0.5 * (half1[selected] + half2[selected])))
        std = float(0.5 * np.std(half1[selected] - half2[selected], dtype=np.float64))
        stats = NoiseStats(_level_of_halves(level, std, half1, half2), std, "half maps")
        _warn(stats, "the half maps differ in few voxels")
        return stats
    std = math.exp(0.5 * _lowest_peak(np.log(difference.power(0.0)))[0])

    both = _Windows.of(lambda planes: 0.5 * (half1[planes] + half2[planes]), half1.shape, difference.kept)
    assert both is not None    # `kept` is given
    quiet = both.mean[both.variance < 2 * std**2]
    level = _level(quiet if len(quiet) > max(_ENOUGH, 0.02 * len(both.mean)) else both.mean)[0]
    return NoiseStats(_level_of_halves(level, std, half1, half2), std, "half maps")


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
        zoned = _noise_of_zone(volume, stats, 1.0)
        _warn(zoned or stats, _ZONED if zoned else "the map has too few voxels with data")
        return zoned or stats
    level, spread = _level(windows.mean)
    power = np.log(windows.power(level))
    near = np.abs(windows.mean - level) < 2.5 * spread
    peak, sharpness = _lowest_peak(power[near] if near.sum() >= _ENOUGH else power)
    stats = NoiseStats(level, math.exp(0.5 * peak), "shell")

    zoned = _noise_of_zone(volume, stats, sharpness)
    if zoned:
        _warn(zoned, _ZONED)
        return zoned
    solvent = float(np.mean(np.abs(power - peak) < 0.6))
    if windows.with_data < 0.65 * _SPHERE_FILLS:
        _warn(stats, f"only {100 * windows.with_data:.0f} % of the box carries data: the map looks masked")
    elif solvent < 0.05:
        _warn(stats, f"only {100 * solvent:.0f} % of the map looks like solvent")
    elif spread > 0.5 * stats.std or sharpness < 0.5:
        _warn(stats, "the map has no clear level of noise (hardly any solvent, filtered or uneven noise)")
    return stats


def noise_outside(volume: np.ndarray, mask: np.ndarray) -> NoiseStats:
    """Noise of a map (z, y, x) from the voxels outside a boolean mask, blank ones (a sphere or an earlier mask left them) not counted.

    Where next to nothing is left outside, the map's own statistics (`noise_from_map`).
    """
    outside = volume[~mask & (volume != volume[0, 0, 0])]
    if outside.size < 1000 or not outside.std() > 0:
        return noise_from_map(volume)
    return NoiseStats(float(outside.mean(dtype=np.float64)), float(outside.std(dtype=np.float64)), "outside the mask")


def noise_given(mean: float, std: float) -> NoiseStats:
    """The user's numbers. Raises InputError where they are not finite or `std` is not above 0; a negative mean is fine."""
    if not math.isfinite(mean):
        raise InputError(f"noise mean {mean}: a finite number is needed")
    if not (math.isfinite(std) and std > 0):
        raise InputError(f"noise standard deviation {std}: a number above 0 is needed")
    return NoiseStats(float(mean), float(std), "given")


def noise_classic(volume: np.ndarray) -> NoiseStats:
    """The automatic estimate of the original program (its `inputNormalization_3`), for comparison with it.

    A map of 100^3 voxels, local moments in windows of 5^3, the radial profile c(r) of variance - mean: noise is what lies within
    the radius where c comes back to zero after having risen above it (where it never does, half the box), less the protein, which
    is what exceeds 5 % of the range of the dilated local mean square.

    Raises:
        InputError: the original takes the map for hollow (it stops there too), or its noise region is empty or constant.
    """
    size = 100
    small = _resize(volume, (size,) * 3)
    mean = ndimage.uniform_filter(small, 5)
    square = ndimage.uniform_filter(small**2, 5)
    distance = _distance((size,) * 3)
    shell = distance.astype(np.intp).ravel()
    count = np.bincount(shell)
    energy = np.bincount(shell, square.ravel()) / count
    curve = energy - np.bincount(shell, (mean**2).ravel()) / count - np.bincount(shell, mean.ravel()) / count

    radius = _classic_radius(curve, energy, size // 2)
    dilated = ndimage.grey_dilation(square, size=(5, 5, 5))
    low, high = float(dilated.min()), float(dilated.max())
    protein = dilated >= low + 0.05 * (high - low)
    region = (distance < radius).astype(small.dtype) - protein
    values = volume[_resize(region, volume.shape) > 0.5]
    if values.size == 0 or values.max() == values.min():
        raise InputError("the classic estimate finds no noise in the map: leave out --noise classic, or pass --noiseStats")
    return NoiseStats(float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), "classic")


def normalize(volume: np.ndarray, stats: NoiseStats) -> np.ndarray:
    """(volume - mean) / (10 std), float32: noise of mean 0 and standard deviation 0.1 (Sanchez-Garcia et al. 2021)."""
    result = np.subtract(volume, np.float32(stats.mean), dtype=np.float32)
    result *= np.float32(0.1 / stats.std)
    return result


def normalize_with_mask(volume: np.ndarray, mask: np.ndarray, rule: Literal[1, 2, 3]) -> np.ndarray:
    """(volume - median) / (p95 - p10) times the mask, float32, by one of the original's three rules.

    Rule 1 (its `inputNormalizationWithMask`): the mask is dilated by one voxel and binarised at 1 % of its range; all voxels in
    it count for the percentiles. Rule 2 (`..._2`): the same mask, only voxels above 0 count. Rule 3 (`..._3`): mask > 0.01, not
    dilated, only voxels above 0 count.

    Args:
        volume: the map, (z, y, x).
        mask: same shape; boolean or 0 to 1.
        rule: 1, 2 or 3.

    Raises:
        InputError: shapes differ, or the voxels that count are none or all the same.
    """
    if volume.shape != mask.shape:
        raise InputError(f"the mask has shape {mask.shape}, the map {volume.shape}")
    if rule not in (1, 2, 3):
        raise ValueError(f"rule {rule} is none of 1, 2, 3")
    if mask.dtype == bool:
        mask = mask.view(np.uint8)
    if rule == 3:
        inside = mask > 0.01
    else:
        mask = ndimage.grey_dilation(mask, size=(3, 3, 3))
        low, high = float(mask.min()), float(mask.max())
        inside = mask >= low + 0.01 * (high - low)
    values = volume[inside if rule == 1 else inside & (volume > 0)]
    if values.size == 0:
        raise InputError("no voxel of the map " + ("lies in the mask" if rule == 1 else "is above 0 in the mask"))
    low, median, high = (float(p) for p in np.percentile(values, [10, 50, 95]))
    if not high > low:
        raise InputError("the map is constant in the mask: nothing to normalise by")
    result = np.subtract(volume, np.float32(median), dtype=np.float32)
    result *= np.float32(1 / (high - low))
    result *= inside
    return result


# ------------------------------------------------------------------------------------------------------------------ local moments

@dataclass(frozen=True)
class _Windows:
    """First and second moments of overlapping cubic windows that carry data throughout."""

    mean: np.ndarray
    square: np.ndarray
    with_data: float       # fraction of the box, in blocks
    kept: np.ndarray       # which windows of the grid these are

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(self.square - self.mean**2, 0)

    def power(self, level: float) -> np.ndarray:
        """Mean square about `level`, above 0."""
        return np.maximum(self.square - 2 * level * self.mean + level**2, np.finfo(np.float64).tiny)

    @classmethod
    def of(cls, planes: Callable[[slice], np.ndarray], shape: tuple[int, ...], kept: np.ndarray | None = None) -> _Windows | None:
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
            slab = planes(slice(z, z + edge))[(slice(None), *crop)] - reference    # near 0: float32 sums of squares suffice
            blocks = slab.reshape(edge, grid[1], edge, grid[2], edge)
            mean[i] = blocks.mean((0, 2, 4))
            square[i] = np.einsum("zyaxb,zyaxb->yx", blocks, blocks) / edge**3
            varies[i] = (blocks != blocks[:1, :, :1, :, :1]).any((0, 2, 4))
        if kept is None and not varies.any():
            return None
        with_data = float(varies.mean())
        if kept is None and not varies.all():    # blocks at the border of the data are partly empty, or faded by a soft edge
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


def _in_sphere(mean: np.ndarray, log_variance: np.ndarray, kept: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Windows within the reconstruction sphere, where the corners of a cubic box hold no real noise; else all windows.

    A map that was cut by a sphere and filtered afterwards has ripples and gradients in its corners, far below its noise. They
    differ from the solvent in the corners of a box that is full of molecule: their power falls off outwards, even to nothing, or
    their level changes by more than they vary within a window.
    """
    everywhere = np.ones(kept.shape, bool)
    if len(set(grid)) > 1:
        return everywhere
    radius = _distance(kept.shape, 0.5) / (0.5 * grid[0])
    shell, near, corner = ((radius >= low) & (radius < high) for low, high in ((0.7, 0.95), (1.12, 1.3), (1.38, 2)))
    if min((shell & kept).sum(), (near & kept).sum()) < 20:
        return everywhere
    outside = np.median(log_variance[near & kept])
    if outside > np.percentile(log_variance[shell & kept], 10) - math.log(4):
        return everywhere
    empty = (corner & kept).sum() < 0.5 * corner.sum()
    falls = empty or (corner.any() and abs(outside - np.median(log_variance[corner & kept])) > math.log(1.5))
    # A smooth drift alone, as RELION's gridding correction leaves in the corners of a small box, gives 0.8 there.
    drifts = any(np.var(mean[part]) > times * math.exp(np.median(log_variance[part]))
                 for part, times in ((near & kept, 1.0), (corner & kept, 0.6)) if part.any())
    return radius < 0.95 - 2 / grid[0] if falls or drifts else everywhere    # less half a window: not across the soft edge


def _level(means: np.ndarray) -> tuple[float, float]:
    """Mode of the windows' means, and how far the solvent's means scatter about it.

    The start is the shortest interval that holds `_SOLVENT_AT_LEAST` of them; the scatter comes from below, where no molecule is.
    """
    ordered = np.sort(means)
    number = max(int(_SOLVENT_AT_LEAST * len(ordered)), 1)
    first = int(np.argmin(ordered[number:] - ordered[:-number]))
    level = float(ordered[first:first + number + 1].mean())
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
    step, width, reach, margin = 0.02, 6, 30, 40    # a Gaussian kernel of 0.12: 6 % of the deviation, narrower than any real noise's peak
    low = float(np.median(log_power)) - reach
    log_power = log_power[log_power > low]    # what is left is rounding: as good as constant, and may be the most frequent of all
    bins = np.minimum((log_power - low) / step, 2 * reach / step).astype(np.intp)
    density = ndimage.gaussian_filter1d(np.pad(np.bincount(bins).astype(np.float64), margin), width, mode="constant")
    inner = density[1:-1]
    peaks = np.flatnonzero((inner > density[:-2]) & (inner >= density[2:]) & (inner >= 0.15 * density.max())) + 1
    return low + (int(peaks[0]) - margin + 0.5) * step, float(density[peaks[0]]) / (len(log_power) * step)


def _noise_of_voxels(volume: np.ndarray) -> NoiseStats:
    """Median and median absolute deviation: for boxes too small for windows, and maps that are hardly more than a mask."""
    values = volume[volume != 0]
    if values.size == 0 or values.max() == values.min():
        raise InputError("the map is constant: there is no noise to measure")
    mean = float(np.median(values))
    std = 1.4826 * float(np.median(np.abs(values - mean))) or float(values.std(dtype=np.float64))
    return NoiseStats(mean, std, "shell")


_ZONED = "the map is masked so tightly that no solvent is left to measure it in"
_BALL = 0.98      # of the roundness of a ball; the zones of proteins have 0.54 to 0.97
_ABOVE = 0.3      # times the noise's deviation: a level so far above the blank is that of a molecule
_SKEWED = 0.8     # skewness of a molecule's density in its own zone: 0.6 to 1.1 with next to no noise, 1 to 3 A about it, more in wider zones


def _zone(volume: np.ndarray) -> np.ndarray | None:
    """Where a map is not blank (as its first voxel), if that is a zone round a molecule: not most of the box, and no ball, which has solvent."""
    inside = volume != volume[0, 0, 0]
    number = np.count_nonzero(inside)
    if not 0 < number < 0.6 * inside.size:
        return None
    scatter = 0.0    # mean square distance from the middle, least for a ball
    for axis in range(3):
        weight, place = inside.sum(tuple(a for a in range(3) if a != axis)) / number, np.arange(inside.shape[axis])
        scatter += weight @ (place - weight @ place) ** 2
    return inside if 0.6 * (number * 3 / (4 * math.pi)) ** (2 / 3) < _BALL * scatter else None


def _level_of_halves(level: float, std: float, half1: np.ndarray, half2: np.ndarray) -> float:
    """The solvent's level; the blank's where the halves are masked to a zone and the one that was found is the molecule's."""
    blank = 0.5 * (float(half1[0, 0, 0]) + float(half2[0, 0, 0]))
    return blank if level - blank > _ABOVE * std and _zone(half1) is not None else level


def _noise_of_zone(volume: np.ndarray, found: NoiseStats, sharpness: float) -> NoiseStats | None:
    """Noise of a map that is masked to the zone of a molecule; None where there is solvent in it.

    There what was `found` is the molecule: most of the density's deviation, on a level above the blank, though noise has no skewness and that much of
    it would leave next to none to the molecule; or a peak that is none. The level is the blank's then, and noise is what takes the skewness of a
    molecule's density to the one that is seen: to the power 3/2 of the molecule's share of the variance.
    """
    inside = _zone(volume)
    if inside is None:
        return None
    blank, values = float(volume[0, 0, 0]), volume[inside]
    mean, std = (float(f(values, dtype=np.float64)) for f in (np.mean, np.std))
    values -= np.float32(mean)
    values /= np.float32(std)
    skewness = float(np.mean(values**3, dtype=np.float64))
    share = found.std / std
    above = found.mean - blank > _ABOVE * found.std
    skewed = skewness > 0.3 + 8 * max(1 - share**2, 0) ** 1.5    # the 8: of density that fills some hundredth of the zone
    if not ((share > 0.75 and (above or skewed or sharpness < 0.5)) or (share > 0.4 and above and sharpness < 0.8)):
        return None
    noise = math.sqrt(1 - min(max(skewness, 0) / _SKEWED, 1) ** (2 / 3))
    return NoiseStats(blank, std * max(noise, 0.2), "zone")


def _warn(stats: NoiseStats, why: str) -> None:
    warnings.warn(f"the noise is uncertain: {why}; used mean {stats.mean:.5g} and standard deviation {stats.std:.5g} "
                  "(give both half maps, or --noiseStats MEAN STD)", MapWarning, stacklevel=3)


# ------------------------------------------------------------------------------------------------------- the original's estimate

def _classic_radius(curve: np.ndarray, energy: np.ndarray, half: int) -> float:
    """Radius, in voxels of the small map, within which the original looks for noise; its fall-back is half the box."""
    inner = curve[1:-1]
    minima = np.flatnonzero((inner < curve[:-2]) & (inner < curve[2:])) + 1
    start = int(minima[0]) if len(minima) and curve[minima[0]] < 0 else int(np.argmin(curve))
    if start > half:
        return half
    top = start + int(np.argmax(curve[start:half + 1]))
    if energy[top] > curve[top] > 0:
        raise InputError("the classic noise estimate takes the map for hollow and stops, as the original program does: "
                         "leave out --noise classic, or pass --noiseStats MEAN STD")
    above = np.flatnonzero(curve[start:] > 0)
    if len(above) == 0:
        return half
    rise = start + int(above[0])
    back = np.flatnonzero(curve[rise:] <= 0)
    if len(back) == 0:
        return half
    outer, middle = float(np.diff(curve[-10:]).mean()), float(np.diff(curve[-25:-10]).mean())
    if outer > 1e-8 and middle > 1e-8 and outer > 3 * middle:    # rising towards the corners: the whole box
        return math.sqrt(3) * half
    return round(rise + 0.5 * int(back[0]))


def _distance(shape: tuple[int, ...], to_centre: float = 0.0) -> np.ndarray:
    """Distance of each voxel from voxel n // 2, or with `to_centre` 0.5 from the middle of the box."""
    z, y, x = (np.arange(n) - ((n - 1) / 2 if to_centre else n // 2) for n in shape)
    return np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


def _resize(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cubic splines after a Gaussian of (factor - 1) / 2 voxels, clipped: scikit-image's `resize` as the original calls it."""
    factors = [n / m for n, m in zip(volume.shape, shape, strict=True)]
    smooth = ndimage.gaussian_filter(volume, [max(0.0, (f - 1) / 2) for f in factors], mode="mirror")
    result = ndimage.zoom(smooth, [1 / f for f in factors], order=3, mode="mirror", grid_mode=True)
    return np.clip(result, volume.min(), volume.max(), out=result)
