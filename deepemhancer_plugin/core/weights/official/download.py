"""The authors' checkpoints from Zenodo: resumed, checked, and only the known members unpacked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import replacing
from deepemhancer_plugin.core.weights.official.checkpoint import (
    CHECKPOINTS,
    VARIANTS,
    models_directory,
)

if TYPE_CHECKING:
    import requests

RECORD_URL = "https://zenodo.org/api/records/7432763"
ARCHIVE = "deepEMhancerModels_tf2.zip"
MEMBERS = tuple(f"{CHECKPOINTS}/deepEMhancer_{variant}.hd5" for variant in VARIANTS)

_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 5  # without progress
_PAUSE = 2.0  # seconds before the next attempt, times the attempts so far
_CHUNK = 1 << 16  # bytes; what an interruption loses at most
_MAX_ARCHIVE = 4 << 30  # bytes
_MAX_MEMBER = 2 << 30  # bytes
_TOO_MANY_REQUESTS = 429

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Archive:
    """The archive as the record describes it."""

    url: str
    size: int  # bytes
    md5: str


def download(
    directory: str | None = None,
    record_url: str = RECORD_URL,
    progress: Progress | None = None,
) -> list[str]:
    """Fetch the authors' checkpoints; do nothing where they are all there.

    An interrupted download goes on where it stopped, also in a later run. A checkpoint appears
    under its name only when the whole archive has the record's md5 and the checkpoint is unpacked.
    A second download into the same directory is refused while one is running.

    Args:
        directory: where the folder of checkpoints goes; None is the conventional place.
        record_url: Zenodo's API for the record.
        progress: called with (bytes so far, bytes in all).

    Returns:
        Paths of the checkpoints.

    Raises:
        InputError: what went wrong, in one line: the server, its reply, the check sum, the archive,
            the directory, or another download that is running.
    """
    base = models_directory(directory)
    paths = [os.path.join(base, *member.split("/")) for member in MEMBERS]
    if all(os.path.isfile(path) for path in paths):
        return paths
    try:
        os.makedirs(os.path.dirname(paths[0]), exist_ok=True)
        archive = _find(record_url)
        with _open_partial(os.path.join(base, f".{archive.md5}.zip.part")) as file:
            _fetch(archive, file, progress)
            _unpack(file, paths)
            os.remove(file.name)
    except OSError as error:  # of the disk: those of the network are dealt with where they occur
        raise InputError(
            f"{base}: {error.strerror or error}; nothing half-written is kept under a checkpoint's "
            "name"
        ) from None
    return paths


@contextmanager
def _open_partial(path: str) -> Iterator[IO[bytes]]:
    """Open what is there of the archive, or an empty file, for this process alone.

    The lock goes with the process. File systems without locks are used without one.
    """
    while True:
        with open(path, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise InputError(
                        f"{path}: another download is writing it; wait until that has ended"
                    ) from None
            if _is_at(file, path):
                try:
                    yield file
                finally:
                    if not _size(file):  # nothing to go on from
                        os.remove(path)
                return
        # Another download has ended and removed the file since it was opened: open a new one.


def _is_at(file: IO[bytes], path: str) -> bool:
    """Whether an open file is the one that the path leads to."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _find(record_url: str) -> _Archive:
    """Ask the server for the record."""
    import requests

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            reply = requests.get(record_url, timeout=_TIMEOUT)
            if reply.status_code < 500:
                break
            problem = f"status {reply.status_code}"
        except requests.RequestException as error:
            problem = _reason(error)
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE * attempt)
    else:
        raise InputError(f"{record_url}: {problem}, {_ATTEMPTS} times; is the network reachable?")
    if reply.status_code != 200:
        raise InputError(f"{record_url}: status {reply.status_code}; expected a Zenodo record")
    return _read_record(reply, record_url)


def _read_record(reply: requests.Response, record_url: str) -> _Archive:
    """The archive that the record describes."""
    try:
        entry = next(file for file in reply.json()["files"] if file["key"] == ARCHIVE)
        kind, _, md5 = str(entry["checksum"]).partition(":")
        archive = _Archive(str(entry["links"]["self"]), int(entry["size"]), md5)
    except (ValueError, LookupError, TypeError, StopIteration):
        raise InputError(f"{record_url}: no Zenodo record with the file {ARCHIVE}") from None
    if kind != "md5" or not re.fullmatch(r"[0-9a-f]{32}", md5):
        raise InputError(f"{record_url}: {ARCHIVE} has no md5")
    if not 0 < archive.size <= _MAX_ARCHIVE:
        raise InputError(f"{record_url}: {ARCHIVE} has an unlikely size ({archive.size} bytes)")
    scheme = urlsplit(record_url).scheme
    if urlsplit(archive.url).scheme not in {scheme, "https"}:
        raise InputError(
            f"{record_url}: {ARCHIVE} is said to be at {archive.url}, which is not {scheme}"
        )
    return archive


