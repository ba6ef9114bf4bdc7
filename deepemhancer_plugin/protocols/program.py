"""What the protocols that start `deepemhancer` share: the GPUs of its command line, its run, and the reason when it fails."""

import os
import subprocess
from pathlib import Path

import pyworkflow.utils as pwutils
from pyworkflow.exceptions import PyworkflowException

from deepemhancer_plugin.constants import WEIGHTS_FILE, WEIGHTS_OFFICIAL
from deepemhancer_plugin.plugin import Plugin


class RunsProgram:
    """For protocols whose form has the hidden parameters `useGpu` and `gpuList`, see defineGpu."""

    def getGpuList(self):
        """The form's GPUs; none when running on the CPU, so that a queue is not asked for any."""
        return super().getGpuList() if self.usesGpu() else []

    def _gpuArguments(self):
        """GPU numbers count what is visible to the program, and the executor hands them out that way: in a queue from 0 on."""
        if not self.usesGpu():
            return ["-g", "-1"]
        gpus = self._stepsExecutor.getGpuList()
        return ["-g", ",".join(map(str, gpus))] if gpus else []

    def _validateGpu(self):
        try:
            super().getGpuList()
        except ValueError:
            return [
                f"*GPU IDs* {self.gpuList.get()} is no list of numbers such as 0 or 0,1; for the CPU choose No at *Use GPU*."
            ]
        return []

    def _runProgram(self, arguments, log, *results):
        """Runs `deepemhancer`; raises PyworkflowException with its last line where it does not write all of the results."""
        for path in map(Path, results):
            # What an earlier run left, also half-written when it was killed, must not pass for a result of this one.
            pwutils.cleanPath(str(path), *path.parent.glob(f".{path.stem}.*"))
        pwutils.cleanPath(log)
        try:
            self.runJob(
                Plugin.getCommand(arguments, log),
                "",
                env=Plugin.getEnviron(),
                executable="/bin/bash",
                numberOfMpi=1,
            )
            status = 0
        except (
            subprocess.CalledProcessError
        ) as error:  # its message is the command; the program's own last line says more
            status = error.returncode
        # A queue does not hand the exit status back, so the files decide.
        if status or not all(map(os.path.exists, results)):
            pwutils.cleanPath(*results)
            what = f"was killed by signal {status - 128}" if status > 128 else "failed"
            raise PyworkflowException(f"deepemhancer {what}: {lastLine(log)}")


def weightsOption(protocol, variant):
    """What the command line's --weights gets by the form's parameters `weights` and `weightsFile`."""
    if protocol.weights == WEIGHTS_FILE:
        return os.path.abspath(protocol.weightsFile.get())
    return (
        str(Plugin.getCheckpoint(variant)) if protocol.weights == WEIGHTS_OFFICIAL else "embedded"
    )


def validateWeights(protocol, variant):
    """What is wrong with the same parameters, as a list of messages."""
    if protocol.weights == WEIGHTS_OFFICIAL:
        return Plugin.validateCheckpoint(variant)
    if protocol.weights == WEIGHTS_FILE:
        if not protocol.weightsFile.get():
            return ["*Weights file* is empty: choose a file, or other *Weights*."]
        if not os.path.isfile(protocol.weightsFile.get()):
            return [f"*Weights file* {protocol.weightsFile.get()} does not exist."]
    return []


def lastLine(log):
    """The last line that a program printed: its error message."""
    lines = (
        [line.strip() for line in Path(log).read_text(errors="replace").splitlines()]
        if os.path.exists(log)
        else []
    )
    return next(
        (line for line in reversed(lines) if line),
        "it printed nothing; see the log of the queue's job",
    )
