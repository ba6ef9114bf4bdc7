"""`deepemhancer evaluate`: numbers as the functions give them, whole files, errors of one line."""

import json

import gemmi
import numpy as np
import pytest

from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.evaluation.modelmap import compute_model_map
from deepemhancer_plugin.core.evaluation.qscore import q_scores
from deepemhancer_plugin.core.maps import mrc, spectrum
from deepemhancer_plugin.core.simulation.molecule import from_structure

RATE, ORIGIN, SHAPE = 1.2, (20.0, -30.0, 7.0), (40, 44, 48)


def structure(n=120, shift=(0.0, 0.0, 0.0)):
    """A coil of carbons in the middle of the box at ORIGIN, B factors from 20 to 80 A^2."""
    built, chain = gemmi.Structure(), gemmi.Chain("A")
    middle = np.array(ORIGIN) + np.array(SHAPE[::-1]) * RATE / 2 + shift
    for i in range(n):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(i + 1))
        turn, along = i * 0.9, 24 * (i / n - 0.5)
        atom.name, atom.element, atom.b_iso = "CA", gemmi.Element("C"), 20 + 60 * i / n
        atom.pos = gemmi.Position(*(middle + np.array([5 * np.cos(turn), 5 * np.sin(turn), along])))
        residue.add_atom(atom)
        chain.add_residue(residue)
    built.add_model(gemmi.Model(1))
    built[0].add_chain(chain)
    built.setup_entities()
    return built


