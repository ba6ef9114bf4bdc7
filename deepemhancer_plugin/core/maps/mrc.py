"""MRC and CCP4 maps, in and out, with the geometry kept to the last header field.

In memory a map is always a C-contiguous float32 array (z, y, x); in the file it may have any axis
order, byte order, real mode and compression. Files are read and written one section at a time, so
that a map costs its voxels once and no more.

Format: Cheng et al. 2015, J. Struct. Biol. 192, 146-150 (MRC2014), through the header layout of
`mrcfile`.
"""

import bz2
import contextlib
import gzip
import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
from deepemhancer_plugin.core.files import StrPath, replacing

SAMPLING_LIMITS = 0.1, 50.0  # A/voxel; outside of it, somebody gave nm, pm or a magnification
ANISOTROPY_LIMIT = 0.01  # largest over smallest voxel edge, minus one
SAMPLING_TOLERANCE = 1e-3  # two sampling rates closer than this are one that was rounded
POSITION_TOLERANCE = 0.01  # voxels
MASK_THRESHOLD = 0.01  # of a mask's range from 0 to 1, as in the original program
# Median distance of the voxels from the mask's level, of the distance between its two levels.
# Masks that were interpolated have less, the dense part of a density map has more.
LEVEL_SPREAD = 0.15
# Of the voxels on one side of the middle, and at least: so many at the extreme are a level.
PLATEAU_FRACTION, PLATEAU_VOXELS = 0.05, 27

_READABLE = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_REFUSED = {3: "a complex int16 transform", 4: "a complex float32 transform", 101: "4-bit integers"}
_HEADER_BYTES = HEADER_DTYPE.itemsize
_LABELS, _LABEL_LENGTH = 10, 80
_VERSIONS = 20140, 20141  # of the MRC2014 format


@dataclass(frozen=True, eq=False)
class Map:
    """A map and where it lies in space.

    Attributes:
        data: voxels, C-contiguous float32 (z, y, x).
        sampling_rate: A/voxel, the same along the three axes.
        origin: the header's ORIGIN (x, y, z), A.
        nstart: index (x, y, z) of the first voxel in the unit cell.
        header: MRC header record that the map is written with, in the byte order of its file.
        extended_header: bytes between header and voxels, as they are in the file.
        path: where the map comes from; names it in messages.
    """

    data: np.ndarray
    sampling_rate: float
    origin: tuple[float, float, float]
    nstart: tuple[int, int, int]
    header: np.recarray
    extended_header: bytes
    path: str

    @property
    def position(self) -> tuple[float, float, float]:
        """Centre of the first voxel (x, y, z) in A: ORIGIN, or NSTART where ORIGIN is zero."""
        if any(self.origin):
            return self.origin
        x, y, z = (n * self.sampling_rate for n in self.nstart)
        return x, y, z


MapLike = StrPath | Map | np.ndarray  # what the functions of the face take for a map


def read_map(path: StrPath, sampling_rate: float | None = None) -> Map:
    """Read a map of any real mode, byte order and axis order.

    Compressed files (.gz and .bz2) are recognised by their content.

    Args:
        path: The file.
        sampling_rate: A/voxel. Wins over the header's, where some program may have left a default
            of 1 A. The header to write is corrected: the cell becomes the given rate times MX, MY,
            MZ, and ORIGIN is scaled, so that the first voxel keeps its place counted in voxels (as
            ChimeraX does for `volume voxelSize`). A difference under 0.1 % is rounding: the given
            rate is used, and the header stays as it is.

    Returns:
        The map.

    Raises:
        InputError: Missing, empty, truncated or damaged file; not an MRC file; complex or unknown
            mode; image, image stack or volume stack; NaN or infinite voxels; constant map; cell not
            orthogonal; voxel edges that differ by more than 1 %; sampling rate absent or absurd.

    Warns:
        MapWarning: `sampling_rate` differs from the header's; wrong machine stamp; more bytes than
            the header says.
    """
    volume = _read(os.fspath(path), sampling_rate)
    _check_density(volume.path, volume.data)
    return volume


