"""Atomic models as arrays, and the scattering potential and the masks that they give on a grid."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.errors import InputError

MEAN_B = (
    30.0  # A^2, what a file's B factors are standardised to: files mean different things by them
)
SPREAD_B = 15.0  # A^2, their standard deviation then
B_LIMITS = 12.0, 150.0  # A^2, of standardised B factors
U_TO_B = 8 * np.pi**2  # B = 8 pi^2 <u^2>
OVERSAMPLING = 1.25  # of the grid that atoms are summed on
DUMMY_RESIDUES = ("DUM",)  # points that mark a membrane's planes


@dataclass(frozen=True)
class Molecule:
    """Heavy atoms.

    Attributes:
        elements: names of the elements (n,).
        positions: x, y, z in A (n, 3).
        b_factors: A^2 (n,).
        occupancies: 0-1 (n,).
    """

    elements: np.ndarray
    positions: np.ndarray
    b_factors: np.ndarray
    occupancies: np.ndarray

    def __len__(self) -> int:
        """Count the atoms."""
        return len(self.elements)

    def rotate(self, rotation: Rotation) -> "Molecule":
        """Rotate the atoms about the origin."""
        return replace(self, positions=rotation.apply(self.positions))

    def shift(self, by: np.ndarray) -> "Molecule":
        """Shift the atoms by a vector x, y, z in A."""
        return replace(self, positions=self.positions + by)

    def __getitem__(self, index: slice | np.ndarray) -> "Molecule":
        """Select atoms by a slice, a boolean mask or indices."""
        return Molecule(
            self.elements[index],
            self.positions[index],
            self.b_factors[index],
            self.occupancies[index],
        )


def join_molecules(parts: Sequence[Molecule]) -> Molecule:
    """Join the atoms of molecules, in their order."""
    return Molecule(
        np.concatenate([part.elements for part in parts]),
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.b_factors for part in parts]),
        np.concatenate([part.occupancies for part in parts]),
    )


def from_structure(structure: gemmi.Structure, standardise: bool = True) -> Molecule:
    """Take the heavy atoms of a structure's first model, ligands and glycans too, without waters.

    Args:
        structure: as gemmi reads it.
        standardise: bring the B factors to 30 A^2 with a standard deviation of 15 A^2.
    """
    atoms = [
        atom
        for chain in structure[0]
        for residue in chain
        if not residue.is_water() and residue.name not in DUMMY_RESIDUES
        for atom in residue
        if atom.element.name not in ("H", "D", "X") and atom.occ > 0
    ]
    b = np.array([atom.b_iso for atom in atoms], np.float64)
    if standardise:
        b = _standardise(b)
    return Molecule(
        np.array([atom.element.name for atom in atoms]),
        np.array([atom.pos.tolist() for atom in atoms]).reshape(-1, 3),
        np.maximum(b, 0),
        np.array([atom.occ for atom in atoms]),
    )


def _standardise(b_factors: np.ndarray) -> np.ndarray:
    """B factors with the median and spread that a simulation starts from."""
    spread = b_factors.std() if len(b_factors) else 0.0
    if spread <= 1:
        return np.full(len(b_factors), MEAN_B)
    scaled: np.ndarray = MEAN_B + (SPREAD_B / spread) * (b_factors - np.median(b_factors))
    return scaled.clip(*B_LIMITS)


def read_molecule(path: str | os.PathLike[str], standardise: bool = True) -> Molecule:
    """Read an atomic model in PDB or mmCIF format, plain or compressed.

    Args:
        path: the file.
        standardise: as in `from_structure`.

    Raises:
        InputError: the file is missing or cannot be read, or holds no atoms or atoms without
            coordinates.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; an atomic model (PDB or mmCIF, .gz too) is needed")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not an atomic model in PDB or mmCIF format ({reason})"
        ) from error
    molecule = from_structure(structure, standardise) if len(structure) else None
    if molecule is None or not len(molecule):
        raise InputError(f"{path}: holds no atoms besides hydrogens and waters")
    if not np.isfinite(molecule.positions).all():
        raise InputError(
            f"{path}: holds atoms without coordinates; numbers in A are needed for each"
        )
    return molecule


