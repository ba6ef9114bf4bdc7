"""Filters of maps in Fourier space, and soft edges in real space.

Every grid of frequencies and every raised cosine of the package is made here.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from scipy import fft, ndimage

SLAB = 32  # planes at a time: the frequencies of a large map never stand in memory at once


def frequency_axes(shape: tuple[int, ...], rate: float = 1.0) -> list[np.ndarray]:
    """Give the frequencies in 1/A along z, y, x of the half spectrum of a map.

    Args:
        shape: Box of the map (z, y, x), or of an image (y, x).
        rate: Sampling rate in A/voxel.

    Returns:
        Float32 arrays that broadcast against the half spectrum (z, y, x // 2 + 1).
    """
    axes = [fft.fftfreq(n, rate) for n in shape[:-1]] + [fft.rfftfreq(shape[-1], rate)]
    return list(np.ix_(*(axis.astype(np.float32) for axis in axes)))


def frequencies(shape: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """Compute |k| in 1/A of each coefficient of the half spectrum of a map (z, y, x), float32."""
    return cast(np.ndarray, np.sqrt(sum(np.square(axis) for axis in frequency_axes(shape, rate))))


def frequency_slabs(
    shape: tuple[int, ...], rate: float = 1.0
) -> Iterator[tuple[slice, np.ndarray]]:
    """Compute `frequencies` some planes at a time.

    Yields:
        A slice of planes along z, and the |k| of their coefficients.
    """
    z, y, x = frequency_axes(shape, rate)
    plane = y**2 + x**2
    for start in range(0, shape[0], SLAB):
        planes = slice(start, min(start + SLAB, shape[0]))
        yield planes, np.sqrt(z[planes] ** 2 + plane)


def raised_cosine(
    values: np.ndarray, start: float | np.float32, end: float | np.float32
) -> np.ndarray:
    """Compute a soft step: 1 up to `start`, 0 from `end` on, half a cosine in between."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((values - start) / (end - start), 0, 1))


def shell_width(shape: tuple[int, ...], rate: float = 1.0) -> float:
    """Give the width of a shell in 1/A: the coarsest step between the box's coefficients."""
    return 1.0 / (min(shape) * rate)


def apply_gain(
    spectrum: np.ndarray, gain: np.ndarray, shape: tuple[int, ...], rate: float = 1.0
) -> None:
    """Multiply a half spectrum in place by a radial gain.

    Args:
        spectrum: Half spectrum of a map, changed.
        gain: Factors at the shells (see `shell_width`), linear in between.
        shape: Box of the map (z, y, x).
        rate: Sampling rate in A/voxel.
    """
    shells = np.arange(len(gain)) * shell_width(shape, rate)
    for planes, k in frequency_slabs(shape, rate):
        spectrum[planes] *= np.interp(k.ravel(), shells, gain).reshape(k.shape).astype(np.float32)


def low_pass_spectrum(
    spectrum: np.ndarray, start: float, end: float, shape: tuple[int, ...], rate: float = 1.0
) -> None:
    """Multiply a half spectrum in place by `raised_cosine`, `start` and `end` in 1/A."""
    for planes, k in frequency_slabs(shape, rate):
        spectrum[planes] *= raised_cosine(k, np.float32(start), np.float32(end))


def low_pass(volume: np.ndarray, rate: float, start: float, end: float) -> np.ndarray:
    """Low-pass filter a map.

    Args:
        volume: The map (z, y, x).
        rate: Sampling rate in A/voxel.
        start: Frequency in 1/A up to which all passes.
        end: Frequency in 1/A from which on nothing passes; half a cosine in between.

    Returns:
        The filtered map, float32.
    """
    spectrum = fft.rfftn(volume, workers=-1)
    low_pass_spectrum(spectrum, start, end, volume.shape, rate)
    return _transform_back(spectrum, volume.shape)


def apply_b_factor(volume: np.ndarray, rate: float, b_factor: float) -> np.ndarray:
    """Multiply the amplitudes of a map by exp(-B k^2 / 4).

    Args:
        volume: The map (z, y, x).
        rate: Sampling rate in A/voxel.
        b_factor: B in A^2; negative sharpens, positive blurs.

    Returns:
        The map, float32.
    """
    spectrum = fft.rfftn(volume, workers=-1)
    for planes, k in frequency_slabs(volume.shape, rate):
        spectrum[planes] *= np.exp(np.float32(-b_factor / 4) * k**2)
    return _transform_back(spectrum, volume.shape)


def _transform_back(spectrum: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 map (z, y, x) of a half spectrum."""
    volume = cast(np.ndarray, fft.irfftn(spectrum, s=shape, workers=-1))
    return volume.astype(np.float32, copy=False)


def soft_edge(inside: np.ndarray, rate: float, distance: float, edge: float) -> np.ndarray:
    """Make a soft mask of a boolean one: 1 inside and near it, then half a cosine.

    Args:
        inside: The boolean mask (z, y, x).
        rate: Sampling rate in A/voxel.
        distance: A from the mask up to which the soft mask is 1.
        edge: Width of the cosine in A.

    Returns:
        The soft mask, float32.
    """
    away = ndimage.distance_transform_edt(~inside).astype(np.float32) * np.float32(rate)
    return raised_cosine(away, distance, distance + edge).astype(np.float32)


def distance_from_centre(
    shape: tuple[int, ...], centre: Sequence[float] | None = None
) -> np.ndarray:
    """Compute the distance of each voxel from a point.

    Args:
        shape: Box (z, y, x), or (y, x) of an image.
        centre: The point in voxels, in the order of the box; None: voxel n // 2 of each axis.

    Returns:
        Distances in voxels, float64.
    """
    middle = centre if centre is not None else [n // 2 for n in shape]
    axes = np.ix_(*(np.arange(n) - c for n, c in zip(shape, middle, strict=True)))
    return np.sqrt(sum(axis**2 for axis in axes))
