"""The embedded network's architecture and its files."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from official_checkpoint import write_small
from small_network import SMALL, randomise, small_network

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.networks import (
    PUBLISHED,
    Architecture,
    Embedded,
    build,
    load_architecture,
    load_weights,
    save_weights,
)
from deepemhancer_plugin.core.weights.official.checkpoint import load_official


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_weights(path, small_network(), {"step": 7, "settings": {"rate": 0.1}})
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_space_to_depth_and_back_is_exact():
    layers = {layer.name: layer for layer in small_network().model.layers}
    cube = noise(1, 6, 8, 4, 2)
    features = np.asarray(layers["space_to_depth"](cube))
    assert features.shape == (1, 3, 4, 2, 16)
    for z, y, x in np.ndindex(2, 2, 2):
        np.testing.assert_array_equal(
            features[..., 2 * (4 * z + 2 * y + x) :][..., :2], cube[:, z::2, y::2, x::2]
        )
    for channel in range(2):
        np.testing.assert_array_equal(
            np.asarray(layers["depth_to_space"](features[..., channel::2])),
            cube[..., channel : channel + 1],
        )


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_new_network_gives_nothing_and_its_blocks_are_the_identity(norm):
    import keras

    model = Embedded(Architecture(channels=1, widths=(4, 8), blocks=(1, 2), norm=norm)).model
    cube = noise(1, 8, 8, 8, 1)
    assert not np.asarray(model(cube)).any()
    ends = keras.Model(
        model.input,
        [
            model.get_layer(name).output
            for name in ("first", "down0_0_sum", "reduce0", "down1_1_sum")
        ],
    )
    first, after, coarse, after_two = (np.asarray(a) for a in ends(cube))
    assert first.any() and coarse.any()
    np.testing.assert_array_equal(after, first)
    np.testing.assert_array_equal(after_two, coarse)


def test_any_box_of_whole_strides():
    result = np.asarray(small_network().model(noise(2, 16, 8, 24, 2)))
    assert result.shape == (2, 16, 8, 24, 1) and result.std() > 0.01


def test_shift_by_the_stride_shifts_the_result():
    """Away from the border by the whole field of view."""
    network = small_network()
    stride, cube = network.architecture.stride, noise(1, 200, 8, 8, 2, seed=1)
    plain = np.asarray(network.model(cube))[0, ..., 0]
    shifted = np.asarray(network.model(np.roll(cube, stride, axis=1)))[0, ..., 0]
    np.testing.assert_allclose(
        shifted[88 + stride : 112 + stride], plain[88:112], atol=1e-5 * np.ptp(plain)
    )
    assert np.abs(plain[88 + stride : 112 + stride] - plain[88:112]).max() > 0.1 * np.ptp(plain)


def test_layer_normalisation_looks_at_one_voxel():
    """No statistics over the tile: a far voxel changes nothing."""
    network = randomise(
        Embedded(Architecture(channels=1, widths=(4, 4), blocks=(1, 1), norm="layer"))
    )
    cube = noise(1, 96, 4, 4, 1)
    before = np.asarray(network.model(cube))
    cube[0, 95] += 1000
    after = np.asarray(network.model(cube))
    np.testing.assert_array_equal(after[0, :40], before[0, :40])
    assert np.abs(after[0, 90:] - before[0, 90:]).max() > 1e-3


def test_stride_and_dictionary():
    assert SMALL.stride == 8 and Architecture().stride == 16
    assert Architecture.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


def test_fields_that_older_files_lack_or_call_otherwise():
    plain = {"channels": 2, "widths": [4, 8, 8], "blocks": [1, 1, 1], "norm": "layer"}
    assert Architecture.from_dict(plain) == SMALL
    mean = Architecture.from_dict(plain | {"answer": "mean"})
    assert mean == replace(SMALL, prediction="mean")


def test_architecture_of_a_file(saved, tmp_path):
    assert load_architecture(saved) == SMALL
    with pytest.raises(InputError, match="cannot be read"):
        load_architecture(tmp_path)


# Another program's settings: a framework that is not installed, other axes, narrow numbers.
KERAS_JSON = {
    "backend": "theano",
    "image_data_format": "channels_first",
    "floatx": "float16",
    "epsilon": 1e-7,
}
WITH_KERAS_JSON = """
import sys
import numpy as np
from deepemhancer_plugin.core.weights import networks
from deepemhancer_plugin.core.weights.official.checkpoint import load_official
weights, checkpoint, cube, out = sys.argv[1:]
cube = np.load(cube)
network, _ = networks.load_weights(weights)
official = load_official(checkpoint).predictor()
np.savez(out, ours=network.model(cube), official=official(cube[..., 0]))
for kind, norm in (("published", "group"), ("embedded", "none")):
    small = networks.Architecture(2, (4, 4), (1, 1), norm, 1, kind)
    assert networks.build(small).model(cube).shape == (1, 16, 16, 16, 1)
