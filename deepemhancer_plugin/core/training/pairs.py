"""Half maps with fitted models as training data.

The published preparation (Sanchez-Garcia et al. 2021, Commun. Biol. 4, 874): maps are selected by
resolution, model and correlation, redundant ones left out by sequence clusters, and what is left is
resampled, normalised and given a target.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.files import replacing, write_text
from deepemhancer_plugin.core.maps import masks, mrc
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.noise.directions import measure_views
from deepemhancer_plugin.core.noise.statistics import noise_from_halves
from deepemhancer_plugin.core.simulation.molecule import mask_atoms
from deepemhancer_plugin.core.training.cubes import Task, as_float16
from deepemhancer_plugin.core.training.table import Entry, choose_entries, read_table
from deepemhancer_plugin.core.training.target import (
    FIT_RADIUS,
    Fit,
    UnfitPair,
    fit_model,
    make_target,
    place_model,
)
from deepemhancer_plugin.core.weights.prepare import network_input, network_input_in_mask

PREPARATION = 3  # number of this preparation; pairs that another one left behind are made anew
LEAST_CC_MASK = 0.6  # of map and model, as published; below, the model is not the map's
MOST_OF_A_GROUP = {"train": 5, "validation": 1}  # maps of related proteins in a split
ROOM = 40  # A around the molecule that are kept of a larger box
USERS_MASK = 4.0  # A from the atoms to the edge of a mask like those of users
WITH_SIGNAL = 0.5  # of the cubes hold some of the molecule
SIGNAL = 0.05  # of a target; its 95th percentile in a protein is about one
EMPTY = 1e-3  # of the voxels of a cube without signal may have a target,
TRIES = 20  # and so many places are looked at for one


@dataclass(frozen=True)
class Prepared:
    """A pair made ready.

    Attributes:
        volumes: (z, y, x, channels + 1), float16, at 1 A/voxel; the target is the last channel.
        molecule: voxels (n, 3) of the atoms as z, y, x, int16.
        facts: for the log.
    """

    volumes: np.ndarray
    molecule: np.ndarray
    facts: dict[str, Any]


def prepare_pair(
    entry: Entry, task: Task, threshold: float = LEAST_CC_MASK, use_file_b: bool = True
) -> Prepared:
    """Read, check and normalise a pair and make its target.

    Args:
        entry: one row of the table.
        task: what the network is shown, and the kind of target. "sharp" asks for other maps, and
            is, like "model", the same as "tight" here.
        threshold: CC_mask of map and model (`measure_cc_mask`) under which the pair is unfit.
        use_file_b: whether to use the model's own B factors where they differ from atom to atom.
            Else one for all is refined.

    Raises:
        InputError: files that cannot be read or do not belong together.
        UnfitPair: the pair fails the selection.
    """
    first, second = mrc.read_map(entry.half1), mrc.read_map(entry.half2)
    mrc.check_halves(first, second)
    noise = noise_from_halves(first.data, second.data)
    shape = resampled_shape(first.data.shape, first.sampling_rate)
    molecule = place_model(entry.models[0], first, shape)
    halves = [resample(half.data, shape) for half in (first, second)]
    fit = fit_model(molecule, halves, noise.mean, entry.resolution, use_file_b)
    cc_mask = measure_cc_mask(fit)
    if not cc_mask >= threshold:
        raise UnfitPair(f"CC_mask of map and model is {cc_mask:.2f} only, {threshold:g} is needed")
    mask = masks.read_mask(entry.mask, first) if entry.mask else None
    target = make_target(fit, task.target, None if mask is None else resample(mask, shape))

    mean = (first.data + second.data) / 2
    views = measure_views(first.data, second.data, first.sampling_rate)
    if task.masked:
        if mask is None:
            around = mask_atoms(fit.molecule, shape, 1.0, USERS_MASK)
            mask = resample(around, first.data.shape) > 0.5
        inputs = network_input_in_mask(
            mean, first.sampling_rate, mask, task.channels, task.compress, views
        )
    else:
        inputs = network_input(
            mean, first.sampling_rate, noise, task.channels, task.compress, views
        )
    places = np.round(fit.molecule.positions[:, ::-1]).astype(int)
    start = np.maximum(places.min(0) - ROOM, 0)
    box = tuple(map(slice, start, places.max(0) + ROOM + 1))
    volumes = as_float16(np.concatenate([inputs, target[..., None]], axis=-1)[box])
    facts = {
        "cc_mask": round(cc_mask, 3),
        "correlation": round(fit.correlation, 3),  # at the same radial amplitudes
        "b_factors": fit.source,
        "median_b": round(float(np.median(fit.molecule.b_factors)), 1),
        "noise_std": noise.std,
        "box": list(volumes.shape[:3]),
    }
    return Prepared(volumes, (places - start).astype(np.int16), facts)


def measure_cc_mask(fit: Fit) -> float:
    """Measure the correlation by which pairs are selected.

    It is CC_mask (Afonine et al. 2018, Acta Cryst. D74, 814): Pearson's correlation of the map,
    with the amplitudes that it has, and the model's map at the map's resolution, over the voxels
    within `FIT_RADIUS` of an atom. `Fit.correlation` gives the model the map's radial amplitudes
    first.
    """
    inside = mask_atoms(fit.molecule, fit.volume.shape, 1.0, FIT_RADIUS) > 0
    return float(np.corrcoef(fit.volume[inside], fit.model[inside])[0, 1])


@dataclass(frozen=True)
class Pairs:
    """Source of cubes of prepared pairs, read from their files as they are needed.

    Attributes:
        maps: volumes and voxels of the molecule of each pair (`Prepared`).
    """

    maps: Sequence[tuple[np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.maps)

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the number of a pair."""
        return int(rng.integers(len(self)))

    def make_cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut cubes out of a pair (see `cubes.Source`); those of small boxes wrap.

        About half of them lie about an atom, the others where there is no target, or least of it.
        """
        volumes, molecule = self.maps[entry]
        room = np.maximum(np.array(volumes.shape[:3]) - edge, 0)
        made = []
        for _ in range(count):
            if rng.random() < WITH_SIGNAL:
                atom = molecule[rng.integers(len(molecule))]
                middle = atom + rng.uniform(-edge / 4, edge / 4, 3)
                start = np.clip(np.round(middle - edge / 2), 0, room).astype(int)
                made.append(_cut(volumes, start, edge))
            else:
                made.append(_cut_empty(volumes, room, edge, rng))
        cubes = np.stack(made)
        return cubes[..., :-1], cubes[..., -1:]


def _cut(volumes: np.ndarray, start: np.ndarray, edge: int) -> np.ndarray:
    """The cube from the voxel `start` on, which goes on at the other side of the box."""
    axes = zip(start, volumes.shape[:3], strict=True)
    return volumes[np.ix_(*((s + np.arange(edge)) % n for s, n in axes))]


def _cut_empty(
    volumes: np.ndarray, room: np.ndarray, edge: int, rng: np.random.Generator
) -> np.ndarray:
    """A random cube without a target, or the one with the least of several."""
    least = math.inf
    for _ in range(TRIES):
        cube = _cut(volumes, rng.integers(0, room + 1), edge)
        filled = np.count_nonzero(np.abs(cube[..., -1]) > SIGNAL) / edge**3
        if filled < least:
            least, best = filled, cube
        if filled < EMPTY:
            break
    return best


def prepare_table(
    table: Path,
    folder: Path,
    task: Task,
    seed: int = 0,
    threshold: float = LEAST_CC_MASK,
    use_file_b: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Pairs]:
    """Choose and prepare the pairs of a table.

    Prepared pairs are kept in the folder and used again while files and settings are the same; its
    pairs.tsv says what became of each row.

    Args:
        table: its path (`table.read_table`).
        folder: for the prepared pairs.
        task: what the network is shown and asked.
        seed: of the random splits, where the table has none.
        threshold: see `prepare_pair`.
        use_file_b: see `prepare_pair`.
        log: is called with a line for each pair.

    Returns:
        The sources for "train" and "validation".

    Raises:
        InputError: the table, or a file that it names, is wrong.
    """
    entries = read_table(table)
    chosen, left_out = choose_entries(entries, table, task, seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(e.name, e.split or "", "", f"left out: {why}", "") for e, why in left_out]
    named = {row[0] for row in rows}
    rows += [
        (e.name, "test", "", "kept for tests", "")
        for e in entries
        if e.split == "test" and e.name not in named
    ]
    used: dict[tuple[str, int], int] = {}
    maps: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "validation": []}
    for entry, split, group in chosen:
        facts = ""
        if used.get((split, group), 0) >= MOST_OF_A_GROUP[split]:
            status = f"left out: {MOST_OF_A_GROUP[split]} of its cluster are in {split} already"
        else:
            try:
                prepared = _load_or_prepare(entry, folder, task, threshold, use_file_b)
            except UnfitPair as why:
                status = f"left out: {why}"
            else:
                used[split, group] = used.get((split, group), 0) + 1
                maps[split].append((prepared.volumes, prepared.molecule))
                status, facts = "used", json.dumps(prepared.facts)
        log(f"{entry.name}: {status}{f' in {split}' if facts else ''} {facts}".rstrip())
        rows.append((entry.name, split, str(group), status, facts))
    header = ("id", "split", "group", "status", "facts")
    lines = ["\t".join(row) + "\n" for row in (header, *rows)]
    write_text(folder / "pairs.tsv", "".join(lines))
    return {split: Pairs(found) for split, found in maps.items()}


def _load_or_prepare(
    entry: Entry, folder: Path, task: Task, threshold: float, use_file_b: bool
) -> Prepared:
    """A prepared pair, its volumes mapped from the file that this call or an earlier one wrote."""
    files = [f for f in (entry.half1, entry.half2, *entry.models, entry.mask) if f]
    key = {
        "preparation": PREPARATION,
        "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "resolution": entry.resolution,
        "task": asdict(task),
        "threshold": threshold,
        "use_file_b": use_file_b,
    }
    facts_file = folder / f"{entry.name}.json"
    volumes_file = folder / f"{entry.name}.npy"
    molecule_file = folder / f"{entry.name}.molecule.npy"
    try:
        known = json.loads(facts_file.read_text())
    except (OSError, ValueError):
        known = {}
    if known.get("key") != key or not volumes_file.is_file() or not molecule_file.is_file():
        facts_file.unlink(missing_ok=True)
        prepared = prepare_pair(entry, task, threshold, use_file_b)
        for path, array in ((volumes_file, prepared.volumes), (molecule_file, prepared.molecule)):
            with replacing(path) as temporary:
                np.save(temporary, array)
        known = {"key": key, "facts": prepared.facts}
        write_text(facts_file, json.dumps(known))
    volumes = np.load(volumes_file, mmap_mode="r")
    return Prepared(volumes, np.load(molecule_file), known["facts"])
