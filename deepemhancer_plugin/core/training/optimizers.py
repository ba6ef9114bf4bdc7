"""The optimizers of the training, with weights averaged on the way; on any Keras backend."""

import math
from collections.abc import Sequence
from typing import Any

from deepemhancer_plugin.core.backend import import_keras

NAMES = ("adam", "muon")
FEWEST_FEATURES = 16  # of a kernel that Muon trains


def make_optimizer(name: str, rate: float, average: float) -> Any:
    """Make a Keras optimizer that clips gradients to a norm of one and averages the weights.

    Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) moves the kernels of convolutions
    by the orthogonal matrix nearest to the momentum, rows over taps and input features, so that a
    step moves all directions alike. The step is scaled to the size of Adam's (Liu et al. 2025,
    arXiv:2502.16982), so that the same rates are right. Adam trains everything else, and kernels
    of few features.

    Args:
        name: "adam" or "muon".
        rate: learning rate.
        average: momentum of the moving average of the weights.
    """
    average_and_clip = {
        "global_clipnorm": 1.0,
        "use_ema": True,
        "ema_momentum": average,
        "ema_overwrite_frequency": None,
    }
    if name == "adam":
        return import_keras().optimizers.Adam(rate, **average_and_clip)
    return _convolution_muon()(rate, weight_decay=None, adam_weight_decay=None, **average_and_clip)


def _convolution_muon() -> type:
    """Keras's Muon, which knows matrices alone, for kernels (z, y, x, features in, out)."""
    keras = import_keras()
    from keras import ops

    class Muon(keras.optimizers.Muon):  # type: ignore[misc, name-defined]
        def build(self, variables: Sequence[Any]) -> None:
            if self.built:
                return
            keras.optimizers.Optimizer.build(self, variables)
            self.momentums = []
            self.adam_velocities = []
            for variable in variables:
                is_adams = len(variable.shape) != 5 or min(variable.shape[-2:]) < FEWEST_FEATURES
                self.momentums.append(self.add_variable_from_reference(variable, name="momentum"))
                self.adam_velocities.append(
                    self.add_variable_from_reference(variable, name="velocity")
                    if is_adams
                    else None
                )

        def lr_adjust(self, update: Any) -> Any:
            rows = math.prod(update.shape[:-1])
            return update * (math.sqrt(max(rows, update.shape[-1])) * self.rms_rate)

        def zeropower_via_newtonschulz5(self, momentum: Any, steps: int) -> Any:
            # Keras's polynomials, but of the columns' Gram matrix: the rows, which are many, are
            # needed twice instead of ten times.
            x = ops.reshape(momentum, (-1, momentum.shape[-1]))
            x = x / (ops.norm(x) + 1e-7)
            identity = product = ops.eye(x.shape[1])
            gram = ops.matmul(ops.transpose(x), x)
            for _ in range(steps):
                step = self.muon_a * identity + self.muon_b * gram
                step = step + self.muon_c * ops.matmul(gram, gram)
                product = ops.matmul(product, step)
                gram = ops.matmul(step, ops.matmul(gram, step))
            return ops.reshape(ops.matmul(x, product), momentum.shape)

    return Muon
