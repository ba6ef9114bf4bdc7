"""Workflows of Xmipp's deepEMhancer protocol, made by the real one, carry over to ours."""

import importlib
import json
import os
import shlex
import subprocess
import sys
import types
import unittest
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pwem
from pwem import Domain
from pwem.objects import Volume, VolumeMask
from pyworkflow.object import Pointer

from deepemhancer_plugin.constants import DEEPEMHANCER_MODELS, WEIGHTS_EMBEDDED, WEIGHTS_OFFICIAL
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import ProtDeepEMhancer
from deepemhancer_plugin.tests.base import CHECKOUT, SHAPE, EnhanceTest

XMIPP_CLASS, MASK_CLASS = "XmippProtDeepVolPostProc", "XmippProtCreateMask3D"
CHECKPOINT_WRITER = CHECKOUT / "tests" / "helpers" / "official_checkpoint.py"
VARIANTS = ("tightTarget", "wideTarget", "highRes", "masked")


def load_xmipp():
    """Return the two protocols of the real package, and make Scipion know them.

    The package imports modules that only the compiled Xmipp has. Of what they hold, only the names
    matter here.
    """
    if not find_spec("xmipp_base"):
        sys.modules["xmipp_base"] = types.ModuleType("xmipp_base")
        for name in ("createMetaDataFromPattern", "isMdEmpty"):
            setattr(sys.modules["xmipp_base"], name, None)
            setattr(importlib.import_module("xmipp3.base"), name, None)
    protocols = importlib.import_module("xmipp3.protocols")
    known = Domain.getProtocols()
    for name in (XMIPP_CLASS, MASK_CLASS):
        cls = getattr(protocols, name)
        cls._package = Domain.getPluginModule("xmipp3")
        cls._plugin = cls._package._pluginInstance
        known[name] = cls
    return known[XMIPP_CLASS], known[MASK_CLASS]


