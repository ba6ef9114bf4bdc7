"""Local amplitude scaling of a map to a reference, for the targets of real maps.

LocScale (Jakobi, Wilmanns & Sachse 2017, eLife 6:e27131): around every voxel a cubic window is cut
out of the map and of the reference; in Fourier space the map's window is multiplied by the ratio of
the two radial amplitude profiles, and its central voxel is kept. The `locscale` package does that
and much more, but demands versions of TensorFlow, Keras and NumPy that exclude ours.
"""

import functools
from collections.abc import Iterator

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps.filters import frequencies
from deepemhancer_plugin.core.maps.spectrum import shell_matrix

WINDOW = 25  # voxels at 1 A/voxel, the published edge of a window
STEP = 4  # voxels between the windows whose profiles are computed
BATCH = 256  # windows that are transformed at a time


@functools.cache
def _mean_matrix(edge: int) -> np.ndarray:
    """Matrix (coefficients, shells 0 to Nyquist) that takes the mean of each shell of a window."""
    matrix = shell_matrix(edge)
    mean: np.ndarray = matrix / matrix.sum(0)
    return mean


def measure_profiles(
    volume: np.ndarray, corners: np.ndarray, edge: int, workers: int = 1
) -> np.ndarray:
    """Measure the radial amplitude profiles of windows of a map.

    Args:
        volume: the map (z, y, x).
        corners: first voxels (windows, 3) of the windows.
        edge: of the windows in voxels, odd.
        workers: threads of the Fourier transforms.

    Returns:
        Mean amplitude of each shell (windows, edge // 2 + 1), float32.
    """
    windows = np.lib.stride_tricks.sliding_window_view(volume, (edge,) * 3)
    result = np.empty((len(corners), edge // 2 + 1), np.float32)
    for start in range(0, len(corners), BATCH):
        z, y, x = corners[start : start + BATCH].T
        amplitude = np.abs(fft.rfftn(windows[z, y, x], axes=(1, 2, 3), workers=workers))
        result[start : start + BATCH] = amplitude.reshape(len(z), -1) @ _mean_matrix(edge)
    return result


def _filter_shells(
    spectrum: np.ndarray, shape: tuple[int, ...], edge: int, workers: int
) -> Iterator[np.ndarray]:
    """Yield the map filtered for one shell of its windows after the other.

    The filter is one in the shell and falls linearly to zero at its neighbours; that of the last
    shell goes on into the corners. Each voxel is what a filter of the window about it alone would
    give: the kernel has the window's extent, so the map is convolved as a whole.
    """
    radius = edge * frequencies((edge,) * 3)
    shells = np.arange(edge // 2 + 1)
    for shell in shells:
        hat = np.interp(radius, shells, shells == shell)
        kernel = np.zeros(shape, np.float32)
        kernel[:edge, :edge, :edge] = fft.fftshift(fft.irfftn(hat, s=(edge,) * 3))
        kernel = np.roll(kernel, (-(edge // 2),) * 3, (0, 1, 2))
        yield fft.irfftn(spectrum * fft.rfftn(kernel, workers=workers), s=shape, workers=workers)


def scale_locally(
    volume: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray,
    edge: int = WINDOW,
    step: int = STEP,
    workers: int = 1,
) -> np.ndarray:
    """Scale a map locally to the amplitudes of a reference.

    Shell by shell the filtered map, exact for every voxel, is multiplied by the ratio of the mean
    amplitudes, which changes slowly over the map: it is computed for windows `step` voxels apart
    and interpolated linearly; with a step of 1 the result is the definition's. Between the shells
    the ratio is interpolated linearly too. Windows wrap at the borders of the box.

    Args:
        volume: the map (z, y, x).
        reference: another one on the same grid.
        mask: where the scaled map is wanted; boolean, same shape.
        edge: of the windows in voxels, odd.
        step: voxels between windows.
        workers: threads of the Fourier transforms.

    Returns:
        The scaled map, float32, zero outside of the mask.

    Raises:
        ValueError: the edge is even.
    """
    if edge % 2 == 0 or edge < 3:
        raise ValueError(f"a window of {edge} voxels has no central voxel: give an odd number")
    if not mask.any():
        return np.zeros(volume.shape, np.float32)
    spans = [_span(mask, axis) for axis in range(3)]
    cells = [-(-(high - low) // step) for low, high in spans]
    map_part, reference_part = _cut_around(volume, reference, spans, cells, edge // 2, step)
    inside = np.zeros(tuple(n * step + 1 for n in cells), bool)
    box = tuple(slice(low, high + 1) for low, high in spans)
    inside[tuple(slice(0, high - low + 1) for low, high in spans)] = mask[box]

    # Windows at the corners of every cell of the coarse grid that holds a voxel of the mask.
    near = ndimage.maximum_filter(inside, 2 * step - 1)[::step, ::step, ::step]
    corners = np.argwhere(near) * step
    map_profiles = measure_profiles(map_part, corners, edge, workers)
    reference_profiles = measure_profiles(reference_part, corners, edge, workers)
    ratio = reference_profiles / np.maximum(map_profiles, 1e-6 * map_profiles.max() + 1e-30)

    result = np.zeros(volume.shape, np.float32)
    result[box][mask[box]] = _apply_ratio(map_part, ratio, near, inside, edge, step, workers)
    return result


def _span(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along an axis at which the mask holds a voxel."""
    filled = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
    return int(filled[0]), int(filled[-1])


def _cut_around(
    volume: np.ndarray,
    reference: np.ndarray,
    spans: list[tuple[int, int]],
    cells: list[int],
    half: int,
    step: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The mask's part of both maps, a whole number of steps wide, and half a window around it."""
    index = np.ix_(
        *(
            np.arange(low - half, low + n * step + half + 1) % size
            for (low, _), n, size in zip(spans, cells, volume.shape, strict=True)
        )
    )
    return (
        np.ascontiguousarray(volume[index], np.float32),
        np.ascontiguousarray(reference[index], np.float32),
    )


def _apply_ratio(
    part: np.ndarray,
    ratio: np.ndarray,
    near: np.ndarray,
    inside: np.ndarray,
    edge: int,
    step: int,
    workers: int,
) -> np.ndarray:
    """The scaled values (n,) of the voxels in `inside`, from the ratios at the windows `near`."""
    places = np.argwhere(inside)
    z, y, x = places.T + edge // 2
    total = np.zeros(len(places), np.float32)
    gain = np.zeros(near.shape, np.float32)
    spectrum = fft.rfftn(part, workers=workers)
    for shell, band in enumerate(_filter_shells(spectrum, part.shape, edge, workers)):
        gain[near] = ratio[:, shell]
        total += ndimage.map_coordinates(gain, places.T / step, order=1) * band[z, y, x]
    return total
