"""What the network sees, against its definition."""

import numpy as np
import pytest

from deepemhancer_plugin.core.maps.spectrum import flatten_and_scale
from deepemhancer_plugin.core.noise.normalization import NoiseStats
from deepemhancer_plugin.core.weights.prepare import network_input


def prepare(volume, mean, std, channels=2):
    """What the network sees of a map at 1 A/voxel."""
    return network_input(volume, 1.0, NoiseStats(mean, std, "given"), channels, workers=1)


@pytest.fixture
def volume():
    return (3 + np.random.default_rng(0).standard_normal((12, 10, 14)) ** 3).astype(np.float32)


def test_definition(volume):
    original = volume.copy()
    result = prepare(volume, 2.5, 0.02)
    assert result.shape == (12, 10, 14, 2) and result.dtype == np.float32
    np.testing.assert_allclose(
        result[..., 0], np.arcsinh((volume.astype(np.float64) - 2.5) / 0.2), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(result[..., 1], flatten_and_scale(volume, 1), atol=1e-4)
    np.testing.assert_array_equal(volume, original)


def test_one_channel_is_the_first_of_two(volume):
    np.testing.assert_array_equal(
        prepare(volume, 1, 2, channels=1)[..., 0],
        prepare(volume, 1, 2)[..., 0],
    )


def test_arcsinh_is_the_identity_near_zero_and_tames_the_rest():
    volume = np.linspace(-0.02, 0.02, 8, dtype=np.float32).reshape(2, 2, 2)
    np.testing.assert_allclose(prepare(volume, 0, 0.1, 1)[..., 0], volume, rtol=1e-3)
    assert prepare(volume * np.float32(1e6), 0, 0.1, 1).max() == pytest.approx(
        np.log(2 * 2e4), rel=1e-3
    )


@pytest.mark.parametrize("blank", [0.0, -7.5])
def test_blank_outside_is_solvent(volume, blank):
    """Whatever constant stands outside of the sphere, the network sees zero there and no step."""
    z, y, x = np.ogrid[:12, :10, :14]
    outside = (z - 6) ** 2 + (y - 5) ** 2 + (x - 7) ** 2 > 20
    masked = np.where(outside, np.float32(blank), volume)
    result = prepare(masked, 3.0, 0.1)
    assert not result[..., 0][outside].any()
    np.testing.assert_allclose(
        result[..., 0][~outside], np.arcsinh(volume[~outside] - 3.0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        result[..., 1],
        flatten_and_scale(np.where(outside, np.float32(0), volume - 3), 1),
        atol=1e-4,
    )


def test_a_map_without_blank_voxels_keeps_its_corner(volume):
    volume[0, 0, 0] = 40.0
    assert prepare(volume, 3, 1, 1)[0, 0, 0, 0] == pytest.approx(np.arcsinh(3.7), rel=1e-5)


def test_a_constant_map_is_nothing():
    assert not prepare(np.full((8, 9, 10), 3.0, np.float32), 2.0, 0.1).any()
