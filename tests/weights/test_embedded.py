"""The embedded network: windows against a slow average, devices, precision, weights files."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_network import SMALL, small_network

from deepemhancer_plugin.core.enhancement.windows import enhance_windows
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.embedded import (
    FOLDER,
    EmbeddedModel,
    load_embedded,
    load_file,
)
from deepemhancer_plugin.core.weights.networks import load_weights, save_weights

TILE, STRIDE = 16, 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    network = small_network()
    for variable in network.model.trainable_variables:
        variable.assign(np.asarray(variable).astype(np.float16))  # as it comes back from the file
    save_weights(path, network, {})
    return path


@pytest.fixture(scope="module")
def predictor(weights):
    return load_file(str(weights)).predictor()


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def slowly(volume):
    """Every window through the Keras model, one by one, averaged in float64."""
    starts = [sorted({*range(0, n - TILE + 1, STRIDE), n - TILE}) for n in volume.shape[:3]]
    profile = np.sin(np.pi * (np.arange(TILE) + 0.5) / TILE) ** 2
    weights = np.einsum("i,j,k", profile, profile, profile)
    total, weight = np.zeros(volume.shape[:3]), np.zeros(volume.shape[:3])
    for corner in itertools.product(*starts):
        where = tuple(slice(c, c + TILE) for c in corner)
        total[where] += weights * np.asarray(small_network().model(volume[where][None]))[0, ..., 0]
        weight[where] += weights
    return total / weight


@pytest.mark.parametrize("batch", [1, 3])
def test_map_of_any_box_is_the_average_of_its_windows(predictor, batch):
    volume, seen = noise(31, 16, 22, 2), []
    result = enhance_windows(
        volume, [predictor], TILE, STRIDE, batch, progress=lambda *step: seen.append(step)
    )
    expected = slowly(volume)
    assert result.shape == (31, 16, 22) and result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.ptp(expected))
    assert seen[-1] == (6, 6) and [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_map_smaller_than_a_window_wraps(predictor):
    volume = noise(9, 16, 12, 2)
    padded = np.pad(volume, [(3, 4), (0, 0), (2, 2), (0, 0)], mode="wrap")
    expected = slowly(padded)[3:12, :, 2:14]
    np.testing.assert_allclose(
        enhance_windows(volume, [predictor], TILE, STRIDE), expected, atol=1e-4 * np.ptp(expected)
    )


def test_windows_outside_the_mask_are_left_out(predictor):
    mask = np.zeros((40, 16, 16), bool)
    mask[35:] = True
    result = enhance_windows(noise(40, 16, 16, 2), [predictor], TILE, STRIDE, mask=mask)
    assert not result[:24].any() and result[24:].all()


TWO_DEVICES = """
import sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from deepemhancer_plugin.core.weights.embedded import load_file
from deepemhancer_plugin.core.enhancement.windows import enhance_windows
volume = np.random.default_rng(0).standard_normal((64, 16, 28, 2)).astype(np.float32)
used = []
def on(device):
    predict = load_file(sys.argv[1]).predictor("float32", device)
    def spy(windows):
        used.append(device)
        return predict(windows)
    return spy
one = enhance_windows(volume, [on("/CPU:0")], 16, 12)
used.clear()
two = enhance_windows(volume, [on("/CPU:0"), on("/CPU:1")], 16, 12)
assert set(used) == {"/CPU:0", "/CPU:1"} and len(used) == 10, used
assert np.abs(one - two).max() < 1e-4 * np.ptp(one), np.abs(one - two).max()
"""


def test_two_devices_share_the_windows(weights):
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(weights)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_narrow_precision_is_near_and_leaves_the_policy(weights, predictor):
    import keras

    before = keras.config.dtype_policy().name
    windows = noise(1, TILE, TILE, TILE, 2)
    wide, narrow = predictor(windows), load_file(str(weights)).predictor("bfloat16")(windows)
    assert narrow.dtype == np.float32 and keras.config.dtype_policy().name == before
    error = np.abs(narrow - wide).max() / np.ptp(wide)
    assert 0 < error < 0.05
    with pytest.raises(InputError, match="one of float32, bfloat16, float16"):
        load_file(str(weights)).predictor("float8")


def test_what_a_file_says_of_itself(weights):
    import hashlib

    model = load_file(str(weights))
    assert (model.name, model.kind, model.architecture) == ("small", "embedded", SMALL)
    assert model.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("variant", ["tightTarget", "wideTarget", "highRes", "masked"])
def test_the_packages_weights(variant):
    model = load_embedded(variant)
    assert model == EmbeddedModel(variant, str(FOLDER / f"{variant}.npz"))
    assert model.normalization == ("mask" if variant == "masked" else "noise")
    assert (FOLDER / f"{variant}.md").is_file()


def test_the_family_differs_a_little_and_the_default_predicts_a_mean():
    networks = [
        load_weights(FOLDER / f"{variant}.npz")[0]
        for variant in ("wideTarget", "highRes", "masked", "tightTarget")
    ]
    base, *others, mean = (
        np.concatenate([np.ravel(v) for v in network.model.trainable_variables])
        for network in networks
    )
    assert all(0 < np.abs(other - base).mean() < 0.1 * np.abs(base).mean() for other in others)
    # Unrelated weights, the same numbers in another order, give 1.8.
    assert 0.1 < np.abs(mean - base).mean() / np.abs(base).mean() < 1.2
    assert [
        load_embedded(variant).prediction
        for variant in ("wideTarget", "highRes", "masked", "tightTarget")
    ] == ["median", "median", "median", "mean"]


def test_a_variant_that_is_not_there_is_refused():
    with pytest.raises(
        InputError,
        match="no embedded weights named nothingLikeIt: "
        "highRes, masked, tightTarget, wideTarget are there",
    ):
        load_embedded("nothingLikeIt")


@pytest.mark.parametrize(
    "content", [None, b"", b"PK", b"\x93NUMPY", b"text\n" * 99, b"PK\x03\x04" + bytes(99)]
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "weights.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_file(str(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "architecture",
    ["[1]", "3", "{}", '{"channels": "two", "widths": [4, 8], "blocks": [1, 1], "norm": "none"}'],
)
def test_foreign_architectures_are_refused(tmp_path, architecture):
    np.savez(tmp_path / "weights.npz", architecture=architecture)
    with pytest.raises(InputError, match="not a weights file"):
        load_file(str(tmp_path / "weights.npz"))