def _fetch(archive: _Archive, file: IO[bytes], progress: Progress | None) -> None:
    """Complete the file and check its md5; what is in it already is kept."""
    import requests

    if _size(file) > archive.size:
        file.truncate(0)
    failures, problem = 0, ""
    while (have := _size(file)) < archive.size:
        if failures == _ATTEMPTS:
            raise InputError(
                f"{archive.url}: {problem}, {_ATTEMPTS} times, after {have} of {archive.size} "
                "bytes; the next run goes on from there"
            )
        if failures:
            time.sleep(_PAUSE * failures)
        try:
            problem = _fetch_rest(archive, file, have, progress)
        except requests.RequestException as error:
            problem = _reason(error)
        failures = 0 if _size(file) > have else failures + 1
    with open(file.name, "rb") as complete:
        md5 = hashlib.file_digest(complete, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        os.remove(file.name)
        raise InputError(
            f"{archive.url}: md5 {md5}, the record says {archive.md5}; the download was removed, "
            "try again"
        )


def _size(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _fetch_rest(archive: _Archive, file: IO[bytes], have: int, progress: Progress | None) -> str:
    """One request for the bytes from `have` on, and what to say where it has not brought them."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(archive.url, headers=headers, stream=True, timeout=_TIMEOUT) as reply:
        status = reply.status_code
        if status in (200, 206):
            _append(reply, file, have, archive.size, progress)
            return "the connection ended early"
        if status >= 500 or status == _TOO_MANY_REQUESTS:
            return f"status {status}"
        raise InputError(f"{archive.url}: status {status}; try again later")


def _append(
    reply: requests.Response, file: IO[bytes], have: int, size: int, progress: Progress | None
) -> None:
    """Write the reply behind what is there, or in its place where the server sends all of it."""
    begin = f"bytes {have}-"
    if reply.status_code == 200:
        file.truncate(0)
    elif not reply.headers.get("Content-Range", begin).startswith(begin):
        raise InputError(f"{reply.url}: asked for {begin}, got {reply.headers['Content-Range']}")
    done = _size(file)
    try:
        for chunk in reply.iter_content(_CHUNK):
            done += len(chunk)
            if done > size:
                raise InputError(f"{reply.url}: longer than the {size} bytes of the record")
            file.write(chunk)
            if progress:
                progress(done, size)
    finally:
        file.flush()


def _unpack(archive: IO[bytes], paths: list[str]) -> None:
    """Unpack the expected members to their paths; names in the archive never become paths."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [_find_member(zipped, name) for name in MEMBERS]
            for member, path in zip(members, paths, strict=True):
                with (
                    zipped.open(member) as source,
                    replacing(path) as temporary,
                    open(temporary, "wb") as target,
                ):
                    _copy(source, target, member.file_size)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{archive.name}: not a readable zip archive: {error}") from None


def _find_member(zipped: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The member of that name, if it is a plain file of a likely size."""
    try:
        member = zipped.getinfo(name)
    except KeyError:
        raise InputError(f"{ARCHIVE}: no {name} in it") from None
    file_type = member.external_attr >> 16 & 0o170000
    if member.is_dir() or file_type not in (0, 0o100000) or not 0 < member.file_size <= _MAX_MEMBER:
        raise InputError(f"{ARCHIVE}: {name} is not a plain file of at most {_MAX_MEMBER} bytes")
    return member


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy at most `size` bytes, whatever the archive unpacks to."""
    written = 0
    while chunk := source.read(_CHUNK):
        written += len(chunk)
        if written > size:
            raise InputError(f"{ARCHIVE}: {source.name} is longer than it says")
        target.write(chunk)


def _reason(error: requests.RequestException) -> str:
    """What went wrong with a request, in words."""
    import requests

    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"nothing came for {_TIMEOUT:g} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return "the connection broke"
