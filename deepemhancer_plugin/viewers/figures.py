"""Figures of the viewers, drawn with matplotlib.

Maps are arrays (z, y, x), sampling rates are in A/voxel.
"""

import numpy as np

from deepemhancer_plugin.viewers import spectra

INPUT_COLOUR, ENHANCED_COLOUR = "#8a6d3b", "#1f6fb2"
NAMES = ("input", "enhanced")
# Curves of half maps: what each is called, and how it is drawn
FSC_CURVES = {
    "unmasked": ("without a mask", {"color": INPUT_COLOUR}),
    "masked": ("in a mask", {"color": "#5c9c4a", "linewidth": 1}),
    "randomised": (
        "in the mask, phases randomised",
        {"color": "#c44", "linewidth": 1, "linestyle": "--"},
    ),
    "corrected": ("corrected for the mask", {"color": ENHANCED_COLOUR, "linewidth": 2}),
}
LEAST_STRENGTH = 0.6  # of a colour, where there is no density
RESOLUTION_COLOURS = "turbo"  # blue: fine, red: coarse
VIEWS = (("z", "x", "y"), ("y", "x", "z"), ("x", "y", "z"))  # cut across, horizontal, vertical


def normalize(volume):
    """Divide a map by its 99.9th percentile: an enhanced map has other units than its input."""
    top = np.percentile(volume, 99.9)
    return volume / top if top > 0 else volume


def name_maps(before, after):
    """Return (name, map divided by its 99.9th percentile, colour) of the maps that there are.

    Args:
        before: The input map; None where it is gone.
        after: The enhanced map.
    """
    named = zip(NAMES, (before, after), (INPUT_COLOUR, ENHANCED_COLOUR))
    return [
        (name, normalize(volume), colour) for name, volume, colour in named if volume is not None
    ]


