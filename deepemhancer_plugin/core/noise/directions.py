"""Noise that differs from direction to direction, as uneven views leave it: measured, and made even."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps.filters import frequency_axes
from deepemhancer_plugin.core.maps.spectrum import fsc, power, shell_slabs

CELLS = 6  # to a unit vector's component: directions are told apart by ten degrees
ENOUGH = (
    20000  # coefficients, those of a box of 42^3: the density of views is then found within 3 %
)
UNEVEN = 1.2  # in the worst direction the noise's power is so many times that in the best: the least that is evened out
UNEXPLAINED = 1.5  # times the mean square that it should have; RELION's halves have 1.03 to 1.36, noise averaged over a helix 1.6 and more
LEAST_VIEWS = 0.1  # of the mean sampling: what hardly any view holds is not raised without limit


def _directions(
    shape: tuple[int, ...], rate: float
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Slabs as of `shell_slabs`: their planes, the unit vectors of k (3, z, y, x), and the shells, -1 but between the third and Nyquist."""
    z, y, x = frequency_axes(shape, rate)
    for planes, shell in shell_slabs(shape, rate):
        along = np.stack(np.broadcast_arrays(z[planes], y, x))
        along /= np.maximum(np.sqrt(np.square(along).sum(0)), np.float32(1e-9))
        yield planes, along, np.where((shell < 3) | (shell > min(shape) // 2), -1, shell)


def _quartic(along: np.ndarray) -> np.ndarray:
    """The 15 products of four components of directions (3, ...): all even functions on the sphere up to the fourth degree."""
    return np.stack(
        [np.prod(along[list(four)], axis=0) for four in combinations_with_replacement(range(3), 4)]
    )


EVEN_SAMPLING = np.array(
    [1, 0, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 1], np.float32
)  # (x^2 + y^2 + z^2)^2


def measure_sampling(difference: np.ndarray, rate: float = 1.0) -> tuple[np.ndarray, float]:
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
    counts, sums, squares, places = (
        np.zeros(number),
        np.zeros(number),
        np.zeros(number),
        np.zeros((3, number)),
    )
    for planes, along, shell in _directions(difference.shape, rate):
        used = (shell > 0) & (noise[shell] > 0)
        along, here = along[:, used], np.square(np.abs(spectrum[planes][used])) / noise[shell[used]]
        cell = np.ravel_multi_index(
            tuple(np.rint(along * CELLS).astype(np.intp) + CELLS), (2 * CELLS + 1,) * 3
        )
        counts += np.bincount(cell, minlength=number)
        sums += np.bincount(cell, here, number)
        squares += np.bincount(cell, here**2, number)
        places += [np.bincount(cell, a, number) for a in along]
    if counts.sum() < ENOUGH:
        return EVEN_SAMPLING, 1.0
    filled = counts > 0
    weight, relative, basis = (
        np.sqrt(counts[filled]),
        sums[filled] / counts[filled],
        _quartic(places[:, filled] / counts[filled]),
    )
    coefficients = np.linalg.lstsq((weight * relative * basis).T, weight, rcond=None)[0]
    views = np.maximum(coefficients @ basis, LEAST_VIEWS)
    dispersion = views**2 @ squares[filled] * counts.sum() / (views @ sums[filled]) ** 2 / 2
    if dispersion > UNEXPLAINED:
        return EVEN_SAMPLING, 1.0
    return coefficients.astype(np.float32), float(views.max() / views.min())


def whiten_directions(
    volume: np.ndarray, coefficients: np.ndarray, curve: np.ndarray, rate: float = 1.0
) -> np.ndarray:
    """The mean of half maps (z, y, x), float32, with noise of about the same power in all directions, where there is much noise.

    Where a direction has g times the mean sampling, and the signal in the shell s times the noise's power, Wiener's filter asks for a factor of
    (s + 1) / (s + 1 / g) relative to that of the whole shell. The root is taken: 1 where the signal is strong, sqrt(g), which makes the noise even,
    where it is weak.

    Args:
        coefficients: of `measure_sampling`.
        curve: the halves' FSC, shell after shell.
    """
    smooth = np.clip(np.convolve(np.pad(curve, 2, mode="edge"), np.ones(5) / 5, "valid"), 0, 0.999)
    signal = (2 * smooth / (1 - smooth)).astype(np.float32)
    spectrum = fft.rfftn(volume, workers=-1)
    for planes, along, shell in _directions(volume.shape, rate):
        sampled = np.maximum(
            np.tensordot(coefficients, _quartic(along), 1), np.float32(LEAST_VIEWS)
        )
        strong = signal[shell]
        spectrum[planes] *= np.where(shell > 0, np.sqrt((strong + 1) / (strong + 1 / sampled)), 1)
    return fft.irfftn(spectrum, s=volume.shape, workers=-1).astype(np.float32, copy=False)


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
        return self.anisotropy >= UNEVEN


def measure_views(half1: np.ndarray, half2: np.ndarray, rate: float) -> Views:
    """Measure the sampling of Fourier space and the FSC of two half maps (z, y, x)."""
    coefficients, anisotropy = measure_sampling(half1 - half2, rate)
    return Views(coefficients, anisotropy, *fsc(half1, half2, rate))
