"""`deepemhancer demo`: its table and its picture."""

import numpy as np

from deepemhancer_plugin.core.commands.demo import format_table, plot_maps
from deepemhancer_plugin.core.evaluation import Scores


def test_the_table_has_a_line_for_each_metric():
    lines = format_table(Scores(4.53, 20.3, 0.61, 0.42), Scores(3.28, 3.27, 0.78, 0.82)).split("\n")
    assert [line.split() for line in lines] == [
        ["mean", "of", "halves", "enhanced"],
        [*"map-model FSC = 0.5, in the mask".split(), "4.53", "A", "3.28", "A"],
        [*"map-model FSC = 0.5, unmasked".split(), "20.30", "A", "3.27", "A"],
        ["CC_mask", "0.61", "0.78"],
        ["CC_box", "0.42", "0.82"],
    ]


def test_the_picture_is_written(tmp_path):
    before, after, model = np.random.default_rng(0).standard_normal((3, 24, 26, 28))
    mask = np.zeros(model.shape)
    mask[8:16, 8:16, 8:16] = 1
    plot_maps(tmp_path / "picture.png", before, after, model, mask, 1.2)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
