"""Windows in several orientations: the group, and what is made of its predictions."""

import itertools

import numpy as np
import pytest
from scipy.stats import pmean

from deepemhancer_plugin.core.enhancement.orientations import (
    AVERAGES,
    DENSE_FRACTION,
    DENSITY_LIMIT,
    average_orientations,
    combine_orientations,
    rotate_back,
    rotate_cube,
)

COORDINATES = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1)


def matrix(rotation):
    """The rotation's matrix, from where it takes the coordinates of a cube's voxels."""
    turned = rotate_cube(COORDINATES, rotation).reshape(-1, 3)
    return np.round(np.linalg.lstsq(COORDINATES.reshape(-1, 3), turned, rcond=None)[0]).astype(int)


def test_the_24_are_all_the_rotations_of_a_cube():
    matrices = {matrix(i).tobytes() for i in range(24)}
    assert len(matrices) == 24
    assert all(round(np.linalg.det(matrix(i))) == 1 for i in range(24))


@pytest.mark.parametrize("rotation", range(24))
def test_back_is_the_inverse(rotation):
    values = np.random.default_rng(0).random((3, 4, 5, 2))
    assert np.array_equal(rotate_back(rotate_cube(values, rotation), rotation), values)


@pytest.mark.parametrize("count", [4, 24])
def test_an_average_is_over_a_group(count):
    """So that turning the input by one of its members turns the output, exactly."""
    matrices = [matrix(i) for i in AVERAGES[count]]
    assert {(a @ b).tobytes() for a, b in itertools.product(matrices, matrices)} == {
        m.tobytes() for m in matrices
    }


def test_the_pair_leaves_no_axis_where_it_is():
    assert not np.diag(matrix(AVERAGES[2][1])).any()


def left_from_right(windows):
    """A predictor that knows them."""
    return np.cumsum(windows, axis=1) * np.linspace(0, 1, windows.shape[3], dtype=np.float32)


@pytest.mark.parametrize("combined", [average_orientations, combine_orientations])
@pytest.mark.parametrize("count", [1, 4, 24])
def test_combined_prediction_turns_with_its_input(count, combined):
    average = combined(left_from_right, count)
    windows = np.random.default_rng(1).random((2, 4, 4, 4), dtype=np.float32)
    result = average(windows)
    for rotation in AVERAGES[count]:
        turned = average(np.stack([rotate_cube(w, rotation) for w in windows]))
        np.testing.assert_allclose(
            turned, np.stack([rotate_cube(r, rotation) for r in result]), atol=1e-5
        )
    if count == 1:
        assert np.array_equal(result, left_from_right(windows))
    else:
        assert not np.allclose(result, left_from_right(windows), atol=1e-2)


@pytest.mark.parametrize("count", [2, 4, 24])
def test_orientations_agree_by_a_power_mean(count):
    windows = np.random.default_rng(2).normal(1, 1, (3, 4, 4, 4)).astype(np.float32)
    seen = [
        [rotate_back(left_from_right(rotate_cube(w, r)[None])[0], r) for w in windows]
        for r in AVERAGES[count]
    ]
    assert np.min(seen) < 0
    np.testing.assert_allclose(
        combine_orientations(left_from_right, count)(windows),
        pmean(np.maximum(seen, 0), 1 / 4, axis=0),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("dense, left", [(1, 1 / 256), (3, 81 / 256), (4, 1)])
def test_what_one_of_four_sees_or_misses(dense, left):
    """The first `dense` of four orientations see a window full of density, the others nothing."""
    answers = iter([1.0] * dense + [0.0] * (4 - dense))
    seen = combine_orientations(lambda windows: np.full_like(windows, next(answers)), 4)(
        np.zeros((1, 16, 16, 16), np.float32)
    )
    np.testing.assert_allclose(seen, left, rtol=1e-6)


def test_a_window_where_nothing_is_seen_is_not_shown_again():
    assert 1 / 16**3 < DENSE_FRACTION < 2 / 16**3
    asked = []

    def predict(windows):
        asked.append(len(windows))
        return windows

    faint = np.full((2, 16, 16, 16), 0.9 * DENSITY_LIMIT, np.float32)
    faint[0, 0, 0, 0] = -1
    faint[1, 0, 0, 0] = 1
    assert np.array_equal(
        combine_orientations(predict, 2)(faint), np.maximum(faint, 0)
    ) and asked == [2]
    faint[1, 0, 0, 1] = 1
    combine_orientations(predict, 2)(faint)
    assert asked == [2, 2, 2]


def test_a_window_alone_gives_what_it_gives_beside_others():
    """Not the batch decides whether the other orientations are asked for, but the window."""

    def predict(windows):
        return np.abs(windows)

    rng = np.random.default_rng(3)
    windows = np.zeros((2, 16, 16, 16), np.float32)
    windows[0, :2, 0, 0] = 0.04  # under the limit: solvent
    windows[1] = rng.random((16, 16, 16))
    windows[0, 5, 5, 5] = 1.0
    asymmetric = combine_orientations(lambda w: predict(w) * (np.arange(16) < 8), 4)
    both = asymmetric(windows)
    alone = np.concatenate([asymmetric(windows[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(both, alone, atol=1e-6)
