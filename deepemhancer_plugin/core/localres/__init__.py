"""Local resolution: read off a map by a network, and measured between half maps."""
