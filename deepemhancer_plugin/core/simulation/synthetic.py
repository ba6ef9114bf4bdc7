"""A synthetic protein with real backbone and side-chain geometry, for `make demo` and for tests.

The fold is a beta/alpha barrel as in triose-phosphate isomerase: eight parallel strands, 4.8 A
apart, that form a barrel, and eight helices round it, joined by loops. The torsion angles of a
quarter were fitted to ideal strands and helices and to a turn of 90 degrees about the barrel's axis
without overlaps; four quarters close the barrel. Bond lengths and angles are those of Engh & Huber
(1991, Acta Cryst. A47, 392). The sequence is drawn to suit each place (burial, secondary
structure), the rotamers so that side chains pack without clashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import gemmi
import numpy as np

# Strands (E), loops (L) and helices (H) of a quarter, and their residues.
_QUARTER = (*(("E", 8), ("L", 4), ("H", 17), ("L", 6)), *(("E", 8), ("L", 4), ("H", 17), ("L", 6)))
_TAIL = 4  # residues of the last loop, which has nothing to lead to
# fmt: off
_TORSIONS = np.array(  # phi and psi of a quarter in degrees
    [
        (-118.02, 139.87), (-111.43, 131.81), (-109.40, 124.04), (-122.92, 137.72),
        (-112.87, 125.37), (-115.98, 128.49), (-125.06, 122.88), (-119.97, 118.40),
        (-163.67, 163.69), (-97.13, 128.34), (57.18, 38.97), (-95.70, 43.74),
        (-61.67, -43.79), (-66.10, -42.08), (-64.25, -39.00), (-60.60, -41.54),
        (-63.71, -43.14), (-65.71, -41.40), (-63.06, -40.77), (-62.48, -41.43),
        (-63.91, -41.97), (-64.05, -42.17), (-63.87, -40.96), (-63.09, -40.39),
        (-62.56, -42.17), (-64.23, -42.45), (-64.53, -40.52), (-62.28, -39.91),
        (-61.99, -41.04), (-56.00, -33.22), (60.68, 55.36), (64.56, 71.08),
        (-102.81, 164.14), (-61.70, -1.33), (-92.35, 147.50), (-119.29, 139.49),
        (-106.35, 126.38), (-124.64, 143.87), (-109.20, 127.24), (-117.09, 134.41),
        (-120.93, 128.21), (-115.39, 132.88), (-118.69, 125.35), (-114.16, 6.21),
        (-122.34, 173.34), (-73.17, -2.60), (-83.49, 29.07), (-62.70, -41.28),
        (-63.11, -45.37), (-67.33, -43.10), (-65.28, -39.63), (-61.09, -42.26),
        (-64.24, -44.58), (-67.23, -42.32), (-64.08, -41.62), (-63.03, -43.36),
        (-65.60, -42.61), (-64.85, -41.76), (-63.48, -43.17), (-65.06, -43.03),
        (-65.13, -41.46), (-63.16, -41.57), (-64.72, -43.26), (-66.55, -45.00),
        (-137.64, 136.15), (83.76, 73.64), (93.98, 63.19), (-73.71, 15.26),
        (-78.87, 147.37), (-44.83, 111.85),
    ]
)
# fmt: on

# Bond to the atom before in A, and the angle there in degrees.
_TO_N = 1.329, 116.9
_TO_CA = 1.458, 121.7
_TO_C = 1.525, 111.0

# Atom, the three atoms it hangs on, bond in A, angle and torsion in degrees; a torsion "2+180" is
# that of chi 2 plus 180.
_SIDE_CHAINS = {
    "GLY": "",
    "ALA": "",
    "SER": "OG N CA CB 1.417 111.1 1",
    "CYS": "SG N CA CB 1.808 114.4 1",
    "THR": "OG1 N CA CB 1.433 109.6 1; CG2 N CA CB 1.521 110.5 1-120.5",
    "VAL": "CG1 N CA CB 1.521 110.5 1; CG2 N CA CB 1.521 110.5 1+122.8",
    "ILE": (
        "CG1 N CA CB 1.530 110.4 1; CG2 N CA CB 1.521 110.5 1-123.3; CD1 CA CB CG1 1.513 113.8 2"
    ),
    "LEU": "CG N CA CB 1.530 116.3 1; CD1 CA CB CG 1.521 110.7 2; CD2 CA CB CG 1.521 110.7 2+122.8",
    "MET": "CG N CA CB 1.520 114.1 1; SD CA CB CG 1.803 112.7 2; CE CB CG SD 1.791 100.9 3",
    "PRO": "CG N CA CB 1.492 102.7 1; CD CA CB CG 1.503 107.0 2",
    "ASP": "CG N CA CB 1.516 112.6 1; OD1 CA CB CG 1.249 118.4 2; OD2 CA CB CG 1.249 118.4 2+180",
    "ASN": "CG N CA CB 1.516 112.6 1; OD1 CA CB CG 1.231 120.8 2; ND2 CA CB CG 1.328 116.4 2+180",
    "GLU": (
        "CG N CA CB 1.520 114.1 1; CD CA CB CG 1.516 112.6 2; OE1 CB CG CD 1.249 118.4 3; "
        "OE2 CB CG CD 1.249 118.4 3+180"
    ),
    "GLN": (
        "CG N CA CB 1.520 114.1 1; CD CA CB CG 1.516 112.6 2; OE1 CB CG CD 1.231 120.8 3; "
        "NE2 CB CG CD 1.328 116.4 3+180"
    ),
    "LYS": (
        "CG N CA CB 1.520 114.1 1; CD CA CB CG 1.520 111.3 2; CE CB CG CD 1.520 111.3 3; "
        "NZ CG CD CE 1.489 111.9 4"
    ),
    "ARG": (
        "CG N CA CB 1.520 114.1 1; CD CA CB CG 1.520 111.3 2; NE CB CG CD 1.461 112.0 3; "
        "CZ CG CD NE 1.329 124.2 4; NH1 CD NE CZ 1.326 120.0 0; NH2 CD NE CZ 1.326 119.7 180"
    ),
    "HIS": (
        "CG N CA CB 1.497 113.8 1; ND1 CA CB CG 1.378 122.7 2; "
        "CD2 CA CB CG 1.354 131.2 2+180; CE1 CB CG ND1 1.321 109.3 180; "
        "NE2 CB CG CD2 1.374 107.2 180"
    ),
    "PHE": (
        "CG N CA CB 1.502 113.8 1; CD1 CA CB CG 1.384 120.7 2; "
        "CD2 CA CB CG 1.384 120.7 2+180; CE1 CB CG CD1 1.382 120.7 180; "
        "CE2 CB CG CD2 1.382 120.7 180; CZ CG CD1 CE1 1.382 120.0 0"
    ),
    "TYR": (
        "CG N CA CB 1.512 113.8 1; CD1 CA CB CG 1.389 120.8 2; "
        "CD2 CA CB CG 1.389 120.8 2+180; CE1 CB CG CD1 1.382 121.2 180; "
        "CE2 CB CG CD2 1.382 121.2 180; CZ CG CD1 CE1 1.378 119.6 0; "
        "OH CD1 CE1 CZ 1.376 119.9 180"
    ),
    "TRP": (
        "CG N CA CB 1.498 113.6 1; CD1 CA CB CG 1.365 126.9 2; "
        "CD2 CA CB CG 1.433 126.8 2+180; NE1 CB CG CD1 1.374 110.2 180; "
        "CE2 CB CG CD2 1.409 107.2 180; CE3 CB CG CD2 1.398 133.9 0; "
        "CZ2 CG CD2 CE2 1.394 122.4 180; CZ3 CG CD2 CE3 1.382 118.6 180; "
        "CH2 CD2 CE2 CZ2 1.368 117.5 0"
    ),
}

# chi 1, chi 2, ... in degrees that are tried, each from its own list; proline's close its ring.
_STAGGERED = (-65, 180, 62)
_ROTAMERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "GLY": (),
    "ALA": (),
    "SER": (_STAGGERED,),
    "CYS": (_STAGGERED,),
    "THR": ((62, -60, -170),),
    "VAL": ((175, -60, 63),),
    "ILE": ((-65, 62, 180), (170, -60)),
    "LEU": ((-65, 180), (175, 65)),
    "MET": ((-65, 180), (-65, 180, 65), (-70, 180, 70)),
    "PRO": ((-10,), (23,)),
    "ASP": (_STAGGERED, (-20, 0, 40)),
    "ASN": (_STAGGERED, (-40, 0, 40, 150)),
    "GLU": (_STAGGERED, (180, -65, 65), (-20, 20)),
    "GLN": (_STAGGERED, (180, -65, 65), (-30, 60, 150)),
    "LYS": ((-65, 180), (180, -65, 65), (180, 65), (180, -65)),
    "ARG": ((-65, 180), (180, -65, 65), (180, 65, -65), (180, 85, -85)),
    "HIS": (_STAGGERED, (-75, 60, 100, 165)),
    "PHE": (_STAGGERED, (90, 70, 110, -30)),
    "TYR": (_STAGGERED, (90, 70, 110, -30)),
    "TRP": (_STAGGERED, (95, -90, 0, -105)),
}

# Residues that suit a place: outside, between, inside of the protein.
_SUITABLE = {
    "H": ("EEEKKKKRRQQDNSA", "AAAALLIKEQRMSTHYC", "LLLLAAAAIIVVMFFWC"),
    "E": ("TKEQRSV", "VVITTYFCS", "VVIIILLMFFYTQ"),
    "L": ("GGDDNNSSTKPEQH", "GNSTDPPAHYWM", "GAPVLFIMSW"),
}
_NAMES = {gemmi.find_tabulated_residue(name).one_letter_code.upper(): name for name in _SIDE_CHAINS}
_SMALLER = ("LEU", "VAL", "THR", "SER", "ALA")
_CONTACT = 3.35  # A between heavy atoms; closer is an overlap
_OWN_OXYGEN_CONTACT = 2.9  # A, from a side chain to the oxygen of its own residue
_NEIGHBOUR = 4.5  # A, up to where atoms count as packed against each other
_TOLERATED = 0.5  # A^2, sum of the squared overlaps of a side chain: leaves hydrogen bonds (2.8 A)
_ROUNDS = 3  # times that every side chain is packed


def build_protein(seed: int = 0) -> gemmi.Structure:
    """Build a protein of about 300 residues, centred at the origin, without hydrogens.

    Args:
        seed: draws the sequence, the rotamers and the B factors (15-60 A^2, higher outwards); the
            fold is always the same.

    Returns:
        One model with the chain "A"; all 20 amino acids occur.
    """
    rng = np.random.default_rng(seed)
    fold = "".join(kind * count for kind, count in _QUARTER) * 4
    fold = fold[:-_TAIL]
    backbone = _build_backbone(len(fold))
    burial = _rank_burial(backbone)
    suitable = [_SUITABLE[kind][int(2.999 * b)] for kind, b in zip(fold, burial, strict=True)]
    letters = _draw_sequence(fold, suitable, burial, rng)
    names, side_chains = _pack(letters, suitable, backbone, burial, rng)
    return _to_structure(names, backbone, side_chains, burial, rng)


def _place(
    on: Iterable[np.ndarray], bond: float, angle: float, torsion: np.ndarray | float
) -> np.ndarray:
    """Place an atom on the atoms a, b, c (..., 3): bond from c, angle to b, torsion to a."""
    a, b, c = on
    bc = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    angle, torsion = np.deg2rad(angle), np.deg2rad(torsion)[..., None]
    across = np.cos(torsion) * np.cross(normal, bc) + np.sin(torsion) * normal
    return np.asarray(c + bond * (np.sin(angle) * across - np.cos(angle) * bc))


def _build_backbone(count: int) -> np.ndarray:
    """Build N, CA, C, O, CB of each residue: (count, 5, 3)."""
    # A carbonyl before the chain, N, CA.
    chain = [np.array([-0.7, 1.1, 0.0]), np.zeros(3), np.array([_TO_CA[0], 0, 0])]
    for i in range(count):
        phi, psi = _TORSIONS[i % len(_TORSIONS)]
        chain.append(_place(chain[-3:], *_TO_C, phi))
        chain.append(_place(chain[-3:], *_TO_N, psi))
        chain.append(_place(chain[-3:], *_TO_CA, 180.0))
    n, ca, c = (np.array(chain[first::3]) for first in (1, 2, 3))
    following, n, ca = n[1:], n[:-1], ca[:-1]
    o = _place((following, ca, c), 1.231, 120.1, 180.0)
    cb = _place((n, c, ca), 1.530, 110.1, 122.7)
    atoms = np.stack([n, ca, c, o, cb], 1)
    return np.asarray(atoms - atoms[:, 1].mean(0))


def _rank_burial(backbone: np.ndarray) -> np.ndarray:
    """Rank the residues from 0 (outside) to 1 (inside) by their neighbours.

    Those are the residues within 13 A of a point 2 A beyond CB.
    """
    ca, cb = backbone[:, 1], backbone[:, 4]
    tip = cb + 2 * (cb - ca) / np.linalg.norm(cb - ca, axis=1, keepdims=True)
    neighbours = (np.linalg.norm(tip[:, None] - cb[None], axis=2) < 13).sum(1)
    return np.argsort(np.argsort(neighbours, kind="stable"), kind="stable") / (len(ca) - 1)


def _draw_sequence(
    fold: str, suitable: list[str], burial: np.ndarray, rng: np.random.Generator
) -> list[str]:
    """Draw a letter for each residue.

    Glycine stands where phi is positive, proline where its ring fits, and all 20 kinds somewhere.
    """
    letters = [str(rng.choice(list(kinds))) for kinds in suitable]
    phi, psi = np.tile(_TORSIONS, (4, 1))[: len(fold)].T
    for k in np.flatnonzero(phi > 0):
        letters[k] = "G"
    ring_fits = [
        i
        for i in range(1, len(fold))
        if -90 < phi[i] < -45 and psi[i - 1] > 90 and fold[i - 1] == "L"
    ]
    for i, letter in enumerate(letters):
        if letter == "P" and i not in ring_fits:
            letters[i] = "S"
    outside = [i for i in np.argsort(burial) if fold[i] == "H" and letters[i] in "EK"]
    for missing in sorted(set(_NAMES) - set(letters) - {"P"}):
        letters[outside.pop(len(outside) // 2)] = missing
    if "P" not in letters:
        letters[ring_fits[len(ring_fits) // 2]] = "P"
    return letters


def _build_rotamers(
    name: str, residue: np.ndarray, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Build the atoms beyond CB in every rotamer, each turned by some degrees.

    Returns:
        The atoms' names, and their places (rotamers, atoms, 3).
    """
    grid = np.array(list(product(*_ROTAMERS[name])), float)
    if name != "PRO":  # a ring: no freedom
        grid = np.concatenate([grid, grid + rng.normal(0, 8, grid.shape)])
    atoms = {atom: residue[k] for atom, k in (("N", 0), ("CA", 1), ("C", 2), ("CB", 4))}
    built = []
    for line in filter(None, _SIDE_CHAINS[name].split("; ")):
        atom, *on, bond, angle, torsion = line.split()
        turn: np.ndarray | float
        if torsion[0] in "1234" and (len(torsion) == 1 or torsion[1] in "+-"):
            turn = grid[:, int(torsion[0]) - 1] + float(torsion[1:] or 0)
        else:
            turn = float(torsion)
        atoms[atom] = _place((atoms[a] for a in on), float(bond), float(angle), turn)
        built.append(atom)
    places = [np.broadcast_to(atoms[a], (len(grid), 3)) for a in built]
    return built, np.stack(places, 1) if places else np.zeros((1, 0, 3))


