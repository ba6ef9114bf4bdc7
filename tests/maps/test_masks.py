"""Masks of any levels, on any grid, in any place."""

import warnings

import numpy as np
import pytest
from map_files import make, noise, refused
from scipy import ndimage

from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.maps import masks, mrc
from deepemhancer_plugin.core.maps.resampling import resample


@pytest.fixture
def path(tmp_path):
    return tmp_path / "map.mrc"


def soft_mask(shape=(6, 7, 8)):
    return np.clip(np.linspace(-0.5, 1.5, np.prod(shape)), 0, 1).reshape(shape).astype(np.float32)


def test_soft_mask_counts_above_one_percent(path, tmp_path):
    like = mrc.read_map(make(path))
    mask = masks.read_mask(make(tmp_path / "mask.mrc", soft_mask()), like)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, soft_mask() > 0.01)


def test_binary_mask_of_bytes_in_another_axis_order(path, tmp_path):
    like = mrc.read_map(make(path))
    mask = masks.read_mask(
        make(tmp_path / "mask.mrc", np.round(soft_mask()), mode=0, axes=(2, 3, 1)), like
    )
    np.testing.assert_array_equal(mask, soft_mask() > 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voxel": 1.0}, "sampling rate 1 A/voxel: it must be 1.25"),
        ({"data": np.zeros((6, 7, 8), np.float32)}, "values from 0 to 0"),
        ({"data": np.ones((6, 7, 8), np.float32)}, "values from 1 to 1"),
        ({"data": noise()}, "values from -"),
        ({"data": np.exp(noise())}, "values from 0."),
        ({"data": np.arange(336, dtype=np.float32).reshape(6, 7, 8)}, "values from 0 to 335"),
    ],
)
def test_masks_that_do_not_fit(path, tmp_path, changes, words):
    like = mrc.read_map(make(path))
    name = tmp_path / "mask.mrc"
    message = refused(masks.read_mask, make(name, **{"data": soft_mask(), **changes}), like)
    assert message.startswith(f"mask {name}: {words}")


def test_sampling_rate_of_a_mask_may_be_given_or_absent(path, tmp_path):
    with pytest.warns(MapWarning):
        like = mrc.read_map(make(path, voxel=1.0), 1.34)
    wrong, absent = (
        make(tmp_path / "wrong.mrc", soft_mask(), voxel=1.0),
        make(tmp_path / "absent.mrc", soft_mask(), voxel=0),
    )
    with pytest.warns(MapWarning):
        masks.read_mask(wrong, like, 1.34)
    masks.read_mask(absent, like)
    assert "sampling rate 1 A/voxel: it must be 1.34" in refused(masks.read_mask, wrong, like)


def test_missing_mask(path, tmp_path):
    assert "no such file" in refused(
        masks.read_mask, tmp_path / "mask.mrc", mrc.read_map(make(path))
    )


@pytest.fixture
def like():
    """A map of 32^3 with a box in the middle."""
    return mrc.new_map(noise((32, 32, 32)), 1.2, path="map.mrc")


def cube():
    mask = np.zeros((32, 32, 32), np.float32)
    mask[10:22, 10:22, 10:22] = 1
    return mask


RESCALED = {
    "0 to 255": 255 * cube(),
    "0 to 0.97": 0.97 * cube(),
    "-0.05 to 1.05": 1.1 * cube() - 0.05,
    "-1 to 1": 2 * cube() - 1,
    "of IMOD": cube() - 128,
    "3 to 4e6": 4e6 * cube() + 3,
    "of 1e-6": 1e-6 * cube(),
}


@pytest.mark.parametrize("name", RESCALED)
def test_a_rescaled_mask_is_brought_back_with_a_warning(tmp_path, like, name):
    mrc.write_map(tmp_path / "mask.mrc", RESCALED[name], like)
    with pytest.warns(MapWarning, match=r"mask.mrc: values from .*, where a mask has 0 to 1") as w:
        mask = masks.read_mask(tmp_path / "mask.mrc", like)
    assert len(w) == 1 and "\n" not in str(w[0].message)
    np.testing.assert_array_equal(mask, cube() > 0.5)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_floor_of_a_thousandth_is_outside(like, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)
        mask = masks.as_mask(scale * (cube() + 1e-3), like)
    np.testing.assert_array_equal(mask, cube() > 0.5)


