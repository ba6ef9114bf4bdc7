"""Does `deepemhancer oversharpening` tell honest maps from boastful ones?

Run: python benchmarks/oversharpening.py [--network FILE] > docs/benchmarks/oversharpening.md

Maps of the synthetic protein whose halves hold a known resolution, the same everywhere.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.localres.mask import auto_mask
from deepemhancer_plugin.core.localres.oversharpening import (
    THRESHOLD,
    TOLERANCE,
    compare,
    scan_b_factors,
    sharpen,
    weight_mean,
)
from deepemhancer_plugin.core.localres.predict import Reader, load_reader
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    Simulated,
    from_structure,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein

# A, of the particles' positions. It costs the signal a B factor of 8 pi^2 = 79 A^2 that the noise
# does not have.
POSE_ERROR = 1.0
B_FACTOR = 100.0  # A^2: that and the loss of contrast of both

HEAD = f"""# What maps claim and what their halves support

`benchmarks/oversharpening.py`: half maps of the built-in synthetic protein, the same resolution everywhere (a shift of the
particles of 1 A, no other disorder). Claimed: by the network of `localres`, supported: local FSC = {THRESHOLD}; 5, 20 (bold), 50 and 80 %
percentiles in A. Claims more: part of the mask where the claim is finer by over {100 * TOLERANCE:.0f} %.

| halves' resolution, A | map | claimed, A | claims more | verdict |
|---|---|---|---|---|"""  # noqa: E501


def draw_maps(
    made: Simulated, mask: np.ndarray, resolution: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and maps, from the most modest to the boldest."""
    rate, shape = made.sampling_rate, made.half1.shape
    yield "mean of the halves", fft.irfftn(fft.rfftn((made.half1 + made.half2) / 2), s=shape)
    weighted = weight_mean(made.half1, made.half2, rate, mask)
    for extra in (0.0, -100.0, -200.0):
        name = f"weighted by the FSC, sharpened by its B of {B_FACTOR:.0f} A^2"
        name += f" and {-extra:.0f} more" if extra else ""
        yield name, sharpen(weighted, shape, rate, extra - B_FACTOR)
    for detail in (resolution, 2.5):
        name = f"the model's own map, low-passed at {detail:g} A"
        yield name, low_pass_to(made.model, rate, detail)


def percentiles(values: np.ndarray) -> str:
    """The cell of a row."""
    a, b, c, d = np.percentile(values, (5, 20, 50, 80))
    return f"{a:.2f}, **{b:.2f}**, {c:.2f}, {d:.2f}"


def print_rows(molecule: Molecule, resolution: float, reader: Reader) -> None:
    """Print the rows of one resolution."""
    conditions = Conditions(
        resolution=resolution,
        b_factor=B_FACTOR - 79,
        disorder=0,
        pose_error=POSE_ERROR,
        angle_error=0,
        random_pose=False,
    )
    made = simulate_halves(molecule, conditions, 1)
    halves, rate = (made.half1, made.half2), made.sampling_rate
    inside = auto_mask((halves[0] + halves[1]) / 2, rate, halves)
    level = 0.0
    for name, volume in draw_maps(made, inside, resolution):
        found = compare(volume, *halves, rate, inside, reader)
        if not level:
            level = found.supported_percentile
            cell = percentiles(found.supported[inside])
            print(f"| {resolution:g} | *supported by the halves* | {cell} | | |", flush=True)
        kind = found.verdict().rsplit(": ", 1)[1]
        if found.oversharpened:
            kind = "beyond the limit"
        cells = percentiles(found.claimed[inside]), f"{100 * found.excess:.0f} %", kind
        print(f"| {resolution:g} | {name} | {' | '.join(cells)} |", flush=True)
    started = time.perf_counter()
    scanned = scan_b_factors(*halves, rate, inside, reader, level)
    limit = "none" if scanned.limit is None else f"{scanned.limit:.0f} A^2"
    steps = f"{len(scanned.b_factors)} steps, {time.perf_counter() - started:.0f} s"
    print(
        f"| {resolution:g} | *limit of the B factor found by the scan: {limit} ({steps})* | "
        f"{scanned.percentiles[0]:.2f} ... {scanned.percentiles[-1]:.2f} | | |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--network", default="1.0")
    p.add_argument("--resolutions", type=float, nargs="+", default=[3.5, 5.0, 7.0])
    a = p.parse_args()
    reader = load_reader(a.network, select_devices("-1").names[0])
    molecule = from_structure(build_protein(0))
    print(HEAD)
    for resolution in a.resolutions:
        print_rows(molecule, resolution, reader)


if __name__ == "__main__":
    main()
