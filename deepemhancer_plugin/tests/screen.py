"""A virtual screen for the tests that open windows, and pictures of them."""

import atexit
import os
import shutil
import subprocess
import time
import unittest

PROGRAMS = ("Xvfb", "openbox", "xdotool", "import", "identify")
missing = [name for name in PROGRAMS if not shutil.which(name)]
needs_screen = unittest.skipIf(
    missing, f"no {', '.join(missing)} here: as root, run `.ci/scipion screen`"
)


class Screen:
    """Xvfb with a window manager on a free display, as a context; DISPLAY points at it meanwhile.

    The server stays until the process ends: Tk ends the whole process when the server of a window
    that it still knows goes away.
    """

    display = None

    @classmethod
    def start(cls):
        read, write = os.pipe()
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1200x24", "-nolisten", "tcp"],
            pass_fds=[write],
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as pipe:
            cls.display = f":{pipe.readline().strip()}"
        manager = subprocess.Popen(
            ["openbox"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DISPLAY": cls.display},
        )
        for process in (server, manager):
            atexit.register(process.terminate)  # the manager first
        time.sleep(1)

    def __enter__(self):
        if self.display is None:
            self.start()
        self.saved = os.environ.get("DISPLAY")
        os.environ["DISPLAY"] = self.display
        return self

    def __exit__(self, *_):
        if self.saved is None:
            del os.environ["DISPLAY"]
        else:
            os.environ["DISPLAY"] = self.saved


def take_picture(window, path):
    """Write a picture of a Tk window; return its width, height and number of colours."""
    window.deiconify()
    window.lift()
    for _ in range(10):  # the window manager needs a moment
        window.update()
        time.sleep(0.1)
    subprocess.run(["import", "-window", str(int(window.frame(), 16)), path], check=True)
    numbers = subprocess.run(
        ["identify", "-format", "%w %h %k", path], check=True, capture_output=True, text=True
    ).stdout
    return tuple(map(int, numbers.split()))
