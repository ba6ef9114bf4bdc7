"""Curves of maps over resolution shells. Arrays are (z, y, x), sampling rates in A/voxel; NumPy only."""

import numpy as np


def shells(shape, rate):
    """The shell number of each coefficient of `numpy.fft.rfftn`, and the frequency (1/A) of each shell, up to Nyquist's.

    A shell is as wide as one Fourier pixel along the longest axis, so that each holds enough coefficients in any box.
    """
    axes = [np.fft.fftfreq(n, rate) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1], rate)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    width = 1 / (max(shape) * rate)
    index = np.rint(radius / width).astype(int)
    return index, np.arange(int(0.5 / rate / width) + 1) * width


def _sums(values, index, count):
    return np.bincount(index.ravel(), values.ravel(), minlength=count)[:count]


def fsc(one, two, rate):
    """Fourier shell correlation of two maps (Harauz and van Heel 1986).

    Returns:
        frequencies (1/A) and the correlation of each shell.
    """
    index, frequencies = shells(one.shape, rate)
    first, second = np.fft.rfftn(one), np.fft.rfftn(two)
    count = len(frequencies)
    cross = _sums((first * second.conj()).real, index, count)
    power = _sums(np.abs(first) ** 2, index, count) * _sums(np.abs(second) ** 2, index, count)
    return frequencies, cross / np.sqrt(np.where(power > 0, power, np.inf))


def resolution(frequencies, correlation, threshold=0.143):
    """The resolution (A) where the correlation first falls below the threshold, interpolated; Nyquist's where it never does."""
    below = np.flatnonzero(correlation[1:] < threshold) + 1
    if not len(below):
        return 1 / frequencies[-1]
    k = below[0]
    share = (correlation[k - 1] - threshold) / (correlation[k - 1] - correlation[k])
    crossing = frequencies[k - 1] + min(max(share, 0), 1) * (frequencies[k] - frequencies[k - 1])
    return 1 / crossing if crossing > 0 else np.inf


def amplitudes(volume, rate):
    """Root mean square amplitude of each shell.

    Returns:
        frequencies (1/A) and amplitudes.
    """
    index, frequencies = shells(volume.shape, rate)
    count = len(frequencies)
    power = _sums(np.abs(np.fft.rfftn(volume)) ** 2, index, count)
    return frequencies, np.sqrt(power / np.maximum(_sums(np.ones(index.shape), index, count), 1))
