"""Resampling against closed forms: sums of plane waves sampled on either grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from deepemhancer_plugin.core.maps.resampling import (
    resample,
    resample_density,
    resample_mask,
    resampled_shape,
    resize_as_original,
)

sides = st.integers(1, 13)
shapes = st.tuples(sides, sides, sides)


def waves(shape, limits, seed):
    """Six plane waves through a periodic box, sampled on `shape` voxels.

    Their indices lie within +- limits; the first voxel is the box's corner.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    result = np.full(shape, rng.normal())
    for _ in range(6):
        h, k, m = (rng.integers(-limit, limit + 1) for limit in limits)
        result += rng.normal() * np.cos(
            2 * np.pi * (h * z + k * y + m * x) + rng.uniform(0, 2 * np.pi)
        )
    return result


@settings(deadline=None, max_examples=60)
@given(shapes, shapes, st.integers(0, 10**6))
def test_band_limited_field_is_sampled_exactly_on_the_other_grid(old, new, seed):
    limits = [
        (min(a, b) - 1) // 2 for a, b in zip(old, new, strict=True)
    ]  # below both Nyquist frequencies
    result = resample(waves(old, limits, seed).astype(np.float32), new, workers=1)
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, waves(new, limits, seed), atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(shapes, shapes, st.integers(0, 10**6))
def test_there_and_back_is_exact_on_a_finer_grid(old, more, seed):
    volume = (
        np.random.default_rng(seed).standard_normal(old).astype(np.float32)
    )  # reaches up to Nyquist
    finer = tuple(a + b - 1 for a, b in zip(old, more, strict=True))
    np.testing.assert_allclose(resample(resample(volume, finer, 1), old, 1), volume, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [((12, 12, 12), (18, 18, 18)), ((15, 18, 21), (10, 12, 14)), ((10, 15, 20), (14, 21, 28))],
)
def test_a_blob_stays_at_its_position(old, new):
    """The centre of a Gaussian, in fractions of the box from the first voxel."""
    place = np.array([0.4, 0.55, 0.5])

    def gaussian(shape):
        grids = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
        return np.exp(-sum((g - p) ** 2 for g, p in zip(grids, place, strict=True)) / (2 * 0.11**2))

    result = resample(gaussian(old), new, 1)
    grids = np.meshgrid(*(np.arange(n) / n for n in new), indexing="ij")
    np.testing.assert_allclose([(g * result).sum() / result.sum() for g in grids], place, atol=2e-3)
    assert (
        np.abs(result - gaussian(new)).max() < 0.06
    )  # the little that lies beyond the coarser grid's Nyquist limit


def test_frequencies_beyond_the_coarse_nyquist_do_not_alias():
    z = np.arange(24)
    kept, lost = np.cos(2 * np.pi * 2 * z / 24), np.cos(2 * np.pi * 9 * z / 24)
    volume = np.broadcast_to((kept + lost)[:, None, None], (24, 4, 4))
    np.testing.assert_allclose(resample(volume, (12, 4, 4), 1)[:, 0, 0], kept[::2], atol=1e-5)


def test_mean_is_kept():
    volume = np.random.default_rng(0).random((9, 14, 11))
    for shape in [(5, 7, 6), (20, 20, 20), (9, 21, 4)]:
        assert resample(volume, shape, 1).mean() == pytest.approx(volume.mean(), rel=1e-5)


@given(shapes, st.floats(0.4, 4))
def test_new_box_covers_the_same_volume(shape, rate):
    for n, m in zip(shape, resampled_shape(shape, rate), strict=True):
        assert m >= 1 and (abs(m - n * rate) <= 0.5 + 1e-9 or m == 1)


@pytest.mark.parametrize(("old", "new"), [(12, 24), (12, 15), (24, 12), (18, 12)])
def test_wave_at_the_coarser_nyquist_keeps_its_amplitude(old, new):
    """Its one coefficient stands for both signs of the finer grid."""
    wave = [np.cos(2 * np.pi * 6 * np.arange(n) / n) for n in (old, new)]
    result = resample(np.broadcast_to(wave[0][:, None, None], (old, 3, 4)), (new, 3, 4), 1)
    np.testing.assert_allclose(
        result, np.broadcast_to(wave[1][:, None, None], (new, 3, 4)), atol=1e-5
    )


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(20, 30)] * 3),
    st.tuples(*[st.integers(12, 45)] * 3),
    st.tuples(*[st.integers(0, 29)] * 3),
)
def test_solvent_of_resampled_density_is_empty_and_the_rest_as_resampled(old, new, corner):
    """A block of 4^3 voxels anywhere in the periodic box.

    Distances are taken on each axis, in voxels of the coarser grid.
    """
    index = [(np.arange(c, c + 4) % n) for c, n in zip(corner, old, strict=True)]
    volume = np.zeros(old, np.float32)
    volume[np.ix_(*index)] = 1
    result, plain = resample_density(volume, new), resample(volume, new)
    away = np.zeros(new)
    for axis, (inside, a, b) in enumerate(zip(index, old, new, strict=True)):
        d = np.abs(np.arange(b)[:, None] * a / b - inside)
        away = np.maximum(
            away,
            (np.minimum(d, a - d).min(1) / max(1, a / b)).reshape(
                [-1 if i == axis else 1 for i in range(3)]
            ),
        )
    assert (result[away > 4] == 0).all()
    np.testing.assert_array_equal(result[away <= 1], plain[away <= 1])


@pytest.mark.parametrize("rate", [0.7, 1.06, 1.4, 2.2])
def test_a_mask_keeps_its_volume_and_place(rate):
    """A sphere of radius 25 voxels, off the centre, to 1 A/voxel."""
    axis = np.arange(200)
    centre = (90, 110, 80)
    distance = np.sqrt(
        sum((a - c) ** 2 for a, c in zip(np.ix_(axis, axis, axis), centre, strict=True))
    )
    mask, shape = distance <= 25, resampled_shape((200,) * 3, rate)
    result = resample_mask(mask, shape)
    assert result.dtype == bool and result.shape == shape
    assert result.sum() / rate**3 == pytest.approx(mask.sum(), rel=0.03)
    expected = np.array(centre) * shape[0] / 200
    np.testing.assert_allclose(np.argwhere(result).mean(0), expected, atol=0.2)


def test_a_mask_on_its_own_grid_stays():
    mask = np.random.default_rng(0).random((5, 6, 7)) > 0.5
    np.testing.assert_array_equal(resample_mask(mask, mask.shape), mask)


@pytest.mark.parametrize(
    "shape, target", [((60, 52, 44), (100,) * 3), ((130, 104, 117), (100,) * 3), ((40,) * 3,) * 2]
)
def test_the_originals_resizing_is_that_of_scikit_image(shape, target):
    """With the arguments that the original gives it."""
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = resize(volume, target, order=3, mode="reflect", anti_aliasing=True)
    np.testing.assert_allclose(resize_as_original(volume, target), expected, atol=2e-5)
