"""Installation: packages, variables, and Scipion's commands with a stand-in for conda."""

import ast
import hashlib
import http.server
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
import unittest.mock
import zipfile
from pathlib import Path

from pwem import Domain

import deepemhancer_plugin
from deepemhancer_plugin import constants, plugin, probe
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.tests.base import (
    CHECKOUT,
    PACKAGE,
    make_half_maps,
    use_checkout,
    write_map,
)

# Looks for Zenodo on this machine. A .pth file makes Python import it at its start in the
# environments of the stand-in. A sitecustomize would not do: Debian's Python has its own.
ZENODO_HERE = """
import requests
send = requests.Session.request
def request(self, method, url, **rest):
    return send(self, method, url.replace("https://zenodo.org", {url!r}), **rest)
requests.Session.request = request
"""
ZIP = ast.dump(ast.parse("zip", mode="eval").body)


# The imports of Scipion's side that Scipion and its plugins provide
SCIPIONS_OWN = {"pwem", "pyworkflow", "scipion", "relion"}


def list_sources():
    """Return the files of Scipion's side."""
    folders = (PACKAGE, *(PACKAGE / name for name in ("protocols", "viewers", "wizards", "tests")))
    return [path for folder in folders for path in sorted(folder.glob("*.py"))]


def find_imports(path):
    """Return the names of the top-level packages that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def read_requirements():
    """Return the lines of the inference environment's requirements."""
    lines = (PACKAGE / "requirements-inference.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class TestRequirements(unittest.TestCase):
    """What each of Scipion's environment, the command line and the inference environment gets."""

    def test_the_probe_checks_every_requirement(self):
        names = {
            re.match(r"[\w-]+", line).group()
            for line in read_requirements()
            if "sys_platform" not in line or sys.platform != "linux"
        }
        self.assertEqual(set(probe.MODULES), names)

    @unittest.skipUnless((CHECKOUT / "setup.py").exists(), "needs the source")
    def test_packages_and_extras(self):
        arguments = {}
        setuptools = types.ModuleType("setuptools")
        setuptools.setup, setuptools.find_packages = arguments.update, lambda **_: []
        with unittest.mock.patch.dict(sys.modules, setuptools=setuptools):
            runpy.run_path(str(CHECKOUT / "setup.py"))
        required, extras = arguments["install_requires"], arguments["extras_require"]
        self.assertEqual(arguments["python_requires"], ">=3.8")
        self.assertEqual(extras["inference"], read_requirements())
        self.assertLessEqual(set(required), set(extras["inference"]))
        imported = set().union(*map(find_imports, list_sources()))
        foreign = imported & (set(required) | set(probe.MODULES.values()) | set(probe.BACKENDS))
        self.assertEqual(foreign, set(required))
        bound = ".".join(map(str, plugin.MINIMUM_PYWORKFLOW))
        self.assertEqual(extras["scipion"], [f"scipion-pyworkflow>={bound}", "scipion-em>=3.11.1"])
        self.assertLessEqual(SCIPIONS_OWN, imported)
        # What PyPI and Scipion's plugin manager show
        self.assertTrue(arguments["author"] and arguments["url"] and arguments["keywords"])
        self.assertIn("Programming Language :: Python :: 3.8", arguments["classifiers"])
        self.assertEqual(arguments["project_urls"]["Source"], constants.URL)
        links = re.findall(r"<([^<>\s]+)>`_|image:: (\S+)", arguments["long_description"])
        self.assertGreater(len(links), 10)
        for link in map("".join, links):
            self.assertTrue(link.startswith("https://"), link)

    @unittest.skipUnless((CHECKOUT / "setup.py").exists(), "needs the source")
    def test_every_page_has_its_chapter(self):
        """GitHub makes an anchor of each heading."""
        headings = re.findall(
            "^## (.*)$", (CHECKOUT / "docs" / "scipion.md").read_text(), re.MULTILINE
        )
        anchors = {re.sub("[^a-z -]", "", title.lower()).replace(" ", "-") for title in headings}
        for page in constants.PAGES.values():
            self.assertIn(page.partition("#")[2], anchors)

    def test_scipions_side_is_python_3_8(self):
        """As the parser sees it, and without the methods that Python 3.9 and 3.10 brought."""
        for path in list_sources():
            tree = ast.parse(path.read_text(), feature_version=(3, 8))
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    self.assertNotIn(node.attr, ("removeprefix", "removesuffix"), path)
                if isinstance(node, ast.Call):
                    names = {keyword.arg for keyword in node.keywords}
                    self.assertFalse(ast.dump(node.func) == ZIP and "strict" in names, path)
                if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
                    self.assertNotIn(node.value.id, ("dict", "list", "set", "tuple"), path)

    def run_launcher(self, *arguments, before=""):
        """Run the launcher with this Python, where the core's packages are missing."""
        code = (
            f"import runpy, sys; {before}sys.argv[1:] = {list(arguments)!r};"
            f"runpy.run_path({str(PACKAGE / 'launcher.py')!r}, run_name='__main__')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        (line,) = done.stderr.splitlines()
        return line

    def test_the_command_in_an_old_python(self):
        line = self.run_launcher("-h", before="sys.version_info = (3, 10, 13);")
        self.assertIn("Python 3.10 is too old, 3.11 or later is needed", line)

    def test_the_core_in_an_old_python(self):
        code = (
            "import sys; sys.version_info = (3, 10, 13); import deepemhancer_plugin.core.commands"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT
        )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(
            done.stderr.splitlines()[-1],
            "^ImportError: .* needs Python 3.11 or later, and this is 3.10: use the Python of",
        )

    def test_an_old_scipion(self):
        code = (
            "import pyworkflow; pyworkflow.__version__ = '3.10.4';import deepemhancer_plugin.plugin"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT
        )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(
            done.stderr.splitlines()[-1],
            "^ImportError: .* needs scipion-pyworkflow 3.11.2 or later, and this is 3.10.4",
        )

    @unittest.skipIf(sys.version_info < (3, 11), "the core does not run on this Python")
    def test_the_command_without_the_packages_of_the_core(self):
        with tempfile.TemporaryDirectory() as folder:
            path = write_map(f"{folder}/map.mrc", make_half_maps()[0])
            line = self.run_launcher(
                *("-i", path, "-o", f"{folder}/out.mrc", "-g", "-1"),
                before="sys.modules['keras'] = None;",
            )
            self.assertEqual(os.listdir(folder), ["map.mrc"])
        self.assertIn("pip install 'scipion-em-deepemhancer[inference]' and TensorFlow", line)


class TestPlugin(unittest.TestCase):
    """What needs no installation."""

    @classmethod
    def setUpClass(cls):
        use_checkout()

    def setUp(self):
        self.saved = dict(Plugin._vars)
        plugin._probes.clear()

    def tearDown(self):
        Plugin._vars.clear()
        Plugin._vars.update(self.saved)
        plugin._probes.clear()

    def test_registered(self):
        module = Domain.getPluginModule("deepemhancer_plugin")
        self.assertIs(module.Plugin, Plugin)
        self.assertEqual(module._pluginInstance.getPath(), str(PACKAGE))
        self.assertLessEqual(
            {"ProtDeepEMhancer", "ProtDeepRes", "ProtRelionRefineDeepEMhancer"},
            set(Domain.getProtocols()),
        )
        self.assertLessEqual({"DeepEMhancerViewer", "DeepResViewer"}, set(Domain.getViewers()))
        for key in {*deepemhancer_plugin._references, "Jakobi2017"}:
            self.assertIn(key, module._bibtex)

    def test_place_in_the_tree(self):
        import pyworkflow.gui.project.project  # noqa: F401  (the next one needs it)
        from pwem import __path__ as pwem
        from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig

        tree = ProtocolTreeConfig.load(Domain, os.path.join(pwem[0], "protocols.conf"))[
            "Protocols SPA"
        ]
        for protocol, *names in (
            ("ProtDeepEMhancer", "3D", "Postprocess"),
            ("ProtDeepRes", "3D", "Analysis", "Resolution"),
            ("ProtRelionRefineDeepEMhancer", "3D", "Refine"),
        ):
            node = tree
            for name in names:
                (node,) = (child for child in node.childs if child.text == name)
            self.assertIn(protocol, [str(child.value) for child in node.childs])

    def test_import_without_scipion_or_tensorflow(self):
        """The core imports without Scipion, and Scipion's side without TensorFlow or Keras."""
        code = (
            "import sys; sys.modules.update(dict.fromkeys(['pwem', 'pyworkflow', 'scipion']));"
            "import deepemhancer_plugin; deepemhancer_plugin.__version__"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)
        code = (
            "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras']));from pwem "
            "import Domain; m = "
            "Domain.getPluginModule('deepemhancer_plugin');Domain.getProtocols(); "
            "Domain.getViewers(); Domain.getWizards();assert not [n for n in sys.modules if "
            "n.startswith('deepemhancer_plugin.core.')], 'the core was imported'"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT, capture_output=True)

    def test_working_environment(self):
        self.assertEqual(Plugin.validateInstallation(), [])

    def test_missing_environment(self):
        with tempfile.TemporaryDirectory() as home:
            Plugin._vars[constants.DEEPEMHANCER_HOME] = home
            for activation, words in (
                (plugin.DEFAULT_ACTIVATION, "scipion3 installb deepemhancer"),
                ("source /nowhere/bin/activate", "/nowhere/bin/activate: No such file"),
            ):
                Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = activation
                (error,) = Plugin.validateInstallation()
                self.assertIn(words, error)
                self.assertIn(constants.DEEPEMHANCER_ENV_ACTIVATION, error)
                self.assertNotIn("\n", error)
                log = f"{home}/log"
                command = Plugin.getCommand(["--version"], log)
                done = subprocess.run(["bash", "-c", command], capture_output=True)
                self.assertNotEqual(done.returncode, 0)
                line = Path(log).read_text().splitlines()[-1]
                self.assertIn(f"cannot be activated with *{activation}*: ", line)

    def test_probing_costs_nothing_when_a_project_opens(self):
        """Scipion asks for each protocol, at each opening and each search."""
        with tempfile.TemporaryDirectory() as folder:
            count = Path(folder) / "count"
            works = Plugin.getVar(constants.DEEPEMHANCER_ENV_ACTIVATION)
            for activation, probes in ((works, 1), ("source /nowhere/bin/activate", 1)):
                count.write_text("")
                Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = (
                    f"echo >>{count} && {activation}"
                )
                answers = [Plugin.validateInstallation() for _ in range(6)]
                self.assertEqual(answers, [answers[0]] * 6)
                self.assertEqual(bool(answers[0]), activation != works)
                self.assertEqual(len(count.read_text()), probes)
            # an environment that was mended is found
            age = plugin.FAILED_PROBE_AGE_S + 1
            with unittest.mock.patch("time.monotonic", lambda now=time.monotonic: now() + age):
                Plugin.validateInstallation()
            self.assertEqual(len(count.read_text()), 2)
            # the plugin's own environment: a file tells, no process is started
            Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = plugin.DEFAULT_ACTIVATION
            Plugin._vars[constants.DEEPEMHANCER_HOME] = folder
            with unittest.mock.patch("subprocess.run", side_effect=AssertionError):
                self.assertEqual(len(Plugin.validateInstallation()), 1)
                (Path(folder) / (constants.ENV_READY % plugin.DEFAULT_FRAMEWORK)).touch()
                self.assertEqual(Plugin.validateInstallation(), [])
                Plugin._vars[constants.DEEPEMHANCER_FRAMEWORK] = "torch"
                self.assertEqual(len(Plugin.validateInstallation()), 1)

    @unittest.skipIf(sys.version_info < (3, 11), "an environment of this Python is too old")
    def test_missing_packages(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = f"source {folder}/bin/activate"
            (error,) = Plugin.validateInstallation()
            for name in (*probe.MODULES, "tensorflow"):
                self.assertIn(f" {name}", error)
            self.assertIn(f"source {folder}/bin/activate && pip install ", error)
            Plugin._vars[constants.DEEPEMHANCER_FRAMEWORK] = "torch"
            (error,) = Plugin.validateInstallation()
            self.assertIn(" torch", error)
            self.assertNotIn("tensorflow", error)

    def test_environment_with_an_old_python(self):
        Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = (
            "python() { echo PYTHON:3.9; echo PROBE:; }"
        )
        (error,) = Plugin.validateInstallation()
        self.assertIn("has Python 3.9, 3.11 or later is needed: correct", error)

    def test_nothing_foreign_gets_in(self):
        """Modules of the home folder, which conda's Python sees; PYTHONPATH; other libraries."""
        python = Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info)
        code = "import sys, os; print(sys.path, dict(os.environ))"
        with tempfile.TemporaryDirectory() as folder:
            home, path, cuda, driver = (Path(folder) / name for name in ("h", "p", "c", "a driver"))
            name = "python{}.{}".format(*sys.version_info)
            (home / "lib" / name / "site-packages").mkdir(parents=True)
            for other in (path, cuda, driver):
                other.mkdir()
            (driver / "libcuda.so.1").touch()  # a container has it there alone
            shell = {
                **os.environ,
                "PYTHONUSERBASE": str(home),
                "PYTHONPATH": str(path),
                "LD_LIBRARY_PATH": f"{cuda}:{driver}:{cuda}",
            }
            Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = "export PATH=$PATH:/activated"
            found = [
                subprocess.run(command, env=shell, check=True, capture_output=True, text=True)
                for command in (
                    [python, "-c", code],
                    ["bash", "-c", f"{Plugin.getActivation()} && {python} -c '{code}'"],
                    ["sh", "-euc", f"{plugin.ISOLATION}; {python} -c '{code}'"],
                )
            ]
            first, *others = [done.stdout for done in found]
            self.assertIn(f"{home}/lib", first)
            self.assertIn(f"'{path}'", first)
            for text in others:
                self.assertNotIn(f"{home}/lib", text)
                self.assertNotIn(f"'{path}'", text)
                self.assertIn(f"'LD_LIBRARY_PATH': '{driver}'", text)
                # RELION, which the hook calls, gets its libraries back
                self.assertIn(f"'RELION_LD_LIBRARY_PATH': '{cuda}:{driver}:{cuda}'", text)

    def test_nothing_foreign_gets_into_an_installation(self):
        """Nor does conda ask Anaconda's channels, whose terms somebody must accept first."""
        for activation in (plugin.DEFAULT_ACTIVATION, "source /some/venv/bin/activate"):
            Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = activation
            commands = [*Plugin._environmentCommands(), *Plugin._modelsCommands()]
            for command, _ in commands:
                (script,) = shlex.split(command)[2:]
                self.assertEqual(script.lstrip("{ ").find(plugin.ISOLATION), 0)
                if "conda create" in script:
                    self.assertIn("--override-channels -c conda-forge ", script)
                subprocess.run(["bash", "-n", "-c", script], check=True)

    def test_frameworks(self):
        Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = plugin.DEFAULT_ACTIVATION
        for value, framework, requirement in (
            ("", plugin.DEFAULT_FRAMEWORK, "'tensorflow"),
            ("TensorFlow-GPU", "tensorflow-gpu", "'tensorflow[and-cuda]>="),
            ("tensorflow-cpu", "tensorflow-cpu", "'tensorflow"),
            ("torch", "torch", "'torch>="),
        ):
            Plugin._vars[constants.DEEPEMHANCER_FRAMEWORK] = value
            command, target = Plugin._environmentCommands()[-1]
            (script,) = shlex.split(command)[2:]
            self.assertEqual(target, f"DEPENDENCIES_INSTALLED_{framework}")
            self.assertIn(f"{requirement}", script)
            backend = framework.partition("-")[0]
            self.assertIn(f"export KERAS_BACKEND={backend} && ", Plugin.getCommand([]))
        for _, requirement in plugin.FRAMEWORKS.values():
            self.assertRegex(requirement, r">=[\d.]+,<[\d.]+$")  # what was tried, no more
        (keras,) = [line for line in read_requirements() if line.startswith("keras")]
        self.assertRegex(keras, r">=[\d.]+,<[\d.]+$")

        Plugin._vars[constants.DEEPEMHANCER_FRAMEWORK] = "cuda"
        (error,) = Plugin.validateInstallation()
        self.assertIn("DEEPEMHANCER_FRAMEWORK = cuda in scipion.conf: expected one of", error)
        ((command, _),) = Plugin._environmentCommands()
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr.strip()), (1, error))

    def test_a_login_node_installs_for_gpus(self):
        """The machine's own GPUs are not asked for."""
        source = (PACKAGE / "plugin.py").read_text()
        self.assertNotIn("nvidia-smi", source)
        with unittest.mock.patch("platform.machine", lambda: "x86_64"):
            with unittest.mock.patch("platform.system", lambda: "Linux"):
                values = runpy.run_path(str(PACKAGE / "plugin.py"))
        self.assertEqual(values["DEFAULT_FRAMEWORK"], "tensorflow-gpu")

    def test_help_buttons(self):
        classes = Domain.getProtocols()
        urls = {classes[name].getUrl() for name in constants.PAGES}
        self.assertEqual(urls, set(constants.PAGES.values()))
        self.assertEqual(Plugin.getUrl(), constants.URL)

    def test_conda_only_where_needed(self):
        Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = plugin.DEFAULT_ACTIVATION
        command, Plugin._condaActivationCmd = Plugin._condaActivationCmd, ""
        try:
            self.assertEqual(Plugin.getDependencies(), ["conda"])
            self.assertIn('eval "$(conda shell.bash hook)" && conda', Plugin.getActivation())
            Plugin._condaActivationCmd = "eval hook&&"
            self.assertEqual(Plugin.getDependencies(), [])
            self.assertIn(f"eval hook&&conda activate {plugin.ENV_NAME}", Plugin.getActivation())
            Plugin._condaActivationCmd = ""
            Plugin._vars[constants.DEEPEMHANCER_ENV_ACTIVATION] = "source /some/venv/bin/activate"
            self.assertEqual(Plugin.getDependencies(), [])
            self.assertEqual(
                Plugin.getActivation(), f"{plugin.ISOLATION} && source /some/venv/bin/activate"
            )
            self.assertNotIn("conda", str(Plugin._environmentCommands()))
        finally:
            Plugin._condaActivationCmd = command

    def test_checkpoints_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            Plugin._vars[constants.DEEPEMHANCER_MODELS] = folder
            (error,) = Plugin.validateCheckpoint("highRes")
            self.assertIn("deepEMhancer_highRes.hd5", error)
            self.assertIn("scipion3 installb deepemhancer_models", error)
            (Path(folder) / "deepEMhancer_highRes.hd5").touch()
            self.assertEqual(Plugin.validateCheckpoint("highRes"), [])
            (Path(folder) / "production_checkpoints").mkdir()
            self.assertEqual(Plugin.validateCheckpoint("highRes"), [])  # it is empty
            (Path(folder) / "production_checkpoints" / "deepEMhancer_highRes.hd5").touch()
            self.assertEqual(Plugin.validateCheckpoint("highRes"), [])

    def test_the_plugins_own_code_runs(self):
        """Not another deepemhancer_plugin of the inference environment or on PYTHONPATH."""
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "deepemhancer_plugin"
            other.mkdir()
            (other / "__init__.py").write_text("raise SystemExit('the wrong package')")
            environ = {**Plugin.getEnviron(), "PYTHONPATH": folder}
            command = f"export PYTHONPATH={folder}; {Plugin.getCommand(['--version'])}"
            output = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, env=environ, cwd=folder
            )
        self.assertIn(deepemhancer_plugin.__version__, output.stdout)

    def test_exit_status_and_log(self):
        with tempfile.TemporaryDirectory() as folder:
            log = f"{folder}/a log"
            command = Plugin.getCommand(["-i", "/nowhere.mrc", "-o", f"{folder}/out.mrc"], log)
            self.assertEqual(
                subprocess.run(
                    ["bash", "-c", command], capture_output=True, env=Plugin.getEnviron()
                ).returncode,
                1,
            )
            self.assertIn("/nowhere.mrc", Path(log).read_text())