def test_the_soft_edge_of_a_rescaled_mask_is_inside(like):
    soft = ndimage.gaussian_filter(cube(), 1).clip(0.05, 0.9) - 0.05
    with pytest.warns(MapWarning):
        mask = masks.as_mask(700 * soft - 3, like)
    np.testing.assert_array_equal(mask, soft / 0.85 > 0.01)


def interpolated(kind):
    """The cube after a trip over another grid."""
    if kind == "spline":
        coarse = ndimage.zoom(cube(), 0.5, order=3)
        return ndimage.zoom(coarse, 2, order=3)
    return resample(resample(cube(), (24, 24, 24), 1), (32, 32, 32), 1)


@pytest.mark.parametrize("kind", ["spline", "Fourier"])
def test_a_mask_that_rings_after_an_interpolation_is_clipped(like, kind):
    """Ripples outside are not inside: what is, lies within two voxels of the cube."""
    values = interpolated(kind)
    assert values.min() < -0.05 and values.max() > 1.05
    with pytest.warns(MapWarning, match="is taken for 0"):
        mask = masks.as_mask(values, like)
    assert mask[cube() > 0.5].mean() > 0.9
    near = ndimage.binary_dilation(cube() > 0.5, np.ones((3, 3, 3)), 2)
    assert mask[~near].mean() < 0.002


def test_density_and_noise_are_no_masks(like):
    atoms = (np.random.default_rng(1).random((32, 32, 32)) > 0.9) * cube()
    density = ndimage.gaussian_filter(atoms, 1.2)
    for values in (noise((32, 32, 32)), density, density + 0.1 * noise((32, 32, 32)), 50 * density):
        assert "a mask has two levels" in refused(masks.as_mask, values, like)


@pytest.mark.parametrize("dtype", [bool, "u1", "i1", "i2", "u2", "i8", "f2", "f4", "f8", ">i4"])
@pytest.mark.parametrize("order", "CF")
def test_masks_as_arrays_of_any_type(like, dtype, order):
    given = np.array(cube(), dtype, order=order)
    before = given.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = masks.as_mask(given, like)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, cube() > 0.5)
    mask[:] = False
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((32, 32, 31), bool), "mask: box 32 x 32 x 31"),
        (np.ones((32, 32), bool), "mask: an array of shape (32, 32)"),
        (np.ones((32, 32, 32), bool), "mask: values from 1 to 1"),
        (np.zeros((32, 32, 32), "i4"), "mask: values from 0 to 0"),
        (np.ones((32, 32, 32), complex), "real numbers"),
        (np.full((32, 32, 32), np.nan), "32768 NaN"),
        (np.full((32, 32, 32), "in"), "real numbers"),
        ([[[0, 1]]], "a list"),
    ],
)
def test_arrays_that_are_no_mask(like, mask, words):
    assert words in refused(masks.as_mask, mask, like)


def test_a_mask_as_a_map(like):
    given = mrc.new_map(cube(), 1.2, path="given.mrc")
    np.testing.assert_array_equal(masks.as_mask(given, like), cube() > 0.5)
    message = refused(masks.as_mask, mrc.new_map(cube(), 1.0, path="given.mrc"), like)
    assert message.startswith("mask given.mrc: sampling rate 1 A/voxel")


def test_a_mask_without_a_place_is_warned_about():
    """Many programs leave the origin of a mask at zero."""
    like = mrc.new_map(noise((32, 32, 32)), 1.2, (-19.2, -19.2, -19.2), "map.mrc")
    with pytest.warns(MapWarning, match="taken to be the same"):
        mask = masks.as_mask(mrc.new_map(cube(), 1.2, path="mask.mrc"), like)
    np.testing.assert_array_equal(mask, cube() > 0.5)
    there = mrc.new_map(cube(), 1.2, (5, 0, 0), "there.mrc")
    with pytest.warns(MapWarning, match="taken to be the same"):
        masks.as_mask(there, mrc.new_map(noise((32, 32, 32)), 1.2))


