"""Runs the `deepemhancer` command of *this* package with whatever Python executes this file.

Scipion calls it in the inference environment: `python .../deepemhancer_plugin/launcher.py ARGUMENTS`. The package is loaded from
the folder of this file, so that the code that runs is always the plugin's own version, installed there or not; its parent folder
(Scipion's site-packages) does not get onto the path, where it would shadow the NumPy of the inference environment.
"""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def load_package():
    # Python puts the folder of the script first: `constants`, `tests`... would be importable as top-level modules.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != HERE]
    spec = importlib.util.spec_from_file_location(
        HERE.name, HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[HERE.name] = package
    spec.loader.exec_module(package)


if HERE.name not in sys.modules:
    load_package()

if __name__ == "__main__":
    from deepemhancer_plugin.core.commands.main import main

    sys.exit(main())
