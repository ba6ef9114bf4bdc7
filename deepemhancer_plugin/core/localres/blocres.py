"""Local resolution from two half maps: the Fourier shell correlation in a soft window around every place of a mask.

The way of Cardone, Heymann & Steven 2013 (J. Struct. Biol. 184, 226-236), whose program is Bsoft's blocres. Windows stand on a grid of a few
voxels, and only where the mask needs them; between the grid's points the frequency of the crossing is interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import filters, spectrum

WINDOW = 7.0  # the default window's diameter in units of the halves' resolution (FSC = 0.5 in the mask): seven shells up to there
LEAST_WINDOW = 16  # voxels; a smaller one has too few shells for a curve
LEAKAGE = 1e-2  # a shell with less than this share of a coarser one's power holds what the window lets leak, not a correlation
ROUNDING = 1e-5  # of the strongest shell's amplitude: weaker ones are not raised, they hold what single precision rounds
BATCH = 2**20  # voxels of windows that are transformed at a time, of each half
THREADS = 2


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
    """Local resolution in A of every voxel in the mask, float32 (z, y, x), zero outside of the mask.

    What a window cannot tell is cut off: no value is finer than Nyquist (2 `rate`), none coarser than the window's diameter, which says
    "nothing agrees here". Windows that stick out of the box see zeros there. A voxel at the edge of the molecule sees half a window of
    solvent, and so has a coarser value than the same structure deep inside.

    Args:
        half1, half2: the half maps (z, y, x), unfiltered and unmasked; any unit.
        rate: A/voxel.
        mask: boolean (z, y, x), where the resolution is wanted.
        window: diameter of the soft sphere in A; None: `default_window`.
        step: voxels between windows; None: a sixth of the window's diameter.
        threshold: of the FSC between the halves: 0.5 is the usual one for small windows; 0.143 is where their mean correlates by 0.5 with the
            truth (Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721-745), and less certain.
        progress: called with ("local FSC", windows done, windows in all).

    Raises:
        InputError: boxes that differ, an empty mask, a window larger than the box or under 16 voxels, a step or threshold that cannot be.
    """
    half1, half2, mask = (
        np.asarray(half1, np.float32),
        np.asarray(half2, np.float32),
        np.asarray(mask, bool),
    )
    if not half1.shape == half2.shape == mask.shape:
        raise InputError(
            f"half maps and mask differ in box: {half1.shape}, {half2.shape} and {mask.shape} (z, y, x): all need the same"
        )
    if not mask.any():
        raise InputError("the mask is empty: it needs voxels to tell the resolution of")
    if not 0 < threshold < 1:
        raise InputError(
            f"FSC threshold {threshold:g}: between 0 and 1 is needed, 0.5 or 0.143 are usual"
        )
    edge = _edge(
        default_window(half1, half2, rate, mask) if window is None else window, half1.shape, rate
    )
    step = max(1, edge // 6) if step is None else step
    if step < 1:
        raise InputError(f"step {step}: at least 1 voxel is needed")
    tell = progress or (lambda what, done, total: None)

    nodes = _nodes(mask, step)
    wanted = np.argwhere(nodes)
    gain = _whitening(half1, half2, rate)
    views = [
        np.lib.stride_tricks.sliding_window_view(
            np.pad(_filtered(half, gain, rate), edge // 2), (edge,) * 3
        )
        for half in (half1, half2)
    ]
    taper, shells = soft_sphere(edge), _shell_sums(edge)
    frequency = np.zeros(nodes.shape, np.float32)
    batch = max(1, BATCH // edge**3)
    for start in range(0, len(wanted), batch):
        at = wanted[start : start + batch]
        z, y, x = np.minimum(
            at * step, np.array(mask.shape) - 1
        ).T  # a grid's last point may lie beyond the box: the last voxel stands for it
        curves = _curves(views[0][z, y, x] * taper, views[1][z, y, x] * taper, shells)
        frequency[tuple(at.T)] = _crossing(curves, threshold)
        tell("local FSC", min(start + batch, len(wanted)), len(wanted))
    return _spread(frequency / (edge * rate), mask, step, edge * rate)


def default_window(half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray) -> float:
    """Diameter in A: seven times the resolution where the halves' FSC in the mask falls under 0.5; at most half the box."""
    resolution = spectrum.resolution(*masked_fsc(half1, half2, rate, mask), 0.5)
    return max(min(WINDOW * resolution, min(half1.shape) * rate / 2), LEAST_WINDOW * rate)


