"""Half maps with fitted models as training data: the published preparation (Sanchez-Garcia et al. 2021, Commun. Biol. 4, 874).

A table names the files. Maps are selected by resolution, model and correlation, redundant ones left out by sequence clusters, and what is left is
resampled, normalised and given a target: its LocScale map times a tight mask.
"""

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import filters, mrc, spectrum
from deepemhancer_plugin.core.maps.resampling import resample, resampled_shape
from deepemhancer_plugin.core.noise.directions import measure_views
from deepemhancer_plugin.core.noise.statistics import noise_from_halves
from deepemhancer_plugin.core.simulation import Molecule, read_molecule
from deepemhancer_plugin.core.simulation.halves import TARGET_SCALE, TIGHT_RADIUS, WIDE_RADIUS
from deepemhancer_plugin.core.simulation.molecule import compute_potential
from deepemhancer_plugin.core.simulation.molecule import mask_atoms as around
from deepemhancer_plugin.core.training.clusters import (
    ELSEWHERE,
    IN_TRAINING,
    clusters,
    groups,
    splits,
)
from deepemhancer_plugin.core.training.cubes import SHARP_BELOW, Task, as_float16
from deepemhancer_plugin.core.training.locscale import locscale
from deepemhancer_plugin.core.weights.prepare import network_input, network_input_in_mask

COARSEST = 7.0  # A: maps of this resolution and worse are left out, as published
CORRELATION = (
    0.4  # of map and model in the model's mask, under which the model does not explain the map
)
IN_BOX = 0.9  # share of the model's atoms that must lie in the map
WITH_SIGNAL = 0.5  # share of the cubes that hold some of the molecule
EMPTY = 1e-3  # share of the voxels of a cube without signal that may have a target,
TRIES = 20  # and how many places are looked at for one
ROOM = 40  # A around the molecule that are kept of a larger box
SMALLEST_B, LARGEST_B = (
    30.0,
    250.0,
)  # A^2, of a refined one; the simulation's molecules have 30 in the mean


@dataclass(frozen=True)
class Entry:
    """A row of the table: name, files, resolution in A, and what the table may say besides; `models` has one file where there is one model."""

    name: str
    half1: Path
    half2: Path
    models: tuple[Path, ...]
    resolution: float
    mask: Path | None = None
    split: str | None = None
    cluster: tuple[str, ...] | None = None


def read_table(path: Path) -> list[Entry]:
    """Rows of a tab-separated table with the columns id, half1, half2, model, resolution and, if wanted, mask, split, cluster.

    Files are looked for beside the table. Several models or clusters of a map have commas between them.

    Raises:
        InputError: no such table, a column or value missing or wrong, a file that is not there, an id twice.
    """
    if not path.is_file():
        raise InputError(
            f"--pairs {path}: no such file; a tab-separated table with the columns id, half1, half2, model, resolution is needed"
        )
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        missing = {"id", "half1", "half2", "model", "resolution"} - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(sorted(missing))}; tab-separated columns with these names in the first line are needed"
            )
        entries = [
            _entry(path, number, {k: (v or "").strip() for k, v in row.items() if k})
            for number, row in enumerate(reader, start=2)
        ]
    if not entries:
        raise InputError(f"{path}: no rows; at least one pair of half maps is needed")
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{path}: the id {name} stands there {names.count(name)} times; each needs its own"
            )
    given = (
        {entry.split is not None for entry in entries},
        {entry.cluster is not None for entry in entries},
    )
    for column, values in zip(("split", "cluster"), given, strict=True):
        if len(values) > 1:
            raise InputError(f"{path}: some rows have no {column}; all or none need one")
    return entries


