"""RELION's 3D auto-refine with the enhancer as its external reconstruction program.

It needs scipion-em-relion; without it the protocol loads and says so.
"""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

from pwem import Domain
from pwem.protocols import ProtRefine3D
from pyworkflow.constants import NEW, PLUGIN_MODULE_VAR
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params

from deepemhancer_plugin.constants import MODEL_NAMES, RELION_SAMPLINGS
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import form as enhance_form
from deepemhancer_plugin.protocols.program import get_weights_option, validate_weights

INSTALL = (
    "install scipion-em-relion 4.0 or later with *scipion3 installp -p scipion-em-relion*, RELION "
    "itself with *scipion3 installb relion*, and start Scipion again."
)
MISSING = f"The plugin scipion-em-relion is not installed: {INSTALL}"

# RELION's modules look at its variables when they are imported.
Domain.getPlugins()
# Whatever is wrong with that plugin takes this protocol away, and no other.
try:
    from relion import Plugin as RelionPlugin
    from relion.protocols import ProtRelionRefine3D
except Exception as error:
    RelionPlugin, ProtRelionRefine3D = None, ProtRefine3D
    if getattr(error, "name", None) != "relion":
        MISSING = f"The plugin scipion-em-relion cannot be used ({error}): {INSTALL}"

HOOK_VARIABLE = "RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE"
RECONSTRUCT = "relion_external_reconstruct"
HOOK_SCRIPT = """#!/bin/bash
# RELION calls this for each half map of each iteration, with the star file that says what to do.
export DEEPEMHANCER_RELION_CONFIG={config}
{command} "$1"
"""


