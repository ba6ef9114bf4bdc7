"""Local resolution from two half maps, by their Fourier shell correlation in small windows.

The method of Cardone, Heymann & Steven 2013 (J. Struct. Biol. 184, 226-236), whose program is
Bsoft's blocres. Windows stand on a grid of a few voxels, only where the mask needs them; between
the grid's points the frequency of the crossing is interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.devices import cpu_cores
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import filters, spectrum

WINDOW_RESOLUTIONS = 7.0  # the default window's diameter in units of the halves' resolution
SMALLEST_WINDOW = 16  # voxels; a smaller one has too few shells for a curve
MASK_EDGE = 5  # voxels, of the cosine that a mask gets
LEAKAGE = 1e-2  # of a coarser shell's power: less than that is what the window leaks
ROUNDING = 1e-5  # of the strongest shell's amplitude: less than that is single precision's rounding
VOXELS_AT_A_TIME = 2**20  # of each half's windows


def local_fsc(
    half1: np.ndarray,
    half2: np.ndarray,
    rate: float,
    mask: np.ndarray,
    window: float | None = None,
    step: int | None = None,
    threshold: float = 0.5,
    progress: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """Measure the local resolution of two half maps.

    No value is finer than Nyquist (2 `rate`), and none is coarser than the window's diameter, which
    means that the halves do not agree there. Windows that stick out of the box see zeros. A voxel
    at the edge of the molecule sees half a window of solvent, and so has a coarser value than the
    same structure deep inside.

    Args:
        half1: a half map (z, y, x), unfiltered and unmasked; any unit.
        half2: the other one.
        rate: A/voxel.
        mask: boolean (z, y, x), where the resolution is wanted.
        window: diameter of the soft sphere in A; None: `default_window`.
        step: voxels between windows; None: a sixth of the window's diameter.
        threshold: of the FSC between the halves. 0.5 is usual for small windows. 0.143 is where
            the halves' mean correlates by 0.5 with the truth (Rosenthal & Henderson 2003, J. Mol.
            Biol. 333, 721-745), and less certain.
        progress: called with ("local FSC", windows done, windows in all).

    Returns:
        Resolution in A of every voxel in the mask, float32 (z, y, x), zero outside the mask.

    Raises:
        InputError: boxes that differ, an empty mask, a window larger than the box or under 16
            voxels, a step or threshold that cannot be.
    """
    half1, half2 = np.asarray(half1, np.float32), np.asarray(half2, np.float32)
    mask = np.asarray(mask, bool)
    _check(half1, half2, mask, threshold)
    with fft.set_workers(cpu_cores()):
        if window is None:
            window = default_window(half1, half2, rate, mask)
        edge = _window_edge(window, half1.shape, rate)
        step = max(1, edge // 6) if step is None else step
        if step < 1:
            raise InputError(f"step {step}: at least 1 voxel is needed")
        halves = _whiten(half1, half2, rate)
        shells = _crossings(halves, _grid_points(mask, step), step, edge, threshold, progress)
    return _interpolate(shells / (edge * rate), mask, step, edge * rate)


def default_window(half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray) -> float:
    """Choose a diameter in A: seven times the halves' resolution, at most half the box.

    The resolution is where their FSC in the mask falls under 0.5.
    """
    resolution = spectrum.resolution(*masked_fsc(half1, half2, rate, mask), 0.5)
    largest = min(half1.shape) * rate / 2
    return float(max(min(WINDOW_RESOLUTIONS * resolution, largest), SMALLEST_WINDOW * rate))


def masked_fsc(
    half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the FSC of two half maps in a boolean mask (z, y, x), which gets a soft edge.

    The halves are whitened first, so that the mask does not carry what agrees into finer shells.

    Returns:
        Frequencies in 1/A and the curve, as `spectrum.fsc`.
    """
    soft = filters.soft_edge(mask, 1, 0, MASK_EDGE)
    with fft.set_workers(cpu_cores()):
        first, second = (half * soft for half in _whiten(half1, half2, rate))
        return spectrum.fsc(first, second, rate)


def soft_sphere(edge: int) -> np.ndarray:
    """Make the window: a raised cosine of the distance from voxel edge // 2.

    Its transform falls off fast: a strong shell hardly shows beyond its two neighbours.

    Returns:
        Float32 (edge, edge, edge), from one in the middle to zero at edge / 2.
    """
    radius = filters.distance_from_centre((edge,) * 3).astype(np.float32)
    return filters.raised_cosine(radius, 0, edge / 2)


def _check(half1: np.ndarray, half2: np.ndarray, mask: np.ndarray, threshold: float) -> None:
    if not half1.shape == half2.shape == mask.shape:
        raise InputError(
            f"half maps and mask differ in box: {half1.shape}, {half2.shape} and {mask.shape} "
            "(z, y, x): all need the same"
        )
    if not mask.any():
        raise InputError("the mask is empty: it needs voxels to find the resolution of")
    if not 0 < threshold < 1:
        raise InputError(
            f"FSC threshold {threshold:g}: between 0 and 1 is needed, 0.5 or 0.143 are usual"
        )


def _window_edge(window: float, shape: tuple[int, ...], rate: float) -> int:
    """The window's edge in voxels: the next even number."""
    edge = 2 * round(window / rate / 2)
    largest = min(shape) // 2 * 2
    if not SMALLEST_WINDOW <= edge <= largest:
        raise InputError(
            f"window {window:g} A: between {SMALLEST_WINDOW * rate:g} and {largest * rate:g} A is "
            f"right for this map: at least {SMALLEST_WINDOW} voxels, and no more than the box"
        )
    return edge


