"""The plugin as Scipion sees it: variables, the inference environment, the official checkpoints."""

import os
import platform
import re
import shlex
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pwem
import pyworkflow
import pyworkflow.utils as pwutils
from pyworkflow import VarTypes
from scipion.install.funcs import VOID_TGZ

from deepemhancer_plugin.constants import (
    CHECKPOINT,
    CHECKPOINTS_FOLDER,
    DEEPEMHANCER_ENV_ACTIVATION,
    DEEPEMHANCER_FRAMEWORK,
    DEEPEMHANCER_HOME,
    DEEPEMHANCER_MODELS,
    ENV_CREATED,
    ENV_READY,
    ENV_VERSION,
    MASKED_MODEL,
    MODEL_NAMES,
    MODELS_PACKAGE,
    MODELS_VERSION,
    PACKAGE,
    PAGES,
    URL,
    XMIPP_MODELS,
)
from deepemhancer_plugin.launcher import MINIMUM_PYTHON

MINIMUM_PYWORKFLOW = (3, 11, 2)  # as setup.py's extra `scipion` states
if tuple(map(int, re.findall(r"\d+", pyworkflow.__version__)[:3])) < MINIMUM_PYWORKFLOW:
    raise ImportError(
        "scipion-em-deepemhancer needs scipion-pyworkflow {}.{}.{} or later, and this is {}: "
        "update Scipion".format(*MINIMUM_PYWORKFLOW, pyworkflow.__version__)
    )

HERE = Path(__file__).resolve().parent
ENV_NAME = f"{PACKAGE}-{ENV_VERSION}"
DEFAULT_ACTIVATION = f"conda activate {ENV_NAME}"
PROBE = HERE / "probe.py"
PROBE_TIMEOUT_S = 60
FAILED_PROBE_AGE_S = 30  # after which an environment that failed is tried again
ISOLATION = f". {shlex.quote(str(HERE / 'isolate.sh'))}"

TENSORFLOW = ">=2.17,<2.22"
TORCH = ">=2.4,<2.14"
# The values of DEEPEMHANCER_FRAMEWORK: Keras's name of each, and what pip installs for it.
FRAMEWORKS = {
    "tensorflow-gpu": ("tensorflow", f"tensorflow[and-cuda]{TENSORFLOW}"),
    "tensorflow-cpu": (
        "tensorflow",
        # The smaller package is built for this processor alone.
        ("tensorflow-cpu" if platform.machine() == "x86_64" else "tensorflow") + TENSORFLOW,
    ),
    "torch": ("torch", f"torch{TORCH}"),
}
# A login node installs for nodes with GPUs; this build computes on CPUs too.
DEFAULT_FRAMEWORK = (
    "tensorflow-gpu"
    if (platform.system(), platform.machine()) == ("Linux", "x86_64")
    else "tensorflow-cpu"
)

# When each activation command was last probed, and what was wrong: Scipion's window asks for each
# protocol again.
_probes: dict = {}


