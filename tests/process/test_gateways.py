"""uwsgi, FastCGI and SCGI as a live service: what HTTP is promised, these are too."""

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.gateway_clients import (
    PROTOCOLS,
    Reply,
    address_of,
    ask,
    read_request_end,
    spell,
    stdout_of,
    variables,
)
from tests.process.tools import Gate
from tests.unit.gateways import fastcgi_request, record, request_for

SITE = "tests.process.gateway_site:app"
BIND = ["http://127.0.0.1:0", "uwsgi://127.0.0.1:0", "fastcgi://unix:app.fcgi", "scgi://127.0.0.1:0"]
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(app=SITE, bind=BIND, header_timeout=1, body_timeout=1, threads=1, accesslog="access.log")
    server.expect = ["app raised", "app sent less", "app sent more"]
    with server:
        yield server


@every_protocol
@pytest.mark.parametrize("threads", [1, 2])
def test_every_protocol_is_served_beside_http(protocol: str, threads: int) -> None:
    with Server(app=SITE, bind=BIND, threads=threads) as s:
        assert len({address.partition("://")[0] for address in s.addresses}) == 4
        assert s.get_at(s.addresses[0], "/").status == 200
        reply = ask(s, protocol, "/a b?c=d", "POST", b"x" * 700_000, HTTP_COOKIE="e=f")
        assert (reply.status, reply.is_ended, reply.headers["X-Method"]) == ("200 OK", True, "POST")
        assert int(reply.headers["Content-Length"]) == len(reply.body)
        assert not {"Connection", "Transfer-Encoding"} & set(reply.headers)
        assert reply.json["bytes"] == 700_000
        environ = reply.json["environ"]
        assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["SCRIPT_NAME"]) == ("/a b", "c=d", "")
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.7", "https")
        assert environ["HTTP_COOKIE"] == "e=f"


@every_protocol
def test_the_setting_decides_what_addresses_without_a_protocol_speak(protocol: str) -> None:
    with Server(app=SITE, bind=["127.0.0.1:0", "http://127.0.0.1:0"], protocol=protocol, mount="/shop") as s:
        assert s.addresses[0].startswith(f"{protocol}://")
        environ = ask(s, protocol, "/shop/cart").json["environ"]
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/cart")
        assert s.get_at(s.addresses[1], "/").status == 200


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_socket_that_is_handed_in_speaks_what_the_setting_says(protocol: str) -> None:
    with Server(app=SITE, protocol=protocol) as s:
        assert s.addresses == [f"{protocol}://127.0.0.1:{s.port}"]
        assert ask(s, protocol).status == "200 OK"


@every_protocol
@pytest.mark.parametrize("path", ["/", "/stream?3", "/large?100000", "/empty"])
def test_head_gets_a_head_alone(server: Server, protocol: str, path: str) -> None:
    reply = ask(server, protocol, path, "HEAD")
    assert (reply.status[0], reply.body, reply.is_ended) == ("2", b"", True)


@every_protocol
def test_a_body_of_unknown_length_ends_with_its_stream(server: Server, protocol: str) -> None:
    reply = ask(server, protocol, "/stream?300")
    assert reply.body == b"".join(b"%d\n" % number * 100 for number in range(300))
    assert reply.is_ended and "Content-Length" not in reply.headers


@every_protocol
def test_a_large_body_arrives_whole(server: Server, protocol: str) -> None:
    reply = ask(server, protocol, "/large?30000000")
    assert (len(reply.body), reply.is_ended) == (30_000_000, True)


@every_protocol
def test_a_file_arrives_whole_and_with_its_length(server: Server, protocol: str) -> None:
    path = server.folder / "file"
    path.write_bytes(bytes(range(256)) * 2000)
    reply = ask(server, protocol, f"/file?{path}")
    assert reply.body == path.read_bytes()
    assert (reply.headers["Content-Length"], reply.is_ended) == ("512000", True)


@every_protocol
def test_a_status_without_a_body_has_none(server: Server, protocol: str) -> None:
    reply = ask(server, protocol, "/empty")
    assert (reply.status, reply.body, reply.is_ended) == ("204 No Content", b"", True)