def _entry(table: Path, line: int, row: dict[str, str]) -> Entry:
    def file(column: str, name: str) -> Path:
        if not name or not (table.parent / name).is_file():
            raise InputError(
                f"{table}, line {line}: {column} {name or 'is empty'}: no such file; a path, absolute or beside the table, is needed"
            )
        return table.parent / name

    if not re.fullmatch(r"[\w.+-]+", row["id"]) or row["id"].startswith("."):
        raise InputError(
            f"{table}, line {line}: id {row['id']!r}: letters, digits and ._+- are right"
        )
    try:
        resolution = float(row["resolution"])
    except ValueError:
        resolution = math.nan
    if not 0.5 < resolution < 100:
        raise InputError(
            f"{table}, line {line}: resolution {row['resolution']!r}: a number of A is needed"
        )
    split = row.get("split") or None
    if split not in (None, "train", "validation", "test"):
        raise InputError(f"{table}, line {line}: split {split}: train, validation or test is right")
    cluster = (
        tuple(c.strip() for c in row["cluster"].split(",") if c.strip())
        if row.get("cluster")
        else None
    )
    return Entry(
        row["id"],
        file("half1", row["half1"]),
        file("half2", row["half2"]),
        tuple(file("model", name.strip()) for name in row["model"].split(",")),
        resolution,
        file("mask", row["mask"]) if row.get("mask") else None,
        split,
        cluster,
    )


class _Unfit(Exception):
    """A map is left out; the text says why."""


@dataclass(frozen=True)
class Prepared:
    """A pair made ready: volumes (z, y, x, channels + 1), float16, the target last; molecule (n, 3) places in it as z, y, x; and facts."""

    volumes: np.ndarray
    molecule: np.ndarray
    facts: dict[str, Any]


def _placed(entry: Entry, header: mrc.Map, shape: tuple[int, ...]) -> Molecule:
    """The model with the file's B factors in the frame of the map at 1 A/voxel, `shape` voxels: positions x, y, z from the first voxel's centre."""
    try:
        count = len(gemmi.read_structure(str(entry.models[0])))
    except (RuntimeError, ValueError, OSError, LookupError):
        count = 1  # read_molecule says what is wrong
    if count > 1:
        raise _Unfit(f"its file holds {count} models; one is needed")
    molecule = read_molecule(entry.models[0], standardise=False)
    extent = np.array(header.data.shape[::-1]) * header.sampling_rate
    scale = np.array(shape[::-1]) / extent  # a box is rounded to whole A
    positions = (molecule.positions - np.array(header.position)) * scale
    inside = np.all((positions >= -0.5) & (positions < np.array(shape[::-1]) - 0.5), axis=1)
    if inside.mean() < IN_BOX:
        raise _Unfit(f"only {100 * inside.mean():.0f} % of the model lies in the map")
    return replace(molecule, positions=positions)[inside]


def _soft(region: np.ndarray, length: float) -> np.ndarray:
    """A mask at 1 A/voxel smoothed as the simulation's are: to `length` A by a Gaussian."""
    return np.clip(
        ndimage.gaussian_filter(region.astype(np.float32), length / (math.pi * math.sqrt(2))), 0, 1
    )


def correlation(volume: np.ndarray, model: np.ndarray, inside: np.ndarray) -> float:
    """Correlation of map and model map in a mask, after the model's radial amplitudes were made the map's: unlike B factors do not count."""
    ours, theirs = fft.rfftn(volume, workers=-1), fft.rfftn(model, workers=-1)
    gain = np.sqrt(
        spectrum.power(ours, volume.shape) / np.maximum(spectrum.power(theirs, volume.shape), 1e-20)
    )
    filters.apply_gain(theirs, gain, volume.shape)
    return float(
        np.corrcoef(volume[inside], fft.irfftn(theirs, s=volume.shape, workers=-1)[inside])[0, 1]
    )


