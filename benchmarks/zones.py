"""Half maps that are zero but within a few A of the molecule, which leaves no solvent to measure the noise in, against the whole ones.

    python benchmarks/zones.py [--structures DIR] [--maps N] [--output FILE.md]

DIR: atomic models with an index.tsv (columns file and split), of which the test split is used; without it synthetic proteins.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from quality import molecules
from scipy import ndimage

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement.enhance import enhance
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.simulation import Conditions, simulate_halves
from deepemhancer_plugin.core.weights.embedded import load_embedded

ZONES = (1, 3, 6, 10)  # A about the molecule's mask


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--structures")
    p.add_argument("--maps", type=int, default=2)
    p.add_argument("--output")
    a = p.parse_args()
    where, model = select_devices(None), load_embedded("tightTarget")
    warnings.simplefilter("ignore", MapWarning)
    chosen = sorted(molecules(a.structures), key=lambda m: len(m[1]))
    chosen = [chosen[int(i)] for i in np.linspace(0, len(chosen) * 0.3, a.maps)]
    lines = [
        "# Maps masked to a zone round the molecule",
        "",
        "Correlation of the enhanced map with the model's own map in the mask, of the mean as a single map / of the halves.",
        "",
        "| map | resolution (A) | mean of halves | enhanced, whole | "
        + " | ".join(f"zone of {zone} A" for zone in ZONES)
        + " |",
        "|---|---|---|---|" + "---|" * len(ZONES),
    ]
    for name, molecule in chosen:
        for resolution in (2.5, 3.5, 5.0):
            made = simulate_halves(molecule, Conditions(resolution=resolution), 3)
            core, halves = made.mask > 0.5, [made.half1, made.half2]

            def agrees(
                volume: np.ndarray, core: np.ndarray = core, truth: np.ndarray = made.model
            ) -> str:
                return (
                    f"{np.corrcoef(volume[core], truth[core])[0, 1]:.3f}"
                    if volume.any()
                    else "empty"
                )

            def enhanced(maps: list[np.ndarray]) -> str:
                single = enhance([(maps[0] + maps[1]) / 2], 1.0, model, where).data
                return f"{agrees(single)} / {agrees(enhance(list(maps), 1.0, model, where).data)}"

            cells = [agrees((halves[0] + halves[1]) / 2), enhanced(halves)]
            for zone in ZONES:
                inside = ndimage.binary_dilation(core, iterations=zone)
                cells.append(
                    enhanced([np.where(inside, half, 0).astype(np.float32) for half in halves])
                )
            lines.append(f"| {name} | {resolution} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if a.output:
        Path(a.output).write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
