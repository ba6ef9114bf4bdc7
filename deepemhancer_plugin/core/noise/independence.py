"""Whether two half maps are two independent halves of one data set, processed alike.

Noise is independent only between true halves: where the map is quietest, their mean and their
difference have the same power. A half map with the full map, with a copy or with a filtered copy of
itself has less in the difference, and noise measured there is too low. Halves of one refinement
also have one spectrum; another one tells that one of them was filtered or sharpened.
"""

import math

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps.spectrum import power, radial_mean
from deepemhancer_plugin.core.noise.moments import measure_moments, measure_moments_in

LARGEST_CORRELATION = 0.4  # of the noise of the halves; a half and the full map have 0.6 and more
COPY_CORRELATION = 0.999  # likewise, where a mask leaves no noise alone
MASKED = 0.65 * math.pi / 6  # of the box with data; the sphere of reconstruction has pi / 6
QUIET_FRACTION = 0.2  # of the windows: those with least power are taken for noise
LARGEST_SPREAD = 2.0  # of ln(power of one half over that of the other) from shell to shell
FIRST_SHELL = 3  # that counts; those before have too few coefficients
SMOOTHED_SHELLS = 3
LARGEST_SCALE = 1.5  # deviation of one half over that of the other
LARGEST_OFFSET = 1.0  # difference of the halves' means, in standard deviations
LEAST_POWER = 1e-11  # of the strongest shell; what lies lower is rounding


def match_scale(half1: np.ndarray, half2: np.ndarray) -> tuple[float, float] | None:
    """Find what brings the second half to the scale and level of the first, where they differ.

    Args:
        half1: The first half map (z, y, x).
        half2: The second one.

    Returns:
        Factor and summand for the second half; None where they have one scale and level.
    """
    mean1, mean2 = (float(half.mean(dtype=np.float64)) for half in (half1, half2))
    std1, std2 = (float(half.std(dtype=np.float64)) for half in (half1, half2))
    factor = std1 / std2
    scaled = not 1 / LARGEST_SCALE <= factor <= LARGEST_SCALE
    if not scaled:
        factor = 1.0
    if not scaled and abs(mean1 - mean2) <= LARGEST_OFFSET * std1:
        return None
    return factor, mean1 - factor * mean2


def correlate(half1: np.ndarray, half2: np.ndarray) -> float:
    """Correlate two maps (z, y, x) voxel by voxel."""
    one, two = (half - np.float32(half.mean(dtype=np.float64)) for half in (half1, half2))
    product = float(np.einsum("zyx,zyx->", one, two, dtype=np.float64))
    norm = float(one.std(dtype=np.float64)) * float(two.std(dtype=np.float64)) * one.size
    return product / norm if norm > 0 else 0.0


def find_dependence(half1: np.ndarray, half2: np.ndarray) -> str | None:
    """Say why two half maps, of one scale, are not two independent halves processed alike.

    Args:
        half1: The first half map (z, y, x).
        half2: The second one.

    Returns:
        The reason; None where there is none.
    """
    lowest, spread = _compare_shells(half1, half2)
    if lowest > LARGEST_CORRELATION:
        correlation, masked = correlate_noise(half1, half2)
        if min(correlation, lowest) > (COPY_CORRELATION if masked else LARGEST_CORRELATION):
            return f"their noise correlates by {correlation:.2f}, their FSC is {lowest:.2f} or more"
    if spread > LARGEST_SPREAD:
        return f"the ratio of their power varies {np.exp(min(spread, 9)):.2g}-fold over frequency"
    return None


def correlate_noise(half1: np.ndarray, half2: np.ndarray) -> tuple[float, bool]:
    """Correlate two half maps in the quietest of the windows that carry data.

    Returns:
        The correlation, 1 without such windows; and whether the map is masked, so that these may
        hold no solvent.
    """
    mean = measure_moments(lambda z: 0.5 * (half1[z] + half2[z]), half1.shape)
    if mean is None or not len(mean.mean):
        return 1.0, True
    difference = measure_moments_in(lambda z: 0.5 * (half1[z] - half2[z]), half1.shape, mean.kept)
    both = mean.variance + difference.variance
    quiet = both <= np.quantile(both, QUIET_FRACTION)
    total = float(both[quiet].sum())
    shared = float((mean.variance - difference.variance)[quiet].sum())
    return shared / total if total > 0 else 0.0, mean.with_data < MASKED


def _compare_shells(half1: np.ndarray, half2: np.ndarray) -> tuple[float, float]:
    """The lowest FSC, and the range of ln(power of one over that of the other), both smoothed.

    Shells where neither half has power do not count.
    """
    shape, shells = half1.shape, slice(FIRST_SHELL, min(half1.shape) // 2)
    one, two = fft.rfftn(half1, workers=-1), fft.rfftn(half2, workers=-1)
    cross = radial_mean((one * np.conj(two)).real, shape)[shells]
    powers = [power(spectrum, shape)[shells] for spectrum in (one, two)]
    floors = [LEAST_POWER * float(p.max(initial=0)) for p in powers]
    filled = np.any([p > floor for p, floor in zip(powers, floors, strict=True)], 0)
    if np.count_nonzero(filled) < SMOOTHED_SHELLS or not min(floors) > 0:
        return 0.0, 0.0
    # A hundredth of the floor hardly changes what counts, and bounds the ratio.
    one, two = (p[filled] + 0.01 * floor for p, floor in zip(powers, floors, strict=True))
    curve = _smooth(cross[filled] / np.sqrt(one * two))
    return float(curve.min()), float(np.ptp(_smooth(np.log(one / two))))


def _smooth(curve: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.uniform_filter1d(curve, SMOOTHED_SHELLS))
