"""Connected components of a map, and the removal of small ones ("dust")."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError

_CLOSING = 3, 3, 3  # voxels
_NEIGHBOURS = np.ones((3, 3, 3), bool)
_INNER_RADIUS = 0.33  # of half the shortest side
_SLAB = 32  # planes at a time: counting makes 8 bytes of each label


@dataclass(frozen=True)
class RemovedComponents:
    """What the cleaning took away.

    Attributes:
        components: their number.
        voxels: of all of them.
        volume: of all of them, A^3.
    """

    components: int
    voxels: int
    volume: float


def remove_small_components(
    volume: np.ndarray, fraction: float, sampling_rate: float, classic: bool = False
) -> tuple[np.ndarray, RemovedComponents]:
    """Set connected components that are small against all of the density to the map's minimum.

    A grey closing of 3^3 voxels is cut at the mean of two numbers, both of the map itself: Otsu's
    threshold (1979, IEEE Trans. Syst. Man Cybern. 9, 62-66), and the mean within a sphere around
    the centre whose radius is a third of half the shortest side. What is at or above that is
    density; its voxels connect through faces, edges and corners. A component goes when it has fewer
    than `fraction` of all density voxels. The sizes of closing and sphere and the connectivity are
    those of the original program.

    Args:
        volume: The map (z, y, x), not changed.
        fraction: 0 (nothing goes) to 1 (all goes but a component that is alone).
        sampling_rate: A/voxel.
        classic: Set the voxels outside of the density to the minimum, too, as the original program
            does in fact. It cuts the soft edges of what stays, so it serves comparison only.

    Returns:
        The cleaned map, and what was removed (without what `classic` sets outside of the density).

    Raises:
        InputError: `fraction` is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise InputError(
            f"cleaning strength {fraction:g}: between 0 (nothing is removed) and 1 is needed"
        )
    from skimage.filters import threshold_otsu

    threshold = 0.5 * (threshold_otsu(volume) + _inner_mean(volume))
    labels, sizes = label_components(
        ndimage.grey_closing(volume, _CLOSING) >= threshold, _NEIGHBOURS
    )
    small = sizes < fraction * sizes.sum()
    small[0] = False
    removed = int(sizes[small].sum())
    result = RemovedComponents(
        int(np.count_nonzero(small)), removed, removed * float(sampling_rate) ** 3
    )
    small[0] = classic
    cleaned, lowest = volume.copy(), volume.min()
    for plane, plane_labels in zip(cleaned, labels, strict=True):
        plane[small[plane_labels]] = lowest
    return cleaned, result


def label_components(
    density: np.ndarray, neighbours: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected components of a boolean map, and count their voxels.

    Args:
        density: The map (z, y, x).
        neighbours: The structuring element (3, 3, 3) that connects voxels; None: their faces do.

    Returns:
        The number of the component of each voxel (z, y, x), 0 outside; and the voxels of each
        component, 0 for the outside.
    """
    labels, count = ndimage.label(density, neighbours)
    sizes = np.zeros(count + 1, np.int64)
    for planes in np.array_split(labels, max(1, len(labels) // _SLAB)):
        sizes += np.bincount(planes.ravel(), minlength=count + 1)
    sizes[0] = 0
    return labels, sizes


def _inner_mean(volume: np.ndarray) -> float:
    """Mean within a third of half the shortest side from the centre voxel.

    The radius is rounded as in the original program.
    """
    radius = max(1, int(_INNER_RADIUS * (min(volume.shape) // 2)))
    corner = [max(0, n // 2 - radius) for n in volume.shape]
    middle = volume[
        tuple(slice(c, n // 2 + radius) for c, n in zip(corner, volume.shape, strict=True))
    ]
    z, y, x = (
        np.arange(c, c + m) - n // 2
        for c, m, n in zip(corner, middle.shape, volume.shape, strict=True)
    )
    return float(
        middle[z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2].mean(dtype=np.float64)
    )
