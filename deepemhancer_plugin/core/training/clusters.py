"""Which maps show related proteins: sequence clusters at 30 % identity, and splits without any."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np

from deepemhancer_plugin.core.devices import cpu_cores
from deepemhancer_plugin.core.errors import InputError

LEAST_IDENTITY = 0.3  # of two sequences of one cluster, as published
LEAST_COVERAGE = 0.8  # of each of them by the alignment
SHORTEST_CHAIN = 20  # residues: shorter peptides and strands say nothing about the fold
HELD_OUT = 0.15  # of the maps validate: 21 of 148 as published


def read_sequences(path: Path) -> list[str]:
    """Read the one-letter sequences of a model's polymers, as its atoms show them.

    Args:
        path: an atomic model, PDB or mmCIF.

    Returns:
        Each sequence of at least SHORTEST_CHAIN residues once, sorted; proteins in upper case,
        nucleic acids in lower case.

    Raises:
        InputError: the file is no atomic model.
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
    nucleic = (gemmi.PolymerType.Dna, gemmi.PolymerType.Rna, gemmi.PolymerType.DnaRnaHybrid)
    found = set()
    for chain in model:
        polymer = chain.get_polymer()
        kind = polymer.check_polymer_type()
        text = gemmi.one_letter_code([residue.name for residue in polymer]).upper()
        if len(text) < SHORTEST_CHAIN:
            continue
        if kind == gemmi.PolymerType.PeptideL:
            found.add(text)
        elif kind in nucleic:
            found.add(text.lower())
    return sorted(found)


def cluster_models(models: Sequence[Path]) -> list[tuple[str, ...]]:
    """Find the sequence clusters that each model's chains are in.

    Proteins are clustered at 30 % identity by MMseqs2 (Steinegger & Soeding 2017, Nat. Biotechnol.
    35, 1026), nucleic acids by their exact sequence.

    Returns:
        The names of the clusters of each model.

    Raises:
        InputError: a file is no atomic model, or MMseqs2 (the program `mmseqs`) is not installed or
            fails.
    """
    chains = [read_sequences(model) for model in models]
    proteins = sorted({text for texts in chains for text in texts if text.isupper()})
    heads = _run_mmseqs(proteins) if len(proteins) > 1 else proteins
    representative = dict(zip(proteins, heads, strict=True))
    return [tuple(sorted({representative.get(text, text) for text in texts})) for texts in chains]


def _run_mmseqs(proteins: Sequence[str]) -> list[str]:
    """The representative of each sequence's cluster."""
    program = shutil.which("mmseqs")
    if program is None:
        raise InputError(
            "the program mmseqs (MMseqs2) is not installed: install it (Debian: mmseqs2), "
            "or give the table a column cluster"
        )
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "chains.fasta"
        fasta.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(proteins)))
        result = Path(folder) / "result"
        command = [program, "easy-cluster", str(fasta), str(result), f"{folder}/work"]
        command += ["--min-seq-id", str(LEAST_IDENTITY), "-c", str(LEAST_COVERAGE), "-s", "7.5"]
        command += ["--threads", str(cpu_cores())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        pairs = Path(f"{result}_cluster.tsv")
        if done.returncode or not pairs.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise InputError(
                f"{program} failed ({lines[-1]}); give the table a column cluster instead"
            )
        rows = [line.split("\t") for line in pairs.read_text().splitlines()]
    head = {int(member): int(first) for first, member in rows}
    return [proteins[head[i]] for i in range(len(proteins))]


def link_groups(members: Sequence[Sequence[str]]) -> list[int]:
    """Number the groups of maps that share a cluster, directly or through others.

    Args:
        members: the clusters of each map.

    Returns:
        A number for each map, the same within a group; a map without a cluster stands alone.
    """
    group = list(range(len(members)))

    def find_root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    first: dict[str, int] = {}
    for i, names in enumerate(members):
        for name in names:
            group[find_root(i)] = find_root(first.setdefault(name, i))
    return [find_root(i) for i in range(len(members))]


def assign_splits(group: Sequence[int], seed: int) -> list[str]:
    """Hold out random groups of maps until `HELD_OUT` of the maps validate.

    Args:
        group: the number of each map's group. A single group trains.
        seed: of the random choice.

    Returns:
        "train" or "validation" for each map.
    """
    order = np.random.default_rng(seed).permutation(sorted(set(group)))
    held_out: set[int] = set()
    for number in order[:-1]:
        if sum(g in held_out for g in group) >= HELD_OUT * len(group):
            break
        held_out.add(int(number))
    return ["validation" if g in held_out else "train" for g in group]
