"""Maps in and out.

Files are made from the bytes up, and read with gemmi and mrcfile for comparison.
"""

import bz2
import errno
import gzip
import itertools
import os
import warnings

import gemmi
import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_files import MODES, make, noise, refused
from mrcfile.dtypes import HEADER_DTYPE

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.maps import mrc

RECOMPUTED = {"mode", "dmin", "dmax", "dmean", "rms", "nlabl", "label"}


def header_of(path):
    with warnings.catch_warnings(), mrcfile.open(path, header_only=True) as mrc_file:
        return mrc_file.header.copy(), mrc_file.extended_header.tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "map.mrc"


# Reading


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("mode", MODES)
def test_modes_and_byte_orders(path, mode, order):
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5) - (0 if mode == 6 else 30)
    volume = mrc.read_map(make(path, data, mode=mode, order=order))
    np.testing.assert_array_equal(volume.data, data)
    assert (
        volume.data.dtype == np.float32
        and volume.data.dtype.isnative
        and volume.data.flags.c_contiguous
    )


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compression_is_known_by_content(path, compress):
    make(path)
    path.write_bytes(compress(path.read_bytes()))
    np.testing.assert_array_equal(mrc.read_map(path).data, noise())


def test_geometry_is_told_in_x_y_z(path):
    volume = mrc.read_map(make(path, axes=(3, 1, 2), nstart=(-3, 4, 5), origin=(7, 8, 9)))
    assert (volume.sampling_rate, volume.nstart, volume.origin) == (1.25, (-3, 4, 5), (7, 8, 9))
    assert volume.path == str(path)


def test_position_is_origin_or_else_nstart(path):
    assert mrc.read_map(make(path, nstart=(-3, 4, 5), origin=(0, 8, 9))).position == (0, 8, 9)
    assert mrc.read_map(make(path, nstart=(-3, 4, 5))).position == (-3.75, 5, 6.25)


def test_sampling_rate_is_the_one_that_was_rounded_to_float32(path):
    assert mrc.read_map(make(path, voxel=1.083)).sampling_rate == 1.083


def test_axis_order_left_empty_means_x_y_z(path):
    volume = mrc.read_map(make(path, mapc=0, mapr=0, maps=0))
    np.testing.assert_array_equal(volume.data, noise())


def test_angles_left_empty_mean_90(path):
    assert mrc.read_map(make(path, cellb=(0, 0, 0))).sampling_rate == 1.25


def test_crystal_map_larger_than_its_cell_is_no_stack(path):
    np.testing.assert_array_equal(
        mrc.read_map(make(path, ispg=19, margin=(0, 0, -3))).data, noise()
    )


@pytest.mark.parametrize("order", "<>")
def test_wrong_machine_stamp_is_mended(path, tmp_path, order):
    make(path, order=order, machst=(0, 0, 0, 0))
    with pytest.warns(MapWarning, match="wrong machine stamp 00 00 00 00"):
        volume = mrc.read_map(path)
    np.testing.assert_array_equal(volume.data, noise())
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    assert mrcfile.validate(tmp_path / "out.mrc")


def test_bytes_behind_the_voxels_are_warned_about(path):
    make(path, tail=b"more")
    with pytest.warns(MapWarning, match="4 bytes more than the header announces"):
        np.testing.assert_array_equal(mrc.read_map(path).data, noise())


# Refused files


def test_missing_file(tmp_path):
    assert refused(mrc.read_map, tmp_path / "no.mrc") == f"{tmp_path / 'no.mrc'}: no such file"


def test_folder(tmp_path):
    assert "a folder" in refused(mrc.read_map, tmp_path)


def test_empty_file(path):
    path.touch()
    assert "empty file" in refused(mrc.read_map, path)


@pytest.mark.parametrize(
    "content",
    [
        b"HEADER    HYDROLASE",
        b"ATOM      1  N   MET A   1\n" * 100,
        bytes(4096),
        b"BZh9 is no bzip2" * 99,
        gzip.compress(b"HEADER" * 400),
    ],
)
def test_not_an_mrc_file(path, content):
    path.write_bytes(content)
    assert refused(mrc.read_map, path).startswith(f"{path}: ")


