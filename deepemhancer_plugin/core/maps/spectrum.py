"""Spectra of maps: radial power, Fourier shell correlation, B factors, filters, flattening."""

import math
from collections.abc import Iterator

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps.filters import (
    apply_gain,
    frequencies,
    frequency_slabs,
    shell_width,
)


def shell_slabs(shape: tuple[int, ...], rate: float = 1.0) -> Iterator[tuple[slice, np.ndarray]]:
    """Number the shells of the half spectrum of a map, some planes at a time.

    Args:
        shape: Box of the map (z, y, x).
        rate: Sampling rate in A/voxel.

    Yields:
        A slice of planes along z, and the shell of each of their coefficients.
    """
    width = np.float32(shell_width(shape, rate))
    for planes, k in frequency_slabs(shape, rate):
        yield planes, (k / width + np.float32(0.5)).astype(np.int32)


def conjugate_weights(shape: tuple[int, ...]) -> np.ndarray:
    """Count the coefficients of the whole spectrum that those of the half spectrum stand for.

    Args:
        shape: Box of the map (z, y, x).

    Returns:
        1 or 2 for each index along x (nx // 2 + 1), float32.
    """
    weight = np.full(shape[-1] // 2 + 1, 2.0, np.float32)
    weight[0] = 1
    if shape[-1] % 2 == 0:
        weight[-1] = 1
    return weight


def radial_mean(values: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Average values over each shell of Fourier space.

    Args:
        values: Real numbers on the half spectrum (nz, ny, nx // 2 + 1).
        shape: Box of the map (z, y, x).
        rate: Sampling rate in A/voxel.

    Returns:
        The mean of each shell; shell i lies at i times `shell_width`.
    """
    sums = counts = np.zeros(0)
    weights = conjugate_weights(shape)
    for planes, shell in shell_slabs(shape, rate):
        weight = np.broadcast_to(weights, shell.shape)
        n = max(len(sums), int(shell.max()) + 1)
        sums, counts = (np.pad(a, (0, n - len(a))) for a in (sums, counts))
        sums += np.bincount(shell.ravel(), (weight * values[planes]).ravel(), n)
        counts += np.bincount(shell.ravel(), weight.ravel(), n)
    return np.asarray(sums / np.maximum(counts, 1))


def shell_matrix(edge: int) -> np.ndarray:
    """Make the matrix that sums the half spectrum of a cube over shells, conjugates counted.

    It serves many small cubes: a product with a matrix is faster than `radial_mean` there, and
    every backend has it.

    Args:
        edge: Edge of the cube in voxels.

    Returns:
        Float32 (coefficients of the half spectrum, shells from 0 to Nyquist).
    """
    shape = (edge,) * 3
    shell = np.floor(frequencies(shape) * np.float32(edge) + np.float32(0.5)).astype(int)
    member = (shell[..., None] == np.arange(edge // 2 + 1)) * conjugate_weights(shape)[:, None]
    return np.asarray(member.reshape(-1, edge // 2 + 1), np.float32)


def power(spectrum: np.ndarray, shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Average |F|^2 over each shell of a half spectrum of a map of `shape` (z, y, x)."""
    return radial_mean(spectrum.real**2 + spectrum.imag**2, shape, rate)


# A; what is coarser is decided by the shape of the molecule (Rosenthal & Henderson 2003).
LOW_RESOLUTION = 10.0
FEWEST_SHELLS = 4  # that a B factor is fitted to


def fit_b_factor(
    square: np.ndarray, log_amplitude: np.ndarray, high: float, low: float = LOW_RESOLUTION
) -> float | None:
    """Fit the B factor of amplitudes that fall as exp(-B / 4 d^2), every shell alike.

    Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721-745.

    Args:
        square: 1 / d^2 of each shell, 1/A^2.
        log_amplitude: Natural logarithm of its amplitude.
        high: Finest resolution of the fit in A.
        low: Coarsest resolution of the fit in A.

    Returns:
        B in A^2: positive where contrast is lost, about zero or negative where the map was
        sharpened. None with fewer than four shells.
    """
    fitted = (square >= low**-2) & (square <= high**-2)
    if np.count_nonzero(fitted) < FEWEST_SHELLS:
        return None
    return -4 * float(np.polyfit(square[fitted], log_amplitude[fitted], 1)[0])


FILTER_DROP = 7.0  # fall of ln(power) within a filter's edge, and nothing comes back beyond it
FILTER_BREAK = 3.0  # of ln(power): how far it lies under the line that it followed before the edge
EDGE_WIDTH = 0.12  # of the frequency: how wide a filter's edge may be
EDGE_BEGINS = 1.0  # of ln(power) under that line: where the edge begins
COARSEST_FILTER = 30.0  # A
SHELLS_BEYOND = 5  # whose mean FSC tells whether signal goes on beyond an edge


def find_low_pass(volume: np.ndarray, rate: float) -> float | None:
    """Find the frequency where a map ends because it was low-pass filtered.

    A filter's edge is a break: ln(power) falls by FILTER_DROP within EDGE_WIDTH of the frequency,
    stays there, and lies FILTER_BREAK under the straight line against k^2 that it followed before
    (fitted to the octave before the edge). A blur, however strong, is such a line and no edge.

    Errors, on simulated maps of structures that no threshold was set on: of 72 maps that were not
    filtered (B up to 500 A^2) it takes none for filtered. Of 153 that were filtered between 4 and
    12 A, by a hard edge, RELION's of two shells, or a cosine up to a tenth wide, it misses none;
    the edge found lies at 0.80 to 1.02 times the filter's frequency. Of Butterworth's filters it
    finds 22 of 31 of order 12 and 1 of 32 of order 8. A mask after the filter hides it.

    Args:
        volume: The map (z, y, x).
        rate: Sampling rate in A/voxel.

    Returns:
        The frequency in 1/A, rather too low than too high; None where the map goes on to Nyquist.
    """
    level = _log_power(volume, rate)
    square = np.arange(len(level)) ** 2.0
    width = shell_width(volume.shape, rate)
    for shell in range(max(4, round(1 / COARSEST_FILTER / width)), len(level)):
        beyond = _shell_beyond(shell)
        if beyond >= len(level) or level[shell] - level[beyond:].max() < FILTER_DROP:
            continue
        before = slice(min(shell // 2, shell - 3), shell + 1)
        slope = min(0.0, float(np.polyfit(square[before], level[before], 1)[0]))
        fallen = level[shell] + slope * (square - square[shell]) - level
        if fallen[beyond] >= FILTER_BREAK:
            edge = shell + int(np.flatnonzero(fallen[shell:] >= EDGE_BEGINS)[0])
            return float((edge - 2) * width)  # Hann's window smears a shell over two
    return None


def find_low_pass_of_halves(half1: np.ndarray, half2: np.ndarray, rate: float) -> float | None:
    """Find the frequency where two half maps (z, y, x) end because they were low-pass filtered.

    As `find_low_pass` of their mean, but an edge counts only where the halves no longer agree
    beyond it: their FSC in the next SHELLS_BEYOND shells is under 0.143. What agrees is signal,
    whatever its power.

    Args:
        half1: The first half map.
        half2: The second one.
        rate: Sampling rate in A/voxel.

    Returns:
        The frequency in 1/A, or None.
    """
    end = find_low_pass(0.5 * (half1 + half2), rate)
    if end is None:
        return None
    beyond = _shell_beyond(round(end / shell_width(half1.shape, rate)))
    agreement = fsc(half1, half2, rate)[1][beyond : beyond + SHELLS_BEYOND]
    return None if len(agreement) and agreement.mean() >= 0.143 else end


def _shell_beyond(shell: int) -> int:
    """First shell behind an edge that begins at `shell`; two of them are the window's."""
    return shell + math.ceil(EDGE_WIDTH * shell) + 2


def _log_power(volume: np.ndarray, rate: float) -> np.ndarray:
    """ln(power) of each shell up to Nyquist, in Hann's window: the box's faces would leak."""
    weighted = volume - volume.mean()
    for axis, n in enumerate(volume.shape):
        window = np.hanning(n + 2)[1:-1].astype(np.float32)
        weighted *= window.reshape([-1 if a == axis else 1 for a in range(3)])
    spectrum = fft.rfftn(weighted, workers=-1)
    return np.log(power(spectrum, volume.shape, rate)[: min(volume.shape) // 2 + 1] + 1e-30)


def fsc(first: np.ndarray, second: np.ndarray, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Correlate two maps shell by shell in Fourier space (FSC).

    Harauz & van Heel 1986, Optik 73, 146.

    Args:
        first: A map (z, y, x).
        second: Another on the same grid.
        rate: Sampling rate in A/voxel.

    Returns:
        The frequencies in 1/A from 0 to Nyquist, and the correlation at each.
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
    """Find the resolution where an FSC curve first falls under a threshold.

    Args:
        frequency: Frequencies in 1/A, as of `fsc`.
        curve: The correlation at each.
        threshold: 0.143 for half maps, 0.5 for a map and a model.

    Returns:
        A, interpolated linearly between shells; that of Nyquist where the curve never falls.
    """
    below = np.flatnonzero(curve < threshold)
    below = below[below > 0]
    if not len(below):
        return float(1 / frequency[-1])
    i = below[0]
    t = (curve[i - 1] - threshold) / (curve[i - 1] - curve[i])
    k = frequency[i - 1] + t * (frequency[i] - frequency[i - 1])
    return float(1 / max(k, frequency[1] / 2))


# That of a B factor of 200 A^2 between 20 A and 3 A; what is weaker is rounding and leakage.
LARGEST_GAIN = 300.0


def flattening_gain(map_power: np.ndarray, width: float) -> np.ndarray:
    """Compute the gain that makes a map's amplitudes equal, as far as LARGEST_GAIN allows.

    Args:
        map_power: Mean |F|^2 of each shell.
        width: Distance of the shells in 1/A.

    Returns:
        The gain of each shell.
    """
    amplitude = np.sqrt(map_power)
    strongest = amplitude[max(1, round(0.05 / width)) :].max(initial=0)
    gain = 1 / np.maximum(amplitude, strongest / LARGEST_GAIN + 1e-30)
    # Shell 0 is empty but for what a box with unequal edges has below shell 1.
    gain[0] = gain[:2].min()
    return np.asarray(gain)


def flatten_spectrum(volume: np.ndarray, degree: float, workers: int = -1) -> np.ndarray:
    """Flatten the radial amplitudes of a map and take out its mean.

    Args:
        volume: The map (z, y, x) at 1 A/voxel.
        degree: Exponent of `flattening_gain`: 0 not at all, 1 wholly.
        workers: Threads of the Fourier transforms; -1: every core.

    Returns:
        The flattened map.
    """
    spectrum = fft.rfftn(volume, workers=workers)
    spectrum[0, 0, 0] = 0
    gain = flattening_gain(power(spectrum, volume.shape), shell_width(volume.shape))
    apply_gain(spectrum, gain**degree, volume.shape)
    return np.asarray(fft.irfftn(spectrum, s=volume.shape, workers=workers))


def flatten_and_scale(volume: np.ndarray, workers: int = -1) -> np.ndarray:
    """Flatten the radial amplitudes of a map and bring its strong voxels to about one.

    B factor, regularisation and sharpening are thus taken out before the network, which would
    otherwise amplify fine detail by a hundred in low precision. The scale, sqrt(<x^4> / <x^2>),
    hardly depends on how much solvent is in the box.

    Args:
        volume: The map (z, y, x) at 1 A/voxel.
        workers: Threads of the Fourier transforms; -1: every core.

    Returns:
        The flattened map, without unit.
    """
    result = flatten_spectrum(volume, 1, workers)
    largest = float(np.abs(result).max())
    if largest > 0:
        result *= np.float32(1 / largest)  # the fourth power would underflow in small units
        square = sum(float(np.square(plane).sum(dtype=np.float64)) for plane in result)
        fourth = sum(float(np.square(np.square(plane)).sum(dtype=np.float64)) for plane in result)
        result *= np.float32(np.sqrt(square / fourth))
    return result
