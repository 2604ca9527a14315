"""Files over the wire: static folders, wsgi.file_wrapper, and files that the app names."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client
from tests.harness import Server, wait_until
from tests.process.tools import status

SITE = "tests.process.files_site:app"
DIGITS = b"0123456789" * 10_000
SECRET = b"the secret"
BIG_BYTES = 64 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files, beside a secret."""
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "digits.bin").write_bytes(DIGITS)
    (folder / "digits.gz").write_bytes(gzip.compress(DIGITS))
    (folder / "site.css").write_bytes(b"body {}")
    (folder / "site.css.gz").write_bytes(gzip.compress(b"body {}"))
    (folder / "sub" / "index.html").write_bytes(b"<h1>sub")
    (folder / "out").symlink_to("..")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    for path in folder.rglob("*.*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server that knows the folder in both ways."""
    with Server(
        app=SITE, workers=1, static=f"/static={folder}", sendfile_folders=f"/protected={folder}",
        env={"FILES_FOLDER": str(folder)}, expect=["app named a file", "response could not be sent whole"],
    ) as server:  # fmt: skip
        yield server


def test_static_files_are_served_over_one_connection_with_all_that_http_knows_of_them(server: Server) -> None:
    with Client(server) as client:
        whole = client.get("/static/digits.bin").reply()
        assert (whole.code, whole.body, whole.values("Content-Length")) == (200, DIGITS, ["100000"])
        etag = whole.values("ETag")[0]
        head = client.send(b"HEAD /static/digits.bin HTTP/1.1\r\nHost: x\r\n\r\n").reply(is_head=True)
        assert (head.code, head.values("Content-Length")) == (200, ["100000"])
        assert client.get("/static/digits.bin", f"If-None-Match: {etag}").reply().code == 304
        part = client.get("/static/digits.bin", "Range: bytes=99995-", f"If-Range: {etag}").reply()
        assert (part.code, part.body, part.values("Content-Range")) == (206, b"56789", ["bytes 99995-99999/100000"])
        assert client.get("/static/digits.bin", "Range: bytes=100000-").reply().code == 416
        packed = client.get("/static/site.css", "Accept-Encoding: gzip, br").reply()
        assert (packed.values("Content-Encoding"), gzip.decompress(packed.body)) == (["gzip"], b"body {}")
        assert client.get("/static/sub").reply().values("Location") == ["/static/sub/"]
        assert client.get("/static/sub/").reply().body == b"<h1>sub"
        assert client.get("/static/none").reply().code == 404
        assert client.post("/static/digits.bin", b"abc").reply().code == 405
        assert client.get("/fds").reply().body == b"0"


@pytest.mark.parametrize("start", ["/static/", "/accel?"])
def test_no_spelling_of_a_path_lets_the_secret_out(server: Server, start: str) -> None:
    with Client(server) as client:
        for path in (
            "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "..%5csecret.txt",
            "%252e%252e/secret.txt", "sub/../../secret.txt", "sub/%2e%2e/..%2fsecret.txt", "/../secret.txt",
            "out/secret.txt", "out%2fsecret.txt", ".%2e/secret.txt", "%c0%ae%c0%ae/secret.txt", "..%00/secret.txt",
        ):  # fmt: skip
            reply = client.get(start + path).reply()
            assert reply.code in (404, 500), path
            assert SECRET not in reply.body


def test_large_file_goes_to_a_slow_reader_whole_and_without_the_worker_s_memory(server: Server, folder: Path) -> None:
    pattern = hashlib.sha256(b"big").digest() * 2048
    with (folder / "big.bin").open("wb") as file:
        for _ in range(BIG_BYTES // len(pattern)):
            file.write(pattern)
    wanted = hashlib.sha256(pattern * (BIG_BYTES // len(pattern))).digest()
    worker = server.workers()[0]
    before = rss_kb(worker)
    with Client(server) as slow:
        assert slow.get("/static/big.bin").read_head().values("Content-Length") == [str(BIG_BYTES)]
        assert server.get("/fds").body == b"1", "others are served meanwhile"
        seen = hashlib.sha256()
        for _ in range(BIG_BYTES >> 14):
            seen.update(slow.rest_of(1 << 14))
        assert seen.digest() == wanted
        assert slow.get("/fds").reply().body == b"0"
    assert rss_kb(worker) - before < 16 * 1024


def rss_kb(pid: int) -> int:
    return int(status(pid, "VmRSS").split()[0])


def test_client_that_leaves_in_the_middle_of_a_file_leaves_no_descriptor(server: Server, folder: Path) -> None:
    with (folder / "big.bin").open("wb") as file:
        file.truncate(BIG_BYTES)
    with Client(server, window=4096) as client:
        client.get("/static/big.bin").read_head()
        assert server.get("/fds").body == b"1"
    wait_until(lambda: server.get("/fds").body == b"0", "the end of the descriptor")


def test_file_that_shrinks_while_it_is_sent_is_cut_off_visibly(server: Server, folder: Path) -> None:
    with (folder / "big.bin").open("wb") as file:
        file.truncate(BIG_BYTES)
    with Client(server) as client:
        client.get("/static/big.bin").read_head()
        assert server.get("/fds").body == b"1"
        os.truncate(folder / "big.bin", 0)
        with pytest.raises((EOFError, ConnectionResetError)):
            client.rest_of(BIG_BYTES)


def test_file_wrapper_sends_from_where_the_file_stands_at_most_the_content_length(server: Server) -> None:
    with Client(server) as client:
        reply = client.get("/wrapped").reply()
        assert (reply.body, reply.values("Content-Length")) == (DIGITS, ["100000"])
        reply = client.get("/wrapped?99990").reply()
        assert (reply.body, reply.values("Content-Length")) == (b"0123456789", ["10"])
        assert client.get("/wrapped?100000").reply().body == b""
        assert client.get("/bounded?12").reply().body == b"012345678901"
        assert client.get("/bounded?0").reply().body == b""
        assert client.get("/unpacked").reply().body == DIGITS, "what the file yields, not what its descriptor holds"
        for target in ("/wrapped", "/unpacked"):
            head = client.send(f"HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).reply(is_head=True)
            assert head.code == 200
        assert client.get("/fds").reply().body == b"0"


def test_files_that_the_app_names_are_sent_in_place_of_its_body(server: Server) -> None:
    with Client(server) as client:
        for target, name in (("/accel", "X-Accel-Redirect"), ("/sendfile", "X-Sendfile")):
            reply = client.get(f"{target}?digits.bin").reply()
            assert (reply.code, reply.body) == (200, DIGITS)
            assert reply.values("Content-Type") == ["application/x-test"]
            assert reply.values(name) == []
            part = client.get(f"{target}?digits.bin", "Range: bytes=-3").reply()
            assert (part.code, part.body) == (206, b"789")
            assert client.get(f"{target}?none").reply().code == 404
        assert client.get("/accel?site.css").reply().values("Set-Cookie") == ["a=b"]
        assert client.get("/sendfile?../secret.txt").reply().code == 500
        assert client.get("/fds").reply().body == b"0"
    server.wait_line("app named a file outside of sendfile_folders")


def test_without_folders_these_headers_are_anybody_s(folder: Path) -> None:
    with Server(app=SITE, workers=1, env={"FILES_FOLDER": str(folder)}) as server, Client(server) as client:
        reply = client.get("/accel?digits.bin").reply()
        assert (reply.body, reply.values("X-Accel-Redirect")) == (b"never sent", ["/protected/digits.bin"])


def test_static_folder_that_does_not_exist_yet_is_a_warning_and_served_from_when_it_does(tmp_path: Path) -> None:
    folder, missing = tmp_path / "later", "static folder does not exist yet"
    with Server(app=SITE, workers=1, static=f"/static={folder}", expect=[missing]) as server:
        assert f"folder={folder}" in server.wait_line(missing)
        assert server.get("/static/a.txt").status == 404
        folder.mkdir()
        (folder / "a.txt").write_text("a")
        assert server.get("/static/a.txt").text == "a"
