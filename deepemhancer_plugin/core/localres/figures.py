"""Pictures of local-resolution maps, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.localres.oversharpening import PERCENTILE, Comparison, Scan
from deepemhancer_plugin.core.plotting import subplots

NARROWEST_SCALE = 0.5  # A, between the ends of the colour scale
COARSE_BINS = 8.0  # A; histograms that are wider have bins of 0.2 A instead of 0.1 A
CLAIMED, SUPPORTED = "tab:red", "tab:blue"


def colour_range(values: np.ndarray) -> tuple[float, float]:
    """Give the ends of the colour scale: the 2nd and 98th percentile, at least 0.5 A apart."""
    low, high = np.percentile(values, (2, 98))
    middle, half = (low + high) / 2, max((high - low) / 2, NARROWEST_SCALE / 2)
    return float(middle - half), float(middle + half)


def plot_histogram(path: Path, curves: Mapping[str, np.ndarray]) -> None:
    """Plot histograms with medians of one or more sets of resolutions.

    Args:
        path: the PNG.
        curves: resolutions in A of the mask's voxels, by name.
    """
    figure, axis = subplots(figsize=(7, 4), layout="constrained")
    low, high = np.percentile(np.concatenate(list(curves.values())), (0.2, 99.8))
    width = 0.1 if high - low < COARSE_BINS else 0.2
    bins = np.arange(np.floor(low * 10) / 10 - 0.05, high + 0.2, width)
    colours = ("tab:blue", "tab:orange", "tab:green")
    for (name, values), colour in zip(curves.items(), colours, strict=False):
        median = float(np.median(values))
        _plot_percentages(axis, values, bins, 0.6, colour, f"{name}: median {median:.2f} Å")
        axis.axvline(median, color=colour, linewidth=1.5, linestyle="--")
    axis.set(xlabel="local resolution (Å)", ylabel="voxels of the mask (%)")
    axis.legend()
    figure.savefig(path, dpi=110)


def plot_slices(
    path: Path, volume: np.ndarray, resolution: np.ndarray, rate: float, title: str = ""
) -> None:
    """Plot three slices along each axis of a map, coloured by resolution in the mask.

    Args:
        path: the PNG.
        volume: the map (z, y, x).
        resolution: local resolution in A (z, y, x), zero outside the mask.
        rate: A/voxel.
        title: over the slices.
    """
    inside = resolution > 0
    low, high = colour_range(resolution[inside])
    darkest, brightest = np.percentile(volume, 1), np.percentile(volume[inside], 99.5)
    figure, axes = subplots(3, 3, figsize=(10, 10), layout="constrained")
    image = None
    for axis, name in enumerate("zyx"):
        occupied = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
        for plot, fraction in zip(axes[axis], (0.25, 0.5, 0.75), strict=True):
            number = int(occupied[0] + fraction * (occupied[-1] - occupied[0]))
            section = np.take(volume, number, axis)
            height, width = (n * rate for n in section.shape)
            options = {"origin": "lower", "extent": (0, width, 0, height)}
            plot.imshow(section, cmap="gray", vmin=darkest, vmax=brightest, **options)
            image = plot.imshow(
                np.ma.masked_equal(np.take(resolution, number, axis), 0),
                cmap="turbo",
                vmin=low,
                vmax=high,
                alpha=0.75,
                interpolation="nearest",
                **options,
            )
            plot.set_title(f"{name} = {number * rate:.0f} Å", fontsize=9)
            up, right = (n for n in "zyx" if n != name)
            plot.set(xlabel=f"{right} (Å)", ylabel=f"{up} (Å)")
    figure.colorbar(image, ax=axes, shrink=0.6, label="local resolution (Å)")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=90)


def plot_oversharpening(
    path: Path, volume: np.ndarray, comparison: Comparison, scan: Scan | None, rate: float
) -> None:
    """Plot what a map claims and what its halves support.

    Histograms of both, one against the other, a slice of their difference, and the scan.

    Args:
        path: the PNG.
        volume: the map (z, y, x).
        comparison: of the map with its halves.
        scan: of the halves' mean, or None.
        rate: A/voxel.
    """
    count = 3 if scan is None else 4
    figure, axes = subplots(1, count, figsize=(4.7 * count, 4.3), layout="constrained")
    inside = comparison.supported > 0
    both = np.concatenate([comparison.claimed[inside], comparison.supported[inside]])
    low, high = np.percentile(both, (0.2, 99.5))
    bins = np.linspace(np.floor(2 * low) / 2, np.ceil(2 * high) / 2, 60)
    _plot_two_histograms(axes[0], comparison, bins)
    _plot_claimed_against_supported(axes[1], comparison, bins)
    shown = _plot_excess(axes[2], volume, comparison, rate)
    figure.colorbar(shown, ax=axes[2], shrink=0.85, extend="both", label="supported - claimed (Å)")
    if scan is not None:
        _plot_scan(axes[3], scan)
    figure.savefig(path, dpi=100)


def _plot_percentages(
    axis: Any, values: np.ndarray, bins: np.ndarray, alpha: float, colour: str, label: str
) -> None:
    """A histogram in per cent of the values; the outermost bins hold what lies beyond."""
    axis.hist(
        np.clip(values, bins[0], bins[-1]),
        bins,
        weights=np.full(values.size, 100 / values.size),
        alpha=alpha,
        color=colour,
        label=label,
    )


def _plot_two_histograms(axis: Any, comparison: Comparison, bins: np.ndarray) -> None:
    inside = comparison.supported > 0
    supported = f"supported: local FSC = {comparison.threshold:g}"
    for label, values, percentile, colour in (
        ("claimed by the map", comparison.claimed, comparison.claimed_percentile, CLAIMED),
        (supported, comparison.supported, comparison.supported_percentile, SUPPORTED),
    ):
        _plot_percentages(axis, values[inside], bins, 0.55, colour, label)
        words = f"{PERCENTILE} % percentile: {percentile:.2f} Å"
        axis.axvline(percentile, color=colour, linestyle="--", label=words)
    axis.set(
        xlabel="local resolution (Å)", ylabel="voxels of the mask (%)", title="two resolutions"
    )
    axis.margins(y=0.4)  # room for the legend
    axis.legend(fontsize=8, loc="upper right")


def _plot_claimed_against_supported(axis: Any, comparison: Comparison, bins: np.ndarray) -> None:
    inside, ends = comparison.supported > 0, bins[[0, -1]]
    supported = np.clip(comparison.supported[inside], *ends)
    claimed = np.clip(comparison.claimed[inside], *ends)
    counts = np.histogram2d(supported, claimed, bins)[0]
    axis.pcolormesh(bins, bins, np.ma.masked_equal(np.sqrt(counts).T, 0), cmap="viridis")
    axis.plot(ends, ends, color="black", linewidth=0.8)
    axis.plot(ends, ends * (1 - comparison.tolerance), color=CLAIMED, linewidth=1.2)
    excess, tolerance = 100 * comparison.excess, 100 * comparison.tolerance
    axis.set(
        xlabel="supported by the halves (Å)",
        ylabel="claimed by the map (Å)",
        xlim=tuple(ends),
        ylim=tuple(ends),
        aspect="equal",
        title=f"{excess:.0f} % are over {tolerance:.0f} % finer (red line)",
    )


def _plot_excess(axis: Any, volume: np.ndarray, comparison: Comparison, rate: float) -> Any:
    """The slice with most of the mask; returns the coloured image."""
    inside = comparison.supported > 0
    z = int(np.argmax(inside.sum((1, 2))))
    options = {
        "origin": "lower",
        "extent": (0, volume.shape[2] * rate, 0, volume.shape[1] * rate),
    }
    darkest, brightest = np.percentile(volume, 1), np.percentile(volume[inside], 99.7)
    axis.imshow(volume[z], cmap="gray", vmin=darkest, vmax=brightest, **options)
    difference = (comparison.supported - comparison.claimed)[z]
    shown = axis.imshow(
        np.ma.masked_array(difference, ~inside[z]),
        cmap="RdBu_r",
        vmin=-2,
        vmax=2,
        alpha=0.75,
        interpolation="nearest",
        **options,
    )
    title = f"red: claims more (z = {z * rate:.0f} Å)"
    axis.set(xlabel="x (Å)", ylabel="y (Å)", title=title)
    return shown


def _plot_scan(axis: Any, scan: Scan) -> None:
    label = "mean of the halves, sharpened"
    axis.plot(scan.b_factors, scan.percentiles, "o-", color=CLAIMED, label=label)
    label = f"halves: {scan.supported_percentile:.2f} Å"
    axis.axhline(scan.supported_percentile, color=SUPPORTED, linestyle="--", label=label)
    if scan.limit is not None:
        label = f"limit: {scan.limit:.0f} Å²"
        axis.axvline(scan.limit, color="black", linewidth=0.8, label=label)
    axis.set(
        xlabel="B factor (Å²)",
        ylabel=f"{PERCENTILE} % percentile (Å)",
        title="how far the mean can be sharpened",
    )
    axis.invert_xaxis()
    axis.locator_params(axis="x", nbins=5)
    axis.legend(fontsize=8)