@pytest.mark.parametrize("fields", [{"nx": 0}, {"ny": -8}, {"nz": 10**9}, {"mode": 999}])
def test_headers_without_sense(path, fields):
    assert "not an MRC file" in refused(mrc.read_map, make(path, **fields))


@pytest.mark.parametrize(
    ("mode", "words"),
    [(3, "complex int16"), (4, "complex float32"), (101, "4-bit"), (7, "unknown")],
)
def test_unreadable_modes(path, mode, words):
    message = refused(mrc.read_map, make(path, mode=mode))
    assert f"mode {mode} is" in message and words in message and "12 (float16)" in message


@pytest.mark.parametrize("cut", [1, 60, 4 * 6 * 7 * 8])
def test_truncated_voxels(path, cut):
    make(path)
    path.write_bytes(path.read_bytes()[:-cut])
    message = refused(mrc.read_map, path)
    assert (
        "truncated" in message
        and f"{4 * 6 * 7 * 8 - cut} bytes" in message
        and f"announces {4 * 6 * 7 * 8}" in message
    )


def test_truncated_extended_header(path):
    make(path, extended=bytes(80))
    path.write_bytes(path.read_bytes()[:1030])
    assert "extended header has 6 of 80 bytes" in refused(mrc.read_map, path)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_truncated_compressed_file(path, compress):
    make(path)
    path.write_bytes(compress(path.read_bytes())[:-300])
    assert "cannot be read" in refused(mrc.read_map, path)


@pytest.mark.parametrize(
    ("compress", "tail"), [(gzip.compress, b""), (gzip.compress, b"more"), (bz2.compress, b"")]
)
def test_damaged_compressed_file(path, compress, tail):
    """One changed byte among the voxels gives other voxels: the checksum at the end tells."""
    make(path, tail=tail)
    packed = bytearray(compress(path.read_bytes()))
    packed[-200] ^= 1
    path.write_bytes(packed)
    assert "cannot be read" in refused(mrc.read_map, path)


