"""What a person sees while a command runs: its log, warnings, progress; and how a signal ends it."""

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from deepemhancer_plugin.core.errors import MapWarning


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


class _LogHandler(logging.Handler):
    """Sends what the core logs to the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.getMessage())


@contextmanager
def map_warnings() -> Iterator[list[str]]:
    """Show what the core logs and warns about, and collect the warnings for the report."""
    messages: list[str] = []
    core, handler = logging.getLogger("deepemhancer_plugin"), _LogHandler()

    def show(message, category, *_args, **_kwargs) -> None:
        if issubclass(category, MapWarning):
            messages.append(str(message))
            log(f"warning: {message}")

    level = core.level
    core.addHandler(handler)
    core.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MapWarning)
            warnings.showwarning = show
            yield messages
    finally:
        core.removeHandler(handler)
        core.setLevel(level)


class Stopped(BaseException):
    """SIGINT or SIGTERM."""

    def __init__(self, number: int):
        self.status = 128 + number


def stop(number: int, _frame: Any) -> NoReturn:
    raise Stopped(number)


def interruptible(work: Callable[[], Any]) -> Any:
    """`work()` in a thread of its own, so that a signal is answered at once also while the network computes."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((work(), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    result, error = outcome
    if error is not None:
        raise error
    return result


def peak_memory() -> int:
    """Peak resident memory of this process in MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2))


STEPS = {"noise": "noise statistics", "network": "network"}
QUIET = 2.0  # seconds before a plain line is worth printing,
INTERVAL = 10.0  # and between two of them


class Progress:
    """Call it with (step, done, total); use it as a context manager. The time left is guessed from the time that the step has taken so far."""

    def __init__(self) -> None:
        self._bar: Any = None  # rich's bar, on a terminal
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._printed = time.monotonic() - INTERVAL + QUIET

    def __enter__(self) -> "Progress":
        if sys.stdout.isatty():
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<18}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        self._started.setdefault(step, now)
        if self._bar:
            if step not in self._tasks:
                self._tasks[step] = self._bar.add_task(STEPS.get(step, step), total=total)
            self._bar.update(self._tasks[step], completed=done, total=total)
        elif done and (
            now - self._printed >= INTERVAL or (done == total and now - self._started[step] > QUIET)
        ):
            self._printed = now
            left = (now - self._started[step]) * (total - done) / done
            print(
                f"          {STEPS.get(step, step)}: {done} of {total}, {100 * done / total:.0f} %, about {left:.0f} s left",
                flush=True,
            )
