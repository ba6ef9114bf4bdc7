"""The plugin as Scipion sees it: variables, the inference environment, the official checkpoints."""

import os
import platform
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pwem
import pyworkflow.utils as pwutils
from pyworkflow import VarTypes
from scipion.install.funcs import VOID_TGZ, CondaCommandDef

from deepemhancer_plugin.constants import (
    CHECKPOINT,
    CHECKPOINTS_FOLDER,
    DEEPEMHANCER_ENV_ACTIVATION,
    DEEPEMHANCER_HOME,
    DEEPEMHANCER_MODELS,
    ENV_CREATED,
    ENV_READY,
    MASKED_MODEL,
    MODEL_NAMES,
    MODELS_PACKAGE,
    MODELS_VERSION,
    PACKAGE,
    URL,
)
from deepemhancer_plugin.launcher import MINIMUM_PYTHON
from deepemhancer_plugin.version import __version__

HERE = Path(__file__).resolve().parent
ENV_NAME = f"{PACKAGE}-{__version__}"
DEFAULT_ACTIVATION = f"conda activate {ENV_NAME}"
PROBE = HERE / "probe.py"
PROBE_TIMEOUT_S = 60
# Packages of Scipion or of the user's home folder must not hide those of the inference environment.
ISOLATION = "unset PYTHONPATH PYTHONHOME && export PYTHONNOUSERSITE=1"

# Activation commands that worked; Scipion's window asks for each protocol again.
_working_activations = set()


class Plugin(pwem.Plugin):
    """The plugin's variables, its inference environment and its packages of `installb`."""

    # Scipion looks for the plugin's folder in the module that this class says it belongs to.
    __module__ = __package__

    _homeVar = DEEPEMHANCER_HOME
    _supportedVersions = [__version__]  # noqa: RUF012  (Scipion's own attribute)
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
        cls._defineEmVar(
            DEEPEMHANCER_MODELS,
            f"{MODELS_PACKAGE}-{MODELS_VERSION}",
            var_type=VarTypes.FOLDER,
            description="Folder of the official checkpoints: the one that holds "
            f"{CHECKPOINTS_FOLDER}, or that one.",
        )

    # The inference environment

    @classmethod
    def getActivation(cls):
        """Return the shell command that activates the inference environment.

        A command of conda's is preceded by the one that sets conda up.
        """
        activation = cls.getVar(DEEPEMHANCER_ENV_ACTIVATION) or DEFAULT_ACTIVATION
        if not activation.startswith("conda "):
            return activation
        return f"{cls.getCondaActivationCmd()} {activation}".strip()

    @classmethod
    def usesOwnEnvironment(cls):
        """Tell whether the user names an environment of their own, which needs no conda."""
        return cls.getVar(DEEPEMHANCER_ENV_ACTIVATION, DEFAULT_ACTIVATION) != DEFAULT_ACTIVATION

    @classmethod
    def getEnviron(cls):
        """Return the environment variables for programs of the inference environment."""
        environ = pwutils.Environ(os.environ)
        # As ISOLATION does in a shell.
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environ.pop(name, None)
        environ["PYTHONNOUSERSITE"] = "1"
        environ["PYTHONUNBUFFERED"] = "1"  # the log appears line by line
        return environ

    @classmethod
    def getCommand(cls, arguments, log=None):
        """Return the bash command line that runs `deepemhancer` in the inference environment.

        Args:
            arguments: List of strings; they are quoted here.
            log: File that gets a copy of all that the program prints. The reason of a failure is
                read from it.
        """
        launcher = shlex.quote(str(HERE / "launcher.py"))
        run = f"{cls.getActivation()} && python {launcher} {shlex.join(arguments)}"
        if log is None:
            return run
        # pipefail: the exit status is the program's, not tee's
        return f"set -o pipefail; {{ {run} ; }} 2>&1 | tee {shlex.quote(log)}"

    @classmethod
    def validateInstallation(cls):
        """List what is missing, each with the command that installs it."""
        return probe_environment(cls.getActivation(), cls.usesOwnEnvironment())

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

        It is DEEPEMHANCER_MODELS itself, or the folder in it that the authors' archive makes.
        """
        models = Path(cls.getVar(DEEPEMHANCER_MODELS))
        return models / CHECKPOINTS_FOLDER if (models / CHECKPOINTS_FOLDER).is_dir() else models

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
            version=__version__,
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
        step that it stands for.
        """
        if cls.usesOwnEnvironment():
            probe = f"python {shlex.quote(str(PROBE))}"
            check = f"{ISOLATION} && {cls.getActivation()} && {probe} && touch {ENV_READY}"
            return [(quote_for_bash(check), ENV_READY)]
        install = CondaCommandDef(ENV_NAME, cls.getCondaActivationCmd())
        install.create("python=3.11", touch=ENV_CREATED)
        requirements = shlex.quote(str(HERE / "requirements-inference.txt"))
        install.new().activate(appendCondaActivation=True).append(ISOLATION)
        install.pipInstall(f"-r {requirements} {shlex.quote(choose_tensorflow())}")
        install.append('python -c "import tensorflow"').touch(ENV_READY)
        return install.getCommands()

    @classmethod
    def _modelsCommands(cls):
        """Return the command and targets that download the official checkpoints."""
        targets = [
            f"{CHECKPOINTS_FOLDER}/{CHECKPOINT % name}" for name in (*MODEL_NAMES, MASKED_MODEL)
        ]
        download = f"{ISOLATION} && {cls.getCommand(['download', '.'])}"
        return [(quote_for_bash(download), targets)]


def quote_for_bash(command):
    """Return a /bin/sh command that runs `command` in bash: Debian's sh knows no `source`."""
    return f"bash -c {shlex.quote(command)}"


def choose_tensorflow():
    """Return the requirement of the TensorFlow that suits this machine."""
    smi = shutil.which("nvidia-smi")
    if smi and subprocess.run([smi, "-L"], capture_output=True).returncode == 0:
        return "tensorflow[and-cuda]>=2.17"
    return "tensorflow-cpu>=2.17" if platform.machine() == "x86_64" else "tensorflow>=2.17"


def probe_environment(activation, own):
    """List what is missing from an inference environment.

    Args:
        activation: Shell command that activates it.
        own: Whether it is the user's own, so that `installb` does not make it.

    Returns:
        A list with at most one message, of one line, that says what to do.
    """
    if activation in _working_activations:
        return []
    remedy = (
        f"correct {DEEPEMHANCER_ENV_ACTIVATION} in scipion.conf"
        if own
        else f"install it with *scipion3 installb {PACKAGE}*, or set "
        f"{DEEPEMHANCER_ENV_ACTIVATION} in scipion.conf"
    )
    try:
        result = subprocess.run(
            ["bash", "-c", f"{activation} && python {shlex.quote(str(PROBE))}"],
            capture_output=True,
            text=True,
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
        _working_activations.add(activation)
        return []
    command = (
        f"{activation} && pip install {' '.join(missing)}"
        if own
        else f"scipion3 installb {PACKAGE}"
    )
    return [
        f"The inference environment (*{activation}*) lacks {', '.join(missing)}: install with "
        f"*{command}*."
    ]
