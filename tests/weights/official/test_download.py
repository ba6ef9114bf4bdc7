"""The downloader against a local server that truncates, stalls, forgets ranges, and lies."""

import errno
import fcntl
import hashlib
import io
import json
import os
import pwd
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.official import download as module
from deepemhancer_plugin.core.weights.official.download import ARCHIVE, MEMBERS, download

CONTENTS = {name: name.encode() * 3000 for name in MEMBERS}


def archive(extra=(), **changes):
    """The zip file: the members, each possibly changed, and further (name or ZipInfo, bytes).

    None in place of a member's content leaves it out.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
        for name, data in CONTENTS.items():
            data = changes.get(name.rpartition("_")[2].partition(".")[0], data)
            if data is not None:
                zipped.writestr(name, data)
        for name, data in extra:
            zipped.writestr(name, data)
    return buffer.getvalue()


def entry(key, size, checksum, url):
    """A file as a record of Zenodo describes it."""
    return {"key": key, "size": size, "checksum": checksum, "links": {"self": url}}


def record(**changes):
    """The body of a record with the archive, changed."""
    fields = {
        "key": ARCHIVE,
        "size": 9,
        "checksum": "md5:" + "0" * 32,
        "url": "http://x/",
    } | changes
    return json.dumps({"files": [entry(**fields)]}).encode()


class Server:
    """A Zenodo of one record.

    `behave(handler, number of the request)` may reply for the file itself, and then gives True.
    """

    def __init__(self):
        self.data, self.md5, self.requests, self.ranges = archive(), None, [], True
        self.behave = lambda handler, number: False
        self.record_status = self.record = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                if self.path == "/record":
                    body = (
                        server.record
                        if server.record is not None
                        else json.dumps(server.described()).encode()
                    )
                    self.reply(server.record_status or 200, body)
                else:
                    server.requests.append(self.headers.get("Range"))
                    if not server.behave(self, len(server.requests)):
                        self.serve()

            def reply(self, status, body, **headers):
                self.send_response(status)
                for key, value in {"Content_Length": len(body), **headers}.items():
                    self.send_header(key.replace("_", "-"), str(value))
                self.end_headers()
                self.wfile.write(body)

            def serve(self, stop=None):
                """The file from the range's start, cut off before byte `stop`."""
                asked = self.headers.get("Range") if server.ranges else None
                begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(server.data) - begin))
                if asked:
                    self.send_header(
                        "Content-Range", f"bytes {begin}-{len(server.data) - 1}/{len(server.data)}"
                    )
                self.end_headers()
                self.wfile.write(server.data[begin:stop])
                self.wfile.flush()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        self.root = f"http://127.0.0.1:{self.http.server_port}"
        self.url = self.root + "/record"

    def described(self):
        md5 = self.md5 or hashlib.md5(self.data, usedforsecurity=False).hexdigest()
        return {
            "files": [
                entry("readme.txt", 3, "md5:0", self.root + "/other"),
                entry(ARCHIVE, len(self.data), f"md5:{md5}", self.root + "/file"),
            ]
        }


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(module, "_TIMEOUT", 0.5)
    monkeypatch.setattr(module, "_CHUNK", 500)  # the cuts below are at multiples of it
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def checkpoints(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_download_and_again(server, tmp_path):
    progress = []
    paths = download(str(tmp_path), server.url, lambda *call: progress.append(call))
    assert [path.removeprefix(f"{tmp_path}/") for path in paths] == list(MEMBERS)
    assert checkpoints(tmp_path) == CONTENTS
    assert progress[-1] == (len(server.data),) * 2
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o644 for name in MEMBERS)
    server.http.shutdown()
    assert download(str(tmp_path), server.url) == paths


