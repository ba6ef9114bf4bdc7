"""The `deepemhancer` program: finds the command, turns errors into one line and an exit status.

Nothing heavy is imported before a command has checked its arguments.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

from deepemhancer_plugin.core.commands.terminal import Stopped, stop
from deepemhancer_plugin.core.errors import InputError

# Sub-commands: the module of this folder and its function (arguments) -> exit status, imported when it is called.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Of itself TensorFlow takes its fast convolutions (oneDNN) only where there is AVX-512; without them networks take 1.4 times as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {
            number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
    try:
        if arguments and arguments[0] in COMMANDS:
            module, function = COMMANDS[arguments.pop(0)]
        else:
            module, function = "enhance", "main"
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)(arguments)
    except InputError as error:
        print(f"deepemhancer: error: {error}", file=sys.stderr, flush=True)
        return 1
    except ImportError as error:
        if error.name is None or error.name.startswith("deepemhancer_plugin"):
            raise
        print(
            f"deepemhancer: error: {sys.prefix} lacks the Python package {error.name} as it is needed ({error}): call the deepemhancer of "
            "the environment that computes (Scipion's does not), or pip install 'scipion-em-deepemhancer[inference]' and TensorFlow into this one",
            file=sys.stderr,
            flush=True,
        )
        return 1
    except MemoryError:
        print(
            "deepemhancer: error: the memory does not suffice: free some, use fewer tiles at a time (-b 1), or a larger machine",
            file=sys.stderr,
            flush=True,
        )
        return 1
    except Stopped as stopped:
        print("deepemhancer: interrupted; nothing was written in part", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(
            stopped.status
        )  # the network may still compute in its thread: not to be waited for
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def relion_hook() -> int:
    """The program `deepemhancer-relion STAR`, which RELION starts."""
    return main(["relion", *sys.argv[1:]])
