"""The plugin's version, apart from everything else so that every module can read it."""

__version__ = "1.0.0"
