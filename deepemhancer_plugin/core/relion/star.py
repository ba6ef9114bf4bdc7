"""What RELION says about one external reconstruction.

That is the name of its star file, what stands in it, and files of the iteration before. Read in
RELION 3.1, 4.0 and 5.0, whose star files differ here only in rlnPixelSize (from 4.0 on).
"""

import linecache
import os
import re
from dataclasses import dataclass, replace
from typing import Any

import starfile

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps.header import SAMPLING_LIMITS

EXAMPLE = "PREFIX_it012_half1_class001_external_reconstruct.star"
NAME = re.compile(
    r"(?P<root>.+)_it(?P<iteration>\d{3,})(?:_half(?P<half>[12]))?"
    r"_(?P<kind>class|body)(?P<number>\d{3,})_external_reconstruct\.star",
    re.DOTALL,
)


@dataclass(frozen=True)
class Name:
    """The parts of PREFIX_it012_half1_class001_external_reconstruct.star.

    Attributes:
        root: PREFIX, RELION's output root.
        iteration: from 1 on.
        half: 1 or 2; None in a joined iteration and in a classification.
        kind: "class", or "body" of a multi-body refinement.
        number: of the class or body.
    """

    root: str
    iteration: int
    half: int | None
    kind: str
    number: int

    def find_before(self, ending: str) -> str:
        """Return the file of the iteration before with this ending, such as "sampling.star"."""
        return f"{self.root}_it{self.iteration - 1:03d}_{ending}"


@dataclass(frozen=True)
class Job:
    """One external reconstruction; files as RELION names them, from its working directory.

    Attributes:
        name: the parts of the star file's name.
        star: the star file.
        result: the map to make.
        result_star: the star file to make beside it, if any.
        box: edge of the map in voxels.
        order: healpix order of the iteration before; None where this is no 3D half map of a split
            refinement.
        rate: A/voxel, or None likewise.
    """

    name: Name
    star: str
    result: str
    result_star: str | None
    box: int
    order: int | None = None
    rate: float | None = None


def parse_name(path: str) -> Name:
    """Take the star file's name apart.

    Raises:
        InputError: RELION would not give it such a name.
    """
    match = NAME.fullmatch(path)
    if match is None or int(match["iteration"]) < 1:
        raise InputError(f"{path}: not the name of an external reconstruction, {EXAMPLE}")
    half = int(match["half"]) if match["half"] else None
    number = int(match["number"])
    return Name(match["root"], int(match["iteration"]), half, match["kind"], number)


def read_job(path: str) -> Job:
    """Read what there is to do for one star file of RELION's external reconstruction.

    Raises:
        InputError: a name that is not RELION's; a file of this or the iteration before that is
            missing, or lacks what is needed.
    """
    name = parse_name(path)
    general = _read_block(path, "external_reconstruct_general")
    box = _read_value(path, general, "rlnOriginalImageSize", int)
    result = _read_value(path, general, "rlnExtReconsResult", str)
    job = Job(name, path, result, general.get("rlnExtReconsResultStarfile"), box)
    if name.half is None or _read_value(path, general, "rlnReferenceDimensionality", int) != 3:
        return job
    file = name.find_before("optimiser.star")
    block = _read_block(file, "optimiser_general")
    if not _read_value(file, block, "rlnDoSplitRandomHalves", int):
        return job
    file = name.find_before("sampling.star")
    block = _read_block(file, "sampling_general")
    order = _read_value(file, block, "rlnHealpixOrder", int)
    return replace(job, order=order, rate=_read_rate(path, general, name))


def _read_rate(path: str, general: dict[str, Any], name: Name) -> float:
    """The sampling rate: of the star file, or of this half's model in RELION 3.1."""
    file, block = path, general
    if "rlnPixelSize" not in general:
        file = name.find_before(f"half{name.half}_model.star")
        block = _read_block(file, "model_general")
    rate = float(_read_value(file, block, "rlnPixelSize", float))
    low, high = SAMPLING_LIMITS
    if not low <= rate <= high:
        raise InputError(
            f"{file}: rlnPixelSize {rate:g}: A/voxel between {low:g} and {high:g} is right"
        )
    return rate


def _read_block(path: str, name: str) -> dict[str, Any]:
    """The first block of a star file, which is a list of names and values called data_`name`."""
    if not os.path.isfile(path):
        raise InputError(
            f"{path}: no such file; RELION writes it before it asks for a reconstruction"
        )
    linecache.clearcache()  # starfile reads through it, and it remembers an unreadable file
    try:
        blocks = starfile.read(path, read_n_blocks=1, always_dict=True)
    except Exception as error:  # whatever a damaged file leads to in the parser
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a star file ({reason})") from error
    if not isinstance(blocks.get(name), dict):
        raise InputError(f"{path}: does not begin with the list data_{name}, as RELION's file does")
    return dict(blocks[name])


def _read_value(path: str, block: dict[str, Any], key: str, kind: type) -> Any:
    try:
        return kind(block[key])
    except KeyError:
        raise InputError(f"{path}: has no {key}, which RELION writes") from None
    except (TypeError, ValueError, OverflowError):
        needed = "a text" if kind is str else "a number"
        raise InputError(f"{path}: {key} is {block[key]!r}: {needed} is needed") from None
