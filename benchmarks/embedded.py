"""Wall time and peak memory of the whole command with the embedded weights, against the size of the map.

    python benchmarks/embedded.py [--edges 128,256,384] [--precision auto,float32] [--output FILE.md]

Maps of noise with a synthetic protein at 1 A/voxel. Every run is a process of its own; its peak memory is what the program reports of itself.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core import mrc
from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate
from deepemhancer_plugin.core.synthetic import build_protein


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--edges", default="128,256,384")
    p.add_argument("--precision", default="auto,float32")
    p.add_argument("--output")
    a = p.parse_args()
    edges = [int(e) for e in a.edges.split(",")]
    molecule = from_structure(build_protein(0))
    lines = [f"Measured on {select_devices('-1').description}; one half-map pair at 1 A/voxel, the whole command, program start included.", "",
             "| box | precision | wall (s) | of it network (s) | µs a voxel | against the smallest | peak memory (GB) |",
             "|---|---|---|---|---|---|---|"]
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for edge in edges:
            halves = []
            small = simulate(molecule, Conditions(resolution=3.5, box=min(edge, 128)), 0, workers=2)
            for name, data in (("a", small.half1), ("b", small.half2)):
                repeats = -(-edge // len(data))
                volume = np.tile(data, (repeats,) * 3)[:edge, :edge, :edge]
                halves.append(f"{folder}/{name}{edge}.mrc")
                mrc.write_map(halves[-1], np.ascontiguousarray(volume), mrc.new_map(volume, 1.0))
                del volume
            for precision in a.precision.split(","):
                started = time.perf_counter()
                subprocess.run([sys.executable, "-m", "deepemhancer_plugin.core.cli", "-i", halves[0], "-i2", halves[1], "-o", f"{folder}/out.mrc",
                                "-g", "-1", "--precision", precision], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                wall = time.perf_counter() - started
                report = json.loads(Path(f"{folder}/out.json").read_text())
                cost = wall / edge**3 * 1e6
                first.setdefault(precision, cost)
                lines.append(f"| {edge}^3 | {report['precision']} | {wall:.1f} | {report['timings']['network']:.1f} | {cost:.2f} | "
                             f"{cost / first[precision]:.2f} | {report['memory_mb'] / 1024:.2f} |")
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if a.output:
        Path(a.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