def _grid_points(mask: np.ndarray, step: int) -> np.ndarray:
    """Which points of a grid the mask's voxels are interpolated from: boolean (z, y, x).

    The grid is 0, step, 2 step ... voxels along each axis.
    """
    cells = [-(-n // step) for n in mask.shape]
    padded = np.pad(mask, [(0, c * step - n) for c, n in zip(cells, mask.shape, strict=True)])
    occupied = padded.reshape(cells[0], step, cells[1], step, cells[2], step).any((1, 3, 5))
    # Cell i lies between points i and i + 1.
    points: np.ndarray = ndimage.maximum_filter(np.pad(occupied, (0, 1)), 2, mode="constant")
    return points


def _whiten(half1: np.ndarray, half2: np.ndarray, rate: float) -> list[np.ndarray]:
    """Give both halves the radial gain that makes their mean's amplitudes equal.

    A gain that is the same on both changes no correlation. Without it a window's side lobes would
    carry the strong coarse shells, which agree, into the fine ones, which a B factor makes a
    hundred times weaker.
    """
    mean = fft.rfftn((half1 + half2) / 2)
    mean[0, 0, 0] = 0
    amplitude = np.sqrt(spectrum.power(mean, half1.shape, rate))
    gain = 1 / np.maximum(amplitude, ROUNDING * amplitude.max() + 1e-30)
    # Shell 0 holds the mean, which is taken out, and what a long box has below shell 1.
    gain[0] = gain[:2].min()
    whitened = []
    for half in (half1, half2):
        transform = fft.rfftn(half)
        transform[0, 0, 0] = 0
        filters.apply_gain(transform, gain, half.shape, rate)
        whitened.append(fft.irfftn(transform, s=half.shape))
    return whitened


def _crossings(
    halves: list[np.ndarray],
    points: np.ndarray,
    step: int,
    edge: int,
    threshold: float,
    progress: Callable[[str, int, int], None] | None,
) -> np.ndarray:
    """Shell number of the crossing at each of the grid's wanted points, zero at the others."""
    views = [
        np.lib.stride_tricks.sliding_window_view(np.pad(half, edge // 2), (edge,) * 3)
        for half in halves
    ]
    window, shells = soft_sphere(edge), spectrum.shell_matrix(edge)
    result = np.zeros(points.shape, np.float32)
    wanted = np.argwhere(points)
    batch = max(1, VOXELS_AT_A_TIME // edge**3)
    for start in range(0, len(wanted), batch):
        some = wanted[start : start + batch]
        # A grid's last point may lie beyond the box: the last voxel stands for it.
        z, y, x = np.minimum(some * step, np.array(halves[0].shape) - 1).T
        curves = _fsc_curves(views[0][z, y, x] * window, views[1][z, y, x] * window, shells)
        result[tuple(some.T)] = _find_crossings(curves, threshold)
        if progress:
            progress("local FSC", start + len(some), len(wanted))
    return result


def _fsc_curves(first: np.ndarray, second: np.ndarray, shells: np.ndarray) -> np.ndarray:
    """FSC of n pairs of windows (n, edge, edge, edge): (n, shells up to Nyquist), one in shell 0.

    `shells` is the matrix of `spectrum.shell_matrix`.
    """
    a, b = (fft.rfftn(w, axes=(1, 2, 3)).reshape(len(w), -1) for w in (first, second))
    cross = (a.real * b.real + a.imag * b.imag) @ shells
    norm = np.sqrt(((a.real**2 + a.imag**2) @ shells) * ((b.real**2 + b.imag**2) @ shells))
    # After whitening all shells are about equally strong, but where a filter took everything.
    strength = norm / shells.sum(0)
    coarser = np.where(np.arange(shells.shape[1]) > 0, strength, 0)
    floor = LEAKAGE * np.maximum.accumulate(coarser, axis=1)
    curves: np.ndarray = np.divide(cross, norm, out=np.zeros_like(cross), where=strength > floor)
    curves[:, 0] = 1
    return curves


def _find_crossings(curves: np.ndarray, threshold: float) -> np.ndarray:
    """Shell, with fraction, where each curve (n, shells) first falls under the threshold.

    The last shell where it never does. At least one: a crossing between shells 0 and 1 is coarser
    than the window.
    """
    below = curves[:, 1:] < threshold
    i = np.where(below.any(1), below.argmax(1) + 1, curves.shape[1] - 1)
    rows = np.arange(len(curves))
    before, after = curves[rows, i - 1], curves[rows, i]
    fall = np.maximum(before - after, 1e-6)
    fraction = np.where(after < threshold, (before - threshold) / fall, 1)
    crossing: np.ndarray = np.maximum(i - 1 + fraction, 1)
    return crossing


def _interpolate(frequency: np.ndarray, mask: np.ndarray, step: int, coarsest: float) -> np.ndarray:
    """Resolution in A at every voxel of the mask, of the grid's frequencies in 1/A; else zero."""
    result = np.zeros(mask.shape, np.float32)
    for plane in range(mask.shape[0]):
        y, x = np.nonzero(mask[plane])
        if len(y):
            at = np.stack([np.full(len(y), plane), y, x]) / step
            values = ndimage.map_coordinates(frequency, at, order=1, mode="nearest")
            result[plane, y, x] = 1 / np.maximum(values, 1 / coarsest)
    return result
