"""The protocol: every kind of input, normalisation and model, wrong inputs, continue, export."""

import json
import os
import shlex
import subprocess
import time
import unittest
from pathlib import Path

import mrcfile
import numpy as np
from pwem.objects import SetOfVolumes, Volume
from pyworkflow.constants import NEW
from pyworkflow.protocol import StepExecutor, ThreadStepExecutor
from pyworkflow.protocol.constants import MODE_RESTART, MODE_RESUME, STATUS_ABORTED

from deepemhancer_plugin.constants import (
    DEEPEMHANCER_MODELS,
    MODEL_HIGHRES,
    MODEL_TIGHT,
    MODEL_WIDE,
    NORMALIZATION_AUTO,
    NORMALIZATION_MASK,
    NORMALIZATION_STATS,
    WEIGHTS_FILE,
    WEIGHTS_OFFICIAL,
)
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import ProtDeepEMhancer
from deepemhancer_plugin.protocols.maps import strip_format
from deepemhancer_plugin.tests.base import CHECKOUT, RATE, SHAPE, SHIFTS, EnhanceTest, write_map

CHECKPOINT_WRITER = CHECKOUT / "tests" / "helpers" / "official_checkpoint.py"

# Xmipp's protocol, so that its workflows carry over by changing the class name
XMIPP_PARAMETERS = {
    "useHalfMapsInsteadVol": False,
    "halfMapsAttached": True,
    "inputHalf1": None,
    "inputHalf2": None,
    "inputVolume": None,
    "normalization": 0,
    "inputMask": None,
    "noiseMean": None,
    "noiseStd": None,
    "modelType": 0,
    "performCleaningStep": False,
    "sizeFraction_CC": 0.05,
    "batch_size": 8,
    "gpuList": "0",
}


