"""What the wizards ask the inference environment, so that they measure as the program does. Prints one line of JSON.

python measure.py noise SAMPLING_RATE MAP [HALF2]      mean and standard deviation of the noise
python measure.py memory GPU                           free bytes of a GPU
"""

import json
import runpy
import sys
import warnings
from pathlib import Path

runpy.run_path(
    str(Path(__file__).resolve().parents[1] / "launcher.py")
)  # makes this very package importable


def noise(rate, *paths):
    from deepemhancer_plugin.core.maps import mrc
    from deepemhancer_plugin.core.noise import statistics as normalization

    maps = [mrc.read_map(path, float(rate)) for path in paths]
    if len(maps) == 2:
        mrc.check_halves(*maps)
        stats = normalization.noise_from_halves(maps[0].data, maps[1].data)
    else:
        stats = normalization.noise_from_map(maps[0].data)
    return {"mean": float(stats.mean), "std": float(stats.std), "source": stats.source}


def memory(gpu):
    from deepemhancer_plugin.core import devices

    return {"free": devices.free_gpu_memory(int(gpu))}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        print(json.dumps({"noise": noise, "memory": memory}[sys.argv[1]](*sys.argv[2:])))
    except Exception as error:  # the wizard shows one line
        print(json.dumps({"error": str(error)}))
        sys.exit(1)
