"""What the tests share: half maps of a synthetic particle, and a project that imported them."""

import contextlib
import os
from pathlib import Path

import mrcfile
import numpy as np
from pwem import Domain
from pwem.objects import VolumeMask
from pwem.protocols import ProtImportMask, ProtImportVolumes
from pyworkflow.tests import BaseTest, setupTestProject

import deepemhancer_plugin
from deepemhancer_plugin.constants import DEEPEMHANCER_ENV_ACTIVATION
from deepemhancer_plugin.plugin import DEFAULT_ACTIVATION, Plugin
from deepemhancer_plugin.protocols import ProtDeepEMhancer

PACKAGE = Path(deepemhancer_plugin.__file__).parent
CHECKOUT = PACKAGE.parent
SHAPE = (44, 40, 36)  # z, y, x: neither cubic nor a multiple of a tile
RATE = 1.5  # A/voxel
SHIFTS = (-12.0, 7.5, -33.0)  # A: the origin of the maps, as it stands in their headers


def use_checkout():
    """Use the inference environment of the checkout, unless the user chose another."""
    Domain.getPlugins()  # defines the variables
    if Plugin.getVar(DEEPEMHANCER_ENV_ACTIVATION, DEFAULT_ACTIVATION) != DEFAULT_ACTIVATION:
        return
    activate = CHECKOUT / ".venv-inference" / "bin" / "activate"
    if activate.exists():
        os.environ[DEEPEMHANCER_ENV_ACTIVATION] = (
            # The runs are processes of their own.
            f"source {activate}"
        )
        Plugin._vars[DEEPEMHANCER_ENV_ACTIVATION] = os.environ[DEEPEMHANCER_ENV_ACTIVATION]


def make_half_maps(shape=SHAPE, rate=RATE, seed=1):
    """Simulate a chain of residue-sized blobs.

    Returns:
        Two half maps, float32 arrays (z, y, x) with a signal up to about 1 and independent noise
        of 0.1, and the mask, a boolean array.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape) * rate
    centre = np.array(shape) * rate / 2
    signal = np.zeros(shape)
    for turn in np.linspace(-1.75, 1.75, 70):  # a helix along z of 10 A radius and 12 A pitch
        at = np.add(
            centre, [12 * turn, 10 * np.sin(2 * np.pi * turn), 10 * np.cos(2 * np.pi * turn)]
        )
        signal += np.exp(-((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2) / (2 * 2.0**2))
    halves = [(signal + rng.normal(0, 0.1, shape)).astype(np.float32) for _ in range(2)]
    return (*halves, signal > 0.1)


def write_map(path, data, rate=RATE, origin=(0, 0, 0)):
    with mrcfile.new(path, np.asarray(data, np.float32), overwrite=True) as mrc:
        mrc.voxel_size = rate
        mrc.header.origin = origin
        mrc.set_volume()
    return str(path)


class EnhanceTest(BaseTest):
    """A project with a map that has half maps attached and an origin of its own."""

    @classmethod
    def setUpClass(cls):
        use_checkout()
        setupTestProject(cls)
        cls.half1, cls.half2, cls.mask = make_half_maps()
        mean = (cls.half1 + cls.half2) / 2
        cls.paths = [
            write_map(cls.getOutputPath(f"{name}.mrc"), data)
            for name, data in (("map", mean), ("half1", cls.half1), ("half2", cls.half2))
        ]
        cls.volume = cls.importVolume(*cls.paths)

    @classmethod
    def importVolume(cls, path, half1=None, half2=None, shifts=SHIFTS, rate=RATE):
        origin = dict(zip("xyz", (-shift for shift in shifts))) if shifts else {}
        halves = {"setHalfMaps": True, "half1map": half1, "half2map": half2} if half1 else {}
        prot = cls.newProtocol(
            ProtImportVolumes,
            filesPath=str(path),
            samplingRate=rate,
            setOrigCoord=bool(shifts),
            **origin,
            **halves,
        )
        cls.launchProtocol(prot)
        return prot.outputVolume if hasattr(prot, "outputVolume") else prot.outputVolumes

    @classmethod
    def importMask(cls, data, rate=RATE):
        path = write_map(cls.getOutputPath("mask.mrc"), data, rate)
        prot = cls.newProtocol(ProtImportMask, maskPath=path, samplingRate=rate)
        cls.launchProtocol(prot)
        assert isinstance(prot.outputMask, VolumeMask)
        return prot.outputMask

    @classmethod
    def protocol(cls, **arguments):
        """A protocol on the CPU, not launched."""
        return cls.newProtocol(ProtDeepEMhancer, **{"useGpu": False, **arguments})

    @classmethod
    def enhance(cls, **arguments):
        prot = cls.protocol(**arguments)
        cls.launchProtocol(prot)
        return prot

    @classmethod
    def fails(cls, prot):
        """Launch a protocol that must fail; return its error message."""
        cls.proj.launchProtocol(prot, wait=True)
        assert prot.isFailed(), prot.getStatusMessage()
        return prot.getErrorMessage()

    @contextlib.contextmanager
    def insteadOfTheProgram(self, command):
        """The runs start a shell command in the place of the program."""
        activation = Plugin._vars[DEEPEMHANCER_ENV_ACTIVATION]
        python = (
            f'python() {{ case "$1" in *launcher.py) {command};; *) command python "$@";; esac; }}'
        )
        os.environ[DEEPEMHANCER_ENV_ACTIVATION] = f"{activation} && {python}"
        try:
            yield
        finally:
            os.environ[DEEPEMHANCER_ENV_ACTIVATION] = activation
