"""The protocol: maps of a Scipion project -> `deepemhancer` in the inference environment -> enhanced maps of the project."""
import enum
import json
import math
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pyworkflow.utils as pwutils
from pwem.convert.headers import Ccp4Header
from pwem.emlib.image import ImageHandler
from pwem.objects import SetOfVolumes, Volume
from pwem.protocols import ProtAnalysis3D
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol.constants import STEPS_PARALLEL

from deepemhancer_plugin.constants import (
    MASKED_MODEL,
    MODEL_NAMES,
    NORMALIZATION_MASK,
    NORMALIZATION_STATS,
    WEIGHTS_EMBEDDED,
    WEIGHTS_FILE,
    WEIGHTS_OFFICIAL,
)
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import form as enhance_form

MRC_EXTENSIONS = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz", ".mrc.bz2", ".map.bz2")
SAMPLING_TOLERANCE = 1e-3  # A/voxel: headers are rounded
ORIGIN_TOLERANCE = 1e-2  # A


class Outputs(enum.Enum):
    Volume = Volume
    Volumes = SetOfVolumes


class Job(NamedTuple):
    """One map to enhance."""
    key: str  # "" for a single map, else the number of the item in the set: part of the file names
    volume: Volume  # has the sampling rate and the origin
    files: list  # [map] or [half 1, half 2], as (index, file name)


