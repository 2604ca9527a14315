"""Bodies far larger than a worker may grow: up and down. With gigabytes: benchmarks/big_bodies.py."""

from pathlib import Path

import pytest

from benchmarks.big_bodies import GOAL_BYTES, download, measured, upload
from tests.client import Client
from tests.harness import Server

BYTES = 200 << 20


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server whose app gives a file of that size, which costs no disk, and whose bodies have no limit."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(BYTES)
    return Server(
        app="benchmarks.apps.big:app", limit_request_body=0, env={"BIG_FILE": str(big), "TMPDIR": str(tmp_path)}
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_costs_disk_and_not_memory(server: Server, tmp_path: Path, chunked: bool) -> None:
    with server:
        [pid] = server.workers()
        upload(server.port, 2 << 20, chunked=chunked)
        passage = measured("", pid, BYTES, lambda: upload(server.port, BYTES, chunked=chunked))
        assert passage.peak_bytes - passage.idle_bytes < GOAL_BYTES
        assert [path.name for path in tmp_path.iterdir()] == ["big"], "the body's file has no name, and is gone"
        assert server.workers() == [pid]


def test_a_large_file_is_sent_without_memory(server: Server) -> None:
    with server:
        [pid] = server.workers()
        server.get("/")
        passage = measured("", pid, BYTES, lambda: download(server.port, BYTES))
        assert passage.peak_bytes - passage.idle_bytes < GOAL_BYTES


def test_a_large_file_for_a_client_that_does_not_read_holds_neither_memory_nor_the_worker(server: Server) -> None:
    with server, Client(server, window=1 << 16) as client:
        [pid] = server.workers()

        def ask_and_read() -> None:
            client.get("/file").read_head()
            assert server.get("/").status == 200  # amid it
            assert client.rest_of(1 << 20) == bytes(1 << 20)

        passage = measured("", pid, BYTES, ask_and_read)
        assert passage.peak_bytes - passage.idle_bytes < GOAL_BYTES


def test_an_upload_beyond_the_limit_is_refused_though_it_has_begun(tmp_path: Path) -> None:
    with Server(app="benchmarks.apps.big:app", limit_request_body="10MiB", env={"TMPDIR": str(tmp_path)}) as server:
        with Client(server) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BYTES)
            assert client.reply().code == 413
        with Client(server) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % BYTES)
            for _ in range(11):
                client.send(bytes(1 << 20))
            assert client.reply().code == 413
        assert list(tmp_path.iterdir()) == []
