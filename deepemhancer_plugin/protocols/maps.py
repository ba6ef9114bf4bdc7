"""Maps of a Scipion project as files: what the protocols do with them before and after the program, and what they check."""

import os
from pathlib import Path

import pyworkflow.utils as pwutils
from pwem.convert.headers import Ccp4Header
from pwem.emlib.image import ImageHandler
from pwem.objects import Volume
from pyworkflow.exceptions import PyworkflowException

MRC_EXTENSIONS = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz", ".mrc.bz2", ".map.bz2")
SAMPLING_TOLERANCE = 1e-3  # A/voxel: headers are rounded
ORIGIN_TOLERANCE = 1e-2  # A


def clean(name):
    """A file name without Xmipp's format mark."""
    return name.replace(":mrcs", "").replace(":mrc", "")


def location(volume):
    index, name = volume.getLocation()
    return [index or 0, clean(name)]


def linkOrConvert(index, name, path):
    """Puts the map under `path` (.mrc): a link where the file is such a map already, else a copy in that format."""
    Path(path).unlink(
        missing_ok=True
    )  # a link from an earlier run: writing through it would change the user's file
    if not os.path.exists(name):
        raise PyworkflowException(f"{name} does not exist: was the input deleted or moved?")
    single = index == 0 or ImageHandler().getDimensions(name)[3] == 1
    if name.lower().endswith(MRC_EXTENSIONS) and single:
        pwutils.createAbsLink(os.path.abspath(name), path)
    else:
        ImageHandler().convert((index, name) if index else name, path)


def writeBinaryMask(source, path, threshold):
    """The voxels of the mask above the threshold as ones."""
    index, name = source
    handler = ImageHandler()
    image = handler.read((index, name) if index else name)
    data = (image.getData() > threshold).astype("float32")
    if not data.any() or data.all():
        raise PyworkflowException(
            f"{name}: {'no' if not data.any() else 'every'} voxel lies above the mask threshold "
            f"{threshold:g}; "
            f"the mask's values go from {image.getData().min():g} to {image.getData().max():g}."
        )
    image.setData(data)
    handler.write(image, path)


def boxOf(path):
    """Voxels in x, y, z; headers differ in whether they call a volume a stack of images."""
    x, y, z, n = ImageHandler().getDimensions(path)
    return x, y, z * n


def checkBox(output, source):
    if boxOf(output) != boxOf(source):
        raise PyworkflowException(
            f"{output} has a box of {boxOf(output)}, the input one of {boxOf(source)}."
        )


def close(one, two):
    return all(abs(a - b) < ORIGIN_TOLERANCE for a, b in zip(one, two, strict=True))


def setOriginInFile(path, volume):
    """Writes the origin that the user gave the map in Scipion into the file, where the input file does not have it.

    The program keeps the header of the input file. Scipion's default, the centre of the box, is not the user's: Scipion does not
    write it into files either, and with it the new file would no longer lie on its input in other programs.
    """
    wanted = volume.getOrigin(force=True).getShifts()
    centre = [-n * volume.getSamplingRate() / 2 for n in volume.getDim()]
    header = Ccp4Header(path, readHeader=True)
    if not (close(wanted, header.getOrigin()) or close(wanted, centre)):
        header.setOrigin(wanted)
        header.writeHeader()


def volumeLike(path, source, comment):
    """The Volume of a file that has the sampling rate and the origin of another Volume."""
    volume = Volume(path)
    volume.setSamplingRate(source.getSamplingRate())
    volume.setOrigin(source.getOrigin(force=True))
    volume.setObjComment(comment)
    return volume


# --------------------------- checks; each returns a list of messages
def validateVolume(volume):
    name = clean(volume.getFileName() or "")
    if not os.path.exists(name):
        return [f"{name} does not exist: was the input deleted or moved?"]
    errors = []
    if not (volume.getSamplingRate() or 0) > 0:
        errors.append(f"{name} has no sampling rate: import it with one.")
    dim = volume.getDim()
    if dim is None or min(dim) < 2:
        errors.append(f"{name} is not a volume: its box is {dim}.")
    return errors


def validateAttachedHalves(volume):
    name = clean(volume.getFileName() or "")
    halves = (
        [clean(half) for half in volume.getHalfMaps(asList=True)] if volume.hasHalfMaps() else []
    )
    if len(halves) != 2:
        return [
            f"{name} has {len(halves) or 'no'} half maps attached: import it with both, or choose them one by one."
        ]
    missing = [half for half in halves if not os.path.exists(half)]
    if missing:
        return [f"{missing[0]} does not exist: was the half map deleted or moved?"]
    boxes = [tuple(ImageHandler().getDimensions(half)[:3]) for half in halves]
    if len({*boxes, tuple(volume.getDim())}) > 1:
        return [
            f"{name}: boxes of the map {tuple(volume.getDim())} and of its half maps {boxes[0]}, {boxes[1]} differ."
        ]
    return []


def sameGeometry(one, two, nameOne, nameTwo):
    errors = []
    if one.getDim() != two.getDim():
        errors.append(
            f"*{nameOne}* has a box of {one.getDim()}, *{nameTwo}* of {two.getDim()}: they must be the same."
        )
    rates = one.getSamplingRate() or 0, two.getSamplingRate() or 0
    if abs(rates[0] - rates[1]) > SAMPLING_TOLERANCE:
        errors.append(
            f"*{nameOne}* has a sampling rate of {rates[0]:g} A/voxel, *{nameTwo}* of {rates[1]:g}: "
            f"they must be the same."
        )
    return errors