def draw_slices(figure, before, after, rate):
    """Draw the central slices of both maps on one scale; without the input, of one."""
    maps = name_maps(before, after)
    axes = figure.subplots(len(maps), 3, squeeze=False)
    for row, (name, volume, _) in enumerate(maps):
        for column, (cut, horizontal, vertical) in enumerate(VIEWS):
            axis = "zyx".index(cut)
            # Rows are the first of the two remaining axes of z, y, x.
            plane = np.take(volume, volume.shape[axis] // 2, axis)
            extent = [0, plane.shape[1] * rate, 0, plane.shape[0] * rate]
            image = axes[row, column].imshow(
                plane,
                cmap="gray",
                origin="lower",
                vmin=-0.2,
                vmax=1,
                extent=extent,
                interpolation="nearest",
            )
            axes[row, column].set_title(f"{name}, centre of {cut}", fontsize=10)
            axes[row, column].set_xlabel(f"{horizontal} (Å)", fontsize=9)
            axes[row, column].set_ylabel(f"{vertical} (Å)", fontsize=9)
            axes[row, column].tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label("density / 99.9th percentile of the map", fontsize=9)


def draw_fsc(figure, curves):
    """Draw the FSC of the half maps.

    An enhanced map has none: it is one map, and the zeros of its solvent would feign correlation.

    Args:
        figure: matplotlib Figure.
        curves: The "frequency" in 1/A, and by their names those curves of FSC_CURVES that there
            are.
    """
    axes = figure.subplots()
    frequencies = np.array(curves["frequency"])
    lowest = -0.1
    for name, (label, style) in FSC_CURVES.items():
        if name not in curves:
            continue
        correlation = np.array(curves[name])
        if name != "randomised":
            label += f": 0.143 at {spectra.resolution(frequencies, correlation):.2f} Å"
        axes.plot(frequencies, correlation, label=label, **style)
        lowest = min(lowest, correlation.min())
    axes.axhline(0.143, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_ylim(max(lowest, -0.5), 1.05)
    axes.set_ylabel("Fourier shell correlation")
    axes.set_title("FSC between the half maps")
    _label_frequencies(axes, frequencies)
    axes.legend(frameon=False)


def draw_amplitude_profile(figure, before, after, rate):
    """Draw the Guinier plot: ln F against 1/d^2; a steeper fall is a greater B factor."""
    axes = figure.subplots()
    for name, volume, colour in name_maps(before, after):
        frequencies, amplitude = spectra.amplitudes(volume, rate)
        seen = (frequencies > 0) & (amplitude > 0)
        axes.plot(frequencies[seen] ** 2, np.log(amplitude[seen]), color=colour, label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("1/d² (1/Å²)")
    axes.set_ylabel("ln F")
    axes.set_title("Amplitude profile")
    top = axes.secondary_xaxis("top")
    marks = [d for d in (20, 10, 7, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1) if 1 / d <= frequencies[-1]][-6:]
    top.set_xticks([1 / d**2 for d in marks], [f"{d:g}" for d in marks])
    top.set_xlabel("d (Å)")
    axes.legend(frameon=False)


def draw_histogram(figure, before, after):
    """Draw how often each density occurs.

    Nearly all voxels of an enhanced map have the solvent's value.
    """
    axes = figure.subplots()
    bins = np.linspace(-1, 2, 121)
    for name, volume, colour in name_maps(before, after):
        # What lies beyond is left out: in the last bin it would look like a peak.
        values, shared = volume.ravel(), {"bins": bins, "color": colour}
        axes.hist(values, histtype="stepfilled", alpha=0.35, label=name, **shared)
        axes.hist(values, histtype="step", **shared)
    axes.set_yscale("log")
    axes.set_xlim(-1, 2)
    axes.set_xlabel("density / 99.9th percentile of the map")
    axes.set_ylabel("voxels")
    axes.set_title("Histogram")
    axes.legend(frameon=False)


def _label_frequencies(axes, frequencies):
    marks = np.linspace(0, frequencies[-1], 7)[1:]
    axes.set_xticks(marks, [f"1/{1 / mark:.2g}" for mark in marks])
    axes.set_xlim(0, frequencies[-1])
    axes.set_xlabel("spatial frequency (1/Å)")


def find_colour_limits(resolution):
    """Return the resolutions (A) at the ends of the colour scale, at least 0.5 A apart.

    Args:
        resolution: Local resolution in A, zero outside the mask.
    """
    low, high = np.percentile(resolution[resolution > 0], (2, 98))
    return low, max(high, low + 0.5)


def draw_resolution_slices(figure, volume, resolution, rate):
    """Draw slices of a map through the middle of the mask, coloured by resolution.

    The colours are as strong as the density, so that they show the map's features; a thin line
    marks the border of the mask.

    Args:
        figure: matplotlib Figure.
        volume: Map, drawn in grey outside of the mask; None where it is gone.
        resolution: Local resolution in A, zero outside the mask.
        rate: A/voxel.
    """
    inside = resolution > 0
    low, high = find_colour_limits(resolution)
    density = None
    if volume is not None:
        bottom, top = np.percentile(volume, (1, 99.9))
        density = np.clip((volume - bottom) / max(top - bottom, 1e-12), 0, 1)
    axes = figure.subplots(1, 3)
    for ax, (cut, horizontal, vertical) in zip(axes, VIEWS):
        axis = "zyx".index(cut)
        position = int(np.argwhere(inside)[:, axis].mean().round())
        plane = np.take(resolution, position, axis)
        extent = [0, plane.shape[1] * rate, 0, plane.shape[0] * rate]
        shared = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
        strength = np.ones_like(plane)
        if density is not None:
            grey = np.take(density, position, axis)
            ax.imshow(grey, cmap="gray_r", vmin=0, vmax=1.5, **shared)
            strength = LEAST_STRENGTH + (1 - LEAST_STRENGTH) * grey
        image = ax.imshow(
            np.ma.masked_equal(plane, 0),
            cmap=RESOLUTION_COLOURS,
            vmin=low,
            vmax=high,
            alpha=np.where(plane > 0, strength, 0),
            **shared,
        )
        if plane.any() and not plane.all():
            outline = {"origin": "lower", "extent": extent, "linewidths": 0.6, "colors": "0.4"}
            ax.contour(np.sign(plane), [0.5], **outline)
        ax.set_title(f"{cut} = {position * rate:.0f} Å", fontsize=10)
        ax.set_xlabel(f"{horizontal} (Å)", fontsize=9)
        ax.set_ylabel(f"{vertical} (Å)", fontsize=9)
        ax.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02, extend="both")
    bar.solids.set_alpha(1)
    bar.set_label("local resolution (Å)", fontsize=9)


def draw_resolution_histogram(figure, resolutions):
    """Draw how many voxels of the mask have each resolution.

    Args:
        figure: matplotlib Figure.
        resolutions: Maps of the local resolution in A, zero outside the mask, by their names.
    """
    axes = figure.subplots()
    values = {name: map_[map_ > 0] for name, map_ in resolutions.items()}
    low, high = np.percentile(np.concatenate(list(values.values())), (0.5, 99.5))
    bins = np.linspace(np.floor(2 * low) / 2, np.ceil(2 * high) / 2, 61)
    for (name, inside), colour in zip(values.items(), (ENHANCED_COLOUR, INPUT_COLOUR)):
        median = np.median(inside)
        percent = np.full(len(inside), 100 / len(inside))
        coarser = 100 * np.mean(inside > bins[-1])
        label = f"{name}: median {median:.2f} Å"
        # In the last bin, all that lies beyond would look like a peak.
        label += f", {coarser:.1f} % coarser than {bins[-1]:.1f} Å" if coarser else ""
        axes.hist(inside, bins=bins, weights=percent, alpha=0.5, color=colour, label=label)
        axes.axvline(median, color=colour, linewidth=1, linestyle="--")
    axes.set_xlabel("local resolution (Å)")
    axes.set_ylabel("voxels of the mask (%)")
    axes.margins(y=0.25)  # room for the legend
    axes.set_title("Histogram of the local resolution")
    axes.legend(frameon=False)


def draw_picture(figure, pixels):
    """Draw a picture of the program's."""
    axes = figure.add_axes([0, 0, 1, 1])
    axes.imshow(pixels)
    axes.set_axis_off()
