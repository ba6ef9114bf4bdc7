"""Noise statistics, and the normalisations that they or a mask give."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError

NORMALIZED_STD = (
    0.1  # of the noise, as the original's networks want it (Sanchez-Garcia et al. 2021)
)
MASK_THRESHOLD = 0.01  # of the mask's range


@dataclass(frozen=True)
class NoiseStats:
    """Level and standard deviation of a map's noise, in the map's units.

    Attributes:
        mean: the solvent's level.
        std: standard deviation of the noise.
        source: where they come from: "half maps", "shell" (one map, its solvent), "zone" (one map,
            masked to where no solvent is), "outside the mask", "given" or "classic".
    """

    mean: float
    std: float
    source: str


def noise_from_numbers(mean: float, std: float) -> NoiseStats:
    """Check the numbers of a user.

    Args:
        mean: The solvent's level; it may be negative.
        std: Standard deviation of the noise.

    Returns:
        The statistics.

    Raises:
        InputError: They are not finite, or `std` is not over 0.
    """
    if not math.isfinite(mean):
        raise InputError(f"noise mean {mean}: a finite number is needed")
    if not (math.isfinite(std) and std > 0):
        raise InputError(f"noise standard deviation {std}: a number above 0 is needed")
    return NoiseStats(float(mean), float(std), "given")


def normalize(volume: np.ndarray, stats: NoiseStats) -> np.ndarray:
    """Bring the noise of a map to a mean of 0 and a standard deviation of NORMALIZED_STD.

    Args:
        volume: The map (z, y, x).
        stats: Its noise.

    Returns:
        The normalised map, float32.
    """
    result: np.ndarray = np.subtract(volume, np.float32(stats.mean), dtype=np.float32)
    result *= np.float32(NORMALIZED_STD / stats.std)
    return result


def normalize_with_mask(volume: np.ndarray, mask: np.ndarray, rule: Literal[1, 2, 3]) -> np.ndarray:
    """Normalise a map by its values in a mask: (volume - median) / (p95 - p10) times the mask.

    The rules are the original's (Sanchez-Garcia et al. 2021). Rule 1, its
    `inputNormalizationWithMask`: the mask is dilated by one voxel and binarised at 1 % of its
    range; all voxels in it count for the percentiles. Rule 2, `..._2`: the same mask, only voxels
    above 0 count. Rule 3, `..._3`: mask > 0.01, not dilated, only voxels above 0 count.

    Args:
        volume: The map (z, y, x).
        mask: Of the same shape; boolean or 0 to 1.
        rule: 1, 2 or 3.

    Returns:
        The normalised map, float32.

    Raises:
        InputError: Shapes differ, or the voxels that count are none or all the same.
        ValueError: There is no such rule.
    """
    if volume.shape != mask.shape:
        raise InputError(f"the mask has shape {mask.shape}, the map {volume.shape}")
    if rule not in (1, 2, 3):
        raise ValueError(f"rule {rule} is none of 1, 2, 3")
    if mask.dtype == bool:
        mask = mask.view(np.uint8)
    if rule == 3:
        inside = mask > MASK_THRESHOLD
    else:
        mask = ndimage.grey_dilation(mask, size=(3, 3, 3))
        lowest, highest = float(mask.min()), float(mask.max())
        inside = mask >= lowest + MASK_THRESHOLD * (highest - lowest)
    values = volume[inside if rule == 1 else inside & (volume > 0)]
    if values.size == 0:
        raise InputError(
            "no voxel of the map " + ("lies in the mask" if rule == 1 else "is above 0 in the mask")
        )
    low, median, high = (float(p) for p in np.percentile(values, [10, 50, 95]))
    if not high > low:
        raise InputError("the map is constant in the mask: nothing to normalise by")
    result: np.ndarray = np.subtract(volume, np.float32(median), dtype=np.float32)
    result *= np.float32(1 / (high - low))
    result *= inside
    return result
