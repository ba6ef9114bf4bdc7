"""Spectra of maps: radial power, Fourier shell correlation, amplitude profiles, flattening."""

import math

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps.filters import (
    apply_gain,
    frequencies,
    frequency_slabs,
    shell_width,
)


def shell_slabs(shape: tuple[int, ...], rate: float = 1.0):
    """Slabs of the half spectrum of a map (z, y, x): their planes, and the number of the shell of every coefficient."""
    width = np.float32(shell_width(shape, rate))
    for planes, k in frequency_slabs(shape, rate):
        yield planes, (k / width + np.float32(0.5)).astype(np.int32)


def conjugate_weights(shape: tuple[int, ...]) -> np.ndarray:
    """How many coefficients of the whole spectrum each along x (nx // 2 + 1) of the half spectrum stands for: 1 or 2."""
    weight = np.full(shape[-1] // 2 + 1, 2.0, np.float32)
    weight[0] = 1
    if shape[-1] % 2 == 0:
        weight[-1] = 1
    return weight


def radial_mean(values: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Mean over each shell of `values` given on the half spectrum (nz, ny, nx // 2 + 1) of a map of `shape`; shell i is at i * width."""
    sums = counts = np.zeros(0)
    weights = conjugate_weights(shape)
    for planes, shell in shell_slabs(shape, rate):
        weight = np.broadcast_to(weights, shell.shape)
        n = max(len(sums), int(shell.max()) + 1)
        sums, counts = (np.pad(a, (0, n - len(a))) for a in (sums, counts))
        sums += np.bincount(shell.ravel(), (weight * values[planes]).ravel(), n)
        counts += np.bincount(shell.ravel(), weight.ravel(), n)
    return sums / np.maximum(counts, 1)


def shell_matrix(edge: int) -> np.ndarray:
    """Matrix (coefficients of the half spectrum of a cube, shells 0 to Nyquist) that sums over shells, conjugates counted; float32.

    For many small cubes, where a product with a matrix is faster than `radial_mean`, on every backend.
    """
    shape = (edge,) * 3
    shell = np.floor(frequencies(shape) * np.float32(edge) + np.float32(0.5)).astype(int)
    member = (shell[..., None] == np.arange(edge // 2 + 1)) * conjugate_weights(shape)[:, None]
    return member.reshape(-1, edge // 2 + 1).astype(np.float32)


def power(spectrum: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Mean |F|^2 of each shell."""
    return radial_mean(spectrum.real**2 + spectrum.imag**2, shape, rate)


LOW_RESOLUTION = 10.0  # A: where a fit of the B factor starts, beyond the molecule's shape (Rosenthal & Henderson 2003)
FEWEST_SHELLS = 4  # that a B factor is fitted to


def fit_b_factor(
    square: np.ndarray, log_amplitude: np.ndarray, high: float, low: float = LOW_RESOLUTION
) -> float | None:
    """B (A^2) of amplitudes that fall as exp(-B / 4 d^2) between the resolutions `low` and `high` (A): least squares, every shell alike.

    Positive where the map's contrast is lost; about zero or negative where it was sharpened. None with fewer than four shells.

    Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721-745.
    """
    fitted = (square >= low**-2) & (square <= high**-2)
    if np.count_nonzero(fitted) < FEWEST_SHELLS:
        return None
    return -4 * float(np.polyfit(square[fitted], log_amplitude[fitted], 1)[0])


FILTERED = 7.0  # natural logarithm of a drop of power that no molecule or noise has within an eighth of the frequency: a filter's edge
EDGE, BELOW = 0.12, 1.0  # that eighth, and how far the power may have fallen where the edge begins


def find_low_pass(volume: np.ndarray, rate: float) -> float | None:
    """Frequency in 1/A where a map (z, y, x) ends because it was low-passed, or None where it goes on to Nyquist.

    A molecule's and the noise's power fall by a factor of ten at most within an eighth of the frequency, a filter's by thousands, and nothing
    comes after it. Found within a fifth, rather too coarse than too fine. A map that was masked after the filter hides it, and None is returned.
    """
    weighted = volume - volume.mean()
    for axis, n in enumerate(
        volume.shape
    ):  # Hann's window: the edge of a sphere or of the box would leak across the filter's
        weighted *= (
            np.hanning(n + 2)[1:-1]
            .astype(np.float32)
            .reshape([-1 if a == axis else 1 for a in range(3)])
        )
    width = shell_width(volume.shape, rate)
    level = np.log(
        power(fft.rfftn(weighted, workers=-1), volume.shape, rate)[: min(volume.shape) // 2 + 1]
        + 1e-30
    )
    for shell in range(max(3, round(1 / 30 / width)), len(level)):
        beyond = level[
            shell + math.ceil(EDGE * shell) + 2 :
        ]  # the window smears each shell over its neighbours
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
    strongest = amplitude[max(1, round(0.05 / width)) :].max(initial=0)
    gain = 1 / np.maximum(amplitude, strongest / LARGEST_GAIN + 1e-30)
    # Shell 0 holds the mean, which is taken out, and what a box with unequal edges has below shell 1: not to be raised to the limit.
    gain[0] = gain[:2].min()
    return gain


def flatten_spectrum(volume: np.ndarray, degree: float, workers: int = -1) -> np.ndarray:
    """The map (z, y, x) at 1 A/voxel without its mean, its radial amplitudes flattened (`flattening_gain`) to a degree: 0 not at all, 1 wholly."""
    spectrum = fft.rfftn(volume, workers=workers)
    spectrum[0, 0, 0] = 0
    apply_gain(
        spectrum,
        flattening_gain(power(spectrum, volume.shape), shell_width(volume.shape, 1.0)) ** degree,
        volume.shape,
    )
    return fft.irfftn(spectrum, s=volume.shape, workers=workers)


def flatten_and_scale(volume: np.ndarray, workers: int = -1) -> np.ndarray:
    """The map (z, y, x) at 1 A/voxel with flat radial amplitudes (see `flattening_gain`), its strong voxels about one.

    The shape of the spectrum (B factor, regularisation, sharpening) is thus taken out before the network, which would otherwise have to
    amplify fine detail by a hundred in low precision.

    The scale is sqrt(<x^4> / <x^2>), which hardly depends on how much solvent is in the box.
    """
    result = flatten_spectrum(volume, 1, workers)
    largest = float(np.abs(result).max())
    if largest > 0:
        result *= np.float32(1 / largest)  # whatever the unit, the fourth power does not underflow
        square = sum(float(np.square(plane).sum(dtype=np.float64)) for plane in result)
        fourth = sum(float(np.square(np.square(plane)).sum(dtype=np.float64)) for plane in result)
        result *= np.float32(np.sqrt(square / fourth))
    return result
