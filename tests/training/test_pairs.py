"""Real half maps as training data: preparation and cubes, on simulated pairs in files."""

from dataclasses import replace

import gemmi
import numpy as np
import pytest
from pair_files import COLUMNS, CONDITIONS, RATE, entry_of, row, write_pair, write_table

from deepemhancer_plugin.core import enhance
from deepemhancer_plugin.core.maps import mrc, spectrum
from deepemhancer_plugin.core.maps.resampling import resample
from deepemhancer_plugin.core.noise.directions import measure_views
from deepemhancer_plugin.core.noise.statistics import noise_from_halves
from deepemhancer_plugin.core.simulation import read_molecule
from deepemhancer_plugin.core.simulation.molecule import compute_potential
from deepemhancer_plugin.core.training import pairs as pairs_module
from deepemhancer_plugin.core.training.cubes import Task
from deepemhancer_plugin.core.training.pairs import Pairs, prepare_pair, prepare_table
from deepemhancer_plugin.core.training.target import UnfitPair
from deepemhancer_plugin.core.weights.embedded import EmbeddedModel
from deepemhancer_plugin.core.weights.prepare import network_input


@pytest.fixture(scope="module")
def prepared(files):
    return prepare_pair(entry_of(files[0]), Task())


def test_input_is_what_inference_shows_the_network(files, prepared):
    """The halves' mean, normalised by the noise of their difference; this small box is not cut."""
    _, made = files
    noise = noise_from_halves(made.half1, made.half2)
    expected = network_input((made.half1 + made.half2) / 2, RATE, noise)
    assert prepared.volumes.dtype == np.float16 and prepared.volumes.shape == (65, 65, 65, 3)
    np.testing.assert_allclose(
        prepared.volumes[..., :2].astype(np.float32), expected, atol=2e-3 * np.abs(expected).max()
    )


class Shown(Exception):
    """What enhancement shows the network."""


@pytest.mark.parametrize("weights", ["tightTarget", "masked"])
def test_input_of_uneven_views_is_what_enhancement_shows_the_network(
    tmp_path, monkeypatch, weights
):
    made = write_pair(tmp_path, replace(CONDITIONS, preferred=0.8, reconstruction=False))
    assert measure_views(made.half1, made.half2, RATE).uneven
    entry, mask = entry_of(tmp_path), None
    if weights == "masked":
        mask = tmp_path / "mask.mrc"
        inside = (made.mask > 0.5).astype(np.float32)
        mrc.write_map(mask, inside, mrc.new_map(inside, RATE, made.origin))
        entry = replace(entry, mask=mask)
    prepare = EmbeddedModel.prepare

    def stop(self, *arguments, **keywords):
        raise Shown(prepare(self, *arguments, **keywords))

    monkeypatch.setattr(EmbeddedModel, "prepare", stop)
    with pytest.raises(Shown) as shown:
        enhance(entry.half1, entry.half2, weights=weights, mask=mask, device="-1")
    expected = shown.value.args[0]
    got = prepare_pair(entry, Task(masked=weights == "masked"), threshold=-1)
    np.testing.assert_allclose(
        got.volumes[..., :2].astype(np.float32), expected, atol=1e-3 * np.abs(expected).max()
    )


def test_target_is_the_model_where_the_model_is(files, prepared):
    """The LocScale map lies where the simulation's own target lies, in its scale.

    It is empty away from the molecule.
    """
    _, made = files
    target, wanted = (
        prepared.volumes[..., 2].astype(np.float32),
        resample(made.target, (65, 65, 65)),
    )
    assert np.corrcoef(target.ravel(), wanted.ravel())[0, 1] > 0.85
    inside = wanted > 0.3
    assert 0.5 < target[inside].mean() / wanted[inside].mean() < 2
    assert np.abs(target[resample(made.mask, (65, 65, 65)) < 1e-3]).max() < 0.1
    z, y, x = prepared.molecule.T
    assert target[z, y, x].mean() > 5 * target.mean()
    facts = prepared.facts
    assert (
        facts["correlation"] > 0.8
        and facts["b_factors"] in ("file", "refined")
        and facts["box"] == [65, 65, 65]
    )


