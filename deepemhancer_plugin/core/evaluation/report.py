"""All metrics of some maps on one grid: arrays in, numbers and curves out. What they are called, and how they look in a table, stands here too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepemhancer_plugin.core.evaluation.halfmaps import HalfMapFsc
from deepemhancer_plugin.core.evaluation.metrics import cc_peaks, correlations, fsc_average
from deepemhancer_plugin.core.evaluation.profile import LOW_RESOLUTION, amplitude_profile, b_factor
from deepemhancer_plugin.core.evaluation.qscore import q_scores
from deepemhancer_plugin.core.maps import spectrum

# key in the JSON: words, unit, decimals
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
class Truth:
    """What maps are judged by, on their grid (z, y, x).

    model           the atomic model's map
    mask            soft mask, 0-1
    least_ordered   soft mask round the least ordered fifth of the atoms; None: unknown
    positions       of the atoms (n, 3), x, y, z in A from the first voxel's centre; None: unknown
    scored          indices of the atoms that get a Q-score; None: all
    """

    model: np.ndarray
    mask: np.ndarray
    least_ordered: np.ndarray | None = None
    positions: np.ndarray | None = None
    scored: np.ndarray | None = None


@dataclass(frozen=True)
class Judged:
    """A map's metrics (keys of METRICS), its curves against `frequency` (1/A): map-model FSC and ln F; the atoms' Q-scores."""

    name: str
    metrics: dict[str, float]
    frequency: np.ndarray
    curves: dict[str, np.ndarray]
    q_scores: np.ndarray = field(default_factory=lambda: np.zeros(0))


def judge(
    maps: Sequence[tuple[str, np.ndarray]],
    rate: float,
    truth: Truth | None,
    resolution: float | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Judged], float | None]:
    """Metrics of named maps (z, y, x) on one grid of `rate` A/voxel, against `truth` if there is one.

    `resolution` (A) is where the FSC's average and the fit of the B factor end, the same for all; by default the finest at which a map's masked FSC
    against the truth falls under 0.143. Returned with the maps' metrics; None where nothing tells it, and then nothing is averaged or fitted.
    """
    curves = []
    for done, (_, volume) in enumerate(maps):
        progress(done, 2 * len(maps))
        curves.append(_fscs(volume, rate, truth) if truth else {})
    square = amplitude_profile(maps[0][1], rate)[0]
    frequency = np.sqrt(square)
    if resolution is None and truth:
        resolution = min(spectrum.resolution(frequency, fscs["masked"], 0.143) for fscs in curves)
    judged = []
    for done, ((name, volume), fscs) in enumerate(zip(maps, curves, strict=True)):
        progress(len(maps) + done, 2 * len(maps))
        metrics = {
            f"fsc_{threshold:g}_{kind}": spectrum.resolution(frequency, curve, threshold)
            for kind, curve in fscs.items()
            for threshold in ((0.5,) if kind == "least_ordered" else (0.5, 0.143))
        }
        q = np.zeros(0)
        if truth:
            assert resolution is not None
            metrics |= {
                f"fsc_average_{kind}": fsc_average(frequency, fscs[kind], 1 / resolution)
                for kind in ("masked", "unmasked")
            }
            compared = volume, truth.model, truth.mask
            metrics |= dict(zip(("cc_mask", "cc_box"), correlations(*compared), strict=True)) | {
                "cc_peaks": cc_peaks(*compared)
            }
            if truth.positions is not None:
                q = q_scores(volume, truth.positions, rate, truth.scored)
                metrics["q_score"] = float(q.mean())
        log_amplitude = amplitude_profile(volume, rate)[1]
        fitted = b_factor(square, log_amplitude, resolution) if resolution else None
        if fitted is not None:
            metrics["b_factor"] = fitted
        judged.append(
            Judged(
                name,
                metrics,
                frequency,
                {f"fsc_{kind}": curve for kind, curve in fscs.items()} | {"ln_f": log_amplitude},
                q,
            )
        )
    progress(2 * len(maps), 2 * len(maps))
    return judged, resolution


def _fscs(volume: np.ndarray, rate: float, truth: Truth) -> dict[str, np.ndarray]:
    masks = {"masked": truth.mask, "unmasked": None, "least_ordered": truth.least_ordered}
    return {
        kind: spectrum.fsc(volume, truth.model, rate)[1]
        if mask is None
        else spectrum.fsc(volume * mask, truth.model * mask, rate)[1]
        for kind, mask in masks.items()
        if mask is not None or kind == "unmasked"
    }


def half_map_metrics(halves: HalfMapFsc) -> dict[str, float]:
    """Resolutions (A) by the keys of HALF_MAP_METRICS."""
    return {
        f"fsc_{threshold}_{name}": spectrum.resolution(halves.frequency, curve, threshold)
        for threshold in (0.143, 0.5)
        for name, curve in halves.curves.items()
        if name != "randomised"
    }


def rows(
    columns: Sequence[dict[str, float]], known: dict[str, tuple[str, str, int]]
) -> list[list[str]]:
    """Cells of a table: the metric with its unit, and its value in each column (a dash where there is none); a metric that none has is left out."""
    return [
        [
            f"{words} ({unit})" if unit else words,
            *(f"{c[key]:.{digits}f}" if key in c else "–" for c in columns),
        ]
        for key, (words, unit, digits) in known.items()
        if any(key in c for c in columns)
    ]


def notes(resolution: float | None) -> str:
    """What the table's words mean."""
    to = (
        f"FSC averages (weighted by each shell's coefficients) go to {resolution:.2f} Å; B is fitted from {LOW_RESOLUTION:g} Å to there. "
        if resolution
        else ""
    )
    return (
        to
        + "An FSC that never falls under its threshold ends at Nyquist. CC_mask counts where the mask is over 0.5."
    )
