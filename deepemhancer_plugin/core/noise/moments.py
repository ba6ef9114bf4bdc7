"""First and second moments of a map in small windows, wherever it holds data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.maps.filters import distance_from_centre

Planes = Callable[[slice], np.ndarray]  # gives a slab of a map (z, y, x)

_EDGE, _EDGE_IN_SMALL_BOXES, _SMALL_BOX = 4, 2, 40  # voxels; a window is two blocks wide
_FEWEST_BLOCKS = 3  # along each axis
_FEWEST_INNER_BLOCKS = 50  # that are left without the border of the data
_FEWEST_IN_SHELL = 20  # windows
# Radii of shells, 1 where the sphere touches the faces of the box.
_INNER_SHELL, _OUTER_SHELL, _CORNER = (0.7, 0.95), (1.12, 1.3), (1.38, 2)
_SPHERE = 0.95
_FALL = math.log(4)  # of ln(variance) out of the sphere, under which its outside is not judged
_CORNER_FALL = math.log(1.5)
_OUTER_DRIFT, _CORNER_DRIFT = 1.0, 0.6  # variance of the windows' means over that within them


@dataclass(frozen=True)
class LocalMoments:
    """Moments of overlapping cubic windows that carry data throughout.

    Attributes:
        mean: of each window.
        square: mean square of each window.
        with_data: fraction of the box, in blocks.
        kept: which windows of the grid (z, y, x) these are.
    """

    mean: np.ndarray
    square: np.ndarray
    with_data: float
    kept: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Variance within each window."""
        return np.asarray(np.maximum(self.square - self.mean**2, 0))

    def power(self, level: float) -> np.ndarray:
        """Mean square of each window about `level`, over 0."""
        about = self.square - 2 * level * self.mean + level**2
        return np.asarray(np.maximum(about, np.finfo(np.float64).tiny))


class _Blocks(NamedTuple):
    """Moments of blocks (z, y, x) about `reference`, and which of them vary."""

    mean: np.ndarray
    square: np.ndarray
    varies: np.ndarray
    reference: float


def measure_moments(planes: Planes, shape: tuple[int, ...]) -> LocalMoments | None:
    """Measure a map's moments in windows that carry data: none blank, none outside its sphere.

    Windows have 8^3 voxels (4^3 in a box under 40) and lie half a window apart.

    Args:
        planes: Gives a slab of the map; one at a time is held, the map is never copied.
        shape: Its box (z, y, x).

    Returns:
        The moments; None where the box is too small, or nothing in it varies.
    """
    if min(shape) // _block_edge(shape) < _FEWEST_BLOCKS:
        return None
    blocks = _measure_blocks(planes, shape)
    varies = blocks.varies
    if not varies.any():
        return None
    if not varies.all():
        # Blocks at the border of the data are partly empty, or fade in a soft edge.
        inner = ndimage.binary_erosion(varies, np.ones((3, 3, 3)), border_value=1)
        varies = inner if inner.sum() > _FEWEST_INNER_BLOCKS else varies
    mean, square = _average_neighbours(blocks.mean), _average_neighbours(blocks.square)
    kept = _average_neighbours(varies.astype(np.float64)) > 0.99
    variance = np.maximum(square - mean**2, np.finfo(np.float64).tiny)
    kept &= _find_sphere(mean, np.log(variance), kept, varies.shape)
    return _select_windows(blocks, kept)


def measure_moments_in(planes: Planes, shape: tuple[int, ...], kept: np.ndarray) -> LocalMoments:
    """Measure a map's moments in the windows `kept` of another map in the same box.

    Args:
        planes: As in `measure_moments`.
        shape: Its box (z, y, x).
        kept: Of the other map's moments.

    Returns:
        The moments.
    """
    return _select_windows(_measure_blocks(planes, shape), kept)


def _block_edge(shape: tuple[int, ...]) -> int:
    return _EDGE if min(shape) >= _SMALL_BOX else _EDGE_IN_SMALL_BOXES


