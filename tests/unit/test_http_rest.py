"""forkserve/protocol/_http_rest.py: one request at a time is read, the rest waits as bytes."""

import tracemalloc

import pytest

from forkserve.protocol.http import Decoder
from forkserve.protocol.types import Limits, Refused
from forkserve.wsgi.environ import listener_template
from forkserve.wsgi.input import BodyMakerFor

TEMPLATE = listener_template("localhost", "80", generation=1, slot=0, extend_deadline=lambda seconds: None)
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n\r\n\r\n123"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
UPGRADE = b"GET /d HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: a\r\nContent-Length: 3\r\n\r\nabc"
LAST = b"GET /e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def new_decoder() -> Decoder:
    return Decoder(TEMPLATE.copy(), Limits(4094, 100, 8190), BodyMakerFor(0))


@pytest.mark.parametrize("one", [GET, POST, UPGRADE], ids=["get", "post", "upgrade"])
@pytest.mark.parametrize("as_view", [False, True])
def test_of_many_requests_one_is_read(one: bytes, as_view: bool) -> None:
    decoder = new_decoder()
    many = one * 5
    decoder.feed(memoryview(many) if as_view else many)
    for left in range(4, -1, -1):
        assert len(decoder.ready) == 1
        assert decoder.waiting == one * left
        decoder.ready.clear()
        decoder.go_on()
    assert decoder.ready == []


def test_what_waits_is_what_is_unread() -> None:
    decoder = new_decoder()
    decoder.feed(GET + POST + GET[:9])
    assert decoder.unread() == POST + GET[:9]
    decoder.ready.clear()
    decoder.go_on()
    assert decoder.unread() == GET[:9]
    decoder.ready.clear()
    decoder.go_on()
    assert (decoder.ready, decoder.waiting, decoder.unread()) == ([], b"", GET[:9])


def test_end_of_a_head_that_came_in_two_parts_is_found() -> None:
    decoder = new_decoder()
    decoder.feed(GET[:-1])
    decoder.feed(GET[-1:] + GET)
    assert len(decoder.ready) == 2


def test_few_requests_behind_a_chunked_body_are_read_along() -> None:
    decoder = new_decoder()
    decoder.feed(CHUNKED + GET * 2000)
    assert len(decoder.ready) < 40


def test_chunked_body_full_of_empty_lines_is_read_in_few_pieces() -> None:
    decoder = new_decoder()
    pieces = []
    parse = decoder._parse

    def counted(data: bytes | memoryview) -> None:
        pieces.append(data)
        parse(data)

    decoder._parse = counted  # type: ignore[method-assign]
    body = b"\r\n" * 16_000
    head = b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    decoder.feed(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + GET)
    assert decoder.ready[0][0]["wsgi.input"].read() == body
    assert len(pieces) < 50


def test_empty_lines_before_a_request_are_read_at_one_go() -> None:
    decoder = new_decoder()
    decoder.feed(b"\r\n" * 30_000 + GET + b"\r\n" * 30_000 + GET)
    assert len(decoder.ready) == 1
    decoder.ready.clear()
    decoder.go_on()
    assert (len(decoder.ready), decoder.waiting) == (1, b"")


def test_nothing_waits_behind_the_last_request() -> None:
    decoder = new_decoder()
    decoder.feed(LAST + GET * 5)
    assert (len(decoder.ready), decoder.waiting) == (1, b"")


def test_bad_request_behind_a_good_one_is_refused_when_it_is_read() -> None:
    decoder = new_decoder()
    decoder.feed(GET + b"GET /\x00 HTTP/1.1\r\n\r\n")
    assert len(decoder.ready) == 1
    decoder.ready.clear()
    with pytest.raises(Refused):
        decoder.go_on()


def test_pipeline_of_the_largest_read_costs_little_more_than_its_bytes() -> None:
    decoder = new_decoder()
    decoder.feed(GET)
    many = GET * (48 * 1024 // len(GET))
    tracemalloc.start()
    try:
        decoder.feed(many)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 60 * 1024
