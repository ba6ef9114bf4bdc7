"""Runs in the inference environment: says what it lacks, and fails if it lacks anything. Imports nothing, so it is quick."""

from importlib.util import find_spec

MODULES = ("numpy", "scipy", "mrcfile", "h5py", "keras", "starfile")
BACKENDS = ("tensorflow", "jax", "torch")

missing = [name for name in MODULES if not find_spec(name)]
if not any(find_spec(name) for name in BACKENDS):
    missing.append("tensorflow")
print("PROBE:" + " ".join(missing))
raise SystemExit(bool(missing))
