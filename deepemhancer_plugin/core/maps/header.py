"""The header of an MRC file: read, checked against the file and itself, and made for the output.

A header that contradicts itself or its file is mended with a warning where only one reading is
possible, and refused with what to do about it where there are several.

Format: Cheng et al. 2015, J. Struct. Biol. 192, 146-150 (MRC2014), through the header layout of
`mrcfile`.
"""

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from io import BufferedIOBase
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import (
    byte_order_from_machine_stamp,
    data_dtype_from_header,
    machine_stamp_from_byte_order,
    spacegroup_is_volume_stack,
)

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps.formats import describe_remedy

SAMPLING_LIMITS = 0.2, 50.0  # A/voxel; no map is finer, and what is finer was told in nm
SUSPECT_SAMPLING = 0.3  # A/voxel; the finest maps have about so much
# A box of an ordinary number of voxels that is so small was told in nm, too.
SUSPECT_BOX, SUSPECT_BOX_SAMPLING = 25.0, 0.5  # A, A/voxel
USUAL_SAMPLING = 0.5, 5.0  # A/voxel
UNITS = {"nm": 10.0, "pm": 0.01, "m": 1e10}  # A in each
ANISOTROPY_LIMIT = 0.01  # largest over smallest voxel edge, minus one
SAMPLING_TOLERANCE = 1e-3  # two sampling rates closer than this are one that was rounded
LARGEST_ORIGIN = 1e6  # A; what lies further off was no origin

_READABLE = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_REFUSED = {3: "a complex int16 transform", 4: "a complex float32 transform", 101: "4-bit integers"}
_HEADER_BYTES = HEADER_DTYPE.itemsize
_LARGEST_EXTENDED_HEADER = 2**28  # bytes
_EXTENDED_HEADERS = b"CCP4", b"MRCO", b"SERI", b"AGAR", b"FEI1", b"FEI2", b"HDF5"
_LABELS, _LABEL_LENGTH = 10, 80
_VERSIONS = 20140, 20141  # of the MRC2014 format
_CRYSTALS = range(1, 231)  # space groups of single volumes
_IMOD_WORDS = slice(10, 12)  # of extra2, after its 40 first bytes: IMOD's stamp and flags
_IMOD_STAMP = 1146047817
_IMOD_SIGNED = 1  # flag of IMOD: bytes are signed


def read_header(path: str, stream: BufferedIOBase) -> np.recarray:
    """Read and check the header of a file, and leave the stream behind it.

    Args:
        path: Name for messages.
        stream: The file's content; seekable.

    Returns:
        The header in the byte order of the file, with a stamp that says so.

    Raises:
        InputError: Not an MRC file; not a single real map in an orthogonal cell.

    Warns:
        MapWarning: What was mended: no 'MAP' or a wrong machine stamp; a length of the extended
            header that the file does not have; an origin that is none.
    """
    raw = stream.read(_HEADER_BYTES)
    if not raw:
        raise InputError(f"{path}: empty file: an MRC map is needed")
    if len(raw) < _HEADER_BYTES:
        raise InputError(
            f"{path}: not an MRC file: {len(raw)} bytes, and the header alone has {_HEADER_BYTES}"
        )
    header = np.frombuffer(raw, HEADER_DTYPE).reshape(()).copy().view(np.recarray)
    if bytes(header.map)[:3] == b"MAP":
        header = _in_stamped_order(path, header)
    else:
        header = _in_order_of_size(path, header, stream)
    _mend_extended_header(path, header, stream)
    _mend_origin(path, header)
    _check_kind(path, header)
    return header


