"""The course of a training as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepemhancer_plugin.core.plotting import subplots


def plot_history(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot training loss and held-out error, FSC and correlation against the step, as a PNG.

    Args:
        history: of `train.Trainer`.
        path: of the PNG.
    """
    steps = [entry["step"] for entry in history]
    figure, (left, right) = subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(steps, [entry["loss"] for entry in history], label="training loss")
    left.plot(steps, [entry["mae"] for entry in history], label="held-out mean absolute error")
    left.set(xlabel="step", yscale="log", ylabel="loss (target's 95th percentile is about 1)")
    left.legend()
    right.plot(steps, [entry["fsc"] for entry in history], label="mean FSC to the target")
    right.plot(steps, [entry["cc"] for entry in history], label="correlation with the target")
    right.set(xlabel="step", ylim=(0, 1), ylabel="held-out cubes")
    right.legend()
    figure.savefig(path, dpi=100)
