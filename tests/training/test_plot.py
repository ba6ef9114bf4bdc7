"""The picture of a training."""

from deepemhancer_plugin.core.training.plot import plot_history


def test_a_history_becomes_a_picture(tmp_path):
    history = [
        {"step": 10 * i, "loss": 1 / i, "mae": 0.5 / i, "fsc": 0.1 * i, "cc": 0.2 * i}
        for i in range(1, 4)
    ]
    plot_history(history, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
