"""The command: refusals are one line and leave nothing; outputs sit where the input sat."""

import errno
import json
import os
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from official_checkpoint import write_small

from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.enhancement.enhance import Enhanced
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.version import __version__

ORIGIN = (12.5, -40.0, 7.25)


@pytest.fixture(scope="session")
def halves(tmp_path_factory):
    """Half maps of the synthetic protein with an origin: (folder, half 1, half 2, simulated)."""
    folder = tmp_path_factory.mktemp("halves")
    made = simulate_halves(
        from_structure(build_protein(0)),
        Conditions(resolution=4.0, sampling_rate=1.2, margin=10.0, random_pose=False),
        3,
    )
    paths = []
    for name, data in (("half1", made.half1), ("half2", made.half2)):
        path = str(folder / f"{name}.mrc")
        mrc.write_map(path, data, mrc.new_map(data, 1.2, ORIGIN))
        paths.append(path)
    return folder, *paths, made


@pytest.fixture(scope="session")
def enhanced(halves, tmp_path_factory):
    """The halves enhanced by the embedded default: (output, report)."""
    output = tmp_path_factory.mktemp("out") / "enhanced.mrc"
    assert (
        cli.main(
            [
                "-i",
                halves[1],
                "-i2",
                halves[2],
                "-o",
                str(output),
                "-g",
                "-1",
                "--cleaningStrengh",
                "0.05",
            ]
        )
        == 0
    )
    return output, json.loads(output.with_suffix(".json").read_text())


def test_output_sits_where_the_input_sat(halves, enhanced):
    with mrcfile.open(halves[1]) as before, mrcfile.open(enhanced[0]) as after:
        for field in (
            "nx",
            "ny",
            "nz",
            "nxstart",
            "nystart",
            "nzstart",
            "mx",
            "my",
            "mz",
            "cella",
            "cellb",
            "mapc",
            "mapr",
            "maps",
            "ispg",
            "origin",
        ):
            assert before.header[field] == after.header[field], field
        label = bytes(after.header.label[int(after.header.nlabl) - 1]).decode()
        assert __version__ in label and "tightTarget" in label


def test_enhancement_brings_the_map_nearer_to_the_model(halves, enhanced):
    made = halves[3]
    after = mrc.read_map(enhanced[0]).data
    before = (made.half1 + made.half2) / 2
    cc_before, cc_after = (
        np.corrcoef(v.ravel(), made.model.ravel())[0, 1] for v in (before, after)
    )
    assert cc_after > cc_before + 0.1
    shifted = np.roll(made.model, 1, axis=2)  # a shift by one voxel would show
    assert cc_after > np.corrcoef(after.ravel(), shifted.ravel())[0, 1] + 0.02


def test_report_tells_what_was_done(halves, enhanced):
    report = enhanced[1]
    assert report["version"] == __version__
    assert report["weights"]["kind"] == "embedded" and len(report["weights"]["sha256"]) == 64
    assert report["noise"]["source"] == "half maps"
    assert report["noise"]["std"] == pytest.approx(halves[3].noise_std, rel=0.1)
    assert report["sampling_rate"] == pytest.approx(1.2)
    assert report["origin"] == pytest.approx(ORIGIN)
    assert set(report["cleaning"]) == {"components", "voxels", "volume"}
    assert 2.4 <= report["half_map_fsc_0.143"] < 15
    assert "CPU" in report["device"]


def test_given_noise_and_mask(halves, tmp_path):
    """A mask: nothing outside. Negative noise mean in scientific notation: a number, not a flag."""
    data = mrc.read_map(halves[1]).data
    mask = np.zeros(data.shape, np.float32)
    mask[10:40, 10:40, 10:40] = 1
    path = str(tmp_path / "mask.mrc")
    mrc.write_map(path, mask, mrc.new_map(mask, 1.2, ORIGIN))
    output = tmp_path / "out.mrc"
    assert (
        cli.main(
            [
                "-i",
                halves[1],
                "-o",
                str(output),
                "-m",
                path,
                "--noiseStats",
                "-3e-05",
                "0.05",
                "-g",
                "-1",
            ]
        )
        == 0
    )
    result = mrc.read_map(output).data
    assert not result[mask == 0].any() and result[mask == 1].any()
    noise = json.loads(output.with_suffix(".json").read_text())["noise"]
    assert noise == {"mean": -3e-05, "std": 0.05, "source": "given"}


def test_official_weights_through_the_command(halves, tmp_path):
    checkpoint = str(tmp_path / "deepEMhancer_tightTarget.hd5")
    write_small(checkpoint)
    output = tmp_path / "out.mrc"
    for flags in ([], ["--classic", "--cleaningStrengh", "0.1"]):
        assert (
            cli.main(
                [
                    "-i",
                    halves[1],
                    "-i2",
                    halves[2],
                    "-o",
                    str(output),
                    "--weights",
                    checkpoint,
                    "-g",
                    "-1",
                    *flags,
                ]
            )
            == 0
        )
        report = json.loads(output.with_suffix(".json").read_text())
        assert report["weights"]["kind"] == "official"
        assert bool(flags) == (report["cleaning"] is not None)
        assert np.isfinite(mrc.read_map(output).data).all()


