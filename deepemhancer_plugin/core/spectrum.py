"""Spectra of maps: radial power, Fourier shell correlation, the flattened map that the network sees beside the plain one, uneven views."""
import math
from collections.abc import Iterator
from itertools import combinations_with_replacement

import numpy as np
from scipy import fft

SLAB = 32  # planes at a time, so that the frequencies of a large map never stand in memory at once


def _shells(shape: tuple[int, ...], rate: float, width: float) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Slabs of the half spectrum of a map (z, y, x): their planes, |k| in 1/A, and the number of the shell of every coefficient."""
    kz, ky, kx = (f(n, rate).astype(np.float32) for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), shape, strict=True))
    plane = ky[:, None] ** 2 + kx[None, :] ** 2
    for start in range(0, shape[0], SLAB):
        planes = slice(start, min(start + SLAB, shape[0]))
        k = np.sqrt(kz[planes, None, None] ** 2 + plane)
        yield planes, k, (k / np.float32(width) + np.float32(0.5)).astype(np.int32)


def shell_width(shape: tuple[int, ...], rate: float) -> float:
    """Width of a shell in 1/A: the coarsest step between the Fourier coefficients of the box."""
    return 1.0 / (min(shape) * rate)


def radial_mean(values: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Mean over each shell of `values` given on the half spectrum (nz, ny, nx // 2 + 1) of a map of `shape`; shell i is at i * width."""
    sums = counts = np.zeros(0)
    for planes, _, shell in _shells(shape, rate, shell_width(shape, rate)):
        weight = np.full(shell.shape, 2.0, np.float32)  # a coefficient with 0 < kx stands for its conjugate too
        weight[..., 0] = 1
        if shape[2] % 2 == 0:
            weight[..., -1] = 1
        n = max(len(sums), int(shell.max()) + 1)
        sums, counts = (np.pad(a, (0, n - len(a))) for a in (sums, counts))
        sums += np.bincount(shell.ravel(), (weight * values[planes]).ravel(), n)
        counts += np.bincount(shell.ravel(), weight.ravel(), n)
    return sums / np.maximum(counts, 1)


