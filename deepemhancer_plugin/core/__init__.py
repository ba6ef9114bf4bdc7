"""Enhancement of cryo-EM maps, for people who write Python.

    >>> from deepemhancer_plugin.core import enhance
    >>> result = enhance("half1.mrc", "half2.mrc")             # doctest: +SKIP
    >>> result.save("enhanced.mrc")                            # doctest: +SKIP

Maps are paths, maps from `read_map`, or arrays (z, y, x) with `sampling_rate=` in A/voxel. Nothing
heavy is imported before a function is called. The way of a map through the program stands in
`enhancement/enhance.py`, from top to bottom. The core never imports Scipion.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 11):  # noqa: UP036  (Scipion's own Python may be older)
    raise ImportError(
        "deepemhancer_plugin.core needs Python 3.11 or later, and this is {}.{}: use the Python of "
        "the inference environment".format(*sys.version_info)
    )

if TYPE_CHECKING:
    from deepemhancer_plugin.core.enhancement.enhance import Enhanced, enhance
    from deepemhancer_plugin.core.errors import InputError, MapWarning
    from deepemhancer_plugin.core.evaluation.evaluate import Evaluation, evaluate
    from deepemhancer_plugin.core.localres.resolution import LocalResolution, local_resolution
    from deepemhancer_plugin.core.maps.mrc import Map, new_map, read_map, write_map
    from deepemhancer_plugin.core.simulation.simulate import simulate
    from deepemhancer_plugin.core.weights.load import load_weights

_MODULES = {
    "Enhanced": "enhancement.enhance",
    "Evaluation": "evaluation.evaluate",
    "InputError": "errors",
    "LocalResolution": "localres.resolution",
    "Map": "maps.mrc",
    "MapWarning": "errors",
    "enhance": "enhancement.enhance",
    "evaluate": "evaluation.evaluate",
    "load_weights": "weights.load",
    "local_resolution": "localres.resolution",
    "new_map": "maps.mrc",
    "read_map": "maps.mrc",
    "simulate": "simulation.simulate",
    "write_map": "maps.mrc",
}
__all__ = [
    "Enhanced",
    "Evaluation",
    "InputError",
    "LocalResolution",
    "Map",
    "MapWarning",
    "enhance",
    "evaluate",
    "load_weights",
    "local_resolution",
    "new_map",
    "read_map",
    "simulate",
    "write_map",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