def test_box_beyond_memory(path, monkeypatch):
    make(path, nx=60000, ny=60000, nz=60001)

    def empty(*_):
        raise MemoryError

    monkeypatch.setattr(mrc.np, "empty", empty)
    assert "60001 x 60000 x 60000 (z, y, x) does not fit into memory" in refused(mrc.read_map, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_voxels_are_counted_and_the_first_is_named(path, value):
    data = noise()
    data[3, 2, 5] = data[3, 4, 1] = data[5, 0, 0] = value
    message = refused(mrc.read_map, make(path, data, axes=(2, 3, 1)))
    assert "3 NaN or infinite voxels" in message and "z, y, x = 3, 2, 5" in message


def test_constant_map(path):
    assert "all voxels are 2.5" in refused(
        mrc.read_map, make(path, np.full((3, 4, 5), 2.5, np.float32))
    )


def test_2d_image(path):
    assert "a 2-D image (8 x 7 x 1)" in refused(mrc.read_map, make(path, noise((1, 7, 8))))


def test_image_stack(path):
    assert "a stack of 6 images" in refused(mrc.read_map, make(path, ispg=0, mz=1))


def test_stack_of_volumes_by_space_group(path):
    assert "a stack of volumes (2 volumes of 3 sections, space group 401)" in refused(
        mrc.read_map, make(path, ispg=401, mz=3)
    )


def test_stack_of_volumes_written_by_mrcfile(path):
    with mrcfile.new(path, noise((2, 4, 5, 6))):
        pass
    assert "2 volumes of 4 sections" in refused(mrc.read_map, path)


def test_stack_of_volumes_by_mz(path):
    message = refused(mrc.read_map, make(path, mz=2))
    assert "a stack of 3 volumes of 2 sections" in message and "set MZ to 6" in message


@pytest.mark.parametrize("axes", [(1, 1, 3), (0, 1, 2), (1, 2, 4), (-1, -2, -3)])
def test_axis_order_that_is_none(path, axes):
    fields = dict(zip(("mapc", "mapr", "maps"), axes, strict=True))
    assert f"{axes[0]}, {axes[1]}, {axes[2]}: a permutation" in refused(
        mrc.read_map, make(path, **fields)
    )


@pytest.mark.parametrize("angles", [(90, 90, 120), (90, 91, 90), (90, np.nan, 90)])
def test_cell_that_is_not_orthogonal(path, angles):
    message = refused(mrc.read_map, make(path, cellb=angles))
    assert (
        f"{angles[0]:g}, {angles[1]:g}, {angles[2]:g} degrees" in message
        and "orthogonal" in message
    )


# Sampling rate


@pytest.mark.parametrize(
    "fields",
    [
        {"voxel": 0},
        {"mx": 0, "my": 0, "mz": 0},
        {"cella": (10, 8.75, 0)},
        {"voxel": -1.25},
        {"voxel": np.nan},
    ],
)
def test_absent_sampling_rate(path, fields):
    make(path, **fields)
    message = refused(mrc.read_map, path)
    assert "the header's sampling rate is" in message and "(-s)" in message
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        assert mrc.read_map(path, 1.25).sampling_rate == 1.25


@pytest.mark.parametrize("voxel", [0.01, 106.0])
def test_absurd_sampling_rate_in_the_header(path, voxel):
    message = refused(mrc.read_map, make(path, voxel=voxel))
    assert (
        f"{voxel:g} x {voxel:g} x {voxel:g} A/voxel" in message and "between 0.2 and 50" in message
    )


@pytest.mark.parametrize("given_rate", [0, -1.2, 0.05, 1000, float("nan"), float("inf")])
def test_absurd_sampling_rate_given(path, given_rate):
    message = refused(mrc.read_map, make(path), given_rate)
    assert (
        f"sampling rate {given_rate:g} A/voxel was given" in message
        and "between 0.2 and 50" in message
    )


def test_anisotropic_voxels(path):
    make(path, cella=(8 * 1.0, 7 * 1.0, 6 * 1.02))
    message = refused(mrc.read_map, path)
    assert "1 x 1 x 1.02 A (x, y, z)" in message and "(-s)" in message
    with pytest.warns(MapWarning, match=r"1 x 1 x 1\.02 A/voxel"):
        assert mrc.read_map(path, 1.0).sampling_rate == 1.0


def test_anisotropy_of_rounding_is_none(path):
    assert mrc.read_map(
        make(path, cella=(8 * 1.0, 7 * 1.0, 6 * 1.005))
    ).sampling_rate == pytest.approx(1.0017, abs=1e-4)


def test_given_rate_wins_and_is_written(path, tmp_path):
    """The cell takes the given rate; the first voxel keeps its place counted in voxels."""
    make(path, voxel=1.0, origin=(-4, -3.5, -3), margin=(1, 2, 3), axes=(2, 1, 3))
    with pytest.warns(MapWarning, match=r"header says 1 x 1 x 1 A/voxel.* given 1\.34 is used"):
        volume = mrc.read_map(path, 1.34)
    assert volume.sampling_rate == 1.34
    assert volume.origin == pytest.approx((-4 * 1.34, -3.5 * 1.34, -3 * 1.34))
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    header, _ = header_of(tmp_path / "out.mrc")
    assert (header.mx, header.my, header.mz) == (9, 9, 9)
    assert header.cella.tolist() == pytest.approx([9 * 1.34] * 3)
    again = mrc.read_map(tmp_path / "out.mrc")
    assert (again.sampling_rate, again.origin) == (1.34, volume.origin)


def test_given_rate_that_is_the_rounded_one_leaves_the_header(path, tmp_path):
    make(path, voxel=1.0834)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = mrc.read_map(path, 1.083)
    assert volume.sampling_rate == 1.083
    assert volume.header.cella.tolist() == header_of(path)[0].cella.tolist()


def test_given_rate_in_place_of_none_is_not_warned_about(path):
    make(path, voxel=0, mx=0, my=0, mz=0, axes=(3, 2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = mrc.read_map(path, 1.5)
    assert (volume.header.mx, volume.header.my, volume.header.mz) == (8, 7, 6)
    assert volume.header.cella.tolist() == (12, 10.5, 9)


# Round trips

geometries = st.fixed_dictionaries(
    {
        "axes": st.sampled_from(list(itertools.permutations((1, 2, 3)))),
        "order": st.sampled_from("<>"),
        "mode": st.sampled_from([0, 1, 2, 6, 12]),
        "nstart": st.tuples(*[st.integers(-9, 9)] * 3),
        "margin": st.tuples(*[st.integers(0, 3)] * 3),
        "origin": st.one_of(
            st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-500, 500, width=32)] * 3)
        ),
        "voxel": st.sampled_from([0.5, 1.083, 2.75]),
        "extended": st.sampled_from([b"", b"X,  Y,  Z".ljust(80)]),
    }
)


