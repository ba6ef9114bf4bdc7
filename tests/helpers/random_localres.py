"""Small networks for local resolution with random weights."""

import numpy as np

from deepemhancer_plugin.core.localres.inputs import RANGES
from deepemhancer_plugin.core.localres.networks import build

WIDTHS = {"dense": (8, 4, 2), "published": (3, 4)}


def random_network(kind):
    """Build a network that does something everywhere and stays within its range.

    The last layers of a new one are zeros.
    """
    network = build(kind, RANGES["1.0"], WIDTHS[kind])
    rng = np.random.default_rng(0)
    for variable in network.model.trainable_variables:
        if variable.path.endswith("kernel"):
            inputs = max(1, np.prod(variable.shape[:-1]))
            variable.assign(0.7 * rng.standard_normal(variable.shape) / np.sqrt(inputs))
    return network
