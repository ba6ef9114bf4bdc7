"""Fetches the authors' checkpoints: a zip file of a Zenodo record, resumed, checked, and only its known members unpacked."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deepemhancer_plugin.core.errors import InputError

if TYPE_CHECKING:
    import requests

RECORD_URL = "https://zenodo.org/api/records/7432763"
ARCHIVE = "deepEMhancerModels_tf2.zip"
DIRECTORY = os.path.join("~", ".local", "share", "deepEMhancerModels")
VARIANTS = ("tightTarget", "wideTarget", "highRes", "masked")
MEMBERS = tuple(f"production_checkpoints/deepEMhancer_{variant}.hd5" for variant in VARIANTS)

_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 5  # without progress
_PAUSE = 2.0  # seconds before the next attempt, times the attempts so far
_CHUNK = 1 << 16  # bytes; what an interruption loses at most
_MAX_ARCHIVE = 4 << 30  # bytes
_MAX_MEMBER = 2 << 30


@dataclass(frozen=True)
class _Archive:
    url: str
    size: int
    md5: str


def download(
    directory: str | None = None,
    record_url: str = RECORD_URL,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Fetch the authors' checkpoints; does nothing where they are all there.

    An interrupted download goes on where it stopped, also in a later run. A checkpoint appears under its name only when the whole
    archive has the record's md5 and the checkpoint is unpacked.

    Args:
        directory: where `production_checkpoints` goes; None is the conventional place.
        record_url: Zenodo's API for the record.
        progress: called with (bytes so far, bytes in all).

    Returns:
        Paths of the checkpoints.

    Raises:
        InputError: what went wrong, in one line: the server, its answer, the check sum, the archive, or the directory.
    """
    base = os.path.expanduser(DIRECTORY if directory is None else directory)
    paths = [os.path.join(base, *member.split("/")) for member in MEMBERS]
    if all(os.path.isfile(path) for path in paths):
        return paths
    try:
        os.makedirs(os.path.dirname(paths[0]), exist_ok=True)
        archive = _find(record_url)
        partial = os.path.join(base, f".{archive.md5}.zip.part")
        _fetch(archive, partial, progress)
        _unpack(partial, base)
        os.remove(partial)
    except (
        OSError
    ) as error:  # requests' errors are caught where they can be told apart from the disk's
        raise InputError(
            f"{base}: {error.strerror or error}; nothing half-written is kept under a checkpoint's name"
        ) from None
    return paths


def _find(record_url: str) -> _Archive:
    """The archive as the record describes it."""
    import requests

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            answer = requests.get(record_url, timeout=_TIMEOUT)
            if answer.status_code < 500:
                break
            problem = f"status {answer.status_code}"
        except requests.RequestException as error:
            problem = _reason(error)
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE * attempt)
    else:
        raise InputError(f"{record_url}: {problem}, {_ATTEMPTS} times; is the network reachable?")
    if answer.status_code != 200:
        raise InputError(f"{record_url}: status {answer.status_code}; expected a Zenodo record")
    try:
        entry = next(file for file in answer.json()["files"] if file["key"] == ARCHIVE)
        kind, _, md5 = str(entry["checksum"]).partition(":")
        archive = _Archive(str(entry["links"]["self"]), int(entry["size"]), md5)
    except (ValueError, LookupError, TypeError, StopIteration):
        raise InputError(f"{record_url}: no Zenodo record with the file {ARCHIVE}") from None
    scheme = urlsplit(record_url).scheme
    if (
        kind != "md5"
        or not re.fullmatch(r"[0-9a-f]{32}", md5)
        or not 0 < archive.size <= _MAX_ARCHIVE
    ):
        raise InputError(
            f"{record_url}: {ARCHIVE} has no md5 or an unlikely size ({archive.size} bytes)"
        )
    if urlsplit(archive.url).scheme not in {scheme, "https"}:
        raise InputError(
            f"{record_url}: {ARCHIVE} is said to be at {archive.url}, which is not {scheme}"
        )
    return archive