def new_map(
    data: np.ndarray,
    sampling_rate: float,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    path: str = "",
) -> Map:
    """Make a map of an array with a plain header, whose cell is the box.

    Args:
        data: Voxels (z, y, x); not copied where they are C-contiguous float32.
        sampling_rate: A/voxel.
        origin: Position (x, y, z) of the first voxel in A.
        path: Name for messages.

    Returns:
        The map.
    """
    data = np.ascontiguousarray(data, np.float32)
    nz, ny, nx = data.shape
    x, y, z = (float(value) for value in origin)
    header = np.zeros((), HEADER_DTYPE).view(np.recarray)
    header.nx, header.ny, header.nz = header.mx, header.my, header.mz = nx, ny, nz
    header.cella = nx * sampling_rate, ny * sampling_rate, nz * sampling_rate
    header.cellb = 90, 90, 90
    header.origin = x, y, z
    header.mapc, header.mapr, header.maps = 1, 2, 3
    header.mode, header.ispg, header.nversion, header.map = 2, 1, _VERSIONS[-1], b"MAP "
    header.machst = list(machine_stamp_from_byte_order("="))
    return Map(data, float(sampling_rate), (x, y, z), (0, 0, 0), header, b"", path)


def as_map(source: MapLike, sampling_rate: float | None = None, name: str = "map") -> Map:
    """Give the map that a path, a `Map` or an array means.

    Args:
        source: A file, a map as read, or an array (z, y, x) of any real type.
        sampling_rate: A/voxel; needed for an array. Wins over a header's, as in `read_map`.
        name: What messages call an array.

    Returns:
        A map whose voxels are nobody else's: what is given is not changed, and does not change
        where the result is overwritten.

    Raises:
        InputError: As `read_map`; something else than a path, a map or an array; voxels that are
            not 3-D, real and finite, or all the same; an array without a sampling rate.

    Warns:
        MapWarning: As `read_map`.
    """
    if isinstance(source, str | os.PathLike):
        return read_map(source, sampling_rate)
    if isinstance(source, Map):
        data = _real_voxels(source.path or name, source.data)
        header = source.header.copy()
        rate = source.sampling_rate if sampling_rate is None else sampling_rate
        rate = _set_sampling(source.path or name, header, rate)
        volume = _make_map(data, rate, header, source.extended_header, source.path or name)
    else:
        data = _real_voxels(name, source)
        if sampling_rate is None:
            raise InputError(f"{name}: an array has no sampling rate: pass it in A/voxel")
        _check_sampling_rate(name, sampling_rate)
        volume = new_map(data, sampling_rate, path=name)
    _check_density(volume.path, volume.data)
    return volume


def check_halves(first: Map, second: Map) -> None:
    """Check that two half maps lie on the same grid and differ from each other.

    Raises:
        InputError: Box, sampling rate or position differ, or all voxels are the same.
    """
    check_same_grid(second, first)
    if all(np.array_equal(a, b) for a, b in zip(first.data, second.data, strict=True)):
        raise InputError(
            f"half maps {first.path} and {second.path} are the same map, voxel by voxel: "
            "the two halves of one refinement are needed"
        )


def check_same_grid(volume: Map, like: Map) -> None:
    """Check that a map lies on the grid of another.

    Raises:
        InputError: Box, sampling rate, or position of the first voxel differ.
    """
    _check_sampling(volume, like)
    if not _same_position(volume, like):
        raise InputError(
            f"{volume.path}: its first voxel lies at {_numbers(volume.position)} A (x, y, z): "
            f"it must be {_numbers(like.position)}, as {like.path}"
        )


def read_mask(path: StrPath, like: Map, sampling_rate: float | None = None) -> np.ndarray:
    """Read a mask for a map from a file; see `as_mask`."""
    return as_mask(path, like, sampling_rate)


def as_mask(
    source: MapLike, like: Map, sampling_rate: float | None = None, name: str = "mask"
) -> np.ndarray:
    """Give the mask that a path, a `Map` or an array means.

    A voxel counts as inside from 1 % of the way from the outside's level to the inside's, so a soft
    edge does. The levels are 0 and 1; a mask that was rescaled or interpolated has others, which
    are found, and what overshoots them is clipped. Where values lie under the outside's level,
    ripples as far above it do not count as inside.

    Args:
        source: A file, a map as read, or an array (z, y, x) of booleans, integers or floats.
        like: The map it belongs to. A file without a sampling rate takes the map's.
        sampling_rate: A/voxel of a file, as in `read_map`: wins over the header's.
        name: What messages call an array.

    Returns:
        Booleans (z, y, x), true inside.

    Raises:
        InputError: As `read_map`; box or sampling rate other than the map's; another position than
            the map's, where both headers tell one; a map without two levels.

    Warns:
        MapWarning: As `read_map`; the mask was rescaled; its header or the map's tells no position.
    """
    if isinstance(source, str | os.PathLike):
        mask = _read(os.fspath(source), sampling_rate, absent=like.sampling_rate)
    elif isinstance(source, Map):
        mask = as_map(source, sampling_rate)
    else:
        is_bool = isinstance(source, np.ndarray) and source.dtype == bool
        values = _real_voxels(name, source.view(np.uint8) if is_bool else source)
        mask = new_map(values, like.sampling_rate, like.position, name)
    label = mask.path if mask.path == name else f"mask {mask.path}"
    mask = replace(mask, path=label)
    _check_sampling(mask, like)
    if any(mask.position) and any(like.position):
        check_same_grid(mask, like)
    elif not _same_position(mask, like):
        _warn(
            f"{label}: its first voxel lies at {_numbers(mask.position)} A (x, y, z), and that of "
            f"{like.path} at {_numbers(like.position)}: taken to be the same"
        )
    return _inside(label, mask.data)