def test_amplitudes_of_the_target_are_the_models(files, prepared):
    """Up to the resolution LocScale gives the blurred mean the model's radial amplitudes."""
    _, made = files
    molecule = read_molecule(files[0] / "model.pdb", standardise=False)
    molecule = replace(
        molecule, positions=(molecule.positions - np.array(made.origin)) * 65 / (54 * RATE)
    )
    if prepared.facts["b_factors"] == "refined":
        molecule = replace(molecule, b_factors=np.full(len(molecule), prepared.facts["median_b"]))
    target = prepared.volumes[..., 2].astype(np.float32)
    mask = np.abs(target) > 0
    model = 2 * np.fft.irfftn(compute_potential(molecule, (65,) * 3, 1.0), s=(65,) * 3) * mask
    ours, theirs = (
        np.sqrt(spectrum.power(np.fft.rfftn(v), (65,) * 3))[2:17] for v in (target, model)
    )  # 32 to 4 A
    ratio = ours / theirs
    assert 0.6 < ratio.min() and ratio.max() < 1.6


def test_misfits_are_left_out(files, tmp_path):
    folder, _ = files
    structure = gemmi.read_structure(str(folder / "model.pdb"))
    for name, shift in (("shifted", 9.0), ("outside", 60.0)):
        moved = structure.clone()
        for chain in moved[0]:
            for residue in chain:
                for atom in residue:
                    atom.pos += gemmi.Position(shift, 0, 0)
        moved.write_pdb(str(tmp_path / f"{name}.pdb"))
    two = structure.clone()
    two.add_model(structure[0].clone())
    two.renumber_models()
    two.write_pdb(str(tmp_path / "two.pdb"))
    for name, words in (
        ("shifted", "CC_mask of map and model is"),
        ("outside", "% of the model lies"),
        ("two", "2 models"),
    ):
        with pytest.raises(UnfitPair, match=words):
            prepare_pair(entry_of(folder, models=(tmp_path / f"{name}.pdb",)), Task())


@pytest.mark.parametrize(("resolution", "b_factor"), [(3.0, 0.0), (3.0, 250.0), (6.5, 100.0)])
def test_pairs_in_register_are_chosen_whatever_their_resolution_and_blur(
    tmp_path, resolution, b_factor
):
    """CC_mask over 0.6, as published; a model 3 A beside its density is left out."""
    write_pair(tmp_path, replace(CONDITIONS, resolution=resolution, b_factor=b_factor))
    entry = entry_of(tmp_path, resolution=resolution)
    found = prepare_pair(entry, Task())
    assert 0.6 < found.facts["cc_mask"] < 0.95
    structure = gemmi.read_structure(str(entry.models[0]))
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                atom.pos += gemmi.Position(3, 0, 0)
    structure.write_pdb(str(entry.models[0]))
    with pytest.raises(UnfitPair, match=r"CC_mask of map and model is .* 0\.6 is needed"):
        prepare_pair(entry, Task())


def test_wide_target_and_users_mask(files, prepared):
    folder, made = files
    wide = prepare_pair(entry_of(folder), Task(target="wide"))
    tight_voxels, wide_voxels = ((np.abs(p.volumes[..., 2]) > 1e-3).sum() for p in (prepared, wide))
    assert wide_voxels > 2 * tight_voxels
    half = np.zeros_like(made.half1)
    half[:27] = 1
    mrc.write_map(str(folder / "mask.mrc"), half, mrc.new_map(half, RATE, made.origin))
    masked = prepare_pair(entry_of(folder, mask=folder / "mask.mrc"), Task(masked=True))
    for channel in (0, 2):  # input and target; the flattened map rings
        assert (
            np.abs(masked.volumes[38:, ..., channel]).max()
            < 0.1 * np.abs(masked.volumes[:28, ..., channel]).max()
        )