def new_header(shape: Sequence[int], sampling_rate: float, origin: Sequence[float]) -> np.recarray:
    """Make a plain header whose cell is the box.

    Args:
        shape: Box (z, y, x).
        sampling_rate: A/voxel.
        origin: Position (x, y, z) of the first voxel in A.

    Returns:
        The header in the machine's byte order.
    """
    nz, ny, nx = shape
    header = np.zeros((), HEADER_DTYPE).view(np.recarray)
    header.nx, header.ny, header.nz = header.mx, header.my, header.mz = nx, ny, nz
    header.cella = nx * sampling_rate, ny * sampling_rate, nz * sampling_rate
    header.cellb = 90, 90, 90
    header.origin = tuple(origin)
    header.mapc, header.mapr, header.maps = 1, 2, 3
    header.mode, header.ispg, header.nversion, header.map = 2, 1, _VERSIONS[-1], b"MAP "
    header.machst = list(machine_stamp_from_byte_order("="))
    return header


def header_of_volume(like: np.recarray, float16: bool = False) -> np.recarray:
    """Copy a header, saying float32 or float16, one volume, right angles, and MRC2014."""
    header = like.copy()
    header.mode, header.map = 12 if float16 else 2, b"MAP "
    if header.ispg not in _CRYSTALS:
        header.ispg = 1
    if not any(header.cellb.tolist()):
        header.cellb = 90, 90, 90
    if header.nversion not in _VERSIONS:
        header.nversion = _VERSIONS[-1]
    return header


def add_labels(header: np.recarray, labels: Sequence[str]) -> None:
    """Add labels behind those of a header; the oldest go when the ten places are full."""
    old = header.label[: int(header.nlabl)] if 0 <= header.nlabl <= _LABELS else header.label
    new = [label.encode("ascii", "replace")[:_LABEL_LENGTH] for label in labels]
    kept = [*(label for label in old.tolist() if label.strip()), *new][-_LABELS:]
    header.label = kept + [b""] * (_LABELS - len(kept))
    header.nlabl = len(kept)


def voxel_type(path: str, header: np.recarray) -> np.dtype:
    """Give the type of a file's voxels, in its byte order.

    Bytes are signed in MRC2014. Those of IMOD are as its flag says; those of a header whose
    density reaches from 0 over 127 are not.

    Warns:
        MapWarning: The header's density, and nothing else, says that bytes are unsigned.
    """
    dtype = np.dtype(data_dtype_from_header(header))
    if header.mode != 0:
        return dtype
    stamp, flags = np.frombuffer(header.extra2.tobytes(), header.dtype["mode"])[_IMOD_WORDS]
    if stamp == _IMOD_STAMP:
        return dtype if flags & _IMOD_SIGNED else np.dtype(np.uint8)
    if header.dmin >= 0 and 127 < header.dmax <= 255:
        _warn(
            f"{path}: bytes from {header.dmin:g} to {header.dmax:g} by the header: read as "
            "unsigned, although the format's are signed"
        )
        return np.dtype(np.uint8)
    return dtype


def announced_bytes(header: np.ndarray) -> int:
    """Number of bytes of voxels that a header announces."""
    box = (int(header[name]) for name in ("nx", "ny", "nz"))
    return math.prod(box) * np.dtype(_READABLE[int(header["mode"])]).itemsize


def check_surplus(path: str, header: np.recarray, surplus: int) -> None:
    """Judge the bytes that follow the announced voxels.

    Raises:
        InputError: They may be voxels, or an extended header in front of them.

    Warns:
        MapWarning: There are some, and they are ignored.
    """
    if not surplus:
        return
    announced = announced_bytes(header)
    if surplus >= announced:
        raise InputError(
            f"{path}: {surplus} bytes more than the header announces, which are {announced} "
            f"({_describe_voxels(header)}): box or mode is wrong"
        )
    kind = bytes(header.exttyp)
    if header.nsymbt == 0 and kind in _EXTENDED_HEADERS:
        raise InputError(
            f"{path}: {surplus} bytes more than the header announces, which names an extended "
            f"header ({kind.decode()}) of no length: where the voxels begin cannot be told; set "
            "NSYMBT"
        )
    _warn(
        f"{path}: {surplus} bytes more than the header announces follow the voxels; "
        "they are ignored"
    )


