"""Does `deepemhancer oversharpening` tell honest maps from boastful ones? Maps of the synthetic protein whose halves hold a known resolution.

Run: .venv-inference/bin/python benchmarks/oversharpening.py [--network FILE] > docs/benchmarks/oversharpening.md
"""

import argparse
import time

import numpy as np
from scipy import fft

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.commands.oversharpening import network
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.localres.mask import auto_mask
from deepemhancer_plugin.core.localres.oversharpening import (
    THRESHOLD,
    TOLERANCE,
    _sharpened,
    _weights,
    compare,
    scan,
)
from deepemhancer_plugin.core.maps import filters
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein

POSE_ERROR = (
    1.0  # A, which costs the signal a B factor of 8 pi^2 = 79 A^2 that the noise does not have
)
B_FACTOR = 100.0  # A^2: that and the loss of contrast of both


def maps(made, rate, mask, resolution):
    """Names and maps, from the most modest to the boldest."""
    transform = fft.rfftn((made.half1 + made.half2) / 2)
    unweighted = fft.irfftn(transform, s=made.half1.shape)
    weighted = transform.copy()
    filters.apply_gain(
        weighted, _weights(made.half1, made.half2, rate, mask), made.half1.shape, rate
    )
    yield "mean of the halves", unweighted
    for extra in (0.0, -100.0, -200.0):
        name = f"weighted by the FSC, sharpened by its B of {B_FACTOR:.0f} A^2" + (
            f" and {-extra:.0f} more" if extra else ""
        )
        yield name, _sharpened(weighted, made.half1.shape, rate, extra - B_FACTOR)
    yield (
        f"the model's own map, low-passed at {resolution:g} A",
        low_pass_to(made.model, rate, resolution),
    )
    yield "the model's own map, low-passed at 2.5 A", low_pass_to(made.model, rate, 2.5)


def percentiles(values):
    a, b, c, d = np.percentile(values, (5, 20, 50, 80))
    return f"{a:.2f}, **{b:.2f}**, {c:.2f}, {d:.2f}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--network", default="1.0")
    p.add_argument("--resolutions", type=float, nargs="+", default=[3.5, 5.0, 7.0])
    a = p.parse_args()
    where = devices.select_devices("-1")
    molecule = from_structure(build_protein(0))
    print(
        "# What maps claim and what their halves support\n\n`benchmarks/oversharpening.py`: half maps of the built-in synthetic protein, the same "
        "resolution everywhere (a shift of the\nparticles of 1 A, no other disorder). Claimed: by the network of `localres`, supported: local FSC "
        f"= {THRESHOLD}; 5, 20 (bold), 50 and 80 %\npercentiles in A. Claims more: share of the mask where the claim is finer by over "
        f"{100 * TOLERANCE:.0f} %.\n"
    )
    print(
        "| halves' resolution, A | map | claimed, A | claims more | verdict |\n|---|---|---|---|---|"
    )
    for resolution in a.resolutions:
        conditions = Conditions(
            resolution=resolution,
            b_factor=B_FACTOR - 79,
            disorder=0,
            pose_error=POSE_ERROR,
            angle_error=0,
            random_pose=False,
        )
        made = simulate_halves(molecule, conditions, 1)
        halves = made.half1, made.half2
        inside = auto_mask((halves[0] + halves[1]) / 2, made.sampling_rate, halves)
        deepres, _ = network(*halves, made.sampling_rate, inside, where.names[0], a.network)
        level = 0.0
        for name, volume in maps(made, made.sampling_rate, inside, resolution):
            found = compare(volume, *halves, made.sampling_rate, inside, deepres)
            if not level:
                level = found.supported_percentile
                print(
                    f"| {resolution:g} | *supported by the halves* | {percentiles(found.supported[inside])} | | |",
                    flush=True,
                )
            kind = (
                found.verdict().rsplit(": ", 1)[1]
                if not found.oversharpened
                else "beyond the limit"
            )
            print(
                f"| {resolution:g} | {name} | {percentiles(found.claimed[inside])} | {100 * found.share:.0f} % | {kind} |",
                flush=True,
            )
        started = time.perf_counter()
        scanned = scan(*halves, made.sampling_rate, inside, deepres, level)
        words = "none" if scanned.limit is None else f"{scanned.limit:.0f} A^2"
        print(
            f"| {resolution:g} | *limit of the B factor found by the scan: {words} ({len(scanned.b_factors)} steps, "
            f"{time.perf_counter() - started:.0f} s)* | {scanned.percentiles[0]:.2f} ... {scanned.percentiles[-1]:.2f} | | |",
            flush=True,
        )


if __name__ == "__main__":
    main()
