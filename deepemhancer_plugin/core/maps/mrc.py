"""MRC and CCP4 maps, in and out, with the geometry kept to the last header field.

In memory a map is always a C-contiguous float32 array (z, y, x); in the file it may have any axis order, byte order, real
mode and compression. Files are read and written one section at a time, so that a map costs its voxels once and no more.

Format: Cheng et al. 2015, J. Struct. Biol. 192, 146-150 (MRC2014), through the header layout of `mrcfile`.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from scipy import fft

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.files import replacing

SAMPLING_LIMITS = 0.1, 50.0  # A/voxel; outside of it, somebody gave nm, pm or a magnification
ANISOTROPY_LIMIT = 0.01  # largest over smallest voxel edge, minus one: far under what moves density by a voxel over a molecule
SAMPLING_TOLERANCE = 1e-3  # two sampling rates closer than this are one that was rounded
COARSE_SAMPLING = 3.0  # A/voxel; Nyquist at 6 A is the coarsest that the networks were made for
CONSTANT_FRACTION = 0.05  # of the reconstruction sphere; a map that nobody masked has no two equal voxels but by chance
SHARP_B_FACTOR = 30.0  # A^2; unsharpened maps measured 120 and more, sharpened ones under 0, an atomic model's own 15-40
MASK_THRESHOLD = 0.01  # of a mask's range from 0 to 1, as in the original program

_READABLE = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_REFUSED = {3: "a complex int16 transform", 4: "a complex float32 transform", 101: "4-bit integers"}
_HEADER_BYTES = HEADER_DTYPE.itemsize
_LABELS, _LABEL_LENGTH = 10, 80


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
        """Centre of the first voxel (x, y, z), A: ORIGIN, or NSTART times the sampling rate where ORIGIN is zero."""
        if any(self.origin):
            return self.origin
        x, y, z = (n * self.sampling_rate for n in self.nstart)
        return x, y, z


def read_map(path: str | os.PathLike[str], sampling_rate: float | None = None) -> Map:
    """Read a map of any real mode, byte order and axis order; .gz and .bz2 are recognised by their content.

    Args:
        path: the file.
        sampling_rate: A/voxel. Wins over the header's, where some program may have left a default of 1 A. The header to
            write is corrected: the cell becomes the given rate times MX, MY, MZ, and ORIGIN is scaled, so that the first
            voxel keeps its place counted in voxels (as ChimeraX does for `volume voxelSize`). A difference under 0.1 % is
            rounding: the given rate is used, and the header stays as it is.

    Raises:
        InputError: missing, empty, truncated or damaged file; not an MRC file; complex or unknown mode; image, image stack
            or volume stack; NaN or infinite voxels; constant map; cell not orthogonal; voxel edges that differ by more than
            1 %; sampling rate absent or absurd.

    Warns:
        MapWarning: `sampling_rate` differs from the header's; wrong machine stamp; more bytes than the header says.
    """
    volume = _read(os.fspath(path), sampling_rate)
    lowest, highest = volume.data.min(), volume.data.max()
    if lowest == highest:
        raise InputError(f"{volume.path}: all voxels are {lowest:g}: a map with density is needed")
    return volume


def new_map(
    data: np.ndarray,
    sampling_rate: float,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    path: str = "",
) -> Map:
    """Make a map of an array (z, y, x) with a plain header: sampling rate in A/voxel, origin (x, y, z) in A, cell = box."""
    data = np.ascontiguousarray(data, np.float32)
    nz, ny, nx = data.shape
    x, y, z = (float(value) for value in origin)
    header = np.zeros((), HEADER_DTYPE).view(np.recarray)
    header.nx, header.ny, header.nz = header.mx, header.my, header.mz = nx, ny, nz
    header.cella = nx * sampling_rate, ny * sampling_rate, nz * sampling_rate
    header.cellb = 90, 90, 90
    header.origin = x, y, z
    header.mapc, header.mapr, header.maps = 1, 2, 3
    header.mode, header.ispg, header.nversion, header.map = 2, 1, 20141, b"MAP "
    header.machst = list(machine_stamp_from_byte_order("="))
    return Map(data, float(sampling_rate), (x, y, z), (0, 0, 0), header, b"", path)


MapLike = str | os.PathLike[str] | Map | np.ndarray  # what the functions of the face take for a map


def as_map(source: MapLike, sampling_rate: float | None = None, name: str = "map") -> Map:
    """Give the map that a path, a `Map` or an array means; what is given is not changed.

    Args:
        source: a file, a map as read, or an array (z, y, x) of any real type.
        sampling_rate: A/voxel; needed for an array. Wins over a file's header.
        name: what messages call an array.

    Raises:
        InputError: as `read_map`; an array that is not 3-D, real, finite, or varying, or that comes
            without a sampling rate.
    """
    if isinstance(source, Map):
        if sampling_rate is None or sampling_rate == source.sampling_rate:
            return source
        return new_map(source.data, sampling_rate, source.origin, source.path)
    if not isinstance(source, np.ndarray):
        return read_map(source, sampling_rate)
    if source.ndim != 3 or min(source.shape) < 2:
        raise InputError(f"{name}: an array of shape {source.shape}: a 3-D map (z, y, x) is needed")
    if source.dtype.kind not in "fiu":
        raise InputError(f"{name}: an array of {source.dtype}: real numbers are needed")
    if sampling_rate is None:
        raise InputError(f"{name}: an array has no sampling rate: pass sampling_rate in A/voxel")
    low, high = SAMPLING_LIMITS
    if not low <= sampling_rate <= high:
        raise InputError(
            f"{name}: sampling rate {sampling_rate:g} A/voxel: between {low:g} and {high:g} is needed"
        )
    data = np.ascontiguousarray(source, np.float32)
    _check_finite(name, data)
    if data.min() == data.max():
        raise InputError(f"{name}: all voxels are {data.flat[0]:g}: a map with density is needed")
    return new_map(data, sampling_rate, path=name)


def check_halves(first: Map, second: Map) -> None:
    """Raise InputError unless two half maps lie on the same grid and differ from each other."""
    names = f"{first.path} and {second.path}"
    if first.data.shape != second.data.shape:
        raise InputError(
            f"half maps {names} differ in box: {_box(first)} and {_box(second)} (z, y, x): both need the same"
        )
    if abs(first.sampling_rate - second.sampling_rate) > SAMPLING_TOLERANCE * first.sampling_rate:
        raise InputError(
            f"half maps {names} differ in sampling rate: {first.sampling_rate:g} and {second.sampling_rate:g} A/voxel: "
            "both need the same; pass it (-s) if a header is wrong"
        )
    if not np.allclose(first.position, second.position, rtol=0, atol=0.01 * first.sampling_rate):
        raise InputError(
            f"half maps {names} differ in origin: {_numbers(first.position)} and {_numbers(second.position)} A (x, y, z): "
            "both need the same"
        )
    if all(np.array_equal(a, b) for a, b in zip(first.data, second.data, strict=True)):
        raise InputError(
            f"half maps {names} are the same map, voxel by voxel: the two halves of one refinement are needed"
        )


def check_same_grid(volume: Map, like: Map) -> None:
    """Raise InputError unless a map lies on the grid of another: box, sampling rate, place of the first voxel."""
    if volume.data.shape != like.data.shape:
        raise InputError(
            f"{volume.path}: box {_box(volume)} (z, y, x): it must be {_box(like)}, as {like.path}"
        )
    if abs(volume.sampling_rate - like.sampling_rate) > SAMPLING_TOLERANCE * like.sampling_rate:
        raise InputError(
            f"{volume.path}: {volume.sampling_rate:g} A/voxel: it must be {like.sampling_rate:g}, as {like.path}; "
            "pass it (-s) if a header is wrong"
        )
    if not np.allclose(volume.position, like.position, rtol=0, atol=0.01 * like.sampling_rate):
        raise InputError(
            f"{volume.path}: its first voxel lies at ({_numbers(volume.position)}) A (x, y, z): it must be "
            f"({_numbers(like.position)}), as {like.path}"
        )


def read_mask(
    path: str | os.PathLike[str], like: Map, sampling_rate: float | None = None
) -> np.ndarray:
    """Read a mask for a map: boolean (z, y, x), true where the mask is over 1 % (so a soft edge counts as inside).

    Args:
        path: the file, with values from 0 (outside) to 1 (inside).
        like: the map it belongs to. A mask without a sampling rate in its header takes the map's.
        sampling_rate: A/voxel, as in `read_map`: wins over the header's.

    Raises:
        InputError: as `read_map`; box or sampling rate other than the map's; values beyond 0-1; no voxel at 0 or none at 1.
    """
    mask = _read(os.fspath(path), sampling_rate, absent=like.sampling_rate)
    if mask.data.shape != like.data.shape:
        raise InputError(
            f"mask {mask.path}: box {_box(mask)} (z, y, x): it must be {_box(like)}, as {like.path}"
        )
    if abs(mask.sampling_rate - like.sampling_rate) > SAMPLING_TOLERANCE * like.sampling_rate:
        raise InputError(
            f"mask {mask.path}: sampling rate {mask.sampling_rate:g} A/voxel: it must be {like.sampling_rate:g}, as {like.path}"
        )
    lowest, highest = mask.data.min(), mask.data.max()
    if abs(lowest) > MASK_THRESHOLD or abs(highest - 1) > MASK_THRESHOLD:
        raise InputError(
            f"mask {mask.path}: values from {lowest:g} to {highest:g}: 0 outside and 1 inside are needed, both"
        )
    return mask.data > MASK_THRESHOLD


def write_map(
    path: str | os.PathLike[str], data: np.ndarray, like: Map, labels: Sequence[str] = ()
) -> None:
    """Write voxels with the geometry of another map; all or nothing.

    The mode is 2 (float32); byte order, axis order, cell, start, origin, space group and extended header are those of
    `like`. Statistics are computed anew. Labels are added behind the old ones, and the oldest go when the ten places are
    full; blank ones are not kept. A path that ends with .gz or .bz2 is compressed. The file appears under its name when it
    is complete.

    Args:
        path: the file; an older one is replaced.
        data: voxels (z, y, x), in the box of `like`.
        like: where the geometry comes from; its `data` is not looked at.
        labels: ASCII, up to 80 characters each; the rest is cut off.

    Raises:
        InputError: the file cannot be written (disk full, no permission).
        ValueError: `data` is not in the box of `like`.
    """
    path = os.fspath(path)
    header = like.header.copy()
    sections = _in_file_order(data, header)
    if sections.shape != (header.nz, header.ny, header.nx):
        raise ValueError(f"{path}: voxels {data.shape} do not fit the box of {like.path}")
    header.mode = 2
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


def warn_if_processed(volume: Map) -> None:
    """Warn where a map is not what the networks want to see: unmasked, unsharpened, finely sampled.

    Warns:
        MapWarning: one value fills over 5 % of the reconstruction sphere (outside of it, RELION's zeros are normal), so the
            map was masked; the amplitudes hardly fall beyond 10 A, so it was sharpened; the sampling rate is over 3 A/voxel.
    """
    fraction, value = _constant_fraction(volume.data)
    if fraction > CONSTANT_FRACTION:
        _warn(
            f"{volume.path}: looks masked: {fraction:.0%} of the reconstruction sphere is exactly {value:g}; "
            "better give the unmasked map, best the two half maps"
        )
    b_factor = _b_factor(volume.data, volume.sampling_rate)
    if b_factor is not None and b_factor < SHARP_B_FACTOR:
        _warn(
            f"{volume.path}: looks sharpened: B factor {b_factor:.0f} A^2 beyond 10 A; "
            "better give the unsharpened map, best the two half maps"
        )
    if volume.sampling_rate > COARSE_SAMPLING:
        _warn(
            f"{volume.path}: {volume.sampling_rate:g} A/voxel holds nothing finer than {2 * volume.sampling_rate:.3g} A; "
            f"the method is made for {COARSE_SAMPLING:g} A/voxel and less"
        )


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
                    f"{path}: truncated: the extended header has {len(extended_header)} of {header.nsymbt} bytes"
                )
            data = _voxels(path, header, stream)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    _check_finite(path, data)
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
    """The header record in the byte order of the file, with a stamp that says so; InputError where it is not MRC."""
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
            f"{path}: not an MRC file: box, mode and extended header make no sense in either byte order"
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
    """True where a header was read in the right byte order: read in the wrong one, even a box of 1 is 16,777,216."""
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
        header.mapc, header.mapr, header.maps = (
            1,
            2,
            3,
        )  # left empty by old programs, which all mean this
    if sorted(_axes(header)) != [0, 1, 2]:
        order = f"{header.mapc}, {header.mapr}, {header.maps}"
        raise InputError(
            f"{path}: axis order (MAPC, MAPR, MAPS) {order}: a permutation of 1, 2, 3 is needed"
        )
    depth = int((header.mx, header.my, header.mz)[_axes(header)[0]])
    if spacegroup_is_volume_stack(header.ispg):
        count = f"{sections // depth} volumes of {depth} sections, " if depth > 0 else ""
        raise InputError(
            f"{path}: a stack of volumes ({count}space group {header.ispg}): one map a file is needed"
        )
    if header.ispg in (0, 1) and 0 < depth < sections and sections % depth == 0:
        kind = (
            f"{sections // depth} volumes of {depth} sections"
            if depth > 1
            else f"{sections} images"
        )
        raise InputError(
            f"{path}: a stack of {kind} (NZ {sections}, MZ {depth}): one 3-D map is needed; if it is one, "
            f"set MZ to {sections}"
        )
    angles = np.array(header.cellb.tolist())
    if angles.any() and not np.allclose(angles, 90, rtol=0, atol=0.1):  # all zero: left empty
        raise InputError(
            f"{path}: cell angles {_numbers(angles)} degrees: an orthogonal cell (90, 90, 90) is needed"
        )


def _set_sampling(
    path: str, header: np.recarray, given: float | None, absent: float | None
) -> float:
    """The sampling rate, A/voxel; where a given one contradicts the header, the header is corrected."""
    low, high = SAMPLING_LIMITS
    if given is not None and not low <= given <= high:
        raise InputError(
            f"{path}: sampling rate {given:g} A/voxel was given: between {low:g} and {high:g} is needed"
        )
    intervals = np.array([header.mx, header.my, header.mz], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        voxel = np.array(header.cella.tolist()) / intervals
    voxel[(intervals <= 0) | ~np.isfinite(voxel)] = 0
    edges = " x ".join(f"{edge:.6g}" for edge in voxel)
    if given is None and not voxel.any():
        given = absent
    if given is None:
        if (voxel <= 0).any():
            raise InputError(
                f"{path}: the header's sampling rate is {edges} A/voxel (x, y, z): pass the right one (-s)"
            )
        if voxel.max() > (1 + ANISOTROPY_LIMIT) * voxel.min():
            raise InputError(
                f"{path}: voxels are anisotropic, {edges} A (x, y, z): resample the map to cubic voxels, "
                "or pass the sampling rate (-s) if the header is wrong"
            )
        if not (low <= voxel.min() and voxel.max() <= high):
            raise InputError(
                f"{path}: the header's sampling rate is {edges} A/voxel (x, y, z): "
                f"between {low:g} and {high:g} is needed; pass the right one (-s)"
            )
        return round(float(voxel.mean()), 6)  # the cell is float32: 1.35, not 1.3500000238
    if not np.allclose(voxel, given, rtol=SAMPLING_TOLERANCE, atol=0):
        if voxel.any():
            _warn(
                f"{path}: the header says {edges} A/voxel (x, y, z); the given {given:g} is used, and written to the output"
            )
        intervals = np.where(
            intervals > 0, intervals, _by_axis(header, (header.nz, header.ny, header.nx))
        )
        header.mx, header.my, header.mz = (int(n) for n in intervals)
        header.cella = tuple(intervals * given)
        scale = np.where(voxel > 0, given / np.where(voxel > 0, voxel, 1), 1)
        header.origin = tuple(np.array(header.origin.tolist()) * scale)
    return float(given)


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
                f"{path}: truncated: {index * buffer.size + count} bytes of voxels, and the header announces "
                f"{len(sections) * buffer.size} ({header.nx} x {header.ny} x {header.nz}, mode {header.mode})"
            )
        section[...] = buffer.view(dtype).reshape(section.shape)
    surplus = 0
    while rest := stream.read(2**20):  # to the end, where compressed files have their checksum
        surplus += len(rest)
    if surplus:
        _warn(
            f"{path}: {surplus} bytes more than the header announces follow the voxels; they are ignored"
        )
    return data


def _check_finite(path: str, data: np.ndarray) -> None:
    if np.isfinite(data.min()) and np.isfinite(
        data.max()
    ):  # NaN is the minimum of whatever holds one
        return
    counts = [np.count_nonzero(~np.isfinite(plane)) for plane in data]
    z = int(np.flatnonzero(counts)[0])
    y, x = np.argwhere(~np.isfinite(data[z]))[0]
    raise InputError(
        f"{path}: {sum(counts)} NaN or infinite voxels, the first at z, y, x = {z}, {y}, {x}: none may be"
    )


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


def _compressing(
    path: str, raw: BufferedIOBase
) -> contextlib.AbstractContextManager[BufferedIOBase]:
    name, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() == ".gz":
        return gzip.GzipFile(
            name, "wb", compresslevel=6, fileobj=raw, mtime=0
        )  # the same map gives the same bytes
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


# What a map looks like


def _constant_fraction(data: np.ndarray) -> tuple[float, float]:
    """Fraction of the ellipsoid of 0.9 of the box that holds the most frequent value, and that value.

    The second most frequent value is taken off: in a map that was stored as integers, every value is frequent.
    """
    step = max(1, round((data.size / 1e6) ** (1 / 3)))
    sample = data[::step, ::step, ::step]
    z, y, x = (((np.arange(n) - n // 2) / (0.45 * n)) ** 2 for n in data.shape)
    sphere = (z[::step, None, None] + y[::step, None] + x[::step]) < 1
    values, counts = np.unique(sample[sphere], return_counts=True)
    first = int(np.argmax(counts))
    second = np.delete(counts, first).max(initial=0)
    return float(counts[first] - second) / np.count_nonzero(sphere), float(values[first])


def _b_factor(data: np.ndarray, sampling_rate: float) -> float | None:
    """B factor of a map's amplitudes, A^2, by a Guinier fit of ln F against 1/d^2 from 10 A to 4 A, where there is signal.

    White noise looks sharpened, so signal counts alone: shells where the middle of the box has twice the power of its rim,
    whose power is taken off. Where even the shells from 25 to 10 A have none, the box holds no solvent to compare with, and
    all is taken for signal. None where fewer than five shells remain.

    Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721-745 (the fit beyond 10 A).
    """
    finest = max(4.0, 2.1 * sampling_rate)
    frequency, middle, rim = _two_spectra(data, sampling_rate, 1 / finest)
    signal = middle > 2 * rim
    coarse = (frequency >= 0.04) & (frequency < 0.1)
    if np.count_nonzero(signal & coarse) < 0.5 * np.count_nonzero(coarse):
        rim, signal = np.zeros_like(rim), np.ones_like(signal)
    fitted = signal & (frequency >= 0.1) & (frequency <= 1 / finest)
    if np.count_nonzero(fitted) < 5:
        return None
    log_amplitude = 0.5 * np.log(np.maximum(middle - rim, np.finfo(float).tiny)[fitted])
    return -4 * float(np.polyfit(frequency[fitted] ** 2, log_amplitude, 1)[0])


def _two_spectra(
    data: np.ndarray, sampling_rate: float, highest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power per voxel in shells up to a frequency (1/A): frequencies, middle of the box, rim up to the reconstruction sphere.

    Soft windows; planes are transformed one by one and only the wanted frequencies kept, so that it costs little memory.
    """
    frequencies = [
        np.fft.fftfreq(data.shape[0], sampling_rate),
        np.fft.fftfreq(data.shape[1], sampling_rate),
        np.fft.rfftfreq(data.shape[2], sampling_rate),
    ]
    kept = [np.abs(f) <= highest for f in frequencies]
    kz, ky, kx = (f[k] for f, k in zip(frequencies, kept, strict=True))
    z, y, x = ((np.arange(n, dtype=np.float32) - n // 2) / (n / 2) for n in data.shape)
    mean = np.float32(data.mean(dtype=np.float64))
    peak = max(
        data.max() - mean, mean - data.min(), np.finfo(np.float32).tiny
    )  # so that squares stay within float32
    shape = len(z), len(ky), len(kx)
    transforms, weights = (np.empty(shape, np.complex64), np.empty(shape, np.complex64)), [0.0, 0.0]
    for index, plane in enumerate(data):
        radius = np.sqrt(z[index] ** 2 + y[:, None] ** 2 + x**2)  # 1 at the faces of the box
        middle = _falling(radius, 0.6, 0.8)
        for k, window in enumerate((middle, (1 - middle) * _falling(radius, 0.85, 0.95))):
            transforms[k][index] = fft.rfft2((plane - mean) / peak * window)[kept[1]][:, kept[2]]
            weights[k] += float(np.square(window).sum())
    length = max(data.shape) * sampling_rate
    shell = (
        np.rint(np.sqrt(kz[:, None, None] ** 2 + ky[:, None] ** 2 + kx**2) * length)
        .astype(np.int32)
        .ravel()
    )
    counts = np.bincount(shell)
    spectra = []
    for transform, weight in zip(transforms, weights, strict=True):
        power = np.abs(fft.fft(transform, axis=0)[kept[0]]) ** 2
        spectra.append(np.bincount(shell, power.ravel()) / np.maximum(counts, 1) / max(weight, 1.0))
    return np.arange(len(counts)) / length, spectra[0], spectra[1]


def _falling(radius: np.ndarray, start: float, end: float) -> np.ndarray:
    """Raised cosine from 1 at `start` to 0 at `end`."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - start) / (end - start), 0, 1))


# Words


def _warn(message: str) -> None:
    warnings.warn(message, MapWarning, stacklevel=3)


def _box(volume: Map) -> str:
    return " x ".join(map(str, volume.data.shape))


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