class ProtDeepEMhancer(ProtAnalysis3D):
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

    def getGpuList(self):
        """The form's GPUs; none when running on the CPU, so that a queue is not asked for any."""
        return super().getGpuList() if self.usesGpu() else []

    # --------------------------- steps
    def _insertAllSteps(self):
        # What a step depends on is in its arguments: "continue" runs it again when any of it was changed.
        # The maps are looked up once: the steps of a set run in threads, and the set's database belongs to this one.
        self._todo = {job.key: job for job in self._jobs()}
        enhanced = []
        for job in self._todo.values():
            converted = self._insertFunctionStep(self.convertInputStep, job.key, job.files, self._maskSource(), prerequisites=[],
                                                 needsGPU=False)
            enhanced.append(self._insertFunctionStep(self.deepVolPostProStep, job.key, job.volume.getSamplingRate(),
                                                     self._options(), prerequisites=[converted], needsGPU=self.usesGpu()))
        self._insertFunctionStep(self.createOutputStep, prerequisites=enhanced, needsGPU=False)

    def convertInputStep(self, key, files, mask):
        """Links MRC files; converts what else pwem can read. Files: [index, file name] each."""
        pwutils.makePath(self._getTmpPath())
        for location, path in zip(files, self._inputPaths(key, len(files)), strict=True):
            linkOrConvert(*location, path)
        if mask:
            index, name, threshold = mask
            writeBinaryMask((index, name), self._maskPath(key), threshold)

    def deepVolPostProStep(self, key, samplingRate, options):
        job = self._todo[key]
        inputs = self._inputPaths(key, len(job.files))
        if not all(os.path.exists(path) for path in inputs):  # a finished run cleans them away; "continue" needs them again
            self.convertInputStep(key, job.files, self._maskSource())
        output, report, log = (self._getExtraPath(f"enhanced{suffix(key)}.{ending}") for ending in ("mrc", "json", "log"))
        # What an earlier run left, also half-written when it was killed, must not pass for a result of this one.
        pwutils.cleanPath(output, report, log, *Path(self._getExtraPath()).glob(f".enhanced{suffix(key)}.*"))
        arguments = ["-i", inputs[0], *(["-i2", inputs[1]] if len(inputs) == 2 else []), "-o", output,
                     "-s", f"{samplingRate:.8g}", *options, *self._gpuArguments(), "--report", report]
        if self.normalization == NORMALIZATION_MASK:
            arguments += ["-m", self._maskPath(key)]
        try:
            self.runJob(Plugin.getCommand(arguments, log), "", env=Plugin.getEnviron(), executable="/bin/bash", numberOfMpi=1)
            status = 0
        except subprocess.CalledProcessError as error:  # its message is the command; the program's own last line says more
            status = error.returncode
        # A queue does not hand the exit status back, so the files decide.
        if status or not (os.path.exists(output) and os.path.exists(report)):
            pwutils.cleanPath(output, report)
            what = f"was killed by signal {status - 128}" if status > 128 else "failed"
            raise PyworkflowException(f"deepemhancer {what}: {lastLine(log)}")
        if boxOf(output) != boxOf(inputs[0]):
            raise PyworkflowException(f"{output} has a box of {boxOf(output)}, the input one of {boxOf(inputs[0])}.")
        self._setOriginInFile(output, job.volume)

    def createOutputStep(self):
        volumes = []
        for job in self._todo.values():
            output = self._getExtraPath(f"enhanced{suffix(job.key)}.mrc")
            if not os.path.exists(output):
                raise PyworkflowException(f"{output} does not exist: run the protocol again.")
            volumes.append(enhancedVolume(output, job.volume))
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
            return [Job("", halves[0], [location(half) for half in halves])]
        if self.isSet():
            volumes = [volume.clone() for volume in self.inputVolume.get().iterItems(iterate=False)]
            return [Job(str(volume.getObjId()), volume, self._filesOf(volume)) for volume in volumes]
        return [Job("", self.inputVolume.get(), self._filesOf(self.inputVolume.get()))]

    def _filesOf(self, volume):
        if self.useHalfMapsInsteadVol:
            return [[0, clean(half)] for half in volume.getHalfMaps(asList=True)]
        return [location(volume)]

    def getInputFiles(self, key=""):
        """The map, or the two half maps, that became the enhanced map of this key, as [index, file name] each."""
        return next(job.files for job in self._jobs() if job.key == key)

    def _maskSource(self):
        if self.normalization != NORMALIZATION_MASK:
            return None
        return [*location(self.inputMask.get()), self.maskThreshold.get()]

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
        options = ["-b", str(self.batch_size.get())] if self.usesGpu() else []  # on the CPU the program knows better
        if self.weights == WEIGHTS_EMBEDDED:
            options += ["--weights", "embedded"]
        elif self.weights == WEIGHTS_OFFICIAL:
            options += ["--deepLearningModelPath", str(Plugin.getCheckpointsFolder())]
        else:
            options += ["--weights", os.path.abspath(self.weightsFile.get())]
        if self.normalization != NORMALIZATION_MASK:
            options += ["-p", self._modelName()]
        if self.normalization == NORMALIZATION_STATS:
            options += ["--noiseStats", repr(self.noiseMean.get()), repr(self.noiseStd.get())]
        if self.performCleaningStep:
            options += ["--cleaningStrength", repr(self.sizeFraction_CC.get())]
        return options

    def _gpuArguments(self):
        """GPU numbers count what is visible to the program, and the executor hands them out that way: in a queue from 0 on."""
        if not self.usesGpu():
            return ["-g", "-1"]
        gpus = self._stepsExecutor.getGpuList()
        return ["-g", ",".join(map(str, gpus))] if gpus else []

    # --------------------------- the output file
    def _setOriginInFile(self, output, volume):
        """Writes the origin that the user gave the map in Scipion into the file, where the input file does not have it.

        The program keeps the header of the input file. Scipion's default, the centre of the box, is not the user's: Scipion does
        not write it into files either, and with it the enhanced file would no longer lie on its input in other programs.
        """
        wanted = volume.getOrigin(force=True).getShifts()
        centre = [-n * volume.getSamplingRate() / 2 for n in volume.getDim()]
        header = Ccp4Header(output, readHeader=True)
        if not (close(wanted, header.getOrigin()) or close(wanted, centre)):
            header.setOrigin(wanted)
            header.writeHeader()

    # --------------------------- validation
    def _validate(self):
        try:
            super().getGpuList()
        except ValueError:
            return [f"*GPU IDs* {self.gpuList.get()} is no list of numbers such as 0 or 0,1; for the CPU choose No at *Use GPU*."]
        errors = [f"*{self.getParam(name).label.get()}* is empty: choose a volume." for name in self._mapParams()
                  if getattr(self, name).get() is None]
        if errors:
            return errors
        errors = self._validateMaps()
        return errors + self._validateNormalization(errors) + self._validateWeights()

    def _validateMaps(self):
        errors = []
        if self.separateHalves():
            volumes = [self.inputHalf1.get(), self.inputHalf2.get()]
        else:
            volumes = [self.inputVolume.get()] if not self.isSet() else [volume.clone() for volume in self.inputVolume.get()]
        for volume in volumes:
            errors += validateVolume(volume)
            if self.useHalfMapsInsteadVol and not self.separateHalves():
                errors += validateAttachedHalves(volume)
        if self.separateHalves():
            one, two = volumes
            if location(one) == location(two):
                errors.append("*Half map 1* and *Half map 2* are the same map: choose the two halves.")
            errors += sameGeometry(one, two, "Half map 1", "Half map 2")
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
                errors += sameGeometry(job.volume, self.inputMask.get(), "Input volume", "Mask")
            return errors[:1]
        if self.normalization == NORMALIZATION_STATS:
            errors = []
            if not math.isfinite(self.noiseMean.get(math.nan)):
                errors.append("*Noise mean* must be a number; the wizard beside it measures it.")
            if not 0 < self.noiseStd.get(0) < math.inf:
                errors.append("*Noise standard deviation* must be a number greater than 0; the wizard beside it measures it.")
            return errors
        return []

    def _validateWeights(self):
        if self.weights == WEIGHTS_OFFICIAL:
            return Plugin.validateCheckpoint(MASKED_MODEL if self.normalization == NORMALIZATION_MASK else self._modelName())
        if self.weights == WEIGHTS_FILE:
            if not self.weightsFile.get():
                return ["*Weights file* is empty: choose a file, or other *Weights*."]
            if not os.path.isfile(self.weightsFile.get()):
                return [f"*Weights file* {self.weightsFile.get()} does not exist."]
        return []

    # --------------------------- what it says about itself
    def _reports(self):
        """The JSON reports of the maps that are done, as [(name, dict)]."""
        paths = sorted(Path(self._getExtraPath()).glob("enhanced*.json"))
        return [(path.stem.removeprefix("enhanced").lstrip("_"), json.loads(path.read_text())) for path in paths]

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
        source = "the mean of the two half maps" if self.useHalfMapsInsteadVol else "the unmasked, unsharpened map"
        return [f"{subject} enhanced with DeepEMhancer [SanchezGarcia2021] ({weightsOf(report)}; scipion-em-deepemhancer "
                f"{report.get('version', '')}) from {source}, normalised by {self._normalizationText(report)}."]

    def _normalizationText(self, report):
        if self.normalization == NORMALIZATION_MASK:
            return "a mask of the protein"
        noise = report["noise"]
        where = {"half maps": "noise measured on the difference of the half maps",
                 "shell": "noise measured around the particle"}.get(noise.get("source"), "given noise statistics")
        return f"{where} ({noiseNumbers(noise)})"

    def _citations(self):
        return ["SanchezGarcia2021", "Jakobi2017"]


