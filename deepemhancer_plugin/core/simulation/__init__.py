"""Half maps simulated from an atomic model, and the map that the network should make of them."""

from deepemhancer_plugin.core.simulation.conditions import Conditions, random_conditions
from deepemhancer_plugin.core.simulation.halves import Simulated, simulate_halves
from deepemhancer_plugin.core.simulation.molecule import Molecule, from_structure, read_molecule

__all__ = [
    "Conditions",
    "Molecule",
    "Simulated",
    "from_structure",
    "random_conditions",
    "read_molecule",
    "simulate_halves",
]
