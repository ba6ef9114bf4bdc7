"""Pictures: scales, and files that appear."""

import numpy as np
import pytest

from deepemhancer_plugin.core.localres import figures
from deepemhancer_plugin.core.localres.oversharpening import Comparison, Scan


@pytest.fixture
def resolution():
    values = np.zeros((12, 14, 16), np.float32)
    values[2:10, 3:11, 4:12] = np.random.default_rng(0).uniform(3, 6, (8, 8, 8))
    return values


def test_colours_span_at_least_half_an_angstrom():
    assert figures.colour_range(np.full(100, 4.0)) == (3.75, 4.25)
    low, high = figures.colour_range(np.linspace(3, 8, 1000))
    assert low == pytest.approx(3.1, abs=0.01) and high == pytest.approx(7.9, abs=0.01)


def test_histogram_and_slices_are_written(resolution, tmp_path):
    values = resolution[resolution > 0]
    figures.plot_histogram(tmp_path / "one.png", {"map": values})
    figures.plot_histogram(tmp_path / "two.png", {"map": values, "halves": values + 8})
    figures.plot_slices(tmp_path / "slices.png", np.sin(resolution), resolution, 1.2, "title")
    for name in ("one", "two", "slices"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("limit", [None, -12.5])
def test_comparison_is_drawn_with_and_without_a_scan(resolution, tmp_path, limit):
    found = Comparison(0.75 * resolution, resolution, 0.5, 3.0, 4.0, 0.2, 0.143)
    scanned = Scan([0.0, -25.0, -50.0], [5.0, 4.0, 3.0], limit, 4.5)
    volume = np.sin(resolution)
    sizes = []
    for scan in (None, scanned):
        path = tmp_path / "picture.png"
        figures.plot_oversharpening(path, volume, found, scan, 1.0)
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(data[16:20], "big"))
    assert sizes == [1410, 1880]  # three and four panels
