"""Promise 12: changing listeners is a transaction. What stays loses nothing, what fails changes nothing."""

import os
import signal
import socket
from contextlib import closing

import pytest

from tests.harness import Server, wait_until
from tests.process.load import Load
from tests.process.probes import auto_socket, status
from tests.process.tools import Gate, answers, one_request

SITE = "tests.process.site:app"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _write_bind(s: Server, *addresses: str) -> None:
    s.config.write_text(f"bind = {list(addresses)!r}\n")


def _addresses(s: Server) -> list[str]:
    return [listener["address"] for listener in status(s)["listeners"]]


def _server(*addresses: str, app: str = SITE, **settings: object) -> Server:
    """A server whose addresses are all in its settings file."""
    s = Server(app=app, config="", **settings)  # type: ignore[arg-type]
    s.expect.append("socket handed in is not used")
    _write_bind(s, *addresses)
    return s


def test_promise_12_tcp_unix_and_abstract_come_and_go_while_what_stays_loses_nothing() -> None:
    stays, comes = _free_port(), f"127.0.0.1:{_free_port()}"
    others = [comes, "unix:here.sock", f"unix:@forkserve-test-{os.getpid()}"]
    s = _server(f"127.0.0.1:{stays}", app="fresh_app:app", workers=2)
    s.write_app(answers("code"))
    s.port = stays
    with s, Load(s) as load:
        for round_ in range(3):
            for bind in (others, []):
                _write_bind(s, f"127.0.0.1:{stays}", *bind)
                s.signal(signal.SIGHUP)
                s.wait_line("reload done", count=2 * round_ + (1 if bind else 2))
                assert _addresses(s)[1:] == bind
                for address in bind:
                    assert s.get_at(address).status == 200
            s.wait_line("no longer listening", count=3 * (round_ + 1))
            for address in others:
                with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                    s.connect(address)
            assert not (s.folder / "here.sock").exists()
        wait_until(lambda: load.total > 500, "500 answers")
    assert load.failures == []


def test_promise_12_what_is_queued_at_a_listener_that_stays_outlives_the_change() -> None:
    s = _server("unix:stays.sock", "unix:goes.sock", workers=1)
    with s, Gate(s) as gate, s.connect("unix:stays.sock") as sock, s.connect("unix:stays.sock") as queued:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        queued.sendall(one_request("/pid"))
        _write_bind(s, "unix:stays.sock")
        s.signal(signal.SIGHUP)
        assert b"HTTP/1.1 200" in queued.recv(65536), "by a new worker, while the old one is still at the gate"
        gate.open()
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        s.wait_line("no longer listening address=unix:goes.sock")


@pytest.mark.parametrize("kind", ["tcp", "unix", "abstract", "no such folder", "no such host"])
def test_promise_12_failed_bind_leaves_the_exact_old_set(kind: str) -> None:
    s = _server("unix:old.sock", "unix:older.sock", workers=1, expect=["reload rejected"])
    taken = socket.create_server(("127.0.0.1", 0))
    theirs = socket.socket(socket.AF_UNIX)
    with s, closing(taken), closing(theirs):
        theirs.bind(str(s.folder / "theirs.sock"))
        theirs.listen()
        bad = {
            "tcp": f"127.0.0.1:{taken.getsockname()[1]}",
            "unix": "unix:theirs.sock",
            "abstract": "unix:" + auto_socket(s.pid).replace("\0", "@"),  # the control socket
            "no such folder": "unix:no/such.sock",
            "no such host": "192.0.2.1:8000",
        }[kind]
        inodes = {name: (s.folder / name).stat().st_ino for name in ("old.sock", "older.sock", "theirs.sock")}
        descriptors = len(os.listdir(f"/proc/{s.pid}/fd"))
        workers = s.workers()
        _write_bind(s, "unix:old.sock", "unix:fresh.sock", "127.0.0.1:0", bad)
        s.signal(signal.SIGHUP)
        assert bad in s.wait_line("reload rejected")
        assert _addresses(s) == ["unix:old.sock", "unix:older.sock"]
        assert {name: (s.folder / name).stat().st_ino for name in inodes} == inodes
        assert not (s.folder / "fresh.sock").exists()
        assert len(os.listdir(f"/proc/{s.pid}/fd")) == descriptors
        assert s.workers() == workers
        assert [s.get_at(address, "/pid").json[1] for address in ("unix:old.sock", "unix:older.sock")] == [1, 1]


def test_promise_12_listener_of_a_reload_that_could_not_boot_is_closed_again() -> None:
    s = _server("unix:old.sock", app="fresh_app:app", workers=1, reload_retries=0)
    s.expect += ["worker could not boot", "reload failed"]
    s.write_app(answers("old"))
    with s:
        s.write_app("raise RuntimeError('broken')\n")
        _write_bind(s, "unix:old.sock", "unix:fresh.sock")
        s.signal(signal.SIGHUP)
        s.wait_line("no longer listening address=unix:fresh.sock")
        s.wait_line("reload failed")
        assert _addresses(s) == ["unix:old.sock"]
        assert not (s.folder / "fresh.sock").exists()
        assert s.get_at("unix:old.sock").text == "old 1 0"


def test_unix_path_that_somebody_else_has_taken_is_not_unlinked() -> None:
    s = _server("unix:old.sock", "unix:other.sock", workers=1)
    with s, closing(socket.socket(socket.AF_UNIX)) as theirs:
        (s.folder / "old.sock").unlink()
        theirs.bind(str(s.folder / "old.sock"))
        theirs.listen()
        _write_bind(s, "unix:other.sock")
        s.signal(signal.SIGHUP)
        s.wait_line("no longer listening address=unix:old.sock")
        assert (s.folder / "old.sock").exists(), "it is theirs"
        assert s.stop() == 0
        assert (s.folder / "old.sock").exists()
        assert not (s.folder / "other.sock").exists()