def truncation_error(path: str, header: np.recarray, found: int) -> InputError:
    """Say that a file has fewer bytes of voxels than its header announces."""
    return InputError(
        f"{path}: truncated: {found} bytes of voxels, and the header announces "
        f"{announced_bytes(header)} ({_describe_voxels(header)})"
    )


def axes(header: np.recarray) -> tuple[int, int, int]:
    """Spatial axis (0 x, 1 y, 2 z) of the file's sections, rows and columns."""
    return int(header.maps) - 1, int(header.mapr) - 1, int(header.mapc) - 1


def by_axis(header: np.recarray, values: Sequence[Any]) -> tuple[int, int, int]:
    """Integers of sections, rows and columns, as x, y, z."""
    of = dict(zip(axes(header), values, strict=True))
    return int(of[0]), int(of[1]), int(of[2])


def in_file_order(data: np.ndarray, header: np.recarray) -> np.ndarray:
    """A view of voxels (z, y, x) as the file's (sections, rows, columns)."""
    return data.transpose([2 - axis for axis in axes(header)])


# Order of bytes, and sizes


def _in_stamped_order(path: str, header: np.recarray) -> np.recarray:
    """A header in the order of its stamp, or where that is wrong, of its box and mode."""
    orders = [order for order in "<>" if _is_sensible(header.view(_type(order)))]
    if not orders:
        raise InputError(
            f"{path}: not an MRC file: box and mode make no sense in either byte order"
        )
    try:
        stamped = byte_order_from_machine_stamp(header.machst)
    except ValueError:
        stamped = None
    order = stamped if stamped in orders else orders[0]
    if order != stamped:
        stamp = bytes(header.machst).hex(" ")
        _warn(
            f"{path}: wrong machine stamp {stamp}; read as {_name(order)}-endian, as box and mode "
            "suggest"
        )
    return _stamped(header, order)


def _in_order_of_size(path: str, header: np.recarray, stream: BufferedIOBase) -> np.recarray:
    """A header without 'MAP' in the order in which it announces just the file's size."""
    size = _size(stream)
    for order in "<>":
        view = header.view(_type(order))
        if _is_sensible(view) and int(view["mode"]) in _READABLE:
            rest = size - _HEADER_BYTES - announced_bytes(view)
            if rest == view["nsymbt"]:
                _warn(
                    f"{path}: no 'MAP' at byte 209; read as an MRC map ({_name(order)}-endian), as "
                    "box, mode and the size of the file agree"
                )
                return _stamped(header, order)
    raise InputError(
        f"{path}: not an MRC file: no 'MAP' at byte 209, and box and mode do not give the size of "
        f"the file: an MRC or CCP4 map is needed{describe_remedy(path)}"
    )


def _type(order: str) -> np.dtype:
    return HEADER_DTYPE.newbyteorder(order)


def _name(order: str) -> str:
    return {"<": "little", ">": "big"}[order]


def _stamped(header: np.recarray, order: str) -> np.recarray:
    header.machst = list(machine_stamp_from_byte_order(order))
    return header.view(_type(order), np.recarray)


def _is_sensible(header: np.ndarray) -> bool:
    """Tell the right byte order: in the wrong one, even a box of 1 is 16,777,216."""
    box = all(0 < header[name] < 2**16 for name in ("nx", "ny", "nz"))
    return bool(box and 0 <= header["mode"] < 2**8)


def _size(stream: BufferedIOBase) -> int:
    """Bytes of a stream, whose position stays; a compressed one is read to its end."""
    position = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return size


# What contradicts itself


def _mend_extended_header(path: str, header: np.recarray, stream: BufferedIOBase) -> None:
    """Take an extended header for absent where the file has room for the voxels alone."""
    length = int(header.nsymbt)
    if length == 0 or int(header.mode) not in _READABLE:
        return
    impossible = not 0 < length < _LARGEST_EXTENDED_HEADER
    if _size(stream) == _HEADER_BYTES + announced_bytes(header):
        _warn(
            f"{path}: an extended header of {length} bytes (NSYMBT) by the header, and none in "
            "the file, which has the size of the voxels"
        )
        header.nsymbt = 0
    elif impossible:
        raise InputError(
            f"{path}: not an MRC file: an extended header of {length} bytes (NSYMBT) makes no sense"
        )


