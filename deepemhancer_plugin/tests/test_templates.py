"""The workflow templates: well formed, and run headless by Scipion."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec

from pwem import Domain
from pwem.objects import Volume
from pyworkflow.project import Manager

from deepemhancer_plugin.protocols import ProtDeepEMhancer
from deepemhancer_plugin.tests.base import PACKAGE, RATE, SHAPE, EnhanceTest

PROJECT = "TestTemplateRun"


def read_protocols(path):
    """The protocols of a template, with its fields' defaults filled in."""
    _, text = path.read_text().split("\n", 1)
    parts = text.split("~")
    parts[1::2] = [field.split("|")[1] for field in parts[1::2]]
    return json.loads("".join(parts))


class TestTemplates(EnhanceTest):
    def test_parameters_exist(self):
        paths = sorted((PACKAGE / "templates").glob("*.json.template"))
        self.assertEqual(len(paths), 3)
        for path in paths:
            for fields in read_protocols(path):
                cls = Domain.getProtocols().get(fields["object.className"])
                if cls is None:
                    # Xmipp's plugin is not here
                    self.assertTrue(fields["object.className"].startswith("Xmipp"), path)
                    continue
                known = dict(self.newProtocol(cls).getDefinition().iterAllParams())
                for name in fields:
                    self.assertTrue(
                        name.startswith("object.") or name in (*known, "runMode", "hostName"),
                        f"{path}: {name}",
                    )

    def test_xmipp_template_only_with_xmipp(self):
        names = {
            template.name
            for template in Domain.getPluginModule(
                "deepemhancer_plugin"
            )._pluginInstance.getTemplates()
        }
        self.assertLessEqual({"enhance_half_maps", "local_resolution"}, names)
        self.assertEqual("enhance_with_mask" in names, find_spec("xmipp3") is not None)

    def test_headless_run(self):
        """Three models side by side, started by one command; the scheduler runs them."""
        if Manager().hasProject(PROJECT):
            Manager().deleteProject(PROJECT)
        fields = {
            "project_name": PROJECT,
            "map": self.paths[0],
            "half1": self.paths[1],
            "half2": self.paths[2],
            "rate": RATE,
        }
        command = [
            sys.executable,
            "-m",
            "scipion",
            "template",
            "deepemhancer-enhance_half_maps",
            "--nogui",
            *[f"{name}={value}" for name, value in fields.items()],
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        end = time.time() + 240
        while True:
            project = Manager().loadProject(PROJECT)
            runs = [
                run for run in project.getRuns(refresh=True) if isinstance(run, ProtDeepEMhancer)
            ]
            if all(run.isFinished() or run.isFailed() for run in runs) or time.time() > end:
                break
            time.sleep(3)
        self.assertEqual(len(runs), 3)
        for run in runs:
            self.assertTrue(run.isFinished(), f"{run.getStatusMessage()} {run.getErrorMessage()}")
            self.assertIsInstance(run.Volume, Volume)
        self.assertEqual(sorted(run.modelType.get() for run in runs), [0, 1, 2])
        self.assertEqual(runs[0].Volume.getDim(), SHAPE[::-1])
