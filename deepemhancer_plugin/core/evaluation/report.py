"""All metrics of maps on one grid, and how they are called in tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepemhancer_plugin.core.evaluation.halfmaps import HalfMapFsc
from deepemhancer_plugin.core.evaluation.metrics import cc_peaks, correlations, fsc_average
from deepemhancer_plugin.core.evaluation.profile import amplitude_profile
from deepemhancer_plugin.core.evaluation.qscore import q_scores
from deepemhancer_plugin.core.maps.spectrum import LOW_RESOLUTION, fit_b_factor, fsc, resolution

# By the key in the report: words, unit, decimals.
METRICS = {
    "fsc_0.5_masked": ("map-model FSC = 0.5, in the mask", "Å", 2),
    "fsc_0.5_unmasked": ("map-model FSC = 0.5, unmasked", "Å", 2),
    "fsc_0.143_masked": ("map-model FSC = 0.143, in the mask", "Å", 2),
    "fsc_0.143_unmasked": ("map-model FSC = 0.143, unmasked", "Å", 2),
    "fsc_0.5_least_ordered": ("map-model FSC = 0.5, in the least ordered fifth", "Å", 2),
    "fsc_average_masked": ("FSC average, in the mask", "", 3),
    "fsc_average_unmasked": ("FSC average, unmasked", "", 3),
    "cc_mask": ("CC_mask", "", 3),
    "cc_box": ("CC_box", "", 3),
    "cc_peaks": ("CC_peaks", "", 3),
    "q_score": ("Q-score, mean of the atoms", "", 3),
    "b_factor": ("B factor of the amplitudes", "Å²", 0),
}
HALF_MAP_METRICS = {
    f"fsc_{threshold}_{name}": (f"half-map FSC = {threshold}, {name}", "Å", 2)
    for threshold in (0.143, 0.5)
    for name in ("unmasked", "masked", "corrected")
}


@dataclass(frozen=True)
class Reference:
    """What maps are compared with, on their grid (z, y, x).

    Attributes:
        model: the atomic model's map.
        mask: soft mask of the molecule, 0-1.
        least_ordered: soft mask round the least ordered fifth of the atoms; None: unknown.
        positions: of the atoms (n, 3), x, y, z in A from the first voxel's centre; None: unknown.
        scored: indices of the atoms that get a Q-score; None: all.
    """

    model: np.ndarray
    mask: np.ndarray
    least_ordered: np.ndarray | None = None
    positions: np.ndarray | None = None
    scored: np.ndarray | None = None


@dataclass(frozen=True)
class MapMetrics:
    """Metrics of a map.

    Attributes:
        name: of the map.
        metrics: values by the keys of METRICS.
        frequency: 1/A of the curves' shells, up to Nyquist.
        curves: FSC against the model's map, and ln F, by name.
        q_scores: of the atoms; empty where they are unknown.
    """

    name: str
    metrics: dict[str, float]
    frequency: np.ndarray
    curves: dict[str, np.ndarray]
    q_scores: np.ndarray = field(default_factory=lambda: np.zeros(0))


def measure_maps(
    maps: Sequence[tuple[str, np.ndarray]],
    rate: float,
    reference: Reference | None,
    limit: float | None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[MapMetrics], float | None]:
    """Measure maps on one grid.

    Args:
        maps: names and maps (z, y, x).
        rate: sampling rate in A/voxel.
        reference: what they are compared with, if there is anything.
        limit: resolution in A where the FSC's average and the fit of the B factor end, the same for
            all; None for the finest at which a map's masked FSC falls under 0.143.
        progress: called with how much is done, and of how much.

    Returns:
        The maps' metrics, and the limit; None where it is unknown, and then nothing is averaged
        or fitted.
    """
    show = progress or (lambda done, total: None)
    curves = []
    for done, (_, volume) in enumerate(maps):
        show(done, 2 * len(maps))
        curves.append(_compute_fscs(volume, rate, reference) if reference else {})
    frequency = np.sqrt(amplitude_profile(maps[0][1], rate)[0])
    if limit is None and reference:
        limit = min(resolution(frequency, fscs["masked"], 0.143) for fscs in curves)
    measured = []
    for done, ((name, volume), fscs) in enumerate(zip(maps, curves, strict=True)):
        show(len(maps) + done, 2 * len(maps))
        measured.append(_measure_map(name, volume, rate, fscs, reference, limit))
    show(2 * len(maps), 2 * len(maps))
    return measured, limit


def _measure_map(
    name: str,
    volume: np.ndarray,
    rate: float,
    fscs: dict[str, np.ndarray],
    reference: Reference | None,
    limit: float | None,
) -> MapMetrics:
    """Measure one map whose FSC curves are known."""
    square, log_amplitude = amplitude_profile(volume, rate)
    frequency = np.sqrt(square)
    metrics = {}
    for kind, curve in fscs.items():
        for threshold in (0.5,) if kind == "least_ordered" else (0.5, 0.143):
            metrics[f"fsc_{threshold:g}_{kind}"] = resolution(frequency, curve, threshold)
    if limit and reference:
        for kind in ("masked", "unmasked"):
            metrics[f"fsc_average_{kind}"] = fsc_average(frequency, fscs[kind], 1 / limit)
    scores = np.zeros(0)
    if reference:
        model, mask = reference.model, reference.mask
        metrics["cc_mask"], metrics["cc_box"] = correlations(volume, model, mask)
        metrics["cc_peaks"] = cc_peaks(volume, model, mask)
        if reference.positions is not None:
            scores = q_scores(volume, reference.positions, rate, reference.scored)
            metrics["q_score"] = float(scores.mean())
    b_factor = fit_b_factor(square, log_amplitude, limit) if limit else None
    if b_factor is not None:
        metrics["b_factor"] = b_factor
    curves = {f"fsc_{kind}": curve for kind, curve in fscs.items()} | {"ln_f": log_amplitude}
    return MapMetrics(name, metrics, frequency, curves, scores)


def _compute_fscs(volume: np.ndarray, rate: float, reference: Reference) -> dict[str, np.ndarray]:
    """FSC against the model's map, by kind."""
    model = reference.model
    curves = {
        "masked": fsc(volume * reference.mask, model * reference.mask, rate)[1],
        "unmasked": fsc(volume, model, rate)[1],
    }
    local = reference.least_ordered
    if local is not None:
        curves["least_ordered"] = fsc(volume * local, model * local, rate)[1]
    return curves


