"""Viewer of enhanced maps: ChimeraX, and figures that need nothing but matplotlib."""

import os

import numpy as np
from pwem.viewers import EmPlotter
from pwem.viewers.viewer_chimera import Chimera, ChimeraView
from pyworkflow.protocol import params
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer

from deepemhancer_plugin.protocols import ProtDeepEMhancer
from deepemhancer_plugin.protocols.maps import read_map
from deepemhancer_plugin.viewers import chimera, figures, spectra


class DeepEMhancerViewer(ProtocolViewer):
    """Shows an enhanced map beside its input."""

    _label = "viewer of enhanced maps"
    _targets = [ProtDeepEMhancer]  # noqa: RUF012  (Scipion's own attributes)
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def _defineParams(self, form):
        form.addSection(label="Visualization")
        if self.protocol.isSet():
            form.addParam(
                "volumeNumber",
                params.IntParam,
                default=self._first(),
                label="Volume number",
                help="Which volume of the set the buttons below show.",
            )
        form.addParam(
            "showChimera",
            params.LabelParam,
            label="Maps in ChimeraX",
            help="The enhanced map and, hidden at first, its input, in the same place; the "
            "contour level of the input encloses as many voxels as that of the enhanced map.",
        )
        form.addParam(
            "showSlices",
            params.LabelParam,
            label="Central slices",
            help="Slices through the centre of the box before and after, on one scale.\n"
            "Look for parts of the protein that are there before and gone after: then try the "
            "*wide target*.",
        )
        form.addParam(
            "showFsc",
            params.LabelParam,
            label="FSC between the half maps",
            help="The resolution of the input: without a mask, in one, and corrected for it (the "
            "curve to quote). The enhanced map has no resolution that could be measured: its "
            "solvent is set to zero and its amplitudes are those that the network expects.",
        )
        form.addParam(
            "showProfile",
            params.LabelParam,
            label="Amplitude profile",
            help="ln F against 1/d²: how strong the details of each size are before and after.",
        )
        form.addParam(
            "showHistogram",
            params.LabelParam,
            label="Histogram",
            help="How often each density occurs before and after.",
        )

    def _getVisualizeDict(self):
        shown = {
            "showChimera": self._showChimera,
            "showSlices": self._showSlices,
            "showFsc": self._showFsc,
            "showProfile": self._showProfile,
            "showHistogram": self._showHistogram,
        }
        return {name: lambda _=None, show=show: self._show(show) for name, show in shown.items()}

    def _first(self):
        return self.protocol.Volumes.getFirstItem().getObjId()

    def _key(self):
        """Return the number of the volume in the set, as text; "" for a single map."""
        return str(self.volumeNumber.get()) if self.protocol.isSet() else ""

    def _output(self):
        """Return the enhanced Volume; None for a number that is not in the set."""
        if self.protocol.isSet():
            return self.protocol.Volumes[self.volumeNumber.get()]
        return self.protocol.Volume

    def _show(self, show):
        """Call a function that shows the chosen volume, if there is one."""
        if self._output() is not None:
            return show()
        numbers = ", ".join(str(number) for number in sorted(self.protocol.Volumes.getIdSet()))
        return [
            self.errorMessage(
                f"There is no volume {self.volumeNumber.get()} in the set, but {numbers}.",
                "Volume number",
            )
        ]

    def _inputFiles(self):
        """Return the input maps, each as [index, file name]; [] when they are gone."""
        try:
            files = self.protocol.getInputFiles(self._key())
        except (AttributeError, StopIteration):  # the run that made them was deleted
            return []
        return files if all(os.path.exists(name) for _, name in files) else []

    def _before(self):
        """Return the input map, or None when it is gone."""
        files = self._inputFiles()
        return np.mean([read_map(*location) for location in files], axis=0) if files else None

    def _after(self):
        return read_map(0, self._output().getFileName())

    def _showSlices(self, _param=None):
        return plot(
            self,
            "Central slices",
            figures.draw_slices,
            self._before(),
            self._after(),
            self._output().getSamplingRate(),
            size=(10, 6.5),
        )

    def _showFsc(self, _param=None):
        curves = self.protocol.getFsc(self._key()) or self._measureFsc()
        if not curves:
            return [
                self.infoMessage(
                    "There are no half maps to compare: the input of this run was a single map, or "
                    "it is gone.",
                    "FSC",
                )
            ]
        return plot(self, "FSC", figures.draw_fsc, curves)

    def _measureFsc(self):
        """Return the unmasked FSC of the half maps, for runs of old whose report has none."""
        files = self._inputFiles()
        if len(files) != 2:
            return {}
        halves = [read_map(*location) for location in files]
        frequencies, correlation = spectra.fsc(*halves, self._output().getSamplingRate())
        return {"frequency": frequencies, "unmasked": correlation}

    def _showProfile(self, _param=None):
        return plot(
            self,
            "Amplitude profile",
            figures.draw_amplitude_profile,
            self._before(),
            self._after(),
            self._output().getSamplingRate(),
        )

    def _showHistogram(self, _param=None):
        return plot(self, "Histogram", figures.draw_histogram, self._before(), self._after())

    def _showChimera(self, _param=None):
        return open_script(self, self.writeChimeraScript())

    def writeChimeraScript(self):
        """Write the script for ChimeraX into the protocol's folder; return its path."""
        output = self._output()
        rate = output.getSamplingRate()
        axes = os.path.abspath(self.protocol._getExtraPath("axes.bild"))
        Chimera.createCoordinateAxisFile(output.getDim()[0], bildFileName=axes, sampling=rate)
        after = self._after()
        threshold = chimera.find_level(after)
        voxels = int((after > threshold).sum())
        maps = []
        for number, (index, name) in enumerate(self._inputFiles(), start=1):
            volume = read_map(index, name)
            if not chimera.reads(index, name):
                name = os.path.abspath(self.protocol._getExtraPath(f"input{number}.mrc"))
                chimera.write_map(name, volume, rate)
            maps.append((name, "input", chimera.match_level(volume, voxels)))
        maps.append((output.getFileName(), "enhanced", threshold))
        script = os.path.abspath(self.protocol._getExtraPath("enhanced.cxc"))
        chimera.write_script(script, axes, maps, rate, output.getOrigin(force=True).getShifts())
        return script


def plot(viewer, title, draw, *arguments, size=(7, 5)):
    """Draw a figure in a window.

    Args:
        viewer: Viewer of the protocol.
        title: Title of the window.
        draw: Function (figure, *arguments) that draws it.
        *arguments: Its arguments.
        size: Width and height in inches.

    Returns:
        The views that Scipion shows.
    """
    plotter = EmPlotter(figsize=size, windowTitle=f"{title} - {viewer.protocol.getObjLabel()}")
    # The constrained layout leaves room for the colour bar.
    plotter.tightLayoutOn = False
    plotter.getFigure().set_layout_engine("constrained")
    draw(plotter.getFigure(), *arguments)
    return [plotter]


def open_script(viewer, script):
    """Return the view of a script for ChimeraX; without ChimeraX, a message with its place."""
    program = Chimera.getProgram()
    if not (program and os.path.exists(program)):
        return [
            viewer.errorMessage(
                "ChimeraX is not installed: install it with *scipion3 installp -p "
                f"scipion-em-chimera*, or open {script} in your own.",
                "ChimeraX",
            )
        ]
    return [ChimeraView(script)]
