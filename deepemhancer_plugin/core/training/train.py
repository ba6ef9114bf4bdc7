"""Training of the networks that enhance maps, on any Keras backend."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training.cubes import NOISE_ONLY, TYPICAL, Source, Task, Variety
from deepemhancer_plugin.core.training.losses import Loss
from deepemhancer_plugin.core.training.optimizers import make_optimizer
from deepemhancer_plugin.core.training.pool import Pool, Prefetch
from deepemhancer_plugin.core.training.run import Run, Schedule
from deepemhancer_plugin.core.weights.networks import (
    PUBLISHED,
    Architecture,
    build,
    load_weights,
    save_weights,
)

PATIENCE = 5  # validations without improvement, after which the schedule "plateau" halves the rate


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        architecture: of the network, with what it is shown.
        edges: edges of the cubes in voxels, drawn anew for each step. The larger ones teach the
            network what it sees inside a large map.
        batch: how many of the smallest cubes make a step; of the others as many voxels do.
        steps: the training ends after so many steps,
        minutes: or after so many minutes, those of earlier runs included.
        optimizer: "adam" or "muon" (`optimizers.make_optimizer`).
        rate: peak learning rate.
        warmup: steps of the linear warm-up.
        schedule: "cosine" (`run.Schedule`), or "plateau": the rate is halved after five validations
            without improvement, as published.
        absolute_weight: weight of the mean absolute error (`losses.Loss`).
        fsc_weight: weight of the Fourier shell correlation.
        square_weight: weight of the relative squared error.
        gradient_weight: weight of the error of the gradient.
        empty_weight: weight of the absolute error where the target is empty.
        pool: cubes held in memory.
        workers: processes that make cubes.
        precision: Keras's dtype policy; "auto": mixed_bfloat16 where the device is faster with it,
            else float32.
        average: momentum of the moving average of the weights, which is what is saved; 0: the
            weights themselves.
        validate_every: steps between two validations.
        validation_cubes: cubes of a validation.
        seed: of all random numbers.
        target: what is asked of the network (`cubes.Task`).
        noise_only: share of the simulated volumes that hold nothing but noise.
        typical: share of the simulated volumes under the commonest conditions
            (`simulation.random_conditions`).
        processed: share of the simulated volumes that other programs processed (`cubes.Variety`).
        uneven_noise: share of them whose noise differs over the molecule.
        wide_range: share of them at any resolution from 1.75 to 16 A.
        blur: share of the cubes whose input is blurred (`pool.Pool.draw_batch`).
    """

    architecture: Architecture = field(default_factory=Architecture)
    edges: tuple[int, ...] = (64, 96, 128)
    batch: int = 8
    steps: int = 20000
    minutes: float = math.inf
    optimizer: str = "adam"
    rate: float = 6e-4
    warmup: int = 400
    schedule: str = "cosine"
    absolute_weight: float = 1.0
    fsc_weight: float = 0.05
    square_weight: float = 0.0
    gradient_weight: float = 0.0
    empty_weight: float = 1.0
    pool: int = 200
    workers: int = 1
    precision: str = "auto"
    average: float = 0.999
    validate_every: int = 1000
    validation_cubes: int = 24
    seed: int = 0
    target: str = "tight"
    noise_only: float = NOISE_ONLY
    typical: float = TYPICAL
    processed: float = 0.0
    uneven_noise: float = 0.0
    wide_range: float = 0.0
    blur: float = 0.0

    @property
    def variety(self) -> Variety:
        """How many of the simulated volumes are as people's maps are."""
        return Variety(self.processed, self.uneven_noise, self.wide_range)

    def cubes_of(self, edge: int) -> int:
        """Return how many cubes of that edge make a step."""
        return max(1, round(self.batch * (min(self.edges) / edge) ** 3))

    @property
    def task(self) -> Task:
        """What the network is shown and asked."""
        return Task.of(self.architecture, self.target)


# Of Sanchez-Garcia et al. 2021, where they differ; Adam and the patch corruption are the same.
PUBLISHED_SETTINGS: dict[str, Any] = {
    "architecture": PUBLISHED,
    "edges": (64,),
    "batch": 8,
    "rate": 1e-3,
    "warmup": 0,
    "schedule": "plateau",
    "fsc_weight": 0.0,
    "average": 0.0,
    "blur": 0.1,
}


