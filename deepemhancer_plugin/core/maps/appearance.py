"""What a map looks like: masked, sharpened, coarsely sampled, or with its contrast inverted."""

import warnings

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps.filters import frequency_axes, raised_cosine
from deepemhancer_plugin.core.maps.mrc import Map
from deepemhancer_plugin.core.maps.spectrum import LOW_RESOLUTION, fit_b_factor

COARSE_SAMPLING = 3.0  # A/voxel; Nyquist at 6 A is the coarsest that the networks were made for
# Of the reconstruction sphere. An unmasked map has equal voxels by chance only.
CONSTANT_FRACTION = 0.05
SHARP_B_FACTOR = 30.0  # A^2, between sharpened maps (under 0) and unsharpened ones (over 100)
FINEST_FITTED = 4.0  # A, where the fit of the B factor ends
SMOOTHING = 2.0  # A, standard deviation of the Gaussian before the skewness is measured
INVERTED_SKEWNESS = -0.4  # noise has more, density the opposite of more than 0.5
# The windows of `_two_spectra` as radii, 1 at the faces of the box.
MIDDLE_EDGE = 0.6, 0.8
SPHERE_EDGE = 0.85, 0.95


def warn_if_processed(volume: Map, half: bool = False) -> None:
    """Warn where a map is not what the networks expect: unmasked, unsharpened, finely sampled.

    Args:
        volume: The map.
        half: Whether it is one of two half maps; else the warnings recommend these.

    Warns:
        MapWarning: One value fills over 5 % of the reconstruction sphere, so the map was masked
            (outside the sphere, RELION's zeros are normal); the amplitudes hardly fall beyond
            10 A, so it was sharpened; the sampling rate is over 3 A/voxel.
    """
    better = "half maps" if half else "map, best the two half maps"
    fraction, value = _constant_fraction(volume.data)
    if fraction > CONSTANT_FRACTION:
        _warn(
            f"{volume.path}: looks masked: {fraction:.0%} of the reconstruction sphere is exactly "
            f"{value:g}; better give the unmasked {better}"
        )
    b_factor = _b_factor(volume.data, volume.sampling_rate)
    if b_factor is not None and b_factor < SHARP_B_FACTOR:
        _warn(
            f"{volume.path}: looks sharpened: B factor {b_factor:.0f} A^2 beyond 10 A; "
            f"better give the unsharpened {better}"
        )
    if volume.sampling_rate > COARSE_SAMPLING:
        _warn(
            f"{volume.path}: {volume.sampling_rate:g} A/voxel holds nothing finer than "
            f"{2 * volume.sampling_rate:.3g} A; the method is made for {COARSE_SAMPLING:g} A/voxel "
            "and less"
        )


def warn_if_inverted(volume: Map) -> None:
    """Warn where the molecule is darker than the solvent.

    Density has more of high peaks than of deep holes: its skewness is positive, that of noise about
    zero. Voxels that are blank do not count.

    Warns:
        MapWarning: The skewness is clearly negative.
    """
    skewness = _skewness(volume.data, volume.sampling_rate)
    if skewness < INVERTED_SKEWNESS:
        _warn(
            f"{volume.path}: the molecule looks darker than the solvent (skewness {skewness:.1f}): "
            "inverted contrast? multiply by -1"
        )


def _skewness(data: np.ndarray, rate: float) -> float:
    """Skewness of a smoothed map, without the blank, which is what its first voxel holds."""
    filled = data != data[0, 0, 0]
    if not filled.any():
        return 0.0
    values = np.where(filled, data - np.float32(np.median(data[filled])), np.float32(0))
    values /= max(float(np.abs(values).max()), np.finfo(np.float32).tiny)
    values = ndimage.gaussian_filter(values, SMOOTHING / rate)[filled]
    values -= np.float32(values.mean(dtype=np.float64))
    square = float(np.mean(np.square(values), dtype=np.float64))
    if not square > 0:
        return 0.0
    return float(np.mean(values**3, dtype=np.float64)) / square**1.5


