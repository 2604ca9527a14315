"""What a service manager gets from the master beside READY: descriptors to keep, a watchdog, time; and gives back."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.gateway_clients import Reply, spell

SITE = "tests.process.site:app"
ORPHANS = ["master is gone; draining"]


class Store:
    """A service manager that keeps descriptors, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.kept: dict[str, int] = {}
        self.said: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def hear(self) -> "Store":
        """Take everything in that was sent."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 65536, 4)
            except BlockingIOError:
                return self
            self.said.append(data)
            fields = dict(line.split(b"=", 1) for line in data.splitlines())
            name = fields.get(b"FDNAME", b"").decode()
            if b"FDSTORE" in fields:
                [self.kept[name]] = fds
            if b"FDSTOREREMOVE" in fields:
                os.close(self.kept.pop(name))

    def close(self) -> None:
        self._socket.close()
        for fd in self.kept.values():
            os.close(fd)


def restarted(store: Store, **settings: object) -> Server:
    """A server that is handed what the store has kept, as systemd does after a crash."""
    fds = tuple(store.kept.values())
    s = Server(app=SITE, workers=1, pass_fds=fds, **settings)  # type: ignore[arg-type]
    moves = " ".join(f"{3 + place}<&{fd}" for place, fd in enumerate(fds))
    shell = f'exec {moves}; export LISTEN_PID=$$ LISTEN_FDS={len(fds)}; exec "$@"'
    s.env["LISTEN_FDNAMES"] = ":".join(store.kept)
    s.command = ["bash", "-c", shell, "launch", *s.command]
    return s


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_crashed_masters_successor_gets_its_listeners_and_no_connection_is_refused(kind: str, tmp_path: Path) -> None:
    bind = {"tcp": "127.0.0.1:0", "unix": f"unix:{tmp_path}/web.sock"}[kind]
    store = Store(tmp_path / "store")
    environ = {"NOTIFY_SOCKET": str(tmp_path / "store")}
    first = Server(app=SITE, bind=[bind], workers=1, env=environ, await_ready=False, expect=ORPHANS)
    with first:
        first.wait_line("serving gen=1")
        [name] = wait_until(lambda: store.hear().kept)
        assert name.isascii() and ":" not in name
        [address] = first.addresses
        first.signal(signal.SIGKILL)
        first.wait_exit()
        first.forget_pidfile()
        wait_until(lambda: not first.workers() and not first.alive())
        # Nobody lives, and nobody is refused.
        with first.connect(address) as queued, restarted(store, bind=[bind]) as second:
            assert "restored=" in second.wait_line(f"listening address={address}")
            queued.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert queued.recv(65536).startswith(b"HTTP/1.1 200 OK")
            assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(second.get_at(address, "/env").json)
            second.signal(signal.SIGUSR2)
            second.wait_line("reload done")
            assert second.get_at(address, "/pid").json[1] == 2
            second.stop()
            assert name in second.heard("FDNAME"), "what is shut is dropped by the manager too"
    store.close()
    assert not (tmp_path / "web.sock").exists()


def test_listener_that_is_closed_is_dropped_from_the_store_and_a_new_one_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    s = Server(
        app=SITE, config='bind = ["unix:a", "unix:b"]\n', env={"NOTIFY_SOCKET": str(tmp_path / "store")},
        reload_settle=0, await_ready=False, expect=["socket handed in is not used"],
    )  # fmt: skip
    with s:
        s.wait_line("serving gen=1")
        wait_until(lambda: len(store.hear().kept) == 2)
        s.config.write_text('bind = ["unix:b", "unix:c"]\n')
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        wait_until(lambda: sorted(name[-1] for name in store.hear().kept) == ["b", "c"])
        s.stop()
        assert store.hear().kept == {}
    store.close()


def test_kept_listener_is_known_by_its_place_whatever_it_is_called_and_speaks(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = Server(
        app=SITE, config=f'bind = "unix:{tmp_path}/s"\n', env={"NOTIFY_SOCKET": str(tmp_path / "store")}, workers=1,
        reload_settle=0, await_ready=False, expect=[*ORPHANS, "socket handed in is not used"],
    )  # fmt: skip
    with first:
        first.wait_line("serving gen=1")
        [before] = wait_until(lambda: store.hear().kept)
        first.config.write_text(f'bind = "uwsgi://unix:{tmp_path}/s"\n')
        first.signal(signal.SIGHUP)
        first.wait_line("reload done")
        wait_until(lambda: [name for name in store.hear().kept if name != before], "its new name")
        [name] = store.kept
        assert name == before.replace("|unix", "|uwsgi|//unix")
        first.signal(signal.SIGKILL)
        first.wait_exit()
        first.forget_pidfile()
    # The settings have changed once more when the next master comes.
    with restarted(store, bind=[f"scgi://unix:{tmp_path}/s"]) as second:
        assert second.lines("restored=")
        assert second.lines(f"listening address=scgi://unix:{tmp_path}/s was=uwsgi://unix:{tmp_path}/s")
        with second.connect(f"unix:{tmp_path}/s") as sock:
            sock.sendall(spell("scgi", "/pid"))
            assert Reply("scgi", read_to_end(sock)).status == "200 OK"
        second.stop()
        assert second.heard("FDNAME")[-1].replace("scgi", "uwsgi") == name
    store.close()


def test_kept_socket_that_is_no_longer_wanted_is_dropped_at_the_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = Server(
        app=SITE, bind=[f"unix:{tmp_path}/old"], env={"NOTIFY_SOCKET": str(tmp_path / "store")}, await_ready=False,
        expect=ORPHANS,
    )  # fmt: skip
    with first:
        first.wait_line("serving gen=1")
        [name] = wait_until(lambda: store.hear().kept)
        first.signal(signal.SIGKILL)
        first.wait_exit()
        first.forget_pidfile()
    with restarted(store, bind=[f"unix:{tmp_path}/new"]) as second:
        assert second.addresses == [f"unix:{tmp_path}/new"]
        assert second.heard("FDNAME")[0] == name
        assert not (tmp_path / "old").exists()
    store.close()


def test_address_in_bind_that_a_socket_handed_in_listens_at_means_that_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        s = Server(app=SITE, bind=[address], workers=1, pass_fds=(sock.fileno(),))
        shell = f'exec 3<&{sock.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        s.command = ["bash", "-c", shell, "launch", *s.command]
        with s:
            assert s.addresses == [address]
            assert s.get_at(address, "/pid").status == 200


def test_name_that_was_not_handed_in_fails_the_start() -> None:
    with Server(app=SITE, bind=["fd://web"], await_ready=False) as s:
        assert s.wait_exit() == 1
        assert "bind = 'fd://web': no socket of that name was handed in" in s.said()


def test_watchdog_is_fed_by_a_loop_that_runs_and_not_by_one_that_stands() -> None:
    s = Server(app=SITE, workers=1, env={"WATCHDOG_USEC": "200000"}, expect=["overslept"])
    with s:
        assert "WATCHDOG_USEC" not in s.get("/env").json
        wait_until(lambda: len(s.heard("WATCHDOG")) >= 3)
        s.signal(signal.SIGSTOP)
        stopped = len(s.heard("WATCHDOG"))
        began = time.monotonic()
        while time.monotonic() < began + 0.4:  # twice the interval: what is looked for is that nothing comes
            assert len(s.heard("WATCHDOG")) <= stopped + 1
        s.signal(signal.SIGCONT)
        wait_until(lambda: len(s.heard("WATCHDOG")) >= stopped + 2)
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done")
        again = len(s.heard("WATCHDOG"))
        wait_until(lambda: len(s.heard("WATCHDOG")) > again + 1)


def test_time_is_asked_for_while_workers_boot_before_ready_is_said() -> None:
    s = Server(app="fresh_app:app", workers=1, await_ready=False)
    s.write_app(f"open({str(s.folder / 'gate')!r}).read()\ndef app(environ, start_response): ...\n")
    os.mkfifo(s.folder / "gate")
    with s:
        wait_until(lambda: s.heard("EXTEND_TIMEOUT_USEC"))
        assert not s.heard("READY")
        open(s.folder / "gate", "w").close()
        s.wait_ready()
