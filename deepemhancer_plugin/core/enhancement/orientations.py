"""The 24 orientations that rotations by 90 degrees give a cube, never a mirror image; and what predictions in some of them have in common."""

from collections.abc import Callable

import numpy as np

# How many orientations an average takes, and which: the identity; with it a third of a turn about the diagonal, so that no axis stays where it is;
# the identity and the half turns about z, y and x (a group, as the 24 are); or all.
AVERAGES = {1: (0,), 2: (0, 5), 4: (0, 2, 8, 10), 24: tuple(range(24))}

FAINT, FEW = (
    0.05,
    4e-4,
)  # of a protein's 95th percentile, and share of voxels (100 A^3): a window with fewer above it is not worth a second look


def rotate_cube(cube: np.ndarray, rotation: int) -> np.ndarray:
    """The cube (z, y, x, ...) in orientation 0-23; a view."""
    face, spin = divmod(rotation, 4)
    cube = (
        np.rot90(cube, face, (0, 1)) if face < 4 else np.rot90(cube, 1 if face == 4 else 3, (0, 2))
    )
    return np.rot90(cube, spin, (1, 2))


def rotate_back(cube: np.ndarray, rotation: int) -> np.ndarray:
    """What `rotated` made its orientation `rotation` of; a view."""
    face, spin = divmod(rotation, 4)
    cube = np.rot90(cube, -spin, (1, 2))
    return (
        np.rot90(cube, -face, (0, 1))
        if face < 4
        else np.rot90(cube, -1 if face == 4 else -3, (0, 2))
    )


def average_orientations(
    predict: Callable[[np.ndarray], np.ndarray], count: int
) -> Callable[[np.ndarray], np.ndarray]:
    """`predict` of windows (n, z, y, x[, channels]) averaged over `count` (of AVERAGES) orientations of each window, at so many times the cost."""
    if count == 1:
        return predict

    return lambda windows: np.mean(
        [_predicted(predict, windows, rotation) for rotation in AVERAGES[count]], axis=0
    )


def combine_orientations(
    predict: Callable[[np.ndarray], np.ndarray], count: int
) -> Callable[[np.ndarray], np.ndarray]:
    """`averaged`, with the power mean (mean of x^(1/4))^4 of densities x (below 0: 0).

    What a network sees in one orientation of four alone, it has made of noise: a 256th of it is left, of two a 16th. What it misses in one of four
    alone is there: a third is left, where a geometric mean would leave nothing.
    Where the first orientation shows next to nothing that is not FAINT, the others are not asked: solvent then takes half the time.
    """
    if count == 1:
        return predict

    def agree(windows: np.ndarray) -> np.ndarray:
        first = np.maximum(_predicted(predict, windows, AVERAGES[count][0]), 0)
        if all(np.mean(window > FAINT) < FEW for window in first):
            return first
        roots = np.sqrt(np.sqrt(first))
        for rotation in AVERAGES[count][1:]:
            roots += np.sqrt(np.sqrt(np.maximum(_predicted(predict, windows, rotation), 0)))
        return (roots / count) ** 4

    return agree


def _predicted(
    predict: Callable[[np.ndarray], np.ndarray], windows: np.ndarray, rotation: int
) -> np.ndarray:
    """The prediction for windows shown in an orientation, turned back."""
    return np.stack(
        [
            rotate_back(p, rotation)
            for p in predict(np.stack([rotate_cube(w, rotation) for w in windows]))
        ]
    )
