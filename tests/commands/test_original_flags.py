"""Command lines of the original program and of Xmipp, as their users and scripts write them."""

import json
import shlex

import numpy as np
import pytest
from official_checkpoint import norm_fun, write_small

from deepemhancer_plugin.core.commands import enhance
from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.weights.official import download

XMIPP = (
    "-i h1.mrc -i2 h2.mrc -o out.mrc --deepLearningModelPath M/deepEMhancer_tightTarget.hd5 "
    "--samplingRate 1.430000 --cleaningStrengh -1.000000 -g 0 -b 8"
)
DEFAULTS = {
    "inputMap": "a.mrc",
    "outputMap": "o.mrc",
    "halfMap2": None,
    "processingType": "tightTarget",
    "samplingRate": None,
    "noiseStats": None,
    "mask": None,
    "deepLearningModelPath": None,
    "cleaning": None,
    "gpu": None,
    "batch": None,
    "download": None,
}


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("-i a.mrc -o o.mrc", {}),
        ("-o o.mrc -i a.mrc", {}),
        ("--inputMap a.mrc --outputMap o.mrc", {}),
        ("--inputMap=a.mrc --outputMap=o.mrc", {}),
        ("-ia.mrc -oo.mrc", {}),
        ("--input a.mrc --output o.mrc", {}),
        ("-i a.mrc -o o.mrc -i2 b.mrc", {"halfMap2": "b.mrc"}),
        ("-i2 b.mrc -i a.mrc -o o.mrc", {"halfMap2": "b.mrc"}),
        ("-i a.mrc --halfMap2 b.mrc -o o.mrc", {"halfMap2": "b.mrc"}),
        ("-p highRes -i a.mrc -o o.mrc", {"processingType": "highRes"}),
        ("-i a.mrc -o o.mrc -p wideTarget", {"processingType": "wideTarget"}),
        ("-i a.mrc -o o.mrc -ptightTarget", {}),
        ("-i a.mrc -o o.mrc --processingType wideTarget", {"processingType": "wideTarget"}),
        ("-i a.mrc -o o.mrc -s 1.43", {"samplingRate": 1.43}),
        ("-i a.mrc -o o.mrc -s1.43", {"samplingRate": 1.43}),
        ("-i a.mrc -o o.mrc --samplingRate 1.430000", {"samplingRate": 1.43}),
        ("-i a.mrc -o o.mrc --sampling 1", {"samplingRate": 1.0}),
        ("-i a.mrc -o o.mrc --noiseStats 0.12 0.03", {"noiseStats": [0.12, 0.03]}),
        ("-i a.mrc -o o.mrc --noiseStats -0.003 0.002", {"noiseStats": [-0.003, 0.002]}),
        ("-i a.mrc -o o.mrc --noiseStats -3e-05 2E-3", {"noiseStats": [-3e-5, 2e-3]}),
        ("-i a.mrc -o o.mrc --noiseStats -.003 1", {"noiseStats": [-0.003, 1.0]}),
        ("--noiseStats -0.000012 0.003400 -i a.mrc -o o.mrc", {"noiseStats": [-1.2e-5, 0.0034]}),
        ("-i a.mrc -o o.mrc -m mask.mrc", {"mask": "mask.mrc"}),
        ("-i a.mrc -o o.mrc --binaryMask mask.mrc", {"mask": "mask.mrc"}),
        (
            "-i a.mrc -o o.mrc --deepLearningModelPath ~/models",
            {"deepLearningModelPath": "~/models"},
        ),
        ("-i a.mrc -o o.mrc --deepLearningModelPath=M.hd5", {"deepLearningModelPath": "M.hd5"}),
        ("-i a.mrc -o o.mrc --cleaningStrengh 0.1", {"cleaning": 0.1}),
        ("-i a.mrc -o o.mrc --cleaningStrengh -1", {"cleaning": -1.0}),
        ("-i a.mrc -o o.mrc --cleaningStrengh -1.000000", {"cleaning": -1.0}),
        ("-i a.mrc -o o.mrc --cleaningStrengh=-1", {"cleaning": -1.0}),
        ("-i a.mrc -o o.mrc --cleaning 0.1", {"cleaning": 0.1}),
        ("-i a.mrc -o o.mrc -g 0", {"gpu": "0"}),
        ("-i a.mrc -o o.mrc -g0", {"gpu": "0"}),
        ("-i a.mrc -o o.mrc -g 0,1", {"gpu": "0,1"}),
        ("-i a.mrc -o o.mrc -g '0, 1'", {"gpu": "0, 1"}),
        ("-i a.mrc -o o.mrc -g all", {"gpu": "all"}),
        ("-i a.mrc -o o.mrc -g -1", {"gpu": "-1"}),
        ("-i a.mrc -o o.mrc -g-1", {"gpu": "-1"}),
        ("-i a.mrc -o o.mrc -g=-1", {"gpu": "-1"}),
        ("-i a.mrc -o o.mrc --gpuIds 2", {"gpu": "2"}),
        ("-i a.mrc -o o.mrc --gpuIds=-1", {"gpu": "-1"}),
        ("-i a.mrc -o o.mrc -b 6", {"batch": 6}),
        ("-i a.mrc -o o.mrc -b6", {"batch": 6}),
        ("-i a.mrc -o o.mrc --batch_size 1", {"batch": 1}),
        ("--download -i a.mrc -o o.mrc", {"download": ""}),
        ("--download models -i a.mrc -o o.mrc", {"download": "models"}),
        (
            XMIPP,
            {
                "inputMap": "h1.mrc",
                "halfMap2": "h2.mrc",
                "outputMap": "out.mrc",
                "deepLearningModelPath": "M/deepEMhancer_tightTarget.hd5",
                "samplingRate": 1.43,
                "cleaning": -1.0,
                "gpu": "0",
                "batch": 8,
            },
        ),
    ],
)
def test_every_form_of_every_flag(line, values):
    parsed = vars(enhance.parse_arguments(shlex.split(line)))
    assert {name: parsed[name] for name in DEFAULTS} == DEFAULTS | values


