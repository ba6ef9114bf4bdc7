"""The protocol: maps of a Scipion project -> `deepemhancer` in the inference environment -> enhanced maps of the project."""

import enum
import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import pyworkflow.utils as pwutils
from pwem.objects import SetOfVolumes, Volume
from pwem.protocols import ProtAnalysis3D
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol.constants import STEPS_PARALLEL

from deepemhancer_plugin.constants import (
    AVERAGES,
    MASKED_MODEL,
    MODEL_NAMES,
    NORMALIZATION_MASK,
    NORMALIZATION_STATS,
    WEIGHTS_OFFICIAL,
)
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import form as enhance_form
from deepemhancer_plugin.protocols import maps
from deepemhancer_plugin.protocols.program import RunsProgram, validateWeights, weightsOption


class Outputs(enum.Enum):
    Volume = Volume
    Volumes = SetOfVolumes


class Job(NamedTuple):
    """One map to enhance."""

    key: str  # "" for a single map, else the number of the item in the set: part of the file names
    volume: Volume  # has the sampling rate and the origin
    files: list  # [map] or [half 1, half 2], as (index, file name)


class ProtDeepEMhancer(RunsProgram, ProtAnalysis3D):
    """Enhances a cryo-EM map with DeepEMhancer: a neural network that sharpens each part of a map by what it recognises there
    and sets the solvent around the particle to zero.

    Input is a map or, better, the two half maps, straight from the refinement: not masked, not sharpened, not filtered.

    The enhanced map is for looking and for building. It is not a measurement: its amplitudes are what the network expects of a
    protein, so no resolution can be measured on it, and ligands, lipids, glycans and modified residues, which the network was not
    trained on, may be missing or wrong. Check each feature in the input map; refine and validate models against the half maps.
    """

    _label = "enhance map"
    _possibleOutputs = Outputs
    stepsExecutionMode = STEPS_PARALLEL

    # --------------------------- form
    def _defineParams(self, form):
        enhance_form.define(form)

    # --------------------------- steps
    def _insertAllSteps(self):
        # "Continue" runs a step again when an argument of its own was changed, so each gets all that its result depends on.
        # The maps are looked up once: the steps of a set run in threads, and the set's database belongs to this one.
        self._todo = {job.key: job for job in self._jobs()}
        enhanced = []
        for job in self._todo.values():
            arguments = job.key, job.files, self._maskSource()
            converted = self._insertFunctionStep(
                self.convertInputStep, *arguments, prerequisites=[], needsGPU=False
            )
            enhanced.append(
                self._insertFunctionStep(
                    self.deepVolPostProStep,
                    *arguments,
                    job.volume.getSamplingRate(),
                    self._options(),
                    prerequisites=[converted],
                    needsGPU=self.usesGpu(),
                )
            )
        self._insertFunctionStep(
            self.createOutputStep,
            [job.files for job in self._todo.values()],
            self._maskSource(),
            prerequisites=enhanced,
            needsGPU=False,
        )

    def convertInputStep(self, key, files, mask):
        """Links MRC files; converts what else pwem can read. Files: [index, file name] each."""
        pwutils.makePath(self._getTmpPath())
        for location, path in zip(files, self._inputPaths(key, len(files)), strict=True):
            maps.linkOrConvert(*location, path)
        if mask:
            index, name, threshold = mask
            maps.writeBinaryMask((index, name), self._maskPath(key), threshold)

    def deepVolPostProStep(self, key, files, mask, samplingRate, options):
        inputs = self._inputPaths(key, len(files))
        if not all(
            os.path.exists(path) for path in inputs
        ):  # a finished run cleans them away; "continue" needs them again
            self.convertInputStep(key, files, mask)
        output, report, log = (
            self._getExtraPath(f"enhanced{suffix(key)}.{ending}")
            for ending in ("mrc", "json", "log")
        )
        arguments = [
            "-i",
            inputs[0],
            *(["-i2", inputs[1]] if len(inputs) == 2 else []),
            "-o",
            output,
            "-s",
            f"{samplingRate:.8g}",
            *options,
            *self._gpuArguments(),
            "--report",
            report,
        ]
        if mask:
            arguments += ["-m", self._maskPath(key)]
        self._runProgram(arguments, log, output, report)
        maps.checkBox(output, inputs[0])
        maps.setOriginInFile(output, self._todo[key].volume)

    def createOutputStep(self, *_):
        volumes = []
        for job in self._todo.values():
            output = self._getExtraPath(f"enhanced{suffix(job.key)}.mrc")
            if not os.path.exists(output):
                raise PyworkflowException(f"{output} does not exist: run the protocol again.")
            volumes.append(
                maps.volumeLike(
                    output,
                    job.volume,
                    f"enhanced {os.path.basename(maps.clean(job.volume.getFileName()))}",
                )
            )
        if self.isSet():
            result = self._createSetOfVolumes()
            result.copyInfo(self.inputVolume.get())
            for key, volume in zip(self._todo, volumes, strict=True):
                volume.setObjId(int(key))
                result.append(volume)
        else:
            result = volumes[0]
        self._defineOutputs(**{(Outputs.Volumes if self.isSet() else Outputs.Volume).name: result})
        for name in self._mapParams():
            self._defineTransformRelation(getattr(self, name), result)
        if self.normalization == NORMALIZATION_MASK:
            self._defineSourceRelation(self.inputMask, result)

    # --------------------------- what is to be done
    def isSet(self):
        """True where the input is a set of volumes, and so the output."""
        return not self.separateHalves() and isinstance(self.inputVolume.get(), SetOfVolumes)

    def separateHalves(self):
        """True where the half maps are chosen one by one instead of being attached to the volume."""
        return self.useHalfMapsInsteadVol.get() and not self.halfMapsAttached.get()

    def _mapParams(self):
        """Names of the parameters that point at the input maps."""
        return ["inputHalf1", "inputHalf2"] if self.separateHalves() else ["inputVolume"]

    def _jobs(self):
        """The maps to enhance, one Job each."""
        if self.separateHalves():
            halves = [self.inputHalf1.get(), self.inputHalf2.get()]
            return [Job("", halves[0], [maps.location(half) for half in halves])]
        if self.isSet():
            volumes = [volume.clone() for volume in self.inputVolume.get().iterItems(iterate=False)]
            return [
                Job(str(volume.getObjId()), volume, self._filesOf(volume)) for volume in volumes
            ]
        return [Job("", self.inputVolume.get(), self._filesOf(self.inputVolume.get()))]

    def _filesOf(self, volume):
        if self.useHalfMapsInsteadVol:
            return [[0, maps.clean(half)] for half in volume.getHalfMaps(asList=True)]
        return [maps.location(volume)]

    def getInputFiles(self, key=""):
        """The map, or the two half maps, that became the enhanced map of this key, as [index, file name] each."""
        return next(job.files for job in self._jobs() if job.key == key)

    def _maskSource(self):
        if self.normalization != NORMALIZATION_MASK:
            return None
        return [*maps.location(self.inputMask.get()), self.maskThreshold.get()]

    def _inputPaths(self, key, count):
        names = ["inputVol"] if count == 1 else ["inputHalf1", "inputHalf2"]
        return [self._getTmpPath(f"{name}{suffix(key)}.mrc") for name in names]

    def _maskPath(self, key):
        return self._getTmpPath(f"inputMask{suffix(key)}.mrc")

    def _modelName(self):
        """The variant of the network, as the command line and the checkpoints call it."""
        return MODEL_NAMES[self.modelType.get()]

    def _options(self):
        """Command line options that the form decides, as a list of strings."""
        options = (
            ["-b", str(self.batch_size.get())] if self.usesGpu() else []
        )  # on the CPU the program knows better
        if self.weights == WEIGHTS_OFFICIAL:
            options += ["--deepLearningModelPath", str(Plugin.getCheckpointsFolder())]
        else:
            options += ["--weights", weightsOption(self, self._modelName())]
        if self.normalization != NORMALIZATION_MASK:
            options += ["-p", self._modelName()]
        if self.normalization == NORMALIZATION_STATS:
            options += ["--noiseStats", repr(self.noiseMean.get()), repr(self.noiseStd.get())]
        if self.performCleaningStep:
            options += ["--cleaningStrength", repr(self.sizeFraction_CC.get())]
        if self._symmetry() != "C1":
            options += ["--sym", self._symmetry()]
        elif self.helicalRise.get() is not None:
            options += ["--helical", repr(self.helicalRise.get()), repr(self.helicalTwist.get())]
        if self.averageOver.get():
            options += ["--average", str(AVERAGES[self.averageOver.get()])]
        if self.useHalfMapsInsteadVol and self.checkTrust:
            options += ["--trust"]
        return options

    def _symmetry(self):
        """The point group as the program calls it."""
        return (self.symmetryGroup.get() or "C1").strip().upper()

    # --------------------------- validation
    def _validate(self):
        errors = self._validateGpu() + [
            f"*{self.getParam(name).label.get()}* is empty: choose a volume."
            for name in self._mapParams()
            if getattr(self, name).get() is None
        ]
        if errors:
            return errors
        errors = self._validateMaps()
        variant = MASKED_MODEL if self.normalization == NORMALIZATION_MASK else self._modelName()
        return (
            errors
            + self._validateNormalization(errors)
            + self._validateSymmetry()
            + validateWeights(self, variant)
        )

    def _validateMaps(self):
        errors = []
        if self.separateHalves():
            volumes = [self.inputHalf1.get(), self.inputHalf2.get()]
        else:
            volumes = (
                [self.inputVolume.get()]
                if not self.isSet()
                else [volume.clone() for volume in self.inputVolume.get()]
            )
        for volume in volumes:
            errors += maps.validateVolume(volume)
            if self.useHalfMapsInsteadVol and not self.separateHalves():
                errors += maps.validateAttachedHalves(volume)
        if self.separateHalves():
            one, two = volumes
            if maps.location(one) == maps.location(two):
                errors.append(
                    "*Half map 1* and *Half map 2* are the same map: choose the two halves."
                )
            errors += maps.sameGeometry(one, two, "Half map 1", "Half map 2")
        if not volumes:
            errors.append("*Input volume(s)*: the set is empty.")
        return errors

    def _validateNormalization(self, mapErrors):
        if self.normalization == NORMALIZATION_MASK:
            if self.inputMask.get() is None:
                return ["*Mask* is empty: choose a mask, or another *Input normalization*."]
            if not math.isfinite(self.maskThreshold.get(math.nan)):
                return ["*Mask threshold* must be a number."]
            errors = []
            for job in [] if mapErrors else self._jobs():
                errors += maps.sameGeometry(
                    job.volume, self.inputMask.get(), "Input volume", "Mask"
                )
            return errors[:1]
        if self.normalization == NORMALIZATION_STATS:
            errors = []
            if not math.isfinite(self.noiseMean.get(math.nan)):
                errors.append("*Noise mean* must be a number; the wizard beside it measures it.")
            if not 0 < self.noiseStd.get(0) < math.inf:
                errors.append(
                    "*Noise standard deviation* must be a number greater than 0; the wizard beside it measures it."
                )
            return errors
        return []

    def _validateSymmetry(self):
        if not re.fullmatch(r"[CD][1-9]\d*|T|O|I[1-4]?", self._symmetry()):
            return [
                f"*Symmetry* {self.symmetryGroup.get()}: cn, dn (n a number), t, o, i, i1, i2, i3 or i4 is right."
            ]
        rise, twist = self.helicalRise.get(), self.helicalTwist.get()
        if (
            self._symmetry() == "C1"
            and (rise, twist) != (None, None)
            and not ((rise or 0) > 0 and abs(math.inf if twist is None else twist) <= 180)
        ):
            return [
                "*Helix*: a rise greater than 0 A and a twist from -180 to 180 degrees are right, or both empty."
            ]
        return []

    # --------------------------- what it says about itself
    def _reports(self):
        """The JSON reports of the maps that are done, as [(name, dict)]."""
        paths = sorted(Path(self._getExtraPath()).glob("enhanced*.json"))
        return [
            (path.stem.removeprefix("enhanced").lstrip("_"), json.loads(path.read_text()))
            for path in paths
        ]

    def _summary(self):
        reports = self._reports()
        if not reports:
            return ["No map enhanced yet."]
        lines = []
        for name, report in reports:
            lines += [f"*Volume {name}*"] if name else []
            lines += summaryOf(report)
        return lines

    def _methods(self):
        reports = self._reports()
        if not reports:
            return []
        report = reports[0][1]
        subject = f"{len(reports)} maps were" if len(reports) > 1 else "The map was"
        source = (
            "the mean of the two half maps"
            if self.useHalfMapsInsteadVol
            else "the unmasked, unsharpened map"
        )
        return [
            f"{subject} enhanced with DeepEMhancer [SanchezGarcia2021] ({weightsOf(report)}; scipion-em-deepemhancer "
            f"{report.get('version', '')}) from {source}, normalised by {self._normalizationText(report)}."
        ]

    def _normalizationText(self, report):
        if self.normalization == NORMALIZATION_MASK:
            return "a mask of the protein"
        noise = report["noise"]
        where = {
            "half maps": "noise measured on the difference of the half maps",
            "shell": "noise measured around the particle",
            "zone": "noise estimated in a map without solvent",
        }.get(noise.get("source"), "given noise statistics")
        return f"{where} ({noiseNumbers(noise)})"

    def _citations(self):
        return ["SanchezGarcia2021", "Jakobi2017"]