# A plugin of RELION that names its steps by text, as scipion-em-relion up to 4.0 does
OLD_RELION = """
from pwem.protocols import ProtRefine3D
class ProtRelionRefine3D(ProtRefine3D):
    def _insertAllSteps(self):
        self._insertFunctionStep("convertInputStep")
        self._insertFunctionStep("runRelionStep", "--i particles.star")
        self._insertFunctionStep("createOutputStep")
    def convertInputStep(self): pass
    def runRelionStep(self, params): pass
    def createOutputStep(self): pass
"""
LOADED = """
from pwem import Domain
assert {names} <= {{*Domain.getProtocols(), *Domain.getViewers()}}
assert any(w.__name__ == "DeepEMhancerNoiseWizard" for w in Domain.getWizards().values())
from deepemhancer_plugin.protocols import ProtRelionRefineDeepEMhancer as Refinement
"""
STEPS = """
Refinement._defineParams = lambda self, form: None
protocol = Refinement()
protocol._hookOptions = dict
protocol._insertAllSteps()
print([(step.funcName.get(), step.argsStr.get()) for step in protocol._steps])
"""


class TestNeighbours(unittest.TestCase):
    """A missing, old or broken plugin of RELION takes its own protocol away, and nothing else."""

    def print_with(self, code, protocols, package="class Plugin: pass"):
        """Return what `code` prints beside a stand-in for scipion-em-relion."""
        names = {"ProtDeepEMhancer", "ProtDeepRes", "DeepEMhancerViewer", "DeepResViewer"}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "relion").mkdir()
            (Path(folder) / "relion" / "__init__.py").write_text(package)
            (Path(folder) / "relion" / "protocols.py").write_text(protocols)
            done = subprocess.run(
                [sys.executable, "-c", LOADED.format(names=names) + code],
                env={**os.environ, "PYTHONPATH": f"{folder}:{CHECKOUT}"},
                capture_output=True,
                text=True,
            )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.splitlines()[-1]

    def test_steps_by_name(self):
        line = self.print_with(STEPS, OLD_RELION)
        self.assertEqual(
            ast.literal_eval(line),
            [
                ("convertInputStep", "[]"),
                ("runRelionStep", '["--i particles.star", {}]'),
                ("createOutputStep", "[{}]"),
            ],
        )

    def test_broken(self):
        code = "print(*Refinement.validateInstallation())"
        for arguments, words in (
            (("",), "cannot be used (cannot import name 'ProtRelionRefine3D'"),
            (("import numpy; numpy.nothing",), "cannot be used (module 'numpy' has no attribute"),
            (("", "raise KeyError('RELION_HOME')"), "cannot be used ("),
            (("", "raise ModuleNotFoundError(name='relion')"), "is not installed: install"),
        ):
            line = self.print_with(code, *arguments)
            self.assertIn(words, line)
            self.assertIn("install scipion-em-relion 4.0 or later with *scipion3 installp", line)


