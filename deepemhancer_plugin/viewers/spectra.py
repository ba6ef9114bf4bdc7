"""Curves of maps over resolution shells. Maps are arrays (z, y, x), sampling rates in A/voxel."""

import numpy as np


def index_shells(shape, rate):
    """Find the shell of each Fourier coefficient, up to the Nyquist frequency.

    A shell is as wide as one Fourier pixel along the longest axis, so that each holds enough
    coefficients in any box.

    Args:
        shape: Box of the map, (z, y, x).
        rate: A/voxel.

    Returns:
        The shell number of each coefficient of `numpy.fft.rfftn`, and the frequency (1/A) of each
        shell.
    """
    axes = [np.fft.fftfreq(n, rate) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1], rate)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    width = 1 / (max(shape) * rate)
    index = np.rint(radius / width).astype(int)
    return index, np.arange(int(0.5 / rate / width) + 1) * width


def sum_shells(values, index, count):
    """Sum values over each of the first `count` shells."""
    return np.bincount(index.ravel(), values.ravel(), minlength=count)[:count]


def fsc(one, two, rate):
    """Compute the Fourier shell correlation of two maps (Harauz and van Heel 1986).

    Args:
        one: Map.
        two: Map of the same shape.
        rate: A/voxel.

    Returns:
        The frequencies (1/A) and the correlation of each shell.
    """
    index, frequencies = index_shells(one.shape, rate)
    count = len(frequencies)
    first, second = np.fft.rfftn(one), np.fft.rfftn(two)
    cross = sum_shells((first * second.conj()).real, index, count)
    power = sum_shells(np.abs(first) ** 2, index, count)
    power = power * sum_shells(np.abs(second) ** 2, index, count)
    return frequencies, cross / np.sqrt(np.where(power > 0, power, np.inf))


def resolution(frequencies, correlation, threshold=0.143):
    """Find the resolution (A) at which a correlation first falls below a threshold.

    It is interpolated between the shells; that of the Nyquist frequency when it never does.
    """
    below = np.flatnonzero(correlation[1:] < threshold) + 1
    if not len(below):
        return 1 / frequencies[-1]
    last, first = below[0] - 1, below[0]
    fraction = (correlation[last] - threshold) / (correlation[last] - correlation[first])
    step = frequencies[first] - frequencies[last]
    crossing = frequencies[last] + min(max(fraction, 0), 1) * step
    return 1 / crossing if crossing > 0 else np.inf


def amplitudes(volume, rate):
    """Compute the root mean square amplitude of each shell.

    Returns:
        The frequencies (1/A) and the amplitudes.
    """
    index, frequencies = index_shells(volume.shape, rate)
    count = len(frequencies)
    power = sum_shells(np.abs(np.fft.rfftn(volume)) ** 2, index, count)
    coefficients = sum_shells(np.ones(index.shape), index, count)
    return frequencies, np.sqrt(power / np.maximum(coefficients, 1))
