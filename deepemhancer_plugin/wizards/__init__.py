"""Wizards of the plugin."""
from .wizard_enhance import DeepEMhancerBatchWizard, DeepEMhancerMaskWizard, DeepEMhancerNoiseWizard

__all__ = ["DeepEMhancerBatchWizard", "DeepEMhancerMaskWizard", "DeepEMhancerNoiseWizard"]