class Plugin(pwem.Plugin):
    """The plugin's variables, its inference environment and its packages of `installb`."""

    # Scipion looks for the plugin's folder in the module that this class says it belongs to.
    __module__ = __package__

    _homeVar = DEEPEMHANCER_HOME
    _supportedVersions = [ENV_VERSION]  # noqa: RUF012  (Scipion's own attribute)
    _url = URL

    @classmethod
    def _defineVariables(cls):
        cls._defineEmVar(
            DEEPEMHANCER_HOME,
            ENV_NAME,
            var_type=VarTypes.FOLDER,
            description="Folder of the inference environment's installation marks.",
        )
        cls._defineVar(
            DEEPEMHANCER_ENV_ACTIVATION,
            DEFAULT_ACTIVATION,
            description="Command that activates the inference environment: conda's, or e.g. "
            "'source /path/to/venv/bin/activate' for any Python environment with TensorFlow.",
        )
        cls._defineVar(
            DEEPEMHANCER_FRAMEWORK,
            DEFAULT_FRAMEWORK,
            description="What *installb* puts into the inference environment: "
            f"{', '.join(FRAMEWORKS)}. PyTorch is for GPUs that TensorFlow does not serve.",
        )
        cls._defineEmVar(
            DEEPEMHANCER_MODELS,
            f"{MODELS_PACKAGE}-{MODELS_VERSION}",
            var_type=VarTypes.FOLDER,
            description="Folder of the official checkpoints: the one that holds "
            f"{CHECKPOINTS_FOLDER}, or that one.",
        )

    @classmethod
    def getUrl(cls, protClass=None):
        """Return the page of a protocol, which its Help button opens; the program's without one."""
        page = PAGES.get(getattr(protClass, "__name__", ""))
        return page or super().getUrl(protClass)

    # The inference environment

    @classmethod
    def getFramework(cls):
        """Return DEEPEMHANCER_FRAMEWORK, or the default where it is empty."""
        return (cls.getVar(DEEPEMHANCER_FRAMEWORK) or DEFAULT_FRAMEWORK).strip().lower()

    @classmethod
    def validateFramework(cls):
        """List what is wrong with DEEPEMHANCER_FRAMEWORK."""
        name = cls.getFramework()
        if name in FRAMEWORKS:
            return []
        return [
            f"{DEEPEMHANCER_FRAMEWORK} = {name} in scipion.conf: expected one of "
            f"{', '.join(FRAMEWORKS)}."
        ]

    @classmethod
    def _getActivationVariable(cls):
        return cls.getVar(DEEPEMHANCER_ENV_ACTIVATION) or DEFAULT_ACTIVATION

    @classmethod
    def usesOwnEnvironment(cls):
        """Tell whether the user names an environment of their own, which needs no conda."""
        return cls._getActivationVariable() != DEFAULT_ACTIVATION

    @classmethod
    def _getConda(cls):
        """Return the commands that make conda's shell function, with && at the end."""
        return cls.getCondaActivationCmd() or 'eval "$(conda shell.bash hook)" && '

    @classmethod
    def getActivation(cls):
        """Return the bash command that activates the inference environment.

        Nothing foreign gets into it: see isolate.sh.
        """
        activation = cls._getActivationVariable()
        if activation.startswith("conda "):
            activation = cls._getConda() + activation
        backend, _ = FRAMEWORKS.get(cls.getFramework(), (None, None))
        # An environment of the user's own may have set the variable itself.
        if backend == "torch" or (backend and not cls.usesOwnEnvironment()):
            activation = f"export KERAS_BACKEND={backend} && {activation}"
        return f"{ISOLATION} && {activation}"

    @classmethod
    def getEnviron(cls):
        """Return the environment variables for programs of the inference environment."""
        # The log appears line by line.
        return pwutils.Environ({**os.environ, "PYTHONUNBUFFERED": "1"})

    @classmethod
    def getCommand(cls, arguments, log=None):
        """Return the bash command line that runs `deepemhancer` in the inference environment.

        Args:
            arguments: List of strings; they are quoted here.
            log: File that gets a copy of all that the program prints. The reason of a failure is
                read from it.
        """
        launcher = shlex.quote(str(HERE / "launcher.py"))
        failure = shlex.quote(
            "The inference environment cannot be activated with "
            f"*{cls._getActivationVariable()}*: {cls._getRemedy()}."
        )
        activation = f"{{ {cls.getActivation()} || {{ echo {failure} >&2; false; }}; }}"
        run = f"{activation} && python {launcher} {shlex.join(arguments)}"
        if log is None:
            return run
        # pipefail: the exit status is the program's, not tee's
        return f"set -o pipefail; {{ {run} ; }} 2>&1 | tee {shlex.quote(log)}"

    @classmethod
    def _getRemedy(cls):
        """Say how the inference environment gets right."""
        if cls.usesOwnEnvironment():
            return f"correct {DEEPEMHANCER_ENV_ACTIVATION} in scipion.conf"
        return (
            f"install it with *scipion3 installb {PACKAGE}*, or set {DEEPEMHANCER_ENV_ACTIVATION} "
            "in scipion.conf"
        )

    @classmethod
    def validateInstallation(cls):
        """List what is missing, each with the command that installs it.

        Scipion's window asks this whenever a project is opened, so the plugin's own environment is
        judged by the mark that its installation left, and one of the user's is tried once.
        """
        errors = cls.validateFramework()
        if errors:
            return errors
        if cls.usesOwnEnvironment():
            return cls._probeOwnEnvironment()
        if os.path.exists(cls.getHome(ENV_READY % cls.getFramework())):
            return []
        return [
            f"The inference environment with {cls.getFramework()} is not installed: "
            f"{cls._getRemedy()}."
        ]

    @classmethod
    def _probeOwnEnvironment(cls):
        """Probe the user's environment, unless it worked before or failed a moment ago."""
        command = cls.getActivation()
        probed_at, errors = _probes.get(command, (0, None))
        if errors is None or (errors and time.monotonic() - probed_at > FAILED_PROBE_AGE_S):
            errors = probe_environment(command, cls._getActivationVariable(), cls._getRemedy())
            _probes[command] = time.monotonic(), errors
        return errors

    def getName(self):
        """Return the name that Scipion puts before those of runs and templates."""
        return PACKAGE

    def getTemplates(self):
        """Return the workflow templates; without Xmipp those that need it are left out."""
        return [
            template
            for template in super().getTemplates()
            if "Xmipp" not in template.description or find_spec("xmipp3")
        ]

    # The official checkpoints

    @classmethod
    def getCheckpointsFolder(cls):
        """Return the folder with the .hd5 files.

        It is DEEPEMHANCER_MODELS itself, or the folder in it that the authors' archive makes, or
        that of the models that Xmipp downloads.
        """
        models = Path(cls.getVar(DEEPEMHANCER_MODELS))
        xmipp = Path(pwem.Config.XMIPP_HOME) / XMIPP_MODELS
        folders = (models / CHECKPOINTS_FOLDER, models, xmipp / CHECKPOINTS_FOLDER)
        return next((folder for folder in folders if any(folder.glob(CHECKPOINT % "*"))), models)

    @classmethod
    def getCheckpoint(cls, name):
        """Return the path of the official checkpoint of a model."""
        return cls.getCheckpointsFolder() / (CHECKPOINT % name)

    @classmethod
    def validateCheckpoint(cls, name):
        """List what is wrong with the official checkpoint of a model."""
        path = cls.getCheckpoint(name)
        if path.is_file():
            return []
        return [
            f"The official checkpoint {path} does not exist: install it with *scipion3 installb "
            f"{MODELS_PACKAGE}* (740 MB), set {DEEPEMHANCER_MODELS} to the folder that has it, or "
            "choose the embedded weights."
        ]

    # Installation

    @classmethod
    def getDependencies(cls):
        """List the programs that the installation needs.

        Conda is needed unless the user has an environment or says how to set conda up.
        """
        return [] if cls.usesOwnEnvironment() or cls.getCondaActivationCmd() else ["conda"]

    @classmethod
    def defineBinaries(cls, env):
        """Add the packages of `scipion3 installb`: the inference environment, the checkpoints."""
        # Scipion wants an archive to unpack; these packages have none.
        common = {
            "tar": VOID_TGZ,
            "url": f"file:{os.devnull}",
            "neededProgs": cls.getDependencies(),
        }
        env.addPackage(
            PACKAGE,
            version=ENV_VERSION,
            commands=cls._environmentCommands(),
            default=True,
            **common,
        )
        env.addPackage(
            MODELS_PACKAGE,
            version=MODELS_VERSION,
            commands=cls._modelsCommands(),
            default=False,
            **common,
        )

    @classmethod
    def _environmentCommands(cls):
        """Return the commands and targets that install the inference environment.

        Scipion ignores exit codes and looks for the targets only, so each is touched after the
        step that it stands for. There is one mark for each framework, so that another one is
        installed when the variable changes.
        """
        framework = cls.getFramework()
        ready = ENV_READY % framework
        errors = cls.validateFramework()
        if errors:
            return [(f"echo {shlex.quote(errors[0])} >&2 && false", ready)]
        if cls.usesOwnEnvironment():
            probe = f"python {shlex.quote(str(PROBE))}"
            return [(quote_for_bash(f"{cls.getActivation()} && {probe} && touch {ready}"), ready)]
        create = (
            f"{ISOLATION} && {cls._getConda()}conda create -y -n {ENV_NAME} --override-channels "
            f"-c conda-forge python=3.11 pip && touch {ENV_CREATED}"
        )
        backend, requirement = FRAMEWORKS[framework]
        requirements = shlex.quote(str(HERE / "requirements-inference.txt"))
        install = " && ".join(
            [
                cls.getActivation(),
                f"rm -f {ENV_READY % '*'}",
                # They own the same files.
                "python -m pip uninstall --quiet -y tensorflow tensorflow-cpu torch",
                f"python -m pip install -r {requirements} {shlex.quote(requirement)}",
                f'python -c "import {backend}"',
                f"touch {ready}",
            ]
        )
        return [(quote_for_bash(create), ENV_CREATED), (quote_for_bash(install), ready)]

    @classmethod
    def _modelsCommands(cls):
        """Return the command and targets that download the official checkpoints."""
        targets = [
            f"{CHECKPOINTS_FOLDER}/{CHECKPOINT % name}" for name in (*MODEL_NAMES, MASKED_MODEL)
        ]
        return [(quote_for_bash(cls.getCommand(["download", "."])), targets)]