@unittest.skipUnless(find_spec("xmipp3"), "no Xmipp here: run `make test-xmipp`")
class TestXmipp(EnhanceTest):
    """The plugin scipion-em-xmipp; its programs, which are compiled, are not needed."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.Xmipp, cls.CreateMask = load_xmipp()
        cls.halves = [cls.importVolume(path) for path in cls.paths[1:]]

    def pointAt(self, output):
        """Return a Pointer to the protocol that made an output, and on to that."""
        prot = self.proj.getProtocol(output.getObjParentId())
        names = [n for n, o in prot.iterOutputAttributes() if o.getObjId() == output.getObjId()]
        return Pointer(prot, extended=names[0])

    def carryOver(self, *others, **arguments):
        """Make a protocol of Xmipp, export it with others, change the class name, import it.

        Returns:
            Xmipp's protocol, and ours.
        """
        theirs = self.newProtocol(self.Xmipp)
        for name, value in arguments.items():
            if isinstance(value, (Volume, VolumeMask)):  # as the window sets it
                value = self.pointAt(value)
            if isinstance(value, Pointer):
                getattr(theirs, name).copy(value)
            else:
                getattr(theirs, name).set(value)
        for prot in (*others, theirs):
            self.saveProtocol(prot)
        path = os.path.abspath(self.getOutputPath("xmipp.json"))
        self.proj.getRunsGraph(refresh=True)
        self.proj.exportProtocols([*others, theirs], path)
        text = Path(path).read_text()
        self.assertEqual(text.count(f'"{XMIPP_CLASS}"'), 1)
        Path(path).write_text(text.replace(XMIPP_CLASS, ProtDeepEMhancer.__name__))
        ours = self.proj.loadProtocols(path)[theirs.strId()]
        self.assertIsInstance(ours, ProtDeepEMhancer)
        return theirs, ours

    def checkParameters(self, theirs, ours, same=()):
        """Check that every parameter of Xmipp's form has its value; pointers in `same` may differ.

        Those point at protocols that were imported too, and so are copies.
        """
        for name, _ in theirs.getDefinition().iterAllParams():
            old, new = getattr(theirs, name, None), getattr(ours, name, None)
            if name in ("runMode", "runName", "hostName") or old is None:
                continue
            self.assertIsNotNone(new, name)
            if isinstance(old, Pointer):
                self.assertEqual(old.hasValue(), new.hasValue(), name)
                self.assertEqual(old.getExtended(), new.getExtended(), name)
                if name not in same and old.hasValue():
                    self.assertEqual(old.getObjValue().strId(), new.getObjValue().strId(), name)
            else:
                self.assertEqual(old.get(), new.get(), name)

    def test_every_value_of_every_parameter(self):
        for arguments in (
            {"inputVolume": self.volume},
            {
                "inputVolume": self.volume,
                "useHalfMapsInsteadVol": True,
                "modelType": self.Xmipp.HI_RES,
                "performCleaningStep": True,
                "sizeFraction_CC": 0.125,
                "batch_size": 3,
                "gpuList": "1",
            },
            {
                "useHalfMapsInsteadVol": True,
                "halfMapsAttached": False,
                "inputHalf1": self.halves[0],
                "inputHalf2": self.halves[1],
                "modelType": self.Xmipp.WIDE_MODEL,
                "normalization": self.Xmipp.NORMALIZATION_STATS,
                "noiseMean": -0.25,
                "noiseStd": 0.125,
            },
            {
                "inputVolume": self.volume,
                "normalization": self.Xmipp.NORMALIZATION_MASK,
                "inputMask": self.importMask(self.mask),
            },
        ):
            theirs, ours = self.carryOver(**arguments)
            self.checkParameters(theirs, ours)
            self.assertEqual(ours.weights.get(), WEIGHTS_OFFICIAL)

    def test_mask_that_xmipp_makes(self):
        """The step before it is carried over, and the mask that it will make."""
        create = self.newProtocol(self.CreateMask, source=0, inputVolume=self.volume)
        self.saveProtocol(create)
        mask = Pointer(create, extended="outputMask")
        theirs, ours = self.carryOver(
            create,
            inputVolume=self.volume,
            normalization=self.Xmipp.NORMALIZATION_MASK,
            inputMask=mask,
        )
        self.checkParameters(theirs, ours, same=["inputMask"])
        self.assertEqual(type(ours.inputMask.getObjValue()), type(create))
        self.assertNotEqual(ours.inputMask.getObjValue().strId(), create.strId())

    def test_own_workflows_keep_their_weights(self):
        prot = self.protocol(inputVolume=self.volume)
        self.saveProtocol(prot)
        path = os.path.abspath(self.getOutputPath("own.json"))
        self.proj.getRunsGraph(refresh=True)
        self.proj.exportProtocols([prot], path)
        (copy,) = self.proj.loadProtocols(path).values()
        self.assertEqual(copy.weights.get(), WEIGHTS_EMBEDDED)
        (fields,) = json.loads(Path(path).read_text())
        few = {name: fields[name] for name in fields if "." in name or name == "inputVolume"}
        Path(path).write_text(json.dumps([few]))  # as a template, or written by hand
        (copy,) = self.proj.loadProtocols(path).values()
        self.assertEqual(copy.weights.get(), WEIGHTS_EMBEDDED)

    def test_class_constants(self):
        names = [name for name in vars(self.Xmipp) if name.isupper()]
        self.assertGreaterEqual(len(names), 8)
        for name in names:
            self.assertEqual(getattr(ProtDeepEMhancer, name), getattr(self.Xmipp, name), name)

    @unittest.skipUnless(CHECKPOINT_WRITER.exists(), "needs the source: run it in a checkout")
    def test_run_with_the_models_that_xmipp_downloaded(self):
        home = Path(self.getOutputPath("xmipp")).absolute()
        folder = home / "models/deepEMhancer_v016/production_checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        code = (
            f"import sys; sys.path.insert(0, {str(CHECKPOINT_WRITER.parent)!r})\n"
            f"from official_checkpoint import write_small\nfor name in {VARIANTS}:\n"
            f"    write_small({str(folder)!r} + '/deepEMhancer_%s.hd5' % name)"
        )
        command = f"{Plugin.getActivation()} && python -c {shlex.quote(code)}"
        subprocess.run(["bash", "-c", command], check=True, env=Plugin.getEnviron())
        _, ours = self.carryOver(inputVolume=self.volume, useHalfMapsInsteadVol=True)
        ours.useGpu.set(False)
        nowhere = {DEEPEMHANCER_MODELS: "/nowhere"}
        environment = {**nowhere, "XMIPP_HOME": str(home)}
        with mock.patch.dict(Plugin._vars, nowhere), mock.patch.dict(os.environ, environment):
            self.assertIn("does not exist", " ".join(ours.validate()))
            with mock.patch.object(pwem.Config, "XMIPP_HOME", str(home)):
                self.assertEqual(ours.validate(), [])
                self.launchProtocol(ours)
        self.assertEqual(ours.Volume.getDim(), SHAPE[::-1])
        self.assertRegex("\n".join(ours.summary()), "tightTarget.*, official weights")
