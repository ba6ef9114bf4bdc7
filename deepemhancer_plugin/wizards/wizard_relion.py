"""The wizards of RELION's 3D auto-refine for the refinement with the enhancer: they look their parameters up by the protocol's class."""

from pyworkflow.wizard import Wizard

from deepemhancer_plugin.protocols.protocol_relion import (
    ProtRelionRefine3D,
    ProtRelionRefineDeepEMhancer,
    RelionPlugin,
)

if RelionPlugin is not None:
    from relion import wizards

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
