"""forkserve/wsgi/static.py and folders.py: what is never served, and that nothing outside of a folder is opened."""

import io
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forkserve.log import log
from forkserve.wsgi.folders import Folder
from forkserve.wsgi.static import StaticFiles
from tests.unit.files_client import SECRET, Reply, ask, call, environ_of, make_site, put, says_app


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder that is served."""
    yield from make_site(tmp_path)


@pytest.fixture
def said() -> Iterator[io.FileIO]:
    """The error log, in a file of the test's."""
    with os.fdopen(os.memfd_create("log"), "w+b", buffering=0) as file:
        before, log.file.fd = log.file.fd, file.fileno()
        yield file
        log.file.fd = before


def get(root: Path, path: str, method: str = "GET", **fields: str) -> Reply:
    return ask(StaticFiles(says_app, [("/static", str(root))]), path, method, **fields)


def test_hidden_files_are_not_found_but_well_known_ones_are(root: Path) -> None:
    for name in (".env", ".git/config", "css/.htpasswd", "..", ".", "...", "..a"):
        if name.strip("."):
            put(root / name, SECRET)
        assert get(root, f"/static/{name}").code == 404, name
    put(root / ".well-known" / "security.txt", b"Contact")
    assert get(root, "/static/.well-known/security.txt").body == b"Contact"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../outside/secret.txt", "/static/css/../../outside/secret.txt", "/static/css/../a.txt",
        "/static/./a.txt", "/static//a.txt", "/static//etc/passwd", "/static/css//site.css", "/static/a.txt\0",
        "/static/a.txt\0.css", "/static/..\\outside\\secret.txt", "/static/%2e%2e/outside/secret.txt",
        "/static/..%2foutside/secret.txt", "/static/-secret/secret.txt", "/static/" + "a" * 300,
        "/static/" + "a/" * 3000, "/static/~root", "/static/\u0100",
    ],
)  # fmt: skip
def test_no_spelling_leads_out_or_to_a_second_address_of_a_file(root: Path, path: str) -> None:
    app = StaticFiles(says_app, [("/static", str(root))])
    reply = call(app, environ_of(path))
    assert (reply.code, reply.body) == (404, b"404 Not Found\n")


def test_links_that_stay_inside_are_walked_and_those_that_leave_are_not(root: Path, tmp_path: Path) -> None:
    for name, target in {
        "latest.txt": "a.txt", "css/up.txt": "../a.txt", "sub": "css", "chain": "sub", "twice.css": "chain/site.css",
        "out.txt": "../outside/secret.txt", "abs.txt": str(root / "a.txt"), "abs2.txt": "/etc/passwd",
        "outdir": "../outside", "loop": "loop", "css/high": "../../outside", "back": "../root/a.txt", "dot": "./.",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    for path in ("latest.txt", "css/up.txt", "chain/up.txt", "dot/a.txt"):
        assert get(root, f"/static/{path}").body == b"0123456789", path
    for path in ("sub/site.css", "chain/site.css", "twice.css"):
        assert get(root, f"/static/{path}").body == b"body {}", path
    for path in (
        "out.txt", "abs.txt", "abs2.txt", "outdir/secret.txt", "outdir", "loop", "loop/x", "css/high/secret.txt",
        "chain/high/secret.txt", "dot", "back",
    ):  # fmt: skip
        assert get(root, f"/static/{path}").code == 404, path
    free = StaticFiles(says_app, [("/static", str(root))], follow_links=True)
    assert ask(free, "/static/out.txt").body == SECRET
    assert ask(free, "/static/outdir/secret.txt").body == SECRET
    assert ask(free, "/static/../outside/secret.txt").code == 404, "links are followed, dots are not"


def test_the_folder_itself_may_be_a_link_that_a_deploy_turns(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "v2" / "a.txt", b"two")
    current = tmp_path / "current"
    current.symlink_to("root")
    app = StaticFiles(says_app, [("/static", str(current))])
    assert ask(app, "/static/a.txt").body == b"0123456789"
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(current)
    assert ask(app, "/static/a.txt").body == b"two"


def test_only_regular_files_are_served_and_none_is_waited_for(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "sock"))
        assert get(root, "/static/fifo").code == 404
        assert get(root, "/static/sock").code == 404
    (root / "null").symlink_to("/dev/null")
    free = StaticFiles(says_app, [("/static", str(root))], follow_links=True)
    assert ask(free, "/static/null").code == 404


def test_a_file_that_may_not_be_read_is_403_and_said(root: Path, said: io.FileIO) -> None:
    (root / "a.txt").chmod(0)
    app = StaticFiles(says_app, [("/static", str(root))])
    ours = os.geteuid()
    if ours == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert ask(app, "/static/a.txt").code == 403
    finally:
        os.seteuid(ours)
    said.seek(0)
    assert b'static file could not be opened path=/static/a.txt cause="[Errno 13]' in said.read()


# attacks

watched: list[tuple[bytes, int]] = []
_watching = threading.local()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and getattr(_watching, "on", False) and arguments[1] is None:
        watched.append((os.fsencode(arguments[0]), arguments[2]))


sys.addaudithook(_watch)  # for ever; it notes nothing unless a test is watching

PIECES = [
    "..", ".", "", "a.txt", "css", "site.css", "outside", "secret.txt", "outdir", "up", "%2e%2e", "..\\", "\0",
    "%2f", "..%2f", "../", "/", "/etc/passwd", "~", "..;", "\u2025", "\xff", "loop", "..%5c", "%c0%ae",
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("/".join), st.sampled_from(["/static", "/"])
)
@example("../outside/secret.txt", "/static")
@example("up/../../outside/secret.txt", "/")
@example("outdir/secret.txt", "/static")
def test_nothing_outside_of_the_folder_is_ever_opened(root: Path, path: str, prefix: str) -> None:
    for name, target in {"outdir": "../outside", "up": "..", "loop": "loop"}.items():
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)
    sent = unquote_to_bytes(f"{prefix.rstrip('/')}/{path}".encode("utf-8", "surrogatepass")).decode("latin-1")
    app = StaticFiles(says_app, [(prefix, str(root))])
    watched.clear()
    _watching.on = True
    try:
        reply = call(app, environ_of(sent))
    finally:
        _watching.on = False
    assert SECRET not in reply.body
    assert b"root:" not in reply.body
    for opened, flags in watched:
        if opened != os.fsencode(root):
            assert b"/" not in opened and opened != b"..", "one name at a time, from a folder that is held"
            assert opened == b"." or flags & os.O_NOFOLLOW, "no link is followed"


def test_a_race_of_renames_lets_nothing_out(root: Path, tmp_path: Path) -> None:
    put(root / "flip" / "secret.txt", b"harmless")
    over = threading.Event()

    def flip() -> None:
        while not over.is_set():
            (root / "flip").rename(tmp_path / "away")
            (root / "flip").symlink_to("../outside")
            (root / "flip").unlink()
            (root / "flip").symlink_to(tmp_path / "outside")
            (root / "flip").unlink()
            (tmp_path / "away").rename(root / "flip")

    flipper = threading.Thread(target=flip)
    flipper.start()
    seen: set[bytes] = set()
    try:
        folder = Folder(str(root))
        for turn in range(300_000):
            if turn > 3000 and len(seen) > 1:
                break
            try:
                fd = folder.open([b"flip", b"secret.txt"])
            except OSError:
                seen.add(b"refused")
                continue
            seen.add(os.read(fd, 100))
            os.close(fd)
    finally:
        over.set()
        flipper.join()
    assert seen == {b"harmless", b"refused"}
