"""Which maps show related proteins: sequence clusters at 30 % identity, and splits that share none."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np

from deepemhancer_plugin.core.errors import InputError

IDENTITY, COVERAGE = (
    0.3,
    0.8,
)  # of two sequences of one cluster, as published, and how much of them the alignment covers
SHORTEST = 20  # residues: shorter peptides and strands say nothing about the fold
IN_TRAINING, ELSEWHERE = 5, 1  # how many maps of one group a split holds
HELD_OUT = 0.15  # share of the maps that validate: 21 of 148 as published


def sequences(path: Path) -> list[str]:
    """One-letter sequences of a model's polymers of at least SHORTEST residues, as its atoms show them, each once; lower case: nucleic acid.

    InputError when the file is no atomic model.
    """
    try:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        model = structure[0]
    except (RuntimeError, ValueError, OSError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not an atomic model in PDB or mmCIF format ({reason})"
        ) from error
    found = []
    for chain in model:
        polymer = chain.get_polymer()
        kind = polymer.check_polymer_type()
        if kind not in (
            gemmi.PolymerType.PeptideL,
            gemmi.PolymerType.Dna,
            gemmi.PolymerType.Rna,
            gemmi.PolymerType.DnaRnaHybrid,
        ):
            continue
        text = gemmi.one_letter_code([residue.name for residue in polymer]).upper()
        if len(text) >= SHORTEST:
            found.append(text if kind == gemmi.PolymerType.PeptideL else text.lower())
    return sorted(set(found))


def clusters(models: Sequence[Path]) -> list[tuple[str, ...]]:
    """The clusters that each model's chains are in: of proteins at 30 % identity by MMseqs2, of nucleic acids by their exact sequence.

    Raises:
        InputError: MMseqs2 (the program `mmseqs`) is not installed or fails.
    """
    chains = [sequences(model) for model in models]
    proteins = sorted({text for texts in chains for text in texts if text.isupper()})
    representative = dict(
        zip(proteins, _mmseqs(proteins) if len(proteins) > 1 else proteins, strict=True)
    )
    return [tuple(sorted({representative.get(text, text) for text in texts})) for texts in chains]


def _mmseqs(proteins: Sequence[str]) -> list[str]:
    """The representative of each sequence's cluster."""
    program = shutil.which("mmseqs")
    if program is None:
        raise InputError(
            "the program mmseqs (MMseqs2) is not installed: install it (Debian: mmseqs2), or give the table a column cluster"
        )
    with tempfile.TemporaryDirectory() as folder:
        fasta, result = Path(folder) / "chains.fasta", Path(folder) / "result"
        fasta.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(proteins)))
        done = subprocess.run(
            [
                program,
                "easy-cluster",
                str(fasta),
                str(result),
                f"{folder}/work",
                "--min-seq-id",
                str(IDENTITY),
                "-c",
                str(COVERAGE),
                "-s",
                "7.5",
                "--threads",
                "2",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        pairs = Path(f"{result}_cluster.tsv")
        if done.returncode or not pairs.is_file():
            raise InputError(
                f"{program} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}; give the table a column cluster instead"
            )
        found = {
            int(member): int(head)
            for head, member in (line.split("\t") for line in pairs.read_text().splitlines())
        }
    return [proteins[found[i]] for i in range(len(proteins))]


def groups(members: Sequence[Sequence[str]]) -> list[int]:
    """A number for each map, the same for two that share a cluster, directly or through others; maps without a cluster stand alone."""
    group = list(range(len(members)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    first: dict[str, int] = {}
    for i, names in enumerate(members):
        for name in names:
            group[root(i)] = root(first.setdefault(name, i))
    return [root(i) for i in range(len(members))]


def splits(group: Sequence[int], seed: int) -> list[str]:
    """ "train" or "validation" for each map: random groups, until HELD_OUT of the maps are held out. A single group is for training."""
    order = np.random.default_rng(seed).permutation(sorted(set(group)))
    held: set[int] = set()
    for number in order[:-1]:
        if sum(g in held for g in group) >= HELD_OUT * len(group):
            break
        held.add(int(number))
    return ["validation" if g in held else "train" for g in group]
