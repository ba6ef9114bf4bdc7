"""RELION's refinement with the enhancer: form, command line, and a real refinement with RELION."""

import json
import os
import shutil
import subprocess
import sys
import unittest
from importlib.util import find_spec
from pathlib import Path

import mrcfile
import numpy as np
from pwem import Domain
from pwem.protocols import ProtImportParticles

from deepemhancer_plugin.constants import MODEL_WIDE, WEIGHTS_FILE, WEIGHTS_OFFICIAL
from deepemhancer_plugin.plugin import Plugin
from deepemhancer_plugin.protocols import ProtRelionRefineDeepEMhancer
from deepemhancer_plugin.tests.base import CHECKOUT, EnhanceTest, write_map

PROGRAMS = ("relion_refine_mpi", "relion_external_reconstruct", "mpirun")
missing = [name for name in PROGRAMS if not shutil.which(name)]
needs_mpi = unittest.skipIf("mpirun" in missing, "no mpirun here: as root, run `.ci/relion`")
BOX, PIXEL = 32, 2.0  # voxels, A
NUMBER = 160  # particles
STAR = """data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
1 test 300.0 2.7 0.1 {pixel} {box} 2

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnOpticsGroup #7
"""


def place_blobs(seed=3):
    """Places (x, y, z) in A of a particle's blobs, from its centre: a chain with random turns."""
    places = np.cumsum(np.random.default_rng(seed).normal(0, 0.7 * PIXEL, (60, 3)), 0)
    return places - places.mean(0)


def write_particles(folder):
    """Write noisy projections without CTF, their star file and the map; return both paths."""
    rng = np.random.default_rng(0)
    places = place_blobs()
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    density = sum_gaussians(places, axis, axis, axis)
    angles = np.stack(
        [
            rng.uniform(-180, 180, NUMBER),
            np.rad2deg(np.arccos(rng.uniform(-1, 1, NUMBER))),
            rng.uniform(-180, 180, NUMBER),
        ],
        1,
    )
    images = np.stack(
        [sum_gaussians((places @ rotation_matrix(*view).T)[:, :2], axis, axis) for view in angles]
    )
    images += rng.normal(0, 2 * images.std(), images.shape)
    with mrcfile.new(
        f"{folder}/particles.mrcs", (images / images.std()).astype(np.float32), overwrite=True
    ) as mrc:
        mrc.voxel_size = PIXEL
        mrc.set_image_stack()
    rows = [
        f"{number + 1:06d}@particles.mrcs {rot:.3f} {tilt:.3f} {psi:.3f} 0 0 1"
        for number, (rot, tilt, psi) in enumerate(angles)
    ]
    Path(folder, "particles.star").write_text(
        STAR.format(pixel=PIXEL, box=BOX) + "\n".join(rows) + "\n"
    )
    return f"{folder}/particles.star", write_map(f"{folder}/reference.mrc", density, PIXEL)


def sum_gaussians(places, *axes, width=PIXEL):
    """A sum of Gaussians, as wide as a voxel; places (n, d) as x, y(, z); axes as (z,) y, x."""
    factors = [
        np.exp(-((axis[None] - places[:, d, None]) ** 2) / (2 * width**2))
        for d, axis in enumerate(reversed(axes))
    ]
    return np.einsum("nx,ny->yx" if len(axes) == 2 else "nx,ny,nz->zyx", *factors)


