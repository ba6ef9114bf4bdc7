"""How good maps are, for scripts and notebooks and for the command line."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.evaluation.halfmaps import HalfMapFsc, half_map_fsc
from deepemhancer_plugin.core.evaluation.metrics import soft_mask
from deepemhancer_plugin.core.evaluation.modelmap import (
    compute_model_map,
    find_least_ordered,
    mask_molecule,
    place_in_map,
)
from deepemhancer_plugin.core.evaluation.qscore import draw_atoms
from deepemhancer_plugin.core.evaluation.report import (
    MapMetrics,
    Reference,
    measure_halves,
    measure_maps,
)
from deepemhancer_plugin.core.maps.masks import as_soft_mask
from deepemhancer_plugin.core.maps.mrc import (
    Map,
    MapLike,
    as_map,
    check_halves,
    check_same_grid,
)
from deepemhancer_plugin.core.simulation.molecule import Molecule, read_molecule
from deepemhancer_plugin.version import __version__

LEAST_CC_MASK = 0.1  # a model that fits worse is taken to lie elsewhere
LEAST_B_FACTOR_RANGE = 1.0  # A^2; a file with one B factor for all atoms says nothing of order
COARSEST_RESOLUTION = 100.0  # A
ENDINGS = ".gz", ".bz2", ".mrc", ".map"  # that a map's name is shown without

Progress = Callable[[str, int, int], None]  # a step, how much of it is done, and of how much
Model = str | os.PathLike[str] | Molecule


@dataclass(frozen=True)
class Evaluation:
    """How good maps are.

    Attributes:
        maps: metrics, curves and Q-scores of each map; with half maps their mean is the first.
        half_map_fsc: FSC curves of the half maps; None without them.
        half_map_metrics: resolutions in A by half-map FSC, threshold and curve; empty without.
        resolution: A where FSC averages and the fit of the B factor end; None: unknown.
        sampling_rate: A/voxel.
        model_map: the map (z, y, x) that the maps are compared with; None: none was given.
        report: everything above as JSON values, without the model's map.
    """

    maps: list[MapMetrics]
    half_map_fsc: HalfMapFsc | None
    half_map_metrics: dict[str, float]
    resolution: float | None
    sampling_rate: float
    model_map: np.ndarray | None
    report: dict[str, Any]


def evaluate(
    maps: MapLike | Sequence[MapLike] = (),
    *,
    halves: Sequence[MapLike] | None = None,
    model: Model | None = None,
    model_map: MapLike | None = None,
    mask: MapLike | None = None,
    sampling_rate: float | None = None,
    resolution: float | None = None,
    atoms: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate maps on one grid by their half maps and by an atomic model.

    Maps are paths, maps as read, or arrays (z, y, x) with `sampling_rate`; none is changed.

    Args:
        maps: one map, or several to compare; may be left out where there are half maps.
        halves: two half maps: their FSC, corrected for the mask, and the metrics of their mean.
        model: atomic model in the maps' place: a file (PDB, mmCIF, .gz too), or a `Molecule`.
        model_map: map to compare with instead of the one made of the model's atoms.
        mask: soft mask, 0-1; by default made of the model's map.
        sampling_rate: A/voxel; needed for arrays, wins over a file's header.
        resolution: A where FSC averages and the fit of the B factor end; by default where the
            half-map FSC falls under 0.143, else the finest map-model FSC.
        atoms: Q-scores of so many atoms drawn at random; by default of all.
        seed: of the drawn atoms and of the FSC's random phases.
        progress: called with a step's name, how much of it is done, and of how much.

    Raises:
        InputError: nothing to evaluate; maps that cannot be read or lie on different grids; a model
            outside of them; a number out of its range.

    Warns:
        MapWarning: atoms lie outside of the box, or the model does not fit the map.

    Example:
        >>> from deepemhancer_plugin.core import evaluate, simulate
        >>> from deepemhancer_plugin.core.simulation import from_structure
        >>> from deepemhancer_plugin.core.simulation.synthetic import build_protein
        >>> s = simulate(from_structure(build_protein(0)), resolution=6, sampling_rate=2)
        >>> found = evaluate(halves=(s.half1, s.half2), model=s.molecule, sampling_rate=2)
        >>> [m.name for m in found.maps], round(found.maps[0].metrics["cc_mask"], 1)
        (['mean of halves'], 0.5)
        >>> found.half_map_fsc.resolution(0.143) == found.half_map_metrics["fsc_0.143_corrected"]
        True
    """
    if atoms is not None and atoms < 1:
        raise InputError(f"atoms {atoms}: at least 1 is needed")
    volumes, pair = _read_maps(maps, halves, sampling_rate)
    first = (volumes + pair)[0]
    rate = first.sampling_rate
    _check_resolution(resolution, rate)
    soft = None if mask is None else as_soft_mask(mask, first, sampling_rate)
    name = "" if model is None and model_map is None else _name_model(model, model_map)
    reference = _make_reference(model, model_map, soft, first, sampling_rate, atoms, seed)

    named = list(zip(_name_maps(volumes), (volume.data for volume in volumes), strict=True))
    curves = None
    if pair:
        one, two = (half.data for half in pair)
        curves = half_map_fsc(one, two, rate, reference.mask if reference else soft, seed)
        resolution = resolution or curves.resolution(0.143)
        named.insert(0, ("mean of halves", (one + two) / 2))

    show = partial(progress, "metrics") if progress else None
    measured, resolution = measure_maps(named, rate, reference, resolution, show)
    if reference:
        _check_place(measured, name)
    half_map_metrics = measure_halves(curves) if curves else {}
    report: dict[str, Any] = {
        "version": __version__,
        "sampling_rate": rate,
        "box": list(first.data.shape),
        "resolution": resolution,
        **_report_reference(reference, name),
        "maps": [_report_map(m) for m in measured],
    }
    if curves:
        report["halves"] = _report_halves(curves, half_map_metrics, pair)
    model_data = reference.model if reference else None
    return Evaluation(measured, curves, half_map_metrics, resolution, rate, model_data, report)


