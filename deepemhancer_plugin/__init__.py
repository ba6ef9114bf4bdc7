"""Enhancement of cryo-EM maps: a Scipion plugin and the `deepemhancer` command.

Importing this package needs neither Scipion nor TensorFlow. `Plugin` is imported on first access
(PEP 562), so that the core also imports in the inference environment, where Scipion is absent.
"""

from deepemhancer_plugin.version import __version__  # noqa: F401

_logo = "icon.png"
_references = ["SanchezGarcia2021", "RamirezAportela2019", "RamirezAportela2022", "Jakobi2017"]


def __getattr__(name):
    """Import Scipion's plugin class when it is asked for."""
    if name == "Plugin":
        from deepemhancer_plugin.plugin import Plugin

        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
