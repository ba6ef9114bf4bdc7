"""The wizards: noise statistics, mask threshold, batch size."""

import json
import shlex
import subprocess
from pathlib import Path

from pwem.emlib.image import ImageHandler
from pyworkflow.gui import dialog
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import ProtDeepEMhancer, ProtDeepRes

MEASURE = Path(__file__).with_name("measure.py")
WINDOW_BYTES = (
    700 * 2**20
)  # of GPU memory for one window of 64 voxels a side, as the program counts
LARGEST_BATCH = 32  # more does not make a GPU faster


def measure(*arguments):
    """The answer of measure.py in the inference environment; raises ValueError with its message."""
    command = (
        f"{Plugin.getActivation()} && python {shlex.quote(str(MEASURE))} {shlex.join(arguments)}"
    )
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=Plugin.getEnviron()
    )
    lines = result.stdout.strip().splitlines() or ["{}"]
    answer = json.loads(lines[-1]) if lines[-1].startswith("{") else {}
    if result.returncode != 0:
        raise ValueError(
            answer.get("error")
            or (result.stderr.strip().splitlines() or ["the inference environment fails"])[-1]
        )
    return answer


def noiseOf(volume, protocol):
    """Noise statistics of the chosen map: on the difference of its half maps where it has them, else around the particle."""
    if protocol.separateHalves():
        files = [half.get().getFileName() for half in (protocol.inputHalf1, protocol.inputHalf2)]
    else:
        files = volume.getHalfMaps(asList=True) if volume.hasHalfMaps() else [volume.getFileName()]
    return measure(
        "noise", f"{volume.getSamplingRate():.8g}", *[name.replace(":mrc", "") for name in files]
    )


def maskThreshold(volume):
    """Half of the mask's height, where a soft edge has half its value; and the fraction of the box that lies above it."""
    data = ImageHandler().read(volume.getFileName()).getData()
    threshold = float(data.min() + data.max()) / 2
    return threshold, float((data > threshold).mean())


def batchSize(freeBytes):
    """The windows that fit into four fifths of the memory, between 1 and LARGEST_BATCH."""
    return int(min(max(0.8 * freeBytes // WINDOW_BYTES, 1), LARGEST_BATCH))


class DeepEMhancerNoiseWizard(Wizard):
    _targets = [(ProtDeepEMhancer, ["noiseMean", "noiseStd"])]  # noqa: RUF012  (Scipion's own attributes)
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def show(self, form, *_):
        protocol = form.protocol
        volume = (protocol.inputHalf1 if protocol.separateHalves() else protocol.inputVolume).get()
        if volume is None or (protocol.separateHalves() and protocol.inputHalf2.get() is None):
            dialog.showError("Noise statistics", "Choose the input maps first.", form.root)
            return
        if protocol.isSet():
            dialog.showError(
                "Noise statistics",
                "The volumes of a set differ in their noise: choose the automatic normalization.",
                form.root,
            )
            return
        try:
            noise = noiseOf(volume, protocol)
        except ValueError as error:
            dialog.showError("Noise statistics", str(error), form.root)
            return
        form.setVar("noiseMean", float(f"{noise['mean']:.6g}"))
        form.setVar("noiseStd", float(f"{noise['std']:.6g}"))


class DeepEMhancerMaskWizard(Wizard):
    _targets = [(ProtDeepEMhancer, ["maskThreshold"]), (ProtDeepRes, ["maskThreshold"])]  # noqa: RUF012
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def show(self, form, *_):
        mask = form.protocol.inputMask.get()
        if mask is None:
            dialog.showError("Mask threshold", "Choose the mask first.", form.root)
            return
        threshold, fraction = maskThreshold(mask)
        form.setVar("maskThreshold", float(f"{threshold:.4g}"))
        dialog.showInfo(
            "Mask threshold",
            f"Half of the mask's height is {threshold:.4g}; {100 * fraction:.1f} % of the box lie "
            f"above it. A tight mask of a particle holds 2 to 20 %.",
            form.root,
        )


class DeepEMhancerBatchWizard(Wizard):
    _targets = [(ProtDeepEMhancer, ["batch_size"])]  # noqa: RUF012
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def show(self, form, *_):
        protocol = form.protocol
        gpus = protocol.getGpuList()
        if not gpus:
            dialog.showInfo(
                "Batch size",
                "The run is on the CPU: the program chooses by the memory there is.",
                form.root,
            )
            return
        try:
            free = min(measure("memory", str(gpu))["free"] for gpu in gpus)
        except ValueError as error:
            dialog.showError("Batch size", str(error), form.root)
            return
        form.setVar("batch_size", batchSize(free))
