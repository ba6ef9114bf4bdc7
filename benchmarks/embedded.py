"""Wall time and peak memory of the whole command with the embedded weights, against the size of the map.

    python benchmarks/embedded.py [--edges 128,256,384] [--precision float32,bfloat16] [--output FILE.md]

Half maps at 1 A/voxel: synthetic proteins fill the middle half of the box's edge, as particles mostly do, noise the rest. Every run is a process
of its own; its peak memory is what the program reports of itself.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def particle(made: Simulated, edge: int) -> list[np.ndarray]:
    """Half maps (edge, edge, edge) at 1 A/voxel, the middle half of the edge filled with copies of the simulated ones."""
    noise = (made.half1 - made.half2) / np.float32(np.sqrt(2))
    middle = (slice(edge // 4, edge // 4 + edge // 2),) * 3
    halves = []
    for half, shift in ((made.half1, 0), (made.half2, 20)):
        volume = tiled(np.roll(noise, shift, (0, 1, 2)), edge)
        volume[middle] = tiled(half, edge // 2)
        halves.append(volume)
    return halves


def tiled(cube: np.ndarray, edge: int) -> np.ndarray:
    """Copies of the cube in one of `edge` voxels."""
    return np.ascontiguousarray(np.tile(cube, (-(-edge // len(cube)),) * 3)[:edge, :edge, :edge])


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--edges", default="128,256,384")
    p.add_argument("--precision", default="float32,bfloat16")
    p.add_argument("--output")
    a = p.parse_args()
    edges = [int(e) for e in a.edges.split(",")]
    made = simulate_halves(
        from_structure(build_protein(0)),
        Conditions(resolution=3.5, box=64, sphere=False),
        0,
        workers=2,
    )
    lines = [
        f"Measured on {select_devices('-1').description}; one half-map pair at 1 A/voxel, the whole command, program start included.",
        "",
        "| box | precision | wall (s) | of it network (s) | µs a voxel | against the smallest | peak memory (GB) |",
        "|---|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for edge in edges:
            halves = [f"{folder}/{name}{edge}.mrc" for name in "ab"]
            for name, data in zip(halves, particle(made, edge), strict=True):
                mrc.write_map(name, data, mrc.new_map(data, 1.0))
            for precision in a.precision.split(","):
                started = time.perf_counter()
                subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "deepemhancer_plugin.core",
                        "-i",
                        halves[0],
                        "-i2",
                        halves[1],
                        "-o",
                        f"{folder}/out.mrc",
                        "-g",
                        "-1",
                        "--precision",
                        precision,
                    ],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                wall = time.perf_counter() - started
                report = json.loads(Path(f"{folder}/out.json").read_text())
                cost = wall / edge**3 * 1e6
                first.setdefault(precision, cost)
                lines.append(
                    f"| {edge}^3 | {report['precision']} | {wall:.1f} | {report['timings']['network']:.1f} | {cost:.2f} | "
                    f"{cost / first[precision]:.2f} | {report['memory_mb'] / 1024:.2f} |"
                )
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
