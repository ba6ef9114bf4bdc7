"""What several tests of the training share."""

import keras
import numpy as np
import pytest
from pair_files import write_pair
from tiny_training import EDGE, TINY, FixedPool

from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.cubes import simulate_cubes
from deepemhancer_plugin.core.training.train import Trainer


@pytest.fixture(autouse=True)
def dtype_policy():
    """Trainers change Keras's policy."""
    before = keras.config.dtype_policy().name
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def molecule():
    return from_structure(build_protein())[:400]


@pytest.fixture(scope="session")
def samples(molecule):
    """Cubes of one molecule that hold some of it."""
    inputs, targets = simulate_cubes(molecule, np.random.default_rng(5), 12, EDGE, noise_only=0)
    full = np.abs(targets).max((1, 2, 3, 4)) > 0.1
    assert full.sum() >= 4
    return inputs[full], targets[full]


@pytest.fixture(scope="session")
def trained(samples, tmp_path_factory):
    """Forty steps at once: the trainer, what it reported, its folder."""
    folder, reports = tmp_path_factory.mktemp("at once"), []
    trainer = Trainer(TINY, folder)
    trainer.run(FixedPool(samples), (samples[0][:2], samples[1][:2]), reports.append)
    return trainer, reports, folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of a pair of half maps with its model, and the simulation they come from."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, write_pair(folder)
