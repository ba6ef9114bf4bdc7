"""Numbers that sum up a local-resolution map, of values whose statistics are known."""

import numpy as np
import pytest

from deepemhancer_plugin.core.localres.statistics import summarize


def test_numbers_of_a_line():
    found = summarize(np.linspace(2, 12, 1001, dtype=np.float32))
    assert found["median"] == found["mean"] == found["percentile_50"] == 7
    assert found["percentile_5"] == 2.5 and found["percentile_95"] == 11.5
    assert found["std"] == pytest.approx(10 / np.sqrt(12), abs=5e-3)


def test_json_numbers_of_three_decimals():
    found = summarize(np.float32([1 / 3, 2 / 3]))
    assert all(type(value) is float for value in found.values())
    assert found["percentile_25"] == 0.417