def _pack(
    letters: list[str],
    suitable: list[str],
    backbone: np.ndarray,
    burial: np.ndarray,
    rng: np.random.Generator,
) -> tuple[list[str], list[dict[str, np.ndarray]]]:
    """Choose names and side chains {atom: place}, from the inside outwards, several times over.

    Each residue takes the rotamer with the most contacts among those without clashes, or gives way
    to a smaller residue; inside, a few others that suit the place compete with it. Glycine and
    proline stay, and so does the last of a kind.
    """
    names = [_NAMES[x] for x in letters]
    chains: list[dict[str, np.ndarray]] = [{} for _ in names]
    atoms = [_main_chain(residue, name) for residue, name in zip(backbone, names, strict=True)]
    near = np.linalg.norm(backbone[:, None, 1] - backbone[None, :, 1], axis=2) < 16
    for _ in range(_ROUNDS):
        for i in np.argsort(-burial):
            around = np.concatenate([atoms[j] for j in np.flatnonzero(near[i]) if j != i])
            around = around[np.linalg.norm(around - backbone[i, 4], axis=1) < 11]
            candidates = [names[i]]
            others = []
            if burial[i] > 0.4:
                others = [_NAMES[x] for x in rng.choice(list(suitable[i]), 3) if x not in "GP"]
            if names[i] not in ("GLY", "PRO") and names.count(names[i]) > 1:
                candidates = list(dict.fromkeys([names[i], *others, *_SMALLER]))
            names[i], chains[i] = _choose_side_chain(
                candidates, chains[i], backbone[i], around, rng
            )
            atoms[i] = np.array([*_main_chain(backbone[i], names[i]), *chains[i].values()])
    return names, chains


