"""The command `oversharpening`, with a stand-in for the network whose readings are known."""

import json

import numpy as np
import pytest
from half_maps import half_maps

from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.localres import arguments as localres_arguments
from deepemhancer_plugin.core.localres import oversharpening
from deepemhancer_plugin.core.localres.blocres import local_fsc
from deepemhancer_plugin.core.maps import mrc

SHAPE, RATE, ORIGIN = (40, 40, 40), 1.0, (3.0, -2.0, 7.5)


@pytest.fixture(scope="module")
def halves():
    return half_maps(SHAPE, RATE, 4.0, b_factor=80.0)


@pytest.fixture(scope="module")
def mask():
    inside = np.zeros(SHAPE, bool)
    inside[10:30, 10:30, 10:30] = True
    return inside


def written(folder, name, data, rate=RATE, origin=ORIGIN):
    path = folder / f"{name}.mrc"
    data = np.asarray(data, np.float32)
    mrc.write_map(path, data, mrc.new_map(data, rate, origin))
    return str(path)


@pytest.fixture
def files(halves, mask, tmp_path):
    """The halves' mean, the halves and a mask as files, with an origin."""
    mean = (halves[0] + halves[1]) / 2
    named = {"map": mean, "half1": halves[0], "half2": halves[1], "mask": mask}
    return [written(tmp_path, name, data) for name, data in named.items()]


@pytest.fixture
def reader(monkeypatch, halves, mask):
    """Puts a reader in the network's place that finds `factor` times what the halves support.

    It does so in the first `part` of the mask's planes; else it finds exactly that.
    """
    supported = local_fsc(*halves, RATE, mask, threshold=0.143)

    def put(factor, part=1.0):
        found = supported.copy()
        found[: 10 + round(20 * part)] *= factor
        read = lambda volume, rate, inside: np.where(inside, found, 0)  # noqa: E731
        monkeypatch.setattr(oversharpening, "load_reader", lambda *_: read)
        monkeypatch.setattr(localres_arguments, "auto_mask", lambda *_: mask)

    return put


def test_command(files, reader, tmp_path, capsys):
    reader(0.75, 0.5)
    volume, half1, half2, mask = files
    prefix = str(tmp_path / "out")
    arguments = [volume, "--halves", half1, half2, "--mask", mask, "-o", prefix, "--scan"]
    assert main(["oversharpening", *arguments, "-g", "-1"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    assert report["claims_more_percent"] == pytest.approx(50)
    assert report["verdict"] in printed and "the mean of the halves" in printed
    assert report["scan"]["b_factors"][0] == 0 and report["mask"]["voxels"] == 8000
    assert (tmp_path / "out.png").stat().st_size > 10000
    claimed, supported = (mrc.read_map(f"{prefix}_{name}.mrc") for name in ("claimed", "supported"))
    assert claimed.origin == ORIGIN
    np.testing.assert_allclose(
        (claimed.data / np.maximum(supported.data, 1))[10:20, 10:30, 10:30], 0.75, atol=1e-5
    )
    assert report["supported"]["percentile_20"] == pytest.approx(
        np.percentile(supported.data[supported.data > 0], 20), abs=1e-3
    )


def test_exit_status(files, reader, tmp_path, capsys):
    volume, half1, half2, _ = files
    output = str(tmp_path / "out")
    arguments = ["oversharpening", volume, "--halves", half1, half2, "-o", output, "-g", "-1"]
    reader(0.7)
    assert main(arguments) == 0 and main([*arguments, "--strict"]) == 3
    reader(1.0)
    assert main([*arguments, "--strict"]) == 0
    assert main([*arguments[:3], half1, half1, *arguments[5:]]) == 1
    assert "same map" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(arguments[:2])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    "extra, word",
    [
        (["--tolerance", "-1"], "tolerance -1"),
        (["--threshold", "2"], "threshold 2"),
        (["--network", "none.npz"], "none.npz"),
        (["-o", "/nowhere/out"], "no folder"),
    ],
)
def test_bad_input_leaves_nothing_behind(files, tmp_path, capsys, extra, word):
    volume, half1, half2, _ = files
    output = str(tmp_path / "out")
    arguments = ["oversharpening", volume, "--halves", half1, half2, "-o", output, *extra]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "size, rate, origin, word",
    [
        (20, 1.0, ORIGIN, "box"),
        (40, 2.0, ORIGIN, "A/voxel"),
        (40, 1.0, (53.0, -2.0, 7.5), "first voxel lies at"),
    ],
)
def test_a_map_on_another_grid_is_refused(files, tmp_path, capsys, size, rate, origin, word):
    data = np.random.default_rng(0).standard_normal((size,) * 3).astype(np.float32)
    other = written(tmp_path, "other", data, rate, origin)
    output = str(tmp_path / "out")
    assert main(["oversharpening", other, "--halves", *files[1:3], "-o", output]) == 1
    assert word in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_output_that_is_an_input_is_refused(files, halves, tmp_path, capsys):
    claimed = written(tmp_path, "out_claimed", halves[0])
    output = str(tmp_path / "out")
    assert main(["oversharpening", files[0], "--halves", claimed, files[2], "-o", output]) == 1
    assert "the same file as input" in capsys.readouterr().err


def test_trust_needs_both_halves(files, capsys):
    with pytest.raises(SystemExit) as usage:
        main(["-i", files[1], "-o", "unused.mrc", "--trust"])
    assert usage.value.code == 2 and "-i2" in capsys.readouterr().err


def test_fsc_needs_both_halves(files, capsys):
    with pytest.raises(SystemExit) as usage:
        main(["-i", files[1], "-o", "unused.mrc", "--fsc"])
    assert usage.value.code == 2 and "-i2" in capsys.readouterr().err
