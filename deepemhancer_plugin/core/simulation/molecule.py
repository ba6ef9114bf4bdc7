"""Atomic models as arrays, and the electron-scattering potential, the mask and the envelope they give on a grid."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.errors import InputError

MEAN_B = 30.0  # A^2, what the file's B factors are standardised to,
SPREAD_B = 15.0  # and their spread: files mean quite different things by a B factor
U_TO_B = 8 * np.pi**2
FINER = 1.25  # grid that atoms are summed on, against the map's
NO_ATOMS = ("DUM",)  # residues that mark a membrane's planes


@dataclass(frozen=True)
class Molecule:
    """Heavy atoms: elements (names), positions (n, 3) as x, y, z in A, B factors (n,) in A^2, occupancies (n,)."""

    elements: np.ndarray
    positions: np.ndarray
    b_factors: np.ndarray
    occupancies: np.ndarray

    def __len__(self) -> int:
        return len(self.elements)

    def rotate(self, rotation: Rotation) -> "Molecule":
        """Rotate the atoms about the origin."""
        return replace(self, positions=rotation.apply(self.positions))

    def shift(self, by: np.ndarray) -> "Molecule":
        """Shift the atoms by a vector x, y, z in A."""
        return replace(self, positions=self.positions + by)

    def __getitem__(self, index) -> "Molecule":
        return Molecule(
            self.elements[index],
            self.positions[index],
            self.b_factors[index],
            self.occupancies[index],
        )


def from_structure(structure: gemmi.Structure, standardise: bool = True) -> Molecule:
    """The first model's atoms, ligands and glycans too, without hydrogens and waters; B factors standardised to 30 +- 15 A^2, or the file's."""
    atoms = [
        atom
        for chain in structure[0]
        for residue in chain
        if not residue.is_water() and residue.name not in NO_ATOMS
        for atom in residue
        if atom.element.name not in ("H", "D", "X") and atom.occ > 0
    ]
    b = np.array([atom.b_iso for atom in atoms], np.float64)
    spread = b.std() if len(b) else 0.0
    if standardise:
        b = np.clip(
            MEAN_B + (SPREAD_B / spread) * (b - np.median(b))
            if spread > 1
            else np.full(len(b), MEAN_B),
            12,
            150,
        )
    return Molecule(
        np.array([atom.element.name for atom in atoms]),
        np.array([atom.pos.tolist() for atom in atoms]).reshape(-1, 3),
        np.maximum(b, 0),
        np.array([atom.occ for atom in atoms]),
    )


def read_molecule(path: str | Path, standardise: bool = True) -> Molecule:
    """An atomic model in PDB or mmCIF format, plain or compressed (see `from_structure`). InputError: missing, unreadable, without atoms."""
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


def _model(molecule: Molecule) -> gemmi.Model:
    residue, elements = (
        gemmi.Residue(),
        {name: gemmi.Element(name) for name in set(molecule.elements)},
    )
    residue.name = "UNK"
    for name, position, b, occupancy in zip(
        molecule.elements, molecule.positions, molecule.b_factors, molecule.occupancies, strict=True
    ):
        atom = gemmi.Atom()
        atom.element, atom.pos, atom.b_iso, atom.occ = (
            elements[name],
            gemmi.Position(*position),
            b,
            occupancy,
        )
        residue.add_atom(atom)
    chain, model = gemmi.Chain("A"), gemmi.Model(1)
    chain.add_residue(residue)
    model.add_chain(chain)
    return model


def _cell(shape: tuple[int, ...], rate: float) -> gemmi.UnitCell:
    z, y, x = (n * rate for n in shape)
    return gemmi.UnitCell(x, y, z, 90, 90, 90)


def _grid(kind, shape: tuple[int, ...], rate: float):
    grid = kind(*shape[::-1])
    grid.set_unit_cell(_cell(shape, rate))
    grid.spacegroup = gemmi.SpaceGroup("P1")
    return grid


def compute_potential(
    molecule: Molecule, shape: tuple[int, ...], rate: float, workers: int = 1
) -> np.ndarray:
    """Half spectrum (nz, ny, nx // 2 + 1) of the molecule's electron-scattering potential, atom positions in the box's own frame.

    Electron form factors of gemmi (Peng et al. 1996, Acta Cryst. A52, 257). The atoms are summed on a grid a quarter finer, blurred to
    fit it, and the blur is taken out again in Fourier space: what aliasing leaves within the box's own Nyquist limit is 1 % at most.
    """
    fine = tuple(fft.next_fast_len(math.ceil(FINER * n), real=True) for n in shape)
    calculator = gemmi.DensityCalculatorE()
    # Enough blur that an atom is sampled well on this grid: Refmac's rule, spacing d_min / (2 rate).
    spacing = rate * max(n / f for n, f in zip(shape, fine, strict=True))
    blur = max(0.0, U_TO_B / 1.1 * spacing**2 - float(molecule.b_factors.min()))
    calculator.d_min, calculator.rate, calculator.blur = 2 * spacing, 1.0, blur
    calculator.cutoff = 1e-4
    calculator.grid.set_unit_cell(_cell(shape, rate))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(*fine[::-1])
    calculator.add_model_density_to_grid(_model(molecule))
    spectrum = fft.rfftn(
        np.asarray(calculator.grid.array, np.float32).transpose(2, 1, 0), workers=workers
    )
    frequencies = [
        fft.fftfreq(shape[0], rate),
        fft.fftfreq(shape[1], rate),
        fft.rfftfreq(shape[2], rate),
    ]
    spectrum = spectrum[
        np.ix_(
            *(
                np.round(k * n * rate).astype(int) % f
                for k, n, f in zip(frequencies, shape, fine, strict=True)
            )
        )
    ]
    spectrum *= np.float32(math.prod(shape) / math.prod(fine))
    for axis, k in enumerate(frequencies):
        factor = np.exp(blur / 4 * k**2).astype(np.float32)
        spectrum *= factor.reshape([-1 if a == axis else 1 for a in range(3)])
    return spectrum


def mask_atoms(
    molecule: Molecule, shape: tuple[int, ...], rate: float, radius: float
) -> np.ndarray:
    """1 within `radius` A of an atom, 0 elsewhere (z, y, x)."""
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Constant, radius)
    masker.rprobe = masker.rshrink = 0.0
    masker.island_min_volume = 0.0
    grid = _grid(gemmi.FloatGrid, shape, rate)
    masker.put_mask_on_float_grid(grid, _model(molecule))
    return 1 - np.asarray(grid.array, np.float32).transpose(2, 1, 0)
