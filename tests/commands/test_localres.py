"""The command `localres`: what it writes, prints and refuses."""

import json

import numpy as np
import pytest
from sharp_protein import add_noise, sharp_map

from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.localres.data import low_pass_to
from deepemhancer_plugin.core.localres.statistics import summarize
from deepemhancer_plugin.core.maps import mrc


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A map at 1.2 A/voxel (by its header) off the origin, its halves, halves elsewhere, a mask."""
    folder = tmp_path_factory.mktemp("localres")
    data, inside = sharp_map(88, 1.0)
    low = low_pass_to(data, 1.2, 5.0)
    halves = [add_noise(low, 0.1, seed) for seed in (1, 2)]
    small = np.random.default_rng(0).random((2, 20, 20, 20)).astype(np.float32)
    here, elsewhere = (10, -20, 30), (60, -20, 30)
    for name, values, origin in (
        ("map", (halves[0] + halves[1]) / 2, here),
        ("half1", halves[0], here),
        ("half2", halves[1], here),
        ("moved1", halves[0], elsewhere),
        ("moved2", halves[1], elsewhere),
        ("mask", inside.astype(np.float32), here),
        ("far", inside.astype(np.float32), (900, -20, 30)),
        ("small1", small[0], here),
        ("small2", small[1], here),
    ):
        mrc.write_map(folder / f"{name}.mrc", values, mrc.new_map(values, 1.2, origin))
    return folder


def test_command_writes_everything(files, capsys):
    halves = files / "half1.mrc", files / "half2.mrc"
    arguments = [files / "map.mrc", "-o", files / "out.mrc", "--mask", files / "mask.mrc"]
    arguments += ["--halves", *halves, "-g", "-1"]
    assert main(["localres", *map(str, arguments)]) == 0
    inside = mrc.read_map(files / "mask.mrc").data > 0.5
    report = json.loads((files / "out.json").read_text())
    for name, key in (("out", "local_resolution"), ("out_blocres", "local_fsc")):
        out = mrc.read_map(files / f"{name}.mrc")
        assert out.sampling_rate == pytest.approx(1.2) and out.origin == (10, -20, 30)
        assert np.array_equal(out.data > 0, inside) and np.isfinite(out.data).all()
        assert report[key] == summarize(out.data[inside])
    assert report["network"] == "1.0" and report["mask"]["voxels"] == int(inside.sum())
    assert abs(report["local_resolution"]["median"] - 5) < 0.4
    for picture in ("histogram", "slices"):
        assert (files / f"out_{picture}.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    for words in (
        f"median {report['local_resolution']['median']:.2f} A",
        "map.mrc: 88 x 88 x 88 voxels at 1.2 A/voxel",
        f"mask.mrc, {int(inside.sum())} voxels",
        "device: CPU",
        "network: 1.0",
    ):
        assert printed.count(words) == 1


def test_command_makes_the_mask_and_compresses(files):
    arguments = [files / "map.mrc", "-o", files / "alone.mrc.gz", "--report", files / "r.json"]
    assert main(["localres", *map(str, arguments), "-g", "-1"]) == 0
    report = json.loads((files / "r.json").read_text())
    assert report["mask"]["source"] == "map" and "local_fsc" not in report
    assert (files / "alone_slices.png").is_file()
    assert mrc.read_map(files / "alone.mrc.gz").data.max() > 4


HALVES = ("half1.mrc", "half2.mrc")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"map": "missing.mrc"}, "no such file"),
        ({"-o": "map.mrc"}, "the same file"),
        ({"-o": "nowhere/out.mrc"}, "no folder"),
        ({"--mask": "far.mrc"}, "does not overlap"),
        ({"--network": "3.0"}, "auto, 1.0, 0.5"),
        ({"--halves": ("half1.mrc", "half1.mrc")}, "same map"),
        ({"--halves": ("small1.mrc", "small2.mrc")}, "box"),
        ({"--halves": ("moved1.mrc", "moved2.mrc")}, "its first voxel lies at"),
        ({"-s": "-1"}, "sampling"),
        # Two outputs under one name
        ({"--report": "bad.mrc"}, "the same file as output"),
        ({"-o": "bad.json"}, "the same file as output"),
        ({"--report": "bad_slices.png"}, "the same file as output"),
        ({"--halves": HALVES, "--report": "bad_blocres.mrc"}, "the same file as output"),
        ({"--report": "half1.mrc", "--halves": HALVES}, "the same file as input"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(files, capsys, change, said):
    before = sorted(files.iterdir())
    options = {"map": "map.mrc", "-o": "bad.mrc", **change}
    arguments = [str(files / options.pop("map"))]
    for key, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        files_of = [str(files / v) if v.endswith((".mrc", ".json", ".png")) else v for v in values]
        arguments += [key, *files_of]
    assert main(["localres", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("deepemhancer: error:") and "\n" not in error and said in error
    assert sorted(files.iterdir()) == before
