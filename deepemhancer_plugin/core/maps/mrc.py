"""Maps in and out: MRC and CCP4, with the geometry kept to the last header field.

In memory a map is always a C-contiguous float32 array (z, y, x); in the file it may have any axis
order, byte order, real mode and compression. Files are read and written one section at a time, so
that a map costs its voxels once and no more. What is read besides stands in `formats`.
"""

import bz2
import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np
from mrcfile.utils import data_dtype_from_header

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import StrPath, replacing
from deepemhancer_plugin.core.maps.formats import FOREIGN, read_foreign
from deepemhancer_plugin.core.maps.header import (
    SAMPLING_TOLERANCE,
    add_labels,
    by_axis,
    check_sampling_rate,
    check_surplus,
    format_numbers,
    header_of_volume,
    in_file_order,
    new_header,
    read_header,
    set_sampling,
    truncation_error,
    voxel_type,
    warn_of_unit,
)

POSITION_TOLERANCE = 0.01  # voxels
NO_FILE = "no such file"
FLOAT16_LIMITS = 0.01, 65504.0  # what a map's largest value must lie within to be kept as float16


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

    Compressed files (.gz and .bz2), arrays of NumPy (.npy) and maps of EMAN (.hdf) are recognised
    by their content. Of a link, messages name the target.

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
        MapWarning: `sampling_rate` differs from the header's, or looks like nm; what was mended in
            the header (see `header`); more bytes than the header says.
    """
    volume = read_values(os.fspath(path), sampling_rate)
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
    x, y, z = (float(value) for value in origin)
    header = new_header(data.shape, sampling_rate, (x, y, z))
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
        data = copy_voxels(source.path or name, source.data)
        header = source.header.copy()
        rate = source.sampling_rate if sampling_rate is None else sampling_rate
        rate = set_sampling(source.path or name, header, rate)
        volume = _make_map(data, rate, header, source.extended_header, source.path or name)
    else:
        data = copy_voxels(name, source)
        if sampling_rate is None:
            raise InputError(f"{name}: an array has no sampling rate: pass it in A/voxel")
        check_sampling_rate(name, sampling_rate)
        warn_of_unit(name, data.shape, sampling_rate)
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
    check_same_sampling(volume, like)
    if not same_position(volume, like):
        raise InputError(
            f"{volume.path}: its first voxel lies at {format_numbers(volume.position)} A "
            f"(x, y, z): it must be {format_numbers(like.position)}, as {like.path}"
        )


def write_map(
    path: StrPath,
    data: np.ndarray,
    like: Map,
    labels: Sequence[str] = (),
    float16: bool = False,
) -> None:
    """Write voxels with the geometry of another map; all or nothing.

    The mode is 2 (float32) or 12 (float16); byte order, axis order, cell, start, origin and
    extended header are those of `like`, and so is the space group where it is that of a crystal;
    others become 1 (P1, as a single volume has it). Angles that were left empty become 90 degrees,
    an unknown version of the format that of MRC2014.
    Statistics are computed anew. Labels are added behind the old ones, and the oldest go when the
    ten places are full; blank ones are not kept. A path that ends with .gz or .bz2 is compressed.
    The file appears under its name when it is complete.

    Args:
        path: The file; an older one is replaced.
        data: Voxels (z, y, x), in the box of `like`.
        like: Where the geometry comes from; its `data` is not looked at.
        labels: ASCII, up to 80 characters each; the rest is cut off.
        float16: Half the size, with three digits of each value.

    Raises:
        InputError: The file cannot be written (disk full, no permission); values beyond float16;
            a name that ends as that of another format.
        ValueError: `data` is not in the box of `like`.
    """
    path = os.fspath(path)
    check_output_name(path)
    if float16:
        _check_float16(path, data)
        data = data.astype(np.float16).astype(np.float32)
    header = header_of_volume(like.header, float16)
    sections = in_file_order(data, header)
    if sections.shape != (header.nz, header.ny, header.nx):
        raise ValueError(f"{path}: voxels {data.shape} do not fit the box of {like.path}")
    header.dmin, header.dmax, header.dmean, header.rms = _statistics(data)
    add_labels(header, labels)
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


def check_output_name(path: StrPath) -> None:
    """Raise InputError for an output that is named as another format than MRC."""
    if os.fspath(path).lower().endswith(FOREIGN):
        raise InputError(f"output {path}: what is written is MRC: let the name end with .mrc")


# Checks


def copy_voxels(name: str, data: object) -> np.ndarray:
    """Copy an array as float32 (z, y, x); InputError where it is no real, finite 3-D map."""
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


def check_same_sampling(volume: Map, like: Map) -> None:
    """Raise InputError for a map with another box or sampling rate."""
    if volume.data.shape != like.data.shape:
        raise InputError(
            f"{volume.path}: box {_box(volume)} (z, y, x): it must be {_box(like)}, as {like.path}"
        )
    if abs(volume.sampling_rate - like.sampling_rate) > SAMPLING_TOLERANCE * like.sampling_rate:
        raise InputError(
            f"{volume.path}: sampling rate {volume.sampling_rate:g} A/voxel: it must be "
            f"{like.sampling_rate:g}, as {like.path}; pass it (-s) if a header is wrong"
        )


def same_position(volume: Map, like: Map) -> bool:
    """Tell whether the first voxels of two maps lie in one place."""
    tolerance = POSITION_TOLERANCE * like.sampling_rate
    return bool(np.allclose(volume.position, like.position, rtol=0, atol=tolerance))


# Reading


def read_values(
    path: str,
    sampling_rate: float | None,
    absent: float | None = None,
    box: tuple[int, ...] | None = None,
) -> Map:
    """Read a map, constant or not.

    Args:
        path: The file.
        sampling_rate: A/voxel; wins over the header's.
        absent: A/voxel where the file has none.
        box: Box (z, y, x) that a file must have for `sampling_rate` to hold for it.

    Raises:
        InputError: As `read_map`, but for a constant map.

    Warns:
        MapWarning: As `read_map`.
    """
    name = _check_file(path)
    try:
        foreign = read_foreign(name)
        if foreign is not None:
            return _map_of_array(name, *foreign, sampling_rate, absent, box)
        with _decompressing(name) as stream:
            header = read_header(name, stream)
            shape = by_axis(header, (header.nz, header.ny, header.nx))[::-1]
            given = sampling_rate if box in (None, shape) else None
            rate = set_sampling(name, header, given, absent)
            extended_header = stream.read(int(header.nsymbt))
            if len(extended_header) < header.nsymbt:
                raise InputError(
                    f"{name}: truncated: the extended header has {len(extended_header)} of "
                    f"{header.nsymbt} bytes"
                )
            data = _voxels(name, header, stream)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    _check_finite(name, data)
    return _make_map(data, rate, header, extended_header, name)


def _check_file(path: str) -> str:
    """The name of a regular file, a link's target; InputError where there is none."""
    name = os.path.realpath(path) if os.path.islink(path) else path
    if not os.path.exists(path):
        raise InputError(f"{path}: " + (f"a link to {name}: " if name != path else "") + NO_FILE)
    if os.path.isdir(path):
        raise InputError(f"{path}: a folder: give a map in it")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{path}: a device or pipe: give the name of a regular file")
    return name