def test_a_masks_start_in_the_cell_is_its_position(tmp_path, like):
    mask = mrc.read_map(make(tmp_path / "mask.mrc", cube(), voxel=1.2, nstart=(4, 0, 0)))
    with pytest.warns(MapWarning, match=r"at 4\.8, 0, 0 A .*taken to be the same"):
        masks.as_mask(mask, like)


# Other grids


def box_in_space(shape, rate, origin):
    """A mask that is true from 12 to 24 A along each axis, in space."""
    inside = [
        (start + rate * np.arange(n) > 12 - 1e-6) & (start + rate * np.arange(n) < 24 + 1e-6)
        for n, start in zip(shape, origin[::-1], strict=True)
    ]
    values = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return mrc.new_map(values.astype(np.float32), rate, origin, "mask.mrc")


@pytest.mark.parametrize(
    ("shape", "rate", "origin"),
    [
        ((64, 64, 64), 0.6, (0, 0, 0)),
        ((16, 16, 16), 2.4, (0, 0, 0)),
        ((32, 32, 32), 1.25, (0, 0, 0)),
        ((32, 32, 34), 1.2, (3.6, 2.4, 1.2)),
        ((20, 22, 24), 1.2, (6, 3.6, 9.6)),
        ((70, 66, 60), 1.2, (-20, -24, -12)),
    ],
)
@pytest.mark.parametrize("place", [(0, 0, 0), (100, -50, 7)])
def test_a_mask_on_another_grid_is_resampled_by_its_header(tmp_path, shape, rate, origin, place):
    """As the same mask made on the map's grid, within a voxel of the coarser grid at its faces."""
    like = mrc.new_map(noise((32, 32, 32)), 1.2, place, "map.mrc")
    made = box_in_space(shape, rate, origin)
    position = tuple(np.add(origin, place).tolist())
    mrc.write_map(tmp_path / "mask.mrc", made.data, mrc.new_map(made.data, rate, position))
    with pytest.warns(MapWarning, match=r"resampled by its header to the grid of map\.mrc") as w:
        mask = masks.read_mask(tmp_path / "mask.mrc", like)
    assert len(w) == 1
    expected = box_in_space((32, 32, 32), 1.2, (0, 0, 0)).data > 0.5
    wrong = mask != expected
    edge = ndimage.binary_dilation(expected) & ~ndimage.binary_erosion(expected)
    assert not wrong[~edge].any() and mask.sum() == pytest.approx(expected.sum(), rel=0.4)


def test_a_soft_mask_on_another_grid_keeps_its_edge(like):
    soft = ndimage.gaussian_filter(np.kron(cube()[::2, ::2, ::2], np.ones((4, 4, 4))), 3)
    wide = mrc.new_map(soft, 0.6, path="wide.mrc")
    with pytest.warns(MapWarning):
        values = masks.as_soft_mask(wide, like)
    np.testing.assert_allclose(values, soft[::2, ::2, ::2] / soft.max(), atol=0.02)


def test_a_mask_beside_the_map_is_refused(like):
    mask = mrc.new_map(cube(), 1.2, (100, 0, 0), "there.mrc")
    like = mrc.new_map(like.data, 1.2, (-100, 0, 0), "map.mrc")
    message = refused(masks.as_mask, mask, like)
    assert "there.mrc: 32 x 32 x 32 voxels of 1.2 A from 100, 0, 0" in message
    assert "does not overlap map.mrc" in message


def test_a_given_sampling_rate_is_that_of_masks_in_the_maps_box(tmp_path, like):
    """A mask in another box has its own."""
    made = box_in_space((64, 64, 64), 0.6, (0, 0, 0))
    mrc.write_map(tmp_path / "mask.mrc", made.data, made)
    with pytest.warns(MapWarning, match="resampled by its header") as caught:
        mask = masks.read_mask(tmp_path / "mask.mrc", like, 1.2)
    assert len(caught) == 1 and mask[10:20, 10:20, 10:20].all() and not mask[:9].any()