def _check_resolution(resolution: float | None, rate: float) -> None:
    if resolution is not None and not 1.999 * rate <= resolution <= COARSEST_RESOLUTION:
        raise InputError(
            f"resolution {resolution:g} A: between Nyquist ({2 * rate:.3g} A) and "
            f"{COARSEST_RESOLUTION:g} A is right"
        )


def _read_maps(
    maps: MapLike | Sequence[MapLike],
    halves: Sequence[MapLike] | None,
    sampling_rate: float | None,
) -> tuple[list[Map], list[Map]]:
    """Read maps and half maps that lie on one grid."""
    if isinstance(maps, str | os.PathLike | Map | np.ndarray):
        maps = [maps]
    if halves is not None and len(halves) != 2:
        raise InputError(f"half maps: {len(halves)} were given: two are needed")
    if not len(maps) and not halves:
        raise InputError("nothing to evaluate: a map or two half maps are needed")
    several = len(maps) > 1
    volumes = [
        as_map(source, sampling_rate, f"map {i}" if several else "map")
        for i, source in enumerate(maps, 1)
    ]
    pair = [as_map(half, sampling_rate, f"half map {i}") for i, half in enumerate(halves or (), 1)]
    if pair:
        check_halves(*pair)
    first, *others = volumes + pair
    for other in others:
        check_same_grid(other, first)
    return volumes, pair


def _make_reference(
    model: Model | None,
    model_map: MapLike | None,
    mask: np.ndarray | None,
    first: Map,
    sampling_rate: float | None,
    atoms: int | None,
    seed: int,
) -> Reference | None:
    """Make what the maps are compared with of a model and its map; None without both."""
    shape, rate = first.data.shape, first.sampling_rate
    placed, least_ordered, positions, scored = None, None, None, None
    if model is not None:
        molecule = model if isinstance(model, Molecule) else read_molecule(model, standardise=False)
        placed = place_in_map(molecule, first, _name_model(model, None))
        positions, scored = placed.positions, draw_atoms(len(placed), atoms, seed)
        if np.ptp(placed.b_factors) > LEAST_B_FACTOR_RANGE:
            least_ordered = mask_molecule(placed[find_least_ordered(placed)], shape, rate)
    if model_map is not None:
        given = as_map(model_map, sampling_rate, "model map")
        check_same_grid(given, first)
        data = given.data
    elif placed is not None:
        data = compute_model_map(placed, shape, rate)
    else:
        return None
    soft = soft_mask(data, rate) if mask is None else mask
    return Reference(data, soft, least_ordered, positions, scored)


def _check_place(measured: Sequence[MapMetrics], model: str) -> None:
    """Warn where a model does not fit a map."""
    for m in measured:
        if m.metrics["cc_mask"] < LEAST_CC_MASK:
            warnings.warn(
                f"{model}: CC_mask with {m.name} is {m.metrics['cc_mask']:.2f}: it does not seem "
                "to lie in the map's place (origin, hand, sampling rate)",
                MapWarning,
                stacklevel=3,
            )


def _report_map(m: MapMetrics) -> dict[str, Any]:
    values: dict[str, Any] = {"name": m.name, **m.metrics, "frequency": m.frequency.tolist()}
    values |= {name: curve.tolist() for name, curve in m.curves.items()}
    if len(m.q_scores):
        values["q_scores"] = np.round(m.q_scores, 4).tolist()
    return values


def _report_halves(
    curves: HalfMapFsc, metrics: dict[str, float], pair: Sequence[Map]
) -> dict[str, Any]:
    return {
        "files": [_give_full_path(half.path) for half in pair],
        **metrics,
        "randomised_from": curves.randomised_from,
        "frequency": curves.frequency.tolist(),
        **{name: curve.tolist() for name, curve in curves.curves.items()},
    }


def _report_reference(reference: Reference | None, name: str) -> dict[str, Any]:
    if reference is None:
        return {}
    values: dict[str, Any] = {"model": _give_full_path(name)}
    if reference.positions is not None:
        values["atoms"] = len(reference.positions)
        scored = reference.scored
        values["atoms_scored"] = len(reference.positions) if scored is None else len(scored)
    return values


def _name_model(model: Model | None, model_map: MapLike | None) -> str:
    """Name a model, or else its map, for messages."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if model is not None:
        return "model"
    if isinstance(model_map, str | os.PathLike):
        return os.fspath(model_map)
    return model_map.path if isinstance(model_map, Map) and model_map.path else "model map"


def _give_full_path(name: str) -> str:
    """Give a file's full path; what is no file keeps its name."""
    return os.path.abspath(name) if os.path.exists(name) else name


def _name_maps(volumes: Sequence[Map]) -> list[str]:
    """Name maps by their files without endings, or by the whole path where two have the same."""
    paths = [volume.path or f"map {i}" for i, volume in enumerate(volumes, 1)]
    stems = [_remove_endings(os.path.basename(path)) for path in paths]
    return [
        stem if stems.count(stem) == 1 else path for stem, path in zip(stems, paths, strict=True)
    ]


def _remove_endings(name: str) -> str:
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name
