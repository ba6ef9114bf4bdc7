"""Training of either network on volumes made on the fly; stopped and run again, it goes on from its checkpoint."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.localres.data import (
    BLOCK,
    RANGES,
    LabelledVolume,
    draw_boxes,
    local_spectra,
    simulate_pool,
)
from deepemhancer_plugin.core.localres.networks import build, save_weights
from deepemhancer_plugin.core.simulation import Molecule

MARGIN = 1  # blocks at the faces of a training volume that do not count: beyond them the network sees nothing, which a map would have
HUBER = 0.1  # of log(resolution): errors beyond 10 % count linearly


@dataclass(frozen=True)
class Settings:
    """How to train.

    rate             "1.0" or "0.5": which range of resolutions (data.RANGES)
    kind             "dense" (ours) or "published"
    edge, batch      edge of the volumes in voxels, and how many make a step
    boxes            of each volume for the published network
    steps, minutes   the training ends after that many steps or minutes (the minutes of resumed runs are added up)
    learning_rate    peak of Adam's: warm-up, then a cosine down to a hundredth
    pool             volumes held in memory; four of them are replaced each `renew` steps
    average          momentum of the weights' moving average, which is what is saved
    """

    rate: str = "1.0"
    kind: str = "dense"
    widths: tuple[int, ...] | None = None
    edge: int = 48
    batch: int = 3
    boxes: int = 64
    steps: int = 20000
    minutes: float = math.inf
    learning_rate: float = 3e-3
    warmup: int = 50
    pool: int = 800
    renew: int = 8
    average: float = 0.995
    validate_every: int = 500
    validation_volumes: int = 80
    seed: int = 0


def progress_rate(settings: Settings, step: int, minutes: float) -> float:
    """The cosine schedule: progress is the larger of the shares of steps and of minutes that are spent."""
    progress = min(1.0, max(step / settings.steps, minutes / settings.minutes))
    return (
        settings.learning_rate
        * min(1.0, (step + 1) / settings.warmup)
        * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    )


@dataclass(frozen=True)
class Example:
    """What a volume is to the dense network: spectra (z, y, x, 32), ln(resolution) and weight (z, y, x) of each block of 4^3 voxels."""

    spectra: np.ndarray
    log_label: np.ndarray
    weight: np.ndarray


def example(volume: LabelledVolume) -> Example:
    """A block counts by how much of it is in the molecule, and the volumes alike, however little of a molecule is in them."""
    blocks = [n for edge in volume.data.shape for n in (edge // BLOCK, BLOCK)]
    weight = np.zeros([edge // BLOCK for edge in volume.data.shape], np.float32)
    inner = slice(MARGIN, -MARGIN)
    weight[inner, inner, inner] = volume.inside.reshape(blocks).mean((1, 3, 5), dtype=np.float32)[
        inner, inner, inner
    ]
    return Example(
        local_spectra(volume.data),
        np.log(volume.label).reshape(blocks).mean((1, 3, 5)),
        weight * (weight.size / max(weight.sum(), 8.0)),
    )


class Trainer:
    """A network, its optimizer and their checkpoint in `folder`: checkpoint.npz (all that resuming needs), weights.npz, history.json."""

    def __init__(self, settings: Settings, folder: Path):
        import keras

        self.settings, self.folder, self.span = settings, folder, RANGES[settings.rate]
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(settings.seed)
        self.network = build(settings.kind, self.span, settings.widths)
        # As published: the mean squared error of the resolution. Ours: Huber's loss of its logarithm, as errors grow with the resolution.
        loss = (
            keras.losses.MeanSquaredError()
            if settings.kind == "published"
            else keras.losses.Huber(HUBER)
        )
        self.optimizer = keras.optimizers.Adam(
            settings.learning_rate,
            global_clipnorm=1.0,
            use_ema=True,
            ema_momentum=settings.average,
            ema_overwrite_frequency=None,
        )
        self.network.model.compile(optimizer=self.optimizer, loss=loss, jit_compile=False)
        self.optimizer.build(self.network.model.trainable_variables)
        self.step, self.minutes, self.history = 0, 0.0, []  # type: ignore[var-annotated]
        if (folder / "checkpoint.npz").exists():
            self._resume()

    def _variables(self) -> list:
        return [*self.network.model.variables, *self.optimizer.variables]

    def _resume(self) -> None:
        with np.load(self.folder / "checkpoint.npz", allow_pickle=False) as data:
            state = json.loads(str(data["state"]))
            for i, variable in enumerate(self._variables()):
                variable.assign(data[f"v{i}"])
        self.step, self.minutes, self.history = state["step"], state["minutes"], state["history"]

    def save(self) -> None:
        """Write the checkpoint, the averaged weights and the history; each replaces its predecessor whole."""
        state = json.dumps({"step": self.step, "minutes": self.minutes, "history": self.history})
        arrays: dict[str, Any] = {f"v{i}": np.asarray(v) for i, v in enumerate(self._variables())}
        np.savez(self.folder / "checkpoint.tmp.npz", state=state, **arrays)
        os.replace(self.folder / "checkpoint.tmp.npz", self.folder / "checkpoint.npz")
        with self.averaged():
            save_weights(
                self.folder / "weights.npz",
                self.network,
                {
                    "step": self.step,
                    "minutes": round(self.minutes, 1),
                    "settings": asdict(self.settings),
                },
            )
        (self.folder / "history.json").write_text(json.dumps(self.history, indent=1))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the network bears the moving average of its weights."""
        variables = self.network.model.trainable_variables
        now = [np.asarray(v) for v in variables]
        for variable, mean in zip(
            variables, self.optimizer._model_variables_moving_average, strict=True
        ):
            variable.assign(mean)
        try:
            yield
        finally:
            for variable, value in zip(variables, now, strict=True):
                variable.assign(value)

    def _made(self, molecules: Sequence[Molecule], rng: np.random.Generator, poses: int) -> list:
        """Volumes of so many poses, as examples where the dense network is trained."""
        volumes = simulate_pool(molecules, rng, self.span, self.settings.edge, poses)
        return [example(v) for v in volumes] if self.settings.kind == "dense" else volumes

    def _arrays(self, some: Sequence, rng: np.random.Generator) -> tuple:
        """Inputs, targets and weights of a step."""
        if self.settings.kind == "dense":
            return (
                np.stack([e.spectra for e in some]),
                np.stack([e.log_label for e in some])[..., None],
                np.stack([e.weight for e in some]),
            )
        found, labels = (
            np.concatenate(parts)
            for parts in zip(*(draw_boxes(v, rng, self.settings.boxes) for v in some), strict=True)
        )
        return found[..., None], labels[:, None], None

    def validate(self, held_out: Sequence) -> dict[str, float]:
        """Of the averaged network on held-out volumes: median, mean absolute value and root mean square of ln(predicted / true), in per cent."""
        errors = []
        with self.averaged():
            for i in range(0, len(held_out), self.settings.batch):
                inputs, targets, weights = self._arrays(
                    held_out[i : i + self.settings.batch], np.random.default_rng(i)
                )
                predicted = np.asarray(self.network.model.predict_on_batch(inputs))
                errors.append(
                    (np.log(np.maximum(predicted, 0.1)) - np.log(targets)).ravel()
                    if weights is None
                    else (predicted - targets)[..., 0][weights > 0]
                )
        every = 100 * np.concatenate(errors)
        return {
            "bias": float(np.median(every)),
            "rms": float(np.sqrt(np.square(every).mean())),
            "mae": float(np.abs(every).mean()),
        }

    def run(
        self,
        train: Sequence[Molecule],
        held_out: Sequence[Molecule],
        report: Callable[[dict], None],
    ) -> None:
        """Train until the settings' steps or minutes are spent, validating and saving on the way; `report` gets every history entry."""
        s = self.settings
        if self.step >= s.steps or self.minutes >= s.minutes:
            return  # a finished training, started again
        validation = self._made(
            held_out, np.random.default_rng([s.seed, 10**6]), s.validation_volumes // 4
        )
        rng = np.random.default_rng([s.seed, self.step])
        pool = self._made(train, rng, s.pool // 4)
        started, before, losses, oldest = time.monotonic(), self.minutes, [], 0
        while self.step < s.steps and self.minutes < s.minutes:
            if self.step % s.renew == 0:
                pool[oldest : oldest + 4] = self._made(train, rng, 1)
                oldest = (oldest + 4) % len(pool)
            rate = progress_rate(s, self.step, self.minutes)
            self.optimizer.learning_rate.assign(rate)
            inputs, targets, weights = self._arrays(
                [pool[i] for i in rng.choice(len(pool), s.batch, replace=False)], rng
            )
            losses.append(
                float(self.network.model.train_on_batch(inputs, targets, sample_weight=weights))
            )
            self.step += 1
            self.minutes = before + (time.monotonic() - started) / 60
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss became {losses[-1]} at step {self.step}; lower the learning rate"
                )
            if self.step % s.validate_every == 0:
                self._note(rate, losses, validation, report)
                losses = []
                self.save()
        self._note(rate, losses, validation, report)
        self.save()

    def _note(
        self, rate: float, losses: list[float], validation: Sequence, report: Callable[[dict], None]
    ) -> None:
        entry = {
            "step": self.step,
            "minutes": round(self.minutes, 2),
            "rate": rate,
            "loss": float(np.mean(losses)) if losses else 0.0,
            **self.validate(validation),
        }
        self.history.append(entry)
        report(entry)