class TestForm(EnhanceTest):
    """What the protocol knows before it runs."""

    def test_xmipp_parameters(self):
        prot = self.newProtocol(ProtDeepEMhancer)
        for name, default in XMIPP_PARAMETERS.items():
            self.assertEqual(getattr(prot, name).get(), default, name)

    def test_every_parameter_is_explained(self):
        for name, param in self.newProtocol(ProtDeepEMhancer).getDefinition().iterParams():
            if name in XMIPP_PARAMETERS or name in (
                "weights",
                "weightsFile",
                "maskThreshold",
                "useGpu",
            ):
                self.assertGreater(len(param.help.get("")), 20, name)

    def test_valid_inputs_give_no_errors(self):
        for arguments in (
            {},
            {"useHalfMapsInsteadVol": True},
            {
                "useHalfMapsInsteadVol": True,
                "halfMapsAttached": False,
                "inputVolume": None,
                "inputHalf1": self.importVolume(self.paths[1]),
                "inputHalf2": self.importVolume(self.paths[2]),
            },
            {"normalization": NORMALIZATION_MASK, "inputMask": self.importMask(self.mask)},
            {"normalization": NORMALIZATION_STATS, "noiseMean": -0.1, "noiseStd": 0.2},
        ):
            self.assertEqual(
                self.protocol(**{"inputVolume": self.volume, **arguments}).validate(), [], arguments
            )

    def errors(self, **arguments):
        errors = self.protocol(**{"inputVolume": self.volume, **arguments}).validate()
        for error in errors:
            self.assertNotIn("\n", error)
        return " ".join(errors)

    def test_empty_input(self):
        self.assertIn("*Input volume(s)* is empty", self.errors(inputVolume=None))
        self.assertIn(
            "*Half map 2* is empty",
            self.errors(useHalfMapsInsteadVol=True, halfMapsAttached=False, inputHalf1=self.volume),
        )

    def test_no_half_maps_attached(self):
        self.assertIn(
            "no half maps attached",
            self.errors(useHalfMapsInsteadVol=True, inputVolume=self.importVolume(self.paths[0])),
        )

    def test_half_map_deleted(self):
        volume = self.volume.clone()
        volume.setHalfMaps([self.volume.getHalfMaps(asList=True)[0], "gone.mrc"])
        volume.setFileName(self.volume.getFileName())
        prot = self.protocol(useHalfMapsInsteadVol=True, inputVolume=volume)
        self.assertIn("gone.mrc does not exist", " ".join(prot._validate()))

    def test_half_maps_differ(self):
        other = self.importVolume(
            write_map(self.getOutputPath("odd.mrc"), self.half1[:-1, :, 1:]), shifts=None
        )
        coarse = self.importVolume(self.paths[2], rate=2.0, shifts=None)
        halves = {
            "useHalfMapsInsteadVol": True,
            "halfMapsAttached": False,
            "inputHalf1": self.volume,
        }
        self.assertRegex(
            self.errors(**halves, inputHalf2=other), r"box of \(36, 40, 44\).*box of|\(35, 40, 43\)"
        )
        self.assertIn("1.5 A/voxel", self.errors(**halves, inputHalf2=coarse))
        self.assertIn("same map", self.errors(**halves, inputHalf2=self.volume))

    def test_image_instead_of_volume(self):
        flat = self.importVolume(
            write_map(self.getOutputPath("flat.mrc"), self.half1[:1]), shifts=None
        )
        self.assertIn("is not a volume", self.errors(inputVolume=flat))

    def test_map_deleted(self):
        volume = self.importVolume(write_map(self.getOutputPath("short-lived.mrc"), self.half1))
        os.remove(strip_format(volume.getFileName()))
        self.assertIn("does not exist", self.errors(inputVolume=volume))

    def test_mask(self):
        self.assertIn("*Mask* is empty", self.errors(normalization=NORMALIZATION_MASK))
        other = self.importMask(self.mask[:, :, :-2])
        self.assertIn("*Mask* of", self.errors(normalization=NORMALIZATION_MASK, inputMask=other))
        # not asked for, so not looked at
        self.assertEqual(self.errors(normalization=NORMALIZATION_AUTO, inputMask=other), "")

    def test_noise_numbers(self):
        self.assertIn("*Noise mean*", self.errors(normalization=NORMALIZATION_STATS, noiseStd=1))
        for std in (None, 0, -1, float("nan"), float("inf")):
            self.assertIn(
                "*Noise standard deviation*",
                self.errors(normalization=NORMALIZATION_STATS, noiseMean=0, noiseStd=std),
                std,
            )

    def test_numbers_out_of_range(self):
        self.assertIn("Batch size", self.errors(batch_size=0))
        self.assertIn("between 0 and 1", self.errors(performCleaningStep=True, sizeFraction_CC=1.5))
        self.assertIn("GPU IDs", self.errors(useGpu=True, gpuList="-1"))

    def test_symmetry(self):
        for name in ("c4", "D7", " o", "i", "I3", ""):
            self.assertEqual(self.errors(symmetryGroup=name), "", name)
        for name in ("c0", "x3", "i5", "d"):
            self.assertIn("*Symmetry*", self.errors(symmetryGroup=name), name)
        for rise, twist in ((0, 30), (4.75, None), (None, 30), (4.75, 190)):
            self.assertIn(
                "*Helix*", self.errors(helicalRise=rise, helicalTwist=twist), (rise, twist)
            )
        self.assertEqual(self.errors(helicalRise=4.75, helicalTwist=0.0), "")
        self.assertEqual(self.errors(helicalRise=0, symmetryGroup="c4"), "")  # not asked for

    def test_weights(self):
        self.assertIn("*Weights file* is empty", self.errors(weights=WEIGHTS_FILE))
        self.assertIn(
            "/nowhere.hd5 does not exist",
            self.errors(weights=WEIGHTS_FILE, weightsFile="/nowhere.hd5"),
        )
        self.assertIn(
            "scipion3 installb deepemhancer_models", self.errors(weights=WEIGHTS_OFFICIAL)
        )
        self.assertIn(
            "masked",
            self.errors(
                weights=WEIGHTS_OFFICIAL,
                normalization=NORMALIZATION_MASK,
                inputMask=self.importMask(self.mask),
            ),
        )

    def test_gpu_arguments(self):
        """The executor's numbers are handed on; in a queue they count the job's own GPUs."""

        prot = self.protocol(useGpu=True, gpuList="1 3")
        for gpus, arguments in (([1, 3], ["-g", "1,3"]), ([0], ["-g", "0"]), ([], [])):
            prot._stepsExecutor = StepExecutor(None, gpuList=gpus)
            self.assertEqual(prot._gpuArguments(), arguments)
        # dealt out over two threads, of which a single map needs one
        prot._stepsExecutor = ThreadStepExecutor(None, 2, gpuList=[1, 3])
        self.assertEqual(prot._gpuArguments(), ["-g", "1,3"])
        prot.countJobs = lambda: 2
        prot._stepsExecutor.getGpuList = lambda: [3]
        self.assertEqual(prot._gpuArguments(), ["-g", "3"])
        self.assertEqual(prot.getGpuList(), [1, 3])
        prot.gpuList.set(None)  # as a workflow file may have it
        self.assertEqual(prot.getGpuList(), [])
        self.assertEqual(prot._validateGpu(), [])
        prot.useGpu.set(False)
        self.assertEqual(prot._gpuArguments(), ["-g", "-1"])
        self.assertEqual(prot.getGpuList(), [])  # a queue is not asked for GPUs

    def test_queue_is_asked_for_threads_and_gpus(self):
        """A job for all maps has the cores of all that run at a time, a job per map its own."""
        prot = self.protocol(
            inputVolume=self.volume, useGpu=True, gpuList="0 1 2", numberOfThreads=3, binThreads=4
        )
        prot.setHostConfig(self.proj.getHostConfig("localhost"))
        prot.countJobs = lambda: 5
        for steps, threads, gpus in (("N", 8, 3), ("Y", 4, 2)):
            prot.setQueueParams(["gpu", {"QUEUE_FOR_JOBS": steps}])
            submit = prot.getSubmitDict()
            self.assertEqual((submit["JOB_THREADS"], submit["GPU_COUNT"]), (threads, gpus), steps)
        prot.setQueueParams(["gpu", {"QUEUE_FOR_JOBS": "N", "JOB_THREADS": "7"}])
        self.assertEqual(prot.getSubmitDict()["JOB_THREADS"], "7")  # said in the queue's dialog
        del prot.countJobs  # a single map
        prot.binThreads.set(0)
        prot.setQueueParams(["gpu", {"QUEUE_FOR_JOBS": "N"}])
        self.assertEqual(prot.getSubmitDict()["JOB_THREADS"], 1)

    def test_label_has_what_people_search_for(self):
        label = ProtDeepEMhancer.getClassLabel()
        self.assertEqual(label, "deepemhancer - enhance map (deepEMhancer)")
        self.assertEqual(ProtDeepEMhancer._devStatus, NEW)

    def warnings(self, **arguments):
        prot = self.protocol(**{"inputVolume": self.volume, **arguments})
        self.assertEqual(prot.validate(), [])
        return " ".join(prot.warnings())

    def test_warns_of_half_maps_that_are_not_used(self):
        self.assertIn("half maps attached", self.warnings())
        self.assertEqual(self.warnings(useHalfMapsInsteadVol=True), "")
        self.assertEqual(self.protocol().warnings(), [])  # no input yet

    def test_warns_of_coarse_sampling(self):
        coarse = self.importVolume(self.paths[0], rate=3.2)
        self.assertIn("nothing finer than 6.4 A", self.warnings(inputVolume=coarse))
        self.assertEqual(self.warnings(inputVolume=self.importVolume(self.paths[0])), "")

    def test_warns_of_the_high_resolution_model(self):
        """In strong noise the blobs of 2 A do not reach 4 A, in weak noise they do."""
        coarse = self.importVolume(self.paths[0], rate=2.1)
        self.assertIn("ends at 4.2 A", self.warnings(inputVolume=coarse, modelType=MODEL_HIGHRES))
        rng = np.random.default_rng(0)
        signal = (self.half1 + self.half2) / 2 * self.mask
        for noise, words in ((0.5, "FSC of its half maps"), (1e-4, "")):
            paths = [
                write_map(self.getOutputPath(f"noise{n}.mrc"), signal + rng.normal(0, noise, SHAPE))
                for n in range(3)
            ]
            text = self.warnings(
                inputVolume=self.importVolume(*paths),
                useHalfMapsInsteadVol=True,
                modelType=MODEL_HIGHRES,
            )
            self.assertEqual("highRes" in text, bool(words), noise)
            self.assertIn(words, text)

    def test_warns_of_processed_input(self):
        path = write_map(self.getOutputPath("tight.mrc"), self.half1 * self.mask)
        text = self.warnings(inputVolume=self.importVolume(path))
        self.assertIn("tight.mrc looks masked", text)

    def test_options(self):
        """What the form says is what the command line gets."""

        def options(**arguments):
            return " ".join(self.protocol(inputVolume=self.volume, **arguments)._options())

        self.assertEqual(options(), "--weights embedded -p tightTarget")
        self.assertIn("-b 4 ", options(useGpu=True, batch_size=4))
        self.assertIn("-p highRes", options(modelType=MODEL_HIGHRES))
        self.assertIn(
            "--noiseStats -0.25 0.5",
            options(normalization=NORMALIZATION_STATS, noiseMean=-0.25, noiseStd=0.5),
        )
        self.assertIn(
            "--cleaningStrength 0.1", options(performCleaningStep=True, sizeFraction_CC=0.1)
        )
        self.assertIn(
            f"--deepLearningModelPath {Plugin.getCheckpointsFolder()}",
            options(weights=WEIGHTS_OFFICIAL),
        )
        self.assertNotIn("-p ", options(normalization=NORMALIZATION_MASK))
        self.assertIn(
            "--weights /some/file.hd5", options(weights=WEIGHTS_FILE, weightsFile="/some/file.hd5")
        )
        self.assertTrue(options(symmetryGroup=" d7").endswith("--sym D7"))
        self.assertTrue(
            options(helicalRise=4.75, helicalTwist=-1.4).endswith("--helical 4.75 -1.4")
        )
        self.assertNotIn(
            "--helical", options(helicalRise=4.75, helicalTwist=-1.4, symmetryGroup="c4")
        )
        self.assertTrue(options(averageOver=3).endswith("--average 4"))
        self.assertTrue(options(useHalfMapsInsteadVol=True, checkTrust=True).endswith("--trust"))
        # a single map has nothing to be compared with
        self.assertNotIn("--trust", options(checkTrust=True))

    def test_continue_sees_what_changed(self):
        """Steps that must run again have other arguments than in the run before."""

        def steps(**arguments):
            prot = self.protocol(
                **{
                    "inputVolume": self.volume,
                    "normalization": NORMALIZATION_MASK,
                    "inputMask": mask,
                    **arguments,
                }
            )
            prot._insertAllSteps()
            return prot._steps

        mask, other = self.importMask(self.mask), self.importVolume(self.paths[1])
        for arguments, changed in (
            ({}, [False] * 3),
            ({"inputVolume": other}, [True] * 3),
            ({"maskThreshold": 0.7}, [True] * 3),
            # the output's file is the same
            ({"performCleaningStep": True}, [False, True, False]),
        ):
            self.assertEqual(
                [one != two for one, two in zip(steps(), steps(**arguments))],
                changed,
                arguments,
            )

    def test_citations(self):
        prot = self.newProtocol(ProtDeepEMhancer)
        text = " ".join(prot.citations())
        for doi in (
            "10.1038/s42003-021-02399-1",
            "10.1107/S2052252522006959",
            "10.1107/S2052252519011692",
            "10.7554/eLife.27131",
        ):
            self.assertIn(doi, text)

    def test_export_and_import(self):
        prot = self.protocol(
            inputVolume=self.volume, modelType=MODEL_WIDE, noiseMean=-0.25, performCleaningStep=True
        )
        self.saveProtocol(prot)
        path = self.getOutputPath("workflow.json")
        self.proj.getRunsGraph(refresh=True)
        self.proj.exportProtocols([prot], path)
        copies = self.proj.loadProtocols(path)
        copy = next(iter(copies.values()))
        self.assertIsInstance(copy, ProtDeepEMhancer)
        for name in XMIPP_PARAMETERS:
            if not name.startswith("input"):
                self.assertEqual(getattr(copy, name).get(), getattr(prot, name).get(), name)