def write_map(path: StrPath, data: np.ndarray, like: Map, labels: Sequence[str] = ()) -> None:
    """Write voxels with the geometry of another map; all or nothing.

    The mode is 2 (float32); byte order, axis order, cell, start, origin and extended header are
    those of `like`, and so is the space group, but for 0 (an image stack), which becomes 1. Angles
    that were left empty become 90 degrees, an unknown version of the format that of MRC2014.
    Statistics are computed anew. Labels are added behind the old ones, and the oldest go when the
    ten places are full; blank ones are not kept. A path that ends with .gz or .bz2 is compressed.
    The file appears under its name when it is complete.

    Args:
        path: The file; an older one is replaced.
        data: Voxels (z, y, x), in the box of `like`.
        like: Where the geometry comes from; its `data` is not looked at.
        labels: ASCII, up to 80 characters each; the rest is cut off.

    Raises:
        InputError: The file cannot be written (disk full, no permission).
        ValueError: `data` is not in the box of `like`.
    """
    path = os.fspath(path)
    header = _header_of_volume(like.header)
    sections = _in_file_order(data, header)
    if sections.shape != (header.nz, header.ny, header.nx):
        raise ValueError(f"{path}: voxels {data.shape} do not fit the box of {like.path}")
    header.dmin, header.dmax, header.dmean, header.rms = _statistics(data)
    _set_labels(header, labels)
    dtype = data_dtype_from_header(header)
    try:
        with (
            replacing(path) as temporary,
            open(temporary, "wb") as raw,
            _compressing(path, raw) as stream,
        ):
            stream.write(header.tobytes())
            stream.write(like.extended_header)
            for section in sections:
                stream.write(section.astype(dtype).tobytes())
    except OSError as error:
        raise InputError(f"output {path}: cannot be written: {error.strerror or error}") from error


# Checks


def _real_voxels(name: str, data: object) -> np.ndarray:
    """A copy of an array as float32 (z, y, x); InputError where it is no real, finite 3-D map."""
    if not isinstance(data, np.ndarray):
        kind = type(data).__name__
        raise InputError(f"{name}: a {kind}: the path of a map, a map, or an array is needed")
    if data.ndim != 3 or min(data.shape) < 2:
        raise InputError(f"{name}: an array of shape {data.shape}: a 3-D map (z, y, x) is needed")
    if data.dtype.kind not in "fiu":
        raise InputError(f"{name}: an array of {data.dtype}: real numbers are needed")
    with np.errstate(over="ignore"):  # found as infinite in the next line
        voxels = np.array(data, np.float32, order="C")
    _check_finite(name, voxels)
    return voxels


def _check_density(path: str, data: np.ndarray) -> None:
    lowest = data.min()
    if lowest == data.max():
        raise InputError(f"{path}: all voxels are {lowest:g}: a map with density is needed")


def _check_finite(path: str, data: np.ndarray) -> None:
    # The minimum and maximum of whatever holds a NaN are NaN.
    if np.isfinite(data.min()) and np.isfinite(data.max()):
        return
    counts = [np.count_nonzero(~np.isfinite(plane)) for plane in data]
    z = int(np.flatnonzero(counts)[0])
    y, x = np.argwhere(~np.isfinite(data[z]))[0]
    raise InputError(
        f"{path}: {sum(counts)} NaN or infinite voxels, the first at z, y, x = {z}, {y}, {x}: "
        "none may be"
    )


def _check_sampling_rate(path: str, rate: float) -> None:
    low, high = SAMPLING_LIMITS
    if not low <= rate <= high:
        raise InputError(
            f"{path}: sampling rate {rate:g} A/voxel was given: between {low:g} and {high:g} is "
            "needed"
        )