def quote_for_bash(command):
    """Return a /bin/sh command that runs `command` in bash: Debian's sh knows no `source`."""
    return f"bash -c {shlex.quote(command)}"


def probe_environment(command, activation, remedy):
    """List what is missing from an environment of the user's own.

    Args:
        command: Shell command that activates it.
        activation: The user's own part of it, for messages.
        remedy: What to do where it cannot be activated.

    Returns:
        A list with at most one message, of one line, that says what to do.
    """
    try:
        result = subprocess.run(
            ["bash", "-c", f"{command} && python {shlex.quote(str(PROBE))}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            env=Plugin.getEnviron(),
        )
    except subprocess.TimeoutExpired:
        return [
            f"The inference environment did not answer within a minute to *{activation}*: {remedy}."
        ]
    version = re.search(r"^PYTHON:(\d+)\.(\d+)$", result.stdout, re.MULTILINE)
    packages = re.search(r"^PROBE:(.*)$", result.stdout, re.MULTILINE)
    if not (version and packages):
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return [
            f"The inference environment cannot be activated with *{activation}* ({reason}): "
            f"{remedy}."
        ]
    if tuple(map(int, version.groups())) < MINIMUM_PYTHON:
        return [
            f"The inference environment (*{activation}*) has Python {'.'.join(version.groups())}, "
            f"3.11 or later is needed: {remedy}."
        ]
    missing = packages.group(1).split()
    if not missing:
        return []
    return [
        f"The inference environment (*{activation}*) lacks {', '.join(missing)}: install with "
        f"*{activation} && pip install {' '.join(missing)}*."
    ]
