"""Runs the `deepemhancer` command of *this* package with the Python that executes this file.

Scipion calls it in the inference environment: `python PATH/launcher.py ARGUMENTS`. It loads the
package from its own folder, so the plugin's version runs whether or not another one is installed
there. Scipion's site-packages, the folder above, stays off the path: its NumPy would hide that of
the inference environment. The installed commands start here too.

This file runs on any Python 3, so that an old one gets an error message instead of a traceback.
"""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MINIMUM_PYTHON = (3, 11)  # of the core


def load_package():
    """Make the package in this folder importable under its name."""
    # Python puts a script's folder first: `constants` or `tests` would be top-level modules.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != HERE]
    spec = importlib.util.spec_from_file_location(
        HERE.name, str(HERE / "__init__.py"), submodule_search_locations=[str(HERE)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{HERE} holds no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules[HERE.name] = package
    spec.loader.exec_module(package)


def main(arguments=None):
    """Run the `deepemhancer` command.

    Args:
        arguments: List of strings; the command line's when None.

    Returns:
        The exit status.
    """
    if sys.version_info < MINIMUM_PYTHON:
        print(
            "deepemhancer: error: Python {}.{} is too old, 3.11 or later is needed: call the "
            "deepemhancer of the inference environment, or pip install "
            "'scipion-em-deepemhancer[inference]' and TensorFlow with a newer Python".format(
                *sys.version_info
            ),
            file=sys.stderr,
        )
        return 1
    from deepemhancer_plugin.core.commands.main import main as run

    return run(arguments)


def run_relion_hook():
    """Run `deepemhancer-relion STAR`, the program that RELION calls."""
    return main(["relion", *sys.argv[1:]])


if HERE.name not in sys.modules:
    load_package()

if __name__ == "__main__":
    sys.exit(main())