"""


def test_keras_json_of_another_program_changes_nothing(saved, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps(KERAS_JSON))
    checkpoint, cube = write_small(tmp_path / "a.hd5"), noise(1, 16, 16, 16, 2)
    np.save(tmp_path / "cube.npy", cube)
    files = [str(saved), checkpoint, str(tmp_path / "cube.npy"), str(tmp_path / "out.npz")]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "PYTHONPATH": root}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", WITH_KERAS_JSON, *files],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = np.asarray(load_weights(saved)[0].model(cube))
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["ours"], expected, atol=1e-5 * np.ptp(expected))
        official = load_official(checkpoint).predictor()(cube[..., 0])
        np.testing.assert_allclose(found["official"], official, atol=1e-5 * np.ptp(official))


def test_channels_come_last_whatever_keras_thinks():
    """Of a program that imported Keras before, and wants its channels first."""
    import keras

    keras.config.set_image_data_format("channels_first")
    try:
        for kind, norm, entrance in (("embedded", "layer", 2), ("published", "group", 1)):
            architecture = Architecture(1, (4, 8), (1, 1), norm, entrance, kind)
            result = build(architecture).model(noise(1, 8, 12, 16, 1))
            assert result.shape == (1, 8, 12, 16, 1)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_saved_weights_come_back(saved):
    network, facts = load_weights(saved)
    assert network.architecture == SMALL and facts == {"step": 7, "settings": {"rate": 0.1}}
    for new, old in zip(
        network.model.trainable_variables, small_network().model.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old).astype(np.float16))
    cube = noise(1, 8, 8, 8, 2)
    expected = np.asarray(small_network().model(cube))
    np.testing.assert_allclose(
        np.asarray(network.model(cube)), expected, atol=5e-3 * np.ptp(expected)
    )
    assert [p.name for p in saved.parent.iterdir()] == ["weights.npz"]  # no temporary file stays


def refused(path):
    with pytest.raises(InputError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)), message


def test_missing_and_foreign_files_are_refused(tmp_path):
    refused(tmp_path / "absent.npz")
    refused(tmp_path)
    path = tmp_path / "foreign.npz"
    for content in (
        b"",
        b"PK",
        b"\x93NUMPY",
        b"not a weights file\n" * 100,
        b"\x89HDF\r\n\x1a\n" + bytes(200),
    ):
        path.write_bytes(content)
        refused(path)
    np.savez(path, a=np.zeros(3))
    refused(path)
    np.save(path.open("wb"), np.zeros(3))
    refused(path)
    np.savez(path, architecture=np.array([{"pickled": 1}], object), facts="{}")
    refused(path)


@pytest.mark.parametrize(
    "architecture",
    [
        "",
        "[]",
        "3",
        "{}",
        '{"channels": 1, "widths": 4, "blocks": [1], "norm": "none"}',
        '{"channels": 1, "widths": [4, 8], "blocks": [1], "norm": "none"}',
        '{"channels": 1, "widths": [4], "blocks": [1], "norm": "none"}',
        '{"channels": -1, "widths": [4, 8], "blocks": [1, 1], "norm": "none"}',
    ],
)
def test_impossible_architectures_are_refused(tmp_path, architecture):
    np.savez(tmp_path / "weights.npz", architecture=architecture, facts="{}")
    refused(tmp_path / "weights.npz")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_file_is_refused(saved, tmp_path, share):
    content = saved.read_bytes()
    (tmp_path / "weights.npz").write_bytes(content[: int(share * len(content))])
    refused(tmp_path / "weights.npz")


def test_flipped_bytes_in_the_arrays_are_noticed(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        entry = archive.getinfo("first/kernel.npy")
    content[entry.header_offset + 300] ^= 0x55
    (tmp_path / "weights.npz").write_bytes(content)
    refused(tmp_path / "weights.npz")


@pytest.mark.parametrize("change", ["shape", "nan", "missing"])
def test_wrong_weights_are_refused(saved, tmp_path, change):
    with np.load(saved) as data:
        arrays = dict(data)
    if change == "missing":
        del arrays["last/bias"]
    else:
        arrays["last/bias"] = (
            np.zeros(9, np.float16) if change == "shape" else np.full(8, np.nan, np.float16)
        )
    np.savez(tmp_path / "weights.npz", **arrays)
    refused(tmp_path / "weights.npz")


def test_the_published_network_is_the_published_one():
    """Seven levels of three convolutions each, and 168 GFLOP a window of 64^3.

    Three levels lead down, one is the bottom, three lead up; each convolution has a group
    normalisation and a PReLU.
    """
    from keras import layers

    model = build(PUBLISHED).model
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(layers.GroupNormalization) == kinds.count(layers.PReLU) == 21
    filters = {layer.filters for layer in model.layers if isinstance(layer, layers.Conv3D)}
    assert filters == {32, 64, 128, 1}
    grids = {
        "down": (64, 32, 16),
        "reduce": (32, 16, 8),
        "bottom": (0, 0, 8),
        "up": (64, 32, 16),
        "expand": (32, 16, 8),
    }
    operations = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv3D | layers.Conv3DTranspose) and layer.name != "last":
            way, level = re.match(r"([a-z]+)(\d)", layer.name).groups()
            operations += 2 * grids[way][int(level)] ** 3 * np.prod(layer.kernel.shape)
    assert operations == pytest.approx(168e9, rel=0.01)
    assert PUBLISHED.stride == 8 and not PUBLISHED.compressed


@pytest.mark.parametrize(
    "name, value",
    [
        ("norm", "batch"),
        ("entrance", 3),
        ("kind", "other"),
        ("normalization", "min"),
        ("prediction", "mode"),
        ("blocks", [1, 1]),
    ],
)
def test_a_file_of_an_architecture_that_there_is_not(saved, tmp_path, name, value):
    with np.load(saved) as data:
        arrays = dict(data)
    arrays["architecture"] = json.dumps(SMALL.to_dict() | {name: value})
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(InputError, match=rf"w\.npz.*{name}"):
        load_weights(tmp_path / "w.npz")
