"""The `deepemhancer` program: finds the command, turns errors into one line and an exit status.

Nothing heavy is imported before a command has checked its arguments.
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from deepemhancer_plugin.core.backend import set_defaults
from deepemhancer_plugin.core.commands.terminal import (
    Stopped,
    make_printable,
    print_error,
    raise_on_signals,
)
from deepemhancer_plugin.core.devices import framework_of, is_out_of_memory, selected_devices
from deepemhancer_plugin.core.errors import InputError

# The module of this folder and its function (arguments) -> exit status, imported when called.
COMMANDS = {
    "demo": ("demo", "main"),
    "simulate": ("simulate", "main"),
    "download": ("download", "main"),
    "train": ("train", "train"),
    "fine-tune": ("train", "fine_tune"),
    "evaluate": ("evaluate", "main"),
    "relion": ("relion", "main"),
    "localres": ("localres", "main"),
    "localres-train": ("localres_train", "main"),
    "oversharpening": ("oversharpening", "main"),
}
ENHANCE = ("enhance", "main")  # where the first word is none of these

DEFECTS = ("InvalidArgumentError", "OutOfRangeError")  # of ours, whatever computes
MESSAGE_LENGTH = 300  # characters
NO_MEMORY = (
    "the memory does not suffice: free some, use fewer tiles at a time (-b 1), or a larger machine"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its arguments; None: those of the process.

    Returns:
        The exit status: 0 done, 1 bad input. A signal and wrong usage (2) end the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    set_defaults()
    make_printable()
    try:
        with raise_on_signals():
            return _run(arguments)
    except Stopped as stopped:
        _exit(stopped)
    except Exception as error:
        text = describe_error(error)
        if text is None:
            raise
        print_error(text)
        if isinstance(error, BrokenPipeError):  # or Python would try again to print when it ends
            sys.stdout = open(os.devnull, "w")
        return 1


def _run(arguments: list[str]) -> int:
    """Run the command that the first argument names."""
    module, function = ENHANCE
    if arguments and arguments[0] in COMMANDS:
        module, function = COMMANDS[arguments.pop(0)]
    run = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return int(run(arguments))


def _exit(stopped: Stopped) -> NoReturn:
    """End the process without waiting for a network that still computes in its thread."""
    print("deepemhancer: interrupted; nothing was written in part", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(stopped.status)


def describe_error(error: Exception) -> str | None:
    """Say in one line what went wrong and what to do, where the program's user can do something.

    Returns:
        The line, or None for a defect of the program.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ImportError):
        return _describe_import_error(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, OSError):
        reason = error.strerror or _shorten(str(error))
        return f"{error.filename}: {reason}" if error.filename else reason
    return _describe_framework_error(error)


def _describe_import_error(error: ImportError) -> str | None:
    """A package that is not there or too old, or a library that does not load."""
    cause: BaseException | None = error
    while cause is not None:  # NumPy and TensorFlow wrap the reason in pages of advice
        if isinstance(cause, ImportError):
            error = cause
        cause = cause.__cause__ or cause.__context__
    name = error.name or ""
    if name.startswith("deepemhancer_plugin"):
        return None
    reason = _shorten(str(error))
    if name and (error.path is None or error.path.endswith(".py")):
        return (
            f"{sys.prefix} lacks the Python package {name} as it is needed ({reason}): call the "
            "deepemhancer of the environment that computes (Scipion's does not), or pip install "
            "'scipion-em-deepemhancer[inference]' and TensorFlow into this one"
        )
    path = os.environ.get("LD_LIBRARY_PATH")
    if path:
        remedy = f"LD_LIBRARY_PATH={path} may put another program's in its place: unset it"
    else:
        remedy = "install the packages of this environment again (LD_LIBRARY_PATH is not set)"
    return f"a library of {sys.prefix} cannot be loaded ({reason}): {remedy}"


def _describe_framework_error(error: Exception) -> str | None:
    """What TensorFlow, JAX or PyTorch say when a GPU, or its memory, fails them."""
    framework, kind = framework_of(error), type(error).__name__
    defect = kind in DEFECTS and not re.search("CUDA|cuDNN|PTX", str(error))
    if framework is None or defect:
        return None
    devices, full = selected_devices(), is_out_of_memory(error)
    if devices is not None and devices.kind == "cpu":
        return NO_MEMORY if full else None
    device = "the GPU" if devices is None else devices.description
    reason = f"{kind}: {_shorten(str(error))}"
    cpu = "take the CPU (-g -1, or CUDA_VISIBLE_DEVICES=-1)"
    if full:
        return (
            f"{device}: its memory does not suffice ({reason}): free some, use fewer tiles at a "
            f"time (-b 1), or {cpu}"
        )
    return f"{device}: {framework} fails on it ({reason}): {cpu}, or install one made for this GPU"


def _shorten(text: str) -> str:
    """The first line of a text that says something."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:MESSAGE_LENGTH] for line in lines if line), "no reason given")