def power(spectrum: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Mean |F|^2 of each shell."""
    return radial_mean(spectrum.real**2 + spectrum.imag**2, shape, rate)


def multiply(spectrum: np.ndarray, gain: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> None:
    """Multiply the half spectrum in place by a radial gain given at the shells, linear in between."""
    width = shell_width(shape, rate)
    shells = np.arange(len(gain)) * width
    for planes, k, _ in _shells(shape, rate, width):
        spectrum[planes] *= np.interp(k.ravel(), shells, gain).reshape(k.shape).astype(np.float32)


def low_pass(spectrum: np.ndarray, start: float, end: float, shape: tuple[int, ...], rate: float = 1.0) -> None:
    """Multiply the half spectrum in place by 1 up to `start`, 0 from `end` on (both in 1/A) and half a cosine in between."""
    for planes, k, _ in _shells(shape, rate, shell_width(shape, rate)):
        spectrum[planes] *= 0.5 + 0.5 * np.cos(np.float32(math.pi) * np.clip((k - np.float32(start)) / np.float32(end - start), 0, 1))


def low_passed(volume: np.ndarray, rate: float, start: float, end: float) -> np.ndarray:
    """The map (z, y, x), float32, through `low_pass`."""
    spectrum = fft.rfftn(volume, workers=-1)
    low_pass(spectrum, start, end, volume.shape, rate)
    return fft.irfftn(spectrum, s=volume.shape, workers=-1).astype(np.float32, copy=False)


CELLS = 6          # to a unit vector's component: directions are told apart by ten degrees
ENOUGH = 20000     # coefficients, those of a box of 42^3: the density of views is then found within 3 %
UNEVEN = 1.2       # in the worst direction the noise's power is so many times that in the best: the least that is evened out
UNEXPLAINED = 1.5  # times the mean square that it should have; RELION's halves have 1.03 to 1.36, noise averaged over a helix 1.6 and more
LEAST_VIEWS = 0.1  # of the mean sampling: what hardly any view holds is not raised without limit


def _directions(shape: tuple[int, ...], rate: float) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Slabs as of `_shells`: their planes, the unit vectors of k (3, z, y, x), and the shells, -1 but between the third and Nyquist."""
    axes = [f(n, rate).astype(np.float32) for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), shape, strict=True)]
    for planes, k, shell in _shells(shape, rate, shell_width(shape, rate)):
        along = np.stack(np.broadcast_arrays(axes[0][planes, None, None], axes[1][:, None], axes[2])) / np.maximum(k, 1e-9)
        yield planes, along, np.where((shell < 3) | (shell > min(shape) // 2), -1, shell)


def _quartic(along: np.ndarray) -> np.ndarray:
    """The 15 products of four components of directions (3, ...): all even functions on the sphere up to the fourth degree."""
    return np.stack([np.prod(along[list(four)], axis=0) for four in combinations_with_replacement(range(3), 4)])


EVEN = np.array([1, 0, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 1], np.float32)  # (x^2 + y^2 + z^2)^2


def sampling(difference: np.ndarray, rate: float = 1.0) -> tuple[np.ndarray, float]:
    """How densely the views of a reconstruction sample each direction of Fourier space, from its halves' difference (z, y, x).

    The noise's power goes with the inverse of the number of views, whose density is a smooth function of the direction (Baldwin & Lyumkis
    2020, Prog. Biophys. Mol. Biol. 150, 160): one of the fourth degree, fitted so that it makes the noise's power the same in all directions.
    What it does not explain, such as the layer lines that an imposed helical symmetry leaves of the noise, is no lack of views: the power
    of each coefficient is then no longer distributed exponentially about the fit, with a mean square of twice its mean's.

    Returns:
        the coefficients of `_quartic`, and how many times stronger the noise's power is in the worst direction than in the best; where
        that cannot be told, those of an even sampling and 1.
    """
    spectrum = fft.rfftn(difference, workers=-1)
    noise = power(spectrum, difference.shape, rate)
    number = (2 * CELLS + 1) ** 3
    counts, sums, squares, places = np.zeros(number), np.zeros(number), np.zeros(number), np.zeros((3, number))
    for planes, along, shell in _directions(difference.shape, rate):
        used = (shell > 0) & (noise[shell] > 0)
        along, here = along[:, used], np.square(np.abs(spectrum[planes][used])) / noise[shell[used]]
        cell = np.ravel_multi_index(tuple(np.rint(along * CELLS).astype(np.intp) + CELLS), (2 * CELLS + 1,) * 3)
        counts += np.bincount(cell, minlength=number)
        sums += np.bincount(cell, here, number)
        squares += np.bincount(cell, here**2, number)
        places += [np.bincount(cell, a, number) for a in along]
    if counts.sum() < ENOUGH:
        return EVEN, 1.0
    filled = counts > 0
    weight, relative, basis = np.sqrt(counts[filled]), sums[filled] / counts[filled], _quartic(places[:, filled] / counts[filled])
    coefficients = np.linalg.lstsq((weight * relative * basis).T, weight, rcond=None)[0]
    views = np.maximum(coefficients @ basis, LEAST_VIEWS)
    dispersion = views**2 @ squares[filled] * counts.sum() / (views @ sums[filled]) ** 2 / 2
    if dispersion > UNEXPLAINED:
        return EVEN, 1.0
    return coefficients.astype(np.float32), float(views.max() / views.min())


def evened(volume: np.ndarray, coefficients: np.ndarray, curve: np.ndarray, rate: float = 1.0) -> np.ndarray:
    """The mean of half maps (z, y, x), float32, with noise of about the same power in all directions, where there is much noise.

    Where a direction has g times the mean sampling, and the signal in the shell s times the noise's power, Wiener's filter asks for a factor of
    (s + 1) / (s + 1 / g) relative to that of the whole shell. The root is taken: 1 where the signal is strong, sqrt(g), which makes the noise even,
    where it is weak.

    Args:
        coefficients: of `sampling`.
        curve: the halves' FSC, shell after shell.
    """
    smooth = np.clip(np.convolve(np.pad(curve, 2, mode="edge"), np.ones(5) / 5, "valid"), 0, 0.999)
    signal = (2 * smooth / (1 - smooth)).astype(np.float32)
    spectrum = fft.rfftn(volume, workers=-1)
    for planes, along, shell in _directions(volume.shape, rate):
        sampled = np.maximum(np.tensordot(coefficients, _quartic(along), 1), np.float32(LEAST_VIEWS))
        strong = signal[shell]
        spectrum[planes] *= np.where(shell > 0, np.sqrt((strong + 1) / (strong + 1 / sampled)), 1)
    return fft.irfftn(spectrum, s=volume.shape, workers=-1).astype(np.float32, copy=False)


FILTERED = 7.0       # natural logarithm of a drop of power that no molecule or noise has within an eighth of the frequency: a filter's edge
EDGE, BELOW = 0.12, 1.0  # that eighth, and how far the power may have fallen where the edge begins


def band_limit(volume: np.ndarray, rate: float) -> float | None:
    """Frequency in 1/A where a map (z, y, x) ends because it was low-passed, or None where it goes on to Nyquist.

    A molecule's and the noise's power fall by a factor of ten at most within an eighth of the frequency, a filter's by thousands, and nothing
    comes after it. Found within a fifth, rather too coarse than too fine. A map that was masked after the filter hides it, and None is returned.
    """
    weighted = volume - volume.mean()
    for axis, n in enumerate(volume.shape):  # Hann's window: the edge of a sphere or of the box would leak across the filter's
        weighted *= np.hanning(n + 2)[1:-1].astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    width = shell_width(volume.shape, rate)
    level = np.log(power(fft.rfftn(weighted, workers=-1), volume.shape, rate)[:min(volume.shape) // 2 + 1] + 1e-30)
    for shell in range(max(3, round(1 / 30 / width)), len(level)):
        beyond = level[shell + math.ceil(EDGE * shell) + 2:]  # the window smears each shell over its neighbours
        if len(beyond) and level[shell] - beyond.max() >= FILTERED:
            fallen = np.flatnonzero(level[shell:] <= level[shell] - BELOW)[0]
            return float((shell + fallen - 1.5) * width)
    return None


def fsc(first: np.ndarray, second: np.ndarray, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Fourier shell correlation of two maps (z, y, x): frequencies in 1/A up to Nyquist, and the correlation at each.

    Harauz & van Heel 1986 (Optik 73, 146).
    """
    shape = first.shape
    a, b = fft.rfftn(first, workers=-1), fft.rfftn(second, workers=-1)
    cross = radial_mean((a * np.conj(b)).real, shape, rate)
    norm = np.sqrt(power(a, shape, rate) * power(b, shape, rate))
    width = shell_width(shape, rate)
    n = min(shape) // 2 + 1
    curve = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 1e-12 * norm.max())[:n]
    curve[0] = 1.0
    return np.arange(n) * width, curve


def resolution(frequency: np.ndarray, curve: np.ndarray, threshold: float) -> float:
    """Resolution in A where the curve first falls under the threshold (linear interpolation); Nyquist when it never does."""
    below = np.flatnonzero(curve < threshold)
    below = below[below > 0]
    if not len(below):
        return float(1 / frequency[-1])
    i = below[0]
    t = (curve[i - 1] - threshold) / (curve[i - 1] - curve[i])
    k = frequency[i - 1] + t * (frequency[i] - frequency[i - 1])
    return float(1 / max(k, frequency[1] / 2))


LARGEST_GAIN = 300.0  # between 20 A and the finest detail: B of 200 A^2 at 3 A; beyond there is only rounding and leakage to amplify


def flattening_gain(map_power: np.ndarray, width: float) -> np.ndarray:
    """Gain of each shell (shells `width` in 1/A apart) that makes the map's amplitudes equal, as far as LARGEST_GAIN allows."""
    amplitude = np.sqrt(map_power)
    strongest = amplitude[max(1, round(0.05 / width)):].max(initial=0)
    gain = 1 / np.maximum(amplitude, strongest / LARGEST_GAIN + 1e-30)
    # Shell 0 holds the mean, which is taken out, and what a box with unequal edges has below shell 1: not to be raised to the limit.
    gain[0] = gain[:2].min()
    return gain


def less_steep(volume: np.ndarray, degree: float, workers: int = -1) -> np.ndarray:
    """The map (z, y, x) at 1 A/voxel without its mean, its radial amplitudes flattened (`flattening_gain`) to a degree: 0 not at all, 1 wholly."""
    spectrum = fft.rfftn(volume, workers=workers)
    spectrum[0, 0, 0] = 0
    multiply(spectrum, flattening_gain(power(spectrum, volume.shape), shell_width(volume.shape, 1.0)) ** degree, volume.shape)
    return fft.irfftn(spectrum, s=volume.shape, workers=workers)


def flattened(volume: np.ndarray, workers: int = -1) -> np.ndarray:
    """The map (z, y, x) at 1 A/voxel with flat radial amplitudes (see `flattening_gain`), its strong voxels about one.

    The shape of the spectrum (B factor, regularisation, sharpening) is thus taken out before the network, which would otherwise have to
    amplify fine detail by a hundred in low precision.

    The scale is sqrt(<x^4> / <x^2>), which hardly depends on how much solvent is in the box.
    """
    result = less_steep(volume, 1, workers)
    largest = float(np.abs(result).max())
    if largest > 0:
        result *= np.float32(1 / largest)  # whatever the unit, the fourth power does not underflow
        square = sum(float(np.square(plane).sum(dtype=np.float64)) for plane in result)
        fourth = sum(float(np.square(np.square(plane)).sum(dtype=np.float64)) for plane in result)
        result *= np.float32(np.sqrt(square / fourth))
    return result
