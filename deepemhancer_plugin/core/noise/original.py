"""The original program's automatic estimate of the noise, for comparison with it."""

import math

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.filters import distance_from_centre
from deepemhancer_plugin.core.maps.resampling import resize_as_original
from deepemhancer_plugin.core.noise.normalization import NoiseStats

_BOX = 100  # voxels, the edge of the map that is looked at
_WINDOW = 5  # voxels
_PROTEIN = 0.05  # of the range of the local mean square
_RISE = 1e-8, 3.0  # towards the corners, and how many times steeper than before


def noise_as_original(volume: np.ndarray) -> NoiseStats:
    """Estimate the noise as the original program does (its `inputNormalization_3`).

    It looks at a map of 100^3 voxels, at local moments in windows of 5^3, and at the radial profile
    c(r) of variance - mean. Noise is what lies within the radius where c comes back to zero after
    it rose over it (half the box where it never does), less the protein, which is what exceeds 5 %
    of the range of the dilated local mean square.

    Args:
        volume: The map (z, y, x).

    Returns:
        The statistics.

    Raises:
        InputError: The original takes the map for hollow (it stops there too), or its region of
            noise is empty or constant.
    """
    shape = (_BOX,) * 3
    small = resize_as_original(volume, shape)
    mean = ndimage.uniform_filter(small, _WINDOW)
    square = ndimage.uniform_filter(small**2, _WINDOW)
    distance = distance_from_centre(shape)
    shell = distance.astype(np.intp).ravel()
    count = np.bincount(shell)
    energy = np.bincount(shell, square.ravel()) / count
    mean_square = np.bincount(shell, (mean**2).ravel()) / count
    curve = energy - mean_square - np.bincount(shell, mean.ravel()) / count

    radius = _find_radius(curve, energy, _BOX // 2)
    dilated = ndimage.grey_dilation(square, size=(_WINDOW,) * 3)
    low, high = float(dilated.min()), float(dilated.max())
    protein = dilated >= low + _PROTEIN * (high - low)
    region = (distance < radius).astype(small.dtype) - protein
    values = volume[resize_as_original(region, volume.shape) > 0.5]
    if values.size == 0 or values.max() == values.min():
        raise InputError(
            "the classic estimate finds no noise in the map: leave out --noise classic, or pass "
            "--noiseStats"
        )
    std = float(values.std(dtype=np.float64))
    return NoiseStats(float(values.mean(dtype=np.float64)), std, "classic")


def _find_radius(curve: np.ndarray, energy: np.ndarray, half: int) -> float:
    """Radius in voxels of the small map within which the original looks for noise.

    Its fall-back is half the box.
    """
    inner = curve[1:-1]
    minima = np.flatnonzero((inner < curve[:-2]) & (inner < curve[2:])) + 1
    start = int(minima[0]) if len(minima) and curve[minima[0]] < 0 else int(np.argmin(curve))
    if start > half:
        return half
    top = start + int(np.argmax(curve[start : half + 1]))
    if energy[top] > curve[top] > 0:
        raise InputError(
            "the classic noise estimate takes the map for hollow and stops, as the original "
            "program does: leave out --noise classic, or pass --noiseStats MEAN STD"
        )
    above = np.flatnonzero(curve[start:] > 0)
    if len(above) == 0:
        return half
    rise = start + int(above[0])
    back = np.flatnonzero(curve[rise:] <= 0)
    if len(back) == 0:
        return half
    outer = float(np.diff(curve[-10:]).mean())
    middle = float(np.diff(curve[-25:-10]).mean())
    least, times = _RISE
    if outer > least and middle > least and outer > times * middle:
        return math.sqrt(3) * half  # the whole box, where c rises towards the corners
    return round(rise + 0.5 * int(back[0]))
