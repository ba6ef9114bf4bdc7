"""Wizards for the noise statistics, the mask threshold and the batch size."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

from pyworkflow.exceptions import PyworkflowException
from pyworkflow.gui import dialog
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import ProtDeepEMhancer, ProtDeepRes, maps

MEASURE = Path(__file__).with_name("measure.py")
WINDOW_BYTES = 700 * 2**20  # of GPU memory for a window of 64 voxels a side, as the program counts
MEMORY_FRACTION = 0.8
TIMEOUT_S = 120  # the window waits meanwhile
MAX_BATCH_SIZE = 32  # more does not make a GPU faster


def measure(*arguments):
    """Run measure.py in the inference environment.

    Args:
        *arguments: Its command line.

    Returns:
        The dictionary that it prints.

    Raises:
        ValueError: It failed, with its message; or it took longer than TIMEOUT_S.
    """
    words = " ".join(map(shlex.quote, arguments))
    script = f"python {shlex.quote(str(MEASURE))} {words}"
    process = subprocess.Popen(
        ["bash", "-c", f"{Plugin.getActivation()} && {script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        universal_newlines=True,
        env=Plugin.getEnviron(),
        start_new_session=True,  # so that all of it can be ended
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise ValueError(
            f"The inference environment did not answer within {TIMEOUT_S} s: the map is large, or "
            "the machine is busy."
        ) from None
    lines = output.strip().splitlines() or ["{}"]
    values = json.loads(lines[-1]) if lines[-1].startswith("{") else {}
    if process.returncode != 0:
        messages = errors.strip().splitlines() or ["the inference environment fails"]
        raise ValueError(values.get("error") or messages[-1])
    return values


def measure_noise(volume, files):
    """Measure the noise of a map, or of two half maps, as the program does.

    Args:
        volume: The Volume that has the sampling rate.
        files: The map or the two half maps, each as [index, file name].

    Returns:
        A dictionary with the mean and the standard deviation, `std`.

    Raises:
        ValueError: It failed; with a message of one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{number}.mrc") for number in range(len(files))]
        try:
            for location, path in zip(files, paths):
                maps.link_or_convert(*location, path)
        except PyworkflowException as error:
            raise ValueError(str(error)) from None
        return measure("noise", f"{volume.getSamplingRate():.8g}", *paths)


def find_mask_threshold(volume):
    """Find half of the mask's height, where a soft edge has half its value.

    Returns:
        The threshold, and the fraction of the box that lies above it.
    """
    data = maps.read_map(*maps.get_location(volume))
    threshold = float(data.min() + data.max()) / 2
    return threshold, float((data > threshold).mean())


def choose_batch_size(free_bytes):
    """Return how many windows fit into most of the free memory, from 1 to MAX_BATCH_SIZE."""
    return int(min(max(MEMORY_FRACTION * free_bytes // WINDOW_BYTES, 1), MAX_BATCH_SIZE))


class DeepEMhancerNoiseWizard(Wizard):
    """Measures the noise as the program does."""

    _targets = [(ProtDeepEMhancer, ["noiseMean", "noiseStd"])]  # noqa: RUF012  (Scipion's own attributes)
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def show(self, form, *_):
        """Fill in the mean and the standard deviation of the noise."""
        protocol = form.protocol
        if not protocol.hasInput():
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
            noise = measure_noise(*protocol.getSingleInput())
        except ValueError as error:
            dialog.showError("Noise statistics", str(error), form.root)
            return
        form.setVar("noiseMean", float(f"{noise['mean']:.6g}"))
        form.setVar("noiseStd", float(f"{noise['std']:.6g}"))


class DeepEMhancerMaskWizard(Wizard):
    """Proposes a threshold that makes a mask binary."""

    _targets = [(ProtDeepEMhancer, ["maskThreshold"]), (ProtDeepRes, ["maskThreshold"])]  # noqa: RUF012
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def show(self, form, *_):
        """Fill in half of the mask's height."""
        mask = form.protocol.inputMask.get()
        if mask is None:
            dialog.showError("Mask threshold", "Choose the mask first.", form.root)
            return
        threshold, fraction = find_mask_threshold(mask)
        form.setVar("maskThreshold", float(f"{threshold:.4g}"))
        dialog.showInfo(
            "Mask threshold",
            f"Half of the mask's height is {threshold:.4g}; {100 * fraction:.1f} % of the box lie "
            "above it. A tight mask of a particle holds 2 to 20 %.",
            form.root,
        )


class DeepEMhancerBatchWizard(Wizard):
    """Chooses the batch size by the free memory of the GPUs."""

    _targets = [(ProtDeepEMhancer, ["batch_size"])]  # noqa: RUF012
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def show(self, form, *_):
        """Fill in the batch size that fits on every chosen GPU."""
        gpus = form.protocol.getGpuList()
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
        form.setVar("batch_size", choose_batch_size(free))