class TestInstallation(unittest.TestCase):
    """A Scipion of its own: `installp --devel`, `installb`, `uninstallb`."""

    @classmethod
    def setUpClass(cls):
        use_checkout()
        cls.root = Path(tempfile.mkdtemp(prefix="scipion-"))
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        which = (
            "import sys, numpy, pathlib; print(sys.executable);"
            "print(pathlib.Path(numpy.__file__).parents[1])"
        )
        found = subprocess.run(
            ["bash", "-c", f"{Plugin.getActivation()} && python -c '{which}'"],
            capture_output=True,
            text=True,
            check=True,
            env=Plugin.getEnviron(),
        ).stdout.split()
        # The framework that is there, so that pip downloads nothing
        small = list(Path(found[1]).glob("tensorflow_cpu-*"))
        cls.framework = "tensorflow-cpu" if small else "tensorflow-gpu"
        (cls.root / "bin").mkdir()
        shutil.copy(PACKAGE / "tests" / "conda_standin.sh", cls.root / "bin" / "conda")
        cls.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DEEPEMHANCER", "SCIPION", "VIRTUAL_ENV", "PYTHON", "EM_ROOT"))
        }
        cls.environ.update(
            PATH=f"{cls.root}/scipion/bin:{cls.root}/bin:{os.environ['PATH']}",
            CONDA_ACTIVATION_CMD='eval "$(conda shell.bash hook)"',
            DEEPEMHANCER_FRAMEWORK=cls.framework,
            STANDIN_ENVS=str(cls.root / "envs"),
            STANDIN_PYTHON=found[0],
            STANDIN_PACKAGES=found[1],
            SCIPION_HOME=str(cls.root),
            SCIPION_USER_DATA=str(cls.root / "data"),
            SCIPION_LOCAL_CONFIG=str(cls.root / "config" / "scipion.conf"),
            SCIPION_NOTIFY="False",
            SCIPION_TEST_NOSYNC="True",
            PIP_DISABLE_PIP_VERSION_CHECK="1",
        )
        cls.makeScipion()

    @classmethod
    def makeScipion(cls):
        """Make an environment with this one's packages, and a copy of the source to install."""
        subprocess.run([sys.executable, "-m", "venv", cls.root / "scipion"], check=True)
        (cls.packages,) = (cls.root / "scipion" / "lib").glob("python3*/site-packages")
        import pwem

        (cls.packages / "scipion.pth").write_text(f"{Path(pwem.__file__).parents[1]}\n")
        source = cls.root / "scipion-em-deepemhancer"
        shutil.copytree(
            PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in (
            "setup.py",
            "pyproject.toml",
            "MANIFEST.in",
            "README.rst",
            "CHANGES.txt",
            "LICENSE",
        ):
            if (CHECKOUT / name).exists():
                shutil.copy(CHECKOUT / name, source / name)
        cls.source = source
        cls.scipion("config", "--unattended", "--overwrite")

    @classmethod
    def scipion(cls, *arguments):
        """Runs scipion3; returns its exit status and all that it printed."""
        python = cls.root / "scipion" / "bin" / "python"
        result = subprocess.run(
            [python, "-m", "scipion", *arguments],
            env=cls.environ,
            cwd=cls.root,
            capture_output=True,
            text=True,
        )
        return result.returncode, result.stdout + result.stderr

    def inNewScipion(self, code):
        """What Python code prints in that Scipion."""
        code = (
            "from pwem import Domain; P = Domain.getPluginModule('deepemhancer_plugin').Plugin; "
            + code
        )
        result = subprocess.run(
            [self.root / "scipion" / "bin" / "python", "-c", code],
            env=self.environ,
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    @unittest.skipUnless(
        (CHECKOUT / "setup.py").exists(), "needs the source: run the tests in a checkout"
    )
    def test_installation(self):
        """One story, in order: each step needs the one before."""
        home = self.root / "software" / "em" / plugin.ENV_NAME
        ready = home / (constants.ENV_READY % self.framework)
        created = home / constants.ENV_CREATED

        # Plugin and environment in one go; pip fails at first
        self.environ["STANDIN_PACKAGES"], packages = "/nowhere", self.environ["STANDIN_PACKAGES"]
        _, text = self.scipion("installp", "-p", str(self.source), "--devel")
        self.assertTrue(created.exists(), text)
        self.assertFalse(ready.exists(), text)
        self.assertIn("not found after running", text)
        self.assertEqual(
            self.inNewScipion("print(P.__module__, P().getPath())").split(),
            ["deepemhancer_plugin", str(self.source / "deepemhancer_plugin")],
        )
        self.assertIn(
            "scipion3 installb deepemhancer", self.inNewScipion("print(P.validateInstallation())")
        )

        # Scipion's environment got the plugin alone
        installed = {path.name.split("-")[0] for path in self.packages.glob("*.dist-info")}
        self.assertEqual(installed - {"pip", "setuptools"}, {"scipion_em_deepemhancer"})

        # A rerun goes on where the first one stopped
        (pth,) = (self.root / "envs").glob("*/lib/python3*/site-packages/standin.pth")
        pth.write_text(packages + "\n")
        self.environ["STANDIN_PACKAGES"] = packages
        status, text = self.scipion("installb", "deepemhancer")
        self.assertEqual(status, 0)
        self.assertIn("Skipping command: ", text)
        self.assertTrue(ready.exists(), text)
        self.assertEqual(self.inNewScipion("print(P.validateInstallation())").strip(), "[]")

        # The environment runs the plugin's own code
        command = self.inNewScipion("print(P.getCommand(['--version']))").strip()
        self.assertIn(f" && python {self.source}", command)
        version = subprocess.run(
            ["bash", "-c", command], env=self.environ, capture_output=True, text=True
        )
        self.assertIn(deepemhancer_plugin.__version__, version.stdout, version.stderr)

        # Again: nothing to do
        _, text = self.scipion("installb", "deepemhancer")
        self.assertIn("All targets exist", text)

        self.installModels()

        self.scipion("uninstallb", plugin.ENV_NAME)
        self.assertFalse(home.exists())

        self.useOwnEnvironment(ready)

    def useOwnEnvironment(self, ready):
        """With an environment of the user's, conda is not needed."""
        environ = dict(self.environ)
        try:
            self.environ.update(
                DEEPEMHANCER_ENV_ACTIVATION="source "
                f"{self.root}/envs/{plugin.ENV_NAME}/bin/activate",
                PATH=os.environ["PATH"],
                CONDA_ACTIVATION_CMD="",
            )
            _, text = self.scipion("installb", "deepemhancer")
            self.assertTrue(ready.exists(), text)
            self.assertNotIn(
                "conda",
                text.replace("CONDA_ACTIVATION_CMD", "")
                .replace("_condaActivationCmd", "")
                .replace("Relying on conda being in the PATH", ""),
            )
        finally:
            self.environ.clear()
            self.environ.update(environ)

    def installModels(self):
        """Install the official checkpoints from a small archive, at first a damaged one."""
        folder = (
            self.root / "software" / "em" / f"{constants.MODELS_PACKAGE}-{constants.MODELS_VERSION}"
        )
        (site,) = (self.root / "envs").glob("*/lib/python3*/site-packages")
        with Zenodo() as server:
            (site / "zenodo_here.py").write_text(ZENODO_HERE.format(url=server.url))
            # after standin.pth, which makes `requests` importable
            (site / "zenodo_here.pth").write_text("import zenodo_here\n")
            server.damaged = True
            self.scipion("installb", constants.MODELS_PACKAGE)
            self.assertEqual(list(folder.glob("**/*.hd5")), [])
            server.damaged = False
            _, text = self.scipion("installb", constants.MODELS_PACKAGE)
            for name in (*constants.MODEL_NAMES, constants.MASKED_MODEL):
                path = folder / constants.CHECKPOINTS_FOLDER / (constants.CHECKPOINT % name)
                self.assertTrue(path.exists(), text)
                self.assertEqual(path.read_bytes(), server.files[path.name])
        self.assertEqual(self.inNewScipion("print(P.validateCheckpoint('highRes'))").strip(), "[]")


class Zenodo:
    """A server with the record and the archive as Zenodo describes them, as a context."""

    def __enter__(self):
        self.damaged = False
        self.files = {
            constants.CHECKPOINT % name: f"weights of {name}".encode() * 1000
            for name in (*constants.MODEL_NAMES, constants.MASKED_MODEL)
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in self.files.items():
                archive.writestr(f"{constants.CHECKPOINTS_FOLDER}/{name}", data)
        self.archive = buffer.getvalue()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.endswith(".zip"):
                    body = bytes(len(outer.archive)) if outer.damaged else outer.archive
                else:
                    name = "deepEMhancerModels_tf2.zip"
                    body = json.dumps(
                        {
                            "files": [
                                {
                                    "key": name,
                                    "size": len(outer.archive),
                                    "links": {"self": f"https://zenodo.org/{name}"},
                                    "checksum": "md5:" + hashlib.md5(outer.archive).hexdigest(),
                                }
                            ]
                        }
                    ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
