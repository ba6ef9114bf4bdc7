"""Scripts for ChimeraX: maps with comparable contours, and a surface coloured by resolution."""

import os

import mrcfile
import numpy as np
from matplotlib import colormaps, colors
from scipy import ndimage

from deepemhancer_plugin.viewers.figures import RESOLUTION_COLOURS

COLOURS = {"enhanced": "#5b9bd5", "input": "#b8b8b8"}
# A surface also runs just outside the mask; there it gets the resolution of the nearest voxel.
COLOURED_BORDER_VOXELS = 3


def reads(index, name):
    """Tell whether ChimeraX can show a map: it takes few formats, and no volume of a stack."""
    return not index and name.lower().endswith((".mrc", ".map", ".ccp4"))


def find_level(volume):
    """Return a contour level that shows the particle: a fifth of the 99.9th percentile."""
    return float(np.percentile(volume, 99.9)) / 5


def match_level(volume, voxels):
    """Return the contour level that encloses a number of voxels, to compare two maps."""
    if not 0 < voxels < volume.size:
        return find_level(volume)
    return float(np.partition(volume, -voxels, axis=None)[-voxels])


def write_script(path, axes, maps, rate, origin):
    """Write the script that shows maps in the same place.

    Args:
        path: The .cxc file.
        axes: A .bild file with the axes of the coordinate system.
        maps: [(file name, "input" or "enhanced", level)]; the last one is shown.
        rate: A/voxel.
        origin: (x, y, z), position of the first voxel in A.
    """
    lines = [f"open {quote(axes)}"]
    for number, (name, kind, threshold) in enumerate(maps, start=2):
        lines += [
            *_open_map(number, name, rate, origin),
            f"volume #{number} style surface step 1 level {threshold:g} color {COLOURS[kind]}",
        ]
        if kind == "input":
            lines += [f"volume #{number} transparency 0.5", f"hide #{number} models"]
    _write_lines(path, lines)


def write_resolution_script(path, axes, surface, colours, limits, rate, origin):
    """Write the script that colours a surface by resolution.

    Args:
        path: The .cxc file.
        axes: A .bild file with the axes of the coordinate system.
        surface: (file name, level) of the map.
        colours: File of write_colours.
        limits: Resolutions (A) at the ends of the colour scale.
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
        *[f"{step:.3f},{shade}" for step, shade in zip(steps, shades)],
    ]
    key = " ".join(f"{shade}:{step:.1f}" for step, shade in zip(steps, shades))
    _write_lines(
        path,
        [
            f"open {quote(axes)}",
            *_open_map(2, name, rate, origin),
            *_open_map(3, colours, rate, origin),
            "hide #3 models",
            f"volume #2 style surface step 1 level {threshold:g}",
            f"color sample #2 map #3 palette {':'.join(palette)}",
            f"key {key}",
        ],
    )


def write_colours(path, resolution, rate):
    """Write the map that a surface is coloured by.

    Args:
        path: The .mrc file.
        resolution: Local resolution (z, y, x) in A, zero outside the mask.
        rate: A/voxel.
    """
    distance, nearest = ndimage.distance_transform_edt(resolution <= 0, return_indices=True)
    near = distance <= COLOURED_BORDER_VOXELS
    write_map(path, np.where(near, resolution[tuple(nearest)], 0), rate)


def write_map(path, data, rate):
    """Write an array (z, y, x) as a map."""
    with mrcfile.new(path, np.asarray(data, np.float32), overwrite=True) as mrc:
        mrc.voxel_size = rate
        mrc.set_volume()


def _open_map(number, name, rate, origin):
    return [
        f"open {quote(name)}",
        f"volume #{number} voxelSize {rate:g}",
        f"volume #{number} origin {','.join(f'{value:g}' for value in origin)}",
    ]


def _write_lines(path, lines):
    with open(path, "w") as file:
        file.write("\n".join([*lines, "set bgColor white", "lighting soft", "view"]) + "\n")


def quote(name):
    """Return the absolute path of a file as ChimeraX's commands take it."""
    return f'"{os.path.abspath(name)}"'