def _check_sampling(volume: Map, like: Map) -> None:
    """Refuse a map with another box or sampling rate."""
    if volume.data.shape != like.data.shape:
        raise InputError(
            f"{volume.path}: box {_box(volume)} (z, y, x): it must be {_box(like)}, as {like.path}"
        )
    if abs(volume.sampling_rate - like.sampling_rate) > SAMPLING_TOLERANCE * like.sampling_rate:
        raise InputError(
            f"{volume.path}: sampling rate {volume.sampling_rate:g} A/voxel: it must be "
            f"{like.sampling_rate:g}, as {like.path}; pass it (-s) if a header is wrong"
        )


def _same_position(volume: Map, like: Map) -> bool:
    tolerance = POSITION_TOLERANCE * like.sampling_rate
    return np.allclose(volume.position, like.position, rtol=0, atol=tolerance)


# Masks


def _inside(name: str, values: np.ndarray) -> np.ndarray:
    """Booleans of a mask's values, which are brought to 0 outside and 1 inside before."""
    lowest, highest = float(values.min()), float(values.max())
    if abs(lowest) <= MASK_THRESHOLD and abs(highest - 1) <= MASK_THRESHOLD:
        return values > MASK_THRESHOLD
    levels = _two_levels(values) if lowest < highest else None
    if levels is None:
        raise InputError(
            f"{name}: values from {lowest:g} to {highest:g}: a mask has two levels, 0 outside and "
            "1 inside"
        )
    outside, inside = levels
    _warn(
        f"{name}: values from {lowest:g} to {highest:g}, where a mask has 0 to 1: "
        f"{_round_level(outside, highest - lowest):.3g} is taken for 0 and {inside:.3g} for 1"
    )
    undershoot = (outside - lowest) / (inside - outside)
    threshold = min(max(MASK_THRESHOLD, undershoot), 0.5)
    return values > outside + threshold * (inside - outside)


def _round_level(level: float, span: float) -> float:
    """A level without the rounding errors of a zero, which depend on the range."""
    return round(level / span, 6) * span + 0.0


def _two_levels(values: np.ndarray) -> tuple[float, float] | None:
    """The values outside and inside a mask; None where there are no two levels.

    They are the extremes, where many voxels lie on each; else the medians of what Otsu's threshold
    (1979, IEEE Trans. Syst. Man Cybern. 9, 62-66) parts, where most voxels lie near these.
    """
    from skimage.filters import threshold_otsu

    lowest, highest = float(values.min()), float(values.max())
    scaled = (values - np.float32(lowest)) / np.float32(highest - lowest)
    if _is_plateau(scaled) and _is_plateau(1 - scaled):
        return lowest, highest
    above = values > threshold_otsu(values)
    outside, inside = float(np.median(values[~above])), float(np.median(values[above]))
    spread = max(
        float(np.median(np.abs(values[~above] - outside))),
        float(np.median(np.abs(values[above] - inside))),
    )
    return (outside, inside) if spread < LEVEL_SPREAD * (inside - outside) else None


def _is_plateau(scaled: np.ndarray) -> bool:
    """Whether many of the voxels under 0.5 lie within 1 % of 0."""
    at_end = np.count_nonzero(scaled < MASK_THRESHOLD)
    least = max(PLATEAU_VOXELS, PLATEAU_FRACTION * np.count_nonzero(scaled < 0.5))
    return bool(at_end >= least)


# Reading


