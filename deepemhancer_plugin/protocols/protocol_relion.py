"""RELION's 3D auto-refine with the enhancer as its external reconstruction program. Needs scipion-em-relion, and loads without it."""

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
from pyworkflow.constants import PLUGIN_MODULE_VAR
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params

from deepemhancer_plugin.constants import MODEL_NAMES, RELION_SAMPLINGS
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import form as enhance_form
from deepemhancer_plugin.protocols.program import validateWeights, weightsOption

Domain.getPlugins()  # relion's modules look at its variables when they are imported
try:
    from relion import Plugin as RelionPlugin
    from relion.protocols import ProtRelionRefine3D
except ImportError:
    RelionPlugin, ProtRelionRefine3D = None, ProtRefine3D

MISSING = (
    "The plugin scipion-em-relion is not installed: install it with *scipion3 installp -p scipion-em-relion*, RELION itself with "
    "*scipion3 installb relion*, and start Scipion again."
)
HOOK = "RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE"
RECONSTRUCT = "relion_external_reconstruct"
HOOK_SCRIPT = """#!/bin/bash
# RELION calls this for each half map of each iteration, with the star file that says what to reconstruct.
unset PYTHONPATH PYTHONHOME
export DEEPEMHANCER_RELION_CONFIG={config}
{command} "$1"
"""