def _choose_side_chain(
    candidates: list[str],
    present: dict[str, np.ndarray],
    residue: np.ndarray,
    around: np.ndarray,
    rng: np.random.Generator,
) -> tuple[str, dict[str, np.ndarray]]:
    """Choose a residue's name and side chain among the atoms (n, 3) around it.

    Where none has a finite score, the first candidate and the side chain that is present stay.
    """
    least, best_name, best_chain = np.inf, candidates[0], present
    for name in candidates:
        if name in _SMALLER and least < _TOLERATED:
            break
        labels, places = _build_rotamers(name, residue, rng)
        distance = np.linalg.norm(places[:, :, None] - around, axis=3)
        to_oxygen = np.linalg.norm(places - residue[3], axis=2)
        clash = (np.clip(_CONTACT - distance, 0, None) ** 2).sum((1, 2))
        clash += (np.clip(_OWN_OXYGEN_CONTACT - to_oxygen, 0, None) ** 2).sum(1)
        contacts = ((distance < _NEIGHBOUR) & (distance > _CONTACT)).sum((1, 2))
        score = clash - 0.01 * contacts * (clash < _TOLERATED)
        first = int(np.argmin(score))
        if score[first] < least:
            least, best_name = float(score[first]), name
            best_chain = dict(zip(labels, places[first], strict=True))
    return best_name, best_chain