def _fetch(archive: _Archive, path: str, progress: Callable[[int, int], None] | None) -> None:
    """The archive at `path`, complete and with the right md5; what is there already is kept and gone on from."""
    import requests

    if os.path.exists(path) and os.path.getsize(path) > archive.size:
        os.remove(path)
    failures, problem = 0, ""
    while (have := os.path.getsize(path) if os.path.exists(path) else 0) < archive.size:
        if failures == _ATTEMPTS:
            raise InputError(
                f"{archive.url}: {problem}, {_ATTEMPTS} times, after {have} of {archive.size} bytes; "
                "the next run goes on from there"
            )
        if failures:
            time.sleep(_PAUSE * failures)
        try:
            headers = {"Accept-Encoding": "identity"} | (
                {"Range": f"bytes={have}-"} if have else {}
            )
            with requests.get(
                archive.url, headers=headers, stream=True, timeout=_TIMEOUT
            ) as answer:
                if (
                    answer.status_code not in (200, 206)
                    and answer.status_code < 500
                    and answer.status_code != 429
                ):
                    raise InputError(f"{archive.url}: status {answer.status_code}; try again later")
                if answer.status_code in (200, 206):
                    _append(answer, path, have, archive.size, progress)
                    problem = "the connection ended early"
                else:
                    problem = f"status {answer.status_code}"
        except requests.RequestException as error:
            problem = _reason(error)
        now = os.path.getsize(path) if os.path.exists(path) else 0
        failures = 0 if now > have else failures + 1
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != archive.md5:
        os.remove(path)
        raise InputError(
            f"{archive.url}: md5 {md5}, the record says {archive.md5}; the download was removed, try again"
        )


def _append(
    answer: requests.Response,
    path: str,
    have: int,
    size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the answer behind what is there, or, where the server sends all of it again, in its place."""
    begin = f"bytes {have}-"
    if answer.status_code == 206 and not answer.headers.get("Content-Range", begin).startswith(
        begin
    ):
        raise InputError(f"{answer.url}: asked for {begin}, got {answer.headers['Content-Range']}")
    with open(path, "ab" if answer.status_code == 206 else "wb") as file:
        for chunk in answer.iter_content(_CHUNK):
            if file.tell() + len(chunk) > size:
                raise InputError(f"{answer.url}: longer than the {size} bytes of the record")
            file.write(chunk)
            if progress:
                progress(file.tell(), size)


def _unpack(archive: str, base: str) -> None:
    """The expected members, each by way of a temporary file beside its place. Names in the archive never become paths."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [_member(zipped, name) for name in MEMBERS]
            for name, member in zip(MEMBERS, members, strict=True):
                target = os.path.join(base, *name.split("/"))
                handle, temporary = tempfile.mkstemp(
                    dir=os.path.dirname(target), prefix=".", suffix=".part"
                )
                try:
                    with os.fdopen(handle, "wb") as out, zipped.open(member) as source:
                        _copy(source, out, member.file_size)
                    os.chmod(temporary, 0o644)
                    os.replace(temporary, target)
                except BaseException:
                    os.unlink(temporary)
                    raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{archive}: not a readable zip archive: {error}") from None


def _member(zipped: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        member = zipped.getinfo(name)
    except KeyError:
        raise InputError(f"{ARCHIVE}: no {name} in it") from None
    file_type = member.external_attr >> 16 & 0o170000
    if member.is_dir() or file_type not in (0, 0o100000) or not 0 < member.file_size <= _MAX_MEMBER:
        raise InputError(f"{ARCHIVE}: {name} is not a plain file of at most {_MAX_MEMBER} bytes")
    return member


def _copy(source: Any, out: Any, size: int) -> None:
    """At most `size` bytes, whatever the archive unpacks to."""
    written = 0
    while chunk := source.read(_CHUNK):
        written += len(chunk)
        if written > size:
            raise InputError(f"{ARCHIVE}: {source.name} is longer than it says")
        out.write(chunk)


def _reason(error: requests.RequestException) -> str:
    import requests

    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"nothing came for {_TIMEOUT:g} s"
    return (
        "no connection" if isinstance(error, requests.ConnectionError) else "the connection broke"
    )
