"""Viewers of the plugin."""

from .viewer_enhance import DeepEMhancerViewer
from .viewer_localres import DeepResViewer

__all__ = ["DeepEMhancerViewer", "DeepResViewer"]
