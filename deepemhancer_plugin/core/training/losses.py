"""What is minimised: the published mean absolute error, the Fourier shell correlation to the target, squared errors and those of the gradient."""

import functools

import numpy as np

NOTHING = 0.02  # of a target whose 95th percentile in a protein is about one
FAINT = 2e-3  # mean square of a target from which down the squared error is hardly relative to it any more: a protein at a cube's corner


@functools.cache
def _matrices(edge: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shell membership (edge * edge * (edge // 2 + 1), shells) of the half spectrum of a cube, shells up to Nyquist, conjugates counted.

    As a matrix, because a product with it is the one way to sum over shells that is fast on every backend. And the DFT's cosines and sines.
    """
    k = np.sqrt(
        sum(
            np.square(f)
            for f in np.meshgrid(
                np.fft.fftfreq(edge), np.fft.fftfreq(edge), np.fft.rfftfreq(edge), indexing="ij"
            )
        )
    )
    shell = np.round(k * edge).astype(int)
    weight = np.where(
        (np.arange(edge // 2 + 1) == 0) | (np.arange(edge // 2 + 1) == edge // 2), 1.0, 2.0
    ) * np.ones_like(k)
    shells = np.arange(1, edge // 2 + 1)
    angle = 2 * np.pi / edge * np.outer(np.arange(edge), np.arange(edge))
    return (
        ((shell[..., None] == shells) * weight[..., None])
        .reshape(-1, len(shells))
        .astype(np.float32),
        np.cos(angle).astype(np.float32),
        np.sin(angle).astype(np.float32),
    )


class Loss:
    """absolute_weight * MAE + weight * (1 - mean FSC) + square_weight * relative squared error + gradient_weight * MAE of the gradient.

    For cubes (batch, edge, edge, edge, 1); the mean FSC is that over the shells that the target fills.

    The FSC term asks for the right detail at every resolution, where the MAE is content once the strong low frequencies are right. Shells that
    hold less than 1e-6 of the target's strongest, and empty targets, do not count. The relative squared error of a cube, sum (prediction -
    target)^2 / (sum target^2 + FAINT * voxels), is smallest for the mean of all that may be there, which correlates best with what is, while the
    MAE is content with the median, in which uncertain detail fades. The gradient is the difference of neighbouring voxels along each axis; its
    error weighs sharp borders more. `empty_weight`: how much the absolute error counts where the target is empty (under NOTHING): what little is
    made of noise, or of what surrounds a molecule, is next to nothing in a mean over all voxels.
    """

    def __init__(
        self,
        weight: float,
        gradient_weight: float = 0.0,
        empty_weight: float = 1.0,
        square_weight: float = 0.0,
        absolute_weight: float = 1.0,
    ):
        self.weight, self.gradient_weight, self.empty_weight = weight, gradient_weight, empty_weight
        self.square_weight, self.absolute_weight = square_weight, absolute_weight

    def _transform(self, cubes):
        """Half spectra (batch, edge * edge * (edge // 2 + 1)): real and imaginary parts, by products with the DFT's matrices."""
        from keras import ops

        edge = cubes.shape[1]
        (_, cos, sin), half = _matrices(edge), edge // 2 + 1
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

    def shells(self, target, prediction):
        """FSC, and whether the target fills the shell, 0 or 1: both (batch, shells)."""
        from keras import ops

        matrix = _matrices(target.shape[1])[0]
        (a, b), (c, d) = self._transform(target[..., 0]), self._transform(prediction[..., 0])
        cross = ops.matmul(a * c + b * d, matrix)
        first, second = ops.matmul(a * a + b * b, matrix), ops.matmul(c * c + d * d, matrix)
        filled = ops.cast(first > 1e-6 * ops.max(first, axis=1, keepdims=True) + 1e-3, "float32")
        return cross / ops.sqrt(first * second + 1e-6), filled

    def __call__(self, target, prediction):
        from keras import ops

        target, prediction = ops.cast(target, "float32"), ops.cast(prediction, "float32")
        errors = ops.abs(target - prediction)
        if self.empty_weight != 1:
            errors = errors * ops.where(ops.abs(target) < NOTHING, self.empty_weight, 1.0)
        loss = self.absolute_weight * ops.mean(errors)
        if self.weight:
            curve, filled = self.shells(target, prediction)
            loss = loss + self.weight * ops.mean(filled * (1 - curve))
        if self.square_weight:
            error, power = (
                ops.mean(ops.square(a), axis=(1, 2, 3, 4)) for a in (target - prediction, target)
            )
            loss = loss + self.square_weight * ops.mean(error / (power + FAINT))
        if self.gradient_weight:
            error = target - prediction
            steps = (
                error[:, 1:] - error[:, :-1],
                error[:, :, 1:] - error[:, :, :-1],
                error[:, :, :, 1:] - error[:, :, :, :-1],
            )
            loss = loss + self.gradient_weight / 3 * sum(ops.mean(ops.abs(step)) for step in steps)
        return loss
