"""The picture of an evaluation: FSC curves, Guinier profiles and Q-scores."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepemhancer_plugin.core.evaluation.evaluate import Evaluation
from deepemhancer_plugin.core.evaluation.profile import amplitude_profile
from deepemhancer_plugin.core.evaluation.report import MapMetrics
from deepemhancer_plugin.core.maps.spectrum import LOW_RESOLUTION
from deepemhancer_plugin.core.plotting import subplots

COLOURS = (
    *("tab:blue", "tab:red", "tab:green", "tab:purple"),
    *("tab:orange", "tab:brown", "tab:pink", "tab:olive"),
)
HALF_MAP_COLOURS = {
    "unmasked": "tab:green",
    "masked": "tab:blue",
    "randomised": "tab:red",
    "corrected": "black",
}
TICKS = 40, 20, 10, 7, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8  # A
TICK_DISTANCE = 0.085  # of the axis, that labels need
LOWEST_LN_F = -15.0


def plot_evaluation(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write a PNG with a panel for everything that is known."""
    panels = [_plot_guinier]
    if evaluation.model_map is not None:
        panels.insert(0, _plot_model_fsc)
    if evaluation.half_map_fsc is not None:
        panels.insert(0, _plot_half_map_fsc)
    if any(len(m.q_scores) for m in evaluation.maps):
        panels.append(_plot_q_scores)
    figure, axes = subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4.4), layout="constrained", squeeze=False
    )
    for panel, axis in zip(panels, axes[0], strict=True):
        panel(axis, evaluation)
    figure.savefig(path, dpi=110, format="png")


def _colour_maps(evaluation: Evaluation) -> Iterator[tuple[MapMetrics, str]]:
    """Each map's metrics, and its colour."""
    for i, m in enumerate(evaluation.maps):
        yield m, COLOURS[i % len(COLOURS)]


def _plot_half_map_fsc(axis: Any, evaluation: Evaluation) -> None:
    halves = evaluation.half_map_fsc
    if halves is None:
        return
    for kind, curve in halves.curves.items():
        axis.plot(halves.frequency, curve, color=HALF_MAP_COLOURS[kind], label=kind)
    _label_fsc(axis, halves.frequency, "half maps")


def _plot_model_fsc(axis: Any, evaluation: Evaluation) -> None:
    styles = {
        "fsc_masked": ("-", 1.5, "in the mask"),
        "fsc_unmasked": (":", 1.5, "unmasked"),
        "fsc_least_ordered": ("--", 0.9, "least ordered fifth"),
    }
    for m, colour in _colour_maps(evaluation):
        for kind, (style, width, _) in styles.items():
            if kind in m.curves:
                label = m.name if kind == "fsc_masked" else None
                axis.plot(
                    m.frequency, m.curves[kind], style, color=colour, linewidth=width, label=label
                )
    for kind, (style, _, label) in styles.items():
        if any(kind in m.curves for m in evaluation.maps):
            axis.plot([], [], style, color="gray", label=label)
    _label_fsc(axis, evaluation.maps[0].frequency, "map and model")


def _plot_q_scores(axis: Any, evaluation: Evaluation) -> None:
    bins = np.linspace(-0.6, 1, 41)
    for m, colour in _colour_maps(evaluation):
        label = f"{m.name}, mean {m.q_scores.mean():.2f}"
        axis.hist(m.q_scores, bins, histtype="step", color=colour, label=label)
    axis.set(title="Q-scores", xlabel="Q-score", ylabel="atoms", xlim=(-0.6, 1))
    axis.legend(fontsize=8, loc="upper left")


def _plot_guinier(axis: Any, evaluation: Evaluation) -> None:
    """Plot ln F against 1/d^2; the curves meet where the fit of B begins."""
    square = evaluation.maps[0].frequency ** 2
    start = min(int(np.searchsorted(square, LOW_RESOLUTION**-2)), len(square) - 1)
    lows = []
    for m, colour in _colour_maps(evaluation):
        b_factor = m.metrics.get("b_factor")
        label = m.name if b_factor is None else f"{m.name}, B {b_factor:.0f} Å²"
        curve = (m.curves["ln_f"] - m.curves["ln_f"][start])[1:]
        axis.plot(square[1:], curve, color=colour, label=label)
        lows.append(float(np.percentile(curve, 2)))
    if evaluation.model_map is not None:
        curve = amplitude_profile(evaluation.model_map, evaluation.sampling_rate)[1]
        curve = (curve - curve[start])[1:]
        axis.plot(square[1:], curve, color="black", linewidth=0.8, label="model")
    if evaluation.resolution:
        end = evaluation.resolution**-2
        axis.axvspan(LOW_RESOLUTION**-2, end, color="tab:gray", alpha=0.12, label="fitted")
    axis.set(
        title="amplitudes (Guinier)",
        ylabel=f"ln F, from its value at {LOW_RESOLUTION:g} Å",
        xlabel="resolution (Å), spaced as 1/d²",
        xlim=(0, square[-1]),
    )
    axis.set_ylim(max(min(lows) - 1, LOWEST_LN_F), None)
    _set_resolution_ticks(axis, float(np.sqrt(square[-1])), 2)
    axis.legend(fontsize=8)


def _label_fsc(axis: Any, frequency: np.ndarray, title: str) -> None:
    for threshold in (0.5, 0.143):
        axis.axhline(threshold, color="black", linewidth=0.6)
        axis.text(0.01 * frequency[-1], threshold + 0.01, f"{threshold:g}", fontsize=8)
    axis.set(
        title=title,
        ylabel="FSC",
        xlabel="resolution (Å)",
        xlim=(0, frequency[-1]),
        ylim=(-0.15, 1.03),
    )
    _set_resolution_ticks(axis, frequency[-1], 1)
    axis.legend(fontsize=8)


def _set_resolution_ticks(axis: Any, highest: float, power: int) -> None:
    """Put ticks at round resolutions on an axis of 1/d^power, as far apart as labels need."""
    shown: list[float] = []
    last = 0.0
    for tick in TICKS:
        place = tick**-power
        if tick**-1 <= highest and place - last > TICK_DISTANCE * highest**power:
            shown.append(tick)
            last = place
    axis.set_xticks([tick**-power for tick in shown], [f"{tick:g}" for tick in shown])
