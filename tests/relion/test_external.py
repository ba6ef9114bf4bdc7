"""What lies under the result's name, and that nothing does when anything goes wrong; locks."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from relion_files import BOX, RATE, blob, copying, program, read, write_iteration

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.relion.external import (
    check_reference,
    decide_enhancement,
    external_reconstruct,
    hold_locks,
    name_locks,
)
from deepemhancer_plugin.core.relion.star import read_job

OTHER = "out/run_it007_half2_class001_external_reconstruct.mrc"


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path)
    (tmp_path / OTHER).write_text("the other half's")
    return read_job(star)


def double(volume, rate):
    assert rate == RATE
    return 2 * np.abs(volume), {"said": 1}


def left(folder):
    """What lies around the result, hidden files too."""
    return sorted(
        f.name
        for f in (folder / "out").iterdir()
        if "half1_class001_external_reconstruct" in f.name and f.suffix != ".star"
    )


def test_enhanced_map_has_the_reconstructions_maximum_and_the_result_s_name(tmp_path, job):
    report = external_reconstruct(job, copying(tmp_path), double)
    result = mrc.read_map(job.result)
    np.testing.assert_allclose(
        result.data, np.abs(blob()) * (blob().max() / np.abs(blob()).max()), rtol=1e-5
    )
    assert (
        result.sampling_rate == RATE
        and report["said"] == 1
        and report["maximum"] == pytest.approx(blob().max())
    )
    assert left(tmp_path) == [os.path.basename(job.result)]
    assert (tmp_path / "calls").read_text().split() == [job.star]
    assert (tmp_path / OTHER).read_text() == "the other half's"


@pytest.mark.parametrize(("left", "well"), [(1.0, True), (0.5, True), (0.1, False), (0.0, False)])
def test_map_that_lost_the_molecule_is_left_to_relion(tmp_path, job, left, well):
    """One of two molecules alike is lost in part, which a closed form says of the correlation."""
    z, y, x = np.meshgrid(*[np.arange(BOX) - BOX / 2] * 3, indexing="ij")
    one, other = (
        np.exp(-(z**2 + y**2 + (x - shift) ** 2) / 8).astype(np.float32) for shift in (-9, 9)
    )
    report = external_reconstruct(
        job,
        copying(tmp_path, one + other),
        lambda volume, rate: (one + np.float32(left) * other, {"said": 1}),
    )
    assert report["said"] == 1 and report.get("enhanced", True) is well
    assert report["correlation"] == pytest.approx((1 + left) / np.sqrt(2 * (1 + left**2)), abs=0.02)
    if not well:
        np.testing.assert_array_equal(mrc.read_map(job.result, RATE).data, one + other)
    assert not list((tmp_path / "out").glob(".*"))


def test_map_left_to_relion_is_what_its_program_wrote(tmp_path, job):
    external_reconstruct(job, program(tmp_path, "printf anything >$result"), None)
    assert (tmp_path / job.result).read_text() == "anything" and left(tmp_path) == [
        os.path.basename(job.result)
    ]


def test_stale_files_go_first(tmp_path, job):
    folder, name = os.path.split(job.result)
    stale = [
        job.result,
        job.result_star,
        f"{folder}/.{name}.plain.part",
        f"{folder}/.{name}.4711.part",
    ]
    for path in stale:
        (tmp_path / path).write_text("old")
    with pytest.raises(InputError, match="did not write"):
        external_reconstruct(
            job, program(tmp_path, f"ls -a {' '.join(stale)} 2>/dev/null && exit 3; exit 0"), double
        )
    assert left(tmp_path) == []


def one_voxel(value):
    data = blob()
    data[3, 4, 5] = value
    return data


MAPS = {
    "NaN": (one_voxel(np.nan), "1 voxels that are NaN|1 NaN or infinite"),
    "infinity": (one_voxel(np.inf), "NaN or infinite"),
    "all NaN": (np.full((BOX,) * 3, np.nan), "NaN"),
    "zeros": (np.zeros((BOX,) * 3), "is 0 everywhere|all voxels are 0"),
    "constant": (np.full((BOX,) * 3, 7.0), "is 7 everywhere|all voxels are 7"),
    "wrong box": (blob(BOX - 2), "38 x 38 x 38 .*40"),
    "not a cube": (blob()[:, :, :-1], "40 x 40 x 39"),
    "negative": (-1 - np.abs(blob()), "nowhere above zero"),
}


@pytest.mark.parametrize("kind", [kind for kind in MAPS if kind != "zeros"])
def test_bad_enhanced_map(tmp_path, job, kind):
    data, words = MAPS[kind]
    with pytest.raises(InputError, match=words):
        external_reconstruct(
            job, copying(tmp_path), lambda volume, rate: (np.asarray(data, np.float32), {})
        )
    assert left(tmp_path) == [] and (tmp_path / OTHER).exists()


def test_relion_gets_its_libraries_back(tmp_path, job, monkeypatch):
    """Scipion's hook starts without them."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv("RELION_LD_LIBRARY_PATH", "/relions/own")
    then = f"echo $LD_LIBRARY_PATH >{tmp_path}/seen"
    external_reconstruct(job, copying(tmp_path, then=then), None)
    assert (tmp_path / "seen").read_text() == "/relions/own\n"
    assert "LD_LIBRARY_PATH" not in os.environ