class ProtRelionRefineDeepEMhancer(ProtRelionRefine3D):
    """RELION's 3D auto-refine with DeepEMhancer as its regulariser: once the refinement searches angles locally, each half map, on
    its own, is enhanced after each iteration, and the next iteration aligns the particles to the enhanced halves.

    The two halves never meet, and the resolution that RELION reports is measured before the enhancement. The map of the last
    iteration, and its half maps, are RELION's own reconstructions: only the orientations come from enhanced references.

    All other parameters, and the outputs, are those of RELION's 3D auto-refine.
    """

    _label = "3D auto-refine with enhancement"

    # --------------------------- form
    def _defineParams(self, form):
        if RelionPlugin is None:
            form.addSection(label="Input")
            form.addParam(
                "relionMissing",
                params.LabelParam,
                important=True,
                label="scipion-em-relion is not installed",
                help=MISSING,
            )
            return
        super()._defineParams(form)
        form.getParam("continueRun").pointerClass.set(
            "ProtRelionRefine3D"
        )  # also one that was not enhanced so far
        form.addSection(label="DeepEMhancer")
        form.addParam(
            "enhanceFrom",
            params.EnumParam,
            choices=RELION_SAMPLINGS,
            default=4,
            label="Enhance from angular sampling (deg)",
            help="The half maps are enhanced in each iteration whose angular sampling is this one or finer.\n"
            "The coarse iterations before have no details that the network could recognise. 1.8 degrees, where RELION's "
            "local searches begin, is the paper's choice; if you change *Local search from auto-sampling*, change this too.",
        )
        enhance_form.model(form, None)
        form.addParam(
            "enhancerGpus",
            params.StringParam,
            default="",
            label="GPUs of the enhancer",
            help="Numbers of GPUs, counted from 0 among those that are visible to the run: on one, the half maps take turns; "
            "of two, each takes one. -1: the CPU.\n"
            "Empty: the first GPU there is, else the CPU.",
        )

    # --------------------------- steps
    def _insertFunctionStep(self, function, *arguments, **rest):
        # "Continue" runs a step again when an argument of its own was changed: the enhancer's options belong to those of the refinement.
        if function in (self.runRelionStep, self.createOutputStep):
            arguments += (self._hookOptions(),)
        return super()._insertFunctionStep(function, *arguments, **rest)

    def _setBasicArgs(self, args):
        super()._setBasicArgs(args)
        args["--external_reconstruct"] = ""

    def _writeHook(self, options):
        """Writes what RELION calls in the place of its own program, and the options of it."""
        Path(self._hookLog()).unlink(missing_ok=True)
        config = os.path.abspath(self._getExtraPath("deepemhancer.toml"))
        options = {
            **options,
            "log": os.path.abspath(self._hookLog()),
            "reconstruct": self._relionProgram(RECONSTRUCT),
        }
        with open(config, "w") as file:
            file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
        with open(self._hookScript(), "w") as file:
            file.write(
                HOOK_SCRIPT.format(
                    config=shlex.quote(config), command=Plugin.getCommand(["relion"])
                )
            )
        os.chmod(
            self._hookScript(),
            os.stat(self._hookScript()).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH,
        )

    def runRelionStep(self, params, options):
        self._writeHook(options)
        try:
            super().runRelionStep(params)
        except subprocess.CalledProcessError as error:  # its message is the command
            failed = [call for call in self._calls() if call.get("error")]
            if failed:
                raise PyworkflowException(
                    f"RELION stopped because the enhancement failed: {failed[-1]['error']}"
                ) from error
            raise
        if not self._calls():  # RELION calls its external reconstruction in each iteration, or does without it silently
            raise PyworkflowException(
                "RELION never called the enhancer: this is a plain refinement. RELION 3.1 cannot continue a run with it "
                "that began without, and Blush regularisation takes its place."
            )

    def createOutputStep(self, *_):
        super().createOutputStep()

    def runJob(self, program, arguments, **kwargs):
        """RELION under `env`, so that the hook is in the environment of each process wherever and however mpirun starts it."""
        hook = shlex.quote(
            f"{HOOK}={shlex.quote(os.path.abspath(self._hookScript()))}"
        )  # RELION hands it to a shell
        super().runJob(
            "env", f"{hook} {shlex.quote(self._relionProgram(program))} {arguments}", **kwargs
        )

    def getSubmitDict(self):
        """What mpirun and the queue are told; a user's PARALLEL_COMMAND_RELION holds here too."""
        return {**super().getSubmitDict(), PLUGIN_MODULE_VAR: "relion"}

    # --------------------------- the hook
    def _hookOptions(self):
        """The options of `deepemhancer relion` that the form decides."""
        variant = MODEL_NAMES[self.modelType.get()]
        options = {
            "healpix_order": self.enhanceFrom.get(),
            "weights": weightsOption(self, variant),
            "variant": variant,
        }
        return {**options, "gpu": self._gpus()} if self._gpus() else options

    def _gpus(self):
        return self.enhancerGpus.get("").replace(" ", "")

    def _hookScript(self):
        return self._getExtraPath("deepemhancer_relion.sh")

    def _hookLog(self):
        return self._getExtraPath("deepemhancer.jsonl")

    def _relionProgram(self, name):
        """Where a program of RELION is: absolute, because processes on other machines may not have it on their path."""
        return shutil.which(name, path=self._getEnviron()["PATH"]) or name

    def _calls(self):
        """What the hook did so far: a dictionary for each call."""
        if not os.path.exists(self._hookLog()):
            return []
        with open(self._hookLog()) as file:
            return [json.loads(line) for line in file if line.endswith("}\n")]

    # --------------------------- validation
    @classmethod
    def validateInstallation(cls):
        return (
            [MISSING]
            if RelionPlugin is None
            else RelionPlugin.validateInstallation() + Plugin.validateInstallation()
        )

    def _validate(self):
        if RelionPlugin is None:
            return []  # validateInstallation has said it
        errors = super()._validate() + validateWeights(self, MODEL_NAMES[self.modelType.get()])
        first = self.continueRun.get() if self.doContinue else self
        if first is not None and getattr(first, "useBlush", False):
            errors.append("*Blush regularisation* takes the place of the enhancement: choose No.")
        if not re.fullmatch(r"(-1|\d+(,\d+)*)?", self._gpus()):
            errors.append(
                f"*GPUs of the enhancer* {self.enhancerGpus.get()}: numbers such as 0 or 0,1 are right; -1 is the CPU."
            )
        if not os.path.exists(self._relionProgram(RECONSTRUCT)):
            errors.append(
                f"RELION's program {RECONSTRUCT} is not in {RelionPlugin.getHome('bin')}: RELION 3.1 or later has it."
            )
        return errors

    def _warnings(self):
        if self.skipPadding:
            return [
                "*Skip padding* lets the solvent's level drift near the borders of a tight box: its noise cannot be told then, and may come out "
                "as density. Choose No, or a box twice the particle."
            ]
        return []

    # --------------------------- what it says about itself
    def _summary(self):
        if RelionPlugin is None:
            return [MISSING]
        calls = [call for call in self._calls() if not call.get("error")]
        done = [call for call in calls if call.get("enhanced")]
        lost = sum("kept" in call and not call["enhanced"] for call in calls)
        left = (
            [
                f"Half maps left to RELION, because the network took too much of them for noise: {lost}"
            ]
            if lost
            else []
        )
        if not done:
            return [*super()._summary(), "No half map enhanced yet.", *left]
        iterations = sorted({call["iteration"] for call in done})
        return [
            *super()._summary(),
            f"Half maps enhanced: {len(done)}, in iterations {iterations[0]} to {iterations[-1]}",
            *left,
            f"Model: {done[-1]['weights']} weights",
            f"Device: {done[-1]['device']}",
        ]

    def _methods(self):
        return [
            "The particles were refined with RELION's 3D auto-refine, with the half maps enhanced by DeepEMhancer [SanchezGarcia2021] "
            f"in each iteration from an angular sampling of {RELION_SAMPLINGS[self.enhanceFrom.get()]} degrees on [RamirezAportela2022]."
        ]

    def _citations(self):
        return ["RamirezAportela2022", "SanchezGarcia2021"]
