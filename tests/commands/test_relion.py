"""The program that RELION calls: options, log, exit status, and how the enhancement can fail."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from relion_files import blob, copying, program, read, write_iteration
from small_network import SMALL, randomise

from deepemhancer_plugin.core import enhance
from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.relion import external
from deepemhancer_plugin.core.relion.settings import PREFIX, Settings, read_settings
from deepemhancer_plugin.core.weights.networks import Embedded, save_weights

LOG = "out/run_deepemhancer.jsonl"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    save_weights(path, randomise(Embedded(SMALL)), {})
    return str(path)


@pytest.fixture
def star(tmp_path, monkeypatch, weights):
    """A half past the gate, with a program that reconstructs it, and small weights."""
    for key in [key for key in os.environ if key.startswith(PREFIX)]:
        monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)
    for key, value in {
        "RECONSTRUCT": copying(tmp_path),
        "WEIGHTS": weights,
        "GPU": "-1",
        "PRECISION": "float32",
        "LOCK": str(tmp_path / "lock"),
    }.items():
        monkeypatch.setenv(PREFIX + key, value)
    return write_iteration(tmp_path)


def result_of(star):
    return star.replace(".star", ".mrc")


def log_of(tmp_path):
    return [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]


def test_half_past_the_gate_is_enhanced(tmp_path, star, weights, monkeypatch):
    monkeypatch.setattr(
        external, "LEAST_CORRELATION", -1
    )  # what random weights make looks like nothing
    assert cli.main(["relion", star]) == 0
    options = {"precision": "float32", "average": 1, "amplitudes": False, "band_limit": False}
    expected = enhance(blob(), sampling_rate=1.5, weights=weights, device="-1", **options).data
    np.testing.assert_allclose(
        read(tmp_path / result_of(star)),
        expected * (blob().max() / expected.max()),
        atol=2e-4 * blob().max(),
    )
    (line,) = log_of(tmp_path)
    assert (
        line["status"],
        line["enhanced"],
        line["iteration"],
        line["half"],
        line["class"],
        line["healpix_order"],
    ) == (0, True, 7, 1, 1, 4)
    assert (
        line["noise"]["std"] == pytest.approx(0.01, rel=0.1)
        and line["sampling_rate"] == 1.5
        and "small" in line["weights"]
    )


@pytest.mark.parametrize(
    "what", [{"order": 3}, {"half": None}, {"half": None, "kind": "class002"}, {"split": 0}]
)
def test_everything_else_is_left_to_relion(tmp_path, star, what):
    star = write_iteration(tmp_path, **what)
    assert cli.main(["relion", star]) == 0
    np.testing.assert_array_equal(read(tmp_path / result_of(star)), blob())
    assert (
        log_of(tmp_path)[0]["enhanced"] is False and "left to RELION" in log_of(tmp_path)[0]["why"]
    )


def test_half_that_the_network_leaves_nothing_of_is_left_to_relion(
    tmp_path, star, monkeypatch, capsys
):
    monkeypatch.setenv(PREFIX + "WEIGHTS", failing_network(0.0, tmp_path / "zero.npz"))
    assert cli.main(["relion", star]) == 0
    np.testing.assert_array_equal(read(tmp_path / result_of(star)), blob())
    (line,) = log_of(tmp_path)
    assert (
        (line["enhanced"], line["status"], line["correlation"]) == (False, 0, 0)
        and "correlates" in line["why"]
        and "left to RELION" in line["why"]
    )
    assert f"warning: {result_of(star)}: {line['why']}" in capsys.readouterr().err


def test_dry_run_changes_nothing(tmp_path, star, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["relion", star, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["why"] == "healpix order 4, from 4 on enhanced"
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_says_what_is_wrong(tmp_path, star, capsys):
    (tmp_path / "out/run_it006_sampling.star").unlink()
    assert cli.main(["relion", star, "--dry-run"]) == 1
    assert (
        "sampling.star: no such file" in capsys.readouterr().err and not (tmp_path / LOG).exists()
    )


def failing_network(value, path):
    network = Embedded(SMALL)  # its last layer is all zeros
    for variable in network.model.trainable_variables:
        variable.assign(np.full(variable.shape, value))
    save_weights(path, network, {})
    return str(path)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("missing weights", "none.npz: no such file"),
        ("NaN", "voxels that are NaN"),
        ("no GPU", "there is no GPU 7"),
        ("wrong box", "RELION asked for 40"),
        ("program", "ended with status 5"),
        ("not weights", "weights"),
    ],
)
def test_failures(tmp_path, star, monkeypatch, capsys, failure, words):
    match failure:
        case "missing weights":
            monkeypatch.setenv(PREFIX + "WEIGHTS", str(tmp_path / "none.npz"))
        case "NaN":
            monkeypatch.setenv(PREFIX + "WEIGHTS", failing_network(6e4, tmp_path / "overflow.npz"))
        case "not weights":
            (tmp_path / "bad.npz").write_text("no weights")
            monkeypatch.setenv(PREFIX + "WEIGHTS", str(tmp_path / "bad.npz"))
        case "no GPU":
            monkeypatch.setenv(PREFIX + "GPU", "7")
        case "wrong box":
            monkeypatch.setenv(PREFIX + "RECONSTRUCT", copying(tmp_path, blob(38), "other"))
        case "program":
            monkeypatch.setenv(PREFIX + "RECONSTRUCT", program(tmp_path, "exit 5", "other"))
    assert cli.main(["relion", star]) == 1
    message = capsys.readouterr().err
    assert (
        words in message
        and message.startswith("deepemhancer: error: ")
        and message.count("\n") == 1
    )
    assert not (tmp_path / result_of(star)).exists() and not list((tmp_path / "out").glob(".*"))
    assert log_of(tmp_path)[0]["status"] == 1 and words in log_of(tmp_path)[0]["error"]


def test_lock_that_cannot_be_had_ends_no_refinement(tmp_path, star, monkeypatch, capsys):
    monkeypatch.setenv(PREFIX + "LOCK", str(tmp_path / "no/lock"))
    monkeypatch.setattr(external, "LEAST_CORRELATION", -1)
    assert cli.main(["relion", star]) == 0
    message = capsys.readouterr().err
    assert message.startswith("deepemhancer: warning: lock ") and message.count("\n") == 1
    assert log_of(tmp_path)[0]["enhanced"] and (tmp_path / result_of(star)).exists()


def started(star):
    return subprocess.Popen(
        [sys.executable, "-m", "deepemhancer_plugin.core", "relion", star],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_it_waits_for_the_device(tmp_path, star, number):
    """Nothing has the result's name then; the next call cleans up and succeeds."""
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with started(star) as process:
            plain = tmp_path / "out" / f".{os.path.basename(result_of(star))}.plain.part"
            deadline = time.monotonic() + 60
            while not plain.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert plain.exists()
            process.send_signal(number)
            message = process.communicate(timeout=60)[1]
        assert process.returncode == (-9 if number == signal.SIGKILL else 143)
        assert not (tmp_path / result_of(star)).exists()
    if number == signal.SIGTERM:
        assert (
            "interrupted" in message and not plain.exists() and log_of(tmp_path)[0]["status"] == 143
        )
    assert cli.main(["relion", star]) == 0
    assert (tmp_path / result_of(star)).exists() and not list((tmp_path / "out").glob(".*"))


