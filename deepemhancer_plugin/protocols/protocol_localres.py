"""The protocol of DeepRes: it runs `deepemhancer localres` in the inference environment."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pyworkflow.utils as pwutils
from pwem.emlib.image import ImageHandler
from pwem.objects import Volume
from pwem.protocols import ProtAnalysis3D
from pyworkflow.constants import NEW
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Float
from pyworkflow.protocol import params

from deepemhancer_plugin.constants import NETWORK_AUTO, NETWORK_FILE, NETWORK_NAMES
from deepemhancer_plugin.protocols import form as enhance_form
from deepemhancer_plugin.protocols import maps
from deepemhancer_plugin.protocols.program import ProgramProtocol

# Outputs
RESOLUTION, LOCAL_FSC = "ResolutionVolume", "LocalFscVolume"
# Extended attributes of the outputs, in A
FINEST, MEDIAN, COARSEST = "_finestResolution", "_medianResolution", "_coarsestResolution"

NETWORK_CHOICES = ["automatic", "2.5 to 13 A", "1.5 to 6 A", "file"]


class ProtDeepRes(ProgramProtocol, ProtAnalysis3D):
    """Local resolution with DeepRes.

    A neural network tells the resolution of each voxel of a map by how the map looks there. It
    needs no half maps, and it follows what sharpening and enhancement do to a map, which methods
    that compare half maps cannot see.

    So it also tells whether a map was sharpened too far: with half maps the local FSC, which is a
    measurement, is computed beside it, and the summary says where the map shows finer details than
    the half maps support.
    """

    _label = "local resolution (deepRes)"
    _devStatus = NEW
    _possibleOutputs = {RESOLUTION: Volume, LOCAL_FSC: Volume}  # noqa: RUF012  (Scipion's own attribute)

    def _defineParams(self, form):
        form.addSection(label="Input")
        enhance_form.add_gpu(form, "The first of them is used.")
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            label="Input volume",
            important=True,
            help="The map whose local resolution is wanted: as it comes from the refinement, "
            "sharpened or enhanced. What was done to it shows in the result.",
        )
        enhance_form.add_mask(
            form,
            None,
            "Where the resolution is wanted: 1 in the molecule, 0 in the solvent, of the map's "
            "box and sampling rate.\n"
            "Empty: the program makes a mask by itself.",
        )
        form.addParam(
            "network",
            params.EnumParam,
            choices=NETWORK_CHOICES,
            default=NETWORK_AUTO,
            label="Network",
            help="Each network knows a range of resolutions, and sees the map at a sampling rate "
            "of its own: 1 A/voxel for 2.5 to 13 A, 0.5 A/voxel for 1.5 to 6 A.\n"
            f"*{NETWORK_CHOICES[NETWORK_AUTO]}*: the finer one where the other finds the map "
            "near its fine end.\n"
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
        self._addHalfMaps(form)
        form.addParallelSection(threads=0, mpi=0)
        enhance_form.add_threads(form, "numberOfThreads")

    def _addHalfMaps(self, form):
        """Add the comparison with the half maps."""
        form.addParam(
            "useHalfMaps",
            params.BooleanParam,
            default=False,
            label="Compare with the half maps?",
            help="*Yes*: the local FSC of the half maps is computed too, and the summary says in "
            "how much of the mask the map claims a finer resolution than they support: the "
            "sign of a map that was sharpened too far.",
        )
        form.addParam(
            "halfMapsOf",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            condition="useHalfMaps",
            label="Volume with the half maps",
            help="The volume that the half maps were imported or refined with.\n"
            "Empty: those of the input volume. An enhanced or sharpened map has none of its own: "
            "choose here what it was made from.",
        )

    def _insertAllSteps(self):
        # "Continue" runs a step again when one of its arguments was changed, so each step gets
        # all that its result depends on.
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
        """Link MRC files; convert what else pwem can read.

        Args:
            sources: The map and the half maps, each as [index, file name].
            mask: [index, file name, threshold], or None.
        """
        pwutils.makePath(self._getTmpPath())
        for location, path in zip(sources, self._inputPaths(sources)):
            maps.link_or_convert(*location, path)
        if mask:
            index, name, threshold = mask
            maps.write_binary_mask(index, name, self._maskPath(), threshold)

    def localResolutionStep(self, sources, mask, samplingRate, network):
        """Compute the local resolution, and the local FSC of the half maps if there are any.

        Args:
            sources: The map and the half maps, each as [index, file name].
            mask: [index, file name, threshold], or None.
            samplingRate: A/voxel.
            network: Name of the network, or its file.
        """
        first, *halves = self._requireInputs(sources, mask)
        report = self._getExtraPath("resolution.json")
        arguments = ["localres", first, "-o", self._outputFiles()[RESOLUTION]]
        arguments += self._options(halves, mask, samplingRate, network)
        self._runProgram(
            [*arguments, "--report", report],
            self._getExtraPath("resolution.log"),
            *self._outputFiles().values(),
            report,
        )
        for path in self._outputFiles().values():
            maps.check_box(path, first)
            maps.write_origin(path, self.inputVolume.get())

    def oversharpeningStep(self, sources, mask, samplingRate, network):
        """Compare what the map claims with what its half maps support.

        Args:
            sources: The map and the half maps, each as [index, file name].
            mask: [index, file name, threshold], or None.
            samplingRate: A/voxel.
            network: Name of the network, or its file.
        """
        first, *halves = self._requireInputs(sources, mask)
        prefix = self._getExtraPath("oversharpening")
        arguments = ["oversharpening", first, "-o", prefix]
        self._runProgram(
            [*arguments, *self._options(halves, mask, samplingRate, network)],
            f"{prefix}.log",
            f"{prefix}.json",
            self.getComparisonFile(),
        )

    def _options(self, halves, mask, samplingRate, network):
        """Return the command line options that both steps have."""
        options = ["-s", f"{samplingRate:.8g}", "--network", network]
        if halves:
            options += ["--halves", *halves]
        if mask:
            options += ["--mask", self._maskPath()]
        return options + self._gpuArguments()

    def _requireInputs(self, sources, mask):
        """Return the files that convertInputStep made.

        A finished run removes them; "continue" needs them again.
        """
        inputs = self._inputPaths(sources)
        if not all(os.path.exists(path) for path in inputs):
            self.convertInputStep(sources, mask)
        return inputs

    def createOutputStep(self, *_):
        """Make the outputs, and say what they were made from."""
        volume = self.inputVolume.get()
        results = {
            name: self._makeOutput(path, volume) for name, path in self._outputFiles().items()
        }
        self._defineOutputs(**results)
        sources = [self.inputVolume, self.inputMask]
        if self.useHalfMaps:
            sources.append(self.halfMapsOf)
        for result in results.values():
            for pointer in sources:
                if pointer.get() is not None:
                    self._defineSourceRelation(pointer, result)

    def _makeOutput(self, path, source):
        """Return the Volume of a resolution map, with its range as extended attributes."""
        if not os.path.exists(path):
            raise PyworkflowException(f"{path} does not exist: run the protocol again.")
        values = ImageHandler().read(path).getData()
        values = values[values > 0]  # zero outside the mask
        if not len(values):
            raise PyworkflowException(
                f"{path} holds no resolution: the mask of the molecule is empty."
            )
        name = os.path.basename(maps.strip_format(source.getFileName()))
        result = maps.make_volume(path, source, f"local resolution of {name}, in A")
        for name, value in (
            (FINEST, values.min()),
            (MEDIAN, np.median(values)),
            (COARSEST, values.max()),
        ):
            setattr(result, name, Float(round(float(value), 3)))
        return result

    def getInputLocation(self):
        """Return the map whose resolution it is, as [index, file name]."""
        return maps.get_location(self.inputVolume.get())

    def _outputFiles(self):
        """Return the paths of the maps that the program writes, by the names of the outputs."""
        paths = {RESOLUTION: self._getExtraPath("resolution.mrc")}
        if self.useHalfMaps:
            paths[LOCAL_FSC] = self._getExtraPath("resolution_blocres.mrc")
        return paths

    def getComparisonFile(self):
        """Return the path of the picture that compares the map with its half maps."""
        return self._getExtraPath("oversharpening.png")

    def _inputPaths(self, sources):
        """Return the paths of the program's input maps."""
        return [
            self._getTmpPath(f"{name}.mrc")
            for name in ("inputVol", "inputHalf1", "inputHalf2")[: len(sources)]
        ]

    def _maskPath(self):
        return self._getTmpPath("inputMask.mrc")

    def _sources(self):
        """Return the input map and the half maps it is compared with, as [index, file name]."""
        halves = maps.get_half_maps(self._halvesVolume()) if self.useHalfMaps else []
        return [self.getInputLocation(), *[[0, half] for half in halves]]

    def _networkName(self):
        """Return the network as the command line calls it."""
        if self.network == NETWORK_FILE:
            return os.path.abspath(self.networkFile.get())
        return NETWORK_NAMES[self.network.get()]

    def _halvesVolume(self):
        """Return the Volume that the half maps are attached to."""
        return self.halfMapsOf.get() or self.inputVolume.get()

    def _maskSource(self):
        """Return the mask as [index, file name, threshold], or None."""
        mask = self.inputMask.get()
        return None if mask is None else [*maps.get_location(mask), self.maskThreshold.get()]

    def _validate(self):
        volume, mask = self.inputVolume.get(), self.inputMask.get()
        errors = self._validateGpu()
        if volume is None:
            return [*errors, "*Input volume* is empty: choose a volume."]
        errors += maps.validate_volume(volume)
        if errors:
            return errors
        if mask is not None:
            if not math.isfinite(self.maskThreshold.get(math.nan)):
                errors.append("*Mask threshold* must be a number.")
            errors += maps.validate_geometry(volume, mask, "Input volume", "Mask")
        if self.network == NETWORK_FILE and not os.path.isfile(self.networkFile.get("")):
            errors.append(f"*Network file* {self.networkFile.get('')} does not exist.")
        if self.useHalfMaps:
            halves = self._halvesVolume()
            errors += maps.validate_volume(halves) or (
                maps.validate_half_maps(halves)
                + maps.validate_geometry(
                    volume, halves, "Input volume", "Volume with the half maps"
                )
            )
        return errors

    def _report(self, name):
        """Return a JSON report of the program; {} when there is none."""
        path = Path(self._getExtraPath(f"{name}.json"))
        return json.loads(path.read_text()) if path.exists() else {}

    def _summary(self):
        if not hasattr(self, RESOLUTION):
            return ["No local resolution yet."]
        titles = {RESOLUTION: "DeepRes", LOCAL_FSC: "Local FSC of the half maps (0.5)"}
        lines = [
            f"*{title}*: {describe_range(getattr(self, name))}"
            for name, title in titles.items()
            if hasattr(self, name)
        ]
        comparison = self._report("oversharpening") if self.useHalfMaps else {}
        if comparison:
            lines.append(f"*Half maps*: {comparison['verdict']}")
        report = self._report("resolution")
        lines += [
            f"{key.capitalize()}: {report[key]}" for key in ("network", "device") if key in report
        ]
        return lines + [f"*Warning*: {warning}" for warning in report.get("warnings") or []]

    def _methods(self):
        if not hasattr(self, RESOLUTION):
            return []
        report = self._report("resolution")
        return [
            "The local resolution was estimated with DeepRes [RamirezAportela2019] "
            f"(scipion-em-deepemhancer {report.get('version', '')}): "
            f"{describe_range(getattr(self, RESOLUTION))}."
        ]

    def _citations(self):
        return ["RamirezAportela2019"]


def describe_range(volume):
    """Put the resolution range of an output into words."""
    finest, median, coarsest = (getattr(volume, name).get() for name in (FINEST, MEDIAN, COARSEST))
    return f"median {median:.2f} A, from {finest:.2f} to {coarsest:.2f} A"
