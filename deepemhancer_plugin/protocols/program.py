"""What the protocols that start `deepemhancer` share: its GPUs, its run, its weights."""

import math
import os
import subprocess
from pathlib import Path

import pyworkflow.utils as pwutils
from pyworkflow.constants import QUEUE_FOR_JOBS
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol.constants import VOID_GPU

from deepemhancer_plugin.constants import WEIGHTS_FILE, WEIGHTS_OFFICIAL
from deepemhancer_plugin.plugin import Plugin

# Environment variable with the number of CPU cores that the program may use.
THREADS_VARIABLE = "DEEPEMHANCER_THREADS"


class ProgramProtocol:
    """Mixin of the protocols with the parameters of form.add_gpu and form.add_threads."""

    def getGpuList(self):
        """Return the form's GPUs; none for the CPU, so that a queue is not asked for any."""
        return super().getGpuList() if self.usesGpu() and self.gpuList.get() else []

    def countJobs(self):
        """Return how many maps the run has."""
        return 1

    def countParallelJobs(self):
        """Return how many maps run at a time; a Scipion thread is the main one."""
        threads = self.getScipionThreads() - 1 if self.modeParallel() else 1
        return max(1, min(threads, self.countJobs()))

    def getSubmitDict(self):
        """Return what the queue is told: the CPU cores and the GPUs of each job.

        With a job per step these are a map's own, else those of all maps that run at a time.
        """
        submit = super().getSubmitDict()
        parallel = self.countParallelJobs()
        by_steps = submit[QUEUE_FOR_JOBS] == "Y"
        own = {
            "JOB_THREADS": max(1, self.getBinThreads() or 0) * (1 if by_steps else parallel),
            "GPU_COUNT": math.ceil(len(self.getGpuList()) / (parallel if by_steps else 1)),
        }
        own["JOB_CORES"] = own["JOB_THREADS"]
        _, chosen = self.getQueueParams()  # in the dialog of the queue
        return {**submit, **own, **chosen}

    def _gpuArguments(self):
        """Return the program's GPU option.

        The program's numbers count the GPUs that it can see, and so do those that the executor
        hands out: in a queue they start at 0. The executor deals them out among Scipion's threads,
        whether or not there is work for each; a single map takes them all.
        """
        if not self.usesGpu():
            return ["-g", "-1"]
        executor = self._stepsExecutor
        gpus = executor.gpuList if self.countJobs() == 1 else executor.getGpuList()
        gpus = [gpu for gpu in gpus or [] if gpu != VOID_GPU]
        return ["-g", ",".join(map(str, gpus))] if gpus else []

    def _validateGpu(self):
        """List what is wrong with the form's GPUs."""
        try:
            self.getGpuList()
        except ValueError:
            return [
                f"*GPU IDs* {self.gpuList.get()} is no list of numbers such as 0 or 0,1; for the "
                "CPU choose No at *Use GPU*."
            ]
        return []

    def _runProgram(self, arguments, log, *results):
        """Run `deepemhancer`.

        Args:
            arguments: Its command line, a list of strings.
            log: File that gets a copy of all that it prints.
            *results: Files that it must write.

        Raises:
            PyworkflowException: It fails or writes not all of them; with the last line it printed.
        """
        for path in map(Path, results):
            # Results of an earlier run, even half-written ones, must not pass for this one's.
            pwutils.cleanPath(str(path), *path.parent.glob(f".{path.stem}.*"))
        pwutils.cleanPath(log)
        command = Plugin.getCommand(arguments, log)
        if self.getBinThreads():
            # In the command itself: not every queue hands the environment on.
            command = f"export {THREADS_VARIABLE}={self.getBinThreads()}; {command}"
        status = 0
        try:
            self.runJob(
                command,
                "",
                env=Plugin.getEnviron(),
                executable="/bin/bash",
                numberOfMpi=1,
                numberOfThreads=1,
            )
        except subprocess.CalledProcessError as error:
            status = error.returncode
        # A queue does not hand the exit status back, so the files decide.
        if status or not all(map(os.path.exists, results)):
            pwutils.cleanPath(*results)
            what = f"was killed by signal {status - 128}" if status > 128 else "failed"
            raise PyworkflowException(f"deepemhancer {what}: {read_last_line(log)}")


def get_weights_option(protocol, variant):
    """Return the value of --weights for the form's parameters `weights` and `weightsFile`."""
    if protocol.weights == WEIGHTS_FILE:
        return os.path.abspath(protocol.weightsFile.get())
    if protocol.weights == WEIGHTS_OFFICIAL:
        return str(Plugin.getCheckpoint(variant))
    return "embedded"


def validate_weights(protocol, variant):
    """List what is wrong with the form's parameters `weights` and `weightsFile`."""
    if protocol.weights == WEIGHTS_OFFICIAL:
        return Plugin.validateCheckpoint(variant)
    if protocol.weights != WEIGHTS_FILE:
        return []
    name = protocol.weightsFile.get()
    if not name:
        return ["*Weights file* is empty: choose a file, or other *Weights*."]
    return [] if os.path.isfile(name) else [f"*Weights file* {name} does not exist."]


def read_last_line(log):
    """Return the last line that a program printed: its error message."""
    text = Path(log).read_text(errors="replace") if os.path.exists(log) else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing; see the log of the queue's job"
