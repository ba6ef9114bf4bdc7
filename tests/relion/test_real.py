"""RELION itself with the hook: two small refinements at once, and what it does with failures.

120 simulated particles of 48^2 voxels from perturbed angles. The healpix orders are 3, 3, 3, 4, 5,
5 in iterations 0 to 5; iteration 7 is the joined one. Skipped where RELION is not installed.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_network import SMALL

from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.relion.settings import PREFIX

pytestmark = pytest.mark.skipif(
    not (shutil.which("relion_refine_mpi") and shutil.which("mpirun")),
    reason="RELION is not installed (Debian: apt-get install relion, or .ci/relion)",
)
HOOK = str(Path(sys.executable).with_name("deepemhancer-relion"))


def environment(**options):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    return (
        clean
        | {
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE": HOOK,
            PREFIX + "GPU": "-1",
        }
        | {PREFIX + key: str(value) for key, value in options.items()}
    )


def refine(folder, output, *more, proceed=None, **options):
    """Start a refinement, or proceed from an optimiser's file."""
    from deepemhancer_plugin.core.relion.example import refine_command

    command = [*refine_command(output, 75), "--minimum_angular_sampling", "1", *more]
    if proceed:
        command = [
            *command[: command.index("--o")],
            "--o",
            output,
            "--continue",
            proceed,
            "--pool",
            "30",
            "--j",
            "1",
            "--dont_combine_weights_via_disc",
            *more,
        ]
    (folder / output).parent.mkdir(exist_ok=True)
    with open(folder / f"{output}.txt", "w") as text:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**options),
            stdin=subprocess.DEVNULL,
            stdout=text,
            stderr=subprocess.STDOUT,
        )


