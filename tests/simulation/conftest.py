"""The synthetic protein that simulations are made of."""

import pytest

from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein


@pytest.fixture(scope="module")
def structure():
    return build_protein()


@pytest.fixture(scope="module")
def molecule(structure):
    return from_structure(structure)
