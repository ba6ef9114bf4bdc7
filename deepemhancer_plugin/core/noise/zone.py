"""Noise of maps that are masked to a zone around a molecule, with no solvent to measure it in."""

import math

import numpy as np

from deepemhancer_plugin.core.noise.normalization import NoiseStats

NO_SOLVENT = "the map is masked so tightly that no solvent is left to measure it in"
_LARGEST_ZONE = 0.6  # of the box
_BALL_ROUNDNESS = 0.98  # scatter of a ball over that of a zone; balls have more, and hold solvent
_LEVEL_RISE = 0.3  # times the noise's deviation: a level so far over the blank is a molecule's
_MOLECULE_SKEWNESS = 0.8  # of a molecule's density in its own zone
_TAIL_SKEWNESS = 8.0  # of density that fills some hundredth of the zone
_LEAST_NOISE = 0.2  # of the deviation in the zone


def level_of_halves(level: float, std: float, half1: np.ndarray, half2: np.ndarray) -> float:
    """Choose the solvent's level of two half maps.

    Args:
        level: As found in their mean.
        std: Standard deviation of the noise of their mean.
        half1: The first half map (z, y, x).
        half2: The second one.

    Returns:
        The blank's level where the halves are masked to a zone and what was found is the
        molecule's; else `level`.
    """
    blank = 0.5 * (float(half1[0, 0, 0]) + float(half2[0, 0, 0]))
    return blank if level - blank > _LEVEL_RISE * std and _find_zone(half1) is not None else level


def noise_of_zone(volume: np.ndarray, found: NoiseStats, sharpness: float) -> NoiseStats | None:
    """Estimate the noise of a map that is masked to the zone of a molecule.

    In a zone without solvent, what was found is the molecule: most of the density's deviation, on a
    level over the blank or with too little skewness left for the rest; or a peak that is none. The
    level is then the blank's. Noise has no skewness, so the molecule's part of the variance follows
    from the skewness that is seen, which goes with that part to the power 3/2.

    Args:
        volume: The map (z, y, x).
        found: Its noise as found from the local power.
        sharpness: Density of the peak that it was found from, per unit of ln(power).

    Returns:
        The noise; None where the map is no zone, or holds solvent.
    """
    inside = _find_zone(volume)
    if inside is None:
        return None
    blank = float(volume[0, 0, 0])
    values = volume[inside]
    mean = float(np.mean(values, dtype=np.float64))
    std = float(np.std(values, dtype=np.float64))
    values -= np.float32(mean)
    values /= np.float32(std)
    skewness = float(np.mean(values**3, dtype=np.float64))
    ratio = found.std / std
    if not _is_molecule(found.mean - blank > _LEVEL_RISE * found.std, ratio, skewness, sharpness):
        return None
    noise = math.sqrt(1 - min(max(skewness, 0) / _MOLECULE_SKEWNESS, 1) ** (2 / 3))
    return NoiseStats(blank, std * max(noise, _LEAST_NOISE), "zone")


def _is_molecule(above: bool, ratio: float, skewness: float, sharpness: float) -> bool:
    """Whether what was taken for the noise of a zone is its molecule.

    `above`: on a level over the blank; `ratio`: its deviation over that of the whole zone.
    """
    skewed = skewness > 0.3 + _TAIL_SKEWNESS * max(1 - ratio**2, 0) ** 1.5
    if ratio > 0.75 and (above or skewed or sharpness < 0.5):
        return True
    return ratio > 0.4 and above and sharpness < 0.8


def _find_zone(volume: np.ndarray) -> np.ndarray | None:
    """Where a map is not blank (as its first voxel), if that is a zone around a molecule.

    It is none where it fills most of the box, or is a ball, which has solvent in it.
    """
    inside = volume != volume[0, 0, 0]
    number = np.count_nonzero(inside)
    if not 0 < number < _LARGEST_ZONE * inside.size:
        return None
    scatter = 0.0  # mean square distance from the middle, least for a ball
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        weight = inside.sum(others) / number
        place = np.arange(inside.shape[axis])
        scatter += weight @ (place - weight @ place) ** 2
    ball = 0.6 * (number * 3 / (4 * math.pi)) ** (2 / 3)
    return inside if ball < _BALL_ROUNDNESS * scatter else None
