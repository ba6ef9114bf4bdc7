"""Noise of maps: its statistics, its directions, and the normalisations that it gives."""
