"""The convolutions compiled for this CPU, against the definition in float64 and against Keras's layer."""
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepemhancer_plugin.core import convolutions, devices

pytestmark = [pytest.mark.skipif(not devices.cpu_has_avx2(), reason="a CPU without AVX2 uses Keras's convolutions"),
              pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="no C++ compiler")]


@pytest.fixture(scope="module")
def made():
    library, why = convolutions.library()
    assert library, why
    return library


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Looked for anew, with an empty cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    convolutions.library.cache_clear()
    yield tmp_path / "deepemhancer"
    convolutions.library.cache_clear()


def shifted(values, z, y, x):
    """values[voxel + (z, y, x) - 1], 0 outside."""
    padded = np.pad(values, [(0, 0), *[(1, 1)] * 3, (0, 0)])
    n = values.shape
    return padded[:, z:z + n[1], y:y + n[2], x:x + n[3]]


def defined(values, kernel, bias):
    return sum(shifted(values, *tap) @ kernel[tap] for tap in np.ndindex(3, 3, 3)) + bias


shapes = st.tuples(st.integers(1, 2), *[st.integers(1, 9)] * 3)
features = st.sampled_from([16, 32, 48])


@settings(deadline=None, max_examples=40)
@given(shape=shapes, first=features, last=features, relu=st.booleans(), seed=st.integers(0, 99))
def test_any_box_and_features(made, shape, first, last, relu, seed):
    rng = np.random.default_rng(seed)
    values, slope = rng.standard_normal((*shape, first)), rng.standard_normal((*shape, last))
    kernel, bias = rng.standard_normal((3, 3, 3, first, last)), rng.standard_normal(last)
    expected = defined(values, kernel, bias)
    expected = np.maximum(expected, 0) if relu else expected
    np.testing.assert_allclose(made.convolve(values, kernel, bias, relu), expected, atol=2e-4 * np.sqrt(27 * first))
    gradient = np.stack([np.tensordot(shifted(values, *tap), slope, ([0, 1, 2, 3], [0, 1, 2, 3])) for tap in np.ndindex(3, 3, 3)])
    np.testing.assert_allclose(made.kernel_gradient(values, slope), gradient.reshape(kernel.shape), atol=2e-4 * np.sqrt(np.prod(shape)) + 1e-4)


def test_more_voxels_than_fit_the_cache_at_once(made):
    rng = np.random.default_rng(0)
    values, kernel = rng.standard_normal((1, 40, 36, 44, 48)), rng.standard_normal((3, 3, 3, 48, 16))
    result = made.convolve(values, kernel, np.zeros(16), False)
    np.testing.assert_allclose(result, defined(values, kernel, 0), atol=2e-4 * np.sqrt(27 * 48))


@pytest.mark.parametrize("activation", ["relu", None])
def test_the_layer_is_keras_s_with_its_gradients(made, activation):
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(1)
    values, slope = (tf.constant(rng.standard_normal((2, 8, 12, 10, n)), tf.float32) for n in (16, 32))
    found = []
    for kind in (convolutions.layer(), keras.layers.Conv3D):
        keras.utils.set_random_seed(3)
        layer = kind(32, 3, padding="same", activation=activation, bias_initializer="ones")

        @tf.function
        def run(layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(values)
                result = layer(values)
                loss = tf.reduce_sum(result * slope)
            return [result, *tape.gradient(loss, [values, layer.kernel.value, layer.bias.value])]

        layer.build(values.shape)
        found.append([np.asarray(a) for a in run()])
    assert convolutions.layer() is not keras.layers.Conv3D and convolutions.fit(values.shape[1:4], layer.kernel.shape, layer.strides, layer.padding)
    for mine, keras_s in zip(*found, strict=True):
        assert mine.shape == keras_s.shape
        np.testing.assert_allclose(mine, keras_s, atol=1e-4 * np.abs(keras_s).max())


def test_what_does_not_fit_is_left_to_keras(made, monkeypatch):
    import keras

    monkeypatch.setattr(made, "_call", lambda *_: pytest.fail("the library was asked"))
    layer = convolutions.layer()
    for kind, shape in ((layer(16, 2, strides=2), (8, 8, 8, 16)), (layer(16, 3, padding="valid"), (10, 10, 10, 16)),
                        (layer(16, 3, padding="same"), (8, 8, 8, 2)), (layer(3, 3, padding="same"), (8, 8, 8, 16)),
                        (layer(16, 3, padding="same"), (4, 4, 4, 16)), (layer(16, 3, padding="same", activation="tanh"), (8, 8, 8, 16)),
                        (layer(16, 3, padding="same", dtype=keras.DTypePolicy("mixed_bfloat16")), (8, 8, 8, 16))):
        assert np.asarray(kind(np.ones((1, *shape), np.float32))).any()


def test_compiled_once(fresh, monkeypatch):
    assert convolutions.library()[0]
    (kept,) = fresh.iterdir()
    convolutions.library.cache_clear()
    run, commands = subprocess.run, []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command[1:]) or run(command, **options))
    assert convolutions.library()[0] and list(fresh.iterdir()) == [kept] and commands == [["--version"]]


