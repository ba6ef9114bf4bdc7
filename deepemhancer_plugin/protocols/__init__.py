"""Protocols of the plugin."""

from .protocol_enhance import ProtDeepEMhancer
from .protocol_localres import ProtDeepRes
from .protocol_relion import ProtRelionRefineDeepEMhancer

__all__ = ["ProtDeepEMhancer", "ProtDeepRes", "ProtRelionRefineDeepEMhancer"]
