"""From a map, or two half maps, to the enhanced map: `enhance.py` from top to bottom."""
