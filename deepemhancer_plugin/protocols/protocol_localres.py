"""The protocol of DeepRes: a map of a Scipion project -> `deepemhancer localres` in the inference environment -> its local resolution."""

import json
import math
import os

import numpy as np
import pyworkflow.utils as pwutils
from pwem.emlib.image import ImageHandler
from pwem.objects import Volume
from pwem.protocols import ProtAnalysis3D
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Float
from pyworkflow.protocol import params

from deepemhancer_plugin.constants import NETWORK_AUTO, NETWORK_FILE, NETWORK_NAMES
from deepemhancer_plugin.protocols import form as enhance_form
from deepemhancer_plugin.protocols import maps
from deepemhancer_plugin.protocols.program import RunsProgram

RESOLUTION, LOCAL_FSC = "ResolutionVolume", "LocalFscVolume"
NETWORK_CHOICES = ["automatic", "2.5 to 13 A", "1.5 to 6 A", "file"]
FINEST, MEDIAN, COARSEST = (
    "_finestResolution",
    "_medianResolution",
    "_coarsestResolution",
)  # extended attributes of the outputs, in A


class ProtDeepRes(RunsProgram, ProtAnalysis3D):
    """Local resolution with DeepRes: a neural network that tells the resolution of each voxel of a map by how the map looks there.

    It needs no half maps, and it follows what sharpening and enhancement do to a map, which methods that compare half maps cannot see.
    So it also tells whether a map was sharpened too far: with half maps the local FSC, which is a measurement, is computed beside it,
    and the summary says where the map shows finer details than the half maps support.
    """

    _label = "local resolution"
    _possibleOutputs = {RESOLUTION: Volume, LOCAL_FSC: Volume}  # noqa: RUF012  (Scipion's own attribute)

    # --------------------------- form
    def _defineParams(self, form):
        form.addSection(label="Input")
        enhance_form.gpu(form, "The first of them is used.")
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            label="Input volume",
            important=True,
            help="The map whose local resolution is wanted: as it comes from the refinement, sharpened or enhanced. What was "
            "done to it shows in the result.",
        )
        enhance_form.mask(
            form,
            None,
            "Where the resolution is wanted: 1 in the molecule, 0 in the solvent, of the map's box and sampling "
            "rate.\nEmpty: the program makes a mask by itself.",
        )
        form.addParam(
            "network",
            params.EnumParam,
            choices=NETWORK_CHOICES,
            default=NETWORK_AUTO,
            label="Network",
            help="Each network knows a range of resolutions, and sees the map at a sampling rate of its own: 1 A/voxel for "
            "2.5 to 13 A, 0.5 A/voxel for 1.5 to 6 A.\n"
            f"*{NETWORK_CHOICES[NETWORK_AUTO]}*: the finer one where the other finds the map near its fine end.\n"
            f"*{NETWORK_CHOICES[NETWORK_FILE]}*: one of yours.",
        )
        form.addParam(
            "networkFile",
            params.FileParam,
            allowsNull=True,
            label="Network file",
            condition=f"network=={NETWORK_FILE}",
            help="Weights trained with _deepemhancer localres-train_ (.npz).",
        )
        form.addParam(
            "useHalfMaps",
            params.BooleanParam,
            default=False,
            label="Compare with the half maps?",
            help="*Yes*: the local FSC of the half maps is computed too, and the summary says in how much of the mask the map "
            "claims a finer resolution than they support: the sign of a map that was sharpened too far.",
        )
        form.addParam(
            "halfMapsOf",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            condition="useHalfMaps",
            label="Volume with the half maps",
            help="The volume that the half maps were imported or refined with.\n"
            "Empty: those of the input volume. An enhanced or sharpened map has none of its own: choose here what it was "
            "made from.",
        )
        form.addParallelSection(threads=0, mpi=0)

    # --------------------------- steps
    def _insertAllSteps(self):
        # "Continue" runs a step again when an argument of its own was changed, so each gets all that its result depends on.
        arguments = (
            self._sources(),
            self._maskSource(),
            self.inputVolume.get().getSamplingRate(),
            self._networkName(),
        )
        self._insertFunctionStep(self.convertInputStep, *arguments[:2], needsGPU=False)
        self._insertFunctionStep(self.localResolutionStep, *arguments, needsGPU=self.usesGpu())
        if self.useHalfMaps:
            self._insertFunctionStep(self.oversharpeningStep, *arguments, needsGPU=self.usesGpu())
        self._insertFunctionStep(self.createOutputStep, *arguments, needsGPU=False)

    def convertInputStep(self, sources, mask):
        """Links MRC files; converts what else pwem can read. Sources: [index, file name] of the map, and of the half maps."""
        pwutils.makePath(self._getTmpPath())
        for location, path in zip(sources, self._inputPaths(sources), strict=True):
            maps.linkOrConvert(*location, path)
        if mask:
            index, name, threshold = mask
            maps.writeBinaryMask((index, name), self._maskPath(), threshold)

    def localResolutionStep(self, sources, mask, samplingRate, network):
        """The local resolution, and the local FSC of the half maps where there are any."""
        first, *halves = self._converted(sources, mask)
        report = self._getExtraPath("resolution.json")
        self._runProgram(
            [
                "localres",
                first,
                "-o",
                self._outputFiles()[RESOLUTION],
                *self._options(halves, mask, samplingRate, network),
                "--report",
                report,
            ],
            self._getExtraPath("resolution.log"),
            *self._outputFiles().values(),
            report,
        )
        for path in self._outputFiles().values():
            maps.checkBox(path, first)
            maps.setOriginInFile(path, self.inputVolume.get())

    def oversharpeningStep(self, sources, mask, samplingRate, network):
        """Whether the map claims more than its half maps support."""
        first, *halves = self._converted(sources, mask)
        prefix = self._getExtraPath("oversharpening")
        self._runProgram(
            [
                "oversharpening",
                first,
                "-o",
                prefix,
                *self._options(halves, mask, samplingRate, network),
            ],
            f"{prefix}.log",
            f"{prefix}.json",
            self.getComparisonFile(),
        )

    def _options(self, halves, mask, samplingRate, network):
        return [
            "-s",
            f"{samplingRate:.8g}",
            "--network",
            network,
            *(["--halves", *halves] if halves else []),
            *(["--mask", self._maskPath()] if mask else []),
            *self._gpuArguments(),
        ]

    def _converted(self, sources, mask):
        """The files that convertInputStep made; a finished run cleans them away, and "continue" needs them again."""
        inputs = self._inputPaths(sources)
        if not all(os.path.exists(path) for path in inputs):
            self.convertInputStep(sources, mask)
        return inputs

    def createOutputStep(self, *_):
        volume = self.inputVolume.get()
        results = {
            name: self._resolutionVolume(path, volume) for name, path in self._outputFiles().items()
        }
        self._defineOutputs(**results)
        sources = [
            self.inputVolume,
            self.inputMask,
            *([self.halfMapsOf] if self.useHalfMaps else []),
        ]
        for result in results.values():
            for pointer in sources:
                if pointer.get() is not None:
                    self._defineSourceRelation(pointer, result)

    def _resolutionVolume(self, path, source):
        """The Volume of a resolution map, with its finest, median and coarsest value in A as extended attributes."""
        if not os.path.exists(path):
            raise PyworkflowException(f"{path} does not exist: run the protocol again.")
        values = ImageHandler().read(path).getData()
        values = values[values > 0]  # zero outside of the mask
        if not len(values):
            raise PyworkflowException(
                f"{path} holds no resolution: the mask of the molecule is empty."
            )
        result = maps.volumeLike(
            path,
            source,
            f"local resolution of {os.path.basename(maps.clean(source.getFileName()))}, in A",
        )
        for name, value in (
            (FINEST, values.min()),
            (MEDIAN, np.median(values)),
            (COARSEST, values.max()),
        ):
            setattr(result, name, Float(round(float(value), 3)))
        return result

    # --------------------------- files
    def getInputLocation(self):
        """The map whose resolution it is, as [index, file name]."""
        return maps.location(self.inputVolume.get())

    def _outputFiles(self):
        """Paths of the maps that the program writes, by the names of the outputs."""
        local_fsc = (
            {LOCAL_FSC: self._getExtraPath("resolution_blocres.mrc")} if self.useHalfMaps else {}
        )
        return {RESOLUTION: self._getExtraPath("resolution.mrc"), **local_fsc}

    def getComparisonFile(self):
        """The picture of what the map claims and the half maps support."""
        return self._getExtraPath("oversharpening.png")

    def _inputPaths(self, sources):
        return [
            self._getTmpPath(f"{name}.mrc")
            for name in ("inputVol", "inputHalf1", "inputHalf2")[: len(sources)]
        ]

    def _maskPath(self):
        return self._getTmpPath("inputMask.mrc")

    def _sources(self):
        """The input map and, where they are asked for, the half maps, as [index, file name] each."""
        halves = (
            [[0, maps.clean(half)] for half in self._halvesVolume().getHalfMaps(asList=True)]
            if self.useHalfMaps
            else []
        )
        return [self.getInputLocation(), *halves]

    def _networkName(self):
        return (
            os.path.abspath(self.networkFile.get())
            if self.network == NETWORK_FILE
            else NETWORK_NAMES[self.network.get()]
        )

    def _halvesVolume(self):
        return self.halfMapsOf.get() or self.inputVolume.get()

    def _maskSource(self):
        mask = self.inputMask.get()
        return [*maps.location(mask), self.maskThreshold.get()] if mask is not None else None

    # --------------------------- validation
    def _validate(self):
        volume, mask = self.inputVolume.get(), self.inputMask.get()
        errors = self._validateGpu()
        if volume is None:
            return [*errors, "*Input volume* is empty: choose a volume."]
        errors += maps.validateVolume(volume)
        if errors:
            return errors
        if mask is not None:
            if not math.isfinite(self.maskThreshold.get(math.nan)):
                errors.append("*Mask threshold* must be a number.")
            errors += maps.sameGeometry(volume, mask, "Input volume", "Mask")
        if self.network == NETWORK_FILE and not os.path.isfile(self.networkFile.get("")):
            errors.append(f"*Network file* {self.networkFile.get('')} does not exist.")
        if self.useHalfMaps:
            halves = self._halvesVolume()
            errors += maps.validateVolume(halves) or (
                maps.validateAttachedHalves(halves)
                + maps.sameGeometry(volume, halves, "Input volume", "Volume with the half maps")
            )
        return errors

    # --------------------------- what it says about itself
    def _report(self, name):
        path = self._getExtraPath(f"{name}.json")
        if not os.path.exists(path):
            return {}
        with open(path) as file:
            return json.load(file)

    def _summary(self):
        if not hasattr(self, RESOLUTION):
            return ["No local resolution yet."]
        report, comparison = (
            self._report("resolution"),
            self._report("oversharpening") if self.useHalfMaps else {},
        )
        lines = [
            f"*{title}*: {rangeOf(getattr(self, name))}"
            for name, title in (
                (RESOLUTION, "DeepRes"),
                (LOCAL_FSC, "Local FSC of the half maps (0.5)"),
            )
            if hasattr(self, name)
        ]
        lines += [f"*Half maps*: {comparison['verdict']}"] if comparison else []
        lines += [
            f"{key.capitalize()}: {report[key]}" for key in ("network", "device") if key in report
        ]
        return lines + [f"*Warning*: {warning}" for warning in report.get("warnings") or []]

    def _methods(self):
        if not hasattr(self, RESOLUTION):
            return []
        report = self._report("resolution")
        return [
            f"The local resolution was estimated with DeepRes [RamirezAportela2019] (scipion-em-deepemhancer {report.get('version', '')}): "
            f"{rangeOf(getattr(self, RESOLUTION))}."
        ]

    def _citations(self):
        return ["RamirezAportela2019"]


def rangeOf(volume):
    """The resolution range of an output in words."""
    finest, median, coarsest = (getattr(volume, name).get() for name in (FINEST, MEDIAN, COARSEST))
    return f"median {median:.2f} A, from {finest:.2f} to {coarsest:.2f} A"
