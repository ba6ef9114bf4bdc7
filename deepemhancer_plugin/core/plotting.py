"""Figures that become files: no window, and nothing of a caller's own matplotlib is changed."""

from __future__ import annotations

from typing import Any


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """Make a figure and its panels, as `matplotlib.pyplot.subplots` does.

    Pyplot would choose a backend for the whole process and hold every figure until it is closed;
    this figure belongs to the caller alone, and `savefig` writes it without a screen.

    Args:
        rows: panels on top of each other.
        columns: panels side by side.
        options: `figsize` (inches) and `layout` of the figure; all others are those of
            `matplotlib.figure.Figure.subplots`.

    Returns:
        The figure and its axes: one, or an array of them.
    """
    from matplotlib.figure import Figure

    figure = Figure(**{k: options.pop(k) for k in ("figsize", "layout") if k in options})
    return figure, figure.subplots(rows, columns, **options)
