"""Noise of maps that are masked to a zone round a molecule, where no solvent is left to measure it in."""

import math

import numpy as np

from deepemhancer_plugin.core.noise.normalization import NoiseStats

ZONED = "the map is masked so tightly that no solvent is left to measure it in"
_BALL = 0.98  # of the roundness of a ball; the zones of proteins have 0.54 to 0.97
_ABOVE = 0.3  # times the noise's deviation: a level so far above the blank is that of a molecule
_SKEWED = 0.8  # skewness of a molecule's density in its own zone: 0.6 to 1.1 with next to no noise, 1 to 3 A about it, more in wider zones


def _zone(volume: np.ndarray) -> np.ndarray | None:
    """Where a map is not blank (as its first voxel), if that is a zone round a molecule: not most of the box, and no ball, which has solvent."""
    inside = volume != volume[0, 0, 0]
    number = np.count_nonzero(inside)
    if not 0 < number < 0.6 * inside.size:
        return None
    scatter = 0.0  # mean square distance from the middle, least for a ball
    for axis in range(3):
        weight, place = (
            inside.sum(tuple(a for a in range(3) if a != axis)) / number,
            np.arange(inside.shape[axis]),
        )
        scatter += weight @ (place - weight @ place) ** 2
    return inside if 0.6 * (number * 3 / (4 * math.pi)) ** (2 / 3) < _BALL * scatter else None


def level_of_halves(level: float, std: float, half1: np.ndarray, half2: np.ndarray) -> float:
    """The solvent's level; the blank's where the halves are masked to a zone and the one that was found is the molecule's."""
    blank = 0.5 * (float(half1[0, 0, 0]) + float(half2[0, 0, 0]))
    return blank if level - blank > _ABOVE * std and _zone(half1) is not None else level


def noise_of_zone(volume: np.ndarray, found: NoiseStats, sharpness: float) -> NoiseStats | None:
    """Noise of a map that is masked to the zone of a molecule; None where there is solvent in it.

    There what was `found` is the molecule: most of the density's deviation, on a level above the blank, though noise has no skewness and that much of
    it would leave next to none to the molecule; or a peak that is none. The level is the blank's then, and noise is what takes the skewness of a
    molecule's density to the one that is seen: to the power 3/2 of the molecule's share of the variance.
    """
    inside = _zone(volume)
    if inside is None:
        return None
    blank, values = float(volume[0, 0, 0]), volume[inside]
    mean, std = (float(f(values, dtype=np.float64)) for f in (np.mean, np.std))
    values -= np.float32(mean)
    values /= np.float32(std)
    skewness = float(np.mean(values**3, dtype=np.float64))
    share = found.std / std
    above = found.mean - blank > _ABOVE * found.std
    skewed = (
        skewness > 0.3 + 8 * max(1 - share**2, 0) ** 1.5
    )  # the 8: of density that fills some hundredth of the zone
    if not (
        (share > 0.75 and (above or skewed or sharpness < 0.5))
        or (share > 0.4 and above and sharpness < 0.8)
    ):
        return None
    noise = math.sqrt(1 - min(max(skewness, 0) / _SKEWED, 1) ** (2 / 3))
    return NoiseStats(blank, std * max(noise, 0.2), "zone")
