"""Real half maps as training data: the table, the clusters, the preparation, the cubes; on simulated pairs written as files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.commands import train as command
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import filters, mrc, spectrum
from deepemhancer_plugin.core.maps.resampling import resample
from deepemhancer_plugin.core.noise.statistics import noise_from_halves
from deepemhancer_plugin.core.simulation import (
    Conditions,
    from_structure,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.molecule import compute_potential
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training import clusters as clusters_module
from deepemhancer_plugin.core.training import pairs as pairs_module
from deepemhancer_plugin.core.training.clusters import clusters, groups, sequences, splits
from deepemhancer_plugin.core.training.cubes import Task
from deepemhancer_plugin.core.training.pairs import (
    Entry,
    Pairs,
    _Unfit,
    choose,
    correlation,
    prepare_pair,
    prepare_table,
    read_table,
    refined_b,
)
from deepemhancer_plugin.core.training.train import PUBLISHED_SETTINGS, Settings
from deepemhancer_plugin.core.weights.networks import Architecture
from deepemhancer_plugin.core.weights.prepare import prepare

RATE = 1.2
CONDITIONS = Conditions(
    resolution=3.5, sampling_rate=RATE, box=54, disorder=20.0, random_pose=False
)
COLUMNS = "id\thalf1\thalf2\tmodel\tresolution"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Half maps of a piece of a synthetic protein at 1.2 A/voxel with an origin, and its model; the simulation they come from."""
    folder = tmp_path_factory.mktemp("pair")
    structure = build_protein()
    chain = structure[0][0]
    del chain[60:]
    while len(structure[0]) > 1:
        del structure[0][-1]
    structure.write_pdb(str(folder / "model.pdb"))
    made = simulate_halves(from_structure(structure), CONDITIONS, 3)
    for name, data in (("half1", made.half1), ("half2", made.half2)):
        mrc.write_map(str(folder / f"{name}.mrc"), data, mrc.new_map(data, RATE, made.origin))
    return folder, made


def entry_of(folder, **changes):
    return replace(
        Entry("one", folder / "half1.mrc", folder / "half2.mrc", (folder / "model.pdb",), 3.5),
        **changes,
    )


@pytest.fixture(scope="module")
def prepared(files):
    return prepare_pair(entry_of(files[0]), Task())


# --------------------------------------------------------------------------------------------------------------------------- table


def table(folder, *rows, columns=COLUMNS):
    path = folder / "table.tsv"
    path.write_text("\n".join([columns, *("\t".join(row) for row in rows)]) + "\n")
    return path


def row(name="one", resolution="3.5", *rest):
    return (name, "half1.mrc", "half2.mrc", "model.pdb", resolution, *rest)


