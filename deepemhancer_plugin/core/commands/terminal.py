"""What a person sees while a command runs: log, warnings, progress; and how a signal ends it."""

import io
import logging
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self, TypeVar

from deepemhancer_plugin.core.errors import MapWarning

Result = TypeVar("Result")

STEP_NAMES = {"noise": "noise statistics"}  # of steps whose name in the report is another
FIRST_LINE_SECONDS = 2.0  # before a line about the progress is worth printing
LINE_SECONDS = 10.0  # between two such lines


def log(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {_one_line(text)}", flush=True)


def print_error(text: str) -> None:
    """Print a line about what ended the program to standard error."""
    print(f"deepemhancer: error: {_one_line(text)}", file=sys.stderr, flush=True)


def print_warning(text: str) -> None:
    """Print a line about what went wrong without ending the program to standard error."""
    print(f"deepemhancer: warning: {_one_line(text)}", file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """A text without line breaks, which names of files may hold."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def make_printable() -> None:
    """Let the program print any text, such as file names of another encoding.

    Characters that the encoding of the terminal lacks come out as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _LogHandler(logging.Handler):
    """Sends what the core logs to the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.getMessage())


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Show what the core logs and warns about, and collect the warnings for the report.

    Yields:
        The texts of the MapWarnings so far.
    """
    messages: list[str] = []
    core, handler = logging.getLogger("deepemhancer_plugin"), _LogHandler()

    def show(message: Warning | str, category: type[Warning], *_args: Any, **_more: Any) -> None:
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
    """A signal asked the program to end.

    Attributes:
        status: the exit status that says so, 128 and the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread when a signal asks the program to end.

    Outside of the main thread, where Python knows no signals, this does nothing.
    """
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
            numbers.append(signal.SIGHUP)
        handlers = {number: signal.signal(number, _raise_stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise_stopped(number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def run_interruptible(work: Callable[[], Result]) -> Result:
    """Run `work()` in a thread of its own, so that a signal also ends it while it computes."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if errors:
        raise errors[0]
    return results[0]


def peak_memory() -> int:
    """Return the peak resident memory of this process in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2))


class Progress:
    """Shows how far each step is, and how long it takes from the time it has taken so far.

    A context manager, called with a step's name, how much of it is done, and of how much. On a
    terminal it shows a bar, elsewhere it prints a line now and then.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._printed = time.monotonic() - LINE_SECONDS + FIRST_LINE_SECONDS

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich import progress

            self._bar = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description:<18}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show that `done` of `total` of a step is done."""
        self._started.setdefault(step, time.monotonic())
        name = STEP_NAMES.get(step, step)
        if self._bar:
            if step not in self._tasks:
                self._tasks[step] = self._bar.add_task(name, total=total)
            self._bar.update(self._tasks[step], completed=done, total=total)
        elif done:
            self._print(step, name, done, total)

    def _print(self, step: str, name: str, done: int, total: int) -> None:
        """Print a line, unless it is too soon after the last one."""
        now = time.monotonic()
        seconds = now - self._started[step]
        due = now - self._printed >= LINE_SECONDS
        if due or (done == total and seconds > FIRST_LINE_SECONDS):
            self._printed = now
            left = seconds * (total - done) / done
            part = f"{done} of {total}, {100 * done / total:.0f} %"
            print(f"          {name}: {part}, about {left:.0f} s left", flush=True)


def download_checkpoints(directory: str | None) -> int:
    """Show the download of the authors' checkpoints; returns the exit status."""
    from deepemhancer_plugin.core.weights.official.download import download

    with Progress() as progress:
        files = download(directory, progress=lambda done, total: progress("download", done, total))
    for file in files:
        log(f"official checkpoint {file}")
    return 0
