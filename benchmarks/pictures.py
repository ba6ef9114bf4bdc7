"""Slices through maps before and after the embedded network, as a PNG to look at.

    python benchmarks/pictures.py [--variant NAME] --reconstructions DIR --output FILE.png
    python benchmarks/pictures.py [--variant NAME] --maps MAP [MAP ...] --output FILE.png

DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz and NAME_model.mrc.gz, of which the last gives a third row. Maps: single ones.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement.enhance import enhance
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.weights.embedded import load_embedded

ROWS = ("input", "enhanced", "atomic model's map")


def cropped(volume: np.ndarray, centre: tuple[int, ...], half: int) -> np.ndarray:
    """The part of a slice (y, x) within `half` voxels of the centre, zeros where the map ends."""
    padded = np.pad(volume, half)
    y, x = centre
    return padded[y : y + 2 * half, x : x + 2 * half]


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--variant", default="tightTarget")
    p.add_argument("--reconstructions")
    p.add_argument("--maps", nargs="*", default=[])
    p.add_argument("--output", required=True)
    a = p.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, where = load_embedded(a.variant), select_devices(None)
    columns = []  # title, A/voxel, [before, after, perhaps truth]
    for first in (
        sorted(Path(a.reconstructions).glob("*_half1.mrc.gz")) if a.reconstructions else []
    ):
        half1, half2, truth = (
            mrc.read_map(str(first).replace("half1", part)) for part in ("half1", "half2", "model")
        )
        before = (half1.data + half2.data) / 2
        after = enhance([half1.data, half2.data], half1.sampling_rate, model, where)
        columns.append(
            (
                f"{first.name.split('_')[0].upper()}, half-map FSC {after.report['half_map_fsc_0.143']:.1f} Å",
                half1.sampling_rate,
                [before, after.data, truth.data],
            )
        )
    for path in a.maps:
        one = mrc.read_map(path)
        before = one.data.copy()
        after = enhance([one.data], one.sampling_rate, model, where)
        end = after.report["input_ends_at"]
        columns.append(
            (
                Path(path).name.split(".")[0] + (f"\nlow-passed at {end:.1f} Å" if end else ""),
                one.sampling_rate,
                [before, after.data],
            )
        )
    count = len(columns[0][2])
    figure, axes = plt.subplots(
        count,
        len(columns),
        figsize=(2.9 * len(columns) + 0.4, 2.95 * count + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for column, (title, rate, maps) in enumerate(columns):
        # The slice and the middle are those of the density that the last map shows.
        square = np.square(np.clip(maps[-1], 0, None))
        centre = [
            int(
                np.average(
                    np.arange(n), weights=square.sum(tuple(b for b in range(3) if b != axis)) + 1e-9
                )
            )
            for axis, n in enumerate(square.shape)
        ]
        extent = [
            np.flatnonzero(
                square.sum(tuple(b for b in range(3) if b != axis))
                > 1e-3 * square.sum() / square.shape[axis]
            )
            for axis in (1, 2)
        ]
        half = max(int(max(np.ptp(e) for e in extent) / 2) + round(12 / rate), 12)
        for row, volume in enumerate(maps):
            plane = cropped(volume[centre[0]], (centre[1], centre[2]), half)
            width = 2 * half * rate
            axis = axes[row, column]
            low, high = np.percentile(plane, [1, 99.7])
            axis.imshow(
                plane, cmap="gray", origin="lower", extent=(0, width, 0, width), vmin=low, vmax=high
            )
            axis.set_title(title if row == 0 else "", fontsize=9)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("x (Å)" if row == count - 1 else "", fontsize=8)
            axis.set_ylabel(f"{ROWS[row]}\ny (Å)" if column == 0 else "", fontsize=9)
    figure.savefig(a.output, dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