def suffix(key):
    return f"_{key}" if key else ""


# --------------------------- the report in words
def weightsOf(report):
    weights = report.get("weights") or {}
    return f"{weights.get('name', 'unknown')}, {weights.get('kind', 'unknown')} weights"


def noiseNumbers(noise):
    return f"mean {noise['mean']:.4g}, standard deviation {noise['std']:.4g}"


def summaryOf(report):
    """The report of one map as lines for the summary."""
    lines = [
        f"Model: {weightsOf(report)}",
        f"Device: {report.get('device', 'unknown')}{_precision(report)}",
    ]
    noise = report.get("noise") or {}
    if noise.get("std") is not None:
        lines.append(f"Noise: {noiseNumbers(noise)} (from {noise.get('source', 'unknown')})")
    if report.get("noise_anisotropy"):
        lines.append(
            f"Noise's power in the worst direction of views over that in the best: {report['noise_anisotropy']:.1f}"
        )
    removed = report.get("cleaning")
    if removed:
        lines.append(
            f"Removed: {removed['components']} islands, {removed['voxels']} voxels, {removed['volume']:.0f} cubic A"
        )
    if report.get("input_ends_at"):
        lines.append(
            f"Input ends at {report['input_ends_at']:.1f} A, low-passed: so does the enhanced map"
        )
    if report.get("symmetry_correlation") is not None:
        lines.append(
            f"Symmetry: correlation of the copies before the average at least {report['symmetry_correlation']:.2f}"
        )
    if report.get("trust"):
        lines.append(f"Against the half maps: {report['trust']['verdict']}")
    lines += [f"*Warning*: {warning}" for warning in report.get("warnings") or []]
    return lines


def _precision(report):
    return f", {report['precision']}" if report.get("precision") else ""