# --------------------------- files
def suffix(key):
    return f"_{key}" if key else ""


def clean(name):
    """A file name without Xmipp's format mark."""
    return name.replace(":mrcs", "").replace(":mrc", "")


def location(volume):
    index, name = volume.getLocation()
    return [index or 0, clean(name)]


def linkOrConvert(index, name, path):
    """Puts the map under `path` (.mrc): a link where the file is such a map already, else a copy in that format."""
    Path(path).unlink(missing_ok=True)  # a link from an earlier run: writing through it would change the user's file
    if not os.path.exists(name):
        raise PyworkflowException(f"{name} does not exist: was the input deleted or moved?")
    single = index == 0 or ImageHandler().getDimensions(name)[3] == 1
    if name.lower().endswith(MRC_EXTENSIONS) and single:
        pwutils.createAbsLink(os.path.abspath(name), path)
    else:
        ImageHandler().convert((index, name) if index else name, path)


def writeBinaryMask(source, path, threshold):
    """The voxels of the mask above the threshold as ones."""
    index, name = source
    handler = ImageHandler()
    image = handler.read((index, name) if index else name)
    data = (image.getData() > threshold).astype("float32")
    if not data.any() or data.all():
        raise PyworkflowException(f"{name}: {'no' if not data.any() else 'every'} voxel lies above the mask threshold "
                                  f"{threshold:g}; "
                                  f"the mask's values go from {image.getData().min():g} to {image.getData().max():g}.")
    image.setData(data)
    handler.write(image, path)


