"""Scripts for ChimeraX: maps in the same place with comparable level sets, and a surface coloured by resolution."""

import os

import mrcfile
import numpy as np
from matplotlib import colormaps, colors
from scipy import ndimage

from deepemhancer_plugin.viewers.figures import RESOLUTION_COLOURS

COLOURS = {"enhanced": "#5b9bd5", "input": "#b8b8b8"}
REACH = 3  # voxels outside of the mask that still get the resolution of the nearest voxel inside


def level(volume):
    """A contour level that shows the particle: a fifth of the 99.9th percentile."""
    return float(np.percentile(volume, 99.9)) / 5


def levelOfSameVolume(volume, voxels):
    """The contour level of `volume` that encloses the given number of voxels, so that two maps can be compared."""
    return (
        float(np.partition(volume, -voxels, axis=None)[-voxels])
        if 0 < voxels < volume.size
        else level(volume)
    )


def writeScript(path, axes, maps, rate, origin):
    """Writes the script.

    Args:
        path: the .cxc file.
        axes: a .bild file with the axes of the coordinate system, or None.
        maps: [(file name, "input" or "enhanced", level)], the one to look at last.
        rate: A/voxel.
        origin: (x, y, z), position of the first voxel in A.
    """
    lines = [f"open {quoted(axes)}"] if axes else []
    for number, (name, kind, threshold) in enumerate(maps, start=len(lines) + 1):
        lines += [
            *_placed(number, name, rate, origin),
            f"volume #{number} style surface step 1 level {threshold:g} color {COLOURS[kind]}",
        ]
        if kind == "input":
            lines += [f"volume #{number} transparency 0.5", f"hide #{number} models"]
    _write(path, lines)


def writeResolutionScript(path, axes, surface, colours, limits, rate, origin):
    """Writes the script that colours a surface.

    Args:
        path: the .cxc file.
        axes: a .bild file with the axes of the coordinate system.
        surface: (file name, level) of the map.
        colours: file with the resolution in A of each place, see writeColours.
        limits: the resolutions (A) at the ends of the colour scale.
        rate: A/voxel.
        origin: (x, y, z), position of the first voxel in A.
    """
    name, threshold = surface
    steps = np.linspace(*limits, 5)
    shades = [
        colors.to_hex(colour) for colour in colormaps[RESOLUTION_COLOURS](np.linspace(0, 1, 5))
    ]
    grey = COLOURS["input"]
    palette = [
        f"0,{grey}",
        f"{0.5 * limits[0]:.3f},{grey}",
        *[f"{step:.3f},{shade}" for step, shade in zip(steps, shades, strict=True)],
    ]
    _write(
        path,
        [
            f"open {quoted(axes)}",
            *_placed(2, name, rate, origin),
            *_placed(3, colours, rate, origin),
            "hide #3 models",
            f"volume #2 style surface step 1 level {threshold:g}",
            f"color sample #2 map #3 palette {':'.join(palette)}",
            f"key {' '.join(f'{shade}:{step:.1f}' for step, shade in zip(steps, shades, strict=True))}",
        ],
    )


def writeColours(path, resolution, rate):
    """Writes the map that a surface is coloured by: a surface also runs just outside of the mask, where the resolution map is zero."""
    away, nearest = ndimage.distance_transform_edt(resolution <= 0, return_indices=True)
    writeMap(path, np.where(away <= REACH, resolution[tuple(nearest)], 0), rate)


def writeMap(path, data, rate):
    with mrcfile.new(path, np.asarray(data, np.float32), overwrite=True) as mrc:
        mrc.voxel_size = rate
        mrc.set_volume()


def _placed(number, name, rate, origin):
    return [
        f"open {quoted(name)}",
        f"volume #{number} voxelSize {rate:g}",
        f"volume #{number} origin {','.join(f'{value:g}' for value in origin)}",
    ]


def _write(path, lines):
    with open(path, "w") as file:
        file.write("\n".join([*lines, "set bgColor white", "lighting soft", "view"]) + "\n")


def quoted(name):
    return f'"{os.path.abspath(name)}"'
