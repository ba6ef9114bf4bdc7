"""Recipes made small: the same stages with a tiny network, few cubes and two steps each."""

from dataclasses import replace

from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.cubes import Simulation

TINY = {
    "edges": (32,),
    "batch": 1,
    "pool": 8,
    "steps": 2,
    "workers": 1,
    "precision": "float32",
    "validation_cubes": 1,
    "validate_every": 1,
    "warmup": 0,
}


def shrink(recipe, **changes):
    """The recipe with random weights to start from, a tiny network and two steps a stage."""
    stages = []
    for stage in recipe.stages:
        settings = stage.settings
        network = replace(settings.architecture, widths=(4, 8), blocks=(1, 1))
        small = replace(settings, **{**TINY, **changes}, architecture=network)
        stages.append(replace(stage, settings=small))
    return replace(recipe, start=None, stages=tuple(stages))


def synthetic_sources(settings):
    """Sources of two small synthetic molecules, one to train on and one to validate on."""
    return {
        split: Simulation(
            [from_structure(build_protein(seed))[:300]],
            settings.task,
            settings.noise_only,
            settings.typical,
            settings.variety,
        )
        for seed, split in enumerate(("train", "validation"))
    }
