"""Normalisations against plain float64 references."""

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.noise.normalization import (
    NoiseStats,
    noise_from_numbers,
    normalize,
    normalize_with_mask,
)


def test_given():
    assert noise_from_numbers(-0.003, 0.002) == NoiseStats(-0.003, 0.002, "given")
    for mean, std in (0, 0), (0, -1), (0, np.nan), (np.nan, 1), (np.inf, 1), (0, np.inf):
        with pytest.raises(InputError, match="noise"):
            noise_from_numbers(mean, std)


def test_normalize():
    volume = np.random.default_rng(0).normal(5, 3, (7, 8, 9)).astype(np.float32)
    result = normalize(volume, NoiseStats(5, 3, "given"))
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, (volume.astype(np.float64) - 5) / 30, atol=1e-6)


def reference_with_mask(volume, mask, rule):
    """The guide's words, voxel by voxel in float64."""
    volume, mask = volume.astype(np.float64), mask.astype(np.float64)
    if rule < 3:
        padded = np.pad(mask, 1, mode="symmetric")
        nz, ny, nx = mask.shape
        mask = np.max(
            [
                padded[a : a + nz, b : b + ny, c : c + nx]
                for a in range(3)
                for b in range(3)
                for c in range(3)
            ],
            axis=0,
        )
        binary = mask >= mask.min() + 0.01 * (mask.max() - mask.min())
    else:
        binary = mask > 0.01
    values = np.sort(volume[binary & (volume > 0)] if rule > 1 else volume[binary])

    def percentile(p):
        place = p / 100 * (len(values) - 1)
        low = int(place)
        return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])

    return (volume - percentile(50)) / (percentile(95) - percentile(10)) * binary


@pytest.mark.parametrize("kind", ["boolean", "soft", "touching the border"])
@pytest.mark.parametrize("rule", [1, 2, 3])
def test_normalize_with_mask(rule, kind):
    rng = np.random.default_rng(rule)
    volume = rng.normal(0.3, 1, (20, 24, 28)).astype(np.float32)
    mask = np.zeros(volume.shape, np.float32)
    mask[5:15, 6:18, 7:20] = 1
    if kind == "soft":
        mask = ndimage.gaussian_filter(mask, 1.5)  # has values between 0 and 0.01
    if kind == "touching the border":
        mask[:3] = 1
    given = mask > 0 if kind == "boolean" else mask
    result = normalize_with_mask(volume, given, rule)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_with_mask(volume, given, rule), atol=2e-6)


def test_mask_that_does_not_serve():
    volume = np.ones((8, 8, 8), np.float32)
    mask = np.zeros((8, 8, 8), bool)
    mask[2:5] = True
    with pytest.raises(InputError, match="shape"):
        normalize_with_mask(volume, mask[1:], 1)
    with pytest.raises(InputError, match="constant"):
        normalize_with_mask(volume, mask, 1)
    with pytest.raises(InputError, match="above 0"):
        normalize_with_mask(-volume, mask, 2)
    with pytest.raises(InputError, match="no voxel"):
        normalize_with_mask(volume, np.zeros_like(volume), 3)
