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

from deepemhancer_plugin import __version__
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

HERE = Path(__file__).resolve().parent
ENV_NAME = f"{PACKAGE}-{__version__}"
DEFAULT_ACTIVATION = f"conda activate {ENV_NAME}"
PROBE = HERE / "probe.py"


class Plugin(pwem.Plugin):
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
            description=f"Folder of the official checkpoints: the one that holds {CHECKPOINTS_FOLDER}, or that one.",
        )

    # ------------------------------------------------------- the inference environment
    @classmethod
    def getActivation(cls):
        """The shell command that activates the inference environment, with conda's own set-up before it where it needs one."""
        activation = cls.getVar(DEEPEMHANCER_ENV_ACTIVATION) or DEFAULT_ACTIVATION
        return (
            f"{cls.getCondaActivationCmd()} {activation}".strip()
            if activation.startswith("conda ")
            else activation
        )

    @classmethod
    def usesOwnEnvironment(cls):
        """True where the user points at an environment of theirs, so that conda is never asked for."""
        return cls.getVar(DEEPEMHANCER_ENV_ACTIVATION, DEFAULT_ACTIVATION) != DEFAULT_ACTIVATION

    @classmethod
    def getEnviron(cls):
        environ = pwutils.Environ(os.environ)
        for name in (
            "PYTHONPATH",
            "PYTHONHOME",
        ):  # Scipion's; its packages must not shadow those of the inference environment
            environ.pop(name, None)
        environ["PYTHONUNBUFFERED"] = "1"  # the log appears line by line
        return environ

    @classmethod
    def getCommand(cls, arguments, log=None):
        """The bash command line that runs `deepemhancer` in the inference environment.

        Args:
            arguments: list of strings; quoted here.
            log: file that gets a copy of all that the program prints, so that the reason of a failure can be read from it.
        """
        run = f"{cls.getActivation()} && python {shlex.quote(str(HERE / 'launcher.py'))} {shlex.join(arguments)}"
        if log is None:
            return run
        # pipefail: the exit status is the program's, not tee's
        return f"set -o pipefail; {{ {run} ; }} 2>&1 | tee {shlex.quote(log)}"

    @classmethod
    def validateInstallation(cls):
        """One line per missing thing, each with the command that installs it; [] when all is there."""
        return probe(cls.getActivation(), cls.usesOwnEnvironment())

    def getTemplates(self):
        """The workflow templates; without Xmipp not those that need it."""
        return [
            template
            for template in super().getTemplates()
            if "Xmipp" not in template.description or find_spec("xmipp3")
        ]

    # ------------------------------------------------------- the official checkpoints
    @classmethod
    def getCheckpointsFolder(cls):
        """The folder with the .hd5 files: DEEPEMHANCER_MODELS itself or the folder in it that the authors' archive makes."""
        models = Path(cls.getVar(DEEPEMHANCER_MODELS))
        return models / CHECKPOINTS_FOLDER if (models / CHECKPOINTS_FOLDER).is_dir() else models

    @classmethod
    def getCheckpoint(cls, name):
        return cls.getCheckpointsFolder() / (CHECKPOINT % name)

    @classmethod
    def validateCheckpoint(cls, name):
        path = cls.getCheckpoint(name)
        if path.is_file():
            return []
        return [
            f"The official checkpoint {path} does not exist: install it with *scipion3 installb {MODELS_PACKAGE}* (740 MB), "
            f"set {DEEPEMHANCER_MODELS} to the folder that has it, or choose the embedded weights."
        ]

    # ------------------------------------------------------- installation
    @classmethod
    def getDependencies(cls):
        """Programs that the installation needs: conda, unless the user has an environment or says how to start conda."""
        return [] if cls.usesOwnEnvironment() or cls.getCondaActivationCmd() else ["conda"]

    @classmethod
    def defineBinaries(cls, env):
        common = {
            "tar": VOID_TGZ,
            "url": f"file:{os.devnull}",
            "neededProgs": cls.getDependencies(),
        }  # nothing to unpack
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
        """Scipion ignores exit codes and looks for the targets only: each is touched after the step that it stands for."""
        if cls.usesOwnEnvironment():
            check = (
                f"{cls.getActivation()} && python {shlex.quote(str(PROBE))} && touch {ENV_READY}"
            )
            return [(bash(check), ENV_READY)]
        install = CondaCommandDef(ENV_NAME, cls.getCondaActivationCmd())
        install.create("python=3.11", touch=ENV_CREATED)
        requirements = shlex.quote(str(HERE / "requirements-inference.txt"))
        install.new().activate(appendCondaActivation=True)
        install.pipInstall(f"-r {requirements} {shlex.quote(tensorflow())}")
        install.append('python -c "import tensorflow"').touch(ENV_READY)
        return install.getCommands()

    @classmethod
    def _modelsCommands(cls):
        targets = [
            f"{CHECKPOINTS_FOLDER}/{CHECKPOINT % name}" for name in (*MODEL_NAMES, MASKED_MODEL)
        ]
        return [(bash(cls.getCommand(["--download", "."])), targets)]


def bash(command):
    """`command` for /bin/sh, which on Debian knows no `source`."""
    return f"bash -c {shlex.quote(command)}"


def tensorflow():
    """The TensorFlow for this machine, as pip wants it."""
    smi = shutil.which("nvidia-smi")
    if smi and subprocess.run([smi, "-L"], capture_output=True).returncode == 0:
        return "tensorflow[and-cuda]>=2.17"
    return "tensorflow-cpu>=2.17" if platform.machine() == "x86_64" else "tensorflow>=2.17"


_working: set[str] = (
    set()
)  # activation commands that were seen to work: not asked again for each of the window's questions


def probe(activation, own):
    """What is missing from the environment that `activation` activates, a line each; [] when nothing is."""
    if activation in _working:
        return []
    cure = (
        f"correct {DEEPEMHANCER_ENV_ACTIVATION} in scipion.conf"
        if own
        else f"install it with *scipion3 installb {PACKAGE}*, or set {DEEPEMHANCER_ENV_ACTIVATION} in scipion.conf"
    )
    try:
        result = subprocess.run(
            ["bash", "-c", f"{activation} && python {shlex.quote(str(PROBE))}"],
            capture_output=True,
            text=True,
            timeout=60,
            env=Plugin.getEnviron(),
        )
    except subprocess.TimeoutExpired:
        return [
            f"The inference environment did not answer within a minute to *{activation}*: {cure}."
        ]
    found = re.search(r"^PROBE:(.*)$", result.stdout, re.MULTILINE)
    if not found:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return [
            f"The inference environment cannot be activated with *{activation}* ({reason}): {cure}."
        ]
    missing = found.group(1).split()
    if missing:
        pip = (
            f"*{activation} && pip install {' '.join(missing)}*"
            if own
            else f"*scipion3 installb {PACKAGE}*"
        )
        return [
            f"The inference environment (*{activation}*) lacks {', '.join(missing)}: install with {pip}."
        ]
    _working.add(activation)
    return []
