"""Wizards of the plugin."""

from . import wizard_relion  # noqa: F401  (gives RELION's wizards to our protocol)
from .wizard_enhance import DeepEMhancerBatchWizard, DeepEMhancerMaskWizard, DeepEMhancerNoiseWizard

__all__ = ["DeepEMhancerBatchWizard", "DeepEMhancerMaskWizard", "DeepEMhancerNoiseWizard"]
