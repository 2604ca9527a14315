"""Clients in use: httpx, aiohttp, ab -k and wrk, on the Flask site served by two workers.

requests and curl are used by the tests of the sites.
"""

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.apps.clients import TIMEOUT_S, Held
from tests.harness import Server

T = TypeVar("T")
CONTENT = os.urandom(700_000)
TOLD = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(app="tests.apps.sites.flask_site:app", workers=2) as serving:
        yield serving


def pieces() -> Iterator[bytes]:
    """The content bit by bit, so that it is sent in chunks."""
    for at in range(0, len(CONTENT), 50_000):
        yield CONTENT[at : at + 50_000]


# httpx

httpx = pytest.importorskip("httpx")


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S, trust_env=False) as fresh:
        yield fresh


def test_httpx_keeps_its_connection_over_pages_errors_heads_and_uploads(client: Any) -> None:
    ports = set()
    for _ in range(3):
        assert client.get("/").status_code == 200
        assert client.get("/nowhere").status_code == 404
        head = client.head("/file")
        assert (head.content, int(head.headers["Content-Length"]) > 0) == (b"", True)
        assert client.put("/digest", content=CONTENT).json() == TOLD
        ports.add(client.get("/peer").text)
    assert len(ports) == 1


def test_httpx_uploads_in_chunks_and_as_a_form(client: Any) -> None:
    assert client.put("/digest", content=pieces()).json() == TOLD
    told = client.post("/upload", data={"note": "x"}, files={"f": ("größe.bin", CONTENT)}).json()
    assert told == {"note": "x", "files": [["f", "größe.bin", TOLD["size"], TOLD["sha256"]]]}


def test_httpx_reads_a_stream_as_it_comes_and_follows_a_redirect(client: Any, tmp_path: Path) -> None:
    with Held(tmp_path / "fifo") as held, client.stream("GET", "/stream", params={"fifo": str(held.path)}) as response:
        lines = response.iter_lines()
        assert next(lines) == "first"
        held.release(b"second\n")
        assert list(lines) == ["second"]
    response = client.get("/old", follow_redirects=True)
    assert ([step.status_code for step in response.history], response.status_code) == ([302], 200)
    assert client.get("/raise").status_code == 500


# aiohttp

aiohttp = pytest.importorskip("aiohttp")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a test's work in a loop of its own, with a bound."""
    return asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


def test_aiohttp_keeps_its_connection_over_pages_errors_heads_and_uploads(server: Server) -> None:
    async def work() -> set[str]:
        ports = set()
        async with aiohttp.ClientSession(server.url) as session:
            for _ in range(3):
                for method, path, status in (("GET", "/", 200), ("GET", "/nowhere", 404), ("HEAD", "/file", 200)):
                    async with session.request(method, path) as answer:
                        assert answer.status == status
                        await answer.read()
                async with session.put("/digest", data=CONTENT) as answer:
                    assert await answer.json() == TOLD
                async with session.get("/peer") as answer:
                    ports.add(await answer.text())
        return ports

    assert len(run(work())) == 1


def test_aiohttp_uploads_in_chunks_and_as_a_form(server: Server) -> None:
    async def content() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    async def work() -> None:
        form = aiohttp.FormData({"note": "x"})
        form.add_field("f", CONTENT, filename="a.bin")
        async with aiohttp.ClientSession(server.url) as session:
            async with session.put("/digest", data=content()) as answer:
                assert await answer.json() == TOLD
            async with session.post("/upload", data=form) as answer:
                assert (await answer.json())["files"] == [["f", "a.bin", TOLD["size"], TOLD["sha256"]]]

    run(work())


def test_aiohttp_waits_to_be_told_to_continue(server: Server) -> None:
    async def work() -> None:
        async with (
            aiohttp.ClientSession(server.url) as session,
            session.put("/digest", data=CONTENT, expect100=True) as answer,
        ):
            assert await answer.json() == TOLD

    run(work())


def test_aiohttp_reads_a_stream_as_it_comes_and_follows_a_redirect(server: Server, tmp_path: Path) -> None:
    async def work(held: Held) -> None:
        async with aiohttp.ClientSession(server.url) as session:
            async with session.get("/stream", params={"fifo": str(held.path)}) as answer:
                assert await answer.content.readline() == b"first\n"
                held.release(b"second\n")
                assert await answer.content.read() == b"second\n"
            async with session.get("/old") as answer:
                assert ([step.status for step in answer.history], answer.status) == ([302], 200)

    with Held(tmp_path / "fifo") as held:
        run(work(held))


def test_aiohttp_asks_many_things_at_once(server: Server) -> None:
    async def work() -> list[int]:
        async with aiohttp.ClientSession(server.url) as session:

            async def ask(path: str) -> int:
                async with session.get(path) as answer:
                    await answer.read()
                    return int(answer.status)

            return await asyncio.gather(*(ask("/file") for _ in range(200)))

    assert run(work()) == [200] * 200


# programs


def program(name: str, *arguments: str) -> str:
    """Run a program that makes load; all that it said. Skips the test where it is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian: {'apache2-utils' if name == 'ab' else name})")
    ran = subprocess.run([name, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def figure(text: str, name: str) -> int:
    """The number that ab gives under this name."""
    found = re.search(rf"^{name}: +(\d+)", text, re.MULTILINE)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("flags", [["-k"], [], ["-k", "-i"]])
def test_ab_gets_every_answer(server: Server, flags: list[str]) -> None:
    said = program("ab", "-q", "-n", "1000", "-c", "20", *flags, server.url + "/file")
    assert (figure(said, "Complete requests"), figure(said, "Failed requests")) == (1000, 0)
    assert "Non-2xx" not in said
    if flags == ["-k"]:
        assert figure(said, "Keep-Alive requests") > 900


def test_ab_posts_every_body(server: Server, tmp_path: Path) -> None:
    (tmp_path / "form").write_bytes(b"name=" + b"x" * 20_000)
    said = program(
        "ab", "-q", "-k", "-n", "300", "-c", "10", "-p", str(tmp_path / "form"),
        "-T", "application/x-www-form-urlencoded", server.url + "/greet",
    )  # fmt: skip
    assert (figure(said, "Complete requests"), figure(said, "Failed requests")) == (300, 0)
    assert "Non-2xx" not in said


def test_wrk_gets_every_answer(server: Server) -> None:
    said = program("wrk", "-t1", "-c30", "-d1s", server.url + "/")
    found = re.search(r"(\d+) requests in", said)
    assert found
    assert int(found[1]) > 30
    assert "Socket errors" not in said
    assert "Non-2xx" not in said
