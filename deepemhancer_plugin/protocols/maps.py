"""Files of maps before and after the program runs, and checks of the maps that a user chose."""

import os
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pyworkflow.utils as pwutils
from pwem.convert.headers import Ccp4Header
from pwem.emlib.image import ImageHandler
from pwem.objects import Volume
from pyworkflow.exceptions import PyworkflowException

MRC_EXTENSIONS = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz", ".mrc.bz2", ".map.bz2")
SAMPLING_TOLERANCE = 1e-3  # A/voxel: headers are rounded
ORIGIN_TOLERANCE = 1e-2  # A


def strip_format(name):
    """Remove Xmipp's format mark from a file name."""
    for mark in (":mrcs", ":mrc"):
        if name.endswith(mark):
            return name[: -len(mark)]
    return name


def get_location(volume):
    """Return the place of a Volume as [index, file name]; index 0 is a file of its own."""
    index, name = volume.getLocation()
    return [index or 0, strip_format(name)]


def make_locator(index, name):
    """Return what pwem's ImageHandler calls a location."""
    return (index, name) if index else name


def link_or_convert(index, name, path):
    """Make a map available under a path that ends in .mrc.

    Args:
        index: Number of the volume in a stack, or 0.
        name: File of the map.
        path: Becomes a link to an MRC file, or a copy of another one in that format.

    Raises:
        PyworkflowException: The map does not exist.
    """
    # Writing through a link of an earlier run would change the user's file.
    Path(path).unlink(missing_ok=True)
    if not os.path.exists(name):
        raise PyworkflowException(f"{name} does not exist: was the input deleted or moved?")
    single = index == 0 or ImageHandler().getDimensions(name)[3] == 1
    if name.lower().endswith(MRC_EXTENSIONS) and single:
        pwutils.createAbsLink(os.path.abspath(name), path)
    else:
        ImageHandler().convert(make_locator(index, name), path)


def read_map(index, name):
    """Read a map, in whatever order its axes are in the file.

    Args:
        index: Number of the volume in a stack, or 0.
        name: File of the map.

    Returns:
        A float32 array (z, y, x).
    """
    if index or not name.lower().endswith(MRC_EXTENSIONS):
        return ImageHandler().read(make_locator(index, name)).getData().astype(np.float32)
    with warnings.catch_warnings():
        # As the program does: a wrong machine stamp or map type does not make a map unreadable.
        warnings.simplefilter("ignore")
        with mrcfile.open(name, permissive=True) as file:
            if file.data is None:
                raise ValueError(f"{name} cannot be read: is it a map?")
            data = np.array(file.data, np.float32)
            # Axes x, y, z are 1, 2, 3, and the file's columns come first.
            order = [int(file.header[axis]) for axis in ("maps", "mapr", "mapc")]
    if sorted(order) == [1, 2, 3]:
        data = data.transpose([order.index(axis) for axis in (3, 2, 1)])
    return np.ascontiguousarray(data)


def write_binary_mask(index, name, path, threshold):
    """Write a mask of ones and zeros.

    Args:
        index: Number of the volume in a stack, or 0.
        name: File of the mask.
        path: File to write.
        threshold: Voxels above it become one.

    Raises:
        PyworkflowException: No voxel, or every voxel, lies above the threshold.
    """
    handler = ImageHandler()
    image = handler.read(make_locator(index, name))
    values = image.getData()
    inside = values > threshold
    if not inside.any() or inside.all():
        raise PyworkflowException(
            f"{name}: {'every' if inside.any() else 'no'} voxel lies above the mask threshold "
            f"{threshold:g}; the mask's values go from {values.min():g} to {values.max():g}."
        )
    image.setData(inside.astype("float32"))
    handler.write(image, path)


def get_box(path):
    """Return the number of voxels of a map's file in x, y, z."""
    # Headers differ in whether they call a volume a stack of images.
    x, y, z, n = ImageHandler().getDimensions(path)
    return x, y, z * n


def check_box(output, source):
    """Raise PyworkflowException unless two files have the same box."""
    if get_box(output) != get_box(source):
        raise PyworkflowException(
            f"{output} has a box of {get_box(output)}, the input one of {get_box(source)}."
        )


def compare_origins(one, two):
    """Tell whether two origins (x, y, z) in A are the same."""
    return all(abs(a - b) < ORIGIN_TOLERANCE for a, b in zip(one, two))


def write_origin(path, volume):
    """Write the origin that the user gave a Volume in Scipion into a file made from it.

    The program keeps the header of the input file. Scipion's default origin, the centre of the
    box, is left out: it is not the user's, Scipion does not write it into files either, and with
    it the new file would not lie on its input in other programs.
    """
    wanted = volume.getOrigin(force=True).getShifts()
    centre = [-n * volume.getSamplingRate() / 2 for n in volume.getDim()]
    header = Ccp4Header(path, readHeader=True)
    if compare_origins(wanted, header.getOrigin()) or compare_origins(wanted, centre):
        return
    header.setOrigin(wanted)
    header.writeHeader()


def make_volume(path, source, comment):
    """Make the Volume of a file, with the sampling rate and the origin of another Volume."""
    volume = Volume(path)
    volume.setSamplingRate(source.getSamplingRate())
    volume.setOrigin(source.getOrigin(force=True))
    volume.setObjComment(comment)
    return volume


def validate_volume(volume):
    """List what is wrong with a Volume."""
    name = strip_format(volume.getFileName() or "")
    if not os.path.exists(name):
        return [f"{name} does not exist: was the input deleted or moved?"]
    errors = []
    if not (volume.getSamplingRate() or 0) > 0:
        errors.append(f"{name} has no sampling rate: import it with one.")
    dim = volume.getDim()
    if dim is None or min(dim) < 2:
        errors.append(f"{name} is not a volume: its box is {dim}.")
    return errors


def get_half_maps(volume):
    """Return the file names of the half maps that are attached to a Volume."""
    if not volume.hasHalfMaps():
        return []
    return [strip_format(half) for half in volume.getHalfMaps(asList=True)]


def validate_half_maps(volume):
    """List what is wrong with the half maps that are attached to a Volume."""
    name = strip_format(volume.getFileName() or "")
    halves = get_half_maps(volume)
    if len(halves) != 2:
        return [
            f"{name} has {len(halves) or 'no'} half maps attached: import it with both, or choose "
            "them one by one."
        ]
    missing = [half for half in halves if not os.path.exists(half)]
    if missing:
        return [f"{missing[0]} does not exist: was the half map deleted or moved?"]
    box = tuple(volume.getDim())
    boxes = [tuple(ImageHandler().getDimensions(half)[:3]) for half in halves]
    if boxes != [box, box]:
        return [
            f"{name}: boxes of the map {box} and of its half maps {boxes[0]}, {boxes[1]} differ."
        ]
    return []


def validate_geometry(one, two, name_one, name_two):
    """List how the boxes and sampling rates of two Volumes differ.

    Args:
        one: Volume.
        two: Volume.
        name_one: Label of the first in the form.
        name_two: Label of the second in the form.
    """
    errors = []
    if one.getDim() != two.getDim():
        errors.append(
            f"*{name_one}* has a box of {one.getDim()}, *{name_two}* of {two.getDim()}: they must "
            "be the same."
        )
    rate_one = one.getSamplingRate() or 0
    rate_two = two.getSamplingRate() or 0
    if abs(rate_one - rate_two) > SAMPLING_TOLERANCE:
        errors.append(
            f"*{name_one}* has a sampling rate of {rate_one:g} A/voxel, *{name_two}* of "
            f"{rate_two:g}: they must be the same."
        )
    return errors