def test_log_elsewhere_and_log_that_cannot_be_written(tmp_path, star, monkeypatch, capsys):
    monkeypatch.setenv(PREFIX + "HEALPIX_ORDER", "6")
    monkeypatch.setenv(PREFIX + "LOG", str(tmp_path / "calls.jsonl"))
    assert cli.main(["relion", star]) == cli.main(["relion", star]) == 0
    assert (
        len((tmp_path / "calls.jsonl").read_text().splitlines()) == 2
        and not (tmp_path / LOG).exists()
    )
    monkeypatch.setenv(PREFIX + "LOG", str(tmp_path / "no" / "log"))
    assert cli.main(["relion", star]) == 0
    assert "warning: log" in capsys.readouterr().err


def test_program_of_its_own(star, monkeypatch):
    script = os.path.join(os.path.dirname(sys.executable), "deepemhancer-relion")
    done = subprocess.run(
        [script, star],
        capture_output=True,
        text=True,
        env=os.environ | {PREFIX + "HEALPIX_ORDER": "5"},
    )
    assert done.returncode == 0 and os.path.exists(result_of(star)), done.stderr
    done = subprocess.run([script, "run.star"], capture_output=True, text=True)
    assert done.returncode == 1 and "not the name of an external reconstruction" in done.stderr


def test_usage(star):
    for arguments in ([], [star, "--example", "x"], [star, "two"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["relion", *arguments])
        assert caught.value.code == 2


def test_defaults_are_the_papers():
    assert read_settings({"HOME": "/", "PATH": ""}) == Settings(
        healpix_order=4, weights="embedded", reconstruct="relion_external_reconstruct"
    )


def test_variables_win_over_the_file(tmp_path):
    config = tmp_path / "relion.toml"
    config.write_text('healpix_order = 5\nvariant = "highRes"\ngpu = 1\n')
    got = read_settings(
        {
            PREFIX + "CONFIG": str(config),
            PREFIX + "VARIANT": "wideTarget",
            PREFIX + "PRECISION": "float32",
        }
    )
    assert got == Settings(healpix_order=5, variant="wideTarget", gpu="1", precision="float32")


@pytest.mark.parametrize(
    ("variables", "toml", "words"),
    [
        (
            {"ORDER": "4"},
            "",
            "DEEPEMHANCER_RELION_ORDER: no such option; there are healpix_order, weights",
        ),
        ({}, "order = 4", "order: no such option"),
        ({}, "[gpu]\nnumber = 1", "a text that is not empty"),
        ({}, "gpu = [", "cannot be read"),
        ({"HEALPIX_ORDER": "four"}, "", "HEALPIX_ORDER = four: a healpix order, 0 to 12"),
        ({"HEALPIX_ORDER": "-1"}, "", "0 to 12"),
        ({"HEALPIX_ORDER": "13"}, "", "0 to 12"),
        ({}, "healpix_order = true", "0 to 12"),
        ({}, "healpix_order = 4.5", "0 to 12"),
        ({"VARIANT": "tight"}, "", "one of tightTarget, wideTarget, highRes"),
        ({"PRECISION": "double"}, "", "one of auto"),
        ({"WEIGHTS": ""}, "", "a text that is not empty"),
        ({}, "weights = 3", "a text that is not empty"),
    ],
)
def test_wrong_settings(tmp_path, variables, toml, words):
    config = tmp_path / "relion.toml"
    config.write_text(toml)
    environment = {PREFIX + key: value for key, value in variables.items()} | (
        {PREFIX + "CONFIG": str(config)} if toml else {}
    )
    with pytest.raises(InputError, match=words.replace("[", r"\[")) as caught:
        read_settings(environment)
    assert "\n" not in str(caught.value)


def test_missing_file_of_settings(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_settings({PREFIX + "CONFIG": str(tmp_path / "none.toml")})