class ProtRelionRefineDeepEMhancer(ProtRelionRefine3D):
    """RELION's 3D auto-refine with DeepEMhancer as its regulariser.

    Once the refinement searches angles locally, each half map, on its own, is enhanced after each
    iteration, and the next iteration aligns the particles to the enhanced halves.

    The two halves never meet, and the resolution that RELION reports is measured before the
    enhancement. The map of the last iteration, and its half maps, are RELION's own
    reconstructions: only the orientations come from enhanced references.

    All other parameters, and the outputs, are those of RELION's 3D auto-refine.
    """

    _label = "RELION 3D auto-refine with enhancement"
    _devStatus = NEW

    def _defineParams(self, form):
        if RelionPlugin is None:
            form.addSection(label="Input")
            form.addParam(
                "relionMissing",
                params.LabelParam,
                important=True,
                label="scipion-em-relion is needed",
                help=MISSING,
            )
            return
        super()._defineParams(form)
        # A run that was not enhanced so far may be continued too.
        form.getParam("continueRun").pointerClass.set("ProtRelionRefine3D")
        form.addSection(label="DeepEMhancer")
        form.addParam(
            "enhanceFrom",
            params.EnumParam,
            choices=RELION_SAMPLINGS,
            default=4,
            label="Enhance from angular sampling (deg)",
            help="The half maps are enhanced in each iteration whose angular sampling is this "
            "one or finer.\n"
            "The coarse iterations before have no details that the network could recognise. "
            "1.8 degrees, where RELION's local searches begin, is the paper's choice; if "
            "you change *Local search from auto-sampling*, change this too.",
        )
        enhance_form.add_model(form, None)
        form.addParam(
            "enhancerGpus",
            params.StringParam,
            default="",
            label="GPUs of the enhancer",
            help="Numbers of GPUs, counted from 0 among those that are visible to the run: on "
            "one, the half maps take turns; of two, each takes one. -1: the CPU.\n"
            "Empty: the first GPU there is, else the CPU.",
        )

    def _insertFunctionStep(self, function, *arguments, **rest):
        # "Continue" runs a step again when one of its arguments was changed, and the refinement
        # depends on the enhancer's options.
        # RELION's plugin names its steps by method or, up to 4.0, by text.
        if getattr(function, "__name__", function) in ("runRelionStep", "createOutputStep"):
            arguments += (self._hookOptions(),)
        return super()._insertFunctionStep(function, *arguments, **rest)

    def _setBasicArgs(self, args):
        super()._setBasicArgs(args)
        args["--external_reconstruct"] = ""

    def _writeHook(self, options):
        """Write the script that RELION calls for its own program, and the script's options."""
        log = Path(self._hookLog()).absolute()
        log.unlink(missing_ok=True)
        options = {**options, "log": str(log), "reconstruct": self._relionProgram(RECONSTRUCT)}
        config = Path(self._getExtraPath("deepemhancer.toml")).absolute()
        config.write_text(
            "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
        )
        script = Path(self._hookScript())
        script.write_text(
            HOOK_SCRIPT.format(
                config=shlex.quote(str(config)),
                command=Plugin.getCommand(["relion"]),
            )
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def runRelionStep(self, params, options):
        """Run RELION.

        Args:
            params: RELION's command line.
            options: Options of the hook.

        Raises:
            PyworkflowException: The enhancement failed, or RELION never asked for it.
        """
        self._writeHook(options)
        try:
            super().runRelionStep(params)
        except subprocess.CalledProcessError as error:  # its message is the command
            failed = [call for call in self._calls() if call.get("error")]
            if not failed:
                raise
            raise PyworkflowException(
                f"RELION stopped because the enhancement failed: {failed[-1]['error']}"
            ) from error
        # RELION calls its external reconstruction in each iteration, or silently never.
        if not self._calls():
            raise PyworkflowException(
                "RELION never called the enhancer: this is a plain refinement. RELION 3.1 cannot "
                "continue a run with it that began without, and Blush regularisation takes its "
                "place."
            )

    def createOutputStep(self, *_):
        """Make RELION's outputs; the hook's options only decide when this step runs again."""
        super().createOutputStep()

    def runJob(self, program, arguments, **kwargs):
        """Run a program of RELION under `env`.

        So the hook is in the environment of each process, wherever and however mpirun starts it.
        """
        script = os.path.abspath(self._hookScript())
        # RELION hands the variable's value to a shell.
        hook = shlex.quote(f"{HOOK_VARIABLE}={shlex.quote(script)}")
        command = f"{hook} {shlex.quote(self._relionProgram(program))} {arguments}"
        super().runJob("env", command, **kwargs)

    def getSubmitDict(self):
        """Return what mpirun and the queue are told.

        A user's PARALLEL_COMMAND_RELION holds here too.
        """
        return {**super().getSubmitDict(), PLUGIN_MODULE_VAR: "relion"}

    def _hookOptions(self):
        """Return the options of `deepemhancer relion` that the form decides."""
        variant = MODEL_NAMES[self.modelType.get()]
        options = {
            "healpix_order": self.enhanceFrom.get(),
            "weights": get_weights_option(self, variant),
            "variant": variant,
        }
        if self._gpus():
            options["gpu"] = self._gpus()
        return options

    def _gpus(self):
        """Return the enhancer's GPUs as the hook's option; "" leaves the choice to it."""
        return self.enhancerGpus.get("").replace(" ", "")

    def _hookScript(self):
        return self._getExtraPath("deepemhancer_relion.sh")

    def _hookLog(self):
        return self._getExtraPath("deepemhancer.jsonl")

    def _relionProgram(self, name):
        """Return the path of a program of RELION.

        It is absolute, because processes on other machines may not have it on their path.
        """
        return shutil.which(name, path=self._getEnviron()["PATH"]) or name

    def _calls(self):
        """Return what the hook did so far, a dictionary for each call."""
        log = Path(self._hookLog())
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        # The last line may be half-written.
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    @classmethod
    def validateInstallation(cls):
        """List what is missing: scipion-em-relion, RELION, the inference environment."""
        if RelionPlugin is None:
            return [MISSING]
        return RelionPlugin.validateInstallation() + Plugin.validateInstallation()

    def _validate(self):
        if RelionPlugin is None:
            return []  # validateInstallation has said it
        errors = super()._validate() + validate_weights(self, MODEL_NAMES[self.modelType.get()])
        first = self.continueRun.get() if self.doContinue else self
        if first is not None and getattr(first, "useBlush", False):
            errors.append("*Blush regularisation* takes the place of the enhancement: choose No.")
        if not re.fullmatch(r"(-1|\d+(,\d+)*)?", self._gpus()):
            errors.append(
                f"*GPUs of the enhancer* {self.enhancerGpus.get()}: numbers such as 0 or 0,1 are "
                "right; -1 is the CPU."
            )
        if not os.path.exists(self._relionProgram(RECONSTRUCT)):
            errors.append(
                f"RELION's program {RECONSTRUCT} is not in {RelionPlugin.getHome('bin')}: RELION "
                "3.1 or later has it."
            )
        return errors

    def _warnings(self):
        if self.skipPadding:
            return [
                "*Skip padding* lets the solvent's level drift near the borders of a tight box: "
                "its noise cannot be told then, and may come out as density. Choose No, or a box "
                "twice the particle."
            ]
        return []

    def _summary(self):
        if RelionPlugin is None:
            return [MISSING]
        calls = [call for call in self._calls() if not call.get("error")]
        enhanced = [call for call in calls if call.get("enhanced")]
        left = sum("correlation" in call and not call["enhanced"] for call in calls)
        lines = list(super()._summary())
        if enhanced:
            iterations = [call["iteration"] for call in enhanced]
            lines.append(
                f"Half maps enhanced: {len(enhanced)}, in iterations {min(iterations)} to "
                f"{max(iterations)}"
            )
        else:
            lines.append("No half map enhanced yet.")
        if left:
            lines.append(
                "Half maps left to RELION, because the network took too much of them for noise: "
                f"{left}"
            )
        if enhanced:
            lines.append(f"Model: {enhanced[-1]['weights']} weights")
            lines.append(f"Device: {enhanced[-1]['device']}")
        return lines

    def _methods(self):
        return [
            "The particles were refined with RELION's 3D auto-refine [Scheres2012; Kimanius2016], "
            "with the half maps enhanced "
            "by DeepEMhancer [SanchezGarcia2021] in each iteration from an angular sampling of "
            f"{RELION_SAMPLINGS[self.enhanceFrom.get()]} degrees on [RamirezAportela2022]."
        ]

    def _citations(self):
        return ["Scheres2012", "Kimanius2016", "RamirezAportela2022", "SanchezGarcia2021"]