def test_rows_of_a_table(files):
    folder, _ = files
    path = table(
        folder,
        row("one", "3.5", "a, b", "train"),
        row("two", "4", "c", "test"),
        columns=f"{COLUMNS}\tcluster\tsplit",
    )
    first, second = read_table(path)
    assert first == entry_of(folder, cluster=("a", "b"), split="train")
    assert second.resolution == 4 and second.split == "test" and second.mask is None
    several = read_table(
        table(folder, ("x", "half1.mrc", "half2.mrc", "model.pdb, model.pdb", "3"))
    )[0]
    assert len(several.models) == 2 and several.split is several.cluster is None


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([row()], "id\thalf1\tmodel", "no column half2, resolution"),
        ([], COLUMNS, "no rows"),
        ([row(), row()], COLUMNS, "id one stands there 2 times"),
        (
            [("one", "absent.mrc", "half2.mrc", "model.pdb", "3")],
            COLUMNS,
            "line 2: half1 absent.mrc",
        ),
        ([row(), ("two", "half1.mrc", "", "model.pdb", "3")], COLUMNS, "line 3: half2 is empty"),
        ([row(resolution="fine")], COLUMNS, "resolution 'fine'"),
        ([row(resolution="-3")], COLUMNS, "resolution '-3'"),
        ([row("../one")], COLUMNS, "id '../one'"),
        ([row("one", "3", "half")], f"{COLUMNS}\tsplit", "split half"),
        (
            [row("one", "3", "a"), row("two", "3", "")],
            f"{COLUMNS}\tcluster",
            "some rows have no cluster",
        ),
    ],
)
def test_wrong_tables_are_refused_in_one_line(files, tmp_path, rows, columns, words):
    for name in ("half1.mrc", "half2.mrc", "model.pdb"):
        shutil.copy(files[0] / name, tmp_path)
    with pytest.raises(InputError) as caught:
        read_table(table(tmp_path, *rows, columns=columns))
    assert (
        words in str(caught.value)
        and "table.tsv" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.tsv: no such file"):
        read_table(tmp_path / "absent.tsv")


# ------------------------------------------------------------------------------------------------------------------------ clusters


def test_groups_are_linked_by_shared_clusters():
    group = groups([["a"], ["b"], ["a", "c"], [], ["c"], [], ["b", "d"]])
    assert group[0] == group[2] == group[4] and group[1] == group[6]
    assert len({group[0], group[1], group[3], group[5]}) == 4


def test_splits_hold_out_whole_groups():
    group = [i // 4 for i in range(100)]
    for seed in range(5):
        split = splits(group, seed)
        assert 15 <= split.count("validation") <= 18
        assert all(
            len({s for s, g in zip(split, group, strict=True) if g == number}) == 1
            for number in group
        )
    assert splits(group, 0) == splits(group, 0) != splits(group, 1)
    assert splits([3, 3, 3], 0) == ["train"] * 3
    assert sorted(splits([1, 2], 0)) == ["train", "validation"]


def protein_of(path: Path, sequence: str):
    """A model of alpha carbons with that sequence."""
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, name in enumerate(
        gemmi.expand_one_letter_sequence(sequence, gemmi.ResidueKind.AA), start=1
    ):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid, residue.entity_type = (
            name,
            gemmi.SeqId(str(number)),
            gemmi.EntityType.Polymer,
        )
        atom.name, atom.element, atom.pos = (
            "CA",
            gemmi.Element("C"),
            gemmi.Position(3.8 * number, 0, 0),
        )
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.write_pdb(str(path))
    return path


def random_sequence(seed, length=150):
    return "".join(np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWY"), length))


@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed")
def test_mmseqs_clusters_related_sequences(tmp_path):
    first, rng = random_sequence(0), np.random.default_rng(1)
    related = "".join(
        a if rng.random() < 0.6 else b for a, b in zip(first, random_sequence(2), strict=True)
    )
    models = [
        protein_of(tmp_path / f"{i}.pdb", s)
        for i, s in enumerate((first, related, random_sequence(3), first[:10]))
    ]
    found = clusters(models)
    assert found[0] == found[1] and len(found[0]) == 1 and found[2] != found[0] and found[3] == ()
    group = groups(found)
    assert group[0] == group[1] and len(set(group)) == 3


def test_sequences_are_those_of_the_polymers(tmp_path, monkeypatch):
    text = random_sequence(4, 40)
    path = protein_of(tmp_path / "a.pdb", text)
    assert sequences(path) == [text]
    (tmp_path / "broken.cif").write_text("nothing\n")
    with pytest.raises(InputError, match=r"broken\.cif: not an atomic model"):
        sequences(tmp_path / "broken.cif")
    monkeypatch.setattr(clusters_module.shutil, "which", lambda _: None)
    assert clusters([path, path]) == [(text,), (text,)]  # one sequence needs no program
    with pytest.raises(InputError, match=r"MMseqs2.*column cluster"):
        clusters([path, protein_of(tmp_path / "b.pdb", random_sequence(5, 40))])


def test_what_is_chosen(tmp_path):
    def entry(name, resolution, cluster, split=None, models=1):
        return Entry(
            name, tmp_path, tmp_path, (tmp_path,) * models, resolution, None, split, (cluster,)
        )

    entries = [
        entry("coarse", 7.0, "a"),
        entry("two models", 3.0, "b", models=2),
        entry("c", 6.9, "c"),
        entry("d", 3.0, "d"),
        entry("e", 4.5, "e"),
    ]
    chosen, left_out = choose(entries, Path("t.tsv"), Task(), 0)
    assert [e.name for e, _, _ in chosen] == ["d", "e", "c"] and {e.name for e, _ in left_out} == {
        "coarse",
        "two models",
    }
    assert [split for _, split, _ in chosen].count("validation") == 1
    sharp, _ = choose(entries, Path("t.tsv"), Task(target="sharp"), 0)
    assert [e.name for e, _, _ in sharp] == ["d"]
    kept = [
        entry("x", 3, "a", "train"),
        entry("y", 3, "b", "validation"),
        entry("z", 3, "c", "test"),
    ]
    assert [(e.name, split) for e, split, _ in choose(kept, Path("t.tsv"), Task(), 0)[0]] == [
        ("x", "train"),
        ("y", "validation"),
    ]
    for other in ("validation", "test"):
        with pytest.raises(
            InputError, match=rf"t\.tsv: x \(train\) and y \({other}\) share a sequence cluster"
        ):
            choose(
                [entry("x", 3, "a", "train"), entry("y", 3, "a", other)], Path("t.tsv"), Task(), 0
            )


# --------------------------------------------------------------------------------------------------------------------- preparation


def test_input_is_what_inference_shows_the_network(files, prepared):
    """The halves' mean at 1 A/voxel through prepare(), with the noise of their difference; nothing is cut from this small box."""
    _, made = files
    stats = noise_from_halves(made.half1, made.half2)
    mean = resample((made.half1 + made.half2) / 2, (65, 65, 65))
    expected = prepare(mean, stats.mean, stats.std)
    assert prepared.volumes.dtype == np.float16 and prepared.volumes.shape == (65, 65, 65, 3)
    np.testing.assert_allclose(
        prepared.volumes[..., :2].astype(np.float32), expected, atol=2e-3 * np.abs(expected).max()
    )


def test_target_is_the_model_where_the_model_is(files, prepared):
    """Register: the LocScale map lies where the simulation's own target lies, in its scale, and is empty away from the molecule."""
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
    """Under the resolution LocScale gives the strongly blurred mean (B 80 A^2) the model's radial amplitudes."""
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
        ("shifted", "correlate by"),
        ("outside", "% of the model lies"),
        ("two", "2 models"),
    ):
        with pytest.raises(_Unfit, match=words):
            prepare_pair(entry_of(folder, models=(tmp_path / f"{name}.pdb",)), Task())


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


@pytest.mark.parametrize("b", [40.0, 90.0])
def test_refined_b_is_that_of_a_perfect_half_map_pair(b):
    """A map of any amplitudes with the model's phases, and an FSC whose C_ref is the model's amplitude at the true B: closed form."""
    molecule = from_structure(build_protein())[:300]
    molecule = replace(
        molecule,
        positions=molecule.positions - molecule.positions.mean(0) + 32,
        b_factors=np.full(300, 60.0),
    )
    shape = (64,) * 3
    model = compute_potential(molecule, shape, 1.0)
    at = np.sqrt(spectrum.power(model, shape)) * np.exp(-(b - 60) / 4 * (np.arange(56) / 64) ** 2)
    cref = 0.99 * at[:33] / at[1:33].max()
    curve = cref**2 / (2 - cref**2)
    mean = model.copy()
    filters.apply_gain(mean, np.exp(-np.arange(56) / 8.0), shape)
    got = refined_b(np.fft.irfftn(mean, s=shape), np.fft.irfftn(model, s=shape), curve, 3.0, 60.0)
    assert got == pytest.approx(b, abs=8)


def test_correlation_does_not_see_the_b_factor():
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((32, 32, 32))
    blurred = np.fft.rfftn(volume)
    filters.apply_gain(blurred, np.exp(-np.arange(30) / 5.0), volume.shape)
    inside = np.zeros(volume.shape, bool)
    inside[8:24, 8:24, 8:24] = True
    assert correlation(volume, np.fft.irfftn(blurred, s=volume.shape), inside) > 0.99
    assert abs(correlation(volume, rng.standard_normal(volume.shape), inside)) < 0.1


# --------------------------------------------------------------------------------------------------------------------------- cubes


def test_cubes_are_about_half_with_signal_and_parts_of_the_volume():
    volumes = np.zeros((90, 80, 70, 2), np.float16)
    volumes[..., 0] = np.random.default_rng(0).standard_normal(volumes.shape[:3])
    volumes[40:50, 36:44, 30:40, 1] = 1
    molecule = np.argwhere(volumes[..., 1] > 0).astype(np.int16)
    pairs = Pairs([(volumes, molecule)])
    inputs, targets = pairs.cubes(0, np.random.default_rng(1), 200, 24)
    assert (
        inputs.shape == (200, 24, 24, 24, 1)
        and targets.shape == (200, 24, 24, 24, 1)
        and inputs.dtype == np.float16
    )
    signal = targets.any((1, 2, 3, 4))
    assert 0.4 < signal.mean() < 0.6
    again = pairs.cubes(0, np.random.default_rng(1), 200, 24)
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
    inputs, targets = Pairs([(volumes, np.array([[5, 20, 6]], np.int16))]).cubes(
        0, np.random.default_rng(0), 4, 16
    )
    assert inputs.shape == (4, 16, 16, 16, 1)
    for cube in inputs[..., 0]:
        np.testing.assert_array_equal(cube[10:], cube[:6])
        np.testing.assert_array_equal(cube[:, :, 12:], cube[:, :, :4])
    assert np.isin(targets, volumes[..., 1]).all()


# ---------------------------------------------------------------------------------------------------------------- table to cubes


def test_a_table_becomes_sources_and_is_prepared_once(files, tmp_path, monkeypatch):
    folder, _ = files
    rows = [
        row("a", "3.5", "x", "train"),
        row("b", "3.6", "y", "validation"),
        row("c", "3.7", "y", "validation"),
        row("d", "9", "z", "train"),
        row("e", "3", "w", "test"),
    ]
    path = table(folder, *rows, columns=f"{COLUMNS}\tcluster\tsplit")
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
    inputs, _ = found["train"].cubes(0, np.random.default_rng(0), 2, 32)
    assert inputs.shape == (2, 32, 32, 32, 2)

    monkeypatch.setattr(pairs_module, "prepare_pair", lambda *_: pytest.fail("prepared again"))
    again = prepare_table(path, tmp_path, Task(), log=said.append)
    np.testing.assert_array_equal(
        again["train"].cubes(0, np.random.default_rng(0), 2, 32)[0], inputs
    )
    called = []
    monkeypatch.setattr(
        pairs_module,
        "prepare_pair",
        lambda *a: called.append(a) or (_ for _ in ()).throw(_Unfit("asked anew")),
    )
    assert (
        not len(prepare_table(path, tmp_path, Task(channels=1), log=said.append)["train"])
        and called
    )  # other settings
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_train_and_fine_tune_commands_on_pairs(files, tmp_path, capsys):
    folder, _ = files
    path = table(
        folder,
        row("a", "3.5", "x", "train"),
        row("b", "3.6", "y", "validation"),
        columns=f"{COLUMNS}\tcluster\tsplit",
    )
    common = [
        "--pairs",
        str(path),
        "--batch",
        "1",
        "--edges",
        "32",
        "--pool",
        "8",
        "--validateEvery",
        "2",
        "--precision",
        "float32",
    ]
    runs = tmp_path / "first"
    assert (
        cli.main(
            [
                "train",
                *common,
                "-o",
                str(runs),
                "--steps",
                "2",
                "--architecture",
                '{"widths": [4, 4], "blocks": [1, 1], "channels": 1}',
            ]
        )
        == 0
    )
    assert {"weights.npz", "checkpoint.npz", "history.json", "loss.png", "prepared"} == {
        p.name for p in runs.iterdir()
    }
    assert "1 pairs to train on, 1 held out" in capsys.readouterr().out
    second = tmp_path / "second"
    assert (
        cli.main(
            [
                "fine-tune",
                *common,
                "-o",
                str(second),
                "--steps",
                "1",
                "--start",
                str(runs / "weights.npz"),
            ]
        )
        == 0
    )
    with np.load(second / "weights.npz") as data:
        facts = json.loads(str(data["facts"]))
    assert facts["settings"]["rate"] == 6e-5 and facts["settings"]["architecture"]["widths"] == [
        4,
        4,
    ]


def settings_of(*arguments, changes=None):
    a = command._parser("train", "", {}).parse_args(["--pairs", "t", "-o", "o", *arguments])
    return command._settings(a, command._start(a.start), changes or {})


def test_settings_by_the_flags():
    plain, published = settings_of(), settings_of("--network", "published", "--steps", "7")
    assert plain == Settings() and plain.task == Task()
    assert published == replace(Settings(**PUBLISHED_SETTINGS), steps=7) and published.task == Task(
        channels=1, compress=False
    )
    assert settings_of("--target", "wide", "--gradientWeight", "0.2") == replace(
        Settings(), target="wide", gradient_weight=0.2
    )
    assert settings_of("--noiseOnly", "0.4", "--typical", "0.7", "--emptyWeight", "6") == replace(
        Settings(), noise_only=0.4, typical=0.7, empty_weight=6.0
    )
    masked = settings_of("--masked", "--target", "sharp")
    assert (
        masked.task == Task(masked=True, target="sharp")
        and masked.architecture.normalization == "mask"
    )
    assert settings_of(
        "--architecture", '{"norm": "group", "entrance": 1}'
    ).architecture == replace(Architecture(), norm="group", entrance=1)
    mean = replace(Architecture(), answer="mean")
    tuned = settings_of("--start", "tightTarget", "--rate", "1e-5", changes=command.FINE_TUNE)
    assert tuned == replace(Settings(mean, **command.FINE_TUNE, **command.MEAN), rate=1e-5)
    assert (
        settings_of("--start", "tightTarget", "--absoluteWeight", "2").architecture.answer
        == "median"
    )
    assert settings_of("--squareWeight", "1", "--absoluteWeight", "0.5").architecture == mean
    with pytest.raises(InputError, match="32 is no multiple of 64"):
        settings_of(
            "--edges",
            "32",
            "--architecture",
            '{"widths": [4, 4, 4, 4, 4, 4], "blocks": [1, 1, 1, 1, 1, 1]}',
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--structures DIR or --pairs TABLE"),
        (["--pairs", "absent.tsv"], "absent.tsv"),
        (["--pairs", "t", "--pairShare", "1"], "--pairShare"),
        (["--pairs", "t", "--start", "nothing"], "--start nothing: no such file"),
        (["--pairs", "t", "--architecture", "{"], "--architecture {"),
        (["--pairs", "t", "--architecture", '{"norm": "batch"}'], "norm batch is none of"),
        (
            ["--pairs", "t", "--start", "tightTarget", "--network", "published"],
            "weights of the embedded network",
        ),
        (
            ["--pairs", "t", "--start", "tightTarget", "--architecture", '{"norm": "none"}'],
            "weights of another network",
        ),
        (["--pairs", "t", "--noiseOnly", "1.5"], "--noiseOnly 1.5: a share"),
        (["--pairs", "t", "--typical", "1.5"], "--typical 1.5: a share"),
        (["--pairs", "t", "--warmup", "-1"], "--warmup -1"),
    ],
)
def test_bad_arguments_of_train(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-o", "runs", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
