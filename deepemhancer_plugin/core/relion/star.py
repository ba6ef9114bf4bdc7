"""What RELION says about one external reconstruction: by the name of its star file, in that file, and in the files of the iteration before.

Read in RELION 3.1, 4.0 and 5.0, whose star files differ here only in rlnPixelSize (from 4.0 on).
"""

import linecache
import os
import re
from dataclasses import dataclass
from typing import Any

import starfile

from deepemhancer_plugin.core.errors import InputError

NAME = re.compile(
    r"(?P<root>.+)_it(?P<iteration>\d{3,})(?:_half(?P<half>[12]))?_(?P<kind>class|body)(?P<number>\d{3,})_external_reconstruct\.star",
    re.DOTALL,
)


@dataclass(frozen=True)
class Name:
    """The parts of PREFIX_it012_half1_class001_external_reconstruct.star; `half` is None in a joined iteration and in a classification."""

    root: str
    iteration: int
    half: int | None
    kind: str  # "class", or "body" of a multi-body refinement
    number: int

    def before(self, what: str) -> str:
        """The file of the iteration before that ends with `what`, such as "sampling.star"."""
        return f"{self.root}_it{self.iteration - 1:03d}_{what}"


@dataclass(frozen=True)
class Job:
    """One external reconstruction: files as RELION names them, relative to its working directory; the box of the map in voxels.

    order, rate     healpix order of the iteration before and A/voxel; None where this is no 3D half map of a split refinement
    """

    name: Name
    star: str
    result: str
    result_star: str | None
    box: int
    order: int | None = None
    rate: float | None = None


def parse_name(path: str) -> Name:
    """The parts of the star file's name. InputError where RELION would not give it such a name."""
    match = NAME.fullmatch(path)
    if match is None or int(match["iteration"]) < 1:
        raise InputError(
            f"{path}: not the name of an external reconstruction, PREFIX_it012_half1_class001_external_reconstruct.star"
        )
    return Name(
        match["root"],
        int(match["iteration"]),
        int(match["half"]) if match["half"] else None,
        match["kind"],
        int(match["number"]),
    )


def read_job(path: str) -> Job:
    """What there is to do for one star file of RELION's external reconstruction.

    Raises:
        InputError: a name that is not RELION's; a file of this or the iteration before that is missing, or lacks what is needed.
    """
    name = parse_name(path)
    general = _block(path, "external_reconstruct_general")
    box, result = (
        _value(path, general, "rlnOriginalImageSize", int),
        _value(path, general, "rlnExtReconsResult", str),
    )
    job = Job(name, path, result, general.get("rlnExtReconsResultStarfile"), box)
    if name.half is None or _value(path, general, "rlnReferenceDimensionality", int) != 3:
        return job
    optimiser = name.before("optimiser.star")
    if not _value(optimiser, _block(optimiser, "optimiser_general"), "rlnDoSplitRandomHalves", int):
        return job
    sampling = name.before("sampling.star")
    order = _value(sampling, _block(sampling, "sampling_general"), "rlnHealpixOrder", int)
    source, block = path, general
    if "rlnPixelSize" not in general:  # 3.1
        source = name.before(f"half{name.half}_model.star")
        block = _block(source, "model_general")
    rate = _value(source, block, "rlnPixelSize", float)
    if not 0.1 <= rate <= 50:
        raise InputError(f"{source}: rlnPixelSize {rate:g}: A/voxel between 0.1 and 50 is right")
    return Job(name, path, result, job.result_star, box, order, rate)


def _block(path: str, name: str) -> dict[str, Any]:
    """The first block of a star file, which is a list of names and values called data_`name`."""
    if not os.path.isfile(path):
        raise InputError(
            f"{path}: no such file; RELION writes it before it asks for a reconstruction"
        )
    linecache.clearcache()  # starfile reads through it, and leaves a file there that it could not read
    try:
        blocks = starfile.read(path, read_n_blocks=1, always_dict=True)
    except Exception as error:  # whatever a damaged file leads to in the parser
        raise InputError(
            f"{path}: not a star file ({(str(error).splitlines() or [type(error).__name__])[0]})"
        ) from error
    if not isinstance(blocks.get(name), dict):
        raise InputError(f"{path}: does not begin with the list data_{name}, as RELION's file does")
    return blocks[name]


def _value(path: str, block: dict[str, Any], key: str, kind: type) -> Any:
    try:
        return kind(block[key])
    except KeyError:
        raise InputError(f"{path}: has no {key}, which RELION writes") from None
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{path}: {key} is {block[key]!r}: {'a text' if kind is str else 'a number'} is needed"
        ) from None
