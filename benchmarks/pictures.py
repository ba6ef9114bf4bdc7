"""Slices through maps before and after the embedded network, as a PNG to look at.

    python benchmarks/pictures.py [--variant NAME] --reconstructions DIR --output FILE.png
    python benchmarks/pictures.py [--variant NAME] --maps MAP [MAP ...] --output FILE.png

DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz and NAME_model.mrc.gz, of which the
last gives a third row. Maps: single ones.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core import enhance, load_weights, read_map
from deepemhancer_plugin.core.devices import Devices, select_devices
from deepemhancer_plugin.core.plotting import subplots
from deepemhancer_plugin.core.weights.model import Model

ROWS = "input", "enhanced", "atomic model's map"
ROOM = 12.0  # A left round the density


@dataclass(frozen=True)
class Column:
    """Maps (z, y, x) of one molecule: before, after and perhaps the atomic model's.

    Attributes:
        title: of the column.
        rate: sampling rate in A/voxel.
        maps: from top to bottom.
    """

    title: str
    rate: float
    maps: list[np.ndarray]


def enhance_reconstruction(first: Path, model: Model, devices: Devices) -> Column:
    """Enhance the half maps of a reconstruction, named by the first of them."""
    half1, half2, truth = (
        read_map(str(first).replace("half1", part)) for part in ("half1", "half2", "model")
    )
    after = enhance(half1, half2, weights=model, device=devices)
    name, limit = first.name.split("_")[0].upper(), after.report["half_map_fsc_0.143"]
    before = (half1.data + half2.data) / 2
    title = f"{name}, half-map FSC {limit:.1f} Å"
    return Column(title, half1.sampling_rate, [before, after.data, truth.data])


def enhance_single(path: str, model: Model, devices: Devices) -> Column:
    """Enhance a single map."""
    volume = read_map(path)
    after = enhance(volume, weights=model, device=devices)
    end = after.report["input_ends_at"]
    title = Path(path).name.split(".")[0] + (f"\nlow-passed at {end:.1f} Å" if end else "")
    return Column(title, volume.sampling_rate, [volume.data, after.data])


def cut_slice(volume: np.ndarray, centre: tuple[int, ...], half: int) -> np.ndarray:
    """Cut a square of 2 `half` voxels out of a map (z, y, x), zero where the map ends."""
    z, y, x = centre
    return np.pad(volume[z], half)[y : y + 2 * half, x : x + 2 * half]


def find_density(volume: np.ndarray, rate: float) -> tuple[tuple[int, ...], int]:
    """Find the centre z, y, x of the density, and half the width of a slice that shows it."""
    square = np.square(np.clip(volume, 0, None))
    centre, extents = [], []
    for axis, n in enumerate(square.shape):
        profile = square.sum(tuple(other for other in range(3) if other != axis))
        centre.append(int(np.average(np.arange(n), weights=profile + 1e-9)))
        extents.append(np.ptp(np.flatnonzero(profile > 1e-3 * square.sum() / n)))
    half = int(max(extents[1:]) / 2) + round(ROOM / rate)
    return tuple(centre), max(half, 12)


def plot_column(axes: Any, column: Column, first: bool) -> None:
    """Draw a slice of each map of a column; it is placed by the density of the last one."""
    centre, half = find_density(column.maps[-1], column.rate)
    width = 2 * half * column.rate
    for row, (axis, volume) in enumerate(zip(axes, column.maps, strict=True)):
        plane = cut_slice(volume, centre, half)
        low, high = np.percentile(plane, [1, 99.7])
        axis.imshow(
            plane, cmap="gray", origin="lower", extent=(0, width, 0, width), vmin=low, vmax=high
        )
        axis.set_title(column.title if row == 0 else "", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("x (Å)" if row == len(column.maps) - 1 else "", fontsize=8)
        axis.set_ylabel(f"{ROWS[row]}\ny (Å)" if first else "", fontsize=9)


def main() -> int:
    """Draw the picture; returns the exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--variant", default="tightTarget")
    p.add_argument("--reconstructions", type=Path)
    p.add_argument("--maps", nargs="*", default=[])
    p.add_argument("--output", required=True)
    a = p.parse_args()
    model, devices = load_weights(a.variant), select_devices(None)
    firsts = sorted(a.reconstructions.glob("*_half1.mrc.gz")) if a.reconstructions else []
    columns = [enhance_reconstruction(first, model, devices) for first in firsts]
    columns += [enhance_single(path, model, devices) for path in a.maps]
    if not columns:
        p.error("--reconstructions or --maps are needed")
    rows = len(columns[0].maps)
    size = 2.9 * len(columns) + 0.4, 2.95 * rows + 0.5
    figure, axes = subplots(rows, len(columns), figsize=size, squeeze=False, layout="constrained")
    for number, column in enumerate(columns):
        plot_column(axes[:, number], column, number == 0)
    figure.savefig(a.output, dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