def _main_chain(residue: np.ndarray, name: str) -> np.ndarray:
    return residue[:4] if name == "GLY" else residue


def _to_structure(
    names: list[str],
    backbone: np.ndarray,
    side_chains: list[dict[str, np.ndarray]],
    burial: np.ndarray,
    rng: np.random.Generator,
) -> gemmi.Structure:
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    structure.name = "synthetic"
    # Neighbours move together.
    wobble = np.convolve(rng.normal(0, 6, len(names) + 6), np.ones(7) / 7, "valid")
    for i, (name, side) in enumerate(zip(names, side_chains, strict=True)):
        residue = gemmi.Residue()
        residue.name, residue.seqid = name, gemmi.SeqId(str(i + 1))
        places = dict(zip(("N", "CA", "C", "O", "CB"), backbone[i], strict=True)) | side
        if name == "GLY":
            del places["CB"]
        if i == len(names) - 1:
            end = places["N"], places["CA"], places["C"]
            places["OXT"] = _place(end, 1.249, 117.0, _TORSIONS[i % len(_TORSIONS), 1])
        for number, (label, place) in enumerate(places.items()):
            b_factor = 20 + 25 * (1 - burial[i]) + wobble[i] + 1.5 * max(0, number - 3)
            atom = gemmi.Atom()
            atom.name = label
            atom.element = gemmi.Element(label[0])
            atom.pos = gemmi.Position(*map(float, place))
            atom.occ = 1.0
            atom.b_iso = float(np.clip(b_factor, 15, 60))
            residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.assign_serial_numbers()
    return structure
