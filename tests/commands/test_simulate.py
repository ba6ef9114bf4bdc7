"""`deepemhancer simulate`: maps in the model's place, errors of one line."""

import numpy as np
import pytest

from deepemhancer_plugin.core.commands.main import main
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation.synthetic import build_protein


def test_simulated_maps_overlay_on_the_model(tmp_path):
    """The model's own map is densest at its atoms, by the origin in the header."""
    model = tmp_path / "protein.pdb"
    structure = build_protein(0)
    structure.write_pdb(str(model))
    prefix = str(tmp_path / "p")
    assert main(["simulate", str(model), "-o", prefix, "--resolution", "4", "-s", "1.5"]) == 0
    assert sorted(p.name for p in tmp_path.glob("p_*")) == [
        "p_half1.mrc",
        "p_half2.mrc",
        "p_model.mrc",
        "p_target.mrc",
    ]
    volume = mrc.read_map(tmp_path / "p_model.mrc")
    atoms = np.array(
        [a.pos.tolist() for chain in structure[0] for residue in chain for a in residue]
    )
    index = np.round((atoms - np.array(volume.origin)) / 1.5).astype(int)[:, ::-1]
    at_atoms = volume.data[tuple(index.T)].mean()
    assert at_atoms > 3 * volume.data[tuple((index + 4).T)].mean()
    assert at_atoms > 10 * volume.data.mean()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.pdb"], "absent.pdb: no such file"),
        (["a.pdb", "--resolution", "1"], "resolution 1 A: between twice the sampling rate (2 A)"),
        (["a.pdb", "--micelle", "2"], "micelle 2: between 0 and 1"),
        (["a.pdb", "--box", "8"], "box 8: between 24 and 1024"),
    ],
)
def test_bad_input_is_an_error_of_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", *arguments, "-o", "x"]) == 1
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error
    assert not list(tmp_path.iterdir())
