"""The networks for local resolution and their files, and their use on maps with random weights."""

import numpy as np
import pytest
from random_localres import WIDTHS, random_network

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import predict
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.localres.inputs import BANDS, RANGES, SPREADS
from deepemhancer_plugin.core.localres.networks import (
    Dense,
    Published,
    build,
    load_weights,
    save_weights,
)
from deepemhancer_plugin.core.weights import networks as enhancing


@pytest.fixture(scope="module")
def dense():
    return random_network("dense")


@pytest.fixture(scope="module")
def volume():
    return low_pass_to(np.random.default_rng(0).standard_normal((64, 68, 72), np.float32), 1, 4)


@pytest.fixture(scope="module")
def mask(volume):
    inside = np.zeros(volume.shape, bool)
    inside[28:36, 28:40, 30:42] = True
    return inside


def test_new_networks_say_the_middle_of_their_range():
    spectra = np.zeros((1, 4, 4, 4, len(BANDS) * len(SPREADS)), np.float32)
    np.testing.assert_allclose(
        np.exp(build("dense", RANGES["0.5"]).model(spectra)), np.sqrt(1.5 * 6), rtol=1e-2
    )
    np.testing.assert_allclose(
        build("published", RANGES["1.0"]).model(np.zeros((2, 13, 13, 13, 1))), 7.75, rtol=1e-5
    )


def test_channels_come_last_whatever_keras_thinks():
    """Of a program that imported Keras before, and wants its channels first."""
    import keras

    keras.config.set_image_data_format("channels_first")
    try:
        boxes = random_network("published").model(np.zeros((2, 13, 13, 13, 1)))
        blocks = random_network("dense").model(np.zeros((1, 3, 4, 5, len(BANDS) * len(SPREADS))))
    finally:
        keras.config.set_image_data_format("channels_last")
    assert boxes.shape == (2, 1) and blocks.shape == (1, 3, 4, 5, 1)


def test_published_network_is_the_papers():
    model = Published(RANGES["1.0"]).model
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    assert shapes == [(13, 13, 13, 1, 32), (32,), (32, 512), (512,), (512, 1), (1,)]


@pytest.mark.parametrize("kind", ["dense", "published"])
def test_weights_come_back_as_they_were_saved(kind, tmp_path):
    network = random_network(kind)
    network.calibration = [3.0, 4.0], [3.1, 3.9]
    save_weights(tmp_path / "w.npz", network, {"step": 7})
    again, facts = load_weights(tmp_path / "w.npz")
    assert (
        facts == {"step": 7}
        and again.kind == kind
        and again.span == network.span
        and again.widths == WIDTHS[kind]
        and again.calibration == ([3.0, 4.0], [3.1, 3.9])
    )
    for one, other in zip(
        network.model.trainable_variables, again.model.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-3, atol=1e-4)
    assert predict.load_network(str(tmp_path / "w.npz")).kind == kind


def test_calibration_that_does_not_rise_is_refused(tmp_path):
    network = random_network("dense")
    for calibration in (([4.0, 3.0], [3.0, 4.0]), ([3.0, 4.0], [3.0])):
        network.calibration = calibration
        save_weights(tmp_path / "w.npz", network, {})
        with pytest.raises(InputError, match=r"w\.npz: .*calibration does not rise"):
            load_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("kind", ["dense", "published"])
def test_files_of_the_enhancers_networks_are_refused_and_the_other_way_round(kind, tmp_path):
    save_weights(tmp_path / "localres.npz", random_network(kind), {})
    with pytest.raises(InputError, match=r"localres\.npz: not a weights file.*deepemhancer train"):
        enhancing.load_weights(tmp_path / "localres.npz")
    small = enhancing.Architecture(1, (4, 4), (1, 1), "none", 1, "published")
    enhancing.save_weights(tmp_path / "enhance.npz", enhancing.build(small), {})
    with pytest.raises(InputError, match=r"enhance\.npz: not a weights file.*localres-train"):
        load_weights(tmp_path / "enhance.npz")


