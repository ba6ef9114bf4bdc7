"""Viewers of the plugin."""
from .viewer_enhance import DeepEMhancerViewer

__all__ = ["DeepEMhancerViewer"]
