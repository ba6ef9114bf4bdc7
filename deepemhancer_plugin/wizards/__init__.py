"""Wizards of the plugin."""

from deepemhancer_plugin.wizards import wizard_relion  # noqa: F401  (extends RELION's wizards)
from deepemhancer_plugin.wizards.wizard_enhance import (
    DeepEMhancerBatchWizard,
    DeepEMhancerMaskWizard,
    DeepEMhancerNoiseWizard,
)

__all__ = ["DeepEMhancerBatchWizard", "DeepEMhancerMaskWizard", "DeepEMhancerNoiseWizard"]
