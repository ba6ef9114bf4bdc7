"""Pictures of a local-resolution map: its histogram, and slices coloured by resolution."""

from pathlib import Path

import numpy as np


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def colour_range(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale: the 2nd and 98th percentile, at least 0.5 A apart."""
    low, high = np.percentile(values, (2, 98))
    middle, half = (low + high) / 2, max((high - low) / 2, 0.25)
    return float(middle - half), float(middle + half)


def histogram(path: Path, curves: dict[str, np.ndarray]) -> None:
    """Histograms of one or more sets of values (A) over the voxels of the mask, with their medians, as a PNG."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    every = np.concatenate(list(curves.values()))
    low, high = np.percentile(every, (0.2, 99.8))
    bins = np.arange(np.floor(low * 10) / 10 - 0.05, high + 0.2, 0.1 if high - low < 8 else 0.2)
    for (name, values), colour in zip(
        curves.items(), ("tab:blue", "tab:orange", "tab:green"), strict=False
    ):
        axis.hist(
            np.clip(values, bins[0], bins[-1]),
            bins,
            weights=np.full(values.size, 100 / values.size),
            alpha=0.6,
            color=colour,
            label=f"{name}: median {np.median(values):.2f} Å",
        )
        axis.axvline(float(np.median(values)), color=colour, linewidth=1.5, linestyle="--")
    axis.set(xlabel="local resolution (Å)", ylabel="voxels of the mask (%)")
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def slices(
    path: Path, volume: np.ndarray, resolution: np.ndarray, rate: float, title: str = ""
) -> None:
    """Three slices along each axis of the map (grey) with the resolution of the voxels in the mask over it (colours), as a PNG."""
    plt = _pyplot()
    inside = resolution > 0
    low, high = colour_range(resolution[inside])
    figure, axes = plt.subplots(3, 3, figsize=(10, 10), layout="constrained")
    grey = np.percentile(volume, 1), np.percentile(volume[inside], 99.5)
    image = None
    for row, (axis, name) in enumerate(zip((0, 1, 2), "zyx", strict=True)):
        found = np.flatnonzero(inside.any(tuple(a for a in (0, 1, 2) if a != axis)))
        for column, share in enumerate((0.25, 0.5, 0.75)):
            number = int(found[0] + share * (found[-1] - found[0]))
            plot = axes[row, column]
            edges = [n * rate for n in np.take(volume, number, axis).shape]
            extent = (0, edges[1], 0, edges[0])
            plot.imshow(
                np.take(volume, number, axis),
                cmap="gray",
                vmin=grey[0],
                vmax=grey[1],
                origin="lower",
                extent=extent,
            )
            section = np.take(resolution, number, axis)
            image = plot.imshow(
                np.ma.masked_equal(section, 0),
                cmap="turbo",
                vmin=low,
                vmax=high,
                origin="lower",
                extent=extent,
                alpha=0.75,
                interpolation="nearest",
            )
            across = [n for n in "zyx" if n != name]
            plot.set_title(f"{name} = {number * rate:.0f} Å", fontsize=9)
            plot.set(xlabel=f"{across[1]} (Å)", ylabel=f"{across[0]} (Å)")
    figure.colorbar(image, ax=axes, shrink=0.6, label="local resolution (Å)")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=90)
    plt.close(figure)
