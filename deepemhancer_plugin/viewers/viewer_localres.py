"""Viewer of local resolution: slices, histogram, and the surface of the map in ChimeraX."""

import os

from matplotlib.image import imread
from pwem.viewers.viewer_chimera import Chimera
from pyworkflow.protocol import params
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer

from deepemhancer_plugin.protocols import ProtDeepRes
from deepemhancer_plugin.protocols.maps import read_map
from deepemhancer_plugin.protocols.protocol_localres import LOCAL_FSC, RESOLUTION
from deepemhancer_plugin.viewers import chimera, figures
from deepemhancer_plugin.viewers.viewer_enhance import open_script, plot

CHOICES = ["DeepRes", "local FSC of the half maps (0.5)"]


class DeepResViewer(ProtocolViewer):
    """Shows the local resolution of a map."""

    _label = "viewer of local resolution"
    _targets = [ProtDeepRes]  # noqa: RUF012  (Scipion's own attributes)
    _environments = [DESKTOP_TKINTER]  # noqa: RUF012

    def _defineParams(self, form):
        form.addSection(label="Visualization")
        if hasattr(self.protocol, LOCAL_FSC):
            form.addParam(
                "which",
                params.EnumParam,
                choices=CHOICES,
                default=0,
                label="Local resolution",
                help="Which of the two colours the slices and the surface. DeepRes tells what "
                "the map shows, the local FSC what the half maps support.",
            )
        form.addParam(
            "showChimera",
            params.LabelParam,
            label="Surface in ChimeraX",
            help="The surface of the input map, coloured by resolution; grey where it lies "
            "outside of the mask.",
        )
        form.addParam(
            "showSlices",
            params.LabelParam,
            label="Slices",
            help="Slices of the input map through the centre of the mask, coloured by resolution.",
        )
        form.addParam(
            "showHistogram",
            params.LabelParam,
            label="Histogram",
            help="How many voxels of the mask have each resolution.",
        )
        if self._compared():
            form.addParam(
                "showComparison",
                params.LabelParam,
                label="Claimed and supported",
                help="What the map claims, by DeepRes, against what the half maps support, by "
                "their local FSC. Where the map claims a finer resolution, it shows details "
                "that no data stand behind.",
            )

    def _getVisualizeDict(self):
        return {
            "showChimera": self._showChimera,
            "showSlices": self._showSlices,
            "showHistogram": self._showHistogram,
            **({"showComparison": self._showComparison} if self._compared() else {}),
        }

    def _compared(self):
        """Tell whether the map was compared with its half maps."""
        return hasattr(self.protocol, LOCAL_FSC) and os.path.exists(
            self.protocol.getComparisonFile()
        )

    def _name(self):
        """Return the name of the output that is shown."""
        return LOCAL_FSC if hasattr(self, "which") and self.which.get() else RESOLUTION

    def _input(self):
        """Return the map whose resolution it is, as (index, file name); None when it is gone."""
        if self.protocol.inputVolume.get() is None:
            return None
        index, name = self.protocol.getInputLocation()
        return (index, name) if os.path.exists(name) else None

    def _volume(self):
        """Return the map whose resolution it is, or None when it is gone."""
        return read_map(*self._input()) if self._input() else None

    def _resolution(self, name):
        return read_map(0, getattr(self.protocol, name).getFileName())

    def _showSlices(self, _param=None):
        return plot(
            self,
            "Local resolution",
            figures.draw_resolution_slices,
            self._volume(),
            self._resolution(self._name()),
            self.protocol.ResolutionVolume.getSamplingRate(),
            size=(12, 4.6),
        )

    def _showHistogram(self, _param=None):
        resolutions = {
            title: self._resolution(name)
            for name, title in zip((RESOLUTION, LOCAL_FSC), CHOICES)
            if hasattr(self.protocol, name)
        }
        return plot(self, "Histogram", figures.draw_resolution_histogram, resolutions)

    def _showComparison(self, _param=None):
        picture = imread(self.protocol.getComparisonFile())
        return plot(
            self,
            "Claimed and supported",
            figures.draw_picture,
            picture,
            size=(12, 12 * picture.shape[0] / picture.shape[1]),
        )

    def _showChimera(self, _param=None):
        return open_script(self, self.writeChimeraScript())

    def writeChimeraScript(self):
        """Write the script for ChimeraX, and the map that it colours by; return its path."""
        output = getattr(self.protocol, self._name())
        rate = output.getSamplingRate()
        axes, colours, script = (
            os.path.abspath(self.protocol._getExtraPath(name))
            for name in ("axes.bild", "colours.mrc", "resolution.cxc")
        )
        Chimera.createCoordinateAxisFile(output.getDim()[0], bildFileName=axes, sampling=rate)
        resolution = self._resolution(self._name())
        chimera.write_colours(colours, resolution, rate)
        index, name = self._input() or (0, "")
        volume = self._volume()
        if volume is None:  # the mask's surface instead
            volume = (resolution > 0).astype("float32")
        if not chimera.reads(index, name):
            name = os.path.abspath(self.protocol._getExtraPath("surface.mrc"))
            chimera.write_map(name, volume, rate)
        chimera.write_resolution_script(
            script,
            axes,
            (name, chimera.find_level(volume)),
            colours,
            figures.find_colour_limits(resolution),
            rate,
            output.getOrigin(force=True).getShifts(),
        )
        return script