@pytest.mark.parametrize("kind", MAPS)
def test_bad_reconstruction_is_not_enhanced(tmp_path, job, kind):
    data, words = MAPS[kind]
    with pytest.raises(InputError, match=words):
        external_reconstruct(
            job, copying(tmp_path, data), lambda volume, rate: pytest.fail("called")
        )
    assert left(tmp_path) == []


def test_rescaling_that_overflows(tmp_path, job):
    tiny = np.abs(blob()) * np.float32(1e-44)
    with pytest.raises(InputError, match=r"NaN or infinite|everywhere"):
        external_reconstruct(
            job,
            copying(tmp_path, blob() * 1e20),
            lambda volume, rate: (tiny - tiny.max() + np.float32(1e-45), {}),
        )
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("echo no space; exit 3", "ended with status 3: no space"),
        ("kill -9 $$", "status -9"),
        ("rm $result", "did not write"),
        ("truncate -s 5000 $result", "truncated"),
        (": >$result", "empty file"),
    ],
)
@pytest.mark.parametrize("enhancer", [double, None])
def test_program_that_fails(tmp_path, job, then, words, enhancer):
    if enhancer is None and words in ("truncated", "empty file"):
        external_reconstruct(job, copying(tmp_path, then=then), None)  # RELION's own affair
        return
    with pytest.raises(InputError, match=words):
        external_reconstruct(job, copying(tmp_path, then=then), enhancer)
    assert left(tmp_path) == []


def test_program_that_is_missing_or_not_to_be_run(tmp_path, job):
    for name in ("no_such_program", str(tmp_path / "out"), __file__):
        with pytest.raises(InputError, match="cannot be started"):
            external_reconstruct(job, name, double)


@pytest.mark.parametrize(
    "error", [MemoryError, KeyboardInterrupt, InputError("weights: no such file")]
)
def test_enhancer_that_raises(tmp_path, job, error):
    def enhancer(volume, rate):
        assert not (
            tmp_path / job.result
        ).exists()  # not even for a while, if the process were killed now
        raise error

    with pytest.raises(error if isinstance(error, type) else InputError):
        external_reconstruct(job, copying(tmp_path), enhancer)
    assert left(tmp_path) == []


