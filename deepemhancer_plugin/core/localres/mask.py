"""The mask that `localres` makes for itself when none is given."""

import warnings

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.noise import statistics as normalization

SMOOTH = 3.0  # A, standard deviation of the Gaussian before the threshold: detail to about 10 A
SIGMAS = 6.0  # above the noise of the smoothed map, whose few independent voxels let its robust estimate be a fifth too low
SHARE = 0.12  # of the smoothed map's high density, at least: where there is no noise, ripples and the Gaussian's skirt are left out
LEAST = 0.05  # components with less than this share of the largest one's voxels go


def auto_mask(
    volume: np.ndarray, rate: float, halves: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Boolean (z, y, x): where the smoothed map stands out of its noise, small pieces removed and holes filled.

    Args:
        volume: the map (z, y, x).
        rate: A/voxel.
        halves: half maps in the same box; the noise is then measured as their difference instead of guessed from the solvent.

    Raises:
        InputError: nothing stands out.
    """

    def smooth(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(
            np.asarray(values, np.float32), SMOOTH / rate, mode="wrap"
        )  # reflected noise would be higher at the faces

    low = smooth(volume if halves is None else (halves[0] + halves[1]) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        noise = (
            normalization.noise_from_map(low)
            if halves is None
            else normalization.noise_from_halves(smooth(halves[0]), smooth(halves[1]))
        )
    # Half of the 99.9th percentile's height is reached inside any molecule that fills a thousandth of the box; of less, the maximum tells.
    high = max(float(np.percentile(low, 99.9)), 0.5 * float(low.max() + noise.mean)) - noise.mean
    inside = low > noise.mean + max(SIGMAS * noise.std, SHARE * high)
    labels, count = ndimage.label(inside)
    if not count:
        raise InputError(
            "no mask can be made: nothing in the map stands out of its noise: give a mask (--mask)"
        )
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes((sizes >= LEAST * sizes.max())[labels])
