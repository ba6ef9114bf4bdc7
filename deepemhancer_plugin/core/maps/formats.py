"""Maps of other programs than MRC's, known by their content: arrays of NumPy, and EMAN's HDF.

SPIDER's and TOM's (.em) are not read: no library that is kept up reads their volumes.
"""

import numpy as np

from deepemhancer_plugin.core.errors import InputError

# Endings of formats that are not written, and most of them not read.
FOREIGN = (
    *(".npy", ".npz", ".hdf", ".hdf5", ".h5"),
    *(".em", ".spi", ".spider", ".vol", ".img", ".hed", ".tif", ".tiff", ".dm3", ".dm4", ".cif"),
)
_NUMPY, _ZIP, _HDF = b"\x93NUMPY", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_IMAGES = "MDF/images"  # of EMAN's files

Foreign = tuple[np.ndarray, float | None, tuple[float, float, float]]


def read_foreign(path: str) -> Foreign | None:
    """Read a map that is no MRC file.

    Args:
        path: The file.

    Returns:
        Voxels (z, y, x) of any type, A/voxel where the file tells it, and the position (x, y, z)
        of the first voxel in A; None where the content is none of the known formats.

    Raises:
        InputError: The file is damaged, or holds something else than one map.
        OSError: It cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(8)
    if start.startswith(_NUMPY):
        return _read_numpy(path), None, (0.0, 0.0, 0.0)
    if start.startswith(_ZIP):
        raise InputError(f"{path}: an archive (.npz, .zip): give the map in it, as .npy or .mrc")
    return _read_eman(path) if start == _HDF else None


def describe_remedy(path: str) -> str:
    """Say what to do with a file of a format that is not read, by its ending; else nothing."""
    if not path.lower().endswith(FOREIGN):
        return ""
    return (
        "; read are MRC, .npy and EMAN's .hdf: convert others with EMAN's e2proc3d.py or RELION's "
        "relion_image_handler"
    )


def _read_numpy(path: str) -> np.ndarray:
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: an array (.npy) that cannot be read: {error}") from error
    return data.view(np.uint8) if data.dtype == bool else data


def _read_eman(path: str) -> Foreign:
    """The map of an EMAN file, in which images are numbered."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        images = file.get(_IMAGES)
        names = [name for name in images or () if "image" in images[name]]
        if not names:
            raise InputError(f"{path}: HDF5, but no map of EMAN ({_IMAGES}/0/image)")
        if len(names) > 1:
            raise InputError(f"{path}: a stack of {len(names)} images: one 3-D map is needed")
        group = images[names[0]]
        data = group["image"][()]

        def attribute(name: str) -> float:
            return float(np.ravel(group.attrs.get(f"EMAN.{name}", 0))[0])

        rates = [attribute(f"apix_{axis}") for axis in "xyz"]
        bits = int(attribute("stored_renderbits"))
        low, high = attribute("stored_rendermin"), attribute("stored_rendermax")
        origin = attribute("origin_x"), attribute("origin_y"), attribute("origin_z")
    if bits > 0 and high != low:  # stored as integers over a range
        data = low + data.astype(np.float32) * np.float32((high - low) / (2**bits - 1))
    if not np.allclose(rates, rates[0], rtol=0.01):
        raise InputError(f"{path}: voxels are anisotropic, {rates} A: resample to cubic voxels")
    return data, rates[0] if rates[0] > 0 else None, origin
