"""The viewers: curves, figures, the script for ChimeraX; form and viewer in real windows."""

import os
import re
import unittest
from pathlib import Path

import mrcfile
import numpy as np
from matplotlib.figure import Figure
from pwem.emlib.image import ImageHandler
from pwem.objects import SetOfFSCs
from pyworkflow.gui.plotter import Plotter
from pyworkflow.object import Integer

from deepemhancer_plugin.protocols.maps import read_map
from deepemhancer_plugin.tests.base import RATE, SHAPE, SHIFTS, EnhanceTest, write_map
from deepemhancer_plugin.tests.screen import Screen, needs_screen, take_picture
from deepemhancer_plugin.viewers import DeepEMhancerViewer, chimera, figures, spectra


class TestSpectra(unittest.TestCase):
    def test_fsc_of_signal_and_noise(self):
        """Maps of signal power S and noise power N correlate as S / (S + N) in every shell."""
        rng = np.random.default_rng(0)
        signal = rng.normal(0, 2, (40, 42, 45))
        one, two = (signal + rng.normal(0, 1, signal.shape) for _ in range(2))
        _, correlation = spectra.fsc(one, two, 1.3)
        np.testing.assert_allclose(correlation[5:].mean(), 4 / 5, atol=0.01)
        np.testing.assert_allclose(spectra.fsc(one, one, 1.3)[1], 1)
        np.testing.assert_allclose(spectra.fsc(one, -one, 1.3)[1], -1)

    def test_resolution(self):
        frequencies = np.arange(6) * 0.1
        self.assertAlmostEqual(
            spectra.resolution(frequencies, np.array([1, 1, 0.243, 0.043, 0, 0])), 1 / 0.25
        )
        self.assertAlmostEqual(spectra.resolution(frequencies, np.ones(6)), 2)

    def test_wave_lies_in_its_shell(self):
        z = np.arange(40) * 2.0
        wave = np.cos(2 * np.pi * z / 10)[:, None, None] * np.ones((1, 30, 36))
        frequencies, amplitude = spectra.amplitudes(wave, 2.0)
        self.assertAlmostEqual(frequencies[amplitude.argmax()], 1 / 10)
        self.assertAlmostEqual(frequencies[-1], 1 / 4)

    def test_gaussian_falls_like_a_gaussian(self):
        """A blob of width s has the amplitudes exp(-2 pi^2 s^2 / d^2)."""
        grid = sum((axis * 1.5 - 24) ** 2 for axis in np.indices((32, 32, 32)))
        frequencies, amplitude = spectra.amplitudes(np.exp(-grid / (2 * 2.5**2)), 1.5)
        slope = np.polyfit(frequencies[1:10] ** 2, np.log(amplitude[1:10]), 1)[0]
        self.assertAlmostEqual(slope / (-2 * np.pi**2 * 2.5**2), 1, places=1)

    def test_level_of_same_volume(self):
        volume = np.random.default_rng(0).normal(size=(10, 11, 12))
        self.assertEqual((volume >= chimera.match_level(volume, 77)).sum(), 77)