class TestEnhance(EnhanceTest):
    """Real runs in the inference environment."""

    def checkOutput(self, prot, volume=None):
        """Check that the output has the input's geometry, in the object and in the file."""
        volume = volume or prot.Volume
        self.assertIsInstance(volume, Volume)
        self.assertEqual(volume.getDim(), SHAPE[::-1])
        self.assertAlmostEqual(volume.getSamplingRate(), RATE)
        np.testing.assert_allclose(volume.getOrigin(force=True).getShifts(), SHIFTS)
        with mrcfile.open(volume.getFileName()) as mrc:
            np.testing.assert_allclose(mrc.voxel_size.tolist(), RATE, rtol=1e-5)
            np.testing.assert_allclose(mrc.header.origin.tolist(), SHIFTS)
            self.assertTrue(np.isfinite(mrc.data).all())
            self.assertGreater(mrc.data.std(), 0)
            return mrc.data.copy()

    def commandLine(self, *arguments):
        """The map that the command line gives for the same input."""
        output = self.getOutputPath("command_line.mrc")
        command = Plugin.getCommand(
            [*arguments, "-g", "-1", "-o", output, "--report", output + ".json"]
        )
        subprocess.run(
            ["bash", "-c", command], check=True, env=Plugin.getEnviron(), capture_output=True
        )
        return mrcfile.read(output)

    def test_attached_half_maps(self):
        prot = self.enhance(inputVolume=self.volume, useHalfMapsInsteadVol=True)
        data = self.checkOutput(prot)
        halves = self.volume.getHalfMaps(asList=True)
        np.testing.assert_array_equal(
            data, self.commandLine("-i", halves[0], "-i2", halves[1], "-s", str(RATE))
        )
        related = self.proj.getSourceParents(prot.Volume)
        self.assertIn(self.volume.getObjId(), [parent.getObjId() for parent in related])
        summary = "\n".join(prot.summary())
        for words in ("embedded weights", "Device: ", "CPU", "half maps"):
            self.assertIn(words, summary)
        self.assertIn("difference of the half maps", prot.methods()[0])
        # The half maps were linked, not copied, and the links are gone
        self.assertFalse(
            os.listdir(prot._getTmpPath()) if os.path.exists(prot._getTmpPath()) else []
        )
        log = open(prot.getStdoutLog()).read()
        self.assertIn("launcher.py", log)
        self.assertNotIn("Traceback", log + open(prot.getStderrLog()).read())

    def test_separate_half_maps(self):
        one, two = (self.importVolume(path) for path in self.paths[1:])
        prot = self.enhance(
            useHalfMapsInsteadVol=True,
            halfMapsAttached=False,
            inputHalf1=one,
            inputHalf2=two,
            modelType=MODEL_WIDE,
            symmetryGroup="c2",
            checkTrust=True,
        )
        self.checkOutput(prot)
        parents = [parent.getObjId() for parent in self.proj.getSourceParents(prot.Volume)]
        self.assertIn(one.getObjId(), parents)
        self.assertIn(two.getObjId(), parents)
        for words in ("wideTarget", "Symmetry: ", "Against the half maps: "):
            self.assertIn(words, "\n".join(prot.summary()))

    def test_single_map_with_statistics_and_cleaning(self):
        prot = self.enhance(
            inputVolume=self.volume,
            normalization=NORMALIZATION_STATS,
            noiseMean=-0.001,
            noiseStd=0.07,
            modelType=MODEL_HIGHRES,
            performCleaningStep=True,
        )
        self.checkOutput(prot)
        summary = "\n".join(prot.summary())
        self.assertIn("mean -0.001, standard deviation 0.07", summary)
        self.assertIn("Removed: ", summary)

    def test_warnings_name_the_file_of_the_user(self):
        """Not a link in the run's folder, which is gone after the run."""
        path = write_map(self.getOutputPath("tight.mrc"), self.half1 * self.mask)
        prot = self.enhance(inputVolume=self.importVolume(path))
        warnings = [line for line in prot.summary() if "looks masked" in line]
        self.assertEqual(len(warnings), 1)
        self.assertIn("tight.mrc", warnings[0])
        self.assertNotIn("inputVol", warnings[0])

    def test_cores_are_those_of_the_form(self):
        prot = self.enhance(inputVolume=self.volume, binThreads=1)
        self.assertIn("1 core", "\n".join(prot.summary()))
        self.assertNotIn("1 cores", "\n".join(prot.summary()))
        log = open(prot.getStdoutLog()).read() + open(prot.getStderrLog()).read()
        self.assertNotIn("Cannot get information about MPI/threads", log)

    def test_continue_runs_what_changed(self):
        prot = self.enhance(inputVolume=self.volume, modelType=MODEL_TIGHT)
        output = prot.Volume.getFileName()
        first = mrcfile.read(output)
        prot.normalization.set(NORMALIZATION_STATS)
        prot.noiseMean.set(0.0)
        prot.noiseStd.set(0.5)
        prot.runMode.set(MODE_RESUME)
        self.launchProtocol(prot)
        self.assertFalse(np.array_equal(first, self.checkOutput(prot)))
        stamp = os.stat(output).st_mtime_ns
        self.launchProtocol(prot)  # nothing changed: nothing runs
        self.assertEqual(os.stat(output).st_mtime_ns, stamp)
        prot.runMode.set(MODE_RESTART)
        self.launchProtocol(prot)
        self.assertNotEqual(os.stat(output).st_mtime_ns, stamp)

    def test_failure_says_why_and_leaves_nothing(self):
        weights = self.getOutputPath("broken.hd5")
        with open(weights, "w") as file:
            file.write("no weights")
        prot = self.protocol(inputVolume=self.volume, weights=WEIGHTS_FILE, weightsFile=weights)
        message = self.fails(prot)
        self.assertIn("deepemhancer failed: ", message)
        self.assertIn("broken.hd5", message)
        self.assertNotIn("\n", message)
        self.assertFalse(hasattr(prot, "Volume"))
        self.assertEqual(
            [name for name in os.listdir(prot._getExtraPath()) if name.endswith(".mrc")], []
        )
        self.assertIn(
            "broken.hd5", open(prot.getStdoutLog()).read() + open(prot.getStderrLog()).read()
        )

    def test_killed_run_says_so(self):
        """As the system does when the memory is used up."""
        with self.insteadOfTheProgram("bash -c 'echo reading; kill -9 $$'"):
            message = self.fails(self.protocol(inputVolume=self.volume))
        self.assertIn("deepemhancer was killed by signal 9: ", message)

    def test_stopped_run_leaves_nothing(self):
        prot = self.protocol(inputVolume=self.volume)
        with self.insteadOfTheProgram("echo reading; sleep 987"):
            self.proj.launchProtocol(prot, wait=False)
            log = Path(prot._getExtraPath("enhanced.log"))
            end = time.time() + 60
            while not (log.exists() and log.read_text()) and time.time() < end:
                time.sleep(0.2)
            self.assertEqual(log.read_text(), "reading\n")
            self.proj.stopProtocol(prot)
        self.assertEqual(prot.getStatus(), STATUS_ABORTED)
        self.assertEqual([path.name for path in log.parent.iterdir()], ["enhanced.log"])
        sleeping = subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True
        ).stdout.splitlines()
        self.assertNotIn("sleep 987", sleeping)

    def test_gpu_that_is_not_there(self):
        if os.path.exists("/dev/nvidiactl"):
            self.skipTest("this machine has a GPU")
        message = self.fails(self.protocol(inputVolume=self.volume, useGpu=True, gpuList="0"))
        self.assertRegex(message, r"(?i)gpu")

    def test_map_without_an_origin_keeps_its_header(self):
        path = write_map(self.getOutputPath("header.mrc"), self.half1, origin=(1.0, 2.0, 3.0))
        prot = self.enhance(inputVolume=self.importVolume(path, shifts=None))
        with mrcfile.open(prot.Volume.getFileName()) as mrc:
            self.assertEqual(mrc.header.origin.tolist(), (1.0, 2.0, 3.0))
        np.testing.assert_allclose(
            prot.Volume.getOrigin().getShifts(), [-n * RATE / 2 for n in SHAPE[::-1]]
        )

    def test_set_of_volumes(self):
        folder = self.getOutputPath("set")
        os.makedirs(folder, exist_ok=True)
        rng = np.random.default_rng(3)
        for name, scale in (("a", 1), ("b", 2)):
            write_map(f"{folder}/{name}.mrc", scale * self.half1 + rng.normal(0, 0.01, SHAPE))
        volumes = self.importVolume(f"{folder}/*.mrc")
        self.assertIsInstance(volumes, SetOfVolumes)
        prot = self.enhance(inputVolume=volumes, numberOfThreads=3)
        self.assertEqual(prot.Volumes.getSize(), 2)
        self.assertAlmostEqual(prot.Volumes.getSamplingRate(), RATE)
        names = set()
        for volume, source in zip(
            prot.Volumes.iterItems(iterate=False), volumes.iterItems(iterate=False)
        ):
            self.assertEqual(volume.getObjId(), source.getObjId())
            np.testing.assert_allclose(volume.getOrigin().getShifts(), SHIFTS)
            self.assertEqual(volume.getDim(), SHAPE[::-1])
            names.add(volume.getFileName())
        self.assertEqual(len(names), 2)
        self.assertIn(
            volumes.getObjId(),
            [parent.getObjId() for parent in self.proj.getSourceParents(prot.Volumes)],
        )
        self.assertFalse(hasattr(prot, "outputFSC"))  # no half maps
        summary = "\n".join(prot.summary())
        self.assertIn("*Volume 1*", summary)
        self.assertIn("*Volume 2*", summary)

    def test_formats(self):
        """A map that is not an MRC file is converted."""
        from pwem.emlib.image import ImageHandler

        path = self.getOutputPath("spider.vol")
        ImageHandler().convert(self.paths[0], path)
        prot = self.enhance(inputVolume=self.importVolume(path, shifts=None))
        self.assertEqual(prot.Volume.getDim(), SHAPE[::-1])
        with mrcfile.open(prot.Volume.getFileName()) as mrc:
            np.testing.assert_allclose(mrc.voxel_size.tolist(), RATE, rtol=1e-5)
        report = json.load(open(prot._getExtraPath("enhanced.json")))
        self.assertAlmostEqual(report["sampling_rate"], RATE)

    def test_mask_with_embedded_weights(self):
        """The mask says where the noise is measured, and what is outside of it becomes zero."""
        prot = self.enhance(
            inputVolume=self.volume,
            normalization=NORMALIZATION_MASK,
            inputMask=self.importMask(self.mask),
        )
        self.assertFalse(self.checkOutput(prot)[~self.mask].any())
        self.assertRegex("\n".join(prot.summary()), r"Noise: .* \(from outside the mask\)")
        self.assertRegex(
            prot.methods()[0], r"normalised by noise measured outside a mask .*\) and masked\."
        )

    def test_soft_mask_is_made_binary(self):
        from deepemhancer_plugin.protocols.maps import write_binary_mask

        soft = self.mask * 0.75 + 0.1
        source, target = (
            write_map(self.getOutputPath("soft.mrc"), soft),
            self.getOutputPath("hard.mrc"),
        )
        write_binary_mask(0, source, target, 0.5)
        np.testing.assert_array_equal(mrcfile.read(target) > 0, self.mask)
        with self.assertRaisesRegex(Exception, "no voxel lies above the mask threshold 2"):
            write_binary_mask(0, source, target, 2)
        with self.assertRaisesRegex(Exception, "every voxel lies above"):
            write_binary_mask(0, source, target, 0)


