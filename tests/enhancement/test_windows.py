"""Overlapping windows: exact cover, exact average, no window twice, work shared and bounded."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepemhancer_plugin.core.enhancement.windows import (
    batches,
    enhance_windows,
    pad_to_tile,
    window_corners,
    window_starts,
    window_weights,
)


def identity(windows):
    return windows.copy()


def shift_dependent(windows):
    """Like group normalisation, a result that depends on the whole window."""
    return windows - windows.mean((1, 2, 3), keepdims=True)


def averaged(volume, tile, starts, weights, function):
    """Slow reference in float64."""
    total, weight = np.zeros(volume.shape), np.zeros(volume.shape)
    for corner in itertools.product(*starts):
        where = tuple(slice(i, i + tile) for i in corner)
        total[where] += function(volume[where][None].astype(float))[0] * weights
        weight[where] += weights
    return total / weight


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 64))
def test_starts_cover_the_axis_without_gaps(length, tile, stride):
    if length < tile or stride > tile:
        with pytest.raises(ValueError, match="do not cover"):
            window_starts(length, tile, stride)
        return
    starts = window_starts(length, tile, stride)
    assert starts[0] == 0 and starts[-1] == length - tile
    assert all(0 < b - a <= stride for a, b in itertools.pairwise(starts))


def test_starts_of_the_published_geometry():
    assert window_starts(128, 64, 16) == [0, 16, 32, 48, 64]
    assert window_starts(130, 64, 16) == [0, 16, 32, 48, 64, 66]
    assert window_starts(64, 64, 16) == [0]


@pytest.mark.parametrize("smooth", [True, False])
def test_weights_are_positive_and_symmetric(smooth):
    weights = window_weights(64, smooth)
    assert weights.shape == (64, 64, 64) and weights.dtype == np.float32 and (weights > 0).all()
    np.testing.assert_allclose(weights, weights[::-1, ::-1, ::-1])
    np.testing.assert_allclose(weights, weights.transpose(2, 0, 1))
    assert (weights.max() == weights[32, 32, 32]) and (smooth or (weights == 1).all())


@pytest.mark.parametrize(
    "shape", [(8, 8, 8), (9, 16, 23), (3, 8, 20), (1, 1, 1), (5, 6, 7), (7, 21, 8)]
)
@pytest.mark.parametrize("smooth", [True, False])
def test_constant_stays_constant_up_to_the_border(shape, smooth):
    """The original's weights start at one: its corners had half the value."""
    result = enhance_windows(np.ones(shape, np.float32), [identity], 8, 3, smooth=smooth)
    assert result.shape == shape and result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, 1, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*[st.integers(6, 17)] * 3),
    st.integers(1, 6),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 3),
)
def test_average_is_exact(shape, stride, batch, smooth, devices):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    result = enhance_windows(volume, [shift_dependent] * devices, 6, stride, batch, smooth=smooth)
    starts = [window_starts(n, 6, stride) for n in shape]
    expected = averaged(volume, 6, starts, window_weights(6, smooth).astype(float), shift_dependent)
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_small_box_is_padded_to_one_window():
    """The original gives zeros for boxes under 48 A."""
    volume = np.random.default_rng(0).normal(size=(20, 47, 5)).astype(np.float32)
    padded, inside = pad_to_tile(volume, 64)
    assert padded.shape == (64, 64, 64)
    np.testing.assert_array_equal(padded[inside], volume)
    np.testing.assert_array_equal(
        padded[inside[0].stop :, inside[1], inside[2]], np.resize(volume, (22, 47, 5))
    )
    np.testing.assert_allclose(enhance_windows(volume, [identity], 64, 16), volume, rtol=1e-6)


def test_padding_leaves_large_boxes_alone():
    volume = np.zeros((64, 70, 65), np.float32)
    assert pad_to_tile(volume, 64)[0] is volume


def test_no_window_twice_and_batches_bounded():
    seen = []

    def predict(windows):
        assert windows.dtype == np.float32 and len(windows) <= 4
        seen.extend(windows[:, 0, 0, 0])
        return windows

    volume = np.arange(14**3, dtype=np.float32).reshape(
        14, 14, 14
    )  # each window begins with its own number
    enhance_windows(volume, [predict], 8, 3, batch=4)
    assert len(seen) == len(set(seen)) == len(window_corners(volume.shape, 8, 3)) == 27


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 4))
def test_batches_hold_each_window_once(count, batch, workers):
    corners = [(i, 0, 0) for i in range(count)]
    groups = list(batches(corners, batch, workers))
    assert [corner for group in groups for corner in group] == corners
    assert all(1 <= len(group) <= batch for group in groups)
    assert len(groups) >= min(count, workers)
    assert (
        len({len(group) for group in groups[:-1]}) <= 1
    )  # one size to compile for, and a last one


def test_mask_skips_windows():
    volume = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[2, 3, 4] = True
    calls = []
    result = enhance_windows(volume, [lambda windows: calls.append(1) or windows], 8, 8, mask=mask)
    assert len(calls) == 1
    np.testing.assert_allclose(result[:8, :8, :8], volume[:8, :8, :8], rtol=1e-6)
    assert not result[8:].any() and not result[:, 8:].any() and not result[:, :, 8:].any()
    assert not enhance_windows(volume, [identity], 8, 8, mask=np.zeros_like(mask)).any()


