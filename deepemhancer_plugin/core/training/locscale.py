"""Local amplitude scaling of a map to a reference (LocScale; Jakobi, Wilmanns & Sachse 2017, eLife 6:e27131), for the targets of real maps.

Around every voxel a cubic window is cut out of the map and of the reference; in Fourier space the map's window is multiplied by the ratio of the
two radial amplitude profiles, and its central voxel is kept. The `locscale` package does that and much more, but demands versions of TensorFlow,
Keras and NumPy that exclude ours.
"""

import functools
from collections.abc import Iterator

import numpy as np
from scipy import fft, ndimage

WINDOW = 25.0  # A, the published edge of a window
STEP = 4  # voxels between the windows whose profiles are computed
BATCH = 256  # windows transformed at a time


@functools.cache
def _shells(edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the half spectrum of a window, flattened: |k| in units of 1/edge, and the matrix (coefficients, shells) that takes the mean of each shell.

    A shell holds the coefficients nearest to its radius, conjugates counted, up to Nyquist; the corners beyond belong to none.
    """
    k = np.sqrt(
        sum(
            np.square(g)
            for g in np.meshgrid(
                fft.fftfreq(edge, 1 / edge),
                fft.fftfreq(edge, 1 / edge),
                np.arange(edge // 2 + 1),
                indexing="ij",
            )
        )
    )
    twice = np.where(np.arange(edge // 2 + 1) > 0, 2.0, 1.0) * np.ones_like(
        k
    )  # the edge is odd: no coefficient at Nyquist itself
    member = (np.round(k)[..., None] == np.arange(edge // 2 + 1)) * twice[..., None]
    member = member.reshape(-1, edge // 2 + 1)
    return k.ravel(), (member / member.sum(0)).astype(np.float32)


def profiles(volume: np.ndarray, corners: np.ndarray, edge: int, workers: int = 1) -> np.ndarray:
    """Mean amplitude of each shell (windows, edge // 2 + 1) of the windows of `edge` voxels (odd) that begin at `corners` (windows, 3)."""
    windows = np.lib.stride_tricks.sliding_window_view(volume, (edge,) * 3)
    result = np.empty((len(corners), edge // 2 + 1), np.float32)
    for start in range(0, len(corners), BATCH):
        z, y, x = corners[start : start + BATCH].T
        amplitude = np.abs(fft.rfftn(windows[z, y, x], axes=(1, 2, 3), workers=workers))
        result[start : start + BATCH] = amplitude.reshape(len(z), -1) @ _shells(edge)[1]
    return result


def _bands(
    spectrum: np.ndarray, shape: tuple[int, ...], edge: int, workers: int
) -> Iterator[np.ndarray]:
    """For each shell the central voxels of all windows after a filter that is one in this shell and falls linearly to zero at its neighbours.

    The filter acts on a window alone, so its kernel has the window's extent; as a convolution of the whole map it needs no windows.
    """
    k = _shells(edge)[0].reshape(edge, edge, -1)
    for shell in range(edge // 2 + 1):
        hat = np.interp(
            k, np.arange(edge // 2 + 1), np.arange(edge // 2 + 1) == shell
        )  # the last shell's goes on into the corners
        kernel = np.zeros(shape, np.float32)
        kernel[:edge, :edge, :edge] = fft.fftshift(fft.irfftn(hat, s=(edge,) * 3))
        kernel = np.roll(kernel, (-(edge // 2),) * 3, (0, 1, 2))
        yield fft.irfftn(spectrum * fft.rfftn(kernel, workers=workers), s=shape, workers=workers)


def locscale(
    volume: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray,
    edge: int = int(WINDOW),
    step: int = STEP,
    workers: int = 1,
) -> np.ndarray:
    """The map (z, y, x), scaled locally to the reference's amplitudes where `mask` is true, zero elsewhere; float32.

    Shell by shell the filtered map (exact for every voxel) is multiplied by the ratio of the mean amplitudes, which changes slowly over the map: it
    is computed for windows `step` voxels apart and interpolated linearly; with a step of 1 the result is the definition's. Between the shells the
    ratio is interpolated linearly too. Windows wrap at the box's borders.

    Args:
        volume, reference: maps on the same grid.
        mask: boolean, same shape.
        edge: of the windows in voxels, odd (25 at 1 A/voxel).
        step: voxels between windows.
        workers: threads of the Fourier transforms.
    """
    if edge % 2 == 0 or edge < 3:
        raise ValueError(
            f"a window of {edge} voxels: an odd number is needed, so that it has a central voxel"
        )
    if not mask.any():
        return np.zeros(volume.shape, np.float32)
    # The mask's part of the map, a whole number of steps wide, and half a window around it.
    spans = [
        np.flatnonzero(mask.any(tuple(b for b in range(3) if b != a)))[[0, -1]] for a in range(3)
    ]
    cells = [int(-(-(high - low) // step)) for low, high in spans]
    half = edge // 2
    index = np.ix_(
        *(
            np.arange(low - half, low + n * step + half + 1) % size
            for (low, _), n, size in zip(spans, cells, volume.shape, strict=True)
        )
    )
    part, like = (np.ascontiguousarray(v[index], np.float32) for v in (volume, reference))
    inside = np.zeros(tuple(n * step + 1 for n in cells), bool)
    box = tuple(slice(low, high + 1) for low, high in spans)
    wanted = tuple(slice(0, high - low + 1) for low, high in spans)
    inside[wanted] = mask[box]

    # Windows at the corners of every cell of the coarse grid that holds a voxel of the mask.
    near = ndimage.maximum_filter(inside, 2 * step - 1)[::step, ::step, ::step]
    corners = np.argwhere(near) * step
    of_map, of_reference = (
        profiles(part, corners, edge, workers),
        profiles(like, corners, edge, workers),
    )
    ratio = of_reference / np.maximum(of_map, 1e-6 * of_map.max() + 1e-30)

    places = np.argwhere(inside)
    coordinates = places.T / step
    z, y, x = places.T
    total = np.zeros(len(places), np.float32)
    gain = np.zeros(near.shape, np.float32)
    spectrum = fft.rfftn(part, workers=workers)
    for shell, band in enumerate(_bands(spectrum, part.shape, edge, workers)):
        gain[near] = ratio[:, shell]
        total += (
            ndimage.map_coordinates(gain, coordinates, order=1) * band[z + half, y + half, x + half]
        )
    result = np.zeros(volume.shape, np.float32)
    result[box][mask[box]] = total
    return result
