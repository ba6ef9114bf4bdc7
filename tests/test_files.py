"""Files that appear whole or not at all, and the checks of where outputs go."""

import errno
import os
import stat

import pytest

from deepemhancer_plugin.core import files
from deepemhancer_plugin.core.errors import InputError


def refused(outputs, inputs=()):
    """The one line with which outputs are refused."""
    with pytest.raises(InputError) as caught:
        files.check_outputs(outputs, inputs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with one file, one folder, and a link to itself."""
    (tmp_path / "map.mrc").write_text("voxels")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Writing


def test_a_file_takes_its_place_when_all_went_well(folder):
    (folder / "out.txt").write_text("older")
    with files.replacing(folder / "out.txt") as temporary:
        assert temporary.parent == folder and temporary.suffix == ".txt"
        temporary.write_text("newer")
        assert (folder / "out.txt").read_text() == "older"
    assert (folder / "out.txt").read_text() == "newer"
    assert sorted(os.listdir(folder)) == ["link", "map.mrc", "out.txt", "sub"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError, SystemExit])
def test_nothing_is_left_of_a_failure(folder, failure):
    before = sorted(os.listdir(folder))
    with pytest.raises(failure), files.replacing("map.mrc") as temporary:
        temporary.write_text("half of")
        raise failure
    assert sorted(os.listdir(folder)) == before
    assert (folder / "map.mrc").read_text() == "voxels"


def test_nothing_is_left_where_the_temporary_file_vanished(folder):
    with pytest.raises(OSError), files.replacing("new.txt") as temporary:
        temporary.unlink()
    assert not (folder / "new.txt").exists()


def test_no_planted_link_is_followed(folder, monkeypatch):
    """Somebody else who guesses the temporary name gets neither the content nor a victim's file."""
    victim = folder / "victim"
    victim.write_text("precious")
    names = iter(["guessed", "guessed", "free"])
    monkeypatch.setattr(files.tempfile, "_get_candidate_names", lambda: names)
    (folder / ".out.txt.guessed.part.txt").symlink_to(victim)
    files.write_text("out.txt", "content")
    assert victim.read_text() == "precious"
    assert (folder / "out.txt").read_text() == "content"
    assert not (folder / "out.txt").is_symlink()


def test_an_output_that_is_a_link_is_replaced_and_its_target_left(folder):
    (folder / "alias").symlink_to(folder / "map.mrc")
    files.write_text("alias", "content")
    assert (folder / "map.mrc").read_text() == "voxels"
    assert (folder / "alias").read_text() == "content"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_is_the_umasks(folder, mask, mode):
    before = os.umask(mask)
    try:
        files.write_text("out.txt", "content")
        now = os.umask(mask)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "out.txt").stat().st_mode) == mode
    assert now == mask


def test_text_is_utf8(folder):
    files.write_text("out.txt", "3 Å")
    assert (folder / "out.txt").read_bytes() == "3 Å".encode()


def test_folders_are_made(folder):
    assert files.make_folder("a/b").is_dir()
    assert files.make_folder("a/b").is_dir()
    with pytest.raises(InputError, match=r"map.mrc/a: the folder cannot be made"):
        files.make_folder("map.mrc/a")


# Outputs


def test_good_outputs(folder):
    (folder / "old.mrc").touch()
    for output in ("new.mrc", folder / "new.mrc", "old.mrc", "./new.mrc.gz", "sub/map.mrc"):
        files.check_outputs([output], ["map.mrc", "missing.mrc"])
    files.check_outputs(["new.mrc", "new.json", "sub/new.mrc"], ["map.mrc"])
    files.check_outputs([])
    assert not (folder / "new.mrc").exists()


def test_output_folder_missing(tmp_path):
    assert f"no folder {tmp_path / 'no'}" in refused([tmp_path / "no" / "out.mrc"])


def test_output_folder_is_a_file(folder):
    assert "there is no folder" in refused(["map.mrc/out.mrc"])


def test_output_folder_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # root may write everywhere
    assert f"cannot write into folder {tmp_path}" in refused([tmp_path / "out.mrc"])


@pytest.mark.parametrize("name", ["", "sub", "sub/", "new/", "link"])
def test_output_is_a_folder(folder, name):
    assert "give the name of a file" in refused([name])


def test_output_is_a_device():
    assert "a device or pipe" in refused([os.devnull])


@pytest.mark.parametrize("kind", ["same", "relative", "symbolic", "hard", "through a folder"])
def test_output_is_an_input(folder, kind):
    source = str(folder / "map.mrc")
    output = {"same": source, "relative": "./map.mrc", "through a folder": "link/map.mrc"}.get(
        kind, "alias.mrc"
    )
    if kind == "symbolic":
        os.symlink(source, output)
    elif kind == "hard":
        os.link(source, output)
    message = refused([output], ["other.mrc", source])
    assert f"output {output}" in message and f"the same file as input {source}" in message


@pytest.mark.parametrize(
    "second",
    ["new.mrc", "./new.mrc", "sub/../new.mrc", "link/new.mrc", "link/link/./new.mrc", "later"],
)
def test_outputs_that_are_one_file_before_there_is_any(folder, second):
    os.symlink("new.mrc", "later")  # points to what is not there yet
    message = refused(["new.mrc", second], ["map.mrc"])
    assert f"output {second}: the same file as output new.mrc" in message
    assert not (folder / "new.mrc").exists()


def test_outputs_that_are_one_existing_file(folder):
    os.link("map.mrc", "alias.mrc")
    assert "the same file as output map.mrc" in refused(["map.mrc", "alias.mrc"])
    assert "the same file as output map.mrc" in refused(["map.mrc", "a.json", "map.mrc"])


def test_an_input_that_is_not_there_yet_is_not_overwritten(folder):
    """A program that makes its input first would find it gone."""
    assert "the same file as input link/soon.mrc" in refused(["soon.mrc"], ["link/soon.mrc"])


@pytest.mark.parametrize("name", ["x" * 251 + ".mrc", "ä" * 125 + ".mrc", "a." + "b" * 250])
def test_names_as_long_as_the_file_system_takes(folder, name):
    files.check_outputs([name])
    files.write_text(name, "content")
    assert (folder / name).read_text() == "content"


def test_a_name_that_is_too_long(folder):
    assert "the name is too long" in refused(["x" * 252 + ".mrc"])


def test_a_text_that_does_not_fit_on_the_disk(folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"output out\.json: cannot be written: No space left"):
        files.write_text("out.json", "{}")
    assert not (folder / "out.json").exists()