def _map_of_array(
    path: str,
    data: np.ndarray,
    rate: float | None,
    origin: Sequence[float],
    given: float | None,
    absent: float | None,
    box: tuple[int, ...] | None,
) -> Map:
    """The map of another format's voxels; arguments as of `read_foreign` and `read_values`."""
    voxels = copy_voxels(path, data)
    if box not in (None, voxels.shape):
        given = None
    known = rate or given or absent
    if known is None:
        raise InputError(f"{path}: no sampling rate in the file: pass it (-s)")
    header = new_header(voxels.shape, known, origin)
    return _make_map(voxels, set_sampling(path, header, given), header, b"", path)


def _make_map(
    data: np.ndarray, rate: float, header: np.recarray, extended_header: bytes, path: str
) -> Map:
    """The map of voxels and a header."""
    origin = float(header.origin.x), float(header.origin.y), float(header.origin.z)
    nstart = by_axis(header, (header.nzstart, header.nystart, header.nxstart))
    return Map(data, rate, origin, nstart, header, extended_header, path)


def _decompressing(path: str) -> BufferedIOBase:
    with open(path, "rb") as stream:
        start = stream.read(3)
    if start == b"\x1f\x8b\x08":
        return gzip.GzipFile(path)
    if start == b"BZh":
        return bz2.BZ2File(path)
    return open(path, "rb")


def _voxels(path: str, header: np.recarray, stream: BufferedIOBase) -> np.ndarray:
    """The voxels, float32 (z, y, x), read section by section."""
    dtype = voxel_type(path, header)
    nx, ny, nz = by_axis(header, (header.nz, header.ny, header.nx))
    try:
        data = np.empty((nz, ny, nx), np.float32)
    except MemoryError as error:
        raise InputError(
            f"{path}: a box of {nz} x {ny} x {nx} (z, y, x) does not fit into memory"
        ) from error
    sections = in_file_order(data, header)
    buffer = np.empty(sections[0].size * dtype.itemsize, np.uint8)
    for index, section in enumerate(sections):
        count = stream.readinto(buffer.data)
        if count < buffer.size:
            raise truncation_error(path, header, index * buffer.size + count)
        section[...] = buffer.view(dtype).reshape(section.shape)
    surplus = 0
    # To the end, where compressed files have their checksum.
    while rest := stream.read(2**20):
        surplus += len(rest)
    check_surplus(path, header, surplus)
    return data


# Writing


def _check_float16(path: str, data: np.ndarray) -> None:
    """Refuse values that float16 does not hold."""
    largest = float(max(data.max(), -data.min()))
    low, high = FLOAT16_LIMITS
    if largest and not low <= largest <= high:
        raise InputError(
            f"output {path}: values up to {largest:g}: float16 keeps from {low:g} to {high:g}: "
            "write float32"
        )


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


# Words


def _box(volume: Map) -> str:
    return " x ".join(map(str, volume.data.shape))
