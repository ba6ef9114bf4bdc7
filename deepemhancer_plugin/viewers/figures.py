"""What the viewer shows, drawn on a matplotlib figure. Maps are arrays (z, y, x), sampling rates in A/voxel."""
import numpy as np

from deepemhancer_plugin.viewers import spectra

BEFORE, AFTER = "#8a6d3b", "#1f6fb2"
NAMES = ("input", "enhanced")


def scaled(volume):
    """The map over its own 99.9th percentile: an enhanced map has other units than its input."""
    top = np.percentile(volume, 99.9)
    return volume / top if top > 0 else volume


def slices(figure, before, after, rate):
    """The central slices of both maps on one scale."""
    maps = scaled(before), scaled(after)
    axes = figure.subplots(2, 3, squeeze=False)
    views = (("z", "x", "y"), ("y", "x", "z"), ("x", "y", "z"))  # cut across, horizontal, vertical
    for row, (name, volume) in enumerate(zip(NAMES, maps, strict=True)):
        for column, (cut, horizontal, vertical) in enumerate(views):
            axis = "zyx".index(cut)
            plane = np.take(volume, volume.shape[axis] // 2, axis)  # rows: the first of the two remaining axes of z, y, x
            extent = [0, plane.shape[1] * rate, 0, plane.shape[0] * rate]
            image = axes[row, column].imshow(plane, cmap="gray", origin="lower", vmin=-0.2, vmax=1, extent=extent,
                                             interpolation="nearest")
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
    top.set_xticks([1 / d ** 2 for d in marks][-6:], [f"{d:g}" for d in marks][-6:])
    top.set_xlabel("d (Å)")
    axes.legend(frameon=False)


def histogram(figure, before, after):
    """How often each density occurs; an enhanced map has nearly all its voxels at the solvent's value."""
    axes = figure.subplots()
    bins = np.linspace(-1, 2, 121)
    for name, volume, colour in zip(NAMES, (before, after), (BEFORE, AFTER), strict=True):
        axes.hist(np.clip(scaled(volume).ravel(), -1, 2), bins=bins, histtype="stepfilled", alpha=0.35, color=colour, label=name)
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
