"""The embedded networks on the synthetic protein, the mask made by itself, and the command."""

import json

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import figures, predict
from deepemhancer_plugin.core.localres.data import low_pass_to, sharpen_atoms
from deepemhancer_plugin.core.localres.mask import auto_mask
from deepemhancer_plugin.core.localres.statistics import statistics
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.maps.filters import apply_b_factor
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.molecule import compute_potential, mask_atoms
from deepemhancer_plugin.core.simulation.synthetic import build_protein

EDGE = 88


@pytest.fixture(scope="module")
def protein():
    """The sharp map of a protein at 1 A/voxel, and where it is."""
    molecule = sharpen_atoms(from_structure(build_protein(200)))
    low, high = molecule.positions.min(0), molecule.positions.max(0)
    molecule.positions[:] += EDGE / 2 - (low + high) / 2
    shape = (EDGE,) * 3
    return np.fft.irfftn(compute_potential(molecule, shape, 1.0), s=shape).astype(
        np.float32
    ), mask_atoms(molecule, shape, 1.0, 3.0) > 0.5


@pytest.fixture(scope="module")
def network():
    return predict.load_network("1.0")


def noisy(data, level, seed=0):
    return data + np.random.default_rng(seed).standard_normal(data.shape, np.float32) * np.float32(
        level * data.max()
    )


@pytest.mark.parametrize(
    "resolution, noise, tolerance",
    [(3, 0, 0.25), (4, 0.08, 0.25), (5, 0.08, 0.25), (7, 0, 0.5), (9, 0.08, 0.8)],
)
def test_embedded_network_finds_the_low_pass(protein, network, resolution, noise, tolerance):
    # The synthetic fold is unlike those of the training: coarse maps of it are off by more than those in docs/benchmarks/localres.md.
    data, inside = protein
    found = predict.predict_resolution(
        noisy(low_pass_to(data, 1.0, resolution), noise), inside, 1.0, network
    )[inside]
    assert abs(np.median(found) - resolution) < tolerance
    assert found.std() < 0.5


def test_sharpening_lowers_the_median(protein, network):
    data, inside = protein
    # As a map is sharpened: what lies beyond its resolution is noise, amplified, and cut.
    blurred = noisy(apply_b_factor(low_pass_to(data, 1.0, 3.0), 1.0, 120), 0.001)
    maps = [low_pass_to(apply_b_factor(blurred, 1.0, b), 1.0, 3.0) for b in (0, -60, -100)]
    medians = [
        float(np.median(predict.predict_resolution(volume, inside, 1.0, network)[inside]))
        for volume in maps
    ]
    assert max(medians[1:]) < medians[0] - 0.3


def test_fine_network_reads_finer_maps():
    molecule = sharpen_atoms(from_structure(build_protein(200)))[:700]
    low, high = molecule.positions.min(0), molecule.positions.max(0)
    molecule.positions[:] += EDGE / 4 - (low + high) / 2
    shape = (EDGE,) * 3
    data, inside = (
        np.fft.irfftn(compute_potential(molecule, shape, 0.5), s=shape).astype(np.float32),
        mask_atoms(molecule, shape, 0.5, 3.0) > 0.5,
    )
    fine = predict.load_network("0.5")
    for resolution in (2.0, 4.0):
        found = predict.predict_resolution(
            noisy(low_pass_to(data, 0.5, resolution), 0.04), inside, 0.5, fine
        )[inside]
        assert abs(np.median(found) - resolution) < 0.3


# -------------------------------------------------------------------------------------------------------------------------- mask


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_mask_made_of_a_map_covers_the_molecule_and_little_else(protein, level):
    data, inside = protein
    made = auto_mask(noisy(low_pass_to(data, 1.0, 5.0), level) + 3, 1.0)
    assert made[ndimage.binary_erosion(inside, iterations=2)].mean() > 0.97
    assert made[~ndimage.binary_dilation(inside, iterations=6)].mean() < 0.01


def test_mask_made_of_halves(protein):
    data, inside = protein
    low = low_pass_to(data, 1.0, 4.0)
    halves = noisy(low, 0.3, 1), noisy(low, 0.3, 2)
    made = auto_mask((halves[0] + halves[1]) / 2, 1.0, halves)
    assert made[ndimage.binary_erosion(inside, iterations=2)].mean() > 0.9
    assert made[~ndimage.binary_dilation(inside, iterations=6)].mean() < 0.01


