"""Local resolution: by deep learning from the map alone, and by the windowed correlation of the half maps."""