def _read(path: str, sampling_rate: float | None, absent: float | None = None) -> Map:
    """Read a map, constant or not; `absent` is the sampling rate of a header that has none."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if os.path.isdir(path):
        raise InputError(f"{path}: a folder: give a map in it")
    try:
        with _decompressing(path) as stream:
            header = _header(path, stream.read(_HEADER_BYTES))
            _check_kind(path, header)
            rate = _set_sampling(path, header, sampling_rate, absent)
            extended_header = stream.read(int(header.nsymbt))
            if len(extended_header) < header.nsymbt:
                raise InputError(
                    f"{path}: truncated: the extended header has {len(extended_header)} of "
                    f"{header.nsymbt} bytes"
                )
            data = _voxels(path, header, stream)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    _check_finite(path, data)
    return _make_map(data, rate, header, extended_header, path)


def _make_map(
    data: np.ndarray, rate: float, header: np.recarray, extended_header: bytes, path: str
) -> Map:
    """The map of voxels and a header."""
    origin = float(header.origin.x), float(header.origin.y), float(header.origin.z)
    nstart = _by_axis(header, (header.nzstart, header.nystart, header.nxstart))
    return Map(data, rate, origin, nstart, header, extended_header, path)


def _decompressing(path: str) -> BufferedIOBase:
    with open(path, "rb") as stream:
        start = stream.read(3)
    if start == b"\x1f\x8b\x08":
        return gzip.GzipFile(path)
    if start == b"BZh":
        return bz2.BZ2File(path)
    return open(path, "rb")


def _header(path: str, raw: bytes) -> np.recarray:
    """The header in the byte order of the file, with a stamp that says so."""
    if not raw:
        raise InputError(f"{path}: empty file: an MRC map is needed")
    if len(raw) < _HEADER_BYTES:
        raise InputError(
            f"{path}: not an MRC file: {len(raw)} bytes, and the header alone has {_HEADER_BYTES}"
        )
    header = np.frombuffer(raw, HEADER_DTYPE).reshape(()).copy().view(np.recarray)
    if bytes(header.map)[:3] != b"MAP":
        raise InputError(
            f"{path}: not an MRC file: no 'MAP' at byte 209: an MRC or CCP4 map is needed"
        )
    orders = [order for order in "<>" if _sensible(header.view(HEADER_DTYPE.newbyteorder(order)))]
    if not orders:
        raise InputError(
            f"{path}: not an MRC file: box, mode and extended header make no sense in either byte "
            "order"
        )
    try:
        stamped = byte_order_from_machine_stamp(header.machst)
    except ValueError:
        stamped = None
    order = stamped if stamped in orders else orders[0]
    if order != stamped:
        stamp, name = bytes(header.machst).hex(" "), {"<": "little", ">": "big"}[order]
        _warn(
            f"{path}: wrong machine stamp {stamp}; read as {name}-endian, as box and mode suggest"
        )
        header.machst = list(machine_stamp_from_byte_order(order))
    return header.view(HEADER_DTYPE.newbyteorder(order), np.recarray)


def _sensible(header: np.ndarray) -> bool:
    """Tell the right byte order: in the wrong one, even a box of 1 is 16,777,216."""
    box = all(0 < header[name] < 2**16 for name in ("nx", "ny", "nz"))
    return bool(box and 0 <= header["mode"] < 2**8 and 0 <= header["nsymbt"] < 2**28)


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
    if sorted(_axes(header)) != [0, 1, 2]:
        order = f"{header.mapc}, {header.mapr}, {header.maps}"
        raise InputError(
            f"{path}: axis order (MAPC, MAPR, MAPS) {order}: a permutation of 1, 2, 3 is needed"
        )
    depth = int((header.mx, header.my, header.mz)[_axes(header)[0]])
    if spacegroup_is_volume_stack(header.ispg):
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
    angles = np.array(header.cellb.tolist())
    # Some programs leave all of them zero.
    if angles.any() and not np.allclose(angles, 90, rtol=0, atol=0.1):
        raise InputError(
            f"{path}: cell angles {_numbers(angles)} degrees: an orthogonal cell (90, 90, 90) is "
            "needed"
        )


def _set_sampling(
    path: str, header: np.recarray, given: float | None, absent: float | None = None
) -> float:
    """The sampling rate, A/voxel; where a given one contradicts the header, it is corrected."""
    if given is not None:
        _check_sampling_rate(path, given)
    intervals = np.array([header.mx, header.my, header.mz], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        voxel = np.array(header.cella.tolist()) / intervals
    voxel[(intervals <= 0) | ~np.isfinite(voxel)] = 0
    if given is None and not voxel.any():
        given = absent
    if given is None:
        _check_voxel(path, voxel)
        return round(float(voxel.mean()), 6)  # the cell is float32: 1.35, not 1.3500000238
    if not np.allclose(voxel, given, rtol=SAMPLING_TOLERANCE, atol=0):
        if voxel.any():
            _warn(
                f"{path}: the header says {_edges(voxel)} A/voxel (x, y, z); the given {given:g} "
                "is used, and written to the output"
            )
        box = _by_axis(header, (header.nz, header.ny, header.nx))
        intervals = np.where(intervals > 0, intervals, box)
        header.mx, header.my, header.mz = (int(n) for n in intervals)
        header.cella = tuple(intervals * given)
        scale = np.where(voxel > 0, given / np.where(voxel > 0, voxel, 1), 1)
        header.origin = tuple(np.array(header.origin.tolist()) * scale)
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
            f"{path}: the header's sampling rate is {edges} A/voxel (x, y, z): "
            f"between {low:g} and {high:g} is needed; pass the right one (-s)"
        )


def _voxels(path: str, header: np.recarray, stream: BufferedIOBase) -> np.ndarray:
    """The voxels, float32 (z, y, x), read section by section."""
    dtype = data_dtype_from_header(header)
    nx, ny, nz = _by_axis(header, (header.nz, header.ny, header.nx))
    try:
        data = np.empty((nz, ny, nx), np.float32)
    except MemoryError as error:
        raise InputError(
            f"{path}: a box of {nz} x {ny} x {nx} (z, y, x) does not fit into memory"
        ) from error
    sections = _in_file_order(data, header)
    buffer = np.empty(sections[0].size * dtype.itemsize, np.uint8)
    for index, section in enumerate(sections):
        count = stream.readinto(buffer.data)
        if count < buffer.size:
            raise InputError(
                f"{path}: truncated: {index * buffer.size + count} bytes of voxels, and the header "
                f"announces {len(sections) * buffer.size} "
                f"({header.nx} x {header.ny} x {header.nz}, mode {header.mode})"
            )
        section[...] = buffer.view(dtype).reshape(section.shape)
    surplus = 0
    # To the end, where compressed files have their checksum.
    while rest := stream.read(2**20):
        surplus += len(rest)
    if surplus:
        _warn(
            f"{path}: {surplus} bytes more than the header announces follow the voxels; "
            "they are ignored"
        )
    return data


def _axes(header: np.recarray) -> tuple[int, int, int]:
    """Spatial axis (0 x, 1 y, 2 z) of the file's sections, rows and columns."""
    return int(header.maps) - 1, int(header.mapr) - 1, int(header.mapc) - 1