# ----------------------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def files(protein, tmp_path_factory):
    """A map at 1.2 A/voxel (by its header) off the origin, its halves, a mask."""
    folder = tmp_path_factory.mktemp("localres")
    data, inside = protein
    low = low_pass_to(data, 1.2, 5.0)
    halves = [noisy(low, 0.1, seed) for seed in (1, 2)]
    written = {
        "map": (halves[0] + halves[1]) / 2,
        "half1": halves[0],
        "half2": halves[1],
        "mask": inside.astype(np.float32),
    }
    for name, values in written.items():
        mrc.write_map(folder / f"{name}.mrc", values, mrc.new_map(values, 1.2, (10, -20, 30)))
    return folder


def test_command_writes_everything(files, capsys):
    halves = files / "half1.mrc", files / "half2.mrc"
    arguments = [
        files / "map.mrc",
        "-o",
        files / "out.mrc",
        "--mask",
        files / "mask.mrc",
        "--halves",
        *halves,
        "-g",
        "-1",
    ]
    assert main(["localres", *map(str, arguments)]) == 0
    inside = mrc.read_map(files / "mask.mrc").data > 0.5
    report = json.loads((files / "out.json").read_text())
    for name, key in (("out", "local_resolution"), ("out_blocres", "local_fsc")):
        out = mrc.read_map(files / f"{name}.mrc")
        assert out.sampling_rate == pytest.approx(1.2) and out.origin == (10, -20, 30)
        assert np.array_equal(out.data > 0, inside) and np.isfinite(out.data).all()
        assert report[key] == statistics(out.data[inside])
    assert report["network"] == "1.0" and report["mask"]["voxels"] == int(inside.sum())
    assert abs(report["local_resolution"]["median"] - 5) < 0.4
    for picture in ("histogram", "slices"):
        assert (files / f"out_{picture}.png").read_bytes()[:4] == b"\x89PNG"
    assert f"median {report['local_resolution']['median']:.2f} A" in capsys.readouterr().out


def test_command_makes_the_mask_and_compresses(files):
    assert (
        main(
            [
                "localres",
                str(files / "map.mrc"),
                "-o",
                str(files / "alone.mrc.gz"),
                "--report",
                str(files / "r.json"),
                "-g",
                "-1",
            ]
        )
        == 0
    )
    report = json.loads((files / "r.json").read_text())
    assert report["mask"]["source"] == "map" and "local_fsc" not in report
    assert (files / "alone_slices.png").is_file() and mrc.read_map(
        files / "alone.mrc.gz"
    ).data.max() > 4


@pytest.mark.parametrize(
    "change, said",
    [
        ({"map": "missing.mrc"}, "no such file"),
        ({"-o": "map.mrc"}, "the same file"),
        ({"-o": "nowhere/out.mrc"}, "no folder"),
        ({"--mask": "small.mrc"}, "box"),
        ({"--network": "3.0"}, "auto, 1.0, 0.5"),
        ({"--halves": ("half1.mrc", "half1.mrc")}, "same map"),
        ({"--halves": ("small.mrc", "small2.mrc")}, "must lie on the map's grid"),
        ({"-s": "-1"}, "sampling"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(files, capsys, change, said):
    rng = np.random.default_rng(0)
    for name in ("small.mrc", "small2.mrc"):
        values = rng.random((20, 20, 20)).astype(np.float32)
        mrc.write_map(files / name, values, mrc.new_map(values, 1.2))
    before = sorted(files.iterdir())
    options = {"map": "map.mrc", "-o": "bad.mrc", **change}
    arguments = [str(files / options.pop("map"))]
    for key, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        arguments += [key, *(str(files / v) if v.endswith(".mrc") else v for v in values)]
    assert main(["localres", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("deepemhancer: error:") and "\n" not in error and said in error
    assert sorted(files.iterdir()) == before


def test_pure_noise_makes_no_mask():
    halves = tuple(
        np.random.default_rng(seed).standard_normal((40, 40, 40), np.float32) for seed in (1, 2)
    )
    with pytest.raises(InputError, match="give a mask"):
        auto_mask(sum(halves) / 2, 1.0, halves)


def test_training_command_without_data_takes_synthetic_proteins(tmp_path):
    assert (
        main(
            [
                "localres-train",
                "-o",
                str(tmp_path),
                "--steps",
                "2",
                "--edge",
                "32",
                "--pool",
                "8",
                "--validateEvery",
                "2",
            ]
        )
        == 0
    )
    assert predict.load_network(str(tmp_path / "weights.npz")).span.rate == 1.0
    assert main(["localres-train", "-o", str(tmp_path), "--edge", "30"]) == 1


def test_colours_span_at_least_half_an_angstrom():
    assert figures.colour_range(np.full(100, 4.0)) == (3.75, 4.25)
    low, high = figures.colour_range(np.linspace(3, 8, 1000))
    assert low == pytest.approx(3.1, abs=0.01) and high == pytest.approx(7.9, abs=0.01)
