"""The networks for local resolution, and their files."""

import numpy as np
import pytest
from random_localres import WIDTHS, random_network

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import predict
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
