"""What every training does: the loop, its learning rate, checkpoint, averaged weights, history."""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import make_folder, replacing, write_text
from deepemhancer_plugin.core.weights.files import UNREADABLE

LOWEST_RATE = 0.01  # of the peak learning rate, at the end of the cosine


@dataclass(frozen=True)
class Schedule:
    """The length of a training and its learning rate: a linear warm-up, then half a cosine.

    Attributes:
        peak: highest learning rate.
        warmup: steps until it is reached.
        steps: the training ends after so many steps,
        minutes: or after so many minutes, those of earlier runs included.
        validate_every: steps between two validations.
    """

    peak: float
    warmup: int
    steps: int
    minutes: float
    validate_every: int

    def progress(self, step: int, minutes: float) -> float:
        """Return the spent part of the steps or of the minutes, whichever is larger; 1: the end."""
        return min(1.0, max(step / self.steps, minutes / self.minutes))

    def learning_rate(self, step: int, minutes: float) -> float:
        """Return the learning rate after `step` steps and `minutes` minutes."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        cosine = 0.5 + 0.5 * math.cos(math.pi * self.progress(step, minutes))
        return self.peak * warm * (LOWEST_RATE + (1 - LOWEST_RATE) * cosine)


def read_state(path: Path) -> dict[str, Any]:
    """Read how far a training has come from its checkpoint.

    Returns:
        "step", "minutes", "cubes" that it has seen, and "history".

    Raises:
        InputError: the checkpoint is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return _parse_state(data)
    except UNREADABLE as error:
        raise _make_damage_error(path, error) from error


def _parse_state(data: Any) -> dict[str, Any]:
    state = json.loads(str(data["state"]))
    return {
        "step": int(state["step"]),
        "minutes": float(state["minutes"]),
        "cubes": int(state.get("cubes", 0)),
        "history": list(state["history"]),
    }


def _make_damage_error(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{path}: a damaged checkpoint ({reason}); remove it to begin anew, "
        "for example with --start and the weights.npz beside it"
    )


class Run(ABC):
    """A training that can be stopped and resumed.

    The folder holds checkpoint.npz (all that resuming needs), weights.npz (the averaged weights)
    and history.json. Subclasses make the network and its optimizer, and know data and loss.

    Attributes:
        settings: a dataclass, kept in the weights file.
        folder: of the files.
        network: what is trained; its attribute `model` is a Keras model.
        optimizer: a built Keras optimizer, with `use_ema` for the averaged weights.
        schedule: length and learning rate.
        step: steps that were taken, by earlier runs too.
        minutes: that they took.
        cubes: that they saw, one that was seen twice twice; subclasses count them.
        facts: what the weights file shall say besides step, minutes, cubes and settings.
        history: an entry (JSON values) for each validation.
    """

    def __init__(
        self, settings: Any, folder: Path, network: Any, optimizer: Any, schedule: Schedule
    ) -> None:
        """Go on from the folder's checkpoint if there is one.

        Raises:
            InputError: the checkpoint is damaged, or that of another network or optimizer.
        """
        self.settings = settings
        self.folder = make_folder(folder)
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.step = 0
        self.minutes = 0.0
        self.cubes = 0
        self.facts: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        if self._checkpoint.exists():
            self._resume()

    @abstractmethod
    def write_weights(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the network's present weights and how they were trained (`facts`)."""

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return self.schedule.learning_rate(self.step, self.minutes)

    @property
    def finished(self) -> bool:
        """Whether the steps or the minutes are spent."""
        return self.schedule.progress(self.step, self.minutes) >= 1

    @property
    def variables(self) -> list[Any]:
        """The variables of network and optimizer, in the order of the checkpoint."""
        return [*self.network.model.variables, *self.optimizer.variables]

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.npz"

    def _resume(self) -> None:
        path = self._checkpoint
        try:
            with np.load(path, allow_pickle=False) as data:
                state = _parse_state(data)
                arrays = [data[f"v{i}"] for i in range(len(data.files) - 1)]
        except UNREADABLE as error:
            raise _make_damage_error(path, error) from error
        variables = self.variables
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise InputError(
                f"{path}: the checkpoint of another network; "
                "use the settings that it was begun with, or another folder"
            )
        for variable, values in zip(variables, arrays, strict=True):
            variable.assign(values)
        self.step, self.minutes = state["step"], state["minutes"]
        self.cubes, self.history = state["cubes"], state["history"]

    def save(self) -> None:
        """Write checkpoint, averaged weights and history; each replaces its predecessor whole."""
        state = {
            "step": self.step,
            "minutes": self.minutes,
            "cubes": self.cubes,
            "history": self.history,
        }
        arrays: dict[str, Any] = {f"v{i}": np.asarray(v) for i, v in enumerate(self.variables)}
        with replacing(self._checkpoint) as path:
            np.savez(path, state=json.dumps(state), **arrays)
        facts = {
            "step": self.step,
            "minutes": round(self.minutes, 1),
            "cubes": self.cubes,
            "settings": _finite(asdict(self.settings)),
            **self.facts,
        }
        with self.averaged():
            self.write_weights(self.folder / "weights.npz", facts)
        write_text(self.folder / "history.json", json.dumps(self.history, indent=1))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the network the moving average of its weights for the length of the context."""
        weights = self.network.model.trainable_variables
        trained = [np.array(w) for w in weights]
        self.optimizer.finalize_variable_values(weights)
        for weight in weights:
            # A copy, because JAX gives away the buffers of a model that it evaluates.
            weight.assign(np.array(weight))
        try:
            yield
        finally:
            for weight, values in zip(weights, trained, strict=True):
                weight.assign(values)

    def take_steps(
        self,
        take_step: Callable[[], float],
        validate: Callable[[], dict[str, Any]],
        report: Callable[[dict[str, Any]], None],
        pause: float = math.inf,
    ) -> None:
        """Train until the steps or minutes are spent, with validations and saving on the way.

        Args:
            take_step: takes one step and returns its loss.
            validate: returns what the history says of the network besides step, minutes, learning
                rate and mean loss.
            report: is called with each new entry of the history. The entry of an end between two
                validations has the key "end".
            pause: minutes after which this call ends, to be gone on with later; the learning rate
                does not depend on them.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        started, before = time.monotonic(), self.minutes
        losses: list[float] = []
        paused = False
        while not self.finished and not paused:
            rate = self.learning_rate()
            self.optimizer.learning_rate.assign(rate)
            losses.append(take_step())
            self.step += 1
            self.minutes = before + (time.monotonic() - started) / 60
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss became {losses[-1]} at step {self.step}; lower the learning rate"
                )
            regular = self.step % self.schedule.validate_every == 0
            paused = self.minutes - before >= pause
            if not (regular or self.finished or paused):
                continue
            entry = {
                "step": self.step,
                "minutes": round(self.minutes, 2),
                "rate": rate,
                "loss": float(np.mean(losses)),
                **validate(),
                **({} if regular else {"end": True}),
            }
            losses = []
            self.history.append(entry)
            report(entry)
            self.save()


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """None for what is infinite, because JSON has no infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