def test_conventional_directory(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = download(record_url=server.url)
    assert paths[0] == str(
        tmp_path
        / ".local/share/deepEMhancerModels/production_checkpoints/deepEMhancer_tightTarget.hd5"
    )


def test_no_home_directory(server, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    with pytest.raises(InputError, match="no such home directory; set HOME, or give"):
        download(record_url=server.url)


def test_second_download_at_once_is_refused(server, tmp_path):
    asked, release = threading.Event(), threading.Event()

    def wait(handler, number):
        handler.serve(3000)
        asked.set()
        assert release.wait(10)
        return True

    server.behave = lambda handler, number: wait(handler, number) if number == 1 else False
    first = threading.Thread(target=download, args=(str(tmp_path), server.url))
    first.start()
    try:
        assert asked.wait(10)
        with pytest.raises(InputError, match=r"\.zip\.part: another download is writing it"):
            download(str(tmp_path), server.url)
        assert len(server.requests) == 1
    finally:
        release.set()
        first.join()
    assert checkpoints(tmp_path) == CONTENTS


def test_file_of_a_download_that_ends_meanwhile_is_not_written(tmp_path, monkeypatch):
    path, lock = str(tmp_path / "part"), fcntl.flock

    def remove_once(file, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        os.remove(path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_once)
    with module._open_partial(path) as file:
        file.write(b"x")
    assert (tmp_path / "part").read_bytes() == b"x"


def test_file_system_without_locks(server, tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == CONTENTS


def test_systems_that_allow_md5_only_where_it_is_no_security(server, tmp_path, monkeypatch):
    """As under FIPS 140."""
    server.md5 = hashlib.md5(server.data, usedforsecurity=False).hexdigest()
    md5 = hashlib.md5

    def approved(data=b"", *, usedforsecurity=True):
        if usedforsecurity:
            raise ValueError("[digital envelope routines] unsupported")
        return md5(data, usedforsecurity=False)

    monkeypatch.setattr(hashlib, "md5", approved)
    monkeypatch.setattr(hashlib, "new", lambda name, data=b"", **options: approved(data, **options))
    download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == CONTENTS


def test_truncated_answers_are_resumed(server, tmp_path):
    step = 150_000
    server.behave = lambda handler, number: (
        handler.serve(step * number) or True if number < 3 else False
    )
    download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == CONTENTS
    assert server.requests == [None, f"bytes={step}-", f"bytes={2 * step}-"]


def test_stalled_answer_is_resumed(server, tmp_path):
    def stall(handler, number):
        if number == 1:
            handler.serve(1000)
            time.sleep(1.5)
        return number == 1

    server.behave = stall
    download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == CONTENTS and server.requests == [None, "bytes=1000-"]


def test_later_run_goes_on(server, tmp_path):
    server.behave = lambda handler, number: (
        handler.serve(5000) or True if number == 1 else handler.reply(503, b"") or True
    )
    with pytest.raises(
        InputError,
        match=r"status 503, 5 times, after 5000 of \d+ bytes; the next run goes on from there",
    ):
        download(str(tmp_path), server.url)
    assert not any(name in checkpoints(tmp_path) for name in MEMBERS)
    server.behave, server.requests = (lambda handler, number: False), []
    download(str(tmp_path), server.url)
    assert server.requests == ["bytes=5000-"] and checkpoints(tmp_path) == CONTENTS


def test_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.behave = lambda handler, number: handler.serve(7000) or True if number == 1 else False
    download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == CONTENTS


def test_server_that_never_sends_more(server, tmp_path):
    server.behave = lambda handler, number: handler.serve(0) or True
    with pytest.raises(InputError, match="5 times, after 0 of"):
        download(str(tmp_path), server.url)


def test_wrong_range(server, tmp_path):
    server.behave = lambda handler, number: (
        (
            handler.serve(3000)
            if number == 1
            else handler.reply(206, b"x", Content_Range="bytes 0-1/2")
        )
        or True
    )
    with pytest.raises(InputError, match="asked for bytes 3000-, got bytes 0-1/2"):
        download(str(tmp_path), server.url)


def test_wrong_checksum(server, tmp_path):
    server.md5 = "0" * 32
    with pytest.raises(
        InputError, match=r"md5 [0-9a-f]{32}, the record says 0{32}; the download was removed"
    ):
        download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == {}


def test_longer_than_the_record_says(server, tmp_path):
    server.behave = lambda handler, number: handler.reply(200, server.data + b"more") or True
    with pytest.raises(InputError, match=r"longer than the \d+ bytes of the record"):
        download(str(tmp_path), server.url)


def test_missing_file(server, tmp_path):
    server.behave = lambda handler, number: handler.reply(404, b"") or True
    with pytest.raises(InputError, match="/file: status 404"):
        download(str(tmp_path), server.url)
    assert checkpoints(tmp_path) == {}


@pytest.mark.parametrize(
    ("status", "body", "match"),
    [
        (404, b"{}", "status 404; expected a Zenodo record"),
        (500, b"", "status 500, 5 times"),
        (200, b"<html>", "no Zenodo record with the file"),
        (200, b"[1]", "no Zenodo record with the file"),
        (200, b'{"files": [{"key": "other.zip"}]}', "no Zenodo record with the file"),
        (200, record(checksum="sha1:0"), "no md5"),
        (200, record(checksum="md5:../../x"), "no md5"),
        (200, record(size=10**12), "unlikely size"),
        (200, record(url="file:///etc"), "file:///etc, which is not http"),
    ],
)
def test_record_that_is_none(server, tmp_path, status, body, match):
    server.record_status, server.record = status, body
    with pytest.raises(InputError, match=match) as caught:
        download(str(tmp_path), server.url)
    assert "\n" not in str(caught.value)


def test_no_server(server, tmp_path):
    server.http.server_close()
    with pytest.raises(InputError, match="no connection, 5 times; is the network reachable"):
        download(str(tmp_path), "http://127.0.0.1:9/record")


def test_only_expected_members_are_unpacked(server, tmp_path):
    server.data = archive(
        [
            ("../escaped", b"x"),
            ("/tmp/escaped", b"x"),
            ("production_checkpoints/../../escaped", b"x"),
            ("production_checkpoints/other.hd5", b"x"),
            ("setup.py", b"x"),
        ]
    )
    inner = tmp_path / "inner"
    download(str(inner), server.url)
    assert checkpoints(tmp_path) == {f"inner/{name}": data for name, data in CONTENTS.items()}


def link():
    info = zipfile.ZipInfo(MEMBERS[0])
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (archive([(link(), b"/etc/passwd")], tightTarget=None), "not a plain file"),
        (archive(highRes=None), f"no {MEMBERS[2]} in it"),
        (archive(masked=b""), "not a plain file"),
        (b"not a zip" * 1000, "not a readable zip archive"),
        (
            archive().replace(CONTENTS[MEMBERS[1]], CONTENTS[MEMBERS[1]].swapcase()),
            "not a readable zip archive",
        ),
    ],
    ids=["link", "missing", "empty", "no zip", "damaged"],
)
def test_archive_that_is_none(server, tmp_path, data, match):
    server.data = data
    with pytest.raises(InputError, match=match):
        download(str(tmp_path), server.url)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert MEMBERS[1].rpartition("/")[2] not in left or "damaged" not in match
    assert not any(".part" in name and not name.endswith(".zip.part") for name in left)


def test_member_larger_than_allowed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_MEMBER", 1000)
    with pytest.raises(InputError, match="at most 1000 bytes"):
        download(str(tmp_path), server.url)


def test_directory_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/x: Not a directory"):
        download(str(tmp_path / "file" / "x"), server.url)
