"""The protocol in a queue: a real SLURM of one node with two pretend GPUs, see `.ci/scipion slurm`.

A small program stands between the activation and Python: it writes down which GPU the queue gave to
the job and which one the program was told to use, and lets the program run on the CPU instead.
"""

import json
import os
import shutil
import subprocess
import time
import unittest
from pathlib import Path

import pyworkflow as pw
from pyworkflow.protocol.constants import STATUS_ABORTED

from deepemhancer_plugin.constants import DEEPEMHANCER_ENV_ACTIVATION, WEIGHTS_FILE
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.tests.base import CHECKOUT, SHAPE, EnhanceTest, write_map

HOSTS = CHECKOUT / "docs" / "hosts.conf"
QUEUE = {
    "JOB_GPUS": "1",
    "JOB_MEMORY": "2G",
    "JOB_TIME": "00:10:00",
    "QUEUE_FOR_JOBS": "N",
}

RECORDER = """#!{python}
import json, os, subprocess, sys, time
arguments = sys.argv[1:]
if arguments and arguments[0].endswith("launcher.py"):
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    at = arguments.index("-g") + 1
    used = [visible[int(i)] if int(i) < len(visible) else "none" for i in arguments[at].split(",")]
    job = os.environ.get("SLURM_JOB_ID")
    threads = os.environ.get("DEEPEMHANCER_THREADS")
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    record = {{"job": job, "given": visible, "used": used, "start": time.time()}}
    record["threads"], record["cores"] = threads, cores
    arguments[at] = "-1"
    path = os.path.join({folder!r}, "%s.json" % record["job"])
    with open(path, "w") as file:
        json.dump(record, file)
    time.sleep({pause})
    status = subprocess.call([{python!r}, *arguments])
    record["wall"] = time.time() - record["start"]
    with open(path, "w") as file:
        json.dump(record, file)
    sys.exit(status)
os.execv({python!r}, [{python!r}, *arguments])
"""


def slurm_runs():
    return (
        shutil.which("sinfo")
        and subprocess.run(["sinfo", "-h"], capture_output=True).stdout.strip()
    )


