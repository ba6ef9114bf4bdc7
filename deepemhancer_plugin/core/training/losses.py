"""What is minimised: absolute, squared and gradient errors, and the Fourier shell correlation."""

import functools
from typing import Any

import numpy as np

from deepemhancer_plugin.core.maps.spectrum import shell_matrix

# Both relative to a target whose 95th percentile in a protein is about one.
EMPTY_DENSITY = 0.02  # a target below it is empty
LEAST_MEAN_SQUARE = 2e-3  # added to a target's, so that little of a protein does not weigh too much

_shell_matrix = functools.cache(shell_matrix)


@functools.cache
def _fourier_matrices(edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the discrete Fourier transform of `edge` values."""
    angle = 2 * np.pi / edge * np.outer(np.arange(edge), np.arange(edge))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


class Loss:
    """The weighted sum of four terms, for cubes (batch, edge, edge, edge, 1).

    * The mean absolute error, `empty_weight` times as much where the target is empty: what little
      is made of noise there is next to nothing in a mean over all voxels. It is least for the
      median of all maps that are likely.
    * 1 - FSC, averaged over shells. It asks for the right detail at every resolution, where the
      absolute error is content once the strong low frequencies are right. Shells that hold less
      than 1e-6 of the target's strongest, and empty targets, do not count.
    * The relative squared error of each cube, the squared error over the target's mean square (and
      `LEAST_MEAN_SQUARE`). It is least for the mean of all maps that are likely.
    * The mean absolute error of the gradient, which is the difference of neighbouring voxels along
      each axis. It weighs sharp borders more.

    Attributes:
        fsc_weight: of the second term.
        gradient_weight: of the fourth term.
        empty_weight: of empty voxels in the first term.
        square_weight: of the third term.
        absolute_weight: of the first term.
    """

    def __init__(
        self,
        fsc_weight: float,
        gradient_weight: float = 0.0,
        empty_weight: float = 1.0,
        square_weight: float = 0.0,
        absolute_weight: float = 1.0,
    ) -> None:
        self.fsc_weight = fsc_weight
        self.gradient_weight = gradient_weight
        self.empty_weight = empty_weight
        self.square_weight = square_weight
        self.absolute_weight = absolute_weight

    def shell_correlations(self, target: Any, prediction: Any) -> tuple[Any, Any]:
        """Compute the Fourier shell correlation of each cube.

        Returns:
            The FSC of the shells 1 to Nyquist, and whether the target fills the shell, 0 or 1; both
            (batch, shells).
        """
        from keras import ops

        a, b = _transform(target[..., 0])
        c, d = _transform(prediction[..., 0])
        matrix = _shell_matrix(target.shape[1])
        cross = ops.matmul(a * c + b * d, matrix)[:, 1:]
        first = ops.matmul(a * a + b * b, matrix)[:, 1:]
        second = ops.matmul(c * c + d * d, matrix)[:, 1:]
        filled = ops.cast(first > 1e-6 * ops.max(first, axis=1, keepdims=True) + 1e-3, "float32")
        return cross / ops.sqrt(first * second + 1e-6), filled

    def __call__(self, target: Any, prediction: Any) -> Any:
        """Return the loss, a scalar tensor."""
        from keras import ops

        target, prediction = ops.cast(target, "float32"), ops.cast(prediction, "float32")
        errors = ops.abs(target - prediction)
        if self.empty_weight != 1:
            empty = ops.abs(target) < EMPTY_DENSITY
            errors = errors * ops.where(empty, self.empty_weight, 1.0)
        loss = self.absolute_weight * ops.mean(errors)
        if self.fsc_weight:
            curve, filled = self.shell_correlations(target, prediction)
            loss = loss + self.fsc_weight * ops.mean(filled * (1 - curve))
        if self.square_weight:
            error = ops.mean(ops.square(target - prediction), axis=(1, 2, 3, 4))
            power = ops.mean(ops.square(target), axis=(1, 2, 3, 4))
            loss = loss + self.square_weight * ops.mean(error / (power + LEAST_MEAN_SQUARE))
        if self.gradient_weight:
            loss = loss + self.gradient_weight * _mean_step(target - prediction)
        return loss


def _transform(cubes: Any) -> tuple[Any, Any]:
    """Half spectra (batch, coefficients) of cubes (batch, z, y, x): real and imaginary parts.

    By products with matrices, which every backend has, is fast at and can differentiate.
    """
    from keras import ops

    edge = cubes.shape[1]
    half = edge // 2 + 1
    cos, sin = _fourier_matrices(edge)
    real, imaginary = ops.matmul(cubes, cos[:, :half]), -ops.matmul(cubes, sin[:, :half])
    for axis in (2, 1):
        real, imaginary = ops.swapaxes(real, axis, 3), ops.swapaxes(imaginary, axis, 3)
        real, imaginary = (
            ops.matmul(real, cos) + ops.matmul(imaginary, sin),
            ops.matmul(imaginary, cos) - ops.matmul(real, sin),
        )
        real, imaginary = ops.swapaxes(real, axis, 3), ops.swapaxes(imaginary, axis, 3)
    shape = (-1, edge * edge * half)
    return ops.reshape(real, shape), ops.reshape(imaginary, shape)


def _mean_step(error: Any) -> Any:
    """Mean absolute difference of neighbouring voxels, over the three axes."""
    from keras import ops

    steps = (
        error[:, 1:] - error[:, :-1],
        error[:, :, 1:] - error[:, :, :-1],
        error[:, :, :, 1:] - error[:, :, :, :-1],
    )
    return sum(ops.mean(ops.abs(step)) for step in steps) / 3
