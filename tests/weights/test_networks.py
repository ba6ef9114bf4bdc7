"""The embedded network's architecture and its files."""

import json
import zipfile

import numpy as np
import pytest
from small_network import SMALL, randomise, small_network

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.networks import (
    Architecture,
    Embedded,
    load_weights,
    save_difference,
    save_weights,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_weights(path, small_network(), {"step": 7, "settings": {"rate": 0.1}})
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layers_of(model):
    return {layer.name: layer for layer in model.layers}


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


def test_weights_as_a_difference_come_back(tmp_path):
    base, tuned = small_network(), small_network()
    rng = np.random.default_rng(0)
    for variable in tuned.model.trainable_variables:
        variable.assign(np.asarray(variable) + 0.02 * rng.standard_normal(variable.shape))
    save_weights(tmp_path / "base.npz", base, {"step": 1})
    save_weights(tmp_path / "tuned.npz", tuned, {"step": 2})
    save_difference(tmp_path / "small.npz", tmp_path / "tuned.npz", tmp_path / "base.npz")
    network, facts = load_weights(tmp_path / "small.npz")
    assert facts == {"step": 2} and network.architecture == SMALL
    for new, old in zip(
        network.model.trainable_variables, tuned.model.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(np.asarray(new), np.asarray(old), atol=0.02 * 5 / 127 + 2e-3)
    save_difference(
        tmp_path / "same.npz", tmp_path / "base.npz", tmp_path / "base.npz"
    )  # no difference is one too
    np.testing.assert_array_equal(
        *(
            np.asarray(load_weights(tmp_path / f"{name}.npz")[0].model.trainable_variables[0])
            for name in ("same", "base")
        )
    )
    save_weights(tmp_path / "base.npz", tuned, {})  # another base than it was made for
    refused(tmp_path / "small.npz")
    (tmp_path / "base.npz").unlink()
    refused(tmp_path / "small.npz")


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
