"""The terms of the loss against NumPy."""

import numpy as np
import pytest

from deepemhancer_plugin.core.training.losses import Loss


def numpy_shells(a, b):
    """Sums over the shells of a b*, |a|^2 and |b|^2."""
    n = len(a)
    a, b = np.fft.fftn(a.astype(np.float64)), np.fft.fftn(b.astype(np.float64))
    shell = np.round(
        np.sqrt(sum(g**2 for g in np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 3, indexing="ij")))
    ).astype(int)
    return [
        np.array([values[shell == i].sum() for i in range(1, n // 2 + 1)])
        for values in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    ]


def numpy_fsc(a, b):
    cross, first, second = numpy_shells(a, b)
    return cross / np.sqrt(first * second)


@pytest.mark.parametrize("edge", [8, 12])
def test_fsc_of_the_loss_is_that_of_the_fft(edge):
    target = np.random.default_rng(0).standard_normal((3, edge, edge, edge, 1)).astype(np.float32)
    prediction = target + np.random.default_rng(1).standard_normal(target.shape).astype(np.float32)
    curve, filled = (np.asarray(a) for a in Loss(1.0).shell_correlations(target, prediction))
    assert curve.shape == (3, edge // 2) and (filled == 1).all()
    for i in range(3):
        np.testing.assert_allclose(
            curve[i], numpy_fsc(target[i, ..., 0], prediction[i, ..., 0]), atol=1e-4
        )


def test_shells_that_the_target_leaves_empty_do_not_count():
    z = np.arange(16)
    target = np.zeros((2, 16, 16, 16, 1), np.float32)
    target[0] = np.cos(2 * np.pi * 3 * z / 16)[
        :, None, None, None
    ]  # the third shell alone; the second cube is empty
    _, filled = Loss(1.0).shell_correlations(target, target)
    np.testing.assert_array_equal(np.asarray(filled), [[0, 0, 1, 0, 0, 0, 0, 0], [0] * 8])


def test_loss_is_the_mean_absolute_error_and_the_fsc():
    target = np.random.default_rng(0).standard_normal((1, 8, 8, 8, 1)).astype(np.float32)
    assert float(Loss(0.0)(target, target + 0.25)) == pytest.approx(0.25, rel=1e-4)
    assert float(Loss(0.0, absolute_weight=0.2)(target, target + 0.25)) == pytest.approx(
        0.05, rel=1e-4
    )
    assert float(Loss(0.5)(target, target)) == pytest.approx(0, abs=1e-4)
    half = np.where(np.arange(8)[:, None] < 4, target, 0.01)  # the other half is next to nothing
    share = (np.abs(half) < 0.02).mean()
    assert float(Loss(0.0, empty_weight=7.0)(half, half + 0.25)) == pytest.approx(
        0.25 * (1 + 6 * share), rel=1e-4
    )
    other = np.random.default_rng(1).standard_normal(target.shape).astype(np.float32)
    expected = (
        np.abs(target - other).mean()
        + 0.5 * (1 - numpy_fsc(target[0, ..., 0], other[0, ..., 0])).mean()
    )
    assert float(Loss(0.5)(target, other)) == pytest.approx(expected, rel=1e-3)


def test_squared_error_is_relative_to_each_cube_and_asks_for_the_mean():
    """Where 0 and 1 are equally likely a half is best.

    Every prediction between them has the same absolute error.
    """
    target, prediction = (
        np.random.default_rng(i).standard_normal((2, 6, 6, 6, 1)).astype(np.float32)
        for i in range(2)
    )
    target[1] *= 0.1
    error, power = (
        np.square(a.astype(np.float64)).mean((1, 2, 3, 4)) for a in (target - prediction, target)
    )
    expected = np.abs(target - prediction).mean() + 0.3 * (error / (power + 2e-3)).mean()
    assert float(Loss(0.0, square_weight=0.3)(target, prediction)) == pytest.approx(
        expected, rel=1e-5
    )
    likely = (np.arange(216) % 2).astype(np.float32).reshape(1, 6, 6, 6, 1)
    answers = np.linspace(0, 1, 11)
    losses = [
        float(Loss(0.0, square_weight=1.0)(likely, np.full_like(likely, answer)))
        for answer in answers
    ]
    assert answers[np.argmin(losses)] == pytest.approx(0.5)


def test_gradient_term_is_the_mean_error_of_the_differences_of_neighbours():
    target, prediction = (
        np.random.default_rng(i).standard_normal((2, 6, 6, 6, 1)).astype(np.float32)
        for i in range(2)
    )
    error = (target - prediction)[..., 0].astype(np.float64)
    expected = np.abs(error).mean() + 0.3 * np.mean(
        [np.abs(np.diff(error, axis=axis)).mean() for axis in (1, 2, 3)]
    )
    assert float(Loss(0.0, 0.3)(target, prediction)) == pytest.approx(expected, rel=1e-5)
    assert float(Loss(0.0, 0.3)(target, target + 1)) == pytest.approx(
        1, rel=1e-5
    )  # a constant has no gradient
