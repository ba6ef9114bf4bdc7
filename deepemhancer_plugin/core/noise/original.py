"""The original program's automatic estimate of the noise, for comparison with it."""

import math

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.filters import distance_from_centre
from deepemhancer_plugin.core.maps.resampling import resize_as_original
from deepemhancer_plugin.core.noise.normalization import NoiseStats


def noise_classic(volume: np.ndarray) -> NoiseStats:
    """The automatic estimate of the original program (its `inputNormalization_3`), for comparison with it.

    A map of 100^3 voxels, local moments in windows of 5^3, the radial profile c(r) of variance - mean: noise is what lies within
    the radius where c comes back to zero after having risen above it (where it never does, half the box), less the protein, which
    is what exceeds 5 % of the range of the dilated local mean square.

    Raises:
        InputError: the original takes the map for hollow (it stops there too), or its noise region is empty or constant.
    """
    size = 100
    small = resize_as_original(volume, (size,) * 3)
    mean = ndimage.uniform_filter(small, 5)
    square = ndimage.uniform_filter(small**2, 5)
    distance = distance_from_centre((size,) * 3)
    shell = distance.astype(np.intp).ravel()
    count = np.bincount(shell)
    energy = np.bincount(shell, square.ravel()) / count
    curve = (
        energy
        - np.bincount(shell, (mean**2).ravel()) / count
        - np.bincount(shell, mean.ravel()) / count
    )

    radius = _classic_radius(curve, energy, size // 2)
    dilated = ndimage.grey_dilation(square, size=(5, 5, 5))
    low, high = float(dilated.min()), float(dilated.max())
    protein = dilated >= low + 0.05 * (high - low)
    region = (distance < radius).astype(small.dtype) - protein
    values = volume[resize_as_original(region, volume.shape) > 0.5]
    if values.size == 0 or values.max() == values.min():
        raise InputError(
            "the classic estimate finds no noise in the map: leave out --noise classic, or pass --noiseStats"
        )
    return NoiseStats(
        float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), "classic"
    )


def _classic_radius(curve: np.ndarray, energy: np.ndarray, half: int) -> float:
    """Radius, in voxels of the small map, within which the original looks for noise; its fall-back is half the box."""
    inner = curve[1:-1]
    minima = np.flatnonzero((inner < curve[:-2]) & (inner < curve[2:])) + 1
    start = int(minima[0]) if len(minima) and curve[minima[0]] < 0 else int(np.argmin(curve))
    if start > half:
        return half
    top = start + int(np.argmax(curve[start : half + 1]))
    if energy[top] > curve[top] > 0:
        raise InputError(
            "the classic noise estimate takes the map for hollow and stops, as the original program does: "
            "leave out --noise classic, or pass --noiseStats MEAN STD"
        )
    above = np.flatnonzero(curve[start:] > 0)
    if len(above) == 0:
        return half
    rise = start + int(above[0])
    back = np.flatnonzero(curve[rise:] <= 0)
    if len(back) == 0:
        return half
    outer, middle = float(np.diff(curve[-10:]).mean()), float(np.diff(curve[-25:-10]).mean())
    if (
        outer > 1e-8 and middle > 1e-8 and outer > 3 * middle
    ):  # rising towards the corners: the whole box
        return math.sqrt(3) * half
    return round(rise + 0.5 * int(back[0]))