def boxOf(path):
    """Voxels in x, y, z; headers differ in whether they call a volume a stack of images."""
    x, y, z, n = ImageHandler().getDimensions(path)
    return x, y, z * n


def lastLine(log):
    """The last line that a program printed: its error message."""
    lines = [line.strip() for line in Path(log).read_text(errors="replace").splitlines()] if os.path.exists(log) else []
    return next((line for line in reversed(lines) if line), "it printed nothing; see the log of the queue's job")


def close(one, two):
    return all(abs(a - b) < ORIGIN_TOLERANCE for a, b in zip(one, two, strict=True))


def enhancedVolume(path, source):
    volume = Volume(path)
    volume.setSamplingRate(source.getSamplingRate())
    volume.setOrigin(source.getOrigin(force=True))
    volume.setObjComment(f"enhanced {os.path.basename(clean(source.getFileName()))}")
    return volume


# --------------------------- checks; each returns a list of messages
def validateVolume(volume):
    name = clean(volume.getFileName() or "")
    if not os.path.exists(name):
        return [f"{name} does not exist: was the input deleted or moved?"]
    errors = []
    if not (volume.getSamplingRate() or 0) > 0:
        errors.append(f"{name} has no sampling rate: import it with one.")
    dim = volume.getDim()
    if dim is None or min(dim) < 2:
        errors.append(f"{name} is not a volume: its box is {dim}.")
    return errors


def validateAttachedHalves(volume):
    name = clean(volume.getFileName() or "")
    halves = [clean(half) for half in volume.getHalfMaps(asList=True)] if volume.hasHalfMaps() else []
    if len(halves) != 2:
        return [f"{name} has {len(halves) or 'no'} half maps attached: import it with both, or choose them one by one."]
    missing = [half for half in halves if not os.path.exists(half)]
    if missing:
        return [f"{missing[0]} does not exist: was the half map deleted or moved?"]
    boxes = [tuple(ImageHandler().getDimensions(half)[:3]) for half in halves]
    if len({*boxes, tuple(volume.getDim())}) > 1:
        return [f"{name}: boxes of the map {tuple(volume.getDim())} and of its half maps {boxes[0]}, {boxes[1]} differ."]
    return []


def sameGeometry(one, two, nameOne, nameTwo):
    errors = []
    if one.getDim() != two.getDim():
        errors.append(f"*{nameOne}* has a box of {one.getDim()}, *{nameTwo}* of {two.getDim()}: they must be the same.")
    rates = one.getSamplingRate() or 0, two.getSamplingRate() or 0
    if abs(rates[0] - rates[1]) > SAMPLING_TOLERANCE:
        errors.append(f"*{nameOne}* has a sampling rate of {rates[0]:g} A/voxel, *{nameTwo}* of {rates[1]:g}: "
                      f"they must be the same.")
    return errors


# --------------------------- the report in words
def weightsOf(report):
    weights = report.get("weights") or {}
    return f"{weights.get('name', 'unknown')}, {weights.get('kind', 'unknown')} weights"


def noiseNumbers(noise):
    return f"mean {noise['mean']:.4g}, standard deviation {noise['std']:.4g}"


def summaryOf(report):
    """The report of one map as lines for the summary."""
    lines = [f"Model: {weightsOf(report)}", f"Device: {report.get('device', 'unknown')}{_precision(report)}"]
    noise = report.get("noise") or {}
    if noise.get("std") is not None:
        lines.append(f"Noise: {noiseNumbers(noise)} (from {noise.get('source', 'unknown')})")
    removed = report.get("cleaning")
    if removed:
        lines.append(f"Removed: {removed['components']} islands, {removed['voxels']} voxels, {removed['volume']:.0f} cubic A")
    lines += [f"*Warning*: {warning}" for warning in report.get("warnings") or []]
    return lines


def _precision(report):
    return f", {report['precision']}" if report.get("precision") else ""
