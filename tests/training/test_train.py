"""Short trainings of tiny networks for enhancement."""

from dataclasses import replace

import numpy as np
import pytest
from small_network import SMALL
from tiny_training import TINY, FixedPool, variables

from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.training import train as train_module
from deepemhancer_plugin.core.training.losses import Loss
from deepemhancer_plugin.core.training.train import (
    PUBLISHED_SETTINGS,
    Settings,
    Trainer,
    scale_on_plateau,
)
from deepemhancer_plugin.core.weights.embedded import load_file
from deepemhancer_plugin.core.weights.networks import PUBLISHED, Architecture


@pytest.mark.parametrize(
    "kind, bfloat16, speedup, precision",
    [
        ("gpu", True, 1.0, "mixed_bfloat16"),
        ("cpu", True, 1.5, "mixed_bfloat16"),
        ("cpu", True, 0.9, "float32"),
        ("cpu", False, 1.5, "float32"),
    ],
)
def test_precision_is_that_of_the_device(tmp_path, monkeypatch, kind, bfloat16, speedup, precision):
    """A CPU takes bfloat16 where it multiplies it, and faster than float32."""
    monkeypatch.setattr(train_module.devices, "bfloat16_speedup", lambda name: speedup)
    device = Devices(["/CPU:0"], [], kind, "", "", bfloat16)
    monkeypatch.setattr(train_module.devices, "select_devices", lambda: device)
    trainer = Trainer(replace(TINY, precision="auto"), tmp_path)
    assert (
        trainer.settings.precision == precision
        and trainer.network.model.get_layer("first").dtype_policy.name == precision
    )


def test_plateau_halves_after_five_validations_without_a_new_best():
    assert (
        scale_on_plateau([])
        == scale_on_plateau([3, 2, 1, 0.5])
        == scale_on_plateau([1, 2, 2, 2, 2])
        == 1
    )
    assert (
        scale_on_plateau([1, 2, 2, 2, 2, 1]) == scale_on_plateau([1, 2, 2, 2, 2, 2, 0.5, 3]) == 0.5
    )
    assert scale_on_plateau([1] * 11) == 0.25


def test_training_reduces_the_loss(trained, samples):
    trainer, reports, _ = trained
    untrained = float(
        Loss(TINY.fsc_weight)(samples[1][:2], np.zeros_like(samples[1][:2]))
    )  # a new network gives zeros
    with trainer.averaged():
        loss = float(
            trainer.loss(samples[1][:2], trainer.network.model(samples[0][:2].astype(np.float32)))
        )
    assert loss < 0.9 * untrained
    assert (
        reports[0]["step"] == 20
        and reports[-1]["step"] == 40
        and reports[-1]["loss"] < reports[0]["loss"]
    )
    assert [entry["looks"] for entry in reports] == [
        20 * TINY.batch / len(samples[0]),
        20 * TINY.batch,
    ]  # no new cube came later
    assert reports[-1]["mae"] < np.abs(samples[1][:2]).mean() and reports[-1]["cc"] > 0.2


def test_a_training_with_muon_resumes_with_it_alone(samples, tmp_path):
    settings = replace(
        TINY,
        architecture=replace(SMALL, widths=(16,) * len(SMALL.widths)),
        optimizer="muon",
        steps=4,
    )
    first = Trainer(settings, tmp_path)
    first.run(FixedPool(samples), (samples[0][:2], samples[1][:2]), lambda entry: None)
    for a, b in zip(variables(first), variables(Trainer(settings, tmp_path)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="the settings that it was begun with"):
        Trainer(replace(settings, optimizer="adam"), tmp_path)


def test_training_can_start_from_weights(trained, tmp_path):
    started = Trainer(TINY, tmp_path, start=trained[2] / "weights.npz")
    assert started.step == 0
    with trained[0].averaged():
        for a, b in zip(
            trained[0].network.model.trainable_variables,
            started.network.model.trainable_variables,
            strict=True,
        ):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-6)
    # Also for maps that are normalised in another way.
    masked = Trainer(
        replace(TINY, architecture=replace(SMALL, normalization="mask")),
        tmp_path / "masked",
        start=trained[2] / "weights.npz",
    )
    assert masked.network.architecture.normalization == "mask"


def test_weights_of_another_architecture_cannot_be_started_from(trained, tmp_path):
    with pytest.raises(InputError, match=r"weights\.npz: weights of another network"):
        Trainer(
            replace(TINY, architecture=replace(SMALL, channels=1)),
            tmp_path,
            start=trained[2] / "weights.npz",
        )


def test_held_out_cubes_without_any_molecule_give_numbers(samples, tmp_path):
    found = Trainer(TINY, tmp_path).validate(samples[0][:2], np.zeros_like(samples[1][:2]))
    assert (
        found["fsc"] == found["cc"] == 0 and found["noise"] == 0 and found["mae"] == 0
    )  # a new network gives nothing


def test_plateau_goes_on_where_a_resumed_training_was(samples, tmp_path):
    """Three validations that get no better, a stop, three more: the rate is halved once."""

    class Trap(Trainer):
        def validate(self, inputs, targets):
            return {"mae": 1.0, "fsc": 0.0, "cc": 0.0, "noise": 0.0}

    rates = []
    for steps in (6, 14):
        trainer = Trap(replace(TINY, steps=steps, validate_every=2), tmp_path)
        trainer.run(
            FixedPool(samples),
            (samples[0][:1], samples[1][:1]),
            lambda entry: rates.append((entry["step"], entry["rate"])),
        )
    assert dict(rates)[12] == TINY.rate and dict(rates)[14] == TINY.rate / 2


VARIANTS = [
    Architecture(channels=1, widths=(4, 8), blocks=(1, 1), norm="none", entrance=1),
    replace(SMALL, norm="group"),
    replace(PUBLISHED, widths=(4, 8), blocks=(1, 1)),
]


@pytest.mark.parametrize("architecture", VARIANTS, ids=["entrance 1", "group", "published"])
def test_every_architecture_trains_and_comes_back_from_its_file(architecture, samples, tmp_path):
    settings = replace(
        TINY,
        architecture=architecture,
        steps=4,
        validate_every=4,
        **{"average": 0.0} if architecture.kind == "published" else {},
    )
    mine = (samples[0][..., : architecture.channels], samples[1])
    trainer = Trainer(settings, tmp_path)
    before = variables(trainer)
    trainer.run(FixedPool(mine), (mine[0][:1], mine[1][:1]), lambda entry: None)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, variables(trainer), strict=True))
    model = load_file(str(tmp_path / "weights.npz"))
    assert model.architecture == architecture and model.stride == (
        16 if architecture.kind == "published" else 48
    )
    cube = mine[0][:1].astype(np.float32)
    expected = np.asarray(trainer.network.model(cube))[..., 0]
    if (
        architecture.kind == "published"
    ):  # without an average the weights in the file are the last ones
        np.testing.assert_allclose(
            model.predictor()(cube), expected, atol=0.02 * max(1.0, np.abs(expected).max())
        )


def test_settings_of_the_published_training():
    """Sanchez-Garcia et al. 2021: batches of 8 cubes of 64^3, Adam at 1e-3, no FSC in the loss."""
    settings = Settings(**PUBLISHED_SETTINGS)
    assert settings.architecture == PUBLISHED and settings.schedule == "plateau"
    assert settings.batch == 8 and settings.edges == (64,)
    assert settings.rate == 1e-3 and settings.fsc_weight == 0