def test_cubes_are_about_half_with_signal_and_parts_of_the_volume():
    volumes = np.zeros((90, 80, 70, 2), np.float16)
    volumes[..., 0] = np.random.default_rng(0).standard_normal(volumes.shape[:3])
    volumes[40:50, 36:44, 30:40, 1] = 1
    molecule = np.argwhere(volumes[..., 1] > 0).astype(np.int16)
    pairs = Pairs([(volumes, molecule)])
    inputs, targets = pairs.make_cubes(0, np.random.default_rng(1), 200, 24)
    assert (
        inputs.shape == (200, 24, 24, 24, 1)
        and targets.shape == (200, 24, 24, 24, 1)
        and inputs.dtype == np.float16
    )
    signal = targets.any((1, 2, 3, 4))
    assert 0.4 < signal.mean() < 0.6
    again = pairs.make_cubes(0, np.random.default_rng(1), 200, 24)
    np.testing.assert_array_equal(inputs, again[0])
    windows = np.lib.stride_tricks.sliding_window_view(volumes[..., 0], (24, 24, 24))
    for cube, target in zip(inputs[:5, ..., 0], targets[:5, ..., 0], strict=True):
        (where,) = np.argwhere(
            (windows[..., 0, 0, 0] == cube[0, 0, 0]) & (windows[..., 5, 5, 5] == cube[5, 5, 5])
        )
        part = tuple(slice(w, w + 24) for w in where)
        np.testing.assert_array_equal(volumes[part][..., 0], cube)
        np.testing.assert_array_equal(volumes[part][..., 1], target)


def test_a_small_box_wraps():
    volumes = np.random.default_rng(0).standard_normal((10, 40, 12, 2)).astype(np.float16)
    inputs, targets = Pairs([(volumes, np.array([[5, 20, 6]], np.int16))]).make_cubes(
        0, np.random.default_rng(0), 4, 16
    )
    assert inputs.shape == (4, 16, 16, 16, 1)
    for cube in inputs[..., 0]:
        np.testing.assert_array_equal(cube[10:], cube[:6])
        np.testing.assert_array_equal(cube[:, :, 12:], cube[:, :, :4])
    assert np.isin(targets, volumes[..., 1]).all()


def test_a_table_becomes_sources_and_is_prepared_once(files, tmp_path, monkeypatch):
    folder, _ = files
    rows = [
        row("a", "3.5", "x", "train"),
        row("b", "3.6", "y", "validation"),
        row("c", "3.7", "y", "validation"),
        row("d", "9", "z", "train"),
        row("e", "3", "w", "test"),
    ]
    path = write_table(folder, *rows, columns=f"{COLUMNS}\tcluster\tsplit")
    said = []
    found = prepare_table(path, tmp_path, Task(), log=said.append)
    assert {split: len(source) for split, source in found.items()} == {"train": 1, "validation": 1}
    status = {
        line.split("\t")[0]: line.split("\t")[3]
        for line in (tmp_path / "pairs.tsv").read_text().splitlines()[1:]
    }
    assert status["a"] == status["b"] == "used" and status["e"] == "kept for tests"
    assert "1 of its cluster" in status["c"] and "better than 7 A" in status["d"]
    assert any(line.startswith("a: used in train") for line in said)
    inputs, _ = found["train"].make_cubes(0, np.random.default_rng(0), 2, 32)
    assert inputs.shape == (2, 32, 32, 32, 2)

    monkeypatch.setattr(pairs_module, "prepare_pair", lambda *_: pytest.fail("prepared again"))
    again = prepare_table(path, tmp_path, Task(), log=said.append)
    np.testing.assert_array_equal(
        again["train"].make_cubes(0, np.random.default_rng(0), 2, 32)[0], inputs
    )
    called = []
    monkeypatch.setattr(
        pairs_module,
        "prepare_pair",
        lambda *a: called.append(a) or (_ for _ in ()).throw(UnfitPair("asked anew")),
    )
    assert (
        not len(prepare_table(path, tmp_path, Task(channels=1), log=said.append)["train"])
        and called
    )  # other settings
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]
