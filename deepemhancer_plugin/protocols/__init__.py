"""Protocols of the plugin."""
from .protocol_enhance import ProtDeepEMhancer

__all__ = ["ProtDeepEMhancer"]
