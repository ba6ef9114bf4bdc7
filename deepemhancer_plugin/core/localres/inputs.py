"""What the networks of local resolution are shown: spectra of small blocks, or boxes of voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps.filters import frequencies


@dataclass(frozen=True)
class Range:
    """What a network is for.

    Attributes:
        rate: sampling rate of the maps it is shown, A/voxel.
        finest: the finest resolution it was taught, A.
        coarsest: the coarsest one, A.
    """

    rate: float
    finest: float
    coarsest: float

    @property
    def name(self) -> str:
        """The sampling rate, as the networks are called."""
        return f"{self.rate:.1f}"


RANGES = {"1.0": Range(1.0, 2.5, 13.0), "0.5": Range(0.5, 1.5, 6.0)}

BOX_EDGE = 13  # voxels
BLOCK = 4  # voxels, the edge of the blocks that have a spectrum each
# Standard deviations, in blocks, of the Gaussian windows that spectra are averaged over.
SPREADS = (0.7, 1.6)
# Frequency (1/voxel) below which bands are equally wide, and above it in proportion to their own.
# Narrower bands would see too far beyond a border between two resolutions.
CORNER = 0.1
_PLACES = np.linspace(math.asinh(1 / 16 / CORNER), math.asinh(0.5 / CORNER), 16)
_SPACING = _PLACES[1] - _PLACES[0]
# Middles of the bands, 1/voxel. The last band reaches into the corners of Fourier space.
BANDS = tuple(float(b) for b in CORNER * np.sinh(_PLACES))
# White noise that every spectrum is taken to hold, so that none ends in nothing: its part of the
# local root mean square.
DITHER = 0.015
# The part of white noise's power in each band: its squared gain over a shell of 4 pi k^2 times its
# width. The last band has the rest.
_WHITE = [4 * math.pi * b**2 * _SPACING * math.hypot(b, CORNER) for b in BANDS[:-1]]
WHITE = np.array([*_WHITE, 1 - sum(_WHITE)], np.float32)


def local_spectra(volume: np.ndarray, workers: int = 1) -> np.ndarray:
    """Compute the power spectrum of each block of 4^3 voxels.

    A value is the logarithm of the part of the local power that lies in a band: of the squared
    band-passed map, averaged over the block and a Gaussian window. It does not depend on the map's
    unit.

    Args:
        volume: map (z, y, x) whose edges are multiples of four voxels.
        workers: threads of the Fourier transforms.

    Returns:
        Float32 (z / 4, y / 4, x / 4, 32): 16 bands for each of the two `SPREADS`, from about -2
        (next to no power) to 2 (all of it).
    """
    spectrum = fft.rfftn(volume, workers=workers)
    place = np.arcsinh(frequencies(volume.shape) / np.float32(CORNER))
    blocks = [n for edge in volume.shape for n in (edge // BLOCK, BLOCK)]
    powers = []
    for middle in _PLACES.astype(np.float32):
        distance = np.abs(place - middle) / np.float32(_SPACING)
        if middle == np.float32(_PLACES[-1]):
            distance[place > middle] = 0
        gain = np.cos(np.float32(np.pi / 2) * np.minimum(distance, 1))
        part = fft.irfftn(spectrum * gain, s=volume.shape, workers=workers)
        powers.append(np.square(part).reshape(blocks).mean((1, 3, 5)))
    averages = (
        np.stack([ndimage.gaussian_filter(power, spread) for power in powers], -1)
        for spread in SPREADS
    )
    return np.concatenate([_scale_powers(average) for average in averages], -1)


def _scale_powers(powers: np.ndarray) -> np.ndarray:
    """Powers of the bands (z, y, x, 16) to what the network sees of them."""
    total = powers.sum(-1, keepdims=True)
    parts = np.maximum(powers, 0) / np.maximum(total, max(1e-6 * float(total.max()), 1e-30))
    scaled: np.ndarray = (np.log(parts + DITHER**2 * WHITE) + 6) / 3
    return scaled.astype(np.float32)


def cut_boxes(volume: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Cut boxes of 13^3 voxels out of a map, each scaled to unit norm.

    Args:
        volume: map (z, y, x).
        voxels: middles (n, 3) of the boxes, at least 6 voxels from the faces.

    Returns:
        Float32 (n, 13, 13, 13).
    """
    view = np.lib.stride_tricks.sliding_window_view(volume, (BOX_EDGE,) * 3)
    found: np.ndarray = view[tuple((voxels - BOX_EDGE // 2).T)].astype(np.float32)
    norm: np.ndarray = np.sqrt(np.square(found).sum((1, 2, 3), keepdims=True))
    found /= np.maximum(norm, 1e-12)
    return found
