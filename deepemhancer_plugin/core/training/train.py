"""The training loop: resumable, on any Keras backend, with held-out validation and averaged weights."""

import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training import optimizers
from deepemhancer_plugin.core.training.cubes import NOISE_ONLY, TYPICAL, Source, Task
from deepemhancer_plugin.core.training.losses import Loss
from deepemhancer_plugin.core.training.pool import Pool
from deepemhancer_plugin.core.weights.networks import (
    PUBLISHED,
    UNREADABLE,
    Architecture,
    build,
    load_weights,
    save_weights,
)


@dataclass(frozen=True)
class Settings:
    """How to train.

    edges, batch      edges of the cubes in voxels, drawn anew for each step, and how many of the smallest make a step (of the others as many
                      voxels); the larger ones teach the network what it sees inside a large map
    steps, minutes    the training ends after that many steps or minutes (the minutes of resumed runs are added up)
    optimizer         "adam" or "muon" (optimizers.make)
    rate              peak learning rate: linear warm-up, then a cosine down to a hundredth
    schedule          "cosine", or "plateau": halved after five validations without improvement, as published
    absolute_weight, fsc_weight, square_weight, gradient_weight   of the loss's terms (losses.Loss)
    empty_weight      of the mean absolute error where the target is empty
    pool, workers     cubes held in memory, and the processes that make them
    precision         Keras's dtype policy; "auto": mixed_bfloat16 where the device has units for it, else float32
    average           momentum of the weights' moving average, which is what is saved; 0: the weights themselves
    target            what is asked of the network (cubes.Task); its input is in the architecture
    noise_only        share of the simulated volumes that hold nothing but noise
    typical           share of them under the conditions that are met most (simulation.random_conditions)
    blur              share of the cubes whose input is blurred (pool.Pool.batch)
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
    blur: float = 0.0

    @property
    def task(self) -> Task:
        return Task.of(self.architecture, self.target)


# The published network's (Sanchez-Garcia et al. 2021), where they differ; Adam and the patch corruption are the same.
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


class _Prefetch:
    """Batches made by threads while the device works; each thread has a random generator of its own.

    What a thread raises, `get` raises at once.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
        seed: Sequence[int],
        threads: int,
    ):
        self._queue: queue.Queue = queue.Queue(2 * threads)
        self._stop = False
        self._error: BaseException | None = None

        def run(number: int):
            rng = np.random.default_rng([*seed, number])
            while not self._stop:
                try:
                    batch = make(rng)
                except BaseException as error:
                    self._error = error
                    return
                while not self._stop:
                    try:
                        self._queue.put(batch, timeout=0.5)
                        break
                    except queue.Full:
                        continue

        self._threads = [
            threading.Thread(target=run, args=(i,), daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def get(self):
        while self._error is None:
            try:
                return self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
        raise self._error

    def close(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()


def learning_rate(settings: Settings, step: int, elapsed_minutes: float) -> float:
    """The cosine schedule's rate: progress is the larger of the shares of steps and of minutes that are spent."""
    progress = min(1.0, max(step / settings.steps, elapsed_minutes / settings.minutes))
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def plateau(errors: Sequence[float]) -> float:
    """Factor of the learning rate after validations with these errors: halved after each five without a new best."""
    scale, best, waiting = 1.0, math.inf, 0
    for error in errors:
        waiting = 0 if error < best else waiting + 1
        best = min(best, error)
        if waiting >= 5:
            scale, waiting = scale / 2, 0
    return scale


def _draw(
    pool: Pool, settings: Settings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    edge = int(rng.choice(settings.edges))
    return pool.batch(
        max(1, round(settings.batch * (min(settings.edges) / edge) ** 3)), edge, rng, settings.blur
    )


def validation_set(source: Source, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Always the same cubes of held-out entries, of the largest edge: inputs and targets."""
    made = [
        source.cubes(
            i % len(source),
            np.random.default_rng([settings.seed, 10**6 + i]),
            1,
            max(settings.edges),
        )
        for i in range(settings.validation_cubes)
    ]
    return np.concatenate([m[0] for m in made]), np.concatenate([m[1] for m in made])


class Trainer:
    """A network, its optimizer and their checkpoint in `folder`: checkpoint.npz (all that resuming needs), weights.npz, history.json."""

    def __init__(self, settings: Settings, folder: Path, start: str | Path | None = None):
        """InputError: `start` is of another architecture than the settings, or what is in the folder cannot be gone on from."""
        import keras

        self.where = devices.select_devices()
        if settings.precision == "auto":
            settings = replace(
                settings,
                precision="mixed_bfloat16"
                if self.where.kind == "gpu" or self.where.bfloat16
                else "float32",
            )
        self.settings, self.folder = settings, folder
        folder.mkdir(parents=True, exist_ok=True)
        keras.config.set_dtype_policy(settings.precision)
        keras.utils.set_random_seed(settings.seed)
        self.network = load_weights(start)[0] if start else build(settings.architecture)
        asked = settings.architecture
        if (
            replace(
                self.network.architecture, normalization=asked.normalization, answer=asked.answer
            )
            != asked
        ):
            raise InputError(
                f"{start}: weights of another network ({self.network.architecture}) than the one to train ({asked}); "
                "the same is needed"
            )
        self.network.architecture = asked
        self.loss = Loss(
            settings.fsc_weight,
            settings.gradient_weight,
            settings.empty_weight,
            settings.square_weight,
            settings.absolute_weight,
        )
        optimizer = optimizers.make(settings.optimizer, settings.rate, settings.average)
        # One model for each edge, all of the same weights: their shapes are known when they are compiled.
        self.models = {}
        for edge in settings.edges:
            cube = keras.Input((edge, edge, edge, settings.architecture.channels))
            self.models[edge] = keras.Model(cube, self.network.model(cube))
            self.models[edge].compile(
                optimizer=optimizer, loss=self.loss, jit_compile=keras.backend.backend() == "jax"
            )
        optimizer.build(self.network.model.trainable_variables)
        self.optimizer = optimizer
        self.step, self.minutes, self.history = 0, 0.0, []  # type: ignore[var-annotated]
        if (folder / "checkpoint.npz").exists():
            self._resume()

    def _variables(self) -> list:
        return [*self.network.model.variables, *self.optimizer.variables]

    def _resume(self) -> None:
        path, variables = self.folder / "checkpoint.npz", self._variables()
        try:
            with np.load(path, allow_pickle=False) as data:
                state = json.loads(str(data["state"]))
                step, minutes, history = (
                    int(state["step"]),
                    float(state["minutes"]),
                    list(state["history"]),
                )
                arrays = [data[f"v{i}"] for i in range(len(data.files) - 1)]
        except UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{path}: a damaged checkpoint ({reason}); remove it to begin anew, for example with --start and the weights.npz "
                "beside it"
            ) from error
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise InputError(
                f"{path}: the checkpoint of another network; the settings that it was begun with, or another folder, are right"
            )
        for variable, values in zip(variables, arrays, strict=True):
            variable.assign(values)
        self.step, self.minutes, self.history = step, minutes, history

    def save(self) -> None:
        """Write the checkpoint, the averaged weights and the history; each replaces its predecessor whole."""
        state = json.dumps({"step": self.step, "minutes": self.minutes, "history": self.history})
        temporary = self.folder / "checkpoint.tmp.npz"
        arrays: dict[str, Any] = {f"v{i}": np.asarray(v) for i, v in enumerate(self._variables())}
        np.savez(temporary, state=state, **arrays)
        os.replace(temporary, self.folder / "checkpoint.npz")
        with self.averaged():
            save_weights(
                self.folder / "weights.npz",
                self.network,
                {
                    "step": self.step,
                    "minutes": round(self.minutes, 1),
                    "settings": _plain(self.settings),
                },
            )
        (self.folder / "history.json").write_text(json.dumps(self.history, indent=1))

    def _errors(self) -> list[float]:
        """The validations' errors; those at the end of a run, which come in between, do not count."""
        return [
            entry["mae"]
            for entry in self.history
            if entry["step"] % self.settings.validate_every == 0 and not entry.get("end")
        ]

    def averaged(self):
        """Context in which the network bears the moving average of its weights."""
        return _Averaged(
            self.network.model.trainable_variables, self.optimizer._model_variables_moving_average
        )

    def validate(self, inputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """MAE, mean FSC and correlation of the averaged network on held-out cubes (0 where none holds any molecule)."""
        from keras import ops

        with self.averaged():
            predictions = np.concatenate(
                [
                    np.asarray(
                        self.models[inputs.shape[1]].predict_on_batch(inputs[i : i + 1]), np.float32
                    )
                    for i in range(len(inputs))
                ]
            )
        targets = targets.astype(np.float32)
        some = [i for i in range(len(targets)) if np.any(targets[i])]
        curves = [
            [
                np.asarray(ops.convert_to_numpy(a))
                for a in self.loss.shells(targets[i : i + 1], predictions[i : i + 1])
            ]
            for i in some
        ]
        shells = float(sum(filled.sum() for _, filled in curves))
        with np.errstate(invalid="ignore"):  # a prediction may be all the same
            correlations = [
                np.nan_to_num(np.corrcoef(targets[i].ravel(), predictions[i].ravel())[0, 1])
                for i in some
            ]
        empty = [
            float(np.percentile(predictions[i], 99.9)) for i in range(len(targets)) if i not in some
        ]
        return {
            "mae": float(np.abs(predictions - targets).mean()),
            "fsc": float(sum((curve * filled).sum() for curve, filled in curves))
            / max(shells, 1.0),
            "cc": float(np.mean(correlations)) if some else 0.0,
            "noise": float(np.mean(empty)) if empty else 0.0,
        }

    def run(
        self, pool: Pool, validation: tuple[np.ndarray, np.ndarray], report: Callable[[dict], None]
    ) -> None:
        """Train until the settings' steps or minutes are spent, validating and saving on the way; `report` gets every history entry."""
        settings = self.settings
        if self.step >= settings.steps or self.minutes >= settings.minutes:
            return  # a finished training, started again
        batches = _Prefetch(
            lambda rng: _draw(pool, settings, rng),
            [settings.seed, self.step],
            max(1, settings.workers // 4),
        )
        started, before, losses, drawn, made = time.monotonic(), self.minutes, [], 0, 0
        scale = plateau(self._errors())
        try:
            ended = False
            while not ended:
                rate = (
                    learning_rate(settings, self.step, self.minutes)
                    if settings.schedule == "cosine"
                    else settings.rate * scale
                )
                self.optimizer.learning_rate.assign(rate)
                inputs, targets = batches.get()
                losses.append(float(self.models[inputs.shape[1]].train_on_batch(inputs, targets)))
                drawn += len(inputs)  # of larger edges fewer make a step
                self.step += 1
                self.minutes = before + (time.monotonic() - started) / 60
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(
                        f"the loss became {losses[-1]} at step {self.step}; lower the learning rate"
                    )
                ended, regular = (
                    self.step >= settings.steps or self.minutes >= settings.minutes,
                    self.step % settings.validate_every == 0,
                )
                if regular or ended:
                    fresh, made = pool.filled() - made, pool.filled()
                    self.history.append(
                        {
                            "step": self.step,
                            "minutes": round(self.minutes, 2),
                            "rate": rate,
                            "loss": float(np.mean(losses)),
                            "simulated": made,
                            "looks": drawn / max(fresh, 1),
                            **self.validate(*validation),
                            **({} if regular else {"end": True}),
                        }
                    )
                    losses, drawn = [], 0
                    scale = plateau(self._errors())
                    report(self.history[-1])
                    self.save()
        finally:
            batches.close()


class _Averaged:
    def __init__(self, variables, averages):
        self._pairs = list(zip(variables, averages, strict=True))

    def __enter__(self):
        self._kept = [np.asarray(v) for v, _ in self._pairs]
        for variable, average in self._pairs:
            variable.assign(
                np.array(average)
            )  # a copy: JAX gives away the buffers of the state that it steps

    def __exit__(self, *_):
        for (variable, _), kept in zip(self._pairs, self._kept, strict=True):
            variable.assign(kept)


def _plain(settings: Settings) -> dict:
    values = asdict(settings)
    return {
        k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values.items()
    }


def train(
    source: Source,
    held_out: Source,
    settings: Settings,
    folder: Path,
    report: Callable[[dict], None],
    start: str | Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Trainer:
    """Train on `source`, validate on `held_out` (both made for `settings.task`), keep everything in `folder`, go on from what is there already.

    `start`: weights to start from instead of random ones. `log` is told the device.
    """
    with Pool(
        source,
        settings.pool,
        max(settings.edges),
        settings.architecture.channels,
        settings.workers,
        settings.seed,
    ) as pool:
        validation = validation_set(held_out, settings)
        pool.wait(min(settings.pool, 4 * settings.batch))
        trainer = Trainer(settings, folder, start)
        log(f"device: {trainer.where.description} ({trainer.where.why})")
        log(f"precision: {trainer.settings.precision}")
        trainer.run(pool, validation, report)
    return trainer
