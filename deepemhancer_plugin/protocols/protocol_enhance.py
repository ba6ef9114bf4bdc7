"""The protocol that enhances maps: it runs `deepemhancer` in the inference environment."""

import enum
import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import pyworkflow.utils as pwutils
from pwem.objects import FSC, EMObject, SetOfFSCs, SetOfVolumes, Volume
from pwem.protocols import ProtAnalysis3D
from pyworkflow.constants import NEW
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Set
from pyworkflow.protocol.constants import STEPS_PARALLEL

from deepemhancer_plugin.constants import (
    AVERAGES,
    MASKED_MODEL,
    MODEL_HIGHRES,
    MODEL_NAMES,
    MODEL_TIGHT,
    MODEL_WIDE,
    NORMALIZATION_AUTO,
    NORMALIZATION_MASK,
    NORMALIZATION_STATS,
    WEIGHTS_OFFICIAL,
)
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import advice, maps
from deepemhancer_plugin.protocols import form as enhance_form
from deepemhancer_plugin.protocols.program import (
    ProgramProtocol,
    get_weights_option,
    validate_weights,
)


class Outputs(enum.Enum):
    """Outputs of the protocol, by their names."""

    Volume = Volume
    Volumes = SetOfVolumes
    outputFSC = SetOfFSCs  # as Scipion's other protocols call it


# Curves of the report and what they are called
FSC_CURVES = {
    "unmasked": "unmasked",
    "masked": "masked",
    "randomised": "masked, phases randomised",
    "corrected": "corrected for the mask",
}


# Parameters that an exported protocol of Xmipp has and those that it has not
XMIPP_PARAMETERS = {"useHalfMapsInsteadVol", "normalization", "modelType", "sizeFraction_CC"}
OWN_PARAMETERS = {"weights", "maskThreshold", "useGpu"}

# Protocols whose maps are enhanced already: this one, and Xmipp's
ENHANCERS = ("ProtDeepEMhancer", "XmippProtDeepVolPostProc")


class Job(NamedTuple):
    """One map to enhance.

    Attributes:
        key: Number of the volume in the set, as text and part of the file names; "" for a map.
        volume: Volume that has the sampling rate and the origin.
        files: [map] or [half 1, half 2], each as [index, file name].
    """

    key: str
    volume: Volume
    files: list


