"""Files that appear whole or not at all, and checks of where outputs go."""

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepemhancer_plugin.core.errors import InputError

StrPath = str | os.PathLike[str]

TEMPORARY_NAME = 60  # bytes of a name that go into that of its temporary file


@contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """Give a temporary name beside `path` that takes its place when all went well.

    The temporary file is new (no link of another user is followed), has the ending of `path`, is
    flushed to the disk before it is moved, and vanishes when anything fails, Ctrl-C too.
    """
    target = Path(os.path.abspath(path))
    start = os.fsdecode(os.fsencode(target.name)[:TEMPORARY_NAME])
    suffix = target.suffix if len(target.suffix) < TEMPORARY_NAME else ""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{start}.", suffix=f".part{suffix}")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: StrPath, text: str) -> None:
    """Write a text file, whole or not at all. InputError where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"output {path}: cannot be written: {error.strerror or error}") from error


def make_folder(path: StrPath) -> Path:
    """Make a folder where there is none. InputError where it cannot be made."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: the folder cannot be made ({error.strerror}); a writable place is needed"
        ) from error
    return folder


def check_outputs(outputs: Sequence[StrPath], inputs: Sequence[StrPath] = ()) -> None:
    """Check that files can be written without touching an input or one another.

    Links are followed, and names are compared where a file is not there yet.

    Raises:
        InputError: an output is a folder, lies in none that can be written to, or is the same file
            as an input or another output.
    """
    taken = {os.path.realpath(path): f"input {os.fspath(path)}" for path in inputs}
    for output in [os.fspath(output) for output in outputs]:
        _check_output(output)
        for other, what in taken.items():
            if os.path.realpath(output) == other or _same_file(output, other):
                raise InputError(f"output {output}: the same file as {what}: give another name")
        taken[os.path.realpath(output)] = f"output {output}"


def _same_file(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _check_output(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"output {path}: the name is too long") from error
    if not path or path.endswith(os.sep) or os.path.isdir(path):
        raise InputError(f"output {path or repr(path)}: a folder: give the name of a file in it")
    if not os.path.isdir(folder):
        raise InputError(f"output {path}: there is no folder {folder}: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"output {path}: cannot write into folder {folder}: "
            "choose another or change its permissions"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"output {path}: a device or pipe: give the name of a regular file")