def masked_fsc(
    half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """FSC of the halves in a mask that gets a cosine edge of five voxels: frequencies in 1/A and the curve, as `spectrum.fsc`.

    Whitened before they are masked, so that the mask does not carry what agrees into finer shells (see `_whitening`).
    """
    away = ndimage.distance_transform_edt(~mask).astype(np.float32)
    soft = 0.5 + 0.5 * np.cos(np.pi * np.clip(away / 5, 0, 1))
    gain = _whitening(half1, half2, rate)
    return spectrum.fsc(
        _filtered(half1, gain, rate) * soft, _filtered(half2, gain, rate) * soft, rate
    )


def soft_sphere(edge: int) -> np.ndarray:
    """The window (edge, edge, edge), float32: a raised cosine of the distance from voxel edge // 2, from one there to zero at edge / 2.

    Its transform falls off fast: what is strong in one shell hardly shows beyond the neighbouring two.
    """
    axis = (np.arange(edge, dtype=np.float32) - edge // 2) ** 2
    radius = np.sqrt(axis[:, None, None] + axis[None, :, None] + axis)
    return 0.5 + 0.5 * np.cos(np.pi * np.minimum(2 * radius / edge, 1))


def _edge(window: float, shape: tuple[int, ...], rate: float) -> int:
    """The window's edge in voxels: the next even number."""
    edge = 2 * round(window / rate / 2)
    largest = min(shape) // 2 * 2
    if not LEAST_WINDOW <= edge <= largest:
        raise InputError(
            f"window {window:g} A: between {LEAST_WINDOW * rate:g} and {largest * rate:g} A is right for this map: at least "
            f"{LEAST_WINDOW} voxels, and no more than the box"
        )
    return edge


def _nodes(mask: np.ndarray, step: int) -> np.ndarray:
    """Which points of the grid (0, step, 2 step ... along each axis) a voxel of the mask is interpolated from: boolean (z, y, x)."""
    cells = [-(-n // step) for n in mask.shape]
    padded = np.pad(mask, [(0, c * step - n) for c, n in zip(cells, mask.shape, strict=True)])
    occupied = padded.reshape(cells[0], step, cells[1], step, cells[2], step).any((1, 3, 5))
    # Cell i lies between points i and i + 1; the first point of every cell is a voxel of the box.
    return ndimage.maximum_filter(np.pad(occupied, (0, 1)), size=2, mode="constant")


def _whitening(half1: np.ndarray, half2: np.ndarray, rate: float) -> np.ndarray:
    """The radial gain that makes the mean map's amplitudes equal.

    The same on both halves, it changes no correlation; but without it a window's side lobes would carry the strong coarse shells, which
    agree, into the fine ones, which a B factor makes a hundred times weaker.
    """
    mean = fft.rfftn((half1 + half2) / 2, workers=THREADS)
    mean[0, 0, 0] = 0
    amplitude = np.sqrt(spectrum.power(mean, half1.shape, rate))
    gain = 1 / np.maximum(amplitude, ROUNDING * amplitude.max() + 1e-30)
    gain[0] = gain[
        :2
    ].min()  # the mean, which is taken out; a long box has coefficients between shells 0 and 1
    return gain


def _filtered(volume: np.ndarray, gain: np.ndarray, rate: float) -> np.ndarray:
    transform = fft.rfftn(volume, workers=THREADS)
    transform[0, 0, 0] = 0
    filters.apply_gain(transform, gain, volume.shape, rate)
    return fft.irfftn(transform, s=volume.shape, workers=THREADS)


def _shell_sums(edge: int) -> np.ndarray:
    """Matrix (coefficients of the half spectrum, shells up to Nyquist) that sums over shells, conjugates counted."""
    full, half = np.abs(fft.fftfreq(edge, 1 / edge)), fft.rfftfreq(edge, 1 / edge)
    shell = np.floor(
        np.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2) + 0.5
    ).astype(int)
    weight = np.where((half == 0) | (half == edge // 2), 1, 2) * np.ones(shell.shape)
    sums = (shell.ravel()[:, None] == np.arange(edge // 2 + 1)) * weight.ravel()[:, None]
    return sums.astype(np.float32)


def _curves(first: np.ndarray, second: np.ndarray, shells: np.ndarray) -> np.ndarray:
    """FSC of n pairs of windows (n, edge, edge, edge): (n, shells up to Nyquist), one in shell 0."""
    a, b = (
        fft.rfftn(w, axes=(1, 2, 3), workers=THREADS).reshape(len(w), -1) for w in (first, second)
    )
    cross = (a.real * b.real + a.imag * b.imag) @ shells
    norm = np.sqrt(((a.real**2 + a.imag**2) @ shells) * ((b.real**2 + b.imag**2) @ shells))
    counts = shells.sum(0)
    density = (
        norm / counts
    )  # after whitening about the same in all shells, but where a filter took everything
    floor = LEAKAGE * np.maximum.accumulate(
        np.where(np.arange(len(counts)) > 0, density, 0), axis=1
    )
    curves = np.divide(cross, norm, out=np.zeros_like(cross), where=density > floor)
    curves[:, 0] = 1
    return curves


def _crossing(curves: np.ndarray, threshold: float) -> np.ndarray:
    """Shell number, with fraction, where each curve (n, shells) first falls under the threshold; the last shell where it never does.

    At least one: what lies between shells 0 and 1 is coarser than the window.
    """
    below = curves[:, 1:] < threshold
    i = np.where(below.any(1), below.argmax(1) + 1, curves.shape[1] - 1)
    rows = np.arange(len(curves))
    before, after = curves[rows, i - 1], curves[rows, i]
    fraction = np.where(
        after < threshold, (before - threshold) / np.maximum(before - after, 1e-6), 1
    )
    return np.maximum(i - 1 + fraction, 1)


def _spread(frequency: np.ndarray, mask: np.ndarray, step: int, coarsest: float) -> np.ndarray:
    """The grid's frequencies (1/A) at every voxel of the mask, as a resolution in A; zero elsewhere."""
    result = np.zeros(mask.shape, np.float32)
    for plane in range(mask.shape[0]):
        y, x = np.nonzero(mask[plane])
        if len(y):
            at = np.stack([np.full(len(y), plane), y, x]) / step
            result[plane, y, x] = 1 / np.maximum(
                ndimage.map_coordinates(frequency, at, order=1, mode="nearest"), 1 / coarsest
            )
    return result