@every_protocol
def test_an_app_that_raises_is_500(server: Server, protocol: str) -> None:
    reply = ask(server, protocol, "/raise")
    assert (reply.status, reply.body, reply.is_ended) == (
        "500 Internal Server Error", b"500 Internal Server Error\n", True,
    )  # fmt: skip


@every_protocol
def test_a_body_that_breaks_off_does_not_look_whole(server: Server, protocol: str) -> None:
    with server.connect(address_of(server, protocol)) as sock:
        sock.sendall(spell(protocol, "/breaks"))
        try:
            raw = read_to_end(sock)
        except ConnectionResetError:
            return
    assert protocol == "fastcgi" and not Reply(protocol, raw).is_ended  # unix sockets know no reset


@every_protocol
def test_a_body_shorter_than_announced_does_not_look_whole(server: Server, protocol: str) -> None:
    reply = ask(server, protocol, "/short")
    assert (reply.headers["Content-Length"], reply.body) == ("10", b"short")
    assert protocol != "fastcgi" or not reply.is_ended


@every_protocol
@pytest.mark.parametrize("part", [3, 60, -5])
def test_a_gateway_that_is_too_slow_is_told_and_logged(server: Server, protocol: str, part: int) -> None:
    count = len(server.lines("too slow"))
    with server.connect(address_of(server, protocol)) as sock:
        sock.sendall(spell(protocol, "/", "POST", b"x" * 100)[:part])
        raw = read_to_end(sock)
        assert b"408 Request Timeout" in raw or (protocol == "fastcgi" and part == 3)
    server.wait_line("too slow", count + 1)


@every_protocol
def test_the_limits_of_http_hold(server: Server, protocol: str) -> None:
    assert ask(server, protocol, "/", HTTP_X_LONG="x" * 8000).status == "200 OK"
    assert ask(server, protocol, "/", HTTP_X_LONG="x" * 9000).status == "431 Request Header Fields Too Large"
    assert ask(server, protocol, "/" + "x" * 5000).status == "414 URI Too Long"


@every_protocol
def test_the_access_log_names_the_client(server: Server, protocol: str) -> None:
    ask(server, protocol, f"/logged/{protocol}")
    path = server.folder / "access.log"
    line = f'"GET /logged/{protocol} HTTP/1.1" 200'
    wait_until(lambda: line in path.read_text(), "the access line")
    assert next(entry for entry in path.read_text().splitlines() if line in entry).startswith("192.0.2.7 ")


@every_protocol
@pytest.mark.parametrize("threads", [1, 2])
def test_a_request_that_takes_too_long_is_504(protocol: str, threads: int) -> None:
    with Server(app=SITE, bind=BIND, timeout=0.5, threads=threads) as s:
        s.expect = ["overdue", "took too long", "worker", "thread", "Stack", "File"]
        reply = ask(s, protocol, "/sleep?30")
        assert (reply.status, reply.body, reply.is_ended) == ("504 Gateway Timeout", b"504 Gateway Timeout\n", True)


@every_protocol
def test_a_stop_finishes_what_runs(protocol: str) -> None:
    with Server(app=SITE, bind=BIND) as s, Gate(s) as gate, s.connect(address_of(s, protocol)) as sock:
        sock.sendall(spell(protocol, gate.path))
        gate.wait_entered()
        s.signal(signal.SIGTERM)
        s.wait_status("draining")
        gate.open()
        assert Reply(protocol, read_to_end(sock)).body == b"through"
        assert s.wait_exit() == 0


@every_protocol
def test_who_is_not_allowed_is_closed_with_a_line(protocol: str) -> None:
    bind = [f"{protocol}://127.0.0.1:0", "127.0.0.1:0"]
    with Server(app=SITE, bind=bind, gateway_allow_ips="192.0.2.0/24") as s:
        with s.connect(s.addresses[0]) as sock:
            assert read_to_end(sock) == b""
        s.wait_line('connection refused reason="not in gateway_allow_ips"')
        assert s.get_at(s.addresses[1], "/").status == 200


def kept(path: str, request_id: int = 1, body: bytes = b"") -> bytes:
    return fastcgi_request(
        variables(path, "POST" if body else "GET", len(body)), body, request_id=request_id, keep=True
    )