def write(path, data, rate=RATE, origin=ORIGIN):
    mrc.write_map(path, data, mrc.new_map(data, rate, origin))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two half maps, a blurred map, a mask and a model in one place."""
    folder = tmp_path_factory.mktemp("evaluate")
    structure().write_pdb(str(folder / "model.pdb"))
    atoms = from_structure(gemmi.read_structure(str(folder / "model.pdb")), standardise=False)
    truth = compute_model_map(atoms.shift(-np.array(ORIGIN)), SHAPE, RATE)
    rng = np.random.default_rng(0)
    for name in ("half1", "half2"):
        write(folder / f"{name}.mrc", truth + 0.6 * truth.std() * rng.standard_normal(SHAPE))
    k = np.sqrt(
        sum(g**2 for g in np.meshgrid(*(np.fft.fftfreq(n, RATE) for n in SHAPE), indexing="ij"))
    )
    write(folder / "blurred.mrc.gz", np.fft.ifftn(np.fft.fftn(truth) * (k < 1 / 6)).real)
    write(folder / "mask.mrc", soft_mask(truth, RATE))
    write(folder / "truth.mrc", truth)
    return folder


def run(folder, *arguments, prefix="out"):
    """Exit status, and the JSON that was written."""
    status = main(
        [
            "evaluate",
            *(str(folder / a) if a[0].isalpha() else a for a in arguments),
            "-o",
            str(folder / prefix),
        ]
    )
    return status, json.loads((folder / f"{prefix}.json").read_text()) if status == 0 else None


@pytest.fixture(scope="module")
def evaluated(folder):
    return run(
        folder, "blurred.mrc.gz", "--halves", "half1.mrc", "half2.mrc", "--model", "model.pdb"
    )


def test_numbers_are_those_of_the_functions(folder, evaluated):
    status, found = evaluated
    assert status == 0 and [m["name"] for m in found["maps"]] == ["mean of halves", "blurred"]
    truth, mask, blurred = (
        mrc.read_map(folder / f"{n}").data for n in ("truth.mrc", "mask.mrc", "blurred.mrc.gz")
    )
    expected, got = score(blurred, truth, mask, RATE), found["maps"][1]
    for key, value in (
        ("fsc_0.5_masked", expected.fsc_masked),
        ("fsc_0.5_unmasked", expected.fsc_unmasked),
        ("cc_mask", expected.cc_mask),
        ("cc_box", expected.cc_box),
    ):
        assert got[key] == pytest.approx(value, rel=2e-3), key
    assert got["fsc_0.5_unmasked"] == pytest.approx(6, abs=0.3)
    positions = (
        np.array(
            [
                a.pos.tolist()
                for a in (s.atom for s in gemmi.read_structure(str(folder / "model.pdb"))[0].all())
            ]
        )
        - ORIGIN
    )
    np.testing.assert_allclose(got["q_scores"], q_scores(blurred, positions, RATE), atol=2e-4)
    assert got["q_score"] == pytest.approx(np.mean(got["q_scores"]), abs=1e-4)
    frequency, curve = spectrum.fsc(
        *(mrc.read_map(folder / f"half{i}.mrc").data for i in (1, 2)), RATE
    )
    np.testing.assert_allclose(found["halves"]["unmasked"], curve, atol=1e-6)
    assert found["halves"]["fsc_0.143_unmasked"] == pytest.approx(
        spectrum.resolution(frequency, curve, 0.143)
    )
    assert (
        found["resolution"] == pytest.approx(found["halves"]["fsc_0.143_corrected"])
        and found["atoms"] == 120
    )


def test_files_hold_what_the_screen_shows(folder, evaluated, capsys):
    assert run(folder, "blurred.mrc.gz", "--model", "model.pdb", prefix="again")[0] == 0
    screen, markdown = capsys.readouterr().out, (folder / "again.md").read_text()
    for words in (
        "Q-score, mean of the atoms",
        "map-model FSC = 0.5, in the least ordered fifth (Å)",
        "CC_peaks",
        "blurred",
    ):
        assert words in screen and words in markdown
    assert (
        "half-map" not in markdown
        and "half-map FSC = 0.143, corrected (Å)" in (folder / "out.md").read_text()
    )
    assert (folder / "out.png").read_bytes()[:4] == b"\x89PNG"
    assert not [
        f.name for f in folder.iterdir() if f.name.endswith(".tmp") or f.name.startswith(".")
    ]


def test_model_map_and_mask_instead_of_a_model(folder, evaluated):
    """No atoms, no Q-score; the same truth and mask give the same correlations."""
    status, found = run(
        folder,
        "blurred.mrc.gz",
        "--modelMap",
        "truth.mrc",
        "--mask",
        "mask.mrc",
        "--resolution",
        "5",
        prefix="map",
    )
    assert (
        status == 0
        and "q_score" not in found["maps"][0]
        and "fsc_0.5_least_ordered" not in found["maps"][0]
        and found["resolution"] == 5
    )
    for key in ("cc_mask", "cc_box", "cc_peaks", "fsc_0.5_masked"):
        assert found["maps"][0][key] == pytest.approx(evaluated[1]["maps"][1][key], rel=2e-3), key


def test_a_model_that_lies_elsewhere_is_warned_about(folder, evaluated):
    structure(shift=(-14, 14, 0)).write_pdb(str(folder / "beside.pdb"))
    status, found = run(folder, "blurred.mrc.gz", "--model", "beside.pdb", prefix="beside")
    assert (
        status == 0
        and "beside.pdb: CC_mask with blurred is " in found["warnings"][-1]
        and "place" in found["warnings"][-1]
    )
    assert not evaluated[1]["warnings"]


def test_halves_alone_and_a_map_alone(folder):
    status, found = run(folder, "--halves", "half1.mrc", "half2.mrc", prefix="halves")
    assert (
        status == 0
        and set(found["halves"]) >= {"fsc_0.143_unmasked", "fsc_0.5_unmasked"}
        and "masked" not in found["halves"]
    )
    status, found = run(folder, "blurred.mrc.gz", prefix="alone")
    assert (
        status == 0
        and found["resolution"] is None
        and "b_factor" not in found["maps"][0]
        and len(found["maps"][0]["ln_f"]) == 21
    )


def test_some_atoms_drawn_at_random(folder, evaluated):
    status, found = run(
        folder,
        "blurred.mrc.gz",
        "--model",
        "model.pdb",
        "--atoms",
        "30",
        "--seed",
        "4",
        prefix="some",
    )
    assert status == 0 and found["atoms_scored"] == 30 and len(found["maps"][0]["q_scores"]) == 30
    assert found["maps"][0]["q_score"] == pytest.approx(evaluated[1]["maps"][1]["q_score"], abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("blurred.mrc.gz", "--model", "far.pdb"), "far.pdb: the model,"),
        (
            ("blurred.mrc.gz", "small.mrc"),
            "small.mrc: box 20 x 44 x 48 (z, y, x): it must be 40 x 44 x 48",
        ),
        (("blurred.mrc.gz", "fine.mrc"), "fine.mrc: sampling rate 1.1 A/voxel: it must be 1.2"),
        (("blurred.mrc.gz", "moved.mrc"), "moved.mrc: its first voxel lies at 0, 0, 0 A"),
        (("blurred.mrc.gz", "--modelMap", "small.mrc"), "small.mrc: box"),
        (("blurred.mrc.gz", "--mask", "small.mrc"), "mask"),
        (("blurred.mrc.gz", "--model", "absent.pdb"), "absent.pdb: no such file"),
        (("--halves", "half1.mrc", "half1.mrc"), "the same map"),
        (
            ("blurred.mrc.gz", "--resolution", "2.3"),
            "resolution 2.3 A: between Nyquist (2.4 A) and 100 A",
        ),
        (("blurred.mrc.gz", "--model", "model.pdb", "--atoms", "0"), "atoms 0: at least 1"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(folder, capsys, arguments, words):
    structure(shift=(500, 0, 0)).write_pdb(str(folder / "far.pdb"))
    data = np.random.default_rng(0).standard_normal(SHAPE)
    write(folder / "small.mrc", data[:20])
    write(folder / "fine.mrc", data, rate=1.1)
    write(folder / "moved.mrc", data, origin=(0, 0, 0))
    capsys.readouterr()
    assert run(folder, *arguments, prefix="bad")[0] == 1
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error and not list(folder.glob("bad.*"))


def test_nothing_to_evaluate_is_wrong_usage(folder):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "-o", str(folder / "none")])
    assert stopped.value.code == 2
