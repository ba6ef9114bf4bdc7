"""A set of volumes that grows while the protocol runs on it."""

import tempfile
import time
from pathlib import Path

from pwem.objects import SetOfVolumes, Volume
from pwem.protocols import ProtImportVolumes
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import StepExecutor
from pyworkflow.protocol.constants import MODE_RESUME

from deepemhancer_plugin.protocols import ProtDeepEMhancer
from deepemhancer_plugin.tests.base import RATE, EnhanceTest, write_map

# Takes the place of the program: copies the map, and notes its name. With a map called "bad" it
# fails after a while.
STANDIN = """
while [ $# -gt 0 ]; do
    case "$1" in -i) input=$2;; -o) output=$2;; --report) report=$2;; esac
    shift
done
map=$(basename "$(readlink -f "$input")")
case "$map" in bad*) [ -e "$0.mended" ] || { sleep 9; echo "no such luck"; exit 1; };; esac
cp -L "$input" "$output"
echo '{"fsc": {"frequency": [0, 0.1], "unmasked": [1, 0.5], "resolution": 5}}' >"$report"
echo "$map" >>"$0.calls"
"""


class TestStreaming(EnhanceTest):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(dir=self.proj.path))
        self.script = self.folder / "standin"
        self.script.write_text(STANDIN)

    def makeProducer(self, *names):
        """Return a finished run whose output is an open set of these maps."""
        self.producer = self.newProtocol(
            ProtImportVolumes, filesPath=self.paths[0], samplingRate=RATE
        )
        self.launchProtocol(self.producer)
        self.volumes = self.producer._createSetOfVolumes()
        self.volumes.setSamplingRate(RATE)
        self.add(*names)

    def add(self, *names, state=SetOfVolumes.STREAM_OPEN):
        """Add maps to the producer's set, each with half maps attached."""
        if self.volumes.getSize():
            self.volumes.close()  # what was read of it meanwhile
            self.volumes.enableAppend()
        for name in names:
            paths = [
                write_map(self.folder / f"{name}{suffix}.mrc", data)
                for suffix, data in (
                    ("", self.half1 + self.half2),
                    ("_half1", self.half1),
                    ("_half2", self.half2),
                )
            ]
            volume = Volume(paths[0])
            volume.setHalfMaps(paths[1:])
            volume.setSamplingRate(RATE)
            self.volumes.append(volume)
        self.producer._updateOutputSet("volumes", self.volumes, state)
        self.producer.mapper.commit()

    def start(self, prot):
        with self.insteadOfTheProgram(f'bash {self.script} "$@"'):
            self.proj.launchProtocol(prot, wait=False)

    def waitFor(self, prot, condition):
        """Wait until a run fulfils a condition."""
        end = time.time() + 90
        while not condition() and time.time() < end:
            time.sleep(0.5)
            self.proj._updateProtocol(prot)  # as Scipion's window does
        self.assertTrue(condition(), f"{prot.getStatusMessage()}: {prot.getErrorMessage()}")

    def calls(self):
        path = Path(f"{self.script}.calls")
        return path.read_text().split() if path.exists() else []

    def check(self, prot, names):
        """Check that the output is closed and has these volumes, in their order."""
        self.assertTrue(prot.Volumes.isStreamClosed())
        self.assertEqual(prot.Volumes.getSize(), len(names))
        stored = SetOfVolumes(filename=prot.Volumes.getFileName())
        stored.loadAllProperties()
        self.assertTrue(stored.isStreamClosed())
        found = [(volume.getObjId(), volume.getObjComment()) for volume in stored]
        self.assertEqual(found, [(n, f"enhanced {name}.mrc") for n, name in enumerate(names, 1)])
        stored.close()
        self.assertEqual(
            [step.funcName.get() for step in prot.loadSteps()],
            ["convertInputStep", "deepVolPostProStep"] * len(names) + ["createOutputStep"],
        )

    def grow(self, **arguments):
        """Run on two maps, to which a third and a fourth come; return the finished run."""
        self.makeProducer("a", "b")
        prot = self.protocol(inputVolume=self.producer.volumes, **arguments)
        self.assertEqual(prot.validate(), [])
        self.start(prot)
        self.waitFor(prot, lambda: hasattr(prot, "Volumes") and len(prot.Volumes) == 2)
        self.add("c")
        self.waitFor(prot, lambda: len(prot.Volumes) == 3)
        self.assertTrue(prot.Volumes.isStreamOpen())
        self.assertTrue(prot.isRunning())
        self.add("d", state=SetOfVolumes.STREAM_CLOSED)
        self.waitFor(prot, prot.isFinished)
        self.check(prot, "abcd")
        return prot

    def test_each_new_volume_is_enhanced(self):
        prot = self.grow()
        self.assertEqual(self.calls(), ["a.mrc", "b.mrc", "c.mrc", "d.mrc"])
        # nothing is missing, so nothing runs
        prot.runMode.set(MODE_RESUME)
        with self.insteadOfTheProgram(f'bash {self.script} "$@"'):
            self.launchProtocol(prot)
        self.assertEqual(len(self.calls()), 4)
        self.check(prot, "abcd")

    def test_half_maps_in_threads(self):
        prot = self.grow(numberOfThreads=3, useHalfMapsInsteadVol=True)
        self.assertEqual(sorted(self.calls()), [f"{name}_half1.mrc" for name in "abcd"])
        self.assertEqual(len(prot.outputFSC), 4)
        related = [parent.getObjId() for parent in self.proj.getSourceParents(prot.Volumes)]
        self.assertIn(self.producer.volumes.getObjId(), related)

    def test_continue_does_what_is_missing(self):
        """After a failure, and with a set that has grown meanwhile and still does."""
        self.makeProducer("a", "bad")
        prot = self.protocol(inputVolume=self.producer.volumes, numberOfThreads=3)
        self.start(prot)
        self.waitFor(prot, prot.isFailed)
        self.assertIn("no such luck", prot.getErrorMessage())
        self.assertEqual(self.calls(), ["a.mrc"])
        self.assertEqual(len(prot.Volumes), 1)
        self.assertTrue(prot.Volumes.isStreamClosed())
        Path(f"{self.script}.mended").touch()
        self.add("c")
        prot.runMode.set(MODE_RESUME)
        self.start(prot)
        self.waitFor(prot, lambda: len(prot.Volumes) == 3)
        self.assertTrue(prot.Volumes.isStreamOpen())
        self.add("d", state=SetOfVolumes.STREAM_CLOSED)
        self.waitFor(prot, prot.isFinished)
        self.assertEqual(sorted(self.calls()), ["a.mrc", "bad.mrc", "c.mrc", "d.mrc"])
        self.check(prot, ["a", "bad", "c", "d"])

    def test_new_volume_without_half_maps(self):
        """It comes after the run was validated."""
        self.makeProducer("a")
        prot = self.protocol(inputVolume=self.producer.volumes, useHalfMapsInsteadVol=True)
        prot._insertAllSteps()
        volume = prot._todo["1"].volume
        volume.setHalfMaps([])
        with self.assertRaisesRegex(PyworkflowException, "a.mrc has no half maps attached"):
            prot.convertInputStep("1", prot._filesOf(volume), None)

    def test_gpus_are_dealt_out_from_the_start(self):
        """The first map does not take the GPUs of those to come."""
        self.makeProducer("a")
        prot = self.protocol(
            inputVolume=self.producer.volumes, useGpu=True, gpuList="1 3", numberOfThreads=3
        )
        prot._stepsExecutor = StepExecutor(None, gpuList=[1, 3])
        prot._stepsExecutor.getGpuList = lambda: [3]
        self.assertEqual(prot._gpuArguments(), ["-g", "3"])
        self.assertEqual(prot.countParallelJobs(), 2)
        self.assertTrue(ProtDeepEMhancer.worksInStreaming())
