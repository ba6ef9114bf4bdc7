"""Weights: networks, their files, the models of this package and those of the authors."""
