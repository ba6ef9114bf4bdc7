"""Atomic models of nothing but a sequence."""

from pathlib import Path

import gemmi
import numpy as np


def protein_of(path: Path, sequence: str):
    """A model of alpha carbons with that sequence."""
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, name in enumerate(
        gemmi.expand_one_letter_sequence(sequence, gemmi.ResidueKind.AA), start=1
    ):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid, residue.entity_type = (
            name,
            gemmi.SeqId(str(number)),
            gemmi.EntityType.Polymer,
        )
        atom.name, atom.element, atom.pos = (
            "CA",
            gemmi.Element("C"),
            gemmi.Position(3.8 * number, 0, 0),
        )
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.write_pdb(str(path))
    return path


def random_sequence(seed, length=150):
    return "".join(np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWY"), length))


def relative_of(sequence, seed, kept=0.6):
    """A sequence of which `kept` of the residues are those of another, and a few by chance."""
    rng = np.random.default_rng([7, seed])
    other = random_sequence([8, seed], len(sequence))
    return "".join(a if rng.random() < kept else b for a, b in zip(sequence, other, strict=True))
