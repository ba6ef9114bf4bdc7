"""Half maps of an atomic model, for scripts and notebooks and for the command line."""

import os

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.halves import Simulated, simulate_halves
from deepemhancer_plugin.core.simulation.molecule import Molecule, read_molecule

COARSEST_RESOLUTION = 30.0  # A
BOX_LIMITS = 24, 1024  # voxels
LARGEST_B_FACTOR = 1000.0  # A^2


def simulate(
    model: str | os.PathLike[str] | Molecule,
    *,
    resolution: float = 3.5,
    sampling_rate: float = 1.0,
    box: int | None = None,
    b_factor: float = 80.0,
    disorder: float = 60.0,
    micelle: float = 0.0,
    preferred: float = 0.0,
    seed: int = 0,
) -> Simulated:
    """Simulate the half maps that a reconstruction of an atomic model would give.

    Beside them come the map that the enhancer should make of them and the model's own map, all in
    the model's place. The same seed gives the same maps.

    Args:
        model: a file, PDB or mmCIF, .gz too, or a `Molecule`.
        resolution: A where the FSC of the halves, in the molecule, falls to 0.143.
        sampling_rate: A/voxel.
        box: voxels of an edge; None leaves 16 A round the molecule.
        b_factor: loss of contrast of both halves, A^2.
        disorder: B factor added at the most flexible end of the molecule, A^2.
        micelle: density of a detergent belt relative to the molecule's mean, 0-1; 0 for none.
        preferred: 0-1, how much the views crowd round one direction.
        seed: draws everything that is random.

    Raises:
        InputError: the model cannot be read or holds no atoms; a number is out of its range.

    Example:
        >>> from deepemhancer_plugin.core import simulate
        >>> from deepemhancer_plugin.core.simulation import from_structure
        >>> from deepemhancer_plugin.core.simulation.synthetic import build_protein
        >>> protein = from_structure(build_protein(0))
        >>> simulated = simulate(protein[:400], resolution=6, sampling_rate=2)
        >>> simulated.half1.shape == simulated.model.shape
        True
        >>> paths = simulated.save("protein")  # doctest: +SKIP
    """
    _check_range("sampling rate", sampling_rate, 0.1, COARSEST_RESOLUTION / 2)
    if not 2 * sampling_rate < resolution <= COARSEST_RESOLUTION:
        raise InputError(
            f"resolution {resolution:g} A: between twice the sampling rate "
            f"({2 * sampling_rate:g} A) and {COARSEST_RESOLUTION:g} A is right"
        )
    if box is not None:
        _check_range("box", box, *BOX_LIMITS)
    _check_range("B factor", b_factor, 0, LARGEST_B_FACTOR)
    _check_range("disorder", disorder, 0, LARGEST_B_FACTOR)
    _check_range("micelle", micelle, 0, 1)
    _check_range("preferred", preferred, 0, 1)
    molecule = model if isinstance(model, Molecule) else read_molecule(model)
    if not len(molecule):
        raise InputError("model: a molecule without atoms: at least one is needed")
    conditions = Conditions(
        resolution=float(resolution),
        sampling_rate=float(sampling_rate),
        box=box,
        b_factor=float(b_factor),
        disorder=float(disorder),
        micelle=float(micelle),
        preferred=float(preferred),
        random_pose=False,
    )
    return simulate_halves(molecule, conditions, seed, workers=-1)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} {value:g}: between {low:g} and {high:g} is right")