def measure_halves(halves: HalfMapFsc) -> dict[str, float]:
    """Measure the resolutions in A of half maps, by the keys of HALF_MAP_METRICS."""
    return {
        f"fsc_{threshold}_{name}": resolution(halves.frequency, curve, threshold)
        for threshold in (0.143, 0.5)
        for name, curve in halves.curves.items()
        if name != "randomised"
    }


def format_rows(
    columns: Sequence[dict[str, float]], known: dict[str, tuple[str, str, int]]
) -> list[list[str]]:
    """Format the rows of a table: the metric with its unit, and its value in each column.

    A metric that no column has is left out; a dash stands where one column has none.

    Args:
        columns: metrics by key.
        known: METRICS or HALF_MAP_METRICS.
    """
    rows = []
    for key, (words, unit, digits) in known.items():
        if any(key in column for column in columns):
            cells = [f"{c[key]:.{digits}f}" if key in c else "–" for c in columns]
            rows.append([f"{words} ({unit})" if unit else words, *cells])
    return rows


def explain_metrics(limit: float | None) -> str:
    """Explain the words of the tables; `limit` (A) is that of `measure_maps`."""
    text = (
        "An FSC that never falls under its threshold ends at Nyquist. "
        "CC_mask counts where the mask is over 0.5."
    )
    if not limit:
        return text
    return (
        f"FSC averages (weighted by each shell's coefficients) go to {limit:.2f} Å; "
        f"B is fitted from {LOW_RESOLUTION:g} Å to there. {text}"
    )