def in_space(path):
    """The grid of the whole cell by gemmi's own reader; NaN where the file has nothing.

    Index 0, 0, 0 is the cell's corner.
    """
    ccp4 = gemmi.read_ccp4_map(str(path))
    ccp4.setup(float("nan"), gemmi.MapSetup.Full)
    return np.array(ccp4.grid).transpose(2, 1, 0), np.array(ccp4.grid.unit_cell.parameters[:3])


@settings(max_examples=120, deadline=None)
@given(shape=st.tuples(*[st.integers(2, 6)] * 3), geometry=geometries, seed=st.integers(0, 99))
def test_read_write_read_keeps_every_voxel_in_its_place(tmp_path_factory, shape, geometry, seed):
    folder = tmp_path_factory.mktemp("maps")
    data = np.random.default_rng(seed).integers(0, 100, shape).astype(np.float32)
    data.flat[:2] = 0, 1
    source, output = make(folder / "in.map", data, **geometry), folder / "out.map"
    volume = mrc.read_map(source)
    np.testing.assert_array_equal(volume.data, data)
    mrc.write_map(output, volume.data, volume, ["a label"])

    before, after = header_of(source), header_of(output)
    assert after[1] == before[1] == geometry["extended"]
    for name in HEADER_DTYPE.names:
        if name not in RECOMPUTED:
            assert after[0][name].tobytes() == before[0][name].tobytes(), name

    again = mrc.read_map(output)
    np.testing.assert_array_equal(again.data, data)
    assert (again.position, again.nstart, again.sampling_rate) == (
        volume.position,
        volume.nstart,
        volume.sampling_rate,
    )

    expected = np.full(
        [n + m for n, m in zip(shape, geometry["margin"][::-1], strict=True)], np.nan
    )
    corner = [
        [(s + i) % m for i in range(n)]
        for s, n, m in zip(geometry["nstart"][::-1], shape, expected.shape, strict=True)
    ]
    expected[np.ix_(*corner)] = data
    for file in (source, output):
        if file == source and (
            geometry["mode"] == 12 or (geometry["mode"] != 2 and geometry["order"] == ">")
        ):
            # gemmi 0.7 reads no float16, and swaps the bytes of big-endian integers too late.
            continue
        grid, cell = in_space(file)
        np.testing.assert_array_equal(grid, expected)
        np.testing.assert_allclose(cell / grid.shape[::-1], volume.sampling_rate, rtol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".gz", b"\x1f\x8b"), (".bz2", b"BZ"), ("", b"\x08\0")]
)
def test_output_is_compressed_by_its_suffix(path, tmp_path, suffix, magic):
    volume = mrc.read_map(make(path))
    output = tmp_path / f"out.mrc{suffix}"
    mrc.write_map(output, volume.data, volume)
    assert output.read_bytes().startswith(magic)
    assert mrcfile.validate(output)
    np.testing.assert_array_equal(mrc.read_map(output).data, volume.data)


def test_statistics_are_those_of_the_voxels_written(path, tmp_path):
    volume = mrc.read_map(make(path, dmin=5, dmax=4, dmean=3, rms=-1))
    data = (1000 + noise(seed=1)).astype(np.float32)
    mrc.write_map(tmp_path / "out.mrc", data, volume)
    header, _ = header_of(tmp_path / "out.mrc")
    exact = data.astype(float)
    assert [float(header[n]) for n in ("dmin", "dmax", "dmean", "rms")] == pytest.approx(
        [exact.min(), exact.max(), exact.mean(), exact.std()], rel=1e-6
    )


