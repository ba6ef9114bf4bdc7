"""Protocols of the plugin."""

from deepemhancer_plugin.protocols.protocol_enhance import ProtDeepEMhancer
from deepemhancer_plugin.protocols.protocol_localres import ProtDeepRes
from deepemhancer_plugin.protocols.protocol_relion import ProtRelionRefineDeepEMhancer

__all__ = ["ProtDeepEMhancer", "ProtDeepRes", "ProtRelionRefineDeepEMhancer"]