def refined_b(
    mean: np.ndarray, model: np.ndarray, curve: np.ndarray, resolution: float, b: float
) -> float:
    """One B factor for all atoms: as sharp as the half maps justify.

    `model` is the model's map at `b`, all maps at 1 A/voxel, `curve` the halves' FSC at each shell. The B factor whose model map correlates best,
    up to the resolution, with the map of flat amplitudes times C_ref = sqrt(2 FSC / (1 + FSC)) (Rosenthal & Henderson 2003, J. Mol. Biol. 333,
    721), which is what the half maps hold of the perfect map.
    """
    ours, theirs = fft.rfftn(mean, workers=-1), fft.rfftn(model, workers=-1)
    width = filters.shell_width(mean.shape, 1.0)
    used = np.arange(1, min(len(curve), int(1 / resolution / width) + 1))
    s = used * width
    weight = np.sqrt(2 * np.maximum(curve[used], 0) / (1 + np.maximum(curve[used], 0)))
    count = 3 * used**2 + 0.25
    cross = spectrum.radial_mean((ours * np.conj(theirs)).real, mean.shape)[used]
    cross = cross / np.sqrt(np.maximum(spectrum.power(ours, mean.shape)[used], 1e-30))
    power = spectrum.power(theirs, mean.shape)[used]
    candidates = np.arange(SMALLEST_B, LARGEST_B + 1, 2.0)
    falls = np.exp(-(candidates[:, None] - b) / 4 * s**2)
    scores = (count * weight * cross * falls).sum(1) / np.sqrt((count * power * falls**2).sum(1))
    return float(candidates[np.argmax(scores)])


def prepare_pair(
    entry: Entry, task: Task, threshold: float = CORRELATION, use_file_b: bool = True
) -> Prepared:
    """Read, check, normalise a pair and make its target.

    Args:
        entry: one row of the table.
        task: what the network sees, and the kind of target; "sharp" is a question of which maps are chosen, and like "model" the same as
            "tight" here.
        threshold: correlation of map and model under which the pair is unfit.
        use_file_b: the model's own B factors where they differ from atom to atom, else one for all, refined.

    Raises:
        InputError: files that cannot be read or do not belong together.
        _Unfit: the pair fails the selection.
    """
    first, second = mrc.read_map(entry.half1), mrc.read_map(entry.half2)
    mrc.check_halves(first, second)
    stats, rate = noise_from_halves(first.data, second.data), first.sampling_rate
    shape = resampled_shape(first.data.shape, first.sampling_rate)
    halves = [resample(half.data, shape) for half in (first, second)]
    average = (halves[0] + halves[1]) / 2
    mean = average - np.float32(stats.mean)
    molecule = _placed(entry, first, shape)

    inside = around(molecule, shape, 1.0, 3.0) > 0
    source = "file"
    if (
        not use_file_b
        or molecule.b_factors.std() < 1
        or not 1 < np.median(molecule.b_factors) < LARGEST_B
    ):
        flat = replace(molecule, b_factors=np.full(len(molecule), 60.0))
        loose = _soft(around(molecule, shape, 1.0, 8.0), 8.0)
        curve = spectrum.fsc(halves[0] * loose, halves[1] * loose)[1]
        b = refined_b(
            mean * loose,
            fft.irfftn(compute_potential(flat, shape, 1.0, -1), s=shape),
            curve,
            entry.resolution,
            60.0,
        )
        molecule, source = replace(molecule, b_factors=np.full(len(molecule), b)), "refined"
    molecule = replace(molecule, b_factors=np.clip(molecule.b_factors, 5, LARGEST_B))
    finest = 1 / entry.resolution
    model = filters.low_pass(
        fft.irfftn(compute_potential(molecule, shape, 1.0, -1), s=shape), 1.0, finest, 1.2 * finest
    )
    filtered = filters.low_pass(mean, 1.0, finest, 1.2 * finest)
    agreement = correlation(filtered, model, inside)
    if agreement < threshold:
        raise _Unfit(f"map and model correlate by {agreement:.2f} only, {threshold:g} is asked for")

    users = mrc.read_mask(entry.mask, first) if entry.mask else None
    if task.target == "wide":
        region = _soft(around(molecule, shape, 1.0, WIDE_RADIUS), 6.0)
    elif users is not None:
        region = _soft(resample(users, shape), 1.5)
    else:
        region = _soft(around(molecule, shape, 1.0, TIGHT_RADIUS), 1.5)
    target = TARGET_SCALE * region * locscale(filtered, model, region > 0.01, workers=-1)
    if task.masked:
        if users is None:
            users = resample(around(molecule, shape, 1.0, 4.0), first.data.shape) > 0.5
        inputs = network_input_in_mask(
            (first.data + second.data) / 2, rate, users, task.channels, task.compress
        )
    else:
        views = measure_views(first.data, second.data, rate)
        inputs = network_input(
            (first.data + second.data) / 2, rate, stats, task.channels, task.compress, views
        )
    places = np.round(molecule.positions[:, ::-1]).astype(int)
    kept = tuple(
        slice(max(0, low - ROOM), high + ROOM + 1)
        for low, high in zip(places.min(0), places.max(0), strict=True)
    )
    volumes = as_float16(np.concatenate([inputs, target[..., None]], axis=-1)[kept])
    facts = {
        "correlation": round(agreement, 3),
        "b_factors": source,
        "median_b": round(float(np.median(molecule.b_factors)), 1),
        "noise_std": stats.std,
        "box": list(volumes.shape[:3]),
    }
    return Prepared(volumes, (places - [k.start for k in kept]).astype(np.int16), facts)