@unittest.skipUnless(CHECKPOINT_WRITER.exists(), "needs the source: run the tests in a checkout")
class TestOfficial(EnhanceTest):
    """Weights in the format of the authors' files, small ones, written for the test."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.models = os.path.abspath(cls.getOutputPath("models"))
        folder = os.path.join(cls.models, "production_checkpoints")
        os.makedirs(folder, exist_ok=True)
        code = (
            f"import sys; sys.path.insert(0, {str(CHECKPOINT_WRITER.parent)!r}); import "
            f"official_checkpoint as o;o.write_small({folder + '/deepEMhancer_tightTarget.hd5'!r}, "
            f"seed=1);o.write_small({folder + '/deepEMhancer_wideTarget.hd5'!r}, "
            f"seed=2);o.write_small({folder + '/deepEMhancer_masked.hd5'!r}, seed=3, "
            "normalization=o.norm_fun('inputNormalizationWithMask_2'))"
        )
        command = f"{Plugin.getActivation()} && python -c {shlex.quote(code)}"
        subprocess.run(["bash", "-c", command], check=True, env=Plugin.getEnviron())
        cls.saved = Plugin.getVar(DEEPEMHANCER_MODELS)
        os.environ[DEEPEMHANCER_MODELS] = Plugin._vars[DEEPEMHANCER_MODELS] = cls.models

    @classmethod
    def tearDownClass(cls):
        Plugin._vars[DEEPEMHANCER_MODELS] = cls.saved
        del os.environ[DEEPEMHANCER_MODELS]

    def test_official_weights(self):
        prot = self.enhance(
            inputVolume=self.volume, useHalfMapsInsteadVol=True, weights=WEIGHTS_OFFICIAL
        )
        self.assertEqual(prot.Volume.getDim(), SHAPE[::-1])
        self.assertRegex("\n".join(prot.summary()), "tightTarget.*, official weights")
        # that file is not there
        self.assertIn(
            "highRes",
            " ".join(
                self.protocol(
                    inputVolume=self.volume, weights=WEIGHTS_OFFICIAL, modelType=MODEL_HIGHRES
                ).validate()
            ),
        )

    def test_mask(self):
        prot = self.enhance(
            inputVolume=self.volume,
            normalization=NORMALIZATION_MASK,
            inputMask=self.importMask(self.mask),
            weights=WEIGHTS_OFFICIAL,
        )
        self.assertRegex("\n".join(prot.summary()), "masked.*, official weights")
        self.assertIn("a mask of the protein", prot.methods()[0])
        parents = [parent.getObjId() for parent in self.proj.getSourceParents(prot.Volume)]
        self.assertIn(prot.inputMask.get().getObjId(), parents)

    def test_checkpoint_as_file(self):
        path = os.path.join(self.models, "production_checkpoints", "deepEMhancer_wideTarget.hd5")
        prot = self.enhance(inputVolume=self.volume, weights=WEIGHTS_FILE, weightsFile=path)
        self.assertEqual(prot.Volume.getDim(), SHAPE[::-1])
        self.assertIn("official weights", "\n".join(prot.summary()))