def _mend_origin(path: str, header: np.recarray) -> None:
    origin = np.array(header.origin.tolist())
    if np.isfinite(origin).all() and np.abs(origin).max() <= LARGEST_ORIGIN:
        return
    _warn(f"{path}: the header's origin {format_numbers(origin)} A (x, y, z) is none: taken for 0")
    header.origin = 0, 0, 0


def _check_kind(path: str, header: np.recarray) -> None:
    """Refuse whatever is not a single real map in an orthogonal cell."""
    columns, rows, sections = int(header.nx), int(header.ny), int(header.nz)
    if int(header.mode) not in _READABLE:
        kind = _REFUSED.get(int(header.mode), "unknown")
        modes = ", ".join(f"{mode} ({name})" for mode, name in _READABLE.items())
        raise InputError(
            f"{path}: mode {header.mode} is {kind}: a real-space map of mode {modes} is needed"
        )
    if min(columns, rows, sections) == 1:
        raise InputError(
            f"{path}: a 2-D image ({columns} x {rows} x {sections}): a 3-D map is needed"
        )
    if not any((header.mapc, header.mapr, header.maps)):
        # Left empty by old programs, which all mean this.
        header.mapc, header.mapr, header.maps = 1, 2, 3
    if sorted(axes(header)) != [0, 1, 2]:
        order = f"{header.mapc}, {header.mapr}, {header.maps}"
        raise InputError(
            f"{path}: axis order (MAPC, MAPR, MAPS) {order}: a permutation of 1, 2, 3 is needed"
        )
    _check_single(path, header)
    angles = np.array(header.cellb.tolist())
    # Some programs leave all of them zero.
    if angles.any() and not np.allclose(angles, 90, rtol=0, atol=0.1):
        raise InputError(
            f"{path}: cell angles {format_numbers(angles)} degrees: an orthogonal cell "
            "(90, 90, 90) is needed"
        )


def _check_single(path: str, header: np.recarray) -> None:
    """Refuse stacks; a stack of one volume is a map."""
    sections = int(header.nz)
    depth = int((header.mx, header.my, header.mz)[axes(header)[0]])
    if spacegroup_is_volume_stack(header.ispg) and depth != sections:
        count = f"{sections // depth} volumes of {depth} sections, " if depth > 0 else ""
        raise InputError(
            f"{path}: a stack of volumes ({count}space group {header.ispg}): one map a file is "
            "needed"
        )
    if header.ispg in (0, 1) and 0 < depth < sections and sections % depth == 0:
        kind = f"{sections} images"
        if depth > 1:
            kind = f"{sections // depth} volumes of {depth} sections"
        raise InputError(
            f"{path}: a stack of {kind} (NZ {sections}, MZ {depth}): one 3-D map is needed; "
            f"if it is one, set MZ to {sections}"
        )


# Sampling rate


def check_sampling_rate(path: str, rate: float) -> None:
    """Raise InputError for a given sampling rate (A/voxel) that no map has."""
    low, high = SAMPLING_LIMITS
    if not low <= rate <= high:
        raise InputError(
            f"{path}: sampling rate {rate:g} A/voxel was given: between {low:g} and {high:g} is "
            f"needed{_suggest_unit(rate)}"
        )


def warn_of_unit(path: str, shape: Sequence[int], rate: float) -> None:
    """Warn where a map's sampling rate or box (in voxels) looks as if it were in nm.

    Warns:
        MapWarning: Under 0.3 A/voxel, or a box of less than 25 A under 0.5 A/voxel.
    """
    edge = max(shape) * rate
    if rate < SUSPECT_SAMPLING or (edge < SUSPECT_BOX and rate < SUSPECT_BOX_SAMPLING):
        _warn(f"{path}: {rate:g} A/voxel, a box of {edge:.3g} A{_suggest_unit(rate)}")