def test_mask_of_a_padded_box():
    volume = np.ones((5, 5, 5), np.float32)
    np.testing.assert_allclose(
        enhance_windows(volume, [identity], 8, 4, mask=volume > 0), volume, rtol=1e-6
    )


def test_progress_counts_every_window():
    calls = []
    volume = np.zeros((14, 8, 8), np.float32)
    enhance_windows(volume, [identity], 8, 2, batch=3, progress=lambda *call: calls.append(call))
    assert calls == [(3, 4), (4, 4)]


def test_devices_share_the_windows():
    barrier = threading.Barrier(3, timeout=10)  # passes only when all three work at once
    first = threading.local()

    def predict(windows):
        if not hasattr(first, "met"):
            first.met = barrier.wait()
        return windows

    volume = np.random.default_rng(0).normal(size=(8, 8, 40)).astype(np.float32)
    np.testing.assert_allclose(
        enhance_windows(volume, [predict] * 3, 8, 2, batch=2), volume, rtol=1e-5, atol=1e-6
    )


def test_failing_device_ends_the_run():
    def fail(windows):
        raise MemoryError("device is full")

    with pytest.raises(MemoryError, match="device is full"):
        enhance_windows(np.zeros((8, 8, 80), np.float32), [fail, identity], 8, 1)


def test_input_is_not_changed():
    volume = np.random.default_rng(0).normal(size=(10, 10, 10))
    before = volume.copy()
    enhance_windows(volume, [identity], 8, 1)
    np.testing.assert_array_equal(volume, before)


class ResourceExhaustedError(Exception):
    """TensorFlow's, as far as the program looks at it."""

    __module__ = "tensorflow.python.framework.errors_impl"


class XlaRuntimeError(RuntimeError):
    __module__ = "jaxlib.xla_extension"


class OutOfMemoryError(RuntimeError):
    __module__ = "torch"


OUT_OF_MEMORY = (
    ResourceExhaustedError("OOM when allocating tensor with shape[8,48,64,64,64]"),
    XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes."),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    MemoryError(),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("fitting", [1, 3])
def test_batches_that_do_not_fit_are_halved(error, fitting, caplog):
    """Once for the whole run: what did not fit is not tried again."""
    caplog.set_level("INFO", "deepemhancer_plugin")
    volume = np.random.default_rng(0).normal(size=(14, 14, 14)).astype(np.float32)
    tried = []

    def predict(windows):
        tried.append(len(windows))
        if len(windows) > fitting:
            raise error
        return shift_dependent(windows)

    done = []
    result = enhance_windows(
        volume, [predict], 8, 3, batch=8, progress=lambda *call: done.append(call)
    )
    np.testing.assert_allclose(
        result, enhance_windows(volume, [shift_dependent], 8, 3, batch=8), atol=1e-6
    )
    failed = [size for size in tried if size > fitting]
    assert failed == ([8, 4] if fitting == 3 else [8, 4, 2])
    assert "memory does not suffice for 8 windows at a time: 4" in caplog.text
    assert done[-1] == (27, 27)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_single_window_that_does_not_fit_ends_the_run(error):
    tried = []

    def predict(windows):
        tried.append(len(windows))
        raise error

    with pytest.raises(type(error)):
        enhance_windows(np.zeros((14, 14, 14), np.float32), [predict], 8, 3, batch=4)
    assert tried == [4, 2, 1]


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shape")])
def test_other_errors_are_not_tried_again(error):
    tried = []

    def predict(windows):
        tried.append(len(windows))
        raise error

    with pytest.raises(type(error)):
        enhance_windows(np.zeros((14, 14, 14), np.float32), [predict], 8, 3, batch=4)
    assert tried == [4]


@pytest.mark.parametrize(("batch", "predictors"), [(0, [identity]), (1, [])])
def test_senseless_arguments(batch, predictors):
    with pytest.raises(ValueError, match="predictors, batches of"):
        enhance_windows(np.zeros((8, 8, 8), np.float32), predictors, 8, 4, batch)


def test_two_devices_of_tensorflow_like_one(tmp_path):
    """A real network on two logical CPUs; TensorFlow's devices are set once a process."""
    import subprocess
    import sys
    from pathlib import Path

    from official_checkpoint import write_small

    path = write_small(tmp_path / "a.hd5")
    code = f"""
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from deepemhancer_plugin.core.weights.official.checkpoint import load_official
from deepemhancer_plugin.core.enhancement.windows import enhance_windows
model = load_official({path!r})
volume = np.random.default_rng(0).normal(size=(20, 16, 26)).astype(np.float32)
one = enhance_windows(volume, [model.predictor()], model.tile, model.stride)
predictors = [model.predictor(device=device) for device in ("CPU:0", "CPU:1")]
two = enhance_windows(volume, predictors, model.tile, model.stride)
print(float(abs(one - two).max() / np.ptp(one)))
"""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert float(result.stdout) < 1e-6
