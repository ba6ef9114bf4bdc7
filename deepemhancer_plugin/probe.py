"""Runs in the inference environment: prints what it lacks, and fails if it lacks anything.

It imports none of the packages, so it is quick. It must run on any Python 3.
"""

import os
import sys
from importlib.util import find_spec

# The modules of each package in requirements-inference.txt.
MODULES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-image": "skimage",
    "mrcfile": "mrcfile",
    "h5py": "h5py",
    "keras": "keras",
    "gemmi": "gemmi",
    "requests": "requests",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "starfile": "starfile",
}
if sys.platform != "linux":
    MODULES["psutil"] = "psutil"
BACKENDS = ("tensorflow", "jax", "torch")


def find_missing():
    """List the names, as pip knows them, of the packages that this Python lacks."""
    missing = [package for package, module in MODULES.items() if not find_spec(module)]
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"  # as the core chooses it
    if backend in BACKENDS and not find_spec(backend):
        missing.append(backend)
    return missing


if __name__ == "__main__":
    print("PYTHON:{}.{}".format(*sys.version_info))
    packages = find_missing()
    print("PROBE:" + " ".join(packages))
    sys.exit(bool(packages) or sys.version_info < (3, 11))