@dataclass(frozen=True)
class Pairs:
    """Source of cubes of prepared pairs, read from their files as they are needed: (volumes, places of the molecule) of each."""

    maps: Sequence[tuple[np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.maps)

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self)))

    def cubes(
        self, entry: int, rng: np.random.Generator, count: int, edge: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """About half of them about an atom, the others where there is no target, or the least of TRIES places; small boxes wrap."""
        volumes, molecule = self.maps[entry]
        room = np.maximum(np.array(volumes.shape[:3]) - edge, 0)

        def at(start: np.ndarray) -> np.ndarray:
            index = np.ix_(
                *(
                    (int(s) + np.arange(edge)) % n
                    for s, n in zip(start, volumes.shape[:3], strict=True)
                )
            )
            return volumes[index]

        def empty() -> np.ndarray:
            least, best = math.inf, np.zeros(())
            for _ in range(TRIES):
                cube = at(rng.integers(0, room + 1))
                share = np.count_nonzero(np.abs(cube[..., -1]) > 0.05) / edge**3
                if share < least:
                    least, best = share, cube
                if share < EMPTY:
                    break
            return best

        made = []
        for _ in range(count):
            if rng.random() < WITH_SIGNAL:
                middle = molecule[rng.integers(len(molecule))] + rng.uniform(-edge / 4, edge / 4, 3)
                made.append(at(np.clip(np.round(middle - edge / 2), 0, room)))
            else:
                made.append(empty())
        cubes = np.stack(made)
        return cubes[..., :-1], cubes[..., -1:]


def choose(
    entries: Sequence[Entry], table: Path, task: Task, seed: int
) -> tuple[list[tuple[Entry, str, int]], list[tuple[Entry, str]]]:
    """Which maps may be used, and for what: (entry, split, group) best resolution first, and those left out with the reason.

    Raises:
        InputError: a cluster is in two splits of the table.
    """
    coarsest = SHARP_BELOW if task.target == "sharp" else COARSEST
    left_out = [
        (e, f"{e.resolution:g} A, better than {coarsest:g} A is asked for")
        for e in entries
        if e.resolution >= coarsest
    ]
    left_out += [
        (e, f"{len(e.models)} models, one is needed")
        for e in entries
        if e.resolution < coarsest and len(e.models) != 1
    ]
    fit = [
        e for e in entries if e.resolution < coarsest and len(e.models) == 1 and e.split != "test"
    ]
    if not fit:
        return [], left_out
    # Groups are those of all rows: a map that is left out, or kept for tests, may be what links two others.
    members = (
        [e.cluster or () for e in entries]
        if entries[0].cluster is not None
        else clusters([e.models[0] for e in entries])
    )
    group = dict(zip((e.name for e in entries), groups(members), strict=True))
    if fit[0].split is None:
        chosen = dict(
            zip((e.name for e in fit), splits([group[e.name] for e in fit], seed), strict=True)
        )
    else:
        chosen = {e.name: str(e.split) for e in entries}
        first: dict[int, Entry] = {}
        for e in entries:
            other = first.setdefault(group[e.name], e)
            if other.split != e.split:
                raise InputError(
                    f"{table}: {other.name} ({other.split}) and {e.name} ({e.split}) share a sequence cluster, "
                    "or are linked by others that do; maps of one cluster need the same split"
                )
    return [
        (e, chosen[e.name], group[e.name]) for e in sorted(fit, key=lambda e: e.resolution)
    ], left_out


def prepare_table(
    table: Path,
    folder: Path,
    task: Task,
    seed: int = 0,
    threshold: float = CORRELATION,
    use_file_b: bool = True,
    log: Callable[[str], None] = print,
) -> dict[str, Pairs]:
    """All of the published preparation: the pairs of each split ("train", "validation") as sources of cubes.

    Every prepared pair is kept in `folder` and used again when files and settings are the same; `folder`/pairs.tsv says what became of each row.
    """
    entries = read_table(table)
    chosen, left_out = choose(entries, table, task, seed)
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[tuple[str, int], int] = {}
    maps: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "validation": []}
    lines = [(e.name, e.split or "", "", f"left out: {why}", "") for e, why in left_out]
    lines += [
        (e.name, "test", "", "kept for tests", "")
        for e in entries
        if e.split == "test" and e.name not in {line[0] for line in lines}
    ]
    for entry, split, group in chosen:
        limit = IN_TRAINING if split == "train" else ELSEWHERE
        if taken.get((split, group), 0) >= limit:
            status, facts = f"left out: {limit} of its cluster are in {split} already", ""
        else:
            try:
                volumes, molecule, known = _kept(entry, folder, task, threshold, use_file_b)
            except _Unfit as why:
                status, facts = f"left out: {why}", ""
            else:
                taken[split, group] = taken.get((split, group), 0) + 1
                maps[split].append((volumes, molecule))
                status, facts = "used", json.dumps(known)
        log(f"{entry.name}: {status}{' in ' + split if status == 'used' else ''} {facts}".rstrip())
        lines.append((entry.name, split, str(group), status, facts))
    with _replacing(folder / "pairs.tsv") as path:
        path.write_text(
            "id\tsplit\tgroup\tstatus\tfacts\n" + "".join("\t".join(line) + "\n" for line in lines)
        )
    return {split: Pairs(found) for split, found in maps.items()}


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` when all went well."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _kept(
    entry: Entry, folder: Path, task: Task, threshold: float, use_file_b: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Volumes and places of a pair, mapped from the files that an earlier call or this one wrote, and its facts."""
    files = [f for f in (entry.half1, entry.half2, *entry.models, entry.mask) if f]
    key = {
        "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "resolution": entry.resolution,
        "task": asdict(task),
        "threshold": threshold,
        "use_file_b": use_file_b,
    }
    facts_file, volumes, molecule = (
        folder / f"{entry.name}{end}" for end in (".json", ".npy", ".molecule.npy")
    )
    try:
        known = json.loads(facts_file.read_text())
    except (OSError, ValueError):
        known = {}
    if known.get("key") != key or not volumes.is_file() or not molecule.is_file():
        facts_file.unlink(missing_ok=True)
        prepared = prepare_pair(entry, task, threshold, use_file_b)
        for path, array in ((volumes, prepared.volumes), (molecule, prepared.molecule)):
            with _replacing(path) as temporary:
                np.save(temporary, array)
        known = {"key": key, "facts": prepared.facts}
        with _replacing(facts_file) as temporary:
            temporary.write_text(json.dumps(known))
    return np.load(volumes, mmap_mode="r"), np.load(molecule), known["facts"]
