"""Headers that contradict the file or themselves: mended with a warning, or refused."""

import gzip
import struct
import warnings

import mrcfile
import numpy as np
import pytest
from map_files import make, noise, refused

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps import mrc

SHAPE = 6, 7, 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "map.mrc"


def edit(path, offset, form, *values):
    """Change one field of a file's header."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)


def read(path, words):
    """A map that is read with one warning."""
    with pytest.warns(MapWarning, match=words) as caught:
        volume = mrc.read_map(path)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    return volume


# The name of the format


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_no_map_string_and_no_stamp(path, tmp_path, order, compress):
    """As cryoDRGN wrote before 2023."""
    make(path, order=order, map=b"", machst=(0, 0, 0, 0), extended=bytes(160), exttyp=b"CCP4")
    path.write_bytes(compress(path.read_bytes()))
    volume = read(path, "no 'MAP' at byte 209; read as an MRC map")
    np.testing.assert_array_equal(volume.data, noise())
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    assert mrcfile.validate(tmp_path / "out.mrc")


@pytest.mark.parametrize("change", [-1, 1, 80])
def test_no_map_string_in_a_file_of_another_size(path, change):
    make(path, map=b"")
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    assert "not an MRC file: no 'MAP' at byte 209" in refused(mrc.read_map, path)


def spider():
    """A SPIDER volume of 32^3 voxels."""
    header = np.zeros(256, "<f4")
    header[[0, 1, 4, 11, 12, 21, 22]] = 32, 32, 3, 32, 8, 1024, 128
    return header.tobytes() + bytes(4 * 32**3)


def em():
    """An .em volume of 32^3 voxels."""
    return struct.pack("<4B3i", 6, 0, 0, 5, 32, 32, 32).ljust(512, b"\0") + bytes(4 * 32**3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("random.mrc", np.random.default_rng(0).bytes(132096)),
        ("image.tif", b"II*\0" + bytes(132092)),
        ("map.spi", spider()),
        ("map.em", em()),
    ],
)
def test_other_formats_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(mrc.read_map, path)
    assert "not an MRC file" in message
    assert ("e2proc3d.py" in message) == (name != "random.mrc")


def test_stamps_of_old_programs(path):
    for stamp in ((0x44, 0x41, 0, 0), (0x44, 0x44, 0, 0)):
        make(path, machst=stamp)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mrc.read_map(path)
    make(path, machst=(0x44, 0x20, 0x20, 0x20))
    read(path, "wrong machine stamp 44 20 20 20")
    make(path, order=">", machst=(0x44, 0x44, 0, 0))
    np.testing.assert_array_equal(read(path, "read as big-endian").data, noise())


# Extended header


@pytest.mark.parametrize("length", [-4, 80, 1024, 2**30])
def test_extended_header_that_the_file_does_not_have(path, tmp_path, length):
    make(path, nsymbt=length)
    volume = read(path, f"an extended header of {length} bytes")
    np.testing.assert_array_equal(volume.data, noise())
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    assert mrcfile.validate(tmp_path / "out.mrc")


def test_extended_header_of_impossible_length(path):
    make(path, nsymbt=-4, tail=b"more")
    assert "an extended header of -4 bytes" in refused(mrc.read_map, path)


def test_extended_header_with_a_name_and_no_length(path):
    make(path, exttyp=b"FEI1", tail=bytes(768))
    message = refused(mrc.read_map, path)
    assert "768 bytes more" in message and "FEI1" in message and "set NSYMBT" in message


@pytest.mark.parametrize("kind", [b"", b"CCP4", b"\xff\xfe\0a"])
def test_any_name_of_the_extended_header(path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(path, exttyp=kind, extended=bytes(81))
        np.testing.assert_array_equal(mrc.read_map(path).data, noise())
        make(path, exttyp=kind)
        np.testing.assert_array_equal(mrc.read_map(path).data, noise())


def test_twice_the_voxels_that_the_header_announces(path):
    """Its mode says two bytes a voxel, its file has four."""
    make(path)
    edit(path, 12, "<i", 1)
    assert "box or mode is wrong" in refused(mrc.read_map, path)


# Modes


def bytes_of(path, values, **fields):
    make(path, np.zeros(SHAPE), mode=0, **fields)
    path.write_bytes(path.read_bytes()[:1024] + values.astype("u1").tobytes())


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("flags", "signed"), [(1, True), (0, False), (6, False), (7, True)])
def test_bytes_are_signed_as_imod_says(path, order, flags, signed):
    values = np.arange(336).reshape(SHAPE) % 256
    bytes_of(path, values, order=order)
    edit(path, 152, f"{order}2i", 1146047817, flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = mrc.read_map(path).data
    np.testing.assert_array_equal(data, values.astype("u1").view("i1" if signed else "u1"))


def test_bytes_over_127_by_the_header_are_unsigned(path):
    values = np.arange(336).reshape(SHAPE) % 256
    bytes_of(path, values, dmin=0, dmax=255)
    np.testing.assert_array_equal(read(path, "read as unsigned").data, values)


@pytest.mark.parametrize("limits", [(-128, 127), (0, 0), (0, -1), (np.nan, np.nan), (0, 1e9)])
def test_bytes_are_signed_else(path, limits):
    bytes_of(path, np.arange(336).reshape(SHAPE) % 256, dmin=limits[0], dmax=limits[1])
    assert mrc.read_map(path).data.min() == -128


# Places and counts


@pytest.mark.parametrize("origin", [(np.nan, 0, 0), (0, np.inf, 0), (3e30, 1, 2)])
def test_an_origin_that_is_none(path, tmp_path, origin):
    """Two halves with such origins still lie in one place."""
    make(path, origin=origin)
    volume = read(path, "the header's origin .* is none")
    assert volume.position == (0, 0, 0)
    second = mrc.read_map(make(tmp_path / "second.mrc", noise(seed=1)))
    mrc.check_halves(volume, second)


@pytest.mark.parametrize("count", [-3, 11, 2**31 - 1])
def test_a_wrong_number_of_labels(path, tmp_path, count):
    volume = mrc.read_map(make(path, labels=[b"one", b"two"], nlabl=count))
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume, ["three"])
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert file.header.nlabl == 3
        assert file.header.label[:3].tolist() == [b"one", b"two", b"three"]


def test_a_stack_of_one_volume_is_a_map(path, tmp_path):
    """Many programs write arrays of four axes."""
    with mrcfile.new(path, noise()[None]) as file:
        file.voxel_size = 1.25
    volume = mrc.read_map(path)
    np.testing.assert_array_equal(volume.data, noise())
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert file.is_volume()


@pytest.mark.parametrize("group", [0, -5, 10**6, 401])
def test_space_groups_of_no_volume_become_1(path, tmp_path, group):
    volume = mrc.read_map(make(path, ispg=group))
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert file.header.ispg == 1
    assert mrcfile.validate(tmp_path / "out.mrc")


def test_statistics_of_the_header_are_not_believed(path, tmp_path):
    volume = mrc.read_map(make(path, dmin=np.nan, dmax=-1e30, dmean=7, rms=np.inf))
    np.testing.assert_array_equal(volume.data, noise())


@pytest.mark.parametrize("fields", [{"mx": 0}, {"my": -7}, {"mz": 0, "cella": (10, 8.75, 0)}])
def test_intervals_that_are_none_need_a_sampling_rate(path, fields):
    make(path, **fields)
    assert "pass the right one (-s)" in refused(mrc.read_map, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        assert mrc.read_map(path, 1.25).header[["mx", "my", "mz"]].tolist() == (8, 7, 6)


# Units


@pytest.mark.parametrize(
    ("rate", "hint"),
    [
        (0.108, "in nm? pass -s 1.08"),
        (108, "in pm? pass -s 1.08"),
        (1.08e-10, "in m? pass -s 1.08"),
    ],
)
def test_a_sampling_rate_in_another_unit(path, rate, hint):
    make(path, voxel=rate)
    message = refused(mrc.read_map, path)
    assert "between 0.2 and 50 is needed" in message and hint in message
    make(path)
    for given in (path, mrc.read_map(path), noise()):
        assert hint in refused(mrc.as_map, given, rate)


@pytest.mark.parametrize(("rate", "box"), [(0.21, 64), (0.29, 300), (0.4, 48)])
def test_a_small_box_or_a_fine_sampling_is_warned_about(path, rate, box):
    make(path, noise((3, 4, box)), voxel=rate)
    assert read(path, rf"in nm\? pass -s {10 * rate:g}").sampling_rate == rate
    with pytest.warns(MapWarning, match="in nm"):
        mrc.as_map(noise((3, 4, box)), rate)


@pytest.mark.parametrize(("rate", "box"), [(0.3, 200), (0.5, 8), (0.45, 64), (3.5, 4)])
def test_real_boxes_are_not(path, rate, box):
    make(path, noise((3, 4, box)), voxel=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mrc.read_map(path).sampling_rate == pytest.approx(rate)