def test_files_that_are_no_weights_are_errors_of_one_line(tmp_path):
    (tmp_path / "text.npz").write_text("no weights")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    save_weights(tmp_path / "broken.npz", random_network("dense"), {})
    with np.load(tmp_path / "broken.npz") as data:
        arrays = dict(data)
    name = next(n for n in arrays if n.endswith("kernel"))
    arrays[name] = np.full_like(arrays[name], np.nan)
    np.savez(tmp_path / "nan.npz", **arrays)
    for file, said in (
        ("text.npz", "not a weights file"),
        ("other.npz", "not a weights file"),
        ("nan.npz", "non-finite"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            predict.load_network(str(tmp_path / file))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such network"):
        predict.load_network("2.0")


def test_values_are_in_the_mask_alone_and_in_the_range(dense, volume, mask):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    assert found.shape == volume.shape and found.dtype == np.float32
    assert np.all(found[~mask] == 0) and found[mask].min() >= 2.5 and found[mask].max() <= 13
    assert found[mask].std() > 0.01


def test_scale_and_level_of_the_map_do_not_matter(dense, volume, mask):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    np.testing.assert_allclose(
        predict.predict_resolution(1000 * volume + 300, mask, 1.0, dense), found, rtol=1e-2
    )


def test_slabs_give_what_the_whole_map_gives(dense, volume, mask, monkeypatch):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    monkeypatch.setattr(predict, "BLOCKS_AT_A_TIME", 1)
    np.testing.assert_allclose(
        predict.predict_resolution(volume, mask, 1.0, dense), found, rtol=1e-4
    )


def test_result_moves_with_the_map(dense, volume, mask):
    found = predict.predict_resolution(volume, mask, 1.0, dense)
    shift = (3, -4, 2)  # the 24 voxels around the mask stay in the box
    moved = predict.predict_resolution(
        np.roll(volume, shift, (0, 1, 2)), np.roll(mask, shift, (0, 1, 2)), 1.0, dense
    )
    np.testing.assert_allclose(moved, np.roll(found, shift, (0, 1, 2)), rtol=1e-3)


def test_mask_at_the_edge_of_the_box(dense, volume):
    everywhere = np.ones(volume.shape, bool)
    assert np.all(predict.predict_resolution(volume, everywhere, 1.0, dense) >= 2.5)


@pytest.mark.parametrize("rate", [0.8, 1.6])
def test_other_sampling_rates_come_back_on_the_maps_grid(dense, volume, mask, rate):
    found = predict.predict_resolution(volume, mask, rate, dense)
    assert found.shape == volume.shape and np.array_equal(found > 0, mask)
    assert found[mask].min() >= max(2.5, 2 * rate) - 1e-5


def test_sliding_windows_see_the_box_around_each_voxel(volume, mask):
    network = random_network("published")
    found = predict.predict_resolution(volume, mask, 1.0, network)
    level = np.median(volume[~mask])
    for z, y, x in np.argwhere(mask)[::197]:
        box = volume[z - 6 : z + 7, y - 6 : y + 7, x - 6 : x + 7] - level
        alone = float(np.asarray(network.model((box / np.linalg.norm(box))[None, ..., None]))[0, 0])
        assert found[z, y, x] == pytest.approx(np.clip(alone, 2.5, 13), rel=1e-4)


def test_mask_of_another_box_and_empty_mask_are_errors(dense, volume, mask):
    with pytest.raises(InputError, match="differ in box"):
        predict.predict_resolution(volume, mask[1:], 1.0, dense)
    with pytest.raises(InputError, match="empty"):
        predict.predict_resolution(volume, np.zeros_like(mask), 1.0, dense)


def test_reach_is_what_a_block_sees(dense):
    spectra = (
        np.random.default_rng(0)
        .standard_normal((1, 11, 11, 11, len(BANDS) * len(SPREADS)))
        .astype(np.float32)
    )
    changed = spectra.copy()
    changed[0, 5, 5, 5] += 3
    moved = (
        np.abs(np.asarray(dense.model(changed)) - np.asarray(dense.model(spectra)))[0, ..., 0]
        > 1e-6
    )
    assert isinstance(dense, Dense) and moved[5, 5, 5 + dense.reach]
    assert (
        np.argwhere(moved).min() >= 5 - dense.reach and np.argwhere(moved).max() <= 5 + dense.reach
    )
