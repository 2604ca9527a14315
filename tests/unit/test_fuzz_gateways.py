"""The front ends of gateways and the PROXY preface under mutated input.

Nothing but Refused is ever raised, how the bytes are cut decides nothing, and nobody makes us keep much of them.
FORKSERVE_FUZZ=<number> looks at so many examples of each kind instead of a few.
"""

import os
import random
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forkserve.protocol.proxy import SIGNATURE, PrefaceReader
from forkserve.protocol.types import Refused
from tests.unit.gateways import (
    NGINX,
    begin,
    decoder_for,
    fastcgi_params,
    fastcgi_request,
    feed,
    outcome,
    record,
    request_for,
    uwsgi_packet,
)

EXAMPLES = int(os.environ.get("FORKSERVE_FUZZ", "0")) or 150
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SMALL = {"REQUEST_METHOD": "POST", "PATH_INFO": "/a", "CONTENT_LENGTH": "5", "HTTP_HOST": "a"}
SEEDS: dict[str, list[bytes]] = {
    "uwsgi": [request_for("uwsgi", NGINX), request_for("uwsgi", SMALL, b"hello"), uwsgi_packet(SMALL, modifier=30)],
    "scgi": [request_for("scgi", NGINX), request_for("scgi", SMALL, b"hello")],
    "fastcgi": [
        fastcgi_request(NGINX, keep=True),
        fastcgi_request(SMALL, b"hello", keep=True, size=9, padding=3) + fastcgi_request(SMALL, b"hello"),
        record(9, 0, fastcgi_params({"FCGI_MAX_CONNS": ""})) + begin(2, role=2, keep=True) + record(13, 0),
        begin(1, keep=True) + begin(2) + record(4, 1, fastcgi_params(SMALL)) + record(4, 1) + record(2, 1),
    ],
    "proxy": [
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY UNKNOWN\r\n",
        SIGNATURE
        + b"\x21\x11\0\x2f"
        + bytes(12)
        + b"\x20\0\x0f\x07\0\0\0\0\x22\0\x07example"
        + b"\x02\0\x0bexample.org",
        SIGNATURE + b"\x21\x21\0\x28" + bytes(36) + b"\x04\0\x01\0",
        SIGNATURE + b"\x20\0\0\0",
    ],
}
PIECES = [
    b"\0",
    b"\xff\xff",
    b"\x80\0\0\x01",
    b":",
    b",",
    b"\r\n",
    b"wsgi.input",
    b"HTTP_PROXY",
    b"9999999",
    b"-1",
    b"GET ",
]


@st.composite
def mutated(draw: st.DrawFn, protocol: str) -> bytes:
    """A valid request with a few faults: bytes replaced, put in, left out, doubled, cut off, a second one behind."""
    data = bytearray(draw(st.sampled_from(SEEDS[protocol])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 20)))
        match draw(st.integers(0, 6)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
            case 2:
                del data[at:end]
            case 3:
                data[end:end] = data[at:end]
            case 4:
                del data[at:]
            case 5:
                data += draw(st.sampled_from(SEEDS[protocol]))
            case _:
                data[at : at + 1] = bytes((data[at] ^ 1 << draw(st.integers(0, 7)),)) if at < len(data) else b""
    return bytes(data)


def decoded(protocol: str, pieces: Iterable[bytes]) -> object:
    """All that a decoder makes of ``pieces``."""
    decoder = decoder_for(protocol, mount="/m")
    refused = None
    for piece in pieces:
        refused = feed(decoder, piece)
        if refused is not None:
            break
    result = outcome(decoder, refused)
    decoder.close()
    return result


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


@pytest.mark.parametrize("protocol", ["uwsgi", "scgi", "fastcgi"])
def test_how_the_bytes_are_cut_decides_nothing(protocol: str) -> None:
    @fuzz
    @given(mutated(protocol), st.integers(2, 40))
    def check(data: bytes, step: int) -> None:
        whole = decoded(protocol, [data])
        assert decoded(protocol, cut(data, 1)) == whole
        assert decoded(protocol, cut(data, step)) == whole

    check()


@pytest.mark.parametrize("protocol", ["uwsgi", "scgi", "fastcgi"])
def test_garbage_is_refused_or_waited_for(protocol: str) -> None:
    @fuzz
    @given(st.binary(max_size=200))
    @example(b"")
    def check(data: bytes) -> None:
        assert decoded(protocol, cut(data, 1)) == decoded(protocol, [data])

    check()


def preface(pieces: list[bytes]) -> object:
    """What comes of a preface in pieces: its facts and what follows it, a refusal, or that more is needed."""
    reader = PrefaceReader("any")
    for number, piece in enumerate(pieces):
        try:
            found = reader.feed(piece)
        except Refused as refused:
            return refused.status
        if found is not None:
            template: dict[str, object] = {}
            found.apply(template)
            return found.client, found.server, template, found.rest + b"".join(pieces[number + 1 :])
    return None


@fuzz
@given(mutated("proxy") | st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: SIGNATURE + data))
def test_preface_is_read_the_same_however_it_is_cut(data: bytes) -> None:
    assert preface(cut(data, 1)) == preface([data])


# Each is begun once and then sent for ever.
ENDLESS: list[tuple[str, bytes, bytes]] = [
    ("uwsgi", b"\0\xff\xff\0", b"\x01\0A\0\0"),
    ("uwsgi", b"\0\xff\xff\0", b"\0"),
    ("uwsgi", uwsgi_packet(SMALL), b"x"),
    ("scgi", b"", b"1"),
    ("scgi", b"300000:", b"\0"),
    ("scgi", b"300000:CONTENT_LENGTH\x001\0", b"A\0"),
    ("scgi", b"9999999:", b"A"),
    ("fastcgi", begin(), record(4, 1, b"\x01\x01AB" * 1000)),
    ("fastcgi", begin() + record(4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"), record(4, 1, b"x" * 60_000)),
    ("fastcgi", b"", record(9, 0, b"\x01\0A" * 20_000)),
    ("fastcgi", b"", record(12, 0)),
    ("fastcgi", b"", record(5, 7, b"x" * 60_000, padding=255)),
    ("fastcgi", begin(keep=True), begin(2)),
    ("fastcgi", b"", fastcgi_request(SMALL | {"CONTENT_LENGTH": ""}, b"")[:-8] + record(5, 1, b"x" * 60_000) * 20),
]


@pytest.mark.parametrize(("protocol", "start", "part"), ENDLESS)
def test_endless_input_is_not_kept(protocol: str, start: bytes, part: bytes) -> None:
    decoder = decoder_for(protocol)
    block = part * (65536 // len(part) + 1)
    tracemalloc.start()
    try:
        refused = feed(decoder, start)
        for _ in range(8 * 2**20 // len(block)):
            refused = refused or feed(decoder, block)
            if refused:
                break
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()
        decoder.close()


@pytest.mark.skipif(not os.environ.get("FORKSERVE_FUZZ"), reason="make fuzz")
@pytest.mark.parametrize("protocol", ["uwsgi", "scgi", "fastcgi"])
def test_very_many_blind_mutations_are_refused_or_served(protocol: str) -> None:
    chance = random.Random(20261120)
    for _ in range(EXAMPLES * 10):
        data = bytearray(chance.choice(SEEDS[protocol]))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert decoded(protocol, cut(bytes(data), chance.randrange(1, 99))) == decoded(protocol, [bytes(data)])
