"""Training of the networks that see local resolution, on volumes simulated on the fly."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.backend import import_keras
from deepemhancer_plugin.core.localres.data import (
    VOLUMES_PER_POSE,
    LabelledVolume,
    draw_boxes,
    simulate_pool,
)
from deepemhancer_plugin.core.localres.inputs import BLOCK, RANGES, local_spectra
from deepemhancer_plugin.core.localres.networks import build, save_weights
from deepemhancer_plugin.core.simulation import Molecule
from deepemhancer_plugin.core.training.optimizers import make_optimizer
from deepemhancer_plugin.core.training.run import Run, Schedule

MARGIN = 1  # blocks at the faces of a volume that do not count: a map would go on beyond them
HUBER = 0.1  # of ln(resolution): errors beyond 10 % count linearly
LEAST_WEIGHT = 8.0  # blocks: volumes with less of a molecule count less
FINEST = 0.1  # A: finer predictions are taken for it


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        rate: "1.0" or "0.5", A/voxel, and so the range of resolutions (`data.RANGES`).
        kind: "dense" (ours) or "published".
        widths: of the network's layers; None: those of its kind.
        edge: of the volumes in voxels, a multiple of four.
        batch: volumes of a step.
        boxes: of each volume for the published network.
        steps: the training ends after so many steps,
        minutes: or after so many minutes, those of earlier runs included.
        learning_rate: the highest.
        warmup: steps until it is reached.
        pool: volumes held in memory.
        renew: steps after which the four oldest volumes are replaced.
        average: momentum of the moving average of the weights, which is what is saved.
        validate_every: steps between two validations.
        validation_volumes: volumes of a validation.
        seed: of all random numbers.
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


@dataclass(frozen=True)
class Example:
    """What a volume is to the dense network, for each block of 4^3 voxels.

    Attributes:
        spectra: local spectra (z, y, x, 32).
        log_label: ln(resolution in A) (z, y, x).
        weight: in the loss (z, y, x).
    """

    spectra: np.ndarray
    log_label: np.ndarray
    weight: np.ndarray


def make_example(volume: LabelledVolume) -> Example:
    """Make an example of a volume.

    A block counts by how much of it is in the molecule, and the volumes alike, however little of a
    molecule is in them.
    """
    blocks = [n for edge in volume.data.shape for n in (edge // BLOCK, BLOCK)]
    covered = volume.inside.reshape(blocks).mean((1, 3, 5), dtype=np.float32)
    inner = (slice(MARGIN, -MARGIN),) * 3
    weight = np.zeros_like(covered)
    weight[inner] = covered[inner]
    weight *= weight.size / max(weight.sum(), LEAST_WEIGHT)
    log_label = np.log(volume.label).reshape(blocks).mean((1, 3, 5))
    return Example(local_spectra(volume.data), log_label, weight)


class Trainer(Run):
    """A network for local resolution in training.

    Attributes:
        range: of resolutions.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Make the network, or go on from the folder's checkpoint.

        Args:
            settings: how to train.
            folder: for the files (`run.Run`).

        Raises:
            InputError: the checkpoint is damaged or that of another network.
        """
        keras = import_keras()
        self.range = RANGES[settings.rate]
        keras.utils.set_random_seed(settings.seed)
        network = build(settings.kind, self.range, settings.widths)
        # As published: the mean squared error of the resolution. Ours: Huber's loss of its
        # logarithm, as errors grow with the resolution.
        published = settings.kind == "published"
        loss = keras.losses.MeanSquaredError() if published else keras.losses.Huber(HUBER)
        optimizer = make_optimizer("adam", settings.learning_rate, settings.average)
        network.model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
        optimizer.build(network.model.trainable_variables)
        schedule = Schedule(
            settings.learning_rate,
            settings.warmup,
            settings.steps,
            settings.minutes,
            settings.validate_every,
        )
        super().__init__(settings, folder, network, optimizer, schedule)

    def write_weights(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the network's present weights and how they were trained (`facts`)."""
        save_weights(path, self.network, facts)

    def _simulate(
        self, molecules: Sequence[Molecule], rng: np.random.Generator, poses: int
    ) -> list[Any]:
        """Volumes of so many poses, as examples where the dense network is trained."""
        volumes = simulate_pool(molecules, rng, self.range, self.settings.edge, poses)
        return [make_example(v) for v in volumes] if self.settings.kind == "dense" else volumes

    def _make_batch(
        self, volumes: Sequence[Any], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Inputs, targets and, for the dense network, weights."""
        if self.settings.kind == "dense":
            return (
                np.stack([example.spectra for example in volumes]),
                np.stack([example.log_label for example in volumes])[..., None],
                np.stack([example.weight for example in volumes]),
            )
        boxes, labels = zip(
            *(draw_boxes(volume, rng, self.settings.boxes) for volume in volumes), strict=True
        )
        return np.concatenate(boxes)[..., None], np.concatenate(labels)[:, None], None

    def validate(self, held_out: Sequence[Any]) -> dict[str, float]:
        """Measure the averaged network on held-out volumes.

        Returns:
            Of ln(predicted / true resolution), in per cent: "bias", the median; "rms", the root
            mean square; "mae", the mean absolute value.
        """
        errors = []
        with self.averaged():
            for i in range(0, len(held_out), self.settings.batch):
                inputs, targets, weights = self._make_batch(
                    held_out[i : i + self.settings.batch], np.random.default_rng(i)
                )
                predicted = np.asarray(self.network.model.predict_on_batch(inputs))
                if weights is None:
                    errors.append(np.log(np.maximum(predicted, FINEST) / targets).ravel())
                else:
                    errors.append((predicted - targets)[..., 0][weights > 0])
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
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        """Train until the settings' steps or minutes are spent.

        Args:
            train: molecules to train on.
            held_out: molecules to validate on.
            report: is called with each new entry of the history.
        """
        if self.finished:
            return
        settings = self.settings
        validation_rng = np.random.default_rng([settings.seed, 10**6])
        validation = self._simulate(
            held_out, validation_rng, settings.validation_volumes // VOLUMES_PER_POSE
        )
        rng = np.random.default_rng([settings.seed, self.step])
        pool = self._simulate(train, rng, settings.pool // VOLUMES_PER_POSE)
        oldest = 0

        def take_step() -> float:
            nonlocal oldest
            if self.step % settings.renew == 0:
                pool[oldest : oldest + VOLUMES_PER_POSE] = self._simulate(train, rng, 1)
                oldest = (oldest + VOLUMES_PER_POSE) % len(pool)
            chosen = rng.choice(len(pool), settings.batch, replace=False)
            inputs, targets, weights = self._make_batch([pool[i] for i in chosen], rng)
            model = self.network.model
            return float(model.train_on_batch(inputs, targets, sample_weight=weights))

        self.take_steps(take_step, lambda: self.validate(validation), report)
