"""Files that change while clients fetch them: whole where they are replaced, cut visibly where they become shorter."""

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.client import Client
from tests.harness import ROOT, Server, wait_until

BYTES = 2 << 20
BIG_BYTES = 64 << 20
WAYS = ["/static/file", "/wrapped?file", "/named?file"]

APP = """
import os
def app(environ, start_response):
    path = os.path.join(os.environ["FILES_FOLDER"], environ["QUERY_STRING"])
    if environ["PATH_INFO"] == "/named":
        start_response("200 OK", [("X-Sendfile", path)])
        return []
    file = open(path, "rb")
    start_response("200 OK", [("Content-Type", "application/x-test")])
    return environ["wsgi.file_wrapper"](file)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    s = Server(
        app="fresh_app:app", workers=2, static=f"/static={tmp_path}", sendfile_folders=f"/protected={tmp_path}",
        env={"FILES_FOLDER": str(tmp_path)}, expect=["response could not be sent whole"],
    )  # fmt: skip
    s.write_app(APP)
    with s:
        yield s


def version(number: int) -> bytes:
    """A version that shows by itself whether it is whole: a digest, then what it is of. Sizes differ too."""
    payload = hashlib.sha256(str(number).encode()).digest() * (BYTES // 32 + number % 5)
    return hashlib.sha256(payload).digest() + payload


def replace(path: Path, data: bytes) -> None:
    """Write beside, rename over: what docs/files.md tells."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    beside.rename(path)


@pytest.mark.parametrize("target", WAYS)
def test_file_that_is_replaced_by_a_rename_is_always_one_version(server: Server, tmp_path: Path, target: str) -> None:
    path = tmp_path / "file"
    replace(path, version(0))
    is_over = threading.Event()
    replaced = 0

    def go_on_replacing() -> None:
        nonlocal replaced
        while not is_over.is_set():
            replaced += 1
            replace(path, version(replaced))

    def download(_: int) -> tuple[str, bytes]:
        with Client(server, window=1 << 17) as client:
            reply = client.get(target, "Connection: close").reply()
        assert hashlib.sha256(reply.body[32:]).digest() == reply.body[:32], "bytes of two versions"
        return (reply.values("ETag") or [""])[0], reply.body[:32]

    writer = threading.Thread(target=go_on_replacing)
    writer.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(download, range(60)))
    finally:
        is_over.set()
        writer.join()
    assert replaced > 1 and len(set(seen)) > 1, "it was replaced meanwhile"
    tagged = {(tag, digest) for tag, digest in seen if tag}
    assert len({tag for tag, _ in tagged}) == len(tagged), "an ETag names one version"


def test_download_that_goes_on_after_a_replacement_gets_all_of_the_new_version(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for number in range(2):
        replace(path, version(number))
        os.utime(path, (1_700_000_000, 1_700_000_000))  # the same moment, as a build may give it
        with Client(server) as client:
            if number == 0:
                part = client.get("/static/file", "Range: bytes=0-999").reply()
                assert (part.code, part.body) == (206, version(0)[:1000])
            else:
                rest = client.get("/static/file", "Range: bytes=1000-", f"If-Range: {part.values('ETag')[0]}").reply()
                assert (rest.code, rest.body) == (200, version(1))


@pytest.mark.parametrize("target", WAYS)
def test_file_that_is_cut_short_while_it_is_sent_breaks_off_before_the_announced_length(
    server: Server, tmp_path: Path, target: str
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(BIG_BYTES)
    with Client(server, window=1 << 14) as client:
        head = client.get(target).read_head()
        assert head.values("Content-Length") == [str(BIG_BYTES)]
        os.truncate(tmp_path / "file", 0)
        with pytest.raises((EOFError, ConnectionResetError)):
            client.rest_of(BIG_BYTES)
    assert "shorter" in server.wait_line("response could not be sent whole")


def test_command_of_the_manual_replaces_a_file_under_its_readers(server: Server, tmp_path: Path) -> None:
    [command] = [line for line in (ROOT / "docs" / "files.md").read_text().splitlines() if line.startswith("$ cp ")]
    (tmp_path / "prices.pdf").write_bytes(version(1))
    media = tmp_path / "media"
    media.mkdir()
    (media / "prices.pdf").write_bytes(version(0))
    with Client(server, window=1 << 14) as client:
        client.get("/static/media/prices.pdf").read_head()
        subprocess.run(["sh", "-c", command[2:].replace("/srv/shop/media", str(media))], check=True, cwd=tmp_path)
        assert client.rest_of(len(version(0))) == version(0), "who has begun gets the old one"
    assert os.listdir(media) == ["prices.pdf"]
    wait_until(lambda: server.get("/static/media/prices.pdf").body == version(1), "the new version")
