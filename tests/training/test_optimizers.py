"""The training's optimizers: a step of each against its definition, in float64 NumPy."""

import numpy as np
import pytest

from deepemhancer_plugin.core.training import optimizers

RATE = 1e-3


def stepped(name, shape, gradient, steps=1):
    """What `steps` steps with one gradient make of a variable of zeros."""
    import keras

    variable = keras.Variable(np.zeros(shape, np.float32))
    optimizer = optimizers.make_optimizer(name, RATE, 0.99)
    for _ in range(steps):
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
    return np.asarray(variable, np.float64)


@pytest.mark.parametrize("features", [(16, 24), (40, 16)])
@pytest.mark.parametrize("steps", [1, 2])
def test_muon_moves_a_kernel_along_all_directions_alike(features, steps):
    """By orthogonal matrices: U V^T of the gradient's singular vectors.

    Five Newton-Schulz steps come near it, whatever the singular values.
    """
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(27 * features[0], features[1])) * np.geomspace(1, 0.1, features[1])
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    moved = stepped(
        "muon", (3, 3, 3, *features), matrix.reshape(3, 3, 3, *features), steps
    ).reshape(matrix.shape)
    size = RATE * 0.2 * np.sqrt(max(matrix.shape)) * steps
    values = np.linalg.svd(moved, compute_uv=False) / size
    assert values.min() > 0.6 and values.max() < 1.3  # Jordan 2024: between 0.7 and 1.2 or so
    assert -np.sum(moved * (u @ vt)) / (np.linalg.norm(moved) * np.linalg.norm(u @ vt)) > 0.98


@pytest.mark.parametrize(
    "name, shape",
    [("adam", (3, 3, 3, 16, 16)), ("muon", (48,)), ("muon", (3, 3, 3, 8, 48)), ("muon", (48, 48))],
)
def test_all_else_moves_by_adam(name, shape):
    """Its first step is the gradient's sign times the rate."""
    rng = np.random.default_rng(1)
    gradient = rng.choice([-1, 1], shape) * rng.uniform(0.5, 1, shape)
    np.testing.assert_allclose(stepped(name, shape, gradient), -RATE * np.sign(gradient), rtol=1e-2)
