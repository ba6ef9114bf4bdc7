"""A figure that becomes a file leaves a caller's own matplotlib as it was."""

from io import BytesIO

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from deepemhancer_plugin.core.plotting import subplots


def png(figure):
    stream = BytesIO()
    figure.savefig(stream, dpi=50, format="png")
    return stream.getvalue()


def test_same_pixels_as_pyplot_and_no_state_left():
    backend, open_figures = matplotlib.get_backend(), plt.get_fignums()
    options = {"figsize": (5, 2), "layout": "constrained", "width_ratios": [1, 2]}
    figure, axes = subplots(1, 2, **options)
    axes[1].plot([0, 1], [1, 0])
    expected, panels = plt.subplots(1, 2, **options)
    panels[1].plot([0, 1], [1, 0])
    try:
        assert png(figure) == png(expected)
    finally:
        plt.close(expected)
    assert matplotlib.get_backend() == backend and plt.get_fignums() == open_figures


def test_shapes_of_the_axes():
    assert subplots()[1].get_title() == ""
    assert np.shape(subplots(2, 3)[1]) == (2, 3)
    assert np.shape(subplots(1, 1, squeeze=False)[1]) == (1, 1)