def test_labels_are_kept_and_appended(path, tmp_path):
    volume = mrc.read_map(make(path, labels=[b"first", b"", b"  "]))
    mrc.write_map(
        tmp_path / "out.mrc", volume.data, volume, ["deepEMhancer 1.0", "weights ä" + "x" * 99]
    )
    header, _ = header_of(tmp_path / "out.mrc")
    assert header.nlabl == 3
    assert (
        header.label.tolist()
        == [b"first", b"deepEMhancer 1.0", b"weights ?" + b"x" * 71] + [b""] * 7
    )


def test_oldest_label_goes_when_all_places_are_full(path, tmp_path):
    volume = mrc.read_map(make(path, labels=[b"label %d" % n for n in range(10)]))
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume, ["new"])
    header, _ = header_of(tmp_path / "out.mrc")
    assert header.nlabl == 10
    assert header.label.tolist() == [b"label %d" % n for n in range(1, 10)] + [b"new"]


def test_new_map_is_valid_and_lies_where_it_was_put(tmp_path):
    volume = mrc.new_map(noise(), 1.5, (-4, 5, 6.5), "demo")
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    assert mrcfile.validate(tmp_path / "out.mrc")
    again = mrc.read_map(tmp_path / "out.mrc")
    np.testing.assert_array_equal(again.data, noise())
    assert (again.sampling_rate, again.origin, again.position) == (1.5, (-4, 5, 6.5), (-4, 5, 6.5))
    assert mrc.new_map(noise().astype(float)[:, ::-1], 1.5).data.flags.c_contiguous


@pytest.mark.parametrize("order", "<>")
def test_float16_halves_the_voxels(path, tmp_path, order):
    volume = mrc.read_map(make(path, order=order, axes=(3, 1, 2), origin=(1, 2, 3)))
    output = tmp_path / "out.mrc"
    mrc.write_map(output, volume.data, volume, float16=True)
    assert output.stat().st_size == 1024 + 2 * volume.data.size and mrcfile.validate(output)
    again = mrc.read_map(output)
    np.testing.assert_array_equal(again.data, volume.data.astype(np.float16))
    assert again.position == volume.position


@pytest.mark.parametrize("scale", [1e5, 1e-4])
def test_values_that_float16_does_not_hold(path, tmp_path, scale):
    volume = mrc.read_map(make(path))
    message = refused(
        mrc.write_map, tmp_path / "o.mrc", volume.data * np.float32(scale), volume, float16=True
    )
    assert "float16 keeps from 0.01 to 65504" in message and not (tmp_path / "o.mrc").exists()


def test_a_link_is_named_by_its_target(path, tmp_path):
    make(path)
    os.symlink(path, tmp_path / "link.mrc")
    assert mrc.read_map(tmp_path / "link.mrc").path == str(path)
    os.symlink(tmp_path / "gone.mrc", tmp_path / "broken.mrc")
    message = refused(mrc.read_map, tmp_path / "broken.mrc")
    assert message.endswith(f"broken.mrc: a link to {tmp_path / 'gone.mrc'}: no such file")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a device or pipe" in refused(mrc.read_map, tmp_path / "pipe")


def test_voxels_of_another_box_are_a_mistake_of_the_program(path, tmp_path):
    volume = mrc.read_map(make(path))
    with pytest.raises(ValueError, match="do not fit the box"):
        mrc.write_map(tmp_path / "out.mrc", noise((8, 7, 6)), volume)


# All or nothing


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device"), RuntimeError]
)
def test_nothing_is_left_of_a_failed_output(path, tmp_path, monkeypatch, failure, suffix):
    volume = mrc.read_map(make(path))
    output = tmp_path / f"out.mrc{suffix}"
    output.write_bytes(b"older")

    class Failing(np.ndarray):
        def astype(self, *args):
            raise failure

    monkeypatch.setattr(mrc, "in_file_order", lambda data, _: data.view(Failing))
    expected = InputError if isinstance(failure, OSError) else failure
    with pytest.raises(expected) as caught:
        mrc.write_map(output, volume.data, volume)
    if expected is InputError:
        assert str(caught.value) == f"output {output}: cannot be written: No space left on device"
    assert sorted(os.listdir(tmp_path)) == ["map.mrc", output.name]
    assert output.read_bytes() == b"older"