def scale_on_plateau(errors: Sequence[float]) -> float:
    """Return the factor of the learning rate after validations with these errors.

    It is halved after each five validations without a new best.
    """
    scale = 1.0
    best = math.inf
    waiting = 0
    for error in errors:
        waiting = 0 if error < best else waiting + 1
        best = min(best, error)
        if waiting >= PATIENCE:
            scale, waiting = scale / 2, 0
    return scale


def draw_batch(
    pool: Pool, settings: Settings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw inputs and targets of a step, of one of the edges."""
    edge = int(rng.choice(settings.edges))
    count = settings.cubes_of(edge)
    return pool.draw_batch(count, edge, rng, settings.blur)


def make_validation_set(source: Source, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Make inputs and targets of held-out entries, the same for the same seed.

    Returns:
        Inputs (n, edge, edge, edge, channels) and targets (n, edge, edge, edge, 1), float16, of the
        largest edge.
    """
    edge = max(settings.edges)
    inputs, targets = [], []
    for i in range(settings.validation_cubes):
        rng = np.random.default_rng([settings.seed, 10**6 + i])
        input_cubes, target_cubes = source.make_cubes(i % len(source), rng, 1, edge)
        inputs.append(input_cubes)
        targets.append(target_cubes)
    return np.concatenate(inputs), np.concatenate(targets)


class Trainer(Run):
    """A network for enhancement in training.

    Attributes:
        device: where it is trained.
        loss: what is minimised.
        models: a compiled Keras model for each edge of the cubes, all of the same weights, because
            a model whose shapes are known when it is compiled is faster.
    """

    def __init__(self, settings: Settings, folder: Path, start: str | Path | None = None) -> None:
        """Make or load the network, or go on from the folder's checkpoint.

        Args:
            settings: how to train.
            folder: for the files (`run.Run`).
            start: a file of weights to start from.

        Raises:
            InputError: `start` is of another architecture than the settings, or the checkpoint is
                damaged or that of another network.
        """
        keras = import_keras()
        self.device = devices.select_devices()
        if settings.precision == "auto":
            narrow = self.device.kind == "gpu" or devices.bfloat16_is_faster(self.device)
            settings = replace(settings, precision="mixed_bfloat16" if narrow else "float32")
        keras.config.set_dtype_policy(settings.precision)
        keras.utils.set_random_seed(settings.seed)
        network = _make_network(settings.architecture, start)
        self.loss = Loss(
            fsc_weight=settings.fsc_weight,
            gradient_weight=settings.gradient_weight,
            empty_weight=settings.empty_weight,
            square_weight=settings.square_weight,
            absolute_weight=settings.absolute_weight,
        )
        optimizer = make_optimizer(settings.optimizer, settings.rate, settings.average)
        self.models: dict[int, Any] = {}
        for edge in settings.edges:
            cube = keras.Input((edge, edge, edge, settings.architecture.channels))
            model = keras.Model(cube, network.model(cube))
            jit = keras.backend.backend() == "jax"
            model.compile(optimizer=optimizer, loss=self.loss, jit_compile=jit)
            self.models[edge] = model
        optimizer.build(network.model.trainable_variables)
        schedule = Schedule(
            settings.rate,
            settings.warmup,
            settings.steps,
            settings.minutes,
            settings.validate_every,
        )
        super().__init__(settings, folder, network, optimizer, schedule)

    def write_weights(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the network's present weights and how they were trained (`facts`)."""
        save_weights(path, self.network, facts)

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        if self.settings.schedule == "cosine":
            return super().learning_rate()
        # A validation at the end of a run comes in between the others and does not count.
        errors = [
            entry["mae"]
            for entry in self.history
            if entry["step"] % self.settings.validate_every == 0 and not entry.get("end")
        ]
        return float(self.settings.rate * scale_on_plateau(errors))

    def validate(self, inputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Measure the averaged network on held-out cubes.

        Returns:
            "mae": mean absolute error; "fsc": mean FSC over the shells that the targets fill; "cc":
            mean correlation; "noise": mean 99.9th percentile of the output where the target is
            empty. 0 where no cube holds, or every cube holds, some of a molecule.
        """
        model = self.models[inputs.shape[1]]
        with self.averaged():
            outputs = [model.predict_on_batch(inputs[i : i + 1]) for i in range(len(inputs))]
        predictions = np.concatenate([np.asarray(output, np.float32) for output in outputs])
        targets = targets.astype(np.float32)
        filled = [i for i in range(len(targets)) if np.any(targets[i])]
        with np.errstate(invalid="ignore"):  # a prediction may be all the same
            correlations = [
                np.nan_to_num(np.corrcoef(targets[i].ravel(), predictions[i].ravel())[0, 1])
                for i in filled
            ]
        noise = [
            np.percentile(predictions[i], 99.9) for i in range(len(targets)) if i not in filled
        ]
        return {
            "mae": float(np.abs(predictions - targets).mean()),
            "fsc": self._mean_fsc(targets[filled], predictions[filled]),
            "cc": float(np.mean(correlations)) if filled else 0.0,
            "noise": float(np.mean(noise)) if noise else 0.0,
        }

    def _mean_fsc(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """Mean FSC over the shells that the targets fill, 0 without any; one cube at a time."""
        from keras import ops

        total = shells = 0.0
        for i in range(len(targets)):
            curve, filled = (
                np.asarray(ops.convert_to_numpy(values))
                for values in self.loss.shell_correlations(
                    targets[i : i + 1], predictions[i : i + 1]
                )
            )
            total += float((curve * filled).sum())
            shells += float(filled.sum())
        return total / max(shells, 1.0)

    def run(
        self,
        pool: Pool,
        validation: tuple[np.ndarray, np.ndarray],
        report: Callable[[dict[str, Any]], None],
        pause: float = math.inf,
    ) -> None:
        """Train until the settings' steps or minutes are spent.

        Args:
            pool: where the cubes come from.
            validation: inputs and targets of `make_validation_set`.
            report: is called with each new entry of the history.
            pause: minutes after which this call ends, to be gone on with later.
        """
        if self.finished:
            return
        drawn = before = 0

        def take_step() -> float:
            nonlocal drawn
            inputs, targets = batches.get()
            drawn += len(inputs)  # of larger edges fewer make a step
            self.cubes += len(inputs)
            return float(self.models[inputs.shape[1]].train_on_batch(inputs, targets))

        def validate() -> dict[str, Any]:
            nonlocal drawn, before
            made = pool.count_made()
            looks = drawn / max(made - before, 1)
            drawn, before = 0, made
            return {"simulated": made, "looks": looks, **self.validate(*validation)}

        settings = self.settings
        batches = Prefetch(
            lambda rng: draw_batch(pool, settings, rng),
            [settings.seed, self.step],
            max(1, settings.workers // 4),
        )
        try:
            self.take_steps(take_step, validate, report, pause)
        finally:
            batches.close()


def _make_network(architecture: Architecture, start: str | Path | None) -> Any:
    """A new network, or one of given weights, which may differ in what they are shown and return.

    Raises:
        InputError: the weights are of another architecture.
    """
    if start is None:
        return build(architecture)
    network = load_weights(start)[0]
    found = replace(
        network.architecture,
        normalization=architecture.normalization,
        prediction=architecture.prediction,
    )
    if found != architecture:
        raise InputError(
            f"{start}: weights of another network ({network.architecture}) than the one to train "
            f"({architecture}); the same is needed"
        )
    network.architecture = architecture
    return network


def train(
    source: Source,
    held_out: Source,
    settings: Settings,
    folder: Path,
    report: Callable[[dict[str, Any]], None],
    start: str | Path | None = None,
    log: Callable[[str], None] = lambda line: None,
    facts: dict[str, Any] | None = None,
    pause: float = math.inf,
) -> Trainer:
    """Train a network and keep everything in a folder; go on from what is there already.

    Args:
        source: of the cubes to train on, made for `settings.task`.
        held_out: of the cubes to validate on.
        settings: how to train.
        folder: for the files (`run.Run`).
        report: is called with each new entry of the history.
        start: a file of weights to start from instead of random ones.
        log: is called with lines about the device.
        facts: what the weights file shall say besides step, minutes, cubes and settings.
        pause: minutes after which this call ends, to be gone on with later.

    Raises:
        InputError: as `Trainer`.
        FloatingPointError: the loss is not finite any more.
    """
    with Pool(
        source,
        settings.pool,
        max(settings.edges),
        settings.architecture.channels,
        settings.workers,
        settings.seed,
    ) as pool:
        validation = make_validation_set(held_out, settings)
        pool.wait(min(settings.pool, 4 * settings.batch))
        trainer = Trainer(settings, folder, start)
        trainer.facts = facts or {}
        log(f"device: {trainer.device.description} ({trainer.device.why})")
        log(f"precision: {trainer.settings.precision}")
        trainer.run(pool, validation, report, pause)
    return trainer