class ProtDeepEMhancer(ProgramProtocol, ProtAnalysis3D):
    """Enhances a cryo-EM map with DeepEMhancer.

    A neural network sharpens each part of a map by what it recognises there, and sets the solvent
    around the particle to zero.

    Input is a map or, better, the two half maps, straight from the refinement: not masked, not
    sharpened, not filtered.

    The enhanced map is for looking and for building. It is not a measurement: its amplitudes are
    what the network expects of a protein, so no resolution can be measured on it, and ligands,
    lipids, glycans and modified residues, which the network was not trained on, may be missing or
    wrong. Check each feature in the input map; refine and validate models against the half maps.
    """

    _label = "enhance map (deepEMhancer)"
    _devStatus = NEW
    _possibleOutputs = Outputs
    stepsExecutionMode = STEPS_PARALLEL

    # As Xmipp's protocol calls its values, for scripts that use them
    NORMALIZATION_AUTO = NORMALIZATION_AUTO
    NORMALIZATION_STATS = NORMALIZATION_STATS
    NORMALIZATION_MASK = NORMALIZATION_MASK
    NORMALIZATION_OPTIONS = enhance_form.NORMALIZATION_CHOICES
    TIGHT_MODEL = MODEL_TIGHT
    WIDE_MODEL = MODEL_WIDE
    HI_RES = MODEL_HIGHRES
    MODEL_TARGET_OPTIONS = enhance_form.MODEL_CHOICES

    def _defineParams(self, form):
        enhance_form.add_parameters(form)

    def processImportDict(self, importDict, importDir):
        """Choose the official weights for a workflow of Xmipp whose class name was changed.

        Args:
            importDict: Parameters of the workflow's file.
            importDir: Folder of that file.

        Returns:
            The parameters to use.
        """
        names = set(importDict)
        if XMIPP_PARAMETERS <= names and not OWN_PARAMETERS & names:
            return {**importDict, "weights": WEIGHTS_OFFICIAL}
        return importDict

    def _insertAllSteps(self):
        self._todo = {}  # Jobs by their keys
        self._enhancing = {}  # numbers of the steps that enhance them
        self._added = set()  # keys of the volumes in the output set
        if self._isGrowing():
            self._readInputSet()
        self._insertMapSteps(self._jobs())
        self._insertOutputStep()

    def _insertMapSteps(self, jobs):
        """Insert the steps that enhance some maps."""
        # "Continue" runs a step again when one of its arguments was changed, so each step gets
        # all that its result depends on. The maps are looked up once: the steps of a set run in
        # threads, and the set's database belongs to this one.
        for job in jobs:
            self._todo[job.key] = job
            arguments = job.key, job.files, self._maskSource()
            converted = self._insertFunctionStep(
                self.convertInputStep, *arguments, prerequisites=[], needsGPU=False
            )
            self._enhancing[job.key] = self._insertFunctionStep(
                self.deepVolPostProStep,
                *arguments,
                job.volume.getSamplingRate(),
                self._options(),
                prerequisites=[converted],
                needsGPU=self.usesGpu(),
            )

    def _insertOutputStep(self):
        """Insert the last step; it waits as long as the input grows."""
        self._insertFunctionStep(
            self.createOutputStep,
            [job.files for job in self._todo.values()],
            self._maskSource(),
            prerequisites=list(self._enhancing.values()),
            wait=self._isGrowing(),
            needsGPU=False,
        )

    def _stepsCheck(self):
        # pyworkflow calls this every few seconds, and after a failure once more.
        if self.isFailed() or not self._steps[-1].isWaiting():
            return
        self._readInputSet()
        jobs = [job for job in self._jobs() if job.key not in self._todo]
        if jobs or not self._isGrowing():
            # "Continue" compares the steps by their order, so the last one stays the last.
            self._steps.pop()
            self._insertMapSteps(jobs)
            self._insertOutputStep()
            self.updateSteps()
        finished = self._listFinished()
        if finished:
            result = self._extendOutput(finished)
            self._updateOutputSet(Outputs.Volumes.name, result, Set.STREAM_OPEN)

    def _isGrowing(self):
        """Tell whether the input is a set that gets more volumes."""
        return self.isSet() and self.inputVolume.get().isStreamOpen()

    def _readInputSet(self):
        """Read from its file how many volumes the input set has now, and whether it grows."""
        volumes = self.inputVolume.get()
        volumes.close()
        volumes.load()
        # Before the volumes: none is added once the set is closed.
        state = volumes.getProperty("_streamState", volumes.getStreamState())
        volumes.setStreamState(int(state))

    def _listFinished(self):
        """Return the keys of the volumes that are enhanced and not in the output set yet."""
        return [
            key
            for key, step in self._enhancing.items()
            if key not in self._added and self._steps[step - 1].isFinished()
        ]

    def _extendOutput(self, keys):
        """Return the output set with more volumes; the first ones of a run begin a new set."""
        if self._added:
            result = SetOfVolumes(filename=getattr(self, Outputs.Volumes.name).getFileName())
            result.loadAllProperties()
            result.enableAppend()
        else:
            result = self._createSetOfVolumes()
            result.copyInfo(self.inputVolume.get())
        for key in keys:
            volume = self._makeOutput(self._todo[key])
            volume.setObjId(int(key))
            result.append(volume)
        self._added.update(keys)
        return result

    def convertInputStep(self, key, files, mask):
        """Link MRC files; convert what else pwem can read.

        Args:
            key: Key of the Job.
            files: Its maps, each as [index, file name].
            mask: [index, file name, threshold], or None.
        """
        # A volume that was added during the run has not been looked at yet.
        errors = self._validateVolume(self._todo[key].volume) if self.isSet() else []
        if errors:
            raise PyworkflowException(" ".join(errors))
        pwutils.makePath(self._getTmpPath())
        for location, path in zip(files, self._inputPaths(key, len(files))):
            maps.link_or_convert(*location, path)
        if mask:
            index, name, threshold = mask
            maps.write_binary_mask(index, name, self._maskPath(key), threshold)

    def deepVolPostProStep(self, key, files, mask, samplingRate, options):
        """Enhance one map.

        Args:
            key: Key of the Job.
            files: Its maps, each as [index, file name].
            mask: [index, file name, threshold], or None.
            samplingRate: A/voxel.
            options: What the form adds to the command line, a list of strings.
        """
        inputs = self._inputPaths(key, len(files))
        # A finished run removes them; "continue" needs them again.
        if not all(os.path.exists(path) for path in inputs):
            self.convertInputStep(key, files, mask)
        output, report, log = (
            self._getExtraPath(f"enhanced{make_suffix(key)}.{ending}")
            for ending in ("mrc", "json", "log")
        )
        arguments = ["-i", inputs[0], "-o", output, "-s", f"{samplingRate:.8g}", *options]
        if len(inputs) == 2:
            arguments += ["-i2", inputs[1], "--fsc"]
        if mask:
            arguments += ["-m", self._maskPath(key)]
        arguments += [*self._gpuArguments(), "--report", report]
        self._runProgram(arguments, log, output, report)
        maps.check_box(output, inputs[0])
        maps.write_origin(output, self._todo[key].volume)

    def createOutputStep(self, *_):
        """Make the outputs, and say what they were made from."""
        if not self._todo:
            raise PyworkflowException("*Input volume(s)*: the set was closed, and is empty.")
        if self.isSet():
            name, grown = Outputs.Volumes.name, bool(self._added)
            result = self._extendOutput(self._listFinished())
        else:
            name, grown = Outputs.Volume.name, False
            result = self._makeOutput(*self._todo.values())
        outputs = {name: result}
        curves = self._makeFscs()
        if curves:
            outputs[Outputs.outputFSC.name] = curves
        if grown:
            self._updateOutputSet(name, outputs.pop(name), Set.STREAM_CLOSED)
            result = getattr(self, name)
        self._defineOutputs(**outputs)
        for parameter in self._mapParams():
            self._defineTransformRelation(getattr(self, parameter), result)
            if curves:
                self._defineSourceRelation(getattr(self, parameter), curves)
        if self.normalization == NORMALIZATION_MASK:
            self._defineSourceRelation(self.inputMask, result)

    def _makeOutput(self, job):
        """Return the enhanced Volume of a Job."""
        output = self._getExtraPath(f"enhanced{make_suffix(job.key)}.mrc")
        if not os.path.exists(output):
            raise PyworkflowException(f"{output} does not exist: run the protocol again.")
        name = os.path.basename(maps.strip_format(job.volume.getFileName()))
        return maps.make_volume(output, job.volume, f"enhanced {name}")

    def _makeFscs(self):
        """Return the FSC curves of the half maps as a SetOfFSCs; None without half maps."""
        found = [(key, self.getFsc(key)) for key in self._todo]
        found = [(key, curves) for key, curves in found if curves]
        if not found:
            return None
        result = self._createSetOfFSCs()
        for key, curves in found:
            for name, label in FSC_CURVES.items():
                if name not in curves:
                    continue
                item = FSC(objLabel=f"volume {key}, {label}" if key else label)
                item.setData(curves["frequency"], curves[name])
                result.append(item)
        result.write()
        return result

    def getFsc(self, key=""):
        """Return the FSC curves of the half maps of a volume.

        Args:
            key: Number of the volume in the set, as text; "" for a single map.

        Returns:
            A dictionary with the "frequency" in 1/A, those of FSC_CURVES that there are, and the
            "resolution" in A; {} without half maps.
        """
        path = Path(self._getExtraPath(f"enhanced{make_suffix(key)}.json"))
        return (json.loads(path.read_text()).get("fsc") or {}) if path.exists() else {}

    def countJobs(self):
        """Return how many maps the run has; of a set that grows, at least as many as threads."""
        size = self.inputVolume.get().getSize() if self.isSet() else 1
        return max(1, size, self.getScipionThreads() if self._isGrowing() else 1)

    def isSet(self):
        """Tell whether the input is a set of volumes, and so the output."""
        return not self.separateHalves() and isinstance(self.inputVolume.get(), SetOfVolumes)

    def separateHalves(self):
        """Tell whether the half maps are chosen one by one, not attached to the volume."""
        return self.useHalfMapsInsteadVol.get() and not self.halfMapsAttached.get()

    def _mapParams(self):
        """Return the names of the parameters that point at the input maps."""
        return ["inputHalf1", "inputHalf2"] if self.separateHalves() else ["inputVolume"]

    def hasInput(self):
        """Tell whether all input maps are chosen."""
        return all(getattr(self, name).get() is not None for name in self._mapParams())

    def getSingleInput(self):
        """Return what a run on one map, not a set, will read.

        Returns:
            The Volume that has the sampling rate, and the map or the half maps, each as
            [index, file name].
        """
        (job,) = self._jobs()
        return job.volume, job.files

    def _jobs(self):
        """List the maps to enhance, as Jobs."""
        if self.separateHalves():
            halves = [self.inputHalf1.get(), self.inputHalf2.get()]
            return [Job("", halves[0], [maps.get_location(half) for half in halves])]
        if self.isSet():
            volumes = [volume.clone() for volume in self.inputVolume.get().iterItems(iterate=False)]
            return [
                Job(str(volume.getObjId()), volume, self._filesOf(volume)) for volume in volumes
            ]
        return [Job("", self.inputVolume.get(), self._filesOf(self.inputVolume.get()))]

    def _filesOf(self, volume):
        """Return what is enhanced of a Volume: [map] or [half 1, half 2]."""
        if self.useHalfMapsInsteadVol:
            return [[0, half] for half in maps.get_half_maps(volume)]
        return [maps.get_location(volume)]

    def getInputFiles(self, key=""):
        """Return the map, or the half maps, that were enhanced.

        Args:
            key: Number of the volume in the set, as text; "" for a single map.

        Returns:
            A list of [index, file name].
        """
        return next(job.files for job in self._jobs() if job.key == key)

    def _maskSource(self):
        """Return the mask as [index, file name, threshold], or None."""
        if self.normalization != NORMALIZATION_MASK:
            return None
        return [*maps.get_location(self.inputMask.get()), self.maskThreshold.get()]

    def _inputPaths(self, key, count):
        """Return the paths of the program's input maps."""
        names = ["inputVol"] if count == 1 else ["inputHalf1", "inputHalf2"]
        return [self._getTmpPath(f"{name}{make_suffix(key)}.mrc") for name in names]

    def _maskPath(self, key):
        return self._getTmpPath(f"inputMask{make_suffix(key)}.mrc")

    def _modelName(self):
        """Return the variant of the network as the command line calls it."""
        return MODEL_NAMES[self.modelType.get()]

    def _options(self):
        """Return the command line options that the form decides, as a list of strings."""
        # On the CPU the program chooses the batch size.
        options = ["-b", str(self.batch_size.get())] if self.usesGpu() else []
        if self.weights == WEIGHTS_OFFICIAL:
            options += ["--deepLearningModelPath", str(Plugin.getCheckpointsFolder())]
        else:
            options += ["--weights", get_weights_option(self, self._modelName())]
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
        """Return the point group as the program calls it."""
        return (self.symmetryGroup.get() or "C1").strip().upper()

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
            + validate_weights(self, variant)
        )

    def _validateMaps(self):
        """List what is wrong with the input maps."""
        errors = []
        if self.separateHalves():
            volumes = [self.inputHalf1.get(), self.inputHalf2.get()]
        else:
            volumes = [self.inputVolume.get()]
        if self.isSet():
            volumes = [volume.clone() for volume in self.inputVolume.get()]
        for volume in volumes:
            errors += self._validateVolume(volume)
        if self.separateHalves():
            one, two = volumes
            if maps.get_location(one) == maps.get_location(two):
                errors.append(
                    "*Half map 1* and *Half map 2* are the same map: choose the two halves."
                )
            errors += maps.validate_geometry(one, two, "Half map 1", "Half map 2")
        if not volumes and not self._isGrowing():
            errors.append("*Input volume(s)*: the set is empty.")
        return errors

    def _validateVolume(self, volume):
        """List what is wrong with an input Volume, and with the half maps that are used of it."""
        errors = maps.validate_volume(volume)
        if self.useHalfMapsInsteadVol and not self.separateHalves():
            errors += maps.validate_half_maps(volume)
        return errors

    def _validateNormalization(self, mapErrors):
        """List what is wrong with the normalization; masks are compared with valid maps only."""
        if self.normalization == NORMALIZATION_MASK:
            if self.inputMask.get() is None:
                return ["*Mask* is empty: choose a mask, or another *Input normalization*."]
            if not math.isfinite(self.maskThreshold.get(math.nan)):
                return ["*Mask threshold* must be a number."]
            errors = []
            for job in [] if mapErrors else self._jobs():
                errors += maps.validate_geometry(
                    job.volume, self.inputMask.get(), "Input volume", "Mask"
                )
            return errors[:1]
        if self.normalization == NORMALIZATION_STATS:
            errors = []
            if not math.isfinite(self.noiseMean.get(math.nan)):
                errors.append("*Noise mean* must be a number; the wizard beside it measures it.")
            if not 0 < self.noiseStd.get(0) < math.inf:
                errors.append(
                    "*Noise standard deviation* must be a number greater than 0; the wizard "
                    "beside it measures it."
                )
            return errors
        return []

    def _validateSymmetry(self):
        """List what is wrong with the point group and the helix."""
        if not re.fullmatch(r"[CD][1-9]\d*|T|O|I[1-4]?", self._symmetry()):
            return [
                f"*Symmetry* {self.symmetryGroup.get()}: cn, dn (n a number), t, o, i, i1, i2, i3 "
                "or i4 is right."
            ]
        rise, twist = self.helicalRise.get(), self.helicalTwist.get()
        if (
            self._symmetry() == "C1"
            and (rise, twist) != (None, None)
            and not ((rise or 0) > 0 and abs(math.inf if twist is None else twist) <= 180)
        ):
            return [
                "*Helix*: a rise greater than 0 A and a twist from -180 to 180 degrees are right, "
                "or both empty."
            ]
        return []

    def _warnings(self):
        if not self.hasInput():
            return []
        jobs = self._jobs()
        if not jobs:
            return []
        first, files = jobs[0].volume, jobs[0].files  # of a set, the first stands for all
        attached = [[0, half] for half in maps.get_half_maps(first)]
        halves = files if len(files) == 2 else attached if len(attached) == 2 else []
        rate = first.getSamplingRate()
        found = []
        if len(files) == 1 and len(attached) == 2:
            found.append(
                "*Use half maps?* is No, but the volume has its half maps attached: choose Yes. "
                "With them the noise is measured, not guessed."
            )
        found += advice.warn_about_sampling(rate)
        if self.modelType == MODEL_HIGHRES and self.normalization != NORMALIZATION_MASK:
            found += advice.warn_about_resolution(rate, halves)
        if self._isEnhanced():
            found.append(
                "The input is an enhanced map already. The networks are made for maps as they come "
                "from the refinement."
            )
        else:
            for location in files:
                found += advice.warn_about_mask(*location)
        return found

    def _isEnhanced(self):
        """Tell whether an input is the output of an enhancement."""
        for name in self._mapParams():
            source = getattr(self, name).getObjValue()
            # The pointer holds the run that made the map, or, from a script, the map itself.
            if isinstance(source, EMObject) and self.getProject() is not None:
                source = self.getProject().getProtocol(source.getObjParentId())
            if source is not None and source.getClassName() in ENHANCERS:
                return True
        return False

    def _reports(self):
        """Return the JSON reports of the maps that are done, as (number in the set, dict)."""
        paths = sorted(Path(self._getExtraPath()).glob("enhanced*.json"))
        return [
            (path.stem[len("enhanced") :].lstrip("_"), json.loads(path.read_text()))
            for path in paths
        ]

    def _summary(self):
        reports = self._reports()
        if not reports:
            return ["No map enhanced yet."]
        lines = []
        for name, report in reports:
            lines += [f"*Volume {name}*"] if name else []
            lines += summarize_report(report)
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
            f"{subject} enhanced with DeepEMhancer [SanchezGarcia2021] "
            f"({describe_weights(report)}; scipion-em-deepemhancer {report.get('version', '')}) "
            f"from {source}, normalised by {self._normalizationText(report)}."
        ]

    def _normalizationText(self, report):
        """Say in words what the map was normalised by."""
        noise = report.get("noise")
        if not noise:
            return "a mask of the protein"
        source = {
            "outside the mask": "noise measured outside a mask of the protein",
            "half maps": "noise measured on the difference of the half maps",
            "shell": "noise measured around the particle",
            "zone": "noise estimated in a map without solvent",
        }.get(noise.get("source"), "given noise statistics")
        masked = " and masked" if self.normalization == NORMALIZATION_MASK else ""
        return f"{source} ({describe_noise(noise)}){masked}"

    def _citations(self):
        return ["SanchezGarcia2021", "Jakobi2017"]