def test_folder_that_vanished(path, tmp_path):
    volume = mrc.read_map(make(path))
    assert "cannot be written" in refused(
        mrc.write_map, tmp_path / "gone" / "out.mrc", volume.data, volume
    )


# Half maps


def halves(tmp_path, second=None, **changes):
    data = noise(seed=1) if second is None else second
    return mrc.read_map(make(tmp_path / "half1.mrc")), mrc.read_map(
        make(tmp_path / "half2.mrc", data, **changes)
    )


def test_good_halves(tmp_path):
    mrc.check_halves(*halves(tmp_path))
    mrc.check_halves(*halves(tmp_path, axes=(3, 2, 1), mode=12, origin=(1e-3, 0, 0)))


def test_halves_where_one_says_nstart_and_the_other_origin(tmp_path):
    first = mrc.read_map(make(tmp_path / "half1.mrc", nstart=(-2, -2, -2)))
    mrc.check_halves(
        first, mrc.read_map(make(tmp_path / "half2.mrc", noise(seed=1), origin=(-2.5, -2.5, -2.5)))
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"second": noise((6, 7, 9))}, ("box 6 x 7 x 9", "it must be 6 x 7 x 8")),
        ({"voxel": 1.3}, ("1.3 A/voxel", "it must be 1.25")),
        ({"origin": (1, 2, 3)}, ("at 1, 2, 3 A", "it must be 0, 0, 0")),
        ({"nstart": (0, 0, 2)}, ("at 0, 0, 2.5 A", "it must be 0, 0, 0")),
        ({"second": noise()}, ("are the same map",)),
    ],
)
def test_halves_that_do_not_belong_together(tmp_path, changes, words):
    first, second = halves(tmp_path, **changes)
    message = refused(mrc.check_halves, first, second)
    assert all(word in message for word in (*words, first.path, second.path))


# Maps of the face


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u8", "f2", "f4", "f8", ">f4"])
def test_arrays_of_real_numbers(dtype):
    given = np.arange(60).reshape(3, 4, 5).astype(dtype)
    before = given.copy()
    volume = mrc.as_map(given, 1.5)
    np.testing.assert_array_equal(volume.data, np.arange(60).reshape(3, 4, 5))
    assert volume.data.dtype == np.float32 and volume.data.dtype.isnative
    assert volume.data.flags.c_contiguous and volume.data.flags.writeable
    assert (volume.sampling_rate, volume.position, volume.path) == (1.5, (0, 0, 0), "map")
    volume.data[:] = -1
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("view", [np.asfortranarray, lambda a: a[::-1, :, ::2], np.transpose])
def test_arrays_in_any_layout(view):
    given = view(noise())
    volume = mrc.as_map(given, 1)
    np.testing.assert_array_equal(volume.data, given)
    assert not np.shares_memory(volume.data, given) and volume.data.flags.c_contiguous


def test_arrays_that_may_not_be_written_to():
    given = noise()
    given.flags.writeable = False
    copy = mrc.as_map(given, 1).data
    copy[:] = 0
    assert not copy.any() and given.any()


def test_int16_does_not_overflow():
    ends = np.array([[[-32768, 32767], [0, 1]], [[2, 3], [4, 5]]], np.int16)
    first, second = mrc.as_map(ends, 1), mrc.as_map(ends[::-1, ::-1, ::-1], 1)
    assert (first.data - second.data).min() == -32773


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (noise() > 0, "an array of bool: real numbers"),
        (noise() * 1j, "an array of complex"),
        (noise().astype(object), "an array of object"),
        (noise().astype("U8"), "an array of <U8"),
        (noise()[0], "shape (7, 8): a 3-D map (z, y, x)"),
        (noise()[None], "shape (1, 6, 7, 8)"),
        (noise()[:1], "shape (1, 7, 8)"),
        (noise()[:0], "shape (0, 7, 8)"),
        (np.full((3, 3, 3), np.nan), "27 NaN or infinite"),
        (noise().astype(float) * 1e300, "NaN or infinite"),
        (np.full((3, 3, 3), 2), "all voxels are 2"),
        (noise().tolist(), "a list: the path of a map"),
        (None, "a NoneType"),
        (7, "a int"),
    ],
)
def test_arrays_that_are_no_map(given, words):
    message = refused(mrc.as_map, given, 1.0, "half map 1")
    assert message.startswith("half map 1: ") and words in message


