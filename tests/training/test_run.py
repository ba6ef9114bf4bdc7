"""What every training does, on short trainings of a tiny network."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from small_network import SMALL
from tiny_training import TINY, FixedPool, variables

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training.run import Schedule
from deepemhancer_plugin.core.training.train import Trainer
from deepemhancer_plugin.core.weights.networks import load_weights


def test_learning_rate_is_a_warm_up_and_half_a_cosine():
    schedule = Schedule(2.0, 100, 1000, math.inf, 10)
    assert schedule.learning_rate(0, 0) == pytest.approx(2 / 100)
    assert schedule.learning_rate(500, 0) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert schedule.learning_rate(250, 0) == pytest.approx(
        2 * (0.01 + 0.99 * (1 + np.sqrt(0.5)) / 2)
    )
    assert schedule.learning_rate(1000, 0) == schedule.learning_rate(5000, 0) == pytest.approx(0.02)
    rates = [schedule.learning_rate(i, 0) for i in range(1000)]
    assert (
        max(rates) <= 2 and np.argmax(rates) in (98, 99, 100) and (np.diff(rates[100:]) < 0).all()
    )


def test_learning_rate_follows_the_clock_when_it_is_ahead():
    schedule = Schedule(1.0, 1, 1000, 60, 10)
    assert schedule.learning_rate(10, 30) == pytest.approx(0.505)
    assert schedule.learning_rate(500, 3) == pytest.approx(0.505)


def test_without_a_warm_up_the_rate_begins_at_its_peak():
    assert Schedule(2.0, 0, 1000, math.inf, 10).learning_rate(0, 0) == 2.0


def test_files_of_a_training(trained, samples):
    trainer, reports, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.npz",
        "history.json",
        "weights.npz",
    ]
    assert json.loads((folder / "history.json").read_text()) == reports
    network, facts = load_weights(folder / "weights.npz")
    assert (
        network.architecture == SMALL
        and facts["step"] == 40
        and facts["settings"]["minutes"] is None
    )
    raw = [np.asarray(v) for v in trainer.network.model.trainable_variables]
    with trainer.averaged():
        averaged = [np.asarray(v) for v in trainer.network.model.trainable_variables]
    for value, mean in zip(network.model.trainable_variables, averaged, strict=True):
        np.testing.assert_array_equal(np.asarray(value), mean.astype(np.float16))
    assert max(np.abs(a - b).max() for a, b in zip(raw, averaged, strict=True)) > 1e-4
    for before, after in zip(raw, trainer.network.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(
            before, np.asarray(after)
        )  # the training goes on with its own weights


def test_stop_and_resume_is_as_one_training(trained, samples, tmp_path):
    validation = (samples[0][:2], samples[1][:2])
    first = Trainer(replace(TINY, steps=20), tmp_path)
    first.run(FixedPool(samples), validation, lambda entry: None)
    second = Trainer(TINY, tmp_path)
    assert second.step == 20 and second.history == first.history
    for a, b in zip(variables(first), variables(second), strict=True):
        np.testing.assert_array_equal(a, b)
    second.run(FixedPool(samples), validation, lambda entry: None)
    assert second.step == 40
    for a, b in zip(variables(trained[0]), variables(second), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * max(1e-3, np.abs(a).max()))


def test_a_finished_training_started_again_changes_nothing(trained, samples):
    _, reports, folder = trained
    before = (folder / "checkpoint.npz").read_bytes()
    again = Trainer(TINY, folder)
    again.run(
        FixedPool(samples),
        (samples[0][:2], samples[1][:2]),
        lambda entry: pytest.fail("nothing is to be done"),
    )
    assert (
        again.step == 40
        and again.history == reports
        and (folder / "checkpoint.npz").read_bytes() == before
    )


def test_a_loss_that_is_no_number_stops_the_training(samples, tmp_path):
    broken = (np.full_like(samples[0], np.nan), samples[1])
    trainer = Trainer(TINY, tmp_path)
    with pytest.raises(FloatingPointError, match=r"nan at step [12];"):
        trainer.run(FixedPool(broken), (samples[0][:2], samples[1][:2]), lambda entry: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage", [b"", b"PK", b"no checkpoint", "truncated", "flipped", "other network"]
)
def test_a_damaged_checkpoint_is_an_error_in_one_line(trained, tmp_path, damage):
    path, content = (
        tmp_path / "checkpoint.npz",
        bytearray((trained[2] / "checkpoint.npz").read_bytes()),
    )
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 3] ^= 0x55
    elif isinstance(damage, bytes):
        content = bytearray(damage)
    path.write_bytes(content)
    settings = (
        replace(TINY, architecture=replace(SMALL, widths=(4, 8, 4)))
        if damage == "other network"
        else TINY
    )
    with pytest.raises(
        InputError, match="another network" if damage == "other network" else "damaged"
    ) as caught:
        Trainer(settings, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