def make_suffix(key):
    """Return the part of the file names that tells the volumes of a set apart."""
    return f"_{key}" if key else ""


def describe_weights(report):
    """Name the network of a report."""
    weights = report.get("weights") or {}
    return f"{weights.get('name', 'unknown')}, {weights.get('kind', 'unknown')} weights"


def describe_noise(noise):
    """Put the noise statistics of a report into words."""
    return f"mean {noise['mean']:.4g}, standard deviation {noise['std']:.4g}"


def summarize_report(report):
    """Return the report of one map as lines for the summary."""
    precision = f", {report['precision']}" if report.get("precision") else ""
    lines = [
        f"Model: {describe_weights(report)}",
        f"Device: {report.get('device', 'unknown')}{precision}",
    ]
    noise = report.get("noise") or {}
    if noise.get("std") is not None:
        lines.append(f"Noise: {describe_noise(noise)} (from {noise.get('source', 'unknown')})")
    if (report.get("fsc") or {}).get("resolution"):
        lines.append(
            f"Half maps: FSC = 0.143 at {report['fsc']['resolution']:.2f} A, in a mask and "
            "corrected for it"
        )
    if report.get("noise_anisotropy"):
        lines.append(
            "Noise's power in the worst direction of views over that in the best: "
            f"{report['noise_anisotropy']:.1f}"
        )
    removed = report.get("cleaning")
    if removed:
        lines.append(
            f"Removed: {removed['components']} islands, {removed['voxels']} voxels, "
            f"{removed['volume']:.0f} cubic A"
        )
    if report.get("input_ends_at"):
        lines.append(
            f"Input ends at {report['input_ends_at']:.1f} A, low-passed: so does the enhanced map"
        )
    if report.get("symmetry_correlation") is not None:
        lines.append(
            "Symmetry: correlation of the copies before the average at least "
            f"{report['symmetry_correlation']:.2f}"
        )
    if report.get("trust"):
        lines.append(f"Against the half maps: {report['trust']['verdict']}")
    return lines + [f"*Warning*: {warning}" for warning in report.get("warnings") or []]