def rotation_matrix(rot, tilt, psi):
    """Turn places of the particle into those of the image by RELION's Euler angles (degrees)."""
    a, b, g = np.deg2rad([rot, tilt, psi])

    def about_z(angle):
        return np.array(
            [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )

    return (
        about_z(g)
        @ np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
        @ about_z(a)
    )


class RelionTest(EnhanceTest):
    """A project with particles and a reference; RELION's programs are Debian's or stand-ins."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = Path(
            cls.getOutputPath("relion-3.1")
        ).absolute()  # as scipion-em-relion wants it: programs below bin
        (cls.home / "bin").mkdir(parents=True, exist_ok=True)
        from relion import Plugin as Relion

        cls.relion, cls.saved = Relion, Relion._vars.get("RELION_HOME")
        environ = {
            "RELION_HOME": str(cls.home),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            # Other refinements of this machine are not waited for.
            "DEEPEMHANCER_RELION_LOCK": str(cls.home / "lock"),
            "SCIPION_MPI_FLAGS": "--oversubscribe --bind-to none "
            "--mca btl_vader_single_copy_mechanism none",
        }
        cls.environ = {name: os.environ.get(name) for name in environ}
        os.environ.update(environ)
        Relion._vars["RELION_HOME"] = str(cls.home)
        star, reference = write_particles(cls.getOutputPath(""))
        cls.reference = cls.importVolume(reference, shifts=None, rate=PIXEL)
        prot = cls.newProtocol(
            ProtImportParticles,
            importFrom=ProtImportParticles.IMPORT_FROM_RELION,
            starFile=star,
            samplingRate=PIXEL,
        )
        cls.launchProtocol(prot)
        cls.particles = prot.outputParticles

    @classmethod
    def tearDownClass(cls):
        cls.relion._vars["RELION_HOME"] = cls.saved
        for name, value in cls.environ.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        super().tearDownClass()

    @classmethod
    def programs(cls, **scripts):
        """Make the programs in RELION_HOME: bash scripts, or for None links to Debian's."""
        for path in (cls.home / "bin").iterdir():
            path.unlink()
        for name, script in scripts.items():
            path = cls.home / "bin" / name
            if script is None:
                path.symlink_to(shutil.which(name))
            else:
                path.write_text(f"#!/bin/bash\n{script}\n")
                path.chmod(0o755)

    @classmethod
    def refine(cls, **arguments):
        """Refine from the particles' own orientations, with local searches from the start."""
        return cls.newProtocol(
            ProtRelionRefineDeepEMhancer,
            **{
                "inputParticles": cls.particles,
                "referenceVolume": cls.reference,
                "copyAlignment": True,
                "doCTF": False,
                "maskDiameterA": 55,
                "initialLowPassFilterA": 10,
                "angularSamplingDeg": 3,
                "localSearchAutoSamplingDeg": 3,
                "offsetSearchRangePix": 1.0,
                "useFinerSamplingFaster": True,
                "skipPadding": False,
                "pooledParticles": 30,
                "doGpu": False,
                "numberOfMpi": 3,
                "enhanceFrom": 3,
                "enhancerGpus": "-1",
                "extraParams": "--random_seed 7 --minimum_angular_sampling 3.5 "
                "--low_resol_join_halves 20",
                **arguments,
            },
        )


@unittest.skipUnless(find_spec("relion"), "scipion-em-relion is not installed")
class TestForm(RelionTest):
    """What RELION and the hook are told, with stand-ins for both."""

    def setUp(self):
        self.programs(
            relion_refine_mpi='echo "$@" >arguments; '
            'sh -c "$RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE x_external_reconstruct.star"; '
            'echo "{}" >>deepemhancer.jsonl',
            relion_external_reconstruct="",
        )

    def test_valid(self):
        self.assertEqual(self.refine().validate(), [])

    def test_every_parameter_is_explained(self):
        for name, param in self.refine().getDefinition().iterParams():
            if name in ("enhanceFrom", "modelType", "weights", "weightsFile", "enhancerGpus"):
                self.assertGreater(len(param.help.get("")), 20, name)

    def test_mistakes(self):
        for arguments, words in (
            (
                {"weights": WEIGHTS_FILE, "weightsFile": "/nowhere.npz"},
                "/nowhere.npz does not exist",
            ),
            ({"weights": WEIGHTS_OFFICIAL}, "scipion3 installb deepemhancer_models"),
            ({"enhancerGpus": "0;1"}, "*GPUs of the enhancer* 0;1"),
            # RELION's own check
            ({"numberOfMpi": 1}, "at least 3 MPI"),
        ):
            self.assertIn(words, " ".join(self.refine(**arguments).validate()))
        (self.home / "bin" / "relion_external_reconstruct").unlink()
        path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
        try:
            self.assertIn(
                "relion_external_reconstruct is not in", " ".join(self.refine()._validate())
            )
        finally:
            os.environ["PATH"] = path

    def test_skipped_padding_is_warned_of(self):
        self.assertEqual(self.refine().warnings(), [])
        self.assertIn("*Skip padding*", " ".join(self.refine(skipPadding=True).warnings()))

    def test_blush_excludes_the_hook(self):
        prot = self.refine()
        prot.useBlush = True  # RELION 5's parameter
        self.assertIn("Blush", " ".join(prot._validate()))

    def test_options(self):
        options = self.refine(
            enhanceFrom=5, modelType=MODEL_WIDE, enhancerGpus=" 0, 1"
        )._hookOptions()
        self.assertEqual(
            options,
            {"healpix_order": 5, "weights": "embedded", "variant": "wideTarget", "gpu": "0,1"},
        )
        options = self.refine(weights=WEIGHTS_OFFICIAL, enhancerGpus="")._hookOptions()
        self.assertEqual(
            options,
            {
                "healpix_order": 3,
                "weights": str(Plugin.getCheckpoint("tightTarget")),
                "variant": "tightTarget",
            },
        )

    def test_citations(self):
        text = " ".join(self.refine().citations())
        own = text.split("*Package references:*")[0]
        for doi in (
            "10.1016/j.jsb.2012.09.006",  # RELION itself
            "10.7554/eLife.18722",
            "10.1107/S2052252522006959",
            "10.1038/s42003-021-02399-1",
        ):
            self.assertIn(doi, own)
        self.assertIn("[Scheres2012; Kimanius2016]", " ".join(self.refine().methods()))

    def test_label_has_what_people_search_for(self):
        label = ProtRelionRefineDeepEMhancer.getClassLabel()
        self.assertEqual(label, "deepemhancer - RELION 3D auto-refine with enhancement")

    def test_wizards_and_viewer_of_relion(self):
        prot = self.refine()
        wizard = Domain.findWizards(prot, "tkinter")["maskDiameterA"]()
        self.assertEqual(wizard._getParameters(prot)["value"], 55 / 2)
        self.assertIn(
            "RelionViewer", [viewer.__name__ for viewer in Domain.findViewers(prot, "tkinter")]
        )

    def run_with(self, prot):
        """Run RELION's step in a folder with a blank in its name; return what it printed."""
        self.saveProtocol(prot)
        folder = Path(self.getOutputPath("a folder"))
        folder.mkdir(exist_ok=True)
        prot._getExtraPath = lambda *names: str(folder.joinpath(*names))
        executor = Executor(str(folder))
        prot._stepsExecutor = executor
        prot._insertAllSteps()
        (step,) = (step for step in prot._steps if step.funcName.get() == "runRelionStep")
        step._runFunc()
        return folder, executor.output

    @needs_mpi
    def test_hook(self):
        """RELION's processes find the hook, which runs the program with the form's options."""
        prot = self.refine(enhanceFrom=5, modelType=MODEL_WIDE)
        os.environ["PYTHONPATH"] = "/scipions/own"
        activation = Plugin._vars["DEEPEMHANCER_ENV_ACTIVATION"]
        Plugin._vars["DEEPEMHANCER_ENV_ACTIVATION"] = (
            'python() { echo "$@" "$DEEPEMHANCER_RELION_CONFIG" "path:$PYTHONPATH"; }; true'
        )
        try:
            folder, output = self.run_with(prot)
        finally:
            Plugin._vars["DEEPEMHANCER_ENV_ACTIVATION"] = activation
            del os.environ["PYTHONPATH"]
        launcher, config = Path(Plugin.getCommand([]).split()[-1]), folder / "deepemhancer.toml"
        # RELION runs as 3 processes
        self.assertEqual(
            output.splitlines(),
            [f"{launcher} relion x_external_reconstruct.star {config} path:"] * 3,
        )
        self.assertIn("--external_reconstruct", (folder / "arguments").read_text().split())
        # The program understands the options
        code = (
            "import os, runpy, json, dataclasses; runpy.run_path(os.environ['LAUNCHER']);"
            "from deepemhancer_plugin.core.relion.settings import read_settings;"
            "print(json.dumps(dataclasses.asdict(read_settings(os.environ))))"
        )
        settings = subprocess.run(
            ["bash", "-c", f'{Plugin.getActivation()} && python -c "{code}"'],
            check=True,
            capture_output=True,
            text=True,
            env={
                **Plugin.getEnviron(),
                "LAUNCHER": str(launcher),
                "DEEPEMHANCER_RELION_CONFIG": str(config),
            },
        )
        settings = json.loads(settings.stdout)
        self.assertEqual(
            {
                name: settings[name]
                for name in ("healpix_order", "variant", "gpu", "log", "reconstruct")
            },
            {
                "healpix_order": 5,
                "variant": "wideTarget",
                "gpu": "-1",
                "log": str(folder / "deepemhancer.jsonl"),
                "reconstruct": str(self.home / "bin" / "relion_external_reconstruct"),
            },
        )

    @needs_mpi
    def test_a_refinement_without_the_hook_is_none_of_ours(self):
        self.programs(relion_refine_mpi="", relion_external_reconstruct="")
        with self.assertRaisesRegex(Exception, "^RELION never called the enhancer: "):
            self.run_with(self.refine())

    @needs_mpi
    def test_failure_says_why(self):
        """The enhancer's own words, not mpirun's command; and what failed is not counted."""
        self.programs(
            relion_refine_mpi="""
            echo '{"enhanced": true, "iteration": 5, "error": "no such weights"}' \
                >>deepemhancer.jsonl
            exit 1""",
            relion_external_reconstruct="",
        )
        prot = self.refine()
        with self.assertRaisesRegex(
            Exception, "^RELION stopped because the enhancement failed: no such weights$"
        ):
            self.run_with(prot)
        self.assertIn("No half map enhanced yet.", prot._summary())

    @needs_mpi
    def test_halves_that_the_hook_left_to_relion_are_counted(self):
        self.programs(
            relion_refine_mpi="""
            echo '{"enhanced": false, "iteration": 5, "correlation": 0.3}' >>deepemhancer.jsonl""",
            relion_external_reconstruct="",
        )
        prot = self.refine()
        self.run_with(prot)
        # a call of each of 3 processes
        self.assertIn("took too much of them for noise: 3", " ".join(prot._summary()))


class Executor:
    """Runs a job as Scipion's executor does, in a folder of its own, and keeps what it prints."""

    def __init__(self, folder):
        self.folder = folder

    def runJob(self, _log, program, arguments, numberOfMpi, env, **_):
        from pyworkflow.protocol import HostConfig
        from pyworkflow.utils.process import buildRunCommand

        host = HostConfig()
        host.mpiCommand.set("mpirun -np %(JOB_NODES)d %(COMMAND)s")
        command = buildRunCommand(program, arguments, numberOfMpi, host, env)
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = done.stdout
        done.check_returncode()


class TestWithoutRelion(unittest.TestCase):
    def test_the_plugin_loads_and_the_protocol_says_what_to_install(self):
        code = """
import sys
sys.modules["relion"] = None  # not to be imported
from pwem import Domain
protocols, viewers, wizards = Domain.getProtocols(), Domain.getViewers(), Domain.getWizards()
assert "ProtDeepEMhancer" in protocols
assert "DeepEMhancerViewer" in viewers
assert "DeepEMhancerNoiseWizard" in wizards
cls = protocols["ProtRelionRefineDeepEMhancer"]
prot = cls()
print(prot.getParam("relionMissing").help.get())
print(*prot.validate(), *cls.validateInstallation(), *prot.summary(), sep="\\n")
assert not cls.isInstalled()
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            [line.count("installp -p scipion-em-relion") for line in done.stdout.splitlines()[-4:]],
            [1] * 4,
            done.stdout,
        )


@unittest.skipUnless(find_spec("relion"), "scipion-em-relion is not installed")
@unittest.skipIf(missing, f"no {', '.join(missing)} here: as root, run `.ci/relion`")
class TestRefinement(RelionTest):
    """A small refinement with RELION itself."""

    def setUp(self):
        self.programs(**dict.fromkeys(PROGRAMS[:2]))

    def test_refinement(self):
        """Each half is enhanced once an iteration, but for the coarse ones and the last."""
        prot = self.refine(angularSamplingDeg=2)
        self.launchProtocol(prot)
        calls = prot._calls()
        self.assertEqual({call["status"] for call in calls}, {0})
        last = max(call["iteration"] for call in calls)
        first = min(call["iteration"] for call in calls if call["enhanced"])
        self.assertGreater(first, 1)
        self.assertEqual(
            sorted((call["iteration"], call["half"]) for call in calls if call["enhanced"]),
            [(iteration, half) for iteration in range(first, last) for half in (1, 2)],
        )
        self.assertTrue(
            all(call["healpix_order"] == 2 for call in calls if call["iteration"] < first)
        )
        self.assertEqual([call["half"] for call in calls if call["iteration"] == last], [None])
        self.assertIn(
            f"Half maps enhanced: {2 * (last - first)}, in iterations {first} to {last - 1}",
            prot.summary(),
        )
        self.assertEqual(prot.outputVolume.getDim(), (BOX,) * 3)
        self.assertAlmostEqual(prot.outputVolume.getSamplingRate(), PIXEL)
        self.assertEqual(prot.outputParticles.getSize(), NUMBER)
        self.assertIn(
            self.particles.getObjId(),
            [parent.getObjId() for parent in self.proj.getSourceParents(prot.outputVolume)],
        )
        # The references are enhanced, with solvent at zero; the final half maps are RELION's.
        solvent = np.ones((BOX,) * 3, bool)
        solvent[3:-3, 3:-3, 3:-3] = False
        reference = mrcfile.read(prot._getExtraPath(f"relion_it{last - 1:03d}_half1_class001.mrc"))
        for half in prot.outputVolume.getHalfMaps(asList=True):
            self.assertLess(reference[solvent].std(), 0.1 * mrcfile.read(half)[solvent].std())
