"""Windows shown to a network in several orientations: the 24 that rotations by 90 degrees give."""

import numpy as np

from deepemhancer_plugin.core.weights.model import Predictor

# Which orientations an average takes: the identity; with it a third of a turn about the diagonal,
# so that no axis stays where it is; the identity and the half turns about z, y and x; all.
AVERAGES = {1: (0,), 2: (0, 5), 4: (0, 2, 8, 10), 24: tuple(range(24))}

# A window with fewer voxels of this density (relative to a protein's 95th percentile) is solvent.
DENSITY_LIMIT = 0.05
DENSE_FRACTION = 4e-4


def rotate_cube(cube: np.ndarray, rotation: int) -> np.ndarray:
    """Rotate a cube (z, y, x, ...) to orientation 0 to 23; the result is a view."""
    face, spin = divmod(rotation, 4)
    if face < 4:
        cube = np.rot90(cube, face, (0, 1))
    else:
        cube = np.rot90(cube, 1 if face == 4 else 3, (0, 2))
    return np.rot90(cube, spin, (1, 2))


def rotate_back(cube: np.ndarray, rotation: int) -> np.ndarray:
    """Undo `rotate_cube`; the result is a view."""
    face, spin = divmod(rotation, 4)
    cube = np.rot90(cube, -spin, (1, 2))
    if face < 4:
        return np.rot90(cube, -face, (0, 1))
    return np.rot90(cube, -1 if face == 4 else -3, (0, 2))


def average_orientations(predict: Predictor, count: int) -> Predictor:
    """Average a network's predictions over orientations of each window.

    Args:
        predict: the network.
        count: of orientations, a key of AVERAGES; the cost grows as much.
    """
    if count == 1:
        return predict

    def average(windows: np.ndarray) -> np.ndarray:
        seen = [_predict_rotated(predict, windows, rotation) for rotation in AVERAGES[count]]
        return np.asarray(np.mean(seen, axis=0))

    return average


def combine_orientations(predict: Predictor, count: int) -> Predictor:
    """Combine densities over orientations by the power mean (mean of x^(1/4))^4.

    Negative densities count as 0. What a network sees in one of four orientations alone is mostly
    made of noise, and a 256th of it is left; what it misses in one of four keeps a third, where a
    geometric mean would leave nothing. Where the first orientation shows solvent alone, it stands.

    Args:
        predict: the network.
        count: of orientations, a key of AVERAGES.
    """
    if count == 1:
        return predict

    def combine(windows: np.ndarray) -> np.ndarray:
        first, *others = AVERAGES[count]
        result: np.ndarray = np.maximum(_predict_rotated(predict, windows, first), 0)
        dense = np.mean(result > DENSITY_LIMIT, axis=(1, 2, 3)) >= DENSE_FRACTION
        if not dense.any():
            return result
        roots = np.sqrt(np.sqrt(result))
        for rotation in others:
            # All windows of the batch: a network is compiled for each number of them.
            prediction = _predict_rotated(predict, windows, rotation)
            roots += np.sqrt(np.sqrt(np.maximum(prediction, 0)))
        result[dense] = (roots[dense] / count) ** 4
        return result

    return combine


def _predict_rotated(predict: Predictor, windows: np.ndarray, rotation: int) -> np.ndarray:
    """Predict windows in an orientation, and rotate the prediction back."""
    predictions = predict(np.stack([rotate_cube(window, rotation) for window in windows]))
    back = [rotate_back(prediction, rotation) for prediction in predictions]
    return np.stack(back)