@pytest.mark.parametrize(
    "line",
    [
        "-i a.mrc",
        "-o o.mrc",
        "-i a.mrc -o o.mrc -g 0 1",  # nor does the original take this
        "-i a.mrc -o o.mrc --noiseStats 0.1",
        "-i a.mrc -o o.mrc -p loose",
        "-i a.mrc -o o.mrc -s much",
    ],
)
def test_what_the_original_refuses(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(line))
    assert stopped.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-h", "--help", "--version"])
def test_help_and_version(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([flag])
    assert stopped.value.code == 0 and "deepemhancer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("--download", None),
        ("--download models", "models"),
        ("--download=models", "models"),
        ("--down", None),
        ("download", None),
        ("download models", "models"),
        ("-i a.mrc -o o.mrc --download", None),  # the original, too, downloads and ends
    ],
)
def test_download(line, folder, monkeypatch, capsys):
    asked = []

    def pretend(directory=None, progress=None):
        asked.append(directory)
        return ["models/deepEMhancer_tightTarget.hd5"]

    monkeypatch.setattr(download, "download", pretend)
    assert main(shlex.split(line)) == 0
    assert asked == [folder]
    assert "models/deepEMhancer_tightTarget.hd5" in capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two half maps, their mean, a mask, and small checkpoints as Xmipp lays them out."""
    folder = tmp_path_factory.mktemp("flags")
    rng = np.random.default_rng(0)
    cube = np.zeros((24, 24, 24), np.float32)
    cube[8:16, 8:16, 8:16] = 1
    halves = [5 * cube + rng.standard_normal(cube.shape).astype(np.float32) for _ in "12"]
    maps = {"h1": halves[0], "h2": halves[1], "mean": sum(halves) / 2, "mask": cube}
    for name, data in maps.items():
        mrc.write_map(folder / f"{name}.mrc", data, mrc.new_map(data, 1.43))
    models = folder / "xmipp/models/deepEMhancer_v016/production_checkpoints"
    models.mkdir(parents=True)
    for seed, variant in enumerate(("tightTarget", "wideTarget", "highRes")):
        write_small(models / f"deepEMhancer_{variant}.hd5", seed=seed)
    masked = norm_fun("inputNormalizationWithMask_3")
    write_small(models / "deepEMhancer_masked.hd5", seed=3, normalization=masked)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """A function that runs a command line in the folder, on the CPU, and returns its report."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DEEPEMHANCER_MODELS", "XMIPP_HOME"):
        monkeypatch.delenv(name, raising=False)

    def start(line):
        assert main([*shlex.split(line), "-o", str(tmp_path / "out.mrc"), "-g", "-1"]) == 0
        return json.loads((tmp_path / "out.json").read_text())

    return start