def _constant_fraction(data: np.ndarray) -> tuple[float, float]:
    """Fraction of the sphere (0.9 of the box) with the most frequent value, and that value.

    The second most frequent value is taken off: in a map stored as integers, all are frequent.
    """
    step = max(1, round((data.size / 1e6) ** (1 / 3)))
    sample = data[::step, ::step, ::step]
    z, y, x = (((np.arange(n) - n // 2) / (0.45 * n)) ** 2 for n in data.shape)
    sphere = (z[::step, None, None] + y[::step, None] + x[::step]) < 1
    values, counts = np.unique(sample[sphere], return_counts=True)
    first = int(np.argmax(counts))
    second = np.delete(counts, first).max(initial=0)
    return float(counts[first] - second) / np.count_nonzero(sphere), float(values[first])


def _b_factor(data: np.ndarray, rate: float) -> float | None:
    """B factor in A^2 of a map's signal between 10 A and 4 A; None with too few shells.

    White noise looks sharpened, so signal counts alone: shells where the middle of the box has
    twice the power of its rim, whose power is taken off. Where even most shells from 25 to 10 A
    have none, the box holds no solvent to compare with, and all is taken for signal.
    """
    finest = max(FINEST_FITTED, 2.1 * rate)
    frequency, middle, rim = _two_spectra(data, rate, 1 / finest)
    signal = middle > 2 * rim
    coarse = (frequency >= 0.04) & (frequency < 1 / LOW_RESOLUTION)
    if np.count_nonzero(signal & coarse) < 0.5 * np.count_nonzero(coarse):
        rim, signal = np.zeros_like(rim), np.ones_like(signal)
    log_amplitude = 0.5 * np.log(np.maximum(middle - rim, np.finfo(float).tiny))
    return fit_b_factor(frequency[signal] ** 2, log_amplitude[signal], finest)


def _two_spectra(
    data: np.ndarray, rate: float, highest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power per voxel in shells up to `highest` (1/A): frequencies, middle of the box, its rim.

    Planes are transformed one by one and only the wanted frequencies kept, to save memory.
    """
    axes = frequency_axes(data.shape, rate)
    kept = [np.abs(axis.ravel()) <= highest for axis in axes]
    z, y, x = ((np.arange(n, dtype=np.float32) - n // 2) / (n / 2) for n in data.shape)
    mean = np.float32(data.mean(dtype=np.float64))
    # In units of the peak, so that squares stay within float32.
    peak = max(data.max() - mean, mean - data.min(), np.finfo(np.float32).tiny)
    shape = len(z), int(kept[1].sum()), int(kept[2].sum())
    transforms = np.empty((2, *shape), np.complex64)
    weights = np.zeros(2)
    for index, plane in enumerate(data):
        radius = np.sqrt(z[index] ** 2 + y[:, None] ** 2 + x**2)
        middle = raised_cosine(radius, *MIDDLE_EDGE)
        for k, window in enumerate((middle, (1 - middle) * raised_cosine(radius, *SPHERE_EDGE))):
            transform = fft.rfft2((plane - mean) / peak * window)
            transforms[k, index] = transform[kept[1]][:, kept[2]]
            weights[k] += float(np.square(window).sum())
    length = max(data.shape) * rate
    square = sum(np.square(axis) for axis in axes)[np.ix_(*kept)]
    shell = np.rint(np.sqrt(square) * length).astype(np.int32).ravel()
    counts = np.maximum(np.bincount(shell), 1)
    spectra = []
    for transform, weight in zip(transforms, weights, strict=True):
        power = np.abs(fft.fft(transform, axis=0)[kept[0]]) ** 2
        spectra.append(np.bincount(shell, power.ravel()) / counts / max(weight, 1.0))
    return np.arange(len(counts)) / length, spectra[0], spectra[1]


def _warn(message: str) -> None:
    warnings.warn(message, MapWarning, stacklevel=3)
