"""Gives the wizards of RELION's 3D auto-refine to the refinement with the enhancer.

They find their parameters by the class of the protocol.
"""

from contextlib import suppress

from pyworkflow.wizard import Wizard

from deepemhancer_plugin.protocols.protocol_relion import (
    ProtRelionRefine3D,
    ProtRelionRefineDeepEMhancer,
    RelionPlugin,
)

wizards = None
if RelionPlugin is not None:
    # Those of an old or broken plugin take no wizard of ours away.
    with suppress(Exception):
        from relion import wizards

if wizards is not None:
    for wizard in vars(wizards).values():
        if isinstance(wizard, type) and issubclass(wizard, Wizard):
            wizard._targets = [
                *wizard._targets,
                *[
                    (ProtRelionRefineDeepEMhancer, names)
                    for cls, names in wizard._targets
                    if cls is ProtRelionRefine3D
                ],
            ]
