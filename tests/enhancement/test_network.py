"""The network over a map: windows at a time, orientations, and what kinds of weights see."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from small_network import SMALL, randomise

from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.enhancement import network
from deepemhancer_plugin.core.enhancement.enhance import enhance
from deepemhancer_plugin.core.enhancement.windows import enhance_windows, window_corners
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.embedded import EmbeddedModel, load_embedded, load_file
from deepemhancer_plugin.core.weights.networks import PUBLISHED, build, save_weights

CPU = Devices(["/CPU:0"], [], "cpu", "the CPU", "", False)


def test_more_orientations_where_the_windows_are_few():
    """A larger map is never less work for the network."""
    model = load_embedded("tightTarget")
    edges = range(64, 300)
    count = np.array([len(window_corners((n, n, n), model.tile, model.stride)) for n in edges])
    looks = count * [network.count_orientations(model, (n, n, n)) for n in edges]
    assert np.all(np.diff(looks) >= 0) and set(looks / count) == {2, 4}
    assert network.count_orientations(model, (64, 64, 400)) == 2


def test_too_little_memory_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(network.devices, "free_memory", lambda _: 10**8)
    with pytest.raises(
        InputError, match=r"not enough memory on the CPU: a window needs .* GB, 0.1 GB are free"
    ):
        network.choose_batch(load_embedded("tightTarget"), None, CPU)


class SmallWindows(EmbeddedModel):
    """Weights that run in windows of 32^3 voxels, 16 apart."""

    stride = 16


def weights_of(path, architecture):
    """A file of random weights, run in small windows."""
    save_weights(path, randomise(build(architecture)), {})
    model = load_file(str(path))
    assert model.tile == 64 and model.stride == (16 if architecture.kind == "published" else 48)
    return SmallWindows(model.name, model.path, 32)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_published_weights_see_the_plain_normalised_map(tmp_path):
    """No arcsinh, one channel, windows 16 voxels apart."""
    model = weights_of(tmp_path / "w.npz", replace(PUBLISHED, widths=(4, 4), blocks=(1, 1)))
    volume, seen = noise(40, 36, 32) * 30 + 5, []
    expected = enhance_windows(((volume - 5) / 10 / 3)[..., None], [model.predictor()], 32, 16)
    result = enhance(
        volume,
        sampling_rate=1.0,
        weights=model,
        device=CPU,
        noise=(5.0, 3.0),
        precision="float32",
        progress=lambda step, done, total: seen.append((step, total)),
    )
    assert ("network", 4) in seen
    np.testing.assert_allclose(result.data, expected, atol=1e-4 * np.ptp(expected))


def test_weights_for_masked_maps_need_the_mask_and_see_nothing_outside(tmp_path):
    model = weights_of(tmp_path / "w.npz", replace(SMALL, channels=1, normalization="mask"))
    options = {"sampling_rate": 1.0, "weights": model, "device": CPU, "precision": "float32"}
    volume, mask = noise(32, 32, 32) + 3, np.zeros((32, 32, 32), bool)
    with pytest.raises(
        InputError, match=r"w\.npz: these weights are for mask normalisation: give the mask"
    ):
        enhance(volume, **options)
    mask[8:24, 8:24, 8:24] = True
    result = enhance(volume, mask=mask, average=2, **options)
    assert result.report["noise"] is None
    assert not result.data[~mask].any() and result.data[mask].std() > 0
    # Rule 1 takes one voxel more than the mask.
    near = ndimage.binary_dilation(mask, np.ones((3, 3, 3)))
    other = enhance(np.where(near, volume, -100), mask=mask, average=2, **options)
    np.testing.assert_array_equal(other.data, result.data)
