"""What people may choose of a training: by flags of the command line, or in a recipe.

It is read before anything heavy is imported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepemhancer_plugin.core.training import optimizers


@dataclass(frozen=True)
class Option:
    """A setting of a training that people may choose.

    Attributes:
        name: of its flag.
        setting: field of `training.train.Settings`.
        kind: type of the value.
        help: what it does.
        least: smallest value.
        fraction: whether 1 is the largest value.
        choices: the values there are.
    """

    name: str
    setting: str
    kind: Callable[[str], Any]
    help: str | None = None
    least: float | None = None
    fraction: bool = False
    choices: tuple[str, ...] | None = None

    def check(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if self.least is not None and not value >= self.least:
            return f"at least {self.least} is needed"
        if self.fraction and value > 1:
            return "a fraction from 0 to 1 is right"
        if self.choices and value not in self.choices:
            return f"one of {', '.join(self.choices)} is right"
        return None


TARGETS = (
    "tight: a tight mask; wide: a mask 5 A wider, with what surrounds the molecule; "
    "sharp: for maps better than 4 A; model: the model's own map, for squared errors "
    "(default: tight, or model with --start of weights that squared errors made)"
)
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
OPTIONS = (
    Option("target", "target", str, TARGETS, choices=("tight", "wide", "sharp", "model")),
    Option("steps", "steps", int, "stop after that many steps", 1),
    Option(
        "minutes", "minutes", float, "stop after that many minutes, earlier runs included", 0.01
    ),
    Option("batch", "batch", int, "cubes of the smallest edge a step", 1),
    Option("edges", "edges", str, "edges of the cubes in voxels, multiples of 16, commas between"),
    Option(
        "optimizer",
        "optimizer",
        str,
        "muon: orthogonal steps for the convolutions' kernels",
        choices=optimizers.NAMES,
    ),
    Option("rate", "rate", float, "peak learning rate", 1e-9),
    Option("warmup", "warmup", int, "steps until it is reached", 0),
    Option(
        "schedule",
        "schedule",
        str,
        "plateau: halved after five validations without improvement",
        choices=("cosine", "plateau"),
    ),
    Option("absoluteWeight", "absolute_weight", float, "of the mean absolute error", 0),
    Option("fscWeight", "fsc_weight", float, "of the FSC term", 0),
    Option(
        "squareWeight", "square_weight", float, "of the squared error relative to the target", 0
    ),
    Option("gradientWeight", "gradient_weight", float, "of the gradient's mean absolute error", 0),
    Option("emptyWeight", "empty_weight", float, "of the error where the target is empty", 0),
    Option(
        "noiseOnly",
        "noise_only",
        float,
        "fraction of the simulated volumes that hold nothing but noise",
        0,
        fraction=True,
    ),
    Option(
        "typical",
        "typical",
        float,
        "fraction of the simulated volumes under the commonest conditions",
        0,
        fraction=True,
    ),
    Option(
        "processed",
        "processed",
        float,
        "fraction of the simulated volumes that are single maps as programs leave them: sharpened, "
        "weighted, low-passed, masked, cut, with other values",
        0,
        fraction=True,
    ),
    Option(
        "unevenNoise",
        "uneven_noise",
        float,
        "fraction of the simulated volumes whose noise differs over the molecule, as in real maps",
        0,
        fraction=True,
    ),
    Option(
        "wideRange",
        "wide_range",
        float,
        "fraction of the simulated volumes at any resolution from 1.75 to 16 A",
        0,
        fraction=True,
    ),
    Option("pool", "pool", int, "cubes held in memory", 8),
    Option("workers", "workers", int, "processes that make cubes", 1),
    Option("precision", "precision", str, "of the arithmetic", choices=PRECISIONS),
    Option("validateEvery", "validate_every", int, "steps; an epoch, for --schedule plateau", 1),
    Option("seed", "seed", int, "of all random numbers"),
)

# Weights that predict a mean (`networks.Architecture`) were made with these and go on with them.
MEAN: dict[str, Any] = {
    "absolute_weight": 0.1,
    "square_weight": 1.0,
    "empty_weight": 10.0,
    "target": "model",
}
SMALLEST_EDGE = 32  # voxels, of the cubes; edges are multiples of half of it


def are_edges(edges: Sequence[int]) -> bool:
    """Whether cubes may have these edges."""
    smallest = SMALLEST_EDGE
    return bool(edges) and all(e >= smallest and e % (smallest // 2) == 0 for e in edges)
