"""The picture of an evaluation: FSC curves, Guinier profiles and Q-scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core.evaluation.halfmaps import HalfMapFsc
from deepemhancer_plugin.core.evaluation.profile import LOW_RESOLUTION, amplitude_profile
from deepemhancer_plugin.core.evaluation.report import Judged
from deepemhancer_plugin.core.plotting import subplots

COLOURS = (
    "tab:blue",
    "tab:red",
    "tab:green",
    "tab:purple",
    "tab:orange",
    "tab:brown",
    "tab:pink",
    "tab:olive",
)
TICKS = (40, 20, 10, 7, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8)  # A


def plot(
    path: Path,
    maps: Sequence[Judged],
    halves: HalfMapFsc | None,
    model: np.ndarray | None,
    rate: float,
    resolution: float | None,
) -> None:
    """Write a PNG with a panel for everything that is known; `model` (z, y, x) is the model's map, `resolution` (A) where the fit of B ends."""
    panels = [
        name
        for name, known in (
            ("halves", halves),
            ("model", model is not None),
            ("guinier", maps),
            ("q", any(len(m.q_scores) for m in maps)),
        )
        if known
    ]
    figure, axes = subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4.4), layout="constrained", squeeze=False
    )
    for name, axis in zip(panels, axes[0], strict=True):
        if name == "halves":
            assert halves is not None
            for (kind, curve), colour in zip(
                halves.curves.items(), ("tab:green", "tab:blue", "tab:red", "black"), strict=False
            ):
                axis.plot(halves.frequency, curve, color=colour, label=kind)
            _fsc_axis(axis, halves.frequency, "half maps", "FSC")
        elif name == "model":
            for m, colour in zip(maps, COLOURS * len(maps), strict=False):
                axis.plot(m.frequency, m.curves["fsc_masked"], color=colour, label=m.name)
                axis.plot(m.frequency, m.curves["fsc_unmasked"], ":", color=colour)
                if "fsc_least_ordered" in m.curves:
                    axis.plot(
                        m.frequency,
                        m.curves["fsc_least_ordered"],
                        "--",
                        color=colour,
                        linewidth=0.9,
                    )
            for style, label in (
                ("-", "in the mask"),
                (":", "unmasked"),
                ("--", "least ordered fifth"),
            ):
                if style != "--" or any("fsc_least_ordered" in m.curves for m in maps):
                    axis.plot([], [], style, color="gray", label=label)
            _fsc_axis(axis, maps[0].frequency, "map and model", "FSC")
        elif name == "guinier":
            _guinier(axis, maps, model, rate, resolution)
        else:
            for m, colour in zip(maps, COLOURS * len(maps), strict=False):
                axis.hist(
                    m.q_scores,
                    np.linspace(-0.6, 1, 41),
                    histtype="step",
                    color=colour,
                    label=f"{m.name}, mean {m.q_scores.mean():.2f}",
                )
            axis.set(title="Q-scores", xlabel="Q-score", ylabel="atoms", xlim=(-0.6, 1))
            axis.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110, format="png")


def _fsc_axis(axis, frequency: np.ndarray, title: str, label: str) -> None:
    for threshold in (0.5, 0.143):
        axis.axhline(threshold, color="black", linewidth=0.6)
        axis.text(0.01 * frequency[-1], threshold + 0.01, f"{threshold:g}", fontsize=8)
    axis.set(
        title=title,
        ylabel=label,
        xlabel="resolution (Å)",
        xlim=(0, frequency[-1]),
        ylim=(-0.15, 1.03),
    )
    _resolutions(axis, frequency[-1], 1)
    axis.legend(fontsize=8)


def _resolutions(axis, highest: float, power: int) -> None:
    """Ticks at round resolutions (A) on an axis of 1/d or 1/d^2, as far apart as their labels need."""
    shown: list[float] = []
    for tick in TICKS:
        if (
            tick**-1 <= highest
            and (tick**-power - (shown[-1] ** -power if shown else 0)) > 0.085 * highest**power
        ):
            shown.append(tick)
    axis.set_xticks([tick**-power for tick in shown], [f"{tick:g}" for tick in shown])


def _guinier(
    axis, maps: Sequence[Judged], model: np.ndarray | None, rate: float, resolution: float | None
) -> None:
    """ln F against 1/d^2; the curves meet where the fit of B begins."""
    square = maps[0].frequency ** 2
    start = min(int(np.searchsorted(square, LOW_RESOLUTION**-2)), len(square) - 1)
    for m, colour in zip(maps, COLOURS * len(maps), strict=False):
        b = m.metrics.get("b_factor")
        axis.plot(
            square[1:],
            (m.curves["ln_f"] - m.curves["ln_f"][start])[1:],
            color=colour,
            label=m.name + ("" if b is None else f", B {b:.0f} Å²"),
        )
    if model is not None:
        curve = amplitude_profile(model, rate)[1]
        axis.plot(
            square[1:], (curve - curve[start])[1:], color="black", linewidth=0.8, label="model"
        )
    if resolution:
        axis.axvspan(
            LOW_RESOLUTION**-2, resolution**-2, color="tab:gray", alpha=0.12, label="fitted"
        )
    axis.set(
        title="amplitudes (Guinier)",
        ylabel=f"ln F, from its value at {LOW_RESOLUTION:g} Å",
        xlabel="resolution (Å), spaced as 1/d²",
        xlim=(0, square[-1]),
    )
    low = min(np.percentile((m.curves["ln_f"] - m.curves["ln_f"][start])[1:], 2) for m in maps)
    axis.set_ylim(max(low - 1, -15), None)
    _resolutions(axis, float(np.sqrt(square[-1])), 2)
    axis.legend(fontsize=8)
