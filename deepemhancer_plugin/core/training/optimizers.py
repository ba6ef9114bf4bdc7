"""The optimizers of the training, with weights averaged on the way; on any Keras backend."""

NAMES = ("adam", "muon")


def make(name: str, rate: float, average: float):
    """A Keras optimizer: gradients clipped to a norm of one, a moving average of the weights with momentum `average`.

    "adam": Keras's. "muon" (Jordan 2024, https://kellerjordan.github.io/posts/muon): for the kernels of convolutions the momentum's nearest
    orthogonal matrix, rows over taps and input features, so that a step moves all directions alike; scaled to the size of Adam's steps (Liu et al.
    2025, arXiv:2502.16982), so that the same rates are right. All else, and kernels of few features, by Adam.
    """
    import keras

    average_and_clip = {
        "global_clipnorm": 1.0,
        "use_ema": True,
        "ema_momentum": average,
        "ema_overwrite_frequency": None,
    }
    if name == "adam":
        return keras.optimizers.Adam(rate, **average_and_clip)
    return _muon()(rate, weight_decay=None, adam_weight_decay=None, **average_and_clip)


def _muon():
    """Keras's Muon, which knows matrices alone, for kernels (z, y, x, features in, features out)."""
    import keras
    from keras import ops

    class Muon(keras.optimizers.Muon):
        def _should_use_adamw(self, variable):
            return len(variable.shape) != 5 or min(variable.shape[-2:]) < 16

        def _muon_update_step(self, gradient, variable, lr, m):
            self.assign_add(m, gradient + m * (self.momentum - 1))
            matrix = ops.reshape(gradient + self.momentum * m, (-1, variable.shape[-1]))
            update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
            self.assign_sub(variable, ops.reshape(update, variable.shape))

        def zeropower_via_newtonschulz5(self, x, steps):
            """Keras's polynomials, but of the columns' Gram matrix: the rows, which are many, are needed twice instead of ten times."""
            x = x / (ops.norm(x) + 1e-7)
            one = product = ops.eye(x.shape[1])
            gram = ops.matmul(ops.transpose(x), x)
            for _ in range(steps):
                step = self.muon_a * one + self.muon_b * gram + self.muon_c * ops.matmul(gram, gram)
                product, gram = ops.matmul(product, step), ops.matmul(step, ops.matmul(gram, step))
            return ops.matmul(x, product)

    return Muon
