"""Wall time and peak memory of the whole command with the embedded weights, by the map's size.

    python benchmarks/embedded.py [--edges 128,256,384] [--precision float32,bfloat16]
                                  [--output FILE.md]

Half maps at 1 A/voxel: synthetic proteins fill the middle half of the box's edge, as particles
mostly do, noise the rest. Every run is a process of its own; its peak memory is what the program
reports of itself. With the precision "auto" the table says which one was chosen.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Simulated,
    from_structure,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein

TITLES = (
    "box",
    "precision",
    "wall (s)",
    "of it network (s)",
    "µs a voxel",
    "against the smallest",
    "peak memory (GB)",
)


def make_halves(simulated: Simulated, edge: int) -> list[np.ndarray]:
    """Make half maps (edge, edge, edge), their middle filled with copies of simulated ones."""
    noise = (simulated.half1 - simulated.half2) / np.float32(np.sqrt(2))
    middle = (slice(edge // 4, edge // 4 + edge // 2),) * 3
    halves = []
    for half, shift in ((simulated.half1, 0), (simulated.half2, 20)):
        volume = repeat_cube(np.roll(noise, shift, (0, 1, 2)), edge)
        volume[middle] = repeat_cube(half, edge // 2)
        halves.append(volume)
    return halves


def repeat_cube(cube: np.ndarray, edge: int) -> np.ndarray:
    """Fill a cube of `edge` voxels with copies of another one."""
    copies = -(-edge // len(cube))
    return np.ascontiguousarray(np.tile(cube, (copies,) * 3)[:edge, :edge, :edge])


def enhance(halves: list[str], output: str, precision: str) -> tuple[float, dict[str, Any]]:
    """Run the command on the CPU; returns its wall time in seconds and its report."""
    command = [sys.executable, "-m", "deepemhancer_plugin.core"]
    files = ["-i", halves[0], "-i2", halves[1], "-o", output]
    started = time.perf_counter()
    flags = ["-g", "-1", "--precision", precision]
    done = subprocess.run([*command, *files, *flags], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    wall = time.perf_counter() - started
    return wall, json.loads(Path(output).with_suffix(".json").read_text())


def main() -> int:
    """Measure every size and precision, and write the table."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--edges", default="128,256,384")
    p.add_argument("--precision", default="float32,bfloat16")
    p.add_argument("--output")
    a = p.parse_args()
    conditions = Conditions(resolution=3.5, box=64, sphere=False)
    simulated = simulate_halves(from_structure(build_protein(0)), conditions, 0, workers=2)
    lines = [
        f"Measured on {select_devices('-1').description}; one half-map pair at 1 A/voxel, the "
        "whole command, program start included.",
        "",
        f"| {' | '.join(TITLES)} |",
        "|---" * len(TITLES) + "|",
    ]
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for edge in map(int, a.edges.split(",")):
            files = [f"{folder}/{name}{edge}.mrc" for name in "ab"]
            for file, data in zip(files, make_halves(simulated, edge), strict=True):
                mrc.write_map(file, data, mrc.new_map(data, 1.0))
            for precision in a.precision.split(","):
                wall, report = enhance(files, f"{folder}/out.mrc", precision)
                cost = wall / edge**3 * 1e6
                against = cost / first.setdefault(precision, cost)
                network, memory = report["timings"]["network"], report["memory_mb"] / 1024
                lines.append(
                    f"| {edge}^3 | {report['precision']} | {wall:.1f} | {network:.1f} | "
                    f"{cost:.2f} | {against:.2f} | {memory:.2f} |"
                )
                print(lines[-1], flush=True)
    if a.output:
        Path(a.output).write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