def _measure_blocks(planes: Planes, shape: tuple[int, ...]) -> _Blocks:
    """Moments of the blocks that tile the middle of a box."""
    edge = _block_edge(shape)
    grid = tuple(n // edge for n in shape)
    start = [(n - g * edge) // 2 for n, g in zip(shape, grid, strict=True)]
    crop = tuple(slice(s, s + g * edge) for s, g in zip(start[1:], grid[1:], strict=True))
    mean, square, varies = np.empty(grid), np.empty(grid), np.empty(grid, bool)
    # Near 0, float32 sums of squares suffice.
    reference = np.float32(np.median(planes(slice(shape[0] // 2, shape[0] // 2 + 1))))
    for i in range(grid[0]):
        z = start[0] + i * edge
        slab = planes(slice(z, z + edge))[(slice(None), *crop)] - reference
        blocks = slab.reshape(edge, grid[1], edge, grid[2], edge)
        mean[i] = blocks.mean((0, 2, 4))
        square[i] = np.einsum("zyaxb,zyaxb->yx", blocks, blocks) / edge**3
        varies[i] = (blocks != blocks[:1, :, :1, :, :1]).any((0, 2, 4))
    return _Blocks(mean, square, varies, float(reference))


def _select_windows(blocks: _Blocks, kept: np.ndarray) -> LocalMoments:
    """The moments of the windows that are kept, about 0."""
    mean = _average_neighbours(blocks.mean)[kept]
    square = _average_neighbours(blocks.square)[kept]
    reference = blocks.reference
    square = square + 2 * reference * mean + reference**2
    return LocalMoments(mean + reference, square, float(blocks.varies.mean()), kept)


def _average_neighbours(blocks: np.ndarray) -> np.ndarray:
    """Means of two neighbouring blocks along each axis."""
    for axis in range(3):
        first, second = [slice(None)] * 3, [slice(None)] * 3
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        blocks = 0.5 * (blocks[tuple(first)] + blocks[tuple(second)])
    return blocks


def _find_sphere(
    mean: np.ndarray, log_variance: np.ndarray, kept: np.ndarray, grid: tuple[int, ...]
) -> np.ndarray:
    """Windows within the sphere of reconstruction, where corners hold no noise; else all windows.

    A map that was cut by a sphere and filtered afterwards has ripples and gradients in the corners
    of its cubic box, far below its noise. They differ from the solvent in the corners of a box that
    is full of molecule: their power falls off outwards, even to nothing, or their level changes by
    more than they vary within a window.
    """
    everywhere = np.ones(kept.shape, bool)
    if len(set(grid)) > 1:
        return everywhere
    centre = tuple((n - 1) / 2 for n in kept.shape)
    radius = distance_from_centre(kept.shape, centre) / (0.5 * grid[0])
    inner, outer, corner = (
        (radius >= low) & (radius < high) for low, high in (_INNER_SHELL, _OUTER_SHELL, _CORNER)
    )
    if min((inner & kept).sum(), (outer & kept).sum()) < _FEWEST_IN_SHELL:
        return everywhere
    outside = float(np.median(log_variance[outer & kept]))
    if outside > np.percentile(log_variance[inner & kept], 10) - _FALL:
        return everywhere
    falls = bool((corner & kept).sum() < 0.5 * corner.sum())
    if not falls and corner.any():
        falls = bool(abs(outside - np.median(log_variance[corner & kept])) > _CORNER_FALL)
    drifts = any(
        np.var(mean[part]) > limit * math.exp(np.median(log_variance[part]))
        for part, limit in ((outer & kept, _OUTER_DRIFT), (corner & kept, _CORNER_DRIFT))
        if part.any()
    )
    # Half a window less than the sphere: not across its soft edge.
    return radius < _SPHERE - 2 / grid[0] if falls or drifts else everywhere
