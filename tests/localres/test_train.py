"""Training of both networks for local resolution, on a synthetic protein."""

import json

import numpy as np
import pytest
from random_localres import WIDTHS

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.networks import load_weights
from deepemhancer_plugin.core.localres.train import Settings, Trainer
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein


@pytest.fixture(scope="module")
def molecules():
    return [from_structure(build_protein(0))]


def settings(kind, **changes):
    chosen = {
        "edge": 32,
        "batch": 2,
        "boxes": 8,
        "steps": 60,
        "warmup": 5,
        "pool": 12,
        "renew": 20,
        "average": 0.8,
        "validate_every": 30,
        "validation_volumes": 8,
        "learning_rate": 1e-2,
        **changes,
    }
    return Settings(kind=kind, widths=WIDTHS[kind], **chosen)


@pytest.mark.parametrize("kind", ["dense", "published"])
def test_training_learns_resumes_and_saves(kind, molecules, tmp_path):
    entries = []
    Trainer(settings(kind, steps=30), tmp_path).run(molecules, molecules, entries.append)
    resumed = Trainer(settings(kind), tmp_path)
    assert resumed.step == 30 and resumed.minutes > 0
    resumed.run(molecules, molecules, entries.append)
    assert [e["step"] for e in json.loads((tmp_path / "history.json").read_text())] == [
        e["step"] for e in resumed.history
    ]
    assert resumed.history[-1]["step"] == 60 and np.isfinite(resumed.history[-1]["rms"])
    if kind == "dense":
        assert entries[-1]["mae"] < entries[0]["mae"]
    network, facts = load_weights(tmp_path / "weights.npz")
    assert facts["step"] == 60 and network.kind == kind
    finished = Trainer(settings(kind), tmp_path)
    finished.run(
        molecules, molecules, lambda e: pytest.fail("a finished training does nothing more")
    )


def test_rate_warms_up_and_falls_to_a_hundredth(tmp_path):
    schedule = Trainer(settings("dense", steps=1000, warmup=10), tmp_path).schedule
    assert schedule.learning_rate(0, 0) == pytest.approx(1e-3, rel=0.01)
    assert schedule.learning_rate(500, 0) == pytest.approx(0.505e-2, rel=1e-3)
    assert schedule.learning_rate(1000, 0) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint"])
def test_a_damaged_checkpoint_is_an_error_in_one_line(tmp_path, content):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.npz: a damaged checkpoint") as caught:
        Trainer(settings("dense"), tmp_path)
    assert "\n" not in str(caught.value)


def test_the_checkpoint_of_another_network_is_refused(tmp_path):
    Trainer(settings("published"), tmp_path).save()
    with pytest.raises(InputError, match=r"checkpoint\.npz: the checkpoint of another network"):
        Trainer(settings("dense"), tmp_path)
