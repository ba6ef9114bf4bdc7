"""The ChimeraX script: input maps and enhanced map in the same place, with comparable level sets."""
import os

import numpy as np

COLOURS = {"enhanced": "#5b9bd5", "input": "#b8b8b8"}


def level(volume):
    """A contour level that shows the particle: a fifth of the 99.9th percentile."""
    return float(np.percentile(volume, 99.9)) / 5


def levelOfSameVolume(volume, voxels):
    """The contour level of `volume` that encloses the given number of voxels, so that two maps can be compared."""
    return float(np.partition(volume, -voxels, axis=None)[-voxels]) if 0 < voxels < volume.size else level(volume)


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
        lines += [f"open {quoted(name)}",
                  f"volume #{number} voxelSize {rate:g}",
                  f"volume #{number} origin {','.join(f'{value:g}' for value in origin)}",
                  f"volume #{number} style surface step 1 level {threshold:g} color {COLOURS[kind]}"]
        if kind == "input":
            lines += [f"volume #{number} transparency 0.5", f"hide #{number} models"]
    lines += ["set bgColor white", "lighting soft", "view"]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def quoted(name):
    return f'"{os.path.abspath(name)}"'
