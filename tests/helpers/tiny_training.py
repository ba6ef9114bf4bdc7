"""A training of a tiny network that takes seconds, and a pool that always gives the same cubes."""

import numpy as np
from small_network import SMALL

from deepemhancer_plugin.core.training.train import Settings

EDGE = 16
TINY = Settings(
    architecture=SMALL,
    edges=(EDGE,),
    batch=2,
    steps=40,
    rate=3e-3,
    warmup=5,
    precision="float32",
    average=0.8,
    validate_every=20,
    validation_cubes=2,
    workers=1,
    schedule="plateau",
)


class FixedPool:
    """The interface of a pool over given cubes, the same for every run."""

    def __init__(self, samples):
        self.samples = samples

    def draw_batch(self, count, edge, rng, blur=0.0):
        return self.samples[0][:count], self.samples[1][:count]

    def count_made(self):
        return len(self.samples[0])


def variables(trainer):
    """The values of all variables of network and optimizer."""
    return [np.array(v) for v in trainer.variables]
