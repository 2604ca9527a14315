"""Promise 12: a listener is known by its place; what it is called and what is spoken at it change without a gap."""

import os
import signal
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificate, needs_openssl
from tests.harness import PATIENCE_S, Server, read_to_end, wait_until
from tests.process.gateway_clients import Reply, spell
from tests.process.load import Load
from tests.process.probes import status
from tests.process.tools import Gate, answers, one_request
from tests.unit import test_proxy as proxy
from tests.unit.tls_pair import client_context

SITE = "tests.process.site:app"
NOBODY = 65534
WAYS = [signal.SIGHUP, signal.SIGUSR2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def write(s: Server, *addresses: str, **settings: str) -> None:
    """Change the settings; the next signal makes them hold."""
    lines = [f"bind = {list(addresses)!r}"] if addresses else []
    s.config.write_text("\n".join([*lines, *(f'{name} = "{value}"' for name, value in settings.items())]) + "\n")


def server(*addresses: str, app: str = SITE, **settings: Any) -> Server:
    """A server whose addresses are all in its settings file."""
    s = Server(app=app, config="", **{"reload_settle": 0, **settings})
    s.expect.append("socket handed in is not used")
    write(s, *addresses)
    return s


def addresses(s: Server) -> list[str]:
    return [listener["address"] for listener in status(s)["listeners"]]


def listening_sockets(s: Server) -> set[str]:
    """Each socket of the master that listens, by its inode."""
    ours = set()
    for fd in os.listdir(f"/proc/{s.pid}/fd"):
        try:
            ours.add(os.readlink(f"/proc/{s.pid}/fd/{fd}").removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            pass
    found = set()
    for table, state, listens, inode in (("tcp", 3, "0A", 9), ("tcp6", 3, "0A", 9), ("unix", 3, "00010000", 6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[state] == listens and fields[inode] in ours and "forkserve/" not in line:
                found.add(fields[inode])
    return found


def ask_scgi(s: Server, address: str, path: str = "/pid") -> Any:
    with s.connect(address) as sock:
        sock.sendall(spell("scgi", path))
        return Reply("scgi", read_to_end(sock)).json


KINDS = ["tcp", "unix", "abstract"]


def a_place(kind: str) -> str:
    return {
        "tcp": f"127.0.0.1:{free_port()}",
        "unix": "unix:here.sock",
        "abstract": f"unix:@forkserve-places-{os.getpid()}",
    }[kind]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_promise_12_protocol_of_a_place_changes_and_its_socket_stays(kind: str, way: signal.Signals) -> None:
    place = a_place(kind)
    s = server(place, workers=2)
    with s:
        sockets = listening_sockets(s)
        assert s.get_at(place, "/pid").json[1] == 1
        for round_, (now, was) in enumerate([(f"scgi://{place}", place), (place, f"scgi://{place}")]):
            write(s, now)
            s.signal(way)
            s.wait_line("reload done", round_ + 1)
            assert s.lines(f"listening address={now} was={was}")
            assert addresses(s) == [now]
            answer = s.get_at(place, "/pid").json if now == place else ask_scgi(s, place)
            assert answer[1] == 2 + round_
        assert listening_sockets(s) == sockets, "it was another socket, and who was queued was lost"
        assert not s.lines("no longer listening")


@pytest.mark.parametrize("kind", KINDS)
def test_promise_12_both_generations_serve_the_place_until_the_old_one_has_left(kind: str) -> None:
    place = a_place(kind)
    s = server(place, workers=1)
    with s, Gate(s) as gate, s.connect(place) as old:
        old.sendall(one_request(gate.path))
        gate.wait_entered()
        write(s, f"scgi://{place}")
        s.signal(signal.SIGHUP)
        s.wait_line("worker ready id=2")
        assert ask_scgi(s, place)[1] == 2
        assert addresses(s) == [place, f"scgi://{place}"]
        gate.open()
        assert read_to_end(old).startswith(b"HTTP/1.1 200")
        s.wait_line("reload done")
        assert addresses(s) == [f"scgi://{place}"]


def test_promise_12_setting_protocol_changes_what_is_spoken_at_every_place() -> None:
    places = [f"127.0.0.1:{free_port()}", "unix:here.sock"]
    s = server(*places, workers=1)
    with s:
        write(s, *places, protocol="scgi")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert [ask_scgi(s, place)[1] for place in places] == [2, 2]
        assert addresses(s) == [f"scgi://{place}" for place in places]


@pytest.mark.parametrize("way", WAYS)
def test_promise_12_socket_that_was_handed_in_changes_its_protocol(way: signal.Signals) -> None:
    s = Server(app=SITE, config="", workers=1, reload_settle=0)
    with s:
        for round_, bind in enumerate(["scgi://fd://3", f"127.0.0.1:{s.port}", f"scgi://127.0.0.1:{s.port}"]):
            write(s, bind)
            s.signal(way)
            s.wait_line("reload done", round_ + 1)
            answer = ask_scgi(s, "") if bind.startswith("scgi") else s.get("/pid").json
            assert answer[1] == 2 + round_
        assert addresses(s) == [f"scgi://127.0.0.1:{s.port}"]
        assert not s.lines("no longer listening")


@pytest.mark.parametrize("broken", ["code", "address"])
def test_promise_12_changed_protocol_is_taken_back_when_the_reload_fails(broken: str) -> None:
    place = f"127.0.0.1:{free_port()}"
    s = server(place, app="fresh_app:app", workers=2, reload_retries=0)
    s.expect += ["worker could not boot", "reload failed", "reload rejected", "killed by signal 9"]
    s.write_app(answers("old"))
    with s:
        if broken == "code":
            s.write_app("raise RuntimeError('broken')\n")
            write(s, f"scgi://{place}")
        else:
            write(s, f"scgi://{place}", "unix:no/such/folder")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed" if broken == "code" else "reload rejected")
        wait_until(lambda: addresses(s) == [place], "what was before")
        if broken == "code":
            assert s.lines(f"listening address={place} was=scgi://{place}"), "the log says that it was taken back"
        s.write_app(answers("old"))
        s.kill(s.workers()[0])
        s.wait_line("worker ready id=" + ("4" if broken == "code" else "3"))
        assert {s.get_at(place).text for _ in range(20)} == {"old 1 0"}
        write(s, f"scgi://{place}")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        with s.connect(place) as sock:
            sock.sendall(spell("scgi"))
            assert Reply("scgi", read_to_end(sock)).body.startswith(b"old ")


def test_promise_12_reload_that_takes_a_new_protocol_back_supersedes_one_that_cannot_boot_yet() -> None:
    place = f"127.0.0.1:{free_port()}"
    s = server(place, app="fresh_app:app", workers=1, boot_timeout=60)
    s.write_app("import time\n" + answers("old"))
    with s:
        s.write_app("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n" + answers("new"))
        write(s, f"scgi://{place}")
        s.signal(signal.SIGHUP)
        s.wait_line("worker forked id=2")
        assert s.get_at(place).text == "old 1 0", "the old one alone serves, in its own protocol"
        write(s, place)  # superseded: the place is called as it was
        s.signal(signal.SIGHUP)
        s.wait_line(f"listening address={place} was=scgi://{place}")
        (s.folder / "go").touch()
        s.wait_line("reload done")
        assert s.get_at(place).text == "new 3 0"
        assert addresses(s) == [place]


def test_promise_12_kept_connections_go_on_in_the_protocol_that_they_began_with() -> None:
    place = f"127.0.0.1:{free_port()}"
    s = server(place, workers=2)
    with s, closing(HTTPConnection("127.0.0.1", int(place.rpartition(":")[2]), timeout=PATIENCE_S)) as kept:
        kept.request("GET", "/pid")
        answer = kept.getresponse()
        assert (answer.status, b", 1, " in answer.read()) == (200, True)
        sock = kept.sock
        write(s, f"scgi://{place}")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        kept.request("GET", "/pid")
        answer = kept.getresponse()
        assert (answer.status, b", 2, " in answer.read(), kept.sock is sock) == (200, True, True)
        assert ask_scgi(s, place)[1] == 2


# Other names of one place, and places that overlap: each row is a way through them, at which one client asks all along.
def rows(port: int) -> dict[str, tuple[str, list[str]]]:
    here = f"127.0.0.1:{port}"
    return {
        "name": (here, [f"localhost:{port}", here, f"localhost:{port}"]),
        "path": ("unix:run/here.sock", ["unix:run/here.sock", "unix:{folder}/run/here.sock", "unix:link/here.sock"]),
        "every interface": (here, [f"0.0.0.0:{port}", here, f":{port}", here]),
        "every interface, v6": (f"[::1]:{port}", [f"[::]:{port}", f"[::1]:{port}", f"[::]:{port}"]),
    }


def run_through(s: Server, address: str, steps: list[str], way: signal.Signals, rounds: int) -> Load:
    """Go through the steps under load."""
    done = 0
    with s, Load(s, address) as load:
        for step in steps[1:] * rounds:
            write(s, step.format(folder=s.folder))
            s.signal(way)
            done += 1
            s.wait_line("reload done", done)
            assert len(addresses(s)) == 1
        wait_until(lambda: load.total > 200, "200 answers")
    return load


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", list(rows(0)))
def test_promise_12_other_name_of_a_place_loses_nothing_under_load(row: str, way: signal.Signals) -> None:
    address, steps = rows(free_port())[row]
    s = server(steps[0], app="fresh_app:app", workers=2)
    (s.folder / "run").mkdir()
    (s.folder / "link").symlink_to("run")
    s.write_app(answers("code"))
    load = run_through(s, address, steps, way, rounds=1)
    assert load.failures == []
    assert len(load.by_way) == 4


@needs_openssl
def test_promise_12_every_interface_instead_of_one_loses_no_tls_client(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, "a", "DNS:a.example")
    port = free_port()
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    files = {"certfile": str(certificate.file), "keyfile": str(certificate.key)}
    s = server(here, app="fresh_app:app", workers=2, keepalive=1, **files)
    s.write_app(answers("code"))
    context = client_context()
    with s, Load(s, here, lambda sock: context.wrap_socket(sock)) as load:
        for done, bind in enumerate([everywhere, here]):
            write(s, bind)
            s.signal(signal.SIGHUP)
            s.wait_line("reload done", done + 1)
        wait_until(lambda: load.total > 100, "100 answers")
    assert load.failures == []


@pytest.mark.parametrize("is_root", [True, False])
def test_promise_12_every_interface_instead_of_one_for_root_and_for_a_plain_user(is_root: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be both")
    port = free_port()
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    launcher = [] if is_root else ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    s = server(here, app="fresh_app:app", workers=1, launcher=launcher)
    for path in (s.folder, s.folder / "notify"):
        path.chmod(0o777)
    s.write_app(answers("code"))
    with s:
        for done, bind in enumerate([everywhere, f"scgi://{here}", here]):
            write(s, bind)
            s.signal(signal.SIGHUP)
            s.wait_line("reload done", done + 1)
            assert addresses(s) == [bind]
        assert s.get_at(here).text == "code 4 0"


@pytest.mark.parametrize("wide", ["old", "new"])
def test_promise_12_nobody_waits_for_the_last_old_worker_where_places_overlap(wide: str) -> None:
    port = free_port()
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    old, new = (everywhere, here) if wide == "old" else (here, everywhere)
    s = server(old, workers=1)
    with s, Gate(s) as gate, s.connect(here) as slow:
        slow.sendall(one_request(gate.path))
        gate.wait_entered()
        write(s, new)
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        assert s.get_at(here, "/pid").json[1] == 2
        assert not s.lines("no longer listening"), "the old worker is still there"
        gate.open()
        assert read_to_end(slow).startswith(b"HTTP/1.1 200")
        s.wait_line("reload done")
        s.wait_line(f"no longer listening address={old}")
        assert s.lines(f"] [info] listening address={new} was={old}")
        assert s.get_at(here, "/pid").json[1] == 2
        assert addresses(s) == [new]
        wait_until(lambda: _holds_nothing_closed(s), "the worker to let go of the listener that stood in")


def test_stop_during_the_change_of_a_place_that_overlaps_answers_who_is_queued() -> None:
    port = free_port()
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    s = server(here, workers=1)
    with s, Gate(s) as gate, Gate(s, "second") as second, s.connect(here) as slow, s.connect(here) as too:
        slow.sendall(one_request(gate.path))
        gate.wait_entered()
        write(s, everywhere)
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        too.sendall(one_request(second.path))
        second.wait_entered()
        with s.connect(here) as queued:
            queued.sendall(one_request("/pid"))
            s.signal(signal.SIGTERM)
            s.wait_line("draining")
            second.open()
            gate.open()
            assert read_to_end(queued).startswith(b"HTTP/1.1 200")
        assert read_to_end(too).startswith(b"HTTP/1.1 200") and read_to_end(slow).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0


def _holds_nothing_closed(s: Server) -> bool:
    """Whether the worker has as many sockets of this port as the master: one."""
    ours = listening_sockets(s)
    [worker] = s.workers()
    held = {os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")}
    return len(ours) == 1 and f"socket:[{next(iter(ours))}]" in held


@pytest.mark.parametrize("wide", ["old", "new"])
def test_promise_12_broken_code_leaves_a_place_that_would_be_overlapped_as_it_was(wide: str) -> None:
    port = free_port()
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    old, new = (everywhere, here) if wide == "old" else (here, everywhere)
    s = server(old, app="fresh_app:app", workers=2, reload_retries=0, expect=["worker could not boot", "reload failed"])
    s.write_app(answers("old"))
    with s, Load(s, here) as load:
        sockets = listening_sockets(s)
        s.write_app("raise RuntimeError('broken')\n")
        write(s, f"scgi://{new}")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        wait_until(lambda: addresses(s) == [old], "what was before")
        assert listening_sockets(s) == sockets
        wait_until(lambda: load.total > 100, "100 answers")
    assert load.failures == []


def test_promise_12_nobody_who_is_queued_is_reset_when_a_place_covers_another_one() -> None:
    """Connections alone, as many as come: those of the moment in which the old listener ends are the ones to lose."""
    port = free_port()
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    s = server(here, app="fresh_app:app", workers=2)
    s.write_app(answers("code"))
    over, count, lost = threading.Event(), [0], list[str]()

    def ask() -> None:
        while not over.is_set():
            try:
                assert s.get_at(here).status == 200
                count[0] += 1
            except (OSError, AssertionError) as error:
                lost.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(6)]
    with s:
        for client in clients:
            client.start()
        try:
            for done in range(200 if os.environ.get("FORKSERVE_FULL") else 6):
                write(s, here if done % 2 else everywhere)
                s.signal(signal.SIGHUP)
                s.wait_line("reload done", done + 1)
        finally:
            over.set()
            for client in clients:
                client.join()
    print(f"{count[0]} answers, {len(lost)} lost: {lost[:3]}")
    assert count[0] > 100
    assert lost == []


@pytest.mark.parametrize(
    ("bind", "code"),
    [
        (["127.0.0.1:{port}", "scgi://127.0.0.1:{port}"], 2),
        (["localhost:{port}", "127.0.0.1:{port}"], 2),
        (["unix:here.sock", "scgi://unix:here.sock"], 2),
        (["unix:here.sock", "unix:{folder}/here.sock"], 2),
        (["0.0.0.0:{port}", "127.0.0.1:{port}"], 2),
    ],
)
def test_two_names_of_one_place_are_one_line_that_has_both(bind: list[str], code: int) -> None:
    s = server("unix:other.sock", expect=["reload rejected"])
    port = free_port()
    bind = [one.format(port=port, folder=s.folder) for one in bind]
    with s:
        write(s, *bind)
        s.signal(signal.SIGHUP)
        line = s.wait_line("reload rejected")
        assert all(f"'{one}'" in line or f'"{one}"' in line or f'\\"{one}\\"' in line for one in bind), line
        assert addresses(s) == ["unix:other.sock"]
    started = server(*bind, await_ready=False)
    write(started, *[one.replace(str(s.folder), str(started.folder)) for one in bind])
    with started:
        assert started.wait_exit() == code
        [said] = started.said().splitlines()
        assert "leave one of them out" in said


@needs_openssl
def test_https_at_a_unix_socket_has_the_port_of_https(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, "a", "DNS:a.example")
    files: dict[str, Any] = {"certfile": certificate.file, "keyfile": certificate.key}
    with Server(app=SITE, bind=["unix:here.sock", "127.0.0.1:0"], workers=1, **files) as s:
        for address, port in zip(s.addresses, ["443", s.addresses[1].rpartition(":")[2]], strict=True):
            with client_context().wrap_socket(s.connect(address)) as sock:
                sock.sendall(one_request("/environ"))
                head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert f'"SERVER_PORT": "{port}"'.encode() in body
            assert b'"HTTPS": "on"' in body


def test_https_that_a_proxy_tells_at_a_unix_socket_has_the_port_of_https() -> None:
    settings: dict[str, Any] = {"proxy_protocol": "any", "proxy_allow_ips": "unix"}
    with Server(app=SITE, bind=["unix:here.sock"], workers=1, **settings) as s:
        for block, family, port in [
            (proxy.UNIX + proxy.tls(1, 0), 0x31, "443"),
            (proxy.UNIX, 0x31, "80"),
            (proxy.TCP4 + proxy.tls(1, 0), 0x11, "443"),
        ]:
            with s.connect("unix:here.sock") as sock:
                sock.sendall(proxy.v2(block, family=family) + one_request("/environ"))
                answer = read_to_end(sock)
            assert f'"SERVER_PORT": "{port}"'.encode() in answer
    with Server(app=SITE, bind=["unix:here.sock"], workers=1) as s:
        for fields, port in [
            ({"X_Forwarded_Proto": "https"}, "443"),
            ({"X_Forwarded_Proto": "https", "Host": "example.org"}, "443"),
            ({"X_Forwarded_Proto": "https", "Host": "example.org:8443"}, "8443"),
            ({"X_Forwarded_Proto": "https", "X_Forwarded_Port": "444"}, "444"),
            ({"Forwarded": "proto=https"}, "443"),
            ({}, "80"),
        ]:
            assert s.get_at("unix:here.sock", "/environ", **fields).json["SERVER_PORT"] == port


def test_https_that_a_gateway_tells_at_a_unix_socket_has_the_port_of_https() -> None:
    with Server(app=SITE, bind=["scgi://unix:here.sock"], workers=1) as s:
        for scheme, port in (("on", "443"), ("off", "80")):
            with s.connect(s.addresses[0]) as sock:
                sock.sendall(spell("scgi", "/environ", SERVER_PORT="", HTTPS=scheme))
                assert Reply("scgi", read_to_end(sock)).json["SERVER_PORT"] == port
