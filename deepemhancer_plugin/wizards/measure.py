"""Measures for the wizards in the inference environment, as the program does. Prints one JSON line.

python measure.py noise SAMPLING_RATE MAP [HALF2]      mean and standard deviation of the noise
python measure.py memory GPU                           free bytes of a GPU
"""

import json
import runpy
import sys
import warnings
from pathlib import Path

# Makes the package of this very file importable.
runpy.run_path(str(Path(__file__).resolve().parents[1] / "launcher.py"))


def measure_noise(rate, *paths):
    """Measure the noise of a map, or of two half maps, as the program does.

    Args:
        rate: A/voxel, as text.
        *paths: The map, or the two half maps.

    Returns:
        A dictionary with the mean, the standard deviation `std` and the `source`.
    """
    from deepemhancer_plugin.core.maps import mrc
    from deepemhancer_plugin.core.noise import statistics

    maps = [mrc.read_map(path, float(rate)) for path in paths]
    if len(maps) == 2:
        mrc.check_halves(*maps)
        noise = statistics.noise_from_halves(maps[0].data, maps[1].data)
    else:
        noise = statistics.noise_from_map(maps[0].data)
    return {"mean": float(noise.mean), "std": float(noise.std), "source": noise.source}


def measure_memory(gpu):
    """Return the free memory of a GPU, by its number as text."""
    from deepemhancer_plugin.core import devices

    return {"free": devices.free_gpu_memory(int(gpu))}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    commands = {"noise": measure_noise, "memory": measure_memory}
    try:
        print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
    except Exception as error:  # the wizard shows one line
        print(json.dumps({"error": str(error)}))
        sys.exit(1)