def set_sampling(
    path: str, header: np.recarray, given: float | None, absent: float | None = None
) -> float:
    """Find the sampling rate, and correct a header that a given one contradicts.

    Args:
        path: Name for messages.
        header: Changed where it has another sampling rate than the given one.
        given: A/voxel, or None.
        absent: A/voxel where the header has none.

    Returns:
        A/voxel.

    Raises:
        InputError: Absent, anisotropic or absurd.

    Warns:
        MapWarning: The given one contradicts the header, or the unit looks wrong.
    """
    if given is not None:
        check_sampling_rate(path, given)
    intervals = np.array([header.mx, header.my, header.mz], float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        voxel = np.array(header.cella.tolist()) / intervals
    voxel[(intervals <= 0) | ~np.isfinite(voxel)] = 0
    if given is None and not voxel.any():
        given = absent
    box = by_axis(header, (header.nz, header.ny, header.nx))
    if given is None:
        _check_voxel(path, voxel)
        rate = round(float(voxel.mean()), 6)  # the cell is float32: 1.35, not 1.3500000238
        warn_of_unit(path, box, rate)
        return rate
    if not np.allclose(voxel, given, rtol=SAMPLING_TOLERANCE, atol=0):
        if voxel.any():
            _warn(
                f"{path}: the header says {_edges(voxel)} A/voxel (x, y, z); the given {given:g} "
                "is used, and written to the output"
            )
        intervals = np.where(intervals > 0, intervals, box)
        header.mx, header.my, header.mz = (int(n) for n in intervals)
        header.cella = tuple(intervals * given)
        scale = np.where(voxel > 0, given / np.where(voxel > 0, voxel, 1), 1)
        header.origin = tuple(np.array(header.origin.tolist()) * scale)
    warn_of_unit(path, box, given)
    return float(given)


def _check_voxel(path: str, voxel: np.ndarray) -> None:
    """Refuse a header's voxel (edges x, y, z in A) that is absent, anisotropic or absurd."""
    low, high = SAMPLING_LIMITS
    edges = _edges(voxel)
    if (voxel <= 0).any():
        raise InputError(
            f"{path}: the header's sampling rate is {edges} A/voxel (x, y, z): "
            "pass the right one (-s)"
        )
    if voxel.max() > (1 + ANISOTROPY_LIMIT) * voxel.min():
        raise InputError(
            f"{path}: voxels are anisotropic, {edges} A (x, y, z): resample the map to cubic "
            "voxels, or pass the sampling rate (-s) if the header is wrong"
        )
    if not (low <= voxel.min() and voxel.max() <= high):
        raise InputError(
            f"{path}: the header's sampling rate is {edges} A/voxel (x, y, z): between {low:g} "
            f"and {high:g} is needed{_suggest_unit(voxel[0]) or '; pass the right one (-s)'}"
        )


def _suggest_unit(rate: float) -> str:
    """A question behind a sampling rate that is usual in another unit than A; or nothing."""
    low, high = USUAL_SAMPLING
    for unit, size in UNITS.items():
        if low <= rate * size <= high:
            return f": in {unit}? pass -s {rate * size:.4g}"
    return ""


# Words


def _warn(message: str) -> None:
    warnings.warn(message, MapWarning, stacklevel=3)


def _describe_voxels(header: np.recarray) -> str:
    return f"{header.nx} x {header.ny} x {header.nz}, mode {header.mode}"


def _edges(voxel: np.ndarray) -> str:
    return " x ".join(f"{edge:.6g}" for edge in voxel)


def format_numbers(values: Iterable[float]) -> str:
    """Numbers in a row, with commas."""
    return ", ".join(f"{value:g}" for value in values)
