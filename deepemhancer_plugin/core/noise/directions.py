"""Noise that differs from direction to direction, as uneven views leave it.

It is measured in the difference of two half maps, and made even in their mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps.filters import frequency_axes
from deepemhancer_plugin.core.maps.spectrum import fsc, power, shell_slabs

CELLS = 6  # to each component of a unit vector: directions are told apart by ten degrees
FEWEST_COEFFICIENTS = 20000  # those of a box of 42^3: the sampling is then found within 3 %
LEAST_ANISOTROPY = 1.2  # noise power, worst direction over best, from which on it is evened out
# Mean square of the noise power about the fit, over that of an exponential distribution: what is
# over it was not left by uneven views.
LARGEST_DISPERSION = 1.5
LEAST_SAMPLING = 0.1  # of the mean: what hardly any view holds is not amplified without limit
FIRST_SHELL = 3  # that counts: those before have too few coefficients
# (x^2 + y^2 + z^2)^2 in the terms of `_quartic`.
EVEN_SAMPLING = np.array([1, 0, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 1], np.float32)


@dataclass(frozen=True)
class Views:
    """How the views of a reconstruction sample Fourier space, as its half maps show it.

    Attributes:
        coefficients: of `measure_sampling`.
        anisotropy: the noise's power in the worst direction over that in the best.
        frequency: of the shells, 1/A.
        fsc: Fourier shell correlation of the half maps, not masked, at `frequency`.
    """

    coefficients: np.ndarray
    anisotropy: float
    frequency: np.ndarray
    fsc: np.ndarray

    @property
    def uneven(self) -> bool:
        """Whether the noise differs from direction to direction by enough to be evened out."""
        return self.anisotropy >= LEAST_ANISOTROPY


def measure_views(half1: np.ndarray, half2: np.ndarray, rate: float) -> Views:
    """Measure the sampling of Fourier space and the FSC of two half maps.

    Args:
        half1: The first half map (z, y, x).
        half2: The second one.
        rate: Sampling rate in A/voxel.

    Returns:
        The views.
    """
    coefficients, anisotropy = measure_sampling(half1 - half2, rate)
    return Views(coefficients, anisotropy, *fsc(half1, half2, rate))


def measure_sampling(difference: np.ndarray, rate: float = 1.0) -> tuple[np.ndarray, float]:
    """Measure how densely the views of a reconstruction sample each direction of Fourier space.

    The noise's power goes with the inverse of the number of views, whose density is a smooth
    function of the direction (Baldwin & Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160-183). It
    is taken to be of the fourth degree, and fitted so that it makes the noise's power the same in
    all directions. The power of each coefficient is then distributed exponentially about the fit,
    with a mean square of twice its mean's. What has more, such as the layer lines that an imposed
    helical symmetry leaves of the noise, is no lack of views.

    Args:
        difference: Of the half maps (z, y, x).
        rate: Sampling rate in A/voxel.

    Returns:
        The coefficients of the density of views, in the terms of `_quartic`; and the noise's power
        in the worst direction over that in the best. Where that cannot be told, those of an even
        sampling and 1.
    """
    counts, sums, squares, places = _sum_cells(difference, rate)
    if counts.sum() < FEWEST_COEFFICIENTS:
        return EVEN_SAMPLING, 1.0
    weight = np.sqrt(counts)
    basis = _quartic(places / counts)
    relative = sums / counts
    coefficients = np.linalg.lstsq((weight * relative * basis).T, weight, rcond=None)[0]
    views = np.maximum(coefficients @ basis, LEAST_SAMPLING)
    dispersion = views**2 @ squares * counts.sum() / (views @ sums) ** 2 / 2
    if dispersion > LARGEST_DISPERSION:
        return EVEN_SAMPLING, 1.0
    return coefficients.astype(np.float32), float(views.max() / views.min())


def whiten_directions(
    volume: np.ndarray, coefficients: np.ndarray, curve: np.ndarray, rate: float = 1.0
) -> np.ndarray:
    """Give the noise of a mean of half maps about the same power in all directions.

    Where a direction has g times the mean sampling, and the signal in the shell s times the noise's
    power, Wiener's filter asks for a factor of (s + 1) / (s + 1 / g) relative to that of the whole
    shell. Its root is taken: 1 where the signal is strong, and sqrt(g), which makes the noise even,
    where it is weak.

    Args:
        volume: The mean of the half maps (z, y, x).
        coefficients: Of `measure_sampling`.
        curve: The halves' FSC, shell after shell.
        rate: Sampling rate in A/voxel.

    Returns:
        The filtered map, float32.
    """
    smooth = np.clip(np.convolve(np.pad(curve, 2, mode="edge"), np.ones(5) / 5, "valid"), 0, 0.999)
    signal = (2 * smooth / (1 - smooth)).astype(np.float32)
    spectrum = fft.rfftn(volume, workers=-1)
    for planes, along, shell in _direction_slabs(volume.shape, rate):
        views = np.tensordot(coefficients, _quartic(along), 1)
        sampled = np.maximum(views, np.float32(LEAST_SAMPLING))
        strong = signal[shell]
        spectrum[planes] *= np.where(shell > 0, np.sqrt((strong + 1) / (strong + 1 / sampled)), 1)
    whitened = np.asarray(fft.irfftn(spectrum, s=volume.shape, workers=-1))
    return whitened.astype(np.float32, copy=False)


def _sum_cells(
    difference: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sums over the coefficients of each cell of directions that has any.

    They are their number, their power relative to the shell's, its square, and their directions
    (3, cells).
    """
    spectrum = fft.rfftn(difference, workers=-1)
    noise = power(spectrum, difference.shape, rate)
    edge = 2 * CELLS + 1
    number = edge**3
    sums = np.zeros((3, number))
    places = np.zeros((3, number))
    for planes, along, shell in _direction_slabs(difference.shape, rate):
        used = (shell > 0) & (noise[shell] > 0)
        along = along[:, used]
        relative = np.square(np.abs(spectrum[planes][used])) / noise[shell[used]]
        index = tuple(np.rint(along * CELLS).astype(np.intp) + CELLS)
        cell = np.ravel_multi_index(index, (edge,) * 3)
        sums[0] += np.bincount(cell, minlength=number)
        sums[1] += np.bincount(cell, relative, number)
        sums[2] += np.bincount(cell, relative**2, number)
        places += [np.bincount(cell, a, number) for a in along]
    filled = sums[0] > 0
    return sums[0][filled], sums[1][filled], sums[2][filled], places[:, filled]


def _direction_slabs(
    shape: tuple[int, ...], rate: float
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Slabs as of `shell_slabs`: planes, unit vectors of k (3, z, y, x), and shells.

    The shell is -1 where it does not count: before FIRST_SHELL and beyond Nyquist.
    """
    z, y, x = frequency_axes(shape, rate)
    for planes, shell in shell_slabs(shape, rate):
        along = np.stack(np.broadcast_arrays(z[planes], y, x))
        along /= np.maximum(np.sqrt(np.square(along).sum(0)), np.float32(1e-9))
        outside = (shell < FIRST_SHELL) | (shell > min(shape) // 2)
        yield planes, along, np.where(outside, -1, shell)


def _quartic(along: np.ndarray) -> np.ndarray:
    """The 15 products of four components of directions (3, ...).

    They span all even functions on the sphere up to the fourth degree.
    """
    return np.stack(
        [np.prod(along[list(four)], axis=0) for four in combinations_with_replacement(range(3), 4)]
    )
