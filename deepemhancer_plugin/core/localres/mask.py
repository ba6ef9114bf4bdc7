"""The mask of a local resolution for which none was given."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps.components import label_components
from deepemhancer_plugin.core.noise.statistics import noise_from_halves, noise_from_map

SMOOTHING = 3.0  # A, standard deviation of the Gaussian before the threshold
# Standard deviations above the noise of the smoothed map. It has few independent voxels, and a
# robust estimate of its noise may be a fifth too low.
NOISE_LIMIT = 6.0
# Of the smoothed map's high density, at least: where there is no noise, this leaves out ripples and
# the Gaussian's skirt.
DENSITY_LIMIT = 0.12
SMALLEST_PIECE = 0.05  # of the largest component's voxels


def auto_mask(
    volume: np.ndarray, rate: float, halves: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Mask a map where it stands out of its noise after smoothing.

    Small pieces are removed and holes filled.

    Args:
        volume: the map (z, y, x).
        rate: A/voxel.
        halves: half maps in the same box. The noise is then measured between them instead of
            guessed from the solvent, and their mean is masked.

    Returns:
        Boolean (z, y, x).

    Raises:
        InputError: nothing stands out.
    """
    low = _smooth(volume if halves is None else (halves[0] + halves[1]) / 2, rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        if halves is None:
            noise = noise_from_map(low)
        else:
            noise = noise_from_halves(_smooth(halves[0], rate), _smooth(halves[1], rate))
    # A molecule that fills a thousandth of the box reaches half of the 99.9th percentile's height.
    # The maximum serves for smaller ones.
    high = max(float(np.percentile(low, 99.9)), 0.5 * float(low.max() + noise.mean)) - noise.mean
    labels, sizes = label_components(
        low > noise.mean + max(NOISE_LIMIT * noise.std, DENSITY_LIMIT * high)
    )
    if not sizes.any():
        raise InputError("nothing in the map stands out of its noise: give a mask")
    large = sizes >= SMALLEST_PIECE * sizes.max()
    inside: np.ndarray = ndimage.binary_fill_holes(large[labels])
    return inside


def _smooth(volume: np.ndarray, rate: float) -> np.ndarray:
    """Smooth a map. Reflected noise would be stronger at the faces, so the box wraps around."""
    volume = np.asarray(volume, np.float32)
    low: np.ndarray = ndimage.gaussian_filter(volume, SMOOTHING / rate, mode="wrap")
    return low
