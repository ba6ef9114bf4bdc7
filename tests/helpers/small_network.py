"""A tiny embedded network whose weights do something everywhere.

The last layers of a new network are zeros.
"""

import functools

import numpy as np

from deepemhancer_plugin.core.weights.networks import Architecture, Embedded

SMALL = Architecture(channels=2, widths=(4, 8, 8), blocks=(1, 1, 1))


def randomise(network, seed=0, positive=False):
    """Give a network random weights that keep the size of the features.

    With positive ones every voxel within reach counts.
    """
    rng = np.random.default_rng(seed)
    for variable in network.model.trainable_variables:
        values = rng.standard_normal(variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1])))
        variable.assign(np.abs(values) if positive else values)
    return network


@functools.cache
def small_network():
    return randomise(Embedded(SMALL))