def _write(path, data, rate=1.2, origin=ORIGIN):
    mrc.write_map(path, data, mrc.new_map(data, rate, origin))
    return path


def _cases(folder, half1, half2):
    """(name, arguments after -o OUT, words of the message)"""
    data = mrc.read_map(half1).data
    broken = data.copy()
    broken[2, 3, 4] = np.nan
    (folder / "text.mrc").write_text("not a map")
    whole = open(half1, "rb").read()
    (folder / "short.mrc").write_bytes(whole[: len(whole) // 2])
    with mrcfile.new(folder / "nan.mrc", overwrite=True) as m:
        m.set_data(broken)
        m.voxel_size = 1.2
    with mrcfile.new(folder / "rateless.mrc", overwrite=True) as m:
        m.set_data(data)
    with mrcfile.new(folder / "flat.mrc", overwrite=True) as m:
        m.set_data(np.ones_like(data))
        m.voxel_size = 1.2
    with mrcfile.new(folder / "aniso.mrc", overwrite=True) as m:
        m.set_data(data)
        m.voxel_size = (1.2, 1.2, 1.5)
    with mrcfile.new(folder / "image.mrc", overwrite=True) as m:
        m.set_data(data[0])
        m.voxel_size = 1.2
    small = _write(str(folder / "small.mrc"), np.ascontiguousarray(data[:-2]))
    other_rate = _write(str(folder / "other_rate.mrc"), data[::-1].copy(), 1.3)
    elsewhere = _write(str(folder / "elsewhere.mrc"), data[::-1].copy(), origin=(0.0, 0.0, 0.0))
    copy = _write(str(folder / "copy.mrc"), data)
    ones = _write(
        str(folder / "ones.mrc"),
        np.where(np.arange(data.size).reshape(data.shape) == 0, 0.999, 1).astype(np.float32),
    )
    f = folder
    return [
        ("missing file", ["-i", str(f / "absent.mrc")], ["absent.mrc"]),
        ("no MRC file", ["-i", str(f / "text.mrc")], ["text.mrc"]),
        ("truncated", ["-i", str(f / "short.mrc")], ["short.mrc"]),
        ("NaN", ["-i", str(f / "nan.mrc")], ["nan.mrc", "1", "2, 3, 4"]),
        ("constant", ["-i", str(f / "flat.mrc")], ["flat.mrc", "all voxels are 1"]),
        ("anisotropic", ["-i", str(f / "aniso.mrc")], ["aniso.mrc", "1.5"]),
        ("no sampling rate", ["-i", str(f / "rateless.mrc")], ["rateless.mrc", "-s"]),
        ("image", ["-i", str(f / "image.mrc")], ["image.mrc"]),
        (
            "shapes",
            ["-i", half1, "-i2", small],
            ["small.mrc", str(data.shape[0]), str(data.shape[0] - 2)],
        ),
        ("voxel sizes", ["-i", half1, "-i2", other_rate], ["1.2", "1.3"]),
        ("origins", ["-i", half1, "-i2", elsewhere], ["12.5"]),
        ("same map", ["-i", half1, "-i2", copy], ["copy.mrc"]),
        ("output is input", ["-i", half1, "-o", half1], ["half1.mrc"]),
        ("no folder", ["-i", half1, "-o", str(f / "nowhere" / "out.mrc")], ["nowhere"]),
        ("mask shape", ["-i", half1, "-m", small], ["small.mrc"]),
        ("mask values", ["-i", half1, "-m", ones], ["ones.mrc"]),
        ("noise", ["-i", half1, "--noiseStats", "0", "-0.1"], ["-0.1"]),
        ("batch", ["-i", half1, "-b", "0"], ["-b 0"]),
        ("cleaning", ["-i", half1, "--cleaningStrengh", "1.5"], ["1.5"]),
        ("weights", ["-i", half1, "--weights", str(f / "absent.npz")], ["absent.npz"]),
        ("foreign weights", ["-i", half1, "--weights", str(f / "text.mrc")], ["text.mrc"]),
        (
            "official absent",
            ["-i", half1, "--deepLearningModelPath", str(f)],
            ["deepemhancer download"],
        ),
        ("classic embedded", ["-i", half1, "--classic"], ["--weights official"]),
        ("absent GPU", ["-i", half1, "-g", "7"], ["7"]),
    ]


def test_bad_input_is_one_line_and_leaves_nothing(halves, tmp_path, capsys):
    before = open(halves[1], "rb").read()
    cases = _cases(tmp_path, halves[1], halves[2])
    output = tmp_path / "out.mrc"
    files = sorted(p.name for p in tmp_path.iterdir())
    for name, arguments, words in cases:
        capsys.readouterr()
        status = cli.main([*([] if "-o" in arguments else ["-o", str(output)]), *arguments])
        lines = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line.startswith("deepemhancer: error:")
        ]
        assert status == 1, name
        assert len(lines) == 1, f"{name}: {lines}"
        for word in words:
            assert word in lines[0], f"{name}: {word!r} is not in {lines[0]!r}"
        assert sorted(p.name for p in tmp_path.iterdir()) == files, name
    assert open(halves[1], "rb").read() == before


# The face of the command, without the network


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Two half maps in a folder of their own; and the calls of `enhance`, which copies."""
    calls = []

    def copy(*maps, **options):
        calls.append((maps, options))
        read = mrc.read_map(maps[0])
        geometry = replace(read, data=np.empty((0, 0, 0), np.float32))
        weights = {"kind": "embedded", "name": "none", "sha256": "0" * 64}
        report = {"weights": weights, "precision": "float32", "cleaning": None}
        return Enhanced(read.data, report, geometry)

    monkeypatch.setattr("deepemhancer_plugin.core.enhancement.enhance.enhance", copy)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in "12":
        _write(f"run_half{number}_unfil.mrc", rng.standard_normal((8, 8, 8)).astype(np.float32))
    return calls


FIRST, SECOND = "run_half1_unfil.mrc", "run_half2_unfil.mrc"


def error_of(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("deepemhancer: error: ")
    return lines[0]


@pytest.mark.parametrize("flag", ["-i2", "--halfMap2", "--half2"])
def test_second_half_is_found_by_its_name(shown, flag):
    assert cli.main(["-i", FIRST, flag, "auto", "-o", "out.mrc"]) == 0
    assert shown[0][0] == (FIRST, SECOND)
    report = json.loads(open("out.json").read())
    assert [os.path.basename(path) for path in report["inputs"]] == [FIRST, SECOND]
    assert report["warnings"] == []


def test_second_half_that_is_not_there(shown, capsys):
    os.remove(SECOND)
    assert cli.main(["-i", FIRST, "-i2", "auto", "-o", "out.mrc"]) == 1
    assert f"tried: {SECOND}" in error_of(capsys)
    assert shown == [] and not os.path.exists("out.mrc")


def test_a_half_map_alone_is_told_of_its_other_half(shown):
    assert cli.main(["-i", FIRST, "-o", "out.mrc"]) == 0
    (warning,) = json.loads(open("out.json").read())["warnings"]
    assert SECOND in warning and "-i2 auto" in warning
    os.remove(SECOND)
    assert cli.main(["-i", FIRST, "-o", "out.mrc"]) == 0
    assert json.loads(open("out.json").read())["warnings"] == []


def test_half_the_bytes(shown):
    assert cli.main(["-i", FIRST, "-o", "out.mrc", "--float16"]) == 0
    with mrcfile.open("out.mrc") as file:
        assert file.header.mode == 12
    assert mrcfile.validate("out.mrc")
    np.testing.assert_allclose(mrc.read_map("out.mrc").data, mrc.read_map(FIRST).data, rtol=1e-3)


NAMES = [
    "with space.mrc",
    "quotes'\".mrc",
    "100%s {x} $HOME.mrc",
    "caf\udce9.mrc",
    "Ångström_µ.mrc",
    "new\nline.mrc",
    "-dash.mrc",
    "x" * 245 + ".mrc",
    ".hidden.mrc",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file(shown, capsys, name):
    """Bytes that are no text, what shells and formats read into it, and a leading dash."""
    os.rename(FIRST, name)
    os.makedirs("out")
    assert cli.main([f"--inputMap={name}", "-o", f"out/{name}"]) == 0
    assert os.path.exists(f"out/{name}")
    assert all(line[:2].isdigit() for line in capsys.readouterr().out.splitlines())
    os.remove(name)
    assert cli.main([f"--inputMap={name}", "-o", f"out/{name}"]) == 1
    error_of(capsys)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "link to nothing", "loop"])
def test_inputs_that_are_no_file(shown, capsys, kind):
    os.mkfifo("pipe")
    os.symlink("pipe", "link to a pipe")
    os.symlink("absent.mrc", "link to nothing")
    os.symlink("loop", "loop")
    name = "/dev/null" if kind == "device" else kind
    assert cli.main(["-i", name, "-o", "out.mrc", "-g", "-1"]) == 1
    message = error_of(capsys)
    assert "device or pipe" in message or "a link to" in message


def test_a_full_disk_is_said_of_the_file(shown, capsys, monkeypatch):
    real = os.fsync

    def full(handle):
        if shown and os.path.exists("out.mrc"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["-i", FIRST, "-o", "out.mrc"]) == 1
    assert "output out.json: cannot be written: No space left on device" in error_of(capsys)
    assert sorted(os.listdir()) == ["out.mrc", FIRST, SECOND]


def test_outputs_named_as_another_format(shown, capsys):
    assert cli.main(["-i", FIRST, "-o", "out.npy"]) == 1
    assert "what is written is MRC" in error_of(capsys) and shown == []
