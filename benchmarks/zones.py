"""Half maps that are zero but within a few A of the molecule, against the whole ones.

    python benchmarks/zones.py [--structures DIR] [--maps N] [--output FILE.md]

Such maps leave no solvent to measure the noise in. DIR: atomic models with an index.tsv (columns
file and split), of which the test split is used; without it synthetic proteins.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from quality import read_test_molecules
from scipy import ndimage

from deepemhancer_plugin.core import enhance, load_weights
from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.errors import MapWarning
from deepemhancer_plugin.core.simulation import Conditions, Simulated, simulate_halves

ZONES = 1, 3, 6, 10  # A about the molecule's mask
RESOLUTIONS = 2.5, 3.5, 5.0  # A


def main() -> int:
    """Run the benchmark; returns its exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--structures")
    p.add_argument("--maps", type=int, default=2)
    p.add_argument("--output")
    a = p.parse_args()
    devices, model = select_devices(None), load_weights("tightTarget")
    warnings.simplefilter("ignore", MapWarning)

    def enhance_map(*maps: np.ndarray) -> np.ndarray:
        return enhance(*maps, sampling_rate=1.0, weights=model, device=devices).data

    def format_cell(simulated: Simulated, inside: np.ndarray | None) -> str:
        """Correlation of the output of the mean as a single map, and of the halves."""
        halves = [simulated.half1, simulated.half2]
        if inside is not None:
            halves = [np.where(inside, half, 0).astype(np.float32) for half in halves]
        outputs = enhance_map((halves[0] + halves[1]) / 2), enhance_map(*halves)
        return " / ".join(f"{correlate(output, simulated):.3f}" for output in outputs)

    chosen = sorted(read_test_molecules(a.structures), key=lambda m: len(m[1]))
    chosen = [chosen[int(i)] for i in np.linspace(0, len(chosen) * 0.3, a.maps)]
    lines = [
        "# Maps masked to a zone round the molecule",
        "",
        "Correlation of the enhanced map with the model's own map in the mask, of the mean as a "
        "single map / of the halves.",
        "",
        "| map | resolution (A) | mean of halves | enhanced, whole | "
        + " | ".join(f"zone of {zone} A" for zone in ZONES)
        + " |",
        "|---|---|---|---|" + "---|" * len(ZONES),
    ]
    for name, molecule in chosen:
        for resolution in RESOLUTIONS:
            simulated = simulate_halves(molecule, Conditions(resolution=resolution), 3)
            mean = (simulated.half1 + simulated.half2) / 2
            cells = [f"{correlate(mean, simulated):.3f}", format_cell(simulated, None)]
            for zone in ZONES:
                inside = ndimage.binary_dilation(simulated.mask > 0.5, iterations=zone)
                cells.append(format_cell(simulated, inside))
            lines.append(f"| {name} | {resolution} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if a.output:
        Path(a.output).write_text("\n".join(lines) + "\n")
    return 0


def correlate(volume: np.ndarray, simulated: Simulated) -> float:
    """Correlate a map with the model's own, in the molecule's mask."""
    core = simulated.mask > 0.5
    return float(np.corrcoef(volume[core], simulated.model[core])[0, 1])


if __name__ == "__main__":
    sys.exit(main())
