"""What a person sees of a long step: a bar with the time left on a terminal, plain lines elsewhere."""
import sys
import time
from typing import Any

STEPS = {"noise": "noise statistics", "network": "network"}
QUIET = 2.0     # seconds before a plain line is worth printing,
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
            from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(SpinnerColumn(), TextColumn("{task.description:<18}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                                 TextColumn("left"), TimeRemainingColumn())
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
        elif done and (now - self._printed >= INTERVAL or (done == total and now - self._started[step] > QUIET)):
            self._printed = now
            left = (now - self._started[step]) * (total - done) / done
            print(f"          {STEPS.get(step, step)}: {done} of {total}, {100 * done / total:.0f} %, about {left:.0f} s left", flush=True)
