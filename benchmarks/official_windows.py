"""Official-size network on a 128^3 map: useful windows per second, ours against the plain way.

The plain way is that of the original program: a Keras model of ordinary layers, `predict_on_batch`
on batches of 8 in float32, each row of windows filled up to whole batches with repeated cubes. A
row has 6 windows after the original's padding, so 8 are computed. Ours computes each window once.
The sides alternate in one run and each side's best counts, so that other work on the machine
weighs on neither. CPU time is reported as well. The weights are random: their shape decides the
speed.

    python benchmarks/official_windows.py --output docs/benchmarks/official_windows.md
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers")]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from official_checkpoint import write_published  # noqa: E402

from deepemhancer_plugin.core.enhancement.windows import enhance_windows  # noqa: E402
from deepemhancer_plugin.core.weights.official.checkpoint import load_official  # noqa: E402

BOX, BATCH = 128, 8
PRECISIONS = ("float32", "mixed", "bfloat16")


class PlainGroupNormalization(keras.layers.Layer):
    """keras-contrib's, operation by operation."""

    def __init__(self, node):
        super().__init__()
        self.node = node

    def call(self, x):
        groups, channels = self.node.config["groups"], x.shape[-1]
        shape = tf.shape(x)
        y = tf.reshape(
            x, tf.stack([shape[0], groups, shape[1], shape[2], shape[3], channels // groups])
        )
        mean, variance = tf.nn.moments(y, [2, 3, 4, 5], keepdims=True)
        y = (y - mean) / tf.sqrt(variance + self.node.config["epsilon"])
        affine = (1, groups, 1, 1, 1, channels // groups)
        y = y * tf.reshape(self.node.weights["gamma"], affine) + tf.reshape(
            self.node.weights["beta"], affine
        )
        return tf.reshape(y, shape)


def plain_model(nodes):
    """The checkpoint as a Keras model of ordinary layers."""
    values = {nodes[0].name: keras.Input(nodes[0].shape)}
    for node in nodes[1:]:
        x = [values[name] for name in node.inputs]
        if node.kind == "GroupNormalization":
            layer = PlainGroupNormalization(node)
        elif node.kind == "PReLU":
            layer = keras.layers.PReLU(shared_axes=node.config["shared_axes"])
        elif node.kind in ("Conv3D", "Conv3DTranspose"):
            layer = getattr(keras.layers, node.kind)(
                node.config["filters"],
                node.config["kernel_size"],
                node.config["strides"],
                node.config["padding"],
            )
        else:
            layer = {"Concatenate": keras.layers.Concatenate, "Dropout": keras.layers.Identity}[
                node.kind
            ]()
        values[node.name] = layer(x if len(x) > 1 else x[0])
        if node.weights and node.kind != "GroupNormalization":
            layer.set_weights(
                [node.weights[key] for key in ("kernel", "bias", "alpha") if key in node.weights]
            )
    return keras.Model(values[nodes[0].name], values[nodes[-1].name])


def ball_in_noise():
    """A normalised map: noise of standard deviation 0.1, density of about 1 in the middle."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((BOX,) * 3) - BOX / 2
    density = (np.sqrt(z**2 + y**2 + x**2) < 36) * (
        1 + np.sin(z / 2) * np.sin(y / 3) * np.sin(x / 2.5)
    )
    return (rng.normal(0, 0.1, density.shape) + density).astype(np.float32)


def timed(function, *args):
    """Result, wall seconds, CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="Markdown file to write")
    parser.add_argument("--repeats", type=int, default=4, help="alternations")
    parser.add_argument("--windows", type=int, default=8, help="windows of ours timed at a time")
    parser.add_argument(
        "--difference-box",
        type=int,
        default=96,
        help="edge of the box that differences are measured in",
    )
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        official = load_official(
            write_published(os.path.join(directory, "deepEMhancer_benchmark.hd5"))
        )
    volume, tile, stride = ball_in_noise(), official.tile, official.stride
    plain = plain_model(official.nodes)
    predictors = {precision: official.predictor(precision) for precision in PRECISIONS}

    # One row of the original's grid: its box is a stride longer than the map, and wraps.
    wrapped = np.pad(volume, [(0, stride)] * 3, mode="wrap")
    row = np.stack(
        [
            wrapped[32 : 32 + tile, 32 : 32 + tile, x : x + tile]
            for x in range(0, BOX + stride - tile + 1, stride)
        ]
    )
    filled = np.concatenate([row, np.repeat(row[-1:], -len(row) % BATCH, 0)])[..., None]
    few = [row[i % len(row)][None] for i in range(arguments.windows)]

    reference = plain.predict_on_batch(filled)[: len(row), ..., 0]
    best = {}
    for _ in range(arguments.repeats):
        for name in ("plain", *PRECISIONS):
            if name == "plain":
                _, *times = timed(plain.predict_on_batch, filled)
                times = [t / len(row) for t in times]
            else:
                if name not in best:
                    predictors[name](few[0])  # compiles
                _, *times = timed(lambda name=name: [predictors[name](window) for window in few])
                times = [t / len(few) for t in times]
            best[name] = np.minimum(best.get(name, np.inf), times)
            print(f"{name}: {times[0]:.3f} s, {times[1]:.3f} CPU s a useful window", flush=True)

    single = np.stack([predictors["float32"](window[None])[0] for window in row])
    agreement = np.abs(single - reference).max() / np.ptp(reference)
    cut = slice((BOX - arguments.difference_box) // 2, (BOX + arguments.difference_box) // 2)
    maps = {
        name: enhance_windows(volume[cut, cut, cut], [predictors[name]], tile, stride)
        for name in PRECISIONS
    }
    exact = maps["float32"]
    lines = [
        "| way | s per useful window | useful windows per s | times plain | times plain, CPU time "
        "| largest difference / range | rms difference / range |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (wall, cpu) in best.items():
        if name == "plain":
            differences = "-", "-"
        elif name == "float32":
            differences = f"{agreement:.1e} (to plain, single windows)", "-"
        else:
            error = np.abs(maps[name] - exact) / np.ptp(exact)
            differences = f"{error.max():.1e}", f"{np.sqrt((error**2).mean()):.1e}"
        lines.append(
            f"| {'plain, float32, batches of 8' if name == 'plain' else 'ours, ' + name} "
            f"| {wall:.3f} | {1 / wall:.2f} | {best['plain'][0] / wall:.2f} "
            f"| {best['plain'][1] / cpu:.2f} | {differences[0]} | {differences[1]} |"
        )
    computed = len(filled) / len(row)
    lines += [
        "",
        f"{len(row)} useful of {len(filled)} windows computed in the plain way: {computed:.2f} of "
        "the factor is that. Differences of the averaged maps in a box of "
        f"{arguments.difference_box}^3, stride {stride}, to ours in float32. "
        f"TensorFlow {tf.__version__}, {os.cpu_count()} cores, {platform.machine()}.",
    ]
    table = "\n".join(lines) + "\n"
    print("\n" + table)
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.output).write_text(table)


if __name__ == "__main__":
    main()