def test_one_nan_is_named():
    given = noise()
    given[3, 2, 5] = np.nan
    assert "1 NaN or infinite voxels, the first at z, y, x = 3, 2, 5" in refused(
        mrc.as_map, given, 1.0
    )


@pytest.mark.parametrize("rate", [0, -1, 0.01, 1e3, float("nan"), float("inf")])
def test_absurd_sampling_rates_of_arrays_and_maps(rate):
    assert "between 0.2 and 50" in refused(mrc.as_map, noise(), rate)
    assert "between 0.2 and 50" in refused(mrc.as_map, mrc.new_map(noise(), 1.0), rate)


def test_an_array_without_a_sampling_rate():
    assert "an array has no sampling rate" in refused(mrc.as_map, noise())


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_is_read(path, kind):
    make(path, voxel=1.25)
    assert mrc.as_map(kind(path)).sampling_rate == 1.25
    with pytest.warns(MapWarning, match="header says"):
        assert mrc.as_map(kind(path), 1.4).sampling_rate == 1.4


def test_a_map_is_copied_with_its_geometry(path, tmp_path):
    given = mrc.read_map(make(path, origin=(1, 2, 3), axes=(3, 1, 2), extended=bytes(80)))
    before = given.data.copy()
    volume = mrc.as_map(given)
    assert (volume.position, volume.path) == (given.position, given.path)
    mrc.write_map(tmp_path / "out.mrc", volume.data, volume)
    assert header_of(tmp_path / "out.mrc")[1] == bytes(80)
    volume.data[:] = 0
    volume.header.nx = 99
    np.testing.assert_array_equal(given.data, before)
    assert given.header.nx == 6


def test_a_map_at_another_rate_keeps_its_header_corrected(path, tmp_path):
    given = mrc.read_map(make(path, voxel=1.0, origin=(-4, -3.5, -3), labels=[b"first"]))
    with pytest.warns(MapWarning, match=r"header says 1 x 1 x 1 .* given 1\.34 is used"):
        volume = mrc.as_map(given, 1.34)
    assert volume.position == pytest.approx((-4 * 1.34, -3.5 * 1.34, -3 * 1.34))
    assert (given.sampling_rate, given.origin) == (1.0, (-4, -3.5, -3))
    assert given.header.cella.tolist() == (8, 7, 6)
    assert volume.header.cella.tolist() == pytest.approx((8 * 1.34, 7 * 1.34, 6 * 1.34))


def test_a_map_that_was_spoilt_after_it_was_read():
    given = mrc.new_map(noise(), 1.0, path="given.mrc")
    given.data[0, 0, 0] = np.nan
    assert refused(mrc.as_map, given).startswith("given.mrc: 1 NaN")
    given.data[:] = 3
    assert "all voxels are 3" in refused(mrc.as_map, given)


# What is written is a volume


@pytest.mark.parametrize(
    ("fields", "name", "written"),
    [
        ({"ispg": 0}, "ispg", 1),
        ({"ispg": 19}, "ispg", 19),
        ({"cellb": (0, 0, 0)}, "cellb", (90, 90, 90)),
        ({"cellb": (90, 90.0625, 90)}, "cellb", (90, 90.0625, 90)),
        ({"nversion": 0}, "nversion", 20141),
        ({"nversion": -7}, "nversion", 20141),
        ({"nversion": 20140}, "nversion", 20140),
        ({"map": b"MAP"}, "map", b"MAP "),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_a_volume_is_written_whatever_the_input_calls_itself(
    path, tmp_path, order, fields, name, written
):
    volume = mrc.read_map(make(path, order=order, **fields))
    output = tmp_path / "out.mrc"
    mrc.write_map(output, volume.data, volume)
    assert header_of(output)[0][name].tolist() == written
    assert mrcfile.validate(output)
    with mrcfile.open(output) as file:
        assert file.is_volume() and not file.is_image_stack()
        np.testing.assert_array_equal(file.data, volume.data)