@unittest.skipUnless(
    slurm_runs(), "no SLURM answers here: as root, on a throw-away machine, run `.ci/scipion slurm`"
)
@unittest.skipUnless(
    HOSTS.exists(),
    f"{HOSTS} is part of the source, not of the installed package: run the tests in a checkout",
)
class TestSlurm(EnhanceTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.saved = Plugin.getActivation(), pw.Config.SCIPION_HOSTS
        cls.records = Path(cls.getOutputPath("records")).absolute()
        cls.bin = Path(cls.getOutputPath("bin")).absolute()
        for folder in (cls.records, cls.bin):
            folder.mkdir(parents=True, exist_ok=True)
        cls.record(pause=3)
        activation = f"{Plugin.getActivation()} && export PATH={cls.bin}:$PATH"
        os.environ[DEEPEMHANCER_ENV_ACTIVATION] = Plugin._vars[DEEPEMHANCER_ENV_ACTIVATION] = (
            activation
        )
        os.environ["SCIPION_HOSTS"] = pw.Config.SCIPION_HOSTS = str(HOSTS)
        cls.proj._loadHosts(None)

    @classmethod
    def tearDownClass(cls):
        activation, pw.Config.SCIPION_HOSTS = cls.saved
        os.environ[DEEPEMHANCER_ENV_ACTIVATION] = Plugin._vars[DEEPEMHANCER_ENV_ACTIVATION] = (
            activation
        )
        del os.environ["SCIPION_HOSTS"]

    @classmethod
    def record(cls, pause):
        """Put the recorder in the place of Python; it waits `pause` seconds first."""
        which = ["bash", "-c", f"{cls.saved[0]} && command -v python"]
        python = subprocess.run(which, capture_output=True, text=True, check=True).stdout.strip()
        program = cls.bin / "python"
        program.write_text(RECORDER.format(python=python, folder=str(cls.records), pause=pause))
        program.chmod(0o755)

    def setUp(self):
        for path in self.records.iterdir():
            path.unlink()

    def submit(self, steps="N", **arguments):
        prot = self.protocol(**{"useGpu": True, "inputVolume": self.volume, **arguments})
        prot._useQueue.set(True)
        prot.setQueueParams(["gpu", {**QUEUE, "QUEUE_FOR_JOBS": steps}])
        self.proj.launchProtocol(prot, wait=False)
        return prot

    def wait(self, prot, until=lambda prot: not prot.isActive(), seconds=120):
        end = time.time() + seconds
        while time.time() < end:
            self.proj._updateProtocol(prot)
            if until(prot):
                return prot
            time.sleep(1)
        self.fail(
            f"{prot.getStatusMessage()} after {seconds} s:\n"
            + subprocess.run(["squeue"], capture_output=True, text=True).stdout
        )

    def readRecords(self, expected):
        records = [json.loads(path.read_text()) for path in sorted(self.records.iterdir())]
        self.assertEqual(len(records), expected)
        for record in records:
            print(
                "\n"
                f"| {record['job']} | {','.join(record['given'])} | {','.join(record['used'])} | "
                f"{record['wall']:.0f} s |",
                end="",
            )
        return records

    def test_jobs_use_the_gpu_they_were_given(self):
        """Two protocols at once, both with GPU 0 in the form: each uses the GPU of its own job."""
        protocols = [
            self.wait(prot) for prot in [self.submit(gpuList="0"), self.submit(gpuList="0")]
        ]
        for prot in protocols:
            self.assertTrue(prot.isFinished(), prot.getErrorMessage())
            self.assertTrue(os.path.exists(prot.Volume.getFileName()))
        records = self.readRecords(2)
        self.assertEqual({record["given"][0] for record in records}, {"0", "1"})
        for record in records:
            self.assertEqual(record["used"], record["given"])

    def test_two_volumes_over_two_gpus(self):
        """By steps: each volume is a job of its own, at the same time, each on its own GPU."""
        folder = self.getOutputPath("set")
        os.makedirs(folder, exist_ok=True)
        for name in "ab":
            write_map(f"{folder}/{name}.mrc", self.half1)
        volumes = self.importVolume(f"{folder}/*.mrc")
        prot = self.wait(self.submit("Y", inputVolume=volumes, gpuList="0 1", numberOfThreads=3))
        self.assertTrue(prot.isFinished(), prot.getErrorMessage())
        self.assertEqual(prot.Volumes.getSize(), 2)
        self.assertEqual(prot.Volumes.getFirstItem().getDim(), SHAPE[::-1])
        records = self.readRecords(2)
        self.assertEqual({record["given"][0] for record in records}, {"0", "1"})
        for record in records:
            self.assertEqual(record["used"], record["given"])
        self.assertLess(abs(records[0]["start"] - records[1]["start"]), 10)

    def test_job_has_the_cores_that_the_form_says(self):
        prot = self.wait(self.submit(binThreads=2))
        self.assertTrue(prot.isFinished(), prot.getErrorMessage())
        (record,) = self.readRecords(1)
        self.assertEqual((record["threads"], record["cores"]), ("2", "2"))
        self.assertIn("2 cores", " ".join(prot.summary()))

    def test_failing_job(self):
        """As one job and by steps, the protocol fails; its message and its log say why."""
        weights = self.getOutputPath("broken.hd5")
        Path(weights).write_text("no weights")
        submitted = [
            self.submit(steps, weights=WEIGHTS_FILE, weightsFile=weights) for steps in "NY"
        ]
        for prot in map(self.wait, submitted):
            self.assertTrue(prot.isFailed(), prot.getStatusMessage())
            self.assertIn("broken.hd5", prot.getErrorMessage())
            self.assertIn(
                "broken.hd5",
                Path(prot.getStdoutLog()).read_text() + Path(prot.getStderrLog()).read_text(),
            )
            self.assertEqual(list(Path(prot._getExtraPath()).glob("*.mrc")), [])

    def test_cancelled_job_leaves_nothing(self):
        self.record(pause=60)
        try:
            for steps in "NY":
                prot = self.submit(steps)
                self.wait(prot, until=lambda prot: any(self.records.iterdir()))
                self.proj._updateProtocol(prot)
                jobs = [str(job) for job in prot.getJobIds()]
                self.assertEqual(len(jobs), 1)
                self.proj.stopProtocol(prot)
                self.assertEqual(prot.getStatus(), STATUS_ABORTED)
                end = time.time() + 30
                while list_jobs(jobs) and time.time() < end:
                    time.sleep(1)
                self.assertEqual(list_jobs(jobs), "")
                self.assertEqual(list(Path(prot._getExtraPath()).glob("*.mrc")), [])
                self.proj._updateProtocol(prot)
                self.assertFalse(hasattr(prot, "Volume"))
                for path in self.records.iterdir():
                    path.unlink()
        finally:
            self.record(pause=3)


def list_jobs(jobs):
    return subprocess.run(
        ["squeue", "-h", "-j", ",".join(jobs)], capture_output=True, text=True
    ).stdout
