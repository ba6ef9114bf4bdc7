"""Log, warnings, progress, and work that a signal can end."""

import logging
import signal
import subprocess
import sys
import threading
import warnings

import pytest

from deepemhancer_plugin.core.commands import terminal
from deepemhancer_plugin.core.errors import MapWarning


def test_log_has_the_time_of_day(capsys):
    terminal.log("words")
    assert capsys.readouterr().out[2::3].startswith("::") is True


def test_warnings_about_maps_are_shown_and_collected(capsys):
    with terminal.collect_warnings() as messages:
        for _ in range(2):  # also when it is the same again
            warnings.warn("masked already", MapWarning, stacklevel=1)
        warnings.warn("of another package", UserWarning, stacklevel=1)
    assert messages == ["masked already"] * 2
    out = capsys.readouterr().out
    assert out.count("warning: masked already") == 2 and "another" not in out


def test_what_the_core_logs_is_shown_meanwhile_alone(capsys):
    core = logging.getLogger("deepemhancer_plugin.core.enhancement")
    with terminal.collect_warnings():
        core.info("noise: %.1f", 0.25)
        core.debug("no")
    core.info("later")
    assert capsys.readouterr().out.split("  ")[1:] == ["noise: 0.2\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_raised_and_handlers_come_back(number):
    def before(*_):
        """A handler of the caller's; under nohup the tests themselves ignore SIGHUP."""

    kept = signal.signal(number, before)
    try:
        with pytest.raises(terminal.Stopped) as caught, terminal.raise_on_signals():
            signal.raise_signal(number)
        assert caught.value.status == 128 + number
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, kept)


def test_hangup_is_ignored_where_the_caller_ignores_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminal.raise_on_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_outside_of_the_main_thread():
    def work():
        with terminal.raise_on_signals():
            done.append(1)

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_interruptible_work_returns_and_raises():
    assert terminal.run_interruptible(lambda: 7) == 7
    assert terminal.run_interruptible(lambda: None) is None

    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        terminal.run_interruptible(fail)


def test_peak_memory_is_that_of_this_process():
    assert 10 < terminal.peak_memory() < 10**6


def test_text_that_the_encoding_lacks():
    code = (
        "from deepemhancer_plugin.core.commands import terminal; terminal.make_printable()\n"
        "terminal.log('\\xb5\\udce9'); terminal.print_error('\\xb5')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
    )
    assert done.stdout.strip().endswith(rb"\xb5\udce9"), done.stderr
    assert done.stderr == b"deepemhancer: error: \\xb5\n"


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_progress_prints_a_line_now_and_then(capsys, clock):
    with terminal.Progress() as progress:
        progress("network", 0, 40)
        for done in range(1, 41):
            clock[0] += 1
            progress("network", done, 40)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "network: 2 of 40, 5 %, about 38 s left"
    assert lines[-1].strip() == "network: 40 of 40, 100 %, about 0 s left" and len(lines) == 5


def test_progress_of_quick_steps_is_silent(capsys, clock):
    with terminal.Progress() as progress:
        progress("noise", 0, 1)
        clock[0] += 0.5
        progress("noise", 1, 1)
    assert capsys.readouterr().out == ""
