"""Maps of NumPy and EMAN, and files of other formats."""

import h5py
import mrcfile
import numpy as np
import pytest
from map_files import noise, refused

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps import masks, mrc


def eman(path, data, images=1, **attributes):
    """An HDF file as EMAN2 writes it."""
    with h5py.File(path, "w") as file:
        for index in range(images):
            group = file.create_group(f"MDF/images/{index}")
            group["image"] = data
            for name, value in attributes.items():
                group.attrs[f"EMAN.{name}"] = np.array([value])
    return path


APIX = {f"apix_{axis}": 1.4 for axis in "xyz"}


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "f2", "u1"])
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_numpy(tmp_path, dtype, order):
    given = np.asarray(np.arange(60).reshape(3, 4, 5), dtype, order=order)
    np.save(tmp_path / "map.npy", given)
    volume = mrc.read_map(tmp_path / "map.npy", 1.5)
    np.testing.assert_array_equal(volume.data, given)
    assert (volume.sampling_rate, volume.position) == (1.5, (0, 0, 0))
    volume.data[:] = 0
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    assert mrcfile.validate(tmp_path / "out.mrc")


def test_an_array_of_numpy_has_no_sampling_rate(tmp_path):
    np.save(tmp_path / "map.npy", noise())
    assert "no sampling rate in the file: pass it (-s)" in refused(
        mrc.read_map, tmp_path / "map.npy"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (noise()[0], "a 3-D map"),
        (noise() * 1j, "real numbers"),
        (np.array([{}]), "cannot be read"),
        (np.full((3, 3, 3), np.nan), "NaN"),
        (np.ones((3, 3, 3)), "all voxels are 1"),
    ],
)
def test_arrays_of_numpy_that_are_no_map(tmp_path, data, words):
    np.save(tmp_path / "map.npy", data)
    assert words in refused(mrc.read_map, tmp_path / "map.npy", 1.0)


def test_a_damaged_array_and_an_archive(tmp_path):
    np.save(tmp_path / "map.npy", noise())
    (tmp_path / "map.npy").write_bytes((tmp_path / "map.npy").read_bytes()[:-8])
    assert "cannot be read" in refused(mrc.read_map, tmp_path / "map.npy", 1.0)
    np.savez(tmp_path / "map.npz", noise())
    assert "an archive" in refused(mrc.read_map, tmp_path / "map.npz", 1.0)


def test_masks_of_numpy(tmp_path):
    like = mrc.new_map(noise(), 1.25)
    np.save(tmp_path / "mask.npy", noise() > 0)
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "mask.npy", like), noise() > 0)


def test_maps_of_eman(tmp_path):
    path = eman(tmp_path / "map.hdf", noise(), **APIX, origin_x=3, origin_y=-4, origin_z=5)
    volume = mrc.read_map(path)
    np.testing.assert_array_equal(volume.data, noise())
    assert (volume.sampling_rate, volume.position) == (1.4, (3, -4, 5))
    with pytest.warns(MapWarning, match="the header says 1.4"):
        assert mrc.read_map(path, 1.5).sampling_rate == 1.5


def test_maps_of_eman_stored_as_integers_over_a_range(tmp_path):
    stored = (np.arange(60) * 4).reshape(3, 4, 5).astype("u1")
    path = eman(
        tmp_path / "map.hdf",
        stored,
        **APIX,
        stored_renderbits=8,
        stored_rendermin=-2.0,
        stored_rendermax=3.0,
    )
    np.testing.assert_allclose(mrc.read_map(path).data, stored / 255 * 5 - 2, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "attributes", "words"),
    [
        (1, {}, "no sampling rate"),
        (3, APIX, "a stack of 3 images"),
        (0, APIX, "no map of EMAN"),
        (1, APIX | {"apix_z": 2.0}, "anisotropic"),
        (1, {f"apix_{axis}": 0.14 for axis in "xyz"}, "in nm? pass -s 1.4"),
    ],
)
def test_hdf_that_is_no_map(tmp_path, images, attributes, words):
    assert words in refused(mrc.read_map, eman(tmp_path / "m.hdf", noise(), images, **attributes))


def test_damaged_hdf(tmp_path):
    path = eman(tmp_path / "map.hdf", noise(), **APIX)
    path.write_bytes(path.read_bytes()[:400])
    assert "cannot be read" in refused(mrc.read_map, path)


@pytest.mark.parametrize("name", ["out.npy", "out.HDF", "out.em", "out.tif"])
def test_outputs_are_not_named_as_another_format(tmp_path, name):
    volume = mrc.new_map(noise(), 1.25)
    assert "what is written is MRC" in refused(mrc.write_map, tmp_path / name, volume.data, volume)
