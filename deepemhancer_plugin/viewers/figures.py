"""What the viewer shows, drawn on a matplotlib figure. Maps are arrays (z, y, x), sampling rates in A/voxel."""

import numpy as np

from deepemhancer_plugin.viewers import spectra

BEFORE, AFTER = "#8a6d3b", "#1f6fb2"
NAMES = ("input", "enhanced")
RESOLUTION_COLOURS = "turbo"  # blue: fine, red: coarse
VIEWS = (("z", "x", "y"), ("y", "x", "z"), ("x", "y", "z"))  # cut across, horizontal, vertical


def scaled(volume):
    """The map over its own 99.9th percentile: an enhanced map has other units than its input."""
    top = np.percentile(volume, 99.9)
    return volume / top if top > 0 else volume


def slices(figure, before, after, rate):
    """The central slices of both maps on one scale."""
    maps = scaled(before), scaled(after)
    axes = figure.subplots(2, 3, squeeze=False)
    for row, (name, volume) in enumerate(zip(NAMES, maps, strict=True)):
        for column, (cut, horizontal, vertical) in enumerate(VIEWS):
            axis = "zyx".index(cut)
            plane = np.take(
                volume, volume.shape[axis] // 2, axis
            )  # rows: the first of the two remaining axes of z, y, x
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


def fourier_shell_correlation(figure, half1, half2, rate):
    """The half maps' FSC. The enhanced map has none: it is one map, and the solvent's zeros would feign correlation."""
    frequencies, correlation = spectra.fsc(half1, half2, rate)
    axes = figure.subplots()
    axes.plot(frequencies, correlation, color=BEFORE, label="half map 1 against half map 2")
    limit = spectra.resolution(frequencies, correlation)
    axes.axhline(0.143, color="0.5", linewidth=0.8, linestyle="--", label=f"0.143 at {limit:.2f} Å")
    axes.set_ylim(min(-0.1, correlation.min()), 1.05)
    axes.set_ylabel("Fourier shell correlation")
    axes.set_title("FSC between the half maps, without a mask")
    _resolution_axis(axes, frequencies)
    axes.legend(frameon=False)


def amplitude_profile(figure, before, after, rate):
    """Guinier's plot: the logarithm of the amplitudes against 1/d^2; a steeper fall is a greater B-factor."""
    axes = figure.subplots()
    for name, volume, colour in zip(NAMES, (before, after), (BEFORE, AFTER), strict=True):
        frequencies, amplitude = spectra.amplitudes(scaled(volume), rate)
        seen = (frequencies > 0) & (amplitude > 0)
        axes.plot(frequencies[seen] ** 2, np.log(amplitude[seen]), color=colour, label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("1/d² (1/Å²)")
    axes.set_ylabel("ln F")
    axes.set_title("Amplitude profile")
    top = axes.secondary_xaxis("top")
    marks = [d for d in (20, 10, 7, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1) if 1 / d <= frequencies[-1]]
    top.set_xticks([1 / d**2 for d in marks][-6:], [f"{d:g}" for d in marks][-6:])
    top.set_xlabel("d (Å)")
    axes.legend(frameon=False)


def histogram(figure, before, after):
    """How often each density occurs; an enhanced map has nearly all its voxels at the solvent's value."""
    axes = figure.subplots()
    bins = np.linspace(-1, 2, 121)
    for name, volume, colour in zip(NAMES, (before, after), (BEFORE, AFTER), strict=True):
        axes.hist(
            np.clip(scaled(volume).ravel(), -1, 2),
            bins=bins,
            histtype="stepfilled",
            alpha=0.35,
            color=colour,
            label=name,
        )
        axes.hist(np.clip(scaled(volume).ravel(), -1, 2), bins=bins, histtype="step", color=colour)
    axes.set_yscale("log")
    axes.set_xlim(-1, 2)
    axes.set_xlabel("density / 99.9th percentile of the map")
    axes.set_ylabel("voxels")
    axes.set_title("Histogram")
    axes.legend(frameon=False)


def _resolution_axis(axes, frequencies):
    marks = np.linspace(0, frequencies[-1], 7)[1:]
    axes.set_xticks(marks, [f"1/{1 / mark:.2g}" for mark in marks])
    axes.set_xlim(0, frequencies[-1])
    axes.set_xlabel("spatial frequency (1/Å)")


def colour_limits(resolution):
    """The resolutions (A) at the ends of the colour scale: nearly all of those in the mask, half an A apart at least."""
    low, high = np.percentile(resolution[resolution > 0], (2, 98))
    return low, max(high, low + 0.5)


def resolution_slices(figure, volume, resolution, rate):
    """Slices of a map in grey through the middle of the mask, and over it the resolution (A; zero outside of the mask) in colours."""
    inside = resolution > 0
    low, high = colour_limits(resolution)
    axes = figure.subplots(1, 3)
    for axes_, (cut, horizontal, vertical) in zip(axes, VIEWS, strict=True):
        axis = "zyx".index(cut)
        position = int(np.argwhere(inside)[:, axis].mean().round())
        grey, plane = (np.take(map_, position, axis) for map_ in (volume, resolution))
        extent = [0, plane.shape[1] * rate, 0, plane.shape[0] * rate]
        shared = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
        axes_.imshow(
            grey,
            cmap="gray_r",
            vmin=np.percentile(volume, 1),
            vmax=np.percentile(volume, 99.9),
            **shared,
        )
        image = axes_.imshow(
            np.ma.masked_equal(plane, 0),
            cmap=RESOLUTION_COLOURS,
            vmin=low,
            vmax=high,
            alpha=0.85,
            **shared,
        )
        axes_.set_title(f"{cut} = {position * rate:.0f} Å", fontsize=10)
        axes_.set_xlabel(f"{horizontal} (Å)", fontsize=9)
        axes_.set_ylabel(f"{vertical} (Å)", fontsize=9)
        axes_.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02, extend="both")
    bar.solids.set_alpha(1)
    bar.set_label("local resolution (Å)", fontsize=9)


def resolution_histogram(figure, resolutions):
    """How many voxels of the mask have each resolution; `resolutions`: maps in A, zero outside of the mask, by their names."""
    axes = figure.subplots()
    values = {name: map_[map_ > 0] for name, map_ in resolutions.items()}
    low, high = np.percentile(np.concatenate(list(values.values())), (0.5, 99.5))
    bins = np.linspace(np.floor(2 * low) / 2, np.ceil(2 * high) / 2, 61)
    for (name, inside), colour in zip(values.items(), (AFTER, BEFORE), strict=False):
        median = np.median(inside)
        share = np.full(len(inside), 100 / len(inside))
        axes.hist(
            np.clip(inside, bins[0], bins[-1]),
            bins=bins,
            weights=share,
            alpha=0.5,
            color=colour,
            label=f"{name}: median {median:.2f} Å",
        )
        axes.axvline(median, color=colour, linewidth=1, linestyle="--")
    axes.set_xlabel("local resolution (Å)")
    axes.set_ylabel("voxels of the mask (%)")
    axes.margins(y=0.25)  # room for the legend
    axes.set_title("Histogram of the local resolution")
    axes.legend(frameon=False)


def picture(figure, pixels):
    """A picture that the program drew."""
    axes = figure.add_axes([0, 0, 1, 1])
    axes.imshow(pixels)
    axes.set_axis_off()
