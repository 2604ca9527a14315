"""Hostile input at the addresses of gateways: an error or the end, one line, the same worker, bounded memory."""

import random
from collections.abc import Callable, Iterator

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.gateway_clients import PROTOCOLS, address_of, ask, spell, variables
from tests.process.tools import status
from tests.unit.gateways import begin, fastcgi_params, fastcgi_request, listed, record, scgi_request, uwsgi_packet

SITE = "tests.process.gateway_site:app"
MOST_GROWTH_KB = 8 * 1024
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: somebody who took the wrong port\r\n\r\n"
TWICE = [*variables().items(), ("PATH_INFO", "/other")]
LARGE = {**variables(), **{f"HTTP_X_{number}": "x" * 8000 for number in range(60)}}


def scgi_raw(block: bytes) -> bytes:
    return b"%d:%b," % (len(block), block)


def pair_of_lengths(name: int, value: int) -> bytes:
    return (name | 1 << 31).to_bytes(4, "big") + (value | 1 << 31).to_bytes(4, "big")


GOOD = {protocol: spell(protocol, "/", "POST", b"x" * 100) for protocol in PROTOCOLS}

HOSTILE: dict[str, dict[str, bytes]] = {
    "uwsgi": {
        "HTTP": HTTP,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
        "code": uwsgi_packet({"UWSGI_FILE": "/tmp/x.py"}, modifier=22),
        "reload": bytes((98, 0, 0, 0)),
        "procedure": uwsgi_packet(variables(), modifier=173),
        "length beyond the packet": bytes((0, 6, 0, 0)) + b"\xff\xff" + b"ABCD",
        "doubles": uwsgi_packet(TWICE),
        "name with NUL": uwsgi_packet({**variables(), "A\0B": "x"}),
        "key of ours": uwsgi_packet({**variables(), "wsgi.input": "x"}),
        "many": uwsgi_packet({**variables(), **{f"HTTP_X{number}": "" for number in range(200)}}),
        "no method": uwsgi_packet({"PATH_INFO": "/"}),
        "length of body": uwsgi_packet({**variables(), "CONTENT_LENGTH": "-1"}),
        "body too large": uwsgi_packet({**variables("/", "POST"), "CONTENT_LENGTH": "999999999999"}),
    },
    "scgi": {
        "HTTP": HTTP,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
        "length bomb": b"99999999999999999999:",
        "large": scgi_request(LARGE),
        "7 digits": b"9999999:" + b"x" * 200_000,
        "leading zero": b"07:" + b"x" * 10,
        "no comma": scgi_request(variables())[:-1] + b"!",
        "odd": scgi_raw(b"CONTENT_LENGTH\x000\0SCGI\x001\0A\0"),
        "no SCGI": scgi_raw(b"CONTENT_LENGTH\x000\0A\0B\0"),
        "doubles": scgi_request(TWICE),
        "key of ours": scgi_request({**variables(), "forkserve.slot": "x"}),
        "body too large": scgi_request(variables("/", "POST")).replace(b"CONTENT_LENGTH\x000", b"CONTENT_LENGTH\x009"),
    },
    "fastcgi": {
        "HTTP": HTTP,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
        "length bomb": begin() + record(4, 1, pair_of_lengths(0x7FFFFFFF, 0x7FFFFFFF) + b"x") + record(4, 1),
        "length beyond": begin() + record(4, 1, pair_of_lengths(5, 70_000) + b"x" * 60_000) + record(4, 1),
        "endless params": begin() + record(4, 1, b"x" * 65_535) * 20,
        "body before params": begin() + record(5, 1, b"x"),
        "params after their end": begin() + record(4, 1, fastcgi_params(variables())) + record(4, 1) * 2,
        "begun twice": begin() + begin(),
        "short begin": record(1, 1, b"\0\1"),
        "record of a server": begin() + record(6, 1, b"x"),
        "too many questions": record(9, 0, b"") * 100,
        "longer than announced": fastcgi_request({**variables("/", "POST"), "CONTENT_LENGTH": "1"}, b"xx"),
        "shorter than announced": fastcgi_request({**variables("/", "POST"), "CONTENT_LENGTH": "9"}, b"xx"),
        "key of ours": fastcgi_request({**variables(), "wsgi.url_scheme": "x"}),
        "host twice": fastcgi_request([*variables().items(), ("HTTP_HOST", "other")]),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    bind = ["uwsgi://127.0.0.1:0", "fastcgi://127.0.0.1:0", "scgi://127.0.0.1:0"]
    with Server(app=SITE, bind=bind, header_timeout=1, body_timeout=1, limit_request_body=10_000_000) as server:
        yield server


@pytest.fixture
def unharmed(server: Server) -> Iterator[Callable[[], int]]:
    """The worker is the same afterwards and has not grown; gives what counts the lines of the log."""
    [pid] = server.workers()
    for protocol in PROTOCOLS:  # what the first request of each loads is no growth
        ask(server, protocol, "/", "POST", b"x" * 1000)
    before = int(status(pid, "VmRSS").split()[0])
    yield lambda: len(server.lines("request refused")) + len(server.lines("request broken off"))
    for protocol in PROTOCOLS:
        assert ask(server, protocol, "/pid").body.split()[0] == str(pid).encode()
    assert server.workers() == [pid]
    assert int(status(pid, "VmRSS").split()[0]) - before < MOST_GROWTH_KB


def exchange(server: Server, protocol: str, raw: bytes, *, end: bool = False) -> bytes:
    with server.connect(address_of(server, protocol)) as sock:
        try:
            sock.sendall(raw)
            if end:
                sock.shutdown(1)
            return read_to_end(sock)
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    ("protocol", "case"), [(protocol, case) for protocol, cases in HOSTILE.items() for case in cases]
)
def test_what_no_gateway_sends_ends_the_connection_with_one_line(
    server: Server, unharmed: Callable[[], int], protocol: str, case: str
) -> None:
    lines = unharmed()
    answer = exchange(server, protocol, HOSTILE[protocol][case])
    assert b"200 OK" not in answer
    wait_until(lambda: unharmed() > lines, "the line")
    assert unharmed() == lines + 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_is_cut_anywhere_is_no_request(
    server: Server, unharmed: Callable[[], int], protocol: str
) -> None:
    lines = unharmed()
    good = GOOD[protocol]
    for size in range(1, len(good) - 16, 7):
        assert b"200 OK" not in exchange(server, protocol, good[:size], end=True)
    count = len(range(1, len(good) - 16, 7))
    wait_until(lambda: unharmed() >= lines + count, f"{count} lines")
    assert unharmed() == lines + count


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_random_changes_harm_nobody(server: Server, unharmed: Callable[[], int], protocol: str) -> None:
    chance = random.Random(protocol)
    for _ in range(150):
        raw = bytearray(GOOD[protocol] if chance.random() < 0.8 else chance.randbytes(500))
        for _ in range(chance.randrange(1, 8)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        exchange(server, protocol, bytes(raw), end=True)


def test_variables_of_64_kb_are_bounded_by_the_limits(server: Server, unharmed: Callable[[], int]) -> None:
    value = "x" * 65_000
    for _ in range(20):
        assert b"431 Request Header Fields Too Large" in exchange(
            server, "uwsgi", uwsgi_packet({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X": value})
        )
    assert len(listed({"HTTP_X": value})[0][1]) == 65_000
