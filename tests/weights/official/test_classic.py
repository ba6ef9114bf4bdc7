"""The classic mode against an independent, slow reference of the original's steps."""

import numpy as np
import pytest
from official_checkpoint import norm_fun, write_small
from scipy import ndimage
from skimage.transform import resize

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.noise.normalization import normalize_with_mask
from deepemhancer_plugin.core.weights.official.checkpoint import load_official
from deepemhancer_plugin.core.weights.official.classic import enhance_classic

TILE, STRIDE = 16, 4


def reference(volume, rate, predict, normalize, mask=None, clean=None):
    """The original's steps, a voxel and a window at a time; prediction by batches of one."""
    options = {"order": 3, "mode": "reflect", "anti_aliasing": True}
    x = resize(normalize(volume), [round(n * rate) for n in volume.shape], **options)
    small_mask = None if mask is None else resize(mask.astype(np.float32), x.shape, **options)
    size = [n + STRIDE - n % STRIDE for n in x.shape]
    padded = np.zeros(size, np.float32)
    for z, y, w in np.ndindex(*size):
        padded[z, y, w] = x[z % x.shape[0], y % x.shape[1], w % x.shape[2]]
    total, weight = np.zeros(size), np.ones(size)
    z = 0
    while z + TILE <= size[0]:
        y = 0
        while y + TILE <= size[1]:
            w = 0
            while w + TILE <= size[2]:
                if small_mask is None or np.count_nonzero(
                    small_mask[z : z + TILE, y : y + TILE, w : w + TILE]
                ):
                    total[z : z + TILE, y : y + TILE, w : w + TILE] += predict(
                        padded[None, z : z + TILE, y : y + TILE, w : w + TILE]
                    )[0]
                    weight[z : z + TILE, y : y + TILE, w : w + TILE] += 1
                w += STRIDE
            y += STRIDE
        z += STRIDE
    result = (total / weight)[: x.shape[0], : x.shape[1], : x.shape[2]]
    return resize(clean(result) if clean else result, volume.shape, **options)


def a_map(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 0.02, shape) + ndimage.gaussian_filter(rng.normal(0, 1, shape), 2)
    ).astype(np.float32)


def with_noise(volume):
    return ((volume - 0.01) / (10 * 0.02)).astype(np.float32)


def masked(rule, mask):
    """The three rules of the original."""

    def normalize(volume):
        if rule == 3:
            inside = mask > 0.01
        else:
            grown = ndimage.grey_dilation(mask.astype(float), size=(3, 3, 3))
            inside = grown >= grown.min() + 0.01 * np.ptp(grown)
        values = volume[inside & (volume > 0)] if rule > 1 else volume[inside]
        spread = np.percentile(values, 95) - np.percentile(values, 10)
        return ((volume - np.median(values)) / spread * inside).astype(np.float32)

    return normalize


def assert_same_map(result, expected, volume):
    assert result.shape == volume.shape and result.dtype == np.float32
    assert np.abs(result - expected).max() < 1e-4 * np.ptp(expected)


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    return load_official(
        write_small(tmp_path_factory.mktemp("classic") / "a.hd5", TILE, stride=STRIDE)
    ).predictor()


@pytest.mark.parametrize(
    ("shape", "rate"), [((20, 20, 20), 1.0), ((16, 19, 22), 1.3), ((26, 21, 23), 0.83)]
)
def test_like_reference(predict, shape, rate):
    volume = a_map(shape)
    result = enhance_classic(volume, rate, predict, TILE, STRIDE, with_noise)
    assert_same_map(result, reference(volume, rate, predict, with_noise), volume)


@pytest.mark.parametrize("rule", [1, 2, 3])
def test_masked_like_reference(predict, rule):
    volume = a_map((24, 30, 22))
    mask = np.zeros(volume.shape, bool)
    mask[3:8, 4:9, 5:11] = True
    normalize = masked(rule, mask)
    calls = []
    progress = lambda done, count: calls.append(count)  # noqa: E731
    result = enhance_classic(volume, 1.0, predict, TILE, STRIDE, normalize, mask, progress=progress)
    assert_same_map(result, reference(volume, 1.0, predict, normalize, mask), volume)
    assert calls[0] < 3 * 5 * 3


def test_mask_rules_like_the_normalisation_module(tmp_path):
    """The package's normalisation by the rule that a checkpoint names is that of the reference."""
    volume, mask = a_map((20, 20, 20)), np.zeros((20, 20, 20), bool)
    mask[4:12, 5:14, 6:13] = True
    for rule, suffix in ((1, ""), (2, "_2"), (3, "_3")):
        text = norm_fun(f"inputNormalizationWithMask{suffix}")
        model = load_official(
            write_small(tmp_path / f"{rule}.hd5", TILE, stride=STRIDE, normalization=text)
        )
        ours = normalize_with_mask(volume, mask, model.mask_rule)
        np.testing.assert_allclose(ours, masked(rule, mask)(volume), atol=1e-5)


def test_batches_change_nothing(predict):
    volume = a_map((20, 18, 17))
    one, seven = (
        enhance_classic(volume, 1.0, predict, TILE, STRIDE, with_noise, batch=batch)
        for batch in (1, 7)
    )
    np.testing.assert_allclose(one, seven, atol=1e-6)


def test_cleaning_comes_before_resizing_back(predict):
    volume = a_map((16, 18, 20))

    def clean(enhanced):
        assert enhanced.shape == (24, 27, 30)
        return np.where(enhanced > np.median(enhanced), enhanced, enhanced.min())

    result = enhance_classic(volume, 1.5, predict, TILE, STRIDE, with_noise, clean=clean)
    assert_same_map(result, reference(volume, 1.5, predict, with_noise, clean=clean), volume)


def test_weights_start_at_one():
    """As the original's: a corner, seen by one window, has half of what the network says."""
    result = enhance_classic(
        np.ones((48, 48, 48), np.float32), 1.0, np.ones_like, TILE, STRIDE, lambda volume: volume
    )
    assert result[0, 0, 0] == pytest.approx(0.5, abs=1e-3)
    assert result[24, 24, 24] == pytest.approx(64 / 65, abs=1e-3)


def test_box_that_is_not_a_cube_keeps_its_planes(predict):
    volume = a_map((20, 20, 27))
    result = enhance_classic(volume, 1.0, predict, TILE, STRIDE, with_noise)
    assert result.shape == volume.shape and np.ptp(result[:, :, -1]) > 0


def test_box_too_small_for_a_window(predict):
    with pytest.raises(
        InputError,
        match=r"box of 20 x 11 x 20 A is too small for the classic mode, which needs 12 A",
    ):
        enhance_classic(a_map((20, 11, 20)), 1.0, predict, TILE, STRIDE, with_noise)
    assert enhance_classic(a_map((12, 12, 12)), 1.0, predict, TILE, STRIDE, with_noise).any()


def test_progress(predict):
    calls = []
    progress = lambda *call: calls.append(call)  # noqa: E731
    enhance_classic(
        a_map((16, 16, 16)), 1.0, predict, TILE, STRIDE, with_noise, batch=3, progress=progress
    )
    assert calls == [(3, 8), (6, 8), (8, 8)]
