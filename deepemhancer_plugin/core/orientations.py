"""The 24 orientations that rotations by 90 degrees give a cube, never a mirror image; and predictions averaged over some of them."""
from collections.abc import Callable

import numpy as np

# How many orientations an average takes, and which: the identity; with it a third of a turn about the diagonal, so that no axis stays where it is;
# the identity and the half turns about z, y and x (a group, as the 24 are); or all.
AVERAGES = {1: (0,), 2: (0, 5), 4: (0, 2, 8, 10), 24: tuple(range(24))}


def rotated(cube: np.ndarray, rotation: int) -> np.ndarray:
    """The cube (z, y, x, ...) in orientation 0-23; a view."""
    face, spin = divmod(rotation, 4)
    cube = np.rot90(cube, face, (0, 1)) if face < 4 else np.rot90(cube, 1 if face == 4 else 3, (0, 2))
    return np.rot90(cube, spin, (1, 2))


def rotated_back(cube: np.ndarray, rotation: int) -> np.ndarray:
    """What `rotated` made its orientation `rotation` of; a view."""
    face, spin = divmod(rotation, 4)
    cube = np.rot90(cube, -spin, (1, 2))
    return np.rot90(cube, -face, (0, 1)) if face < 4 else np.rot90(cube, -1 if face == 4 else -3, (0, 2))


def averaged(predict: Callable[[np.ndarray], np.ndarray], count: int) -> Callable[[np.ndarray], np.ndarray]:
    """`predict` of windows (n, z, y, x[, channels]) averaged over `count` (of AVERAGES) orientations of each window, at so many times the cost."""
    if count == 1:
        return predict

    def average(windows: np.ndarray) -> np.ndarray:
        predictions = []
        for rotation in AVERAGES[count]:
            turned = predict(np.stack([rotated(w, rotation) for w in windows]))
            predictions.append(np.stack([rotated_back(p, rotation) for p in turned]))
        return np.mean(predictions, axis=0)

    return average
