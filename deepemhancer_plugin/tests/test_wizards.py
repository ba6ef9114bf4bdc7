"""The wizards, without and with a form."""

import subprocess

import numpy as np
from pwem import Domain
from pwem.emlib.image import ImageHandler

from deepemhancer_plugin.constants import NORMALIZATION_STATS
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.tests.base import SHAPE, EnhanceTest, write_map
from deepemhancer_plugin.wizards import wizard_enhance as wizards


class Form:
    """What a wizard needs of Scipion's form."""

    root = None

    def __init__(self, protocol):
        self.protocol = protocol

    def setVar(self, name, value):
        getattr(self.protocol, name).set(value)


class TestWizards(EnhanceTest):
    def setUp(self):
        self.shown = []
        self.saved = wizards.dialog.showError, wizards.dialog.showInfo
        wizards.dialog.showError = wizards.dialog.showInfo = lambda title, text, parent: (
            self.shown.append(text)
        )

    def tearDown(self):
        wizards.dialog.showError, wizards.dialog.showInfo = self.saved

    def test_found_by_scipion(self):
        found = Domain.findWizards(self.protocol(), "tkinter")
        for name in ("noiseMean", "noiseStd", "maskThreshold", "batch_size"):
            self.assertIn(name, found)

    def test_noise_of_attached_halves(self):
        """The halves' noise of 0.1 is 0.1 / sqrt(2) in their mean."""
        prot = self.protocol(
            inputVolume=self.volume,
            useHalfMapsInsteadVol=True,
            normalization=NORMALIZATION_STATS,
        )
        wizards.DeepEMhancerNoiseWizard().show(Form(prot))
        self.assertAlmostEqual(prot.noiseStd.get(), 0.1 / np.sqrt(2), delta=0.002)
        self.assertAlmostEqual(prot.noiseMean.get(), 0, delta=0.02)
        self.assertEqual(prot.validate(), [])

    def test_noise_of_single_map(self):
        prot = self.protocol(
            inputVolume=self.importVolume(self.paths[1]), normalization=NORMALIZATION_STATS
        )
        wizards.DeepEMhancerNoiseWizard().show(Form(prot))
        self.assertAlmostEqual(prot.noiseStd.get(), 0.1, delta=0.02)

    def test_noise_of_the_map_where_the_half_maps_are_not_used(self):
        """The map is twice the mean of the halves that are attached to it."""
        path = write_map(self.getOutputPath("twice.mrc"), self.half1 + self.half2)
        prot = self.protocol(
            inputVolume=self.importVolume(path, *self.paths[1:]),
            normalization=NORMALIZATION_STATS,
        )
        wizards.DeepEMhancerNoiseWizard().show(Form(prot))
        self.assertAlmostEqual(prot.noiseStd.get(), 0.1 * np.sqrt(2), delta=0.03)

    def test_noise_of_a_volume_in_a_stack(self):
        """The second of two volumes, with twice the noise of the first."""
        path, handler = self.getOutputPath("stack.stk"), ImageHandler()
        image = handler.createImage()
        for number, data in enumerate((self.half1, 2 * self.half2), start=1):
            image.setData(data)
            handler.write(image, (number, path))
        noise = wizards.measure_noise(self.volume, [[2, path]])
        self.assertAlmostEqual(noise["std"], 0.2, delta=0.04)

    def test_noise_of_a_map_that_is_gone(self):
        with self.assertRaisesRegex(ValueError, "gone.mrc does not exist"):
            wizards.measure_noise(self.volume, [[0, "gone.mrc"]])

    def test_a_measure_that_hangs_is_ended(self):
        saved = Plugin.getActivation, wizards.TIMEOUT_S
        Plugin.getActivation = classmethod(lambda cls: "sleep 986")
        wizards.TIMEOUT_S = 1
        try:
            with self.assertRaisesRegex(ValueError, "did not answer within 1 s"):
                wizards.measure("memory", "0")
        finally:
            Plugin.getActivation, wizards.TIMEOUT_S = saved
        running = subprocess.run(["ps", "-eo", "args"], stdout=subprocess.PIPE, text=True).stdout
        self.assertNotIn("sleep 986", running.splitlines())

    def test_noise_without_map(self):
        wizards.DeepEMhancerNoiseWizard().show(Form(self.protocol()))
        self.assertIn("Choose the input", self.shown[0])

    def test_noise_of_constant_map(self):
        flat = self.importVolume(write_map(self.getOutputPath("zeros.mrc"), np.zeros(SHAPE)))
        wizards.DeepEMhancerNoiseWizard().show(Form(self.protocol(inputVolume=flat)))
        self.assertEqual(len(self.shown), 1)
        self.assertNotIn("Traceback", self.shown[0])

    def test_mask_threshold(self):
        prot = self.protocol(inputMask=self.importMask(self.mask * 2.0 + 1))
        wizards.DeepEMhancerMaskWizard().show(Form(prot))
        self.assertAlmostEqual(prot.maskThreshold.get(), 2)
        self.assertIn(f"{100 * self.mask.mean():.1f} %", self.shown[0])

    def test_batch_size(self):
        self.assertEqual(wizards.choose_batch_size(0), 1)
        self.assertEqual(wizards.choose_batch_size(5 * wizards.WINDOW_BYTES), 4)
        self.assertEqual(wizards.choose_batch_size(1e12), wizards.MAX_BATCH_SIZE)
        wizards.DeepEMhancerBatchWizard().show(Form(self.protocol()))
        self.assertIn("on the CPU", self.shown[0])

    def test_batch_size_of_a_gpu_that_is_not_there(self):
        prot = self.protocol(useGpu=True, gpuList="77")
        wizards.DeepEMhancerBatchWizard().show(Form(prot))
        self.assertIn("no GPU 77", self.shown[0])
        self.assertEqual(prot.batch_size.get(), 8)