XMIPP_MODELS = "xmipp/models/deepEMhancer_v016/production_checkpoints"


def test_command_line_of_xmipp(run, tmp_path):
    line = XMIPP.replace("M/", f"{XMIPP_MODELS}/").replace("-o out.mrc", "").replace("-g 0", "")
    report = run(line)
    assert report["weights"]["kind"] == "official" and report["weights"]["name"] == "tightTarget"
    assert report["cleaning"] is None and report["sampling_rate"] == pytest.approx(1.43)
    assert report["noise"]["source"] == "half maps"
    assert mrc.read_map(tmp_path / "out.mrc").data.any()


def test_command_line_of_xmipp_with_a_mask(run, tmp_path, folder):
    """Xmipp names the checkpoint for it, after whatever the form says."""
    report = run(
        f"-i mean.mrc --deepLearningModelPath {XMIPP_MODELS}/deepEMhancer_masked.hd5 "
        "--samplingRate 1.430000 --binaryMask mask.mrc --cleaningStrengh 0.050000 -b 8"
    )
    assert report["weights"]["name"] == "masked" and not report["noise"]
    assert set(report["cleaning"]) == {"components", "voxels", "volume"}
    outside = mrc.read_map(folder / "mask.mrc").data == 0
    assert not mrc.read_map(tmp_path / "out.mrc").data[outside].any()


def test_command_line_of_xmipp_with_noise_statistics(run):
    report = run(
        f"-i mean.mrc --deepLearningModelPath {XMIPP_MODELS}/deepEMhancer_highRes.hd5 "
        "--samplingRate 1.430000 --noiseStats -0.001000 0.700000 --cleaningStrengh -1.000000 -b 8"
    )
    assert report["weights"]["name"] == "highRes"
    assert report["noise"] == {"mean": -0.001, "std": 0.7, "source": "given"}


@pytest.mark.parametrize("place", [XMIPP_MODELS, "xmipp"])
def test_models_in_a_folder(run, place):
    report = run(f"-i mean.mrc --deepLearningModelPath {place} -p highRes")
    assert report["weights"]["name"] == "highRes" and report["weights"]["kind"] == "official"


def test_mask_takes_the_model_for_masks(run):
    report = run(f"-i mean.mrc -m mask.mrc --deepLearningModelPath {XMIPP_MODELS} -p highRes")
    assert report["weights"]["name"] == "masked"


@pytest.mark.parametrize("variable", ["DEEPEMHANCER_MODELS", "XMIPP_HOME"])
def test_models_by_the_environment(run, variable, monkeypatch, folder):
    monkeypatch.setenv(variable, str(folder / "xmipp"))
    report = run("-i mean.mrc --weights official -p wideTarget")
    assert report["weights"]["name"] == "wideTarget"
    assert report["weights"]["kind"] == "official"


@pytest.mark.parametrize("gpu", ["0", "all", "0,1"])
def test_gpu_that_is_not_there_is_an_error(gpu, run, folder, tmp_path, monkeypatch, capsys):
    """The original computed on the CPU without a word."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert main(["-i", "mean.mrc", "-o", str(tmp_path / "out.mrc"), "-g", gpu]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "there is no GPU" in lines[0] and "-g -1" in lines[0]