def test_without_a_home_to_keep_it(fresh):
    fresh.write_text("in the folder's place")
    assert convolutions.library()[0] and fresh.is_file()


@pytest.mark.parametrize("variable, value, why", [("CXX", "false", "false makes no library of convolutions.cpp"),
                                                  ("CXX", "/no/such/compiler", "/no/such/compiler makes no library"),
                                                  (convolutions.SWITCH, "keras", "DEEPEMHANCER_CONVOLUTIONS says so")])
def test_without_a_compiler_keras_does_it_and_the_log_says_why(fresh, monkeypatch, variable, value, why):
    monkeypatch.setenv(variable, value)
    assert convolutions.library()[0] is None and not convolutions.fit((8, 8, 8), (3, 3, 3, 16, 16), (1, 1, 1), "same")
    assert why in convolutions.described("float32", devices.select_devices("-1")) and not fresh.exists()


def test_a_compiler_that_is_not_there(fresh, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert convolutions.library() == (None, "no C++ compiler")


@pytest.mark.parametrize("function", ["convolve", "kernel_gradient"])
def test_wrong_results_are_not_used(fresh, monkeypatch, function):
    right = getattr(convolutions.Library, function)
    monkeypatch.setattr(convolutions.Library, function, lambda *a: right(*a) * np.float32(1.01))
    library, why = convolutions.library()
    assert library is None and "do not give what they should" in why


def test_the_log_says_whose_convolutions():
    where = devices.select_devices("-1")
    assert convolutions.described("float32", where) == "float32, convolutions compiled for this CPU"
    assert convolutions.described("bfloat16", where) == "bfloat16"


def test_a_process_of_its_own_uses_them(tmp_path):
    """From nothing, as a user's first run: compiled, and the network's output as Keras gives it."""
    code = ("import sys; import numpy as np; import tensorflow as tf;"
            "x = np.random.default_rng(0).standard_normal((1, 32, 32, 32, 2)).astype('f4'); from deepemhancer_plugin.core.networks import *;"
            "import keras; keras.utils.set_random_seed(0); m = build(Architecture(widths=(16, 32), blocks=(1, 1))).model;"
            "[v.assign(0.1 * np.random.default_rng(i).standard_normal(v.shape)) for i, v in enumerate(m.trainable_variables)];"
            "np.save(sys.argv[1], np.asarray(tf.function(m)(x)))")
    results = []
    for switch in ("", "keras"):
        env = {**os.environ, convolutions.SWITCH: switch, "XDG_CACHE_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.npy")], check=True, env=env, capture_output=True)
        results.append(np.load(tmp_path / "a.npy"))
    assert results[0].std() > 0.01 and len(list((tmp_path / "deepemhancer").iterdir())) == 1
    np.testing.assert_allclose(results[0], results[1], atol=1e-4 * np.abs(results[1]).max())