class TestViewer(EnhanceTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.prot = cls.enhance(inputVolume=cls.volume, useHalfMapsInsteadVol=True)

    def viewer(self):
        viewer = DeepEMhancerViewer(project=self.proj, protocol=self.prot)
        viewer.setProtocol(self.prot)
        return viewer

    def test_found_by_scipion(self):
        from pwem import Domain

        self.assertIn(DeepEMhancerViewer, Domain.findViewers(self.prot, "tkinter"))

    def test_chimera_script(self):
        script = self.viewer().writeChimeraScript()
        text = Path(script).read_text()
        opened = re.findall(r'^open "(.+)"$', text, re.MULTILINE)
        self.assertEqual(len(opened), 4)  # axes, two half maps, enhanced map
        for path in opened:
            self.assertTrue(os.path.isabs(path) and os.path.exists(path), path)
        self.assertEqual(opened[-1], os.path.abspath(self.prot.Volume.getFileName()))
        for number in (2, 3, 4):
            self.assertIn(f"volume #{number} voxelSize {RATE:g}\n", text)
            self.assertIn(
                f"volume #{number} origin {','.join(f'{shift:g}' for shift in SHIFTS)}\n", text
            )
        levels = [float(level) for level in re.findall(r"level (\S+)", text)]
        self.assertEqual(len(levels), 3)
        self.assertTrue(all(level > 0 for level in levels))

    def test_figures(self):
        Plotter.setBackend("Agg")
        viewer = self.viewer()
        for name, show in viewer._getVisualizeDict().items():
            if name == "showChimera":
                continue
            (plotter,) = show(name)
            axes = plotter.getFigure().get_axes()
            self.assertTrue(all(axis.get_xlabel() or axis.get_ylabel() for axis in axes), name)
            path = self.getOutputPath(f"{name}.png")
            plotter.getFigure().savefig(path, dpi=100)
            self.assertGreater(os.path.getsize(path), 10_000, name)
            plotter.close()

    def test_slices_show_the_maps(self):
        volume = np.zeros(SHAPE)
        volume[SHAPE[0] // 2, 10, 20] = 1  # in the central slice of z only
        figure = Figure()
        figures.draw_slices(figure, volume + np.random.default_rng(0).random(SHAPE), volume, RATE)
        images = [axes.images[0] for axes in figure.get_axes() if axes.images]
        self.assertEqual(len(images), 6)
        self.assertEqual({image.get_clim() for image in images}, {(-0.2, 1)})
        np.testing.assert_allclose(images[0].get_extent(), [0, SHAPE[2] * RATE, 0, SHAPE[1] * RATE])

    def test_fsc_is_that_of_the_run(self):
        """Unmasked, masked and corrected curves, and an output that other viewers show."""
        curves = self.prot.getFsc()
        shells = len(curves["frequency"])
        for name in ("unmasked", "masked", "randomised", "corrected"):
            self.assertEqual(len(curves[name]), shells, name)
        expected = np.interp(curves["frequency"], *spectra.fsc(self.half1, self.half2, RATE))
        np.testing.assert_allclose(curves["unmasked"], expected, atol=0.1)
        figure = Figure()
        figures.draw_fsc(figure, curves)
        labels = [line.get_label() for line in figure.axes[0].lines]
        self.assertTrue(any("corrected for the mask: 0.143 at" in label for label in labels))
        output = self.prot.outputFSC
        self.assertIsInstance(output, SetOfFSCs)
        items = {item.getObjLabel(): item.clone() for item in output}
        self.assertEqual(len(items), 4)
        x, y = items["corrected for the mask"].getData()
        np.testing.assert_allclose(x, curves["frequency"], atol=1e-6)
        np.testing.assert_allclose(y, curves["corrected"], atol=1e-6)
        self.assertIn("in a mask and corrected", "\n".join(self.prot.summary()))
        parents = [parent.getObjId() for parent in self.proj.getSourceParents(output)]
        self.assertIn(self.volume.getObjId(), parents)

    def test_warns_of_an_enhanced_input(self):
        """However the form points at it."""
        direct = self.protocol(inputVolume=self.prot.Volume)
        extended = self.protocol()
        extended.inputVolume.set(self.prot)
        extended.inputVolume.setExtended("Volume")
        for prot in (direct, extended):
            self.assertIn("an enhanced map already", " ".join(prot.warnings()))

    def test_input_that_is_gone(self):
        """As in a project that was moved to an archive: the enhanced map is shown alone."""
        Plotter.setBackend("Agg")
        viewer = self.viewer()
        viewer.protocol.getInputFiles = lambda key="": [[0, "gone1.mrc"], [0, "gone2.mrc"]]
        try:
            for name, show in viewer._getVisualizeDict().items():
                if name == "showChimera":
                    continue
                (plotter,) = show(name)
                plotter.close()
            text = Path(viewer.writeChimeraScript()).read_text()
        finally:
            del viewer.protocol.getInputFiles
        opened = re.findall(r'^open "(.+)"$', text, re.MULTILINE)
        self.assertEqual(opened[1:], [os.path.abspath(self.prot.Volume.getFileName())])

    def test_run_that_made_the_input_was_deleted(self):
        viewer = self.viewer()
        viewer.protocol = self.protocol(inputVolume=None)
        self.assertEqual(viewer._inputFiles(), [])
        self.assertIsNone(viewer._before())

    def test_number_that_is_not_in_the_set(self):
        viewer = self.viewer()
        volumes = {1: self.volume, 3: self.volume}
        viewer.volumeNumber = Integer(2)

        class Set:
            def __getitem__(self, number):
                return volumes.get(number)

            def getIdSet(self):
                return set(volumes)

        prot = self.protocol()
        prot.isSet, prot.Volumes = lambda: True, Set()
        viewer.protocol = prot
        for show in viewer._getVisualizeDict().values():
            self.assertIn("no volume 2 in the set, but 1, 3", show()[0].getMessage())

    def test_chimera_gets_a_format_that_it_reads(self):
        path = self.getOutputPath("half.vol")
        ImageHandler().convert(self.paths[1], path)
        viewer = self.viewer()
        viewer._inputFiles = lambda: [[0, path]]
        text = Path(viewer.writeChimeraScript()).read_text()
        opened = re.findall(r'^open "(.+)"$', text, re.MULTILINE)
        self.assertEqual(os.path.basename(opened[1]), "input1.mrc")
        np.testing.assert_allclose(read_map(0, opened[1]), self.half1, atol=1e-6)

    def test_maps_that_the_program_accepts_are_read(self):
        """Columns along z, and a machine stamp that is wrong."""
        path = write_map(self.getOutputPath("turned.mrc"), self.half1.transpose(2, 1, 0))
        with mrcfile.open(path, "r+") as mrc:
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 2, 1
        with open(path, "r+b") as file:
            file.seek(212)
            file.write(bytes([0x44, 0x20, 0x20, 0x20]))
        np.testing.assert_array_equal(read_map(0, path), self.half1)

    def test_without_half_maps_or_chimera(self):
        viewer = self.viewer()
        viewer._inputFiles = lambda: [[0, self.paths[0]]]
        viewer.protocol = self.protocol()
        self.assertIn("single map", viewer._showFsc()[0].getMessage())
        viewer = self.viewer()
        if not os.path.exists(find_chimera()):
            self.assertIn("scipion-em-chimera", viewer._showChimera()[0].getMessage())

    @needs_screen
    def test_windows(self):
        """Project, form and viewer in real windows; their pictures stay in the output folder."""
        with Screen():
            # the order matters: form imports project
            from pyworkflow.gui.project.project import ProjectWindow  # isort: skip
            from pyworkflow.gui.form import FormWindow  # isort: skip

            window = ProjectWindow(self.proj.path)
            try:
                window.root.geometry("1300x800+10+10")
                _, _, colours = take_picture(window.root, self.getOutputPath("project.png"))
                self.assertGreater(colours, 50)
                self.lookAtForm(FormWindow, window)
                self.lookAtViewer(window)
            finally:
                window.root.destroy()

    def lookAtForm(self, FormWindow, window):
        for name, arguments in (
            ("form", {}),
            (
                "form_advanced",
                {"expertLevel": 1},
            ),
        ):
            prot = self.protocol(
                **{
                    "inputVolume": self.volume,
                    "useHalfMapsInsteadVol": True,
                    "useGpu": True,
                    **arguments,
                }
            )
            form = FormWindow(
                "Protocol Run: " + prot.getClassName(),
                prot,
                lambda *_: None,
                window,
                updateProtocolCallback=lambda *_: None,
            )
            form.root.geometry("+20+20")
            form.root.update()
            width, height, colours = take_picture(form.root, self.getOutputPath(f"{name}.png"))
            self.assertGreater(width, 500)
            self.assertGreater(height, 400)
            self.assertGreater(colours, 20)  # an empty window has few
            form.root.destroy()

    def lookAtViewer(self, window):
        from pwem import Domain
        from pyworkflow.gui.form import FormWindow

        Domain.findViewers(self.prot, "tkinter")  # as Scipion does; tells the viewer whose it is
        viewer = self.viewer()
        form = FormWindow(
            "Viewer",
            viewer,
            lambda *_: None,
            window,
            visualizeDict=viewer._getVisualizeDict(),
            visualizeMode=True,
        )
        form.root.geometry("+20+20")
        width, _, colours = take_picture(form.root, self.getOutputPath("viewer.png"))
        self.assertGreater(width, 200)
        self.assertGreater(colours, 10)
        form.root.destroy()


def find_chimera():
    from pwem.viewers.viewer_chimera import Chimera

    return Chimera.getProgram() or ""
