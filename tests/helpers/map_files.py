"""MRC files made from the bytes up, for the tests of what reads them."""

import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE

from deepemhancer_plugin.core.errors import InputError

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def noise(shape=(6, 7, 8), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(
    path,
    data=None,
    *,
    mode=2,
    order="<",
    axes=(1, 2, 3),
    voxel=1.25,
    margin=(0, 0, 0),
    nstart=(0, 0, 0),
    extended=b"",
    labels=(),
    tail=b"",
    **fields,
):
    """Write voxels (z, y, x) by the book.

    nstart and margin (of the cell over the box) are x, y, z; fields go into the header.
    """
    data = noise() if data is None else data
    lengths, in_file = data.shape[::-1], [2 - (axis - 1) for axis in axes[::-1]]
    header = np.zeros((), HEADER_DTYPE.newbyteorder(order))
    for names, values in [
        (("nx", "ny", "nz"), lengths),
        (("nxstart", "nystart", "nzstart"), nstart),
    ]:
        for name, axis in zip(names, axes, strict=True):
            header[name] = values[axis - 1]
    intervals = [n + m for n, m in zip(lengths, margin, strict=True)]
    header["mx"], header["my"], header["mz"] = intervals
    header["cella"] = tuple(n * voxel for n in intervals)
    header["cellb"] = 90, 90, 90
    header["mapc"], header["mapr"], header["maps"] = axes
    header["mode"], header["ispg"], header["nversion"], header["map"] = mode, 1, 20141, b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0) if order == "<" else (0x11, 0x11, 0, 0)
    header["nsymbt"], header["nlabl"] = len(extended), len(labels)
    header["label"][: len(labels)] = labels
    for name, value in fields.items():
        header[name] = value
    voxels = np.ascontiguousarray(data.transpose(in_file)).astype(
        np.dtype(MODES.get(mode, "f4")).newbyteorder(order)
    )
    path.write_bytes(header.tobytes() + extended + voxels.tobytes() + tail)
    return str(path)


def refused(function, *args, **kwargs):
    """The one line with which something is refused."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
