"""Local resolution: the form, real runs in the inference environment, the viewer."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from pwem import Domain
from pwem.objects import Volume
from pyworkflow.gui.plotter import Plotter
from pyworkflow.project import Manager
from pyworkflow.protocol.constants import MODE_RESUME

from deepemhancer_plugin.constants import NETWORK_COARSE, NETWORK_FILE
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import ProtDeepRes
from deepemhancer_plugin.protocols.protocol_localres import (
    COARSEST,
    FINEST,
    LOCAL_FSC,
    MEDIAN,
    RESOLUTION,
)
from deepemhancer_plugin.tests.base import PACKAGE, RATE, SHAPE, SHIFTS, EnhanceTest, write_map
from deepemhancer_plugin.tests.screen import Screen, needs_screen, take_picture
from deepemhancer_plugin.viewers import DeepResViewer, chimera, figures


class DeepResTest(EnhanceTest):
    @classmethod
    def protocol(cls, **arguments):
        return cls.newProtocol(
            ProtDeepRes, **{"useGpu": False, "inputVolume": cls.volume, **arguments}
        )


class TestForm(DeepResTest):
    """What the protocol knows before it runs."""

    def errors(self, **arguments):
        return " ".join(self.protocol(**arguments).validate())

    def test_every_parameter_is_explained(self):
        for name, param in self.protocol().getDefinition().iterParams():
            if name not in ("hostName", "runMode", "numberOfThreads", "numberOfMpi"):
                self.assertGreater(len(param.help.get("")), 20, name)

    def test_valid(self):
        for arguments in (
            {},
            {"inputMask": self.importMask(self.mask)},
            {"useHalfMaps": True},
            {"network": NETWORK_COARSE},
            {
                "inputVolume": self.importVolume(self.paths[0]),
                "useHalfMaps": True,
                "halfMapsOf": self.volume,
            },
        ):
            self.assertEqual(self.errors(**arguments), "", arguments)

    def test_mistakes(self):
        single = self.importVolume(self.paths[0])
        for arguments, words in (
            ({"inputVolume": None}, "*Input volume* is empty"),
            ({"gpuList": "x", "useGpu": True}, "*GPU IDs* x"),
            ({"inputMask": self.importMask(self.mask[:, :, :-2])}, "*Mask* of"),
            (
                {"network": NETWORK_FILE, "networkFile": "/nowhere.npz"},
                "/nowhere.npz does not exist",
            ),
            ({"inputVolume": single, "useHalfMaps": True}, "no half maps attached"),
            (
                {
                    "inputVolume": self.importVolume(self.paths[0], rate=2.0),
                    "useHalfMaps": True,
                    "halfMapsOf": self.volume,
                },
                "sampling rate of 2 A/voxel",
            ),
        ):
            self.assertIn(words, self.errors(**arguments))

    def test_label_has_what_people_search_for(self):
        self.assertEqual(ProtDeepRes.getClassLabel(), "deepemhancer - local resolution (deepRes)")

    def test_queue_is_asked_for_the_threads(self):
        prot = self.protocol(numberOfThreads=4)
        prot.setHostConfig(self.proj.getHostConfig("localhost"))
        prot.setQueueParams(["gpu", {"QUEUE_FOR_JOBS": "N"}])
        self.assertEqual(prot.getSubmitDict()["JOB_THREADS"], 4)
        prot.numberOfThreads.set(0)
        self.assertEqual(prot.getSubmitDict()["JOB_THREADS"], 1)

    def test_class_name_is_not_xmipps(self):
        self.assertEqual(Domain.getProtocols()["ProtDeepRes"], ProtDeepRes)
        self.assertIn("10.1107/S2052252519011692", " ".join(self.protocol().citations()))

    def test_wizard(self):
        self.assertIn("maskThreshold", Domain.findWizards(self.protocol(), "tkinter"))


class TestLocalResolution(DeepResTest):
    """Runs of the program with the embedded networks, then with an untrained one in a file."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.weights = os.path.abspath(cls.getOutputPath("network.npz"))
        code = (
            f"import runpy; runpy.run_path({str(PACKAGE / 'launcher.py')!r});"
            "from deepemhancer_plugin.core.localres.networks import RANGES, build, save_weights;"
            f"save_weights({cls.weights!r}, build('dense', RANGES['1.0']), {{}})"
        )
        subprocess.run(
            ["bash", "-c", f"{Plugin.getActivation()} && python -c {shlex.quote(code)}"],
            check=True,
            env=Plugin.getEnviron(),
        )
        # First a map alone, then with another network, a mask, and another volume's half maps
        cls.prot = cls.protocol(inputVolume=cls.importVolume(cls.paths[0]))
        cls.launchProtocol(cls.prot)
        cls.alone = mrcfile.read(cls.prot.ResolutionVolume.getFileName())
        cls.outputs = [name for name, _ in cls.prot.iterOutputAttributes()]
        cls.maskObject = cls.importMask(cls.mask)
        for name, value in (
            ("network", NETWORK_FILE),
            ("networkFile", cls.weights),
            ("inputMask", cls.maskObject),
            ("useHalfMaps", True),
            ("halfMapsOf", cls.volume),
            ("numberOfThreads", 1),
            ("runMode", MODE_RESUME),
        ):
            getattr(cls.prot, name).set(value)
        cls.launchProtocol(cls.prot)

    def checkOutput(self, volume):
        """A map of the input's geometry, zero outside of the mask, with its range as attributes."""
        self.assertIsInstance(volume, Volume)
        self.assertEqual(volume.getDim(), SHAPE[::-1])
        self.assertAlmostEqual(volume.getSamplingRate(), RATE)
        np.testing.assert_allclose(volume.getOrigin(force=True).getShifts(), SHIFTS)
        with mrcfile.open(volume.getFileName()) as mrc:
            np.testing.assert_allclose(mrc.voxel_size.tolist(), RATE, rtol=1e-5)
            np.testing.assert_allclose(mrc.header.origin.tolist(), SHIFTS)
            data = mrc.data.copy()
        np.testing.assert_array_equal(data > 0, self.mask)
        inside = data[data > 0]
        for name, value in (
            (FINEST, inside.min()),
            (MEDIAN, np.median(inside)),
            (COARSEST, inside.max()),
        ):
            self.assertAlmostEqual(getattr(volume, name).get(), value, places=2)
        return data

    def test_a_map_alone(self):
        """The program's own mask holds the particle; blobs as wide as 2 A are coarser than 3 A."""
        self.assertEqual(self.outputs, [RESOLUTION])
        self.assertEqual(self.alone.shape, SHAPE)
        self.assertGreater((self.alone > 0)[self.mask].mean(), 0.9)
        self.assertLess((self.alone > 0).mean(), 0.3)
        self.assertTrue(
            3 <= np.median(self.alone[self.mask]) <= 12, np.median(self.alone[self.mask])
        )

    def test_continued_with_mask_and_half_maps(self):
        resolution = self.checkOutput(self.prot.ResolutionVolume)
        self.assertTrue(
            (resolution[self.mask] >= 2 * RATE).all() and (resolution[self.mask] <= 13).all()
        )
        fsc = self.checkOutput(self.prot.LocalFscVolume)
        self.assertFalse(np.array_equal(resolution, fsc))
        summary, volume = "\n".join(self.prot.summary()), self.prot.ResolutionVolume
        self.assertIn(
            f"median {getattr(volume, MEDIAN).get():.2f} A, from "
            f"{getattr(volume, FINEST).get():.2f} to",
            summary,
        )
        for words in (
            "Local FSC of the half maps",
            "*Half maps*: the map claims more than the halves support in ",
            "Network: ",
            "CPU",
            "1 core",  # of two or more on this machine, as the form's threads say
        ):
            self.assertIn(words, summary)
        self.assertNotIn("1 cores", summary)
        self.assertIn("RamirezAportela2019", self.prot.methods()[0])
        for source in (self.prot.inputVolume.get(), self.volume, self.maskObject):
            self.assertIn(
                source.getObjId(),
                [parent.getObjId() for parent in self.proj.getSourceParents(volume)],
            )

    def test_attributes_are_kept_in_the_project(self):
        """As another process, and Scipion after its next start, sees the outputs."""
        stored = Manager().loadProject(self.proj.getName()).getProtocol(self.prot.getObjId())
        for name in (RESOLUTION, LOCAL_FSC):
            for attribute in (FINEST, MEDIAN, COARSEST):
                self.assertEqual(
                    getattr(getattr(stored, name), attribute).get(),
                    getattr(getattr(self.prot, name), attribute).get(),
                )

    def test_failure_says_why_and_leaves_nothing(self):
        prot = self.protocol(
            network=NETWORK_FILE,
            networkFile=write_map(self.getOutputPath("no_network.npz"), self.half1),
        )
        message = self.fails(prot)
        self.assertIn("deepemhancer failed: ", message)
        self.assertIn("no_network.npz", message)
        self.assertEqual(
            [path.name for path in Path(prot._getExtraPath()).iterdir()], ["resolution.log"]
        )
        self.assertFalse(hasattr(prot, RESOLUTION))

    def viewer(self, **values):
        viewer = DeepResViewer(project=self.proj, protocol=self.prot, **values)
        viewer.setProtocol(self.prot)
        return viewer

    def test_viewer_is_found_by_scipion(self):
        self.assertIn(DeepResViewer, Domain.findViewers(self.prot, "tkinter"))

    def test_figures(self):
        Plotter.setBackend("Agg")
        for name in ("showSlices", "showHistogram"):
            (plotter,) = self.viewer()._getVisualizeDict()[name]()
            axes = plotter.getFigure().get_axes()
            self.assertTrue(
                all("Å" in axis.get_xlabel() + axis.get_ylabel() for axis in axes), name
            )
            path = self.getOutputPath(f"{name}.png")
            plotter.getFigure().savefig(path, dpi=100)
            self.assertGreater(os.path.getsize(path), 10_000, name)
            plotter.close()
        (plotter,) = self.viewer()._showComparison()
        (image,) = plotter.getFigure().get_axes()[0].get_images()
        self.assertEqual(image.get_array().shape, imread(self.prot.getComparisonFile()).shape)

    def test_slices_are_coloured_inside_the_mask_alone(self):
        resolution = np.zeros(SHAPE)
        resolution[20:30, 10:16, 8:16] = np.linspace(3, 5, 8)
        figure = Figure()
        figures.draw_resolution_slices(figure, self.half1, resolution, RATE)
        coloured = [axes.images[1] for axes in figure.get_axes() if len(axes.images) == 2]
        # cut across z, y, x
        self.assertEqual([image.get_array().count() for image in coloured], [6 * 8, 10 * 8, 10 * 6])
        self.assertEqual({image.get_clim() for image in coloured}, {(3, 5)})

    def test_chimera_script(self):
        viewer = self.viewer()
        script = viewer.writeChimeraScript()
        text = Path(script).read_text()
        opened = re.findall(r'^open "(.+)"$', text, re.MULTILINE)
        # axes, map, colours
        self.assertEqual([os.path.exists(path) for path in opened], [True] * 3)
        self.assertEqual(opened[1], os.path.abspath(self.prot.getInputLocation()[1]))
        for number in (2, 3):
            self.assertIn(
                f"volume #{number} origin {','.join(f'{shift:g}' for shift in SHIFTS)}\n", text
            )
        palette = re.search(r"^color sample #2 map #3 palette (\S+)$", text, re.MULTILINE).group(1)
        steps = [float(entry.split(",")[0]) for entry in palette.split(":")]
        self.assertEqual(steps, sorted(steps))
        np.testing.assert_allclose(
            steps[2::4],
            figures.find_colour_limits(mrcfile.read(self.prot.ResolutionVolume.getFileName())),
            atol=1e-3,
        )

    def test_input_that_is_gone(self):
        """The resolution is shown alone, in ChimeraX on the surface of its mask."""
        Plotter.setBackend("Agg")
        viewer = self.viewer()
        viewer.protocol.getInputLocation = lambda: [0, "gone.mrc"]
        try:
            (plotter,) = viewer._showSlices()
            plotter.close()
            text = Path(viewer.writeChimeraScript()).read_text()
        finally:
            del viewer.protocol.getInputLocation
        opened = re.findall(r'^open "(.+)"$', text, re.MULTILINE)
        self.assertEqual(os.path.basename(opened[1]), "surface.mrc")
        np.testing.assert_array_equal(mrcfile.read(opened[1]) > 0, self.mask)

    def test_histogram_has_no_peak_of_what_lies_beyond(self):
        """The legend tells of the tail that is not drawn."""
        rng = np.random.default_rng(0)
        values = np.concatenate([rng.triangular(3, 3.5, 5, 20000), [12.0] * 90])
        figure = Figure()
        figures.draw_resolution_histogram(figure, {"map": values})
        heights = [patch.get_height() for patch in figure.axes[0].patches]
        self.assertLess(heights[-1], 0.1 * max(heights))
        self.assertIn("0.4 % coarser than 5.0 Å", figure.axes[0].get_legend_handles_labels()[1][0])

    def test_colours_reach_just_outside_of_the_mask(self):
        resolution = np.zeros((9, 9, 20))
        resolution[4, 4, 4:6] = 3, 4
        chimera.write_colours(self.getOutputPath("colours.mrc"), resolution, RATE)
        colours = mrcfile.read(self.getOutputPath("colours.mrc"))
        np.testing.assert_array_equal(colours[4, 4, :12], [0, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0, 0])

    @needs_screen
    def test_windows(self):
        """Form and viewer in real windows; the pictures are left in the test's output folder."""
        with Screen():
            # the order matters: form imports project
            from pyworkflow.gui.project.project import ProjectWindow  # isort: skip
            from pyworkflow.gui.form import FormWindow  # isort: skip

            window = ProjectWindow(self.proj.path)
            try:
                # as Scipion does; tells the viewer whose it is
                Domain.findViewers(self.prot, "tkinter")
                viewer = self.viewer()
                prot = self.protocol(useGpu=True, useHalfMaps=True, inputMask=self.maskObject)
                for name, form in (
                    (
                        "deepres_form",
                        FormWindow(
                            "Protocol Run",
                            prot,
                            lambda *_: None,
                            window,
                            updateProtocolCallback=lambda *_: None,
                        ),
                    ),
                    (
                        "deepres_viewer",
                        FormWindow(
                            "Viewer",
                            viewer,
                            lambda *_: None,
                            window,
                            visualizeMode=True,
                            visualizeDict=viewer._getVisualizeDict(),
                        ),
                    ),
                ):
                    form.root.geometry("+20+20")
                    width, _, colours = take_picture(form.root, self.getOutputPath(f"{name}.png"))
                    self.assertGreater(width, 200, name)
                    self.assertGreater(colours, 10, name)  # an empty window has few
                    form.root.destroy()
            finally:
                window.root.destroy()