def _build_model(molecule: Molecule) -> gemmi.Model:
    residue = gemmi.Residue()
    residue.name = "UNK"
    elements = {name: gemmi.Element(name) for name in set(molecule.elements)}
    columns = molecule.elements, molecule.positions, molecule.b_factors, molecule.occupancies
    for name, position, b_factor, occupancy in zip(*columns, strict=True):
        atom = gemmi.Atom()
        atom.element = elements[name]
        atom.pos = gemmi.Position(*position)
        atom.b_iso = b_factor
        atom.occ = occupancy
        residue.add_atom(atom)
    chain, model = gemmi.Chain("A"), gemmi.Model(1)
    chain.add_residue(residue)
    model.add_chain(chain)
    return model


def _cell(shape: tuple[int, ...], rate: float) -> gemmi.UnitCell:
    z, y, x = (n * rate for n in shape)
    return gemmi.UnitCell(x, y, z, 90, 90, 90)


def compute_potential(
    molecule: Molecule, shape: tuple[int, ...], rate: float, workers: int = 1
) -> np.ndarray:
    """Compute the electron-scattering potential of a molecule.

    The form factors are gemmi's (Peng et al. 1996, Acta Cryst. A52, 257). The atoms are summed on
    a finer grid, blurred to fit it, and the blur is taken out again in Fourier space: what aliasing
    leaves within the box's own Nyquist limit is 1 % at most.

    Args:
        molecule: positions x, y, z in A from the centre of the first voxel.
        shape: of the map (z, y, x).
        rate: sampling rate in A/voxel.
        workers: threads of the Fourier transform.

    Returns:
        The half spectrum (z, y, x // 2 + 1), complex64.
    """
    fine = tuple(fft.next_fast_len(math.ceil(OVERSAMPLING * n), real=True) for n in shape)
    calculator = gemmi.DensityCalculatorE()
    # Enough blur for this grid to sample an atom well: Refmac's rule, spacing d_min / (2 rate).
    spacing = rate * max(n / f for n, f in zip(shape, fine, strict=True))
    blur = max(0.0, U_TO_B / 1.1 * spacing**2 - float(molecule.b_factors.min()))
    calculator.d_min, calculator.rate, calculator.blur = 2 * spacing, 1.0, blur
    calculator.cutoff = 1e-4
    calculator.grid.set_unit_cell(_cell(shape, rate))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(*fine[::-1])
    calculator.add_model_density_to_grid(_build_model(molecule))
    spectrum: np.ndarray = fft.rfftn(
        np.asarray(calculator.grid.array, np.float32).transpose(2, 1, 0), workers=workers
    )
    transforms = fft.fftfreq, fft.fftfreq, fft.rfftfreq
    axes = [frequencies(n, rate) for frequencies, n in zip(transforms, shape, strict=True)]
    coarse = (
        np.round(k * n * rate).astype(int) % f for k, n, f in zip(axes, shape, fine, strict=True)
    )
    spectrum = spectrum[np.ix_(*coarse)]
    spectrum *= np.float32(math.prod(shape) / math.prod(fine))
    for sharpening in np.ix_(*(np.exp(blur / 4 * k**2).astype(np.float32) for k in axes)):
        spectrum *= sharpening
    return spectrum


def mask_atoms(
    molecule: Molecule, shape: tuple[int, ...], rate: float, radius: float
) -> np.ndarray:
    """Mask the surroundings of atoms.

    Args:
        molecule: positions x, y, z in A from the centre of the first voxel.
        shape: of the mask (z, y, x).
        rate: sampling rate in A/voxel.
        radius: A.

    Returns:
        Float32 (z, y, x): 1 within `radius` of an atom, 0 elsewhere.
    """
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Constant, radius)
    masker.rprobe = masker.rshrink = 0.0
    masker.island_min_volume = 0.0
    grid = gemmi.FloatGrid(*shape[::-1])
    grid.set_unit_cell(_cell(shape, rate))
    grid.spacegroup = gemmi.SpaceGroup("P1")
    masker.put_mask_on_float_grid(grid, _build_model(molecule))
    return 1 - np.asarray(grid.array, np.float32).transpose(2, 1, 0)