def log_of(folder, output):
    path = folder / f"{output}_deepemhancer.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def order_of(folder, output, iteration):
    return int(
        re.search(
            r"_rlnHealpixOrder +(\d+)",
            (folder / f"{output}_it{iteration:03d}_sampling.star").read_text(),
        )[1]
    )


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Two refinements of the same particles at once; the second makes one half after the other."""
    folder = tmp_path_factory.mktemp("relion")
    assert cli.main(["relion", "--example", str(folder)]) == 0
    running = [refine(folder, "one/run"), refine(folder, "two/run", "--sequential_halves_recons")]
    assert [process.wait(timeout=900) for process in running] == [0, 0], (
        folder / "one/run.txt"
    ).read_text()[-3000:]
    return folder


@pytest.mark.parametrize("output", ["one/run", "two/run"])
def test_each_half_is_enhanced_once_an_iteration_past_the_gate_and_nothing_else(refined, output):
    log = log_of(refined, output)
    last = max(line["iteration"] for line in log)
    assert [line["iteration"] for line in log if line["half"] is None] == [last]  # the joined one
    expected = sorted(
        (n, half, order_of(refined, output, n - 1) >= 4) for n in range(1, last) for half in (1, 2)
    )
    assert (
        sorted((line["iteration"], line["half"], line["enhanced"]) for line in log if line["half"])
        == expected
    )
    assert not any(line["enhanced"] for line in log if line["half"] is None) and all(
        line["status"] == 0 for line in log
    )
    assert (
        sum(line["enhanced"] for line in log) >= 4
        and sum(not line["enhanced"] for line in log) >= 5
    )
    assert {line["sampling_rate"] for line in log if line["enhanced"]} == {2.0}
    assert (refined / f"{output}_class001.mrc").exists()
    print(
        *(
            f"iteration {x['iteration']}, half {x['half']}, order {x['healpix_order']}: {x['why']}"
            for x in log
        ),
        sep="\n",
    )


@pytest.mark.parametrize("output", ["one/run", "two/run"])
def test_the_reference_is_the_enhanced_map_with_the_reconstructions_maximum(refined, output):
    for line in log_of(refined, output):
        result = refined / line["star"].replace(".star", ".mrc")
        if line["enhanced"]:
            data = mrc.read_map(result).data
            assert (
                data.max() == pytest.approx(line["maximum"], rel=1e-5)
                and f"{output}_it" in line["star"]
            )
            # Most of the box is solvent, which the enhancer empties; RELION then flattens it.
            assert np.median(np.abs(data)) < 0.01 * data.max()
    assert not list((refined / output).parent.glob(".*"))


def test_refinements_at_once_use_the_device_in_turn(refined):
    """None of the intervals in the logs, from all four processes, overlaps another."""
    times = []
    for output in ("one/run", "two/run"):
        for line in log_of(refined, output):
            if line["enhanced"]:
                times.append(line["enhancing"])
    times.sort()
    assert len(times) >= 8 and all(a[1] <= b[0] for a, b in itertools.pairwise(times))


FAILURES = {
    "missing weights": "no such file",
    "overflow": "NaN or infinite",
    "wrong box": r"RELION asked for 48\^3",
    # Either half may find the disk full, in its enhanced map or in RELION's reconstruction.
    "full disk": "No space left on device|ended with status",
    "killed": None,
}


def _write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def _provoke(failure, folder, first, tmp_path):
    """Make the hook of `folder` fail in iteration `first`; returns its options."""
    if failure == "missing weights":
        return {"WEIGHTS": str(tmp_path / "none.npz")}
    if failure == "overflow":
        from deepemhancer_plugin.core.weights.networks import Embedded, save_weights

        network = Embedded(SMALL)
        for variable in network.model.trainable_variables:
            variable.assign(np.full(variable.shape, 6e4))
        save_weights(tmp_path / "bad.npz", network, {})
        return {"WEIGHTS": str(tmp_path / "bad.npz")}
    if failure == "wrong box":
        text = (
            f"#!{sys.executable}\nimport sys, mrcfile, numpy\n"
            "small = numpy.random.default_rng(0).random((46,) * 3, 'f4')\n"
            "mrcfile.write(sys.argv[1].replace('.star', '.mrc'), small)\n"
        )
        return {"RECONSTRUCT": _write_program(tmp_path / "program", text)}
    if failure == "full disk":
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here (not root)")
        # RELION's reconstructions of both halves fit; then the disk is filled.
        reconstructed = f"it{first:03d}_half[12]_class001_external_reconstruct.mrc"
        text = (
            f"#!/bin/sh\nrelion_external_reconstruct \"$1\" || exit\ncd '{folder}'\n"
            f"while [ $(ls -A | grep -c '{reconstructed}') -lt 2 ]\n"
            "do sleep 0.1\ndone\ndd if=/dev/zero of=fill bs=4k 2>/dev/null\nexit 0\n"
        )
        program = _write_program(tmp_path / "program", text)
        return {"RECONSTRUCT": program, "LOG": f"{folder}.jsonl"}
    return {}


def _proceed(folder, output, first, **options):
    """Continue the first refinement from before iteration `first`, and end after that one."""
    good = f"one/run_it{first - 1:03d}_optimiser.star"
    more = ("--auto_iter_max", str(first), "--external_reconstruct")
    return refine(folder, output, *more, proceed=good, **options)


@pytest.mark.parametrize("failure", FAILURES)
def test_relion_stops_with_our_message_and_goes_on_from_the_last_good_iteration(
    refined, tmp_path, failure
):
    """Continued from before the gate with the failure it stops there; without it, it goes on."""
    first = min(line["iteration"] for line in log_of(refined, "one/run") if line["enhanced"])
    name = "bad_" + failure.replace(" ", "_")
    output = f"{name}/run"
    options = _provoke(failure, refined / name, first, tmp_path)
    try:
        with _proceed(refined, output, first, **options) as process:
            if failure == "killed":
                _kill_a_hook(process, refined / name)
            status = process.wait(timeout=300)
        text = (refined / f"{output}.txt").read_text()
        results = list((refined / name).glob(f"run_it{first:03d}_half*_external_reconstruct.mrc"))
    finally:
        if failure == "full disk":
            subprocess.run(["umount", refined / name], check=True)
    assert status != 0 and "there was something wrong with system call" in text, text[-2000:]
    if FAILURES[failure]:
        assert re.search(f"deepemhancer: error: .*({FAILURES[failure]})", text)
    # Open MPI may kill the other half's hook at its reconstruction; the failed one left nothing.
    assert len(results) <= 1
    assert not (refined / f"{name}/run_it{first:03d}_optimiser.star").exists()
    if failure == "killed":  # once for all of them, since each takes a while
        with _proceed(refined, f"{name}/again", first) as process:
            assert process.wait(timeout=300) == 0
        log = log_of(refined, f"{name}/again")
        assert sorted((line["iteration"], line["half"], line["enhanced"]) for line in log) == [
            (first, 1, True),
            (first, 2, True),
        ]


def _kill_a_hook(refinement, folder):
    """SIGKILL for a hook of this refinement, once it goes on to enhance its half."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and refinement.poll() is None:
        for plain in folder.glob(".*.plain.part"):
            half = plain.name.partition("_class")[0].lstrip(".").encode()
            for process in _descendants(refinement.pid):
                words = _words(process)
                if any(word.endswith(b"deepemhancer-relion") for word in words) and any(
                    half in word for word in words
                ):
                    os.kill(process, signal.SIGKILL)
                    return
        time.sleep(0.05)
    pytest.fail("no hook was seen at work")


def _words(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _descendants(pid):
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(words[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found