def test_file_size_limit(tmp_path, job):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def enhancer(volume, rate):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return volume, {}

    try:
        with pytest.raises(InputError, match="cannot be written: File too large"):
            external_reconstruct(job, copying(tmp_path), enhancer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left(tmp_path) == []


def test_full_disk(tmp_path, job):
    disk = tmp_path / "out"
    saved = tmp_path / "saved"
    shutil.copytree(disk, saved)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("a small disk cannot be mounted here (not root)")
    try:
        shutil.copytree(saved, disk, dirs_exist_ok=True)  # one map of 256 kB fits, two do not
        with pytest.raises(InputError, match="No space left on device"):
            external_reconstruct(job, copying(tmp_path), double)
        assert left(tmp_path) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_gate():
    class Order:
        def __init__(self, order):
            self.order = order

    assert [decide_enhancement(Order(order), 4)[0] for order in (None, 2, 3, 4, 5, 8)] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert decide_enhancement(Order(0), 0)[0] and not decide_enhancement(Order(None), 0)[0]


def test_reference_is_any_map_with_something_above_zero():
    check_reference(blob(), BOX, "it")
    check_reference(blob() - 100 + np.float32(100.1), BOX, "it")


def test_one_lock_a_device():
    assert [os.path.basename(f) for f in name_locks(["gpu-3", "cpu", "gpu-3"])] == [
        "deepemhancer-cpu.lock",
        "deepemhancer-gpu-3.lock",
    ]


def test_any_name_of_a_device_makes_a_file_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paths = name_locks(["gpu-MIG-GPU-8932f937-d72c/1/2", "gpu-../x y"])
    with hold_locks(paths, pytest.fail):
        assert sorted(f.name for f in tmp_path.iterdir()) == [
            "deepemhancer-gpu-.._x_y.lock",
            "deepemhancer-gpu-MIG-GPU-8932f937-d72c_1_2.lock",
        ]


def test_lock_lets_one_in_at_a_time(tmp_path):
    inside, most, told = [], [], []

    def work():
        with hold_locks([str(tmp_path / "a.lock")], told.append):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert told and all("waits for another enhancement on this device" in text for text in told)


def test_lock_ends_with_its_process(tmp_path):
    path = str(tmp_path / "a.lock")
    code = (
        f"import time\nfrom deepemhancer_plugin.core.relion.external import hold_locks\n"
        f"with hold_locks([{path!r}], print):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        other.kill()
    with hold_locks([path], pytest.fail):
        pass


def goes_on_without(path, seconds=60.0):
    """What is said where a lock cannot be had."""
    told = []
    with hold_locks([str(path)], told.append, seconds):
        told.append("inside")
    assert told.pop() == "inside"
    return told


def test_lock_that_cannot_be_had_ends_nothing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "no" / "a.lock", tmp_path / "link", tmp_path):
        (text,) = goes_on_without(path)
        assert f"lock {path}: goes on without it (" in text and "DEEPEMHANCER_RELION_LOCK" in text
    assert not (tmp_path / "elsewhere").exists()


def test_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (text,) = goes_on_without(tmp_path / "a.lock")
    assert "goes on without it (No locks available)" in text


def test_lock_is_open_to_write_as_nfs_asks_for(tmp_path, monkeypatch):
    def flock(handle, operation):
        modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)

    modes = []
    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in "new", "there already":
        assert goes_on_without(tmp_path / "a.lock") == []
    assert modes == [os.O_RDWR] * 2


def test_lock_file_of_another_user(tmp_path, monkeypatch):
    def open_as_another(path, flags, *mode):
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *mode)

    (tmp_path / "a.lock").touch()
    opened = os.open
    monkeypatch.setattr(os, "open", open_as_another)
    assert goes_on_without(tmp_path / "a.lock") == []


def test_lock_that_somebody_never_lets_go_of(tmp_path):
    with open(tmp_path / "a.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waits, text = goes_on_without(tmp_path / "a.lock", seconds=0.3)
    assert "waits" in waits and "goes on without it (still held after 0 s)" in text


def test_results_are_read_as_written(tmp_path, job):
    external_reconstruct(job, copying(tmp_path), lambda volume, rate: (volume.copy(), {}))
    np.testing.assert_allclose(read(tmp_path / job.result), blob(), rtol=1e-6)