def test_a_kept_fastcgi_connection_answers_one_after_the_other(server: Server) -> None:
    with server.connect(address_of(server, "fastcgi")) as sock:
        for number in range(1, 4):
            sock.sendall(kept("/pid", number))
            reply = read_request_end(sock)
            assert reply.raw[2:4] == number.to_bytes(2, "big")
        sock.sendall(kept("/pid", 1) + kept("/pid", 2))
        raw = b""
        while raw.count(b"Status: 200") < 2:
            raw += sock.recv(65536)


def test_a_body_longer_than_announced_is_cut_and_ends_once(server: Server) -> None:
    with server.connect(address_of(server, "fastcgi")) as sock:
        sock.sendall(spell("fastcgi", "/over"))
        raw, is_ended, after = stdout_of(read_to_end(sock))
    assert (raw[-9:], is_ended, after) == (b"\r\n\r\nright", True, b"")


def test_fastcgi_answers_what_the_protocol_asks(server: Server) -> None:
    with server.connect(address_of(server, "fastcgi")) as sock:
        sock.sendall(record(9, 0, b"\x0f\x00FCGI_MPXS_CONNS"))
        assert b"FCGI_MPXS_CONNS0" in sock.recv(1000)
        sock.sendall(record(77, 0, b"?"))
        assert sock.recv(1000)[1] == 11
        sock.sendall(kept("/pid"))
        read_request_end(sock)
        sock.sendall(record(1, 5, b"\0\2\0\0\0\0\0\0"))  # an authorizer, and the connection is not to be kept
        assert sock.recv(1000)[12] == 3
        assert read_to_end(sock) == b""


def test_a_kept_fastcgi_connection_survives_a_reload() -> None:
    with Server(app=SITE, bind=BIND, workers=2, keepalive=30) as s, s.connect(address_of(s, "fastcgi")) as sock:
        sock.sendall(kept("/pid"))
        assert read_request_end(sock).body.endswith(b" 1")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        sock.sendall(kept("/pid"))
        assert read_request_end(sock).body.endswith(b" 2")


def test_a_kept_fastcgi_connection_is_passed_on_by_a_busy_worker() -> None:
    with Server(app=SITE, bind=["fastcgi://127.0.0.1:0"], workers=2, keepalive=30) as s, Gate(s) as gate:
        address = s.addresses[0]
        socks: list[socket.socket] = []
        try:
            by_pid: dict[bytes, list[socket.socket]] = {}
            while not any(len(found) > 1 for found in by_pid.values()):
                socks.append(s.connect(address))
                socks[-1].sendall(kept("/pid"))
                by_pid.setdefault(read_request_end(socks[-1]).body, []).append(socks[-1])
            busy, waiting = next(found for found in by_pid.values() if len(found) > 1)[:2]
            busy.sendall(kept(gate.path))
            gate.wait_entered()
            waiting.sendall(kept("/pid"))
            assert read_request_end(waiting).status == "200 OK"  # though its worker stands at the gate
            gate.open()
            assert read_request_end(busy).body == b"through"
        finally:
            for sock in socks:
                sock.close()


@every_protocol
def test_a_gateway_that_leaves_in_the_middle_harms_nobody(server: Server, protocol: str) -> None:
    count = len(server.lines("request broken off"))
    with server.connect(address_of(server, protocol)) as sock:
        sock.sendall(spell(protocol, "/", "POST", b"x" * 1000)[:-300])
    server.wait_line("request broken off", count + 1)
    assert request_for(protocol, {})  # the next one is served
    assert ask(server, protocol).status == "200 OK"


def test_a_list_of_gateways_that_makes_no_sense_fails_the_start() -> None:
    with Server(app=SITE, bind=BIND, gateway_allow_ips="127.0.0.1/8", await_ready=False) as s:
        assert s.wait_exit() == 2
        [line] = s.said().splitlines()
        assert "gateway_allow_ips = " in line
        assert "is an address within 127.0.0.0/8" in line


@every_protocol
def test_an_address_takes_on_another_protocol_by_a_reload(protocol: str) -> None:
    s = Server(app=SITE, bind=["unix:http.sock"], config='protocol = "http"\n', reload_settle=0)
    with s:
        assert s.get_at("unix:http.sock", "/").status == 200
        s.config.write_text(f'protocol = "{protocol}"\n')
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert ask(s, protocol).status == "200 OK"
