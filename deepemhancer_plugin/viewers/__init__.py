"""Viewers of the plugin."""

from deepemhancer_plugin.viewers.viewer_enhance import DeepEMhancerViewer
from deepemhancer_plugin.viewers.viewer_localres import DeepResViewer

__all__ = ["DeepEMhancerViewer", "DeepResViewer"]