def _by_axis(header: np.recarray, values: Sequence[Any]) -> tuple[int, int, int]:
    """Integers of sections, rows and columns, as x, y, z."""
    of = dict(zip(_axes(header), values, strict=True))
    return int(of[0]), int(of[1]), int(of[2])


def _in_file_order(data: np.ndarray, header: np.recarray) -> np.ndarray:
    """A view of voxels (z, y, x) as the file's (sections, rows, columns)."""
    return data.transpose([2 - axis for axis in _axes(header)])


# Writing


def _header_of_volume(like: np.recarray) -> np.recarray:
    """A copy of a header that says float32, one volume, right angles, and MRC2014."""
    header = like.copy()
    header.mode, header.map = 2, b"MAP "
    if header.ispg == 0:
        header.ispg = 1
    if not any(header.cellb.tolist()):
        header.cellb = 90, 90, 90
    if header.nversion not in _VERSIONS:
        header.nversion = _VERSIONS[-1]
    return header


def _compressing(
    path: str, raw: BufferedIOBase
) -> contextlib.AbstractContextManager[BufferedIOBase]:
    name, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() == ".gz":
        # Without a time, the same map gives the same bytes.
        return gzip.GzipFile(name, "wb", compresslevel=6, fileobj=raw, mtime=0)
    if suffix.lower() == ".bz2":
        return bz2.BZ2File(raw, "wb")
    return contextlib.nullcontext(raw)


def _statistics(data: np.ndarray) -> tuple[float, float, float, float]:
    """Minimum, maximum, mean and RMS deviation from the mean, plane by plane in float64."""
    mean = sum(float(plane.sum(dtype=np.float64)) for plane in data) / data.size
    square = (
        sum(float(np.square(plane - mean, dtype=np.float64).sum()) for plane in data) / data.size
    )
    return float(data.min()), float(data.max()), mean, square**0.5


def _set_labels(header: np.recarray, labels: Sequence[str]) -> None:
    old = header.label[: int(header.nlabl)] if 0 <= header.nlabl <= _LABELS else header.label
    new = [label.encode("ascii", "replace")[:_LABEL_LENGTH] for label in labels]
    kept = [*(label for label in old.tolist() if label.strip()), *new][-_LABELS:]
    header.label = kept + [b""] * (_LABELS - len(kept))
    header.nlabl = len(kept)


# Words


def _warn(message: str) -> None:
    warnings.warn(message, MapWarning, stacklevel=3)


def _box(volume: Map) -> str:
    return " x ".join(map(str, volume.data.shape))


def _edges(voxel: np.ndarray) -> str:
    return " x ".join(f"{edge:.6g}" for edge in voxel)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
