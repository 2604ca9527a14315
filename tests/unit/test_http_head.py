"""forkserve/protocol/http.py, heads that are not plain: words of a proxy, counted fields, heads that come in parts."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.protocol.types import FORWARDED, HEAD_ONLY, HTTP11, KEEP_ALIVE, UNBELIEVED, Limits, Refused, Request
from forkserve.wsgi.environ import listener_template
from forkserve.wsgi.input import BodyMakerFor
from tests.unit.eager import EagerDecoder as Decoder

TEMPLATE = listener_template("localhost", "80", generation=1, slot=0, extend_deadline=lambda seconds: None)
PLAIN = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n\r\n\r\n123"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
UPGRADE = b"GET /d HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n"
WORDS = (
    b"X-Forwarded-For: 192.0.2.1\r\nx-forwarded-proto: https\r\nX-Forwarded-Host: h\r\nX-Forwarded-Prefix: /p\r\n"
    b"X-Forwarded-Port: 443\r\nX-Forwarded-Ssl: on\r\nX-Forwarded-Protocol: ssl\r\nX-Real-IP: 192.0.2.1\r\n"
    b"Forwarded: for=192.0.2.1\r\n"
)


def decoder_of(fields: int = 100, **said: Any) -> Decoder:
    return Decoder(TEMPLATE.copy(), Limits(4094, fields, 8190), BodyMakerFor(0), **said)


def only(raw: bytes, **said: Any) -> Request:
    decoder = decoder_of(**said)
    decoder.feed(raw)
    [request] = decoder.ready
    return request


def request_of(fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return line + b"\r\nHost: x\r\n" + fields + b"\r\n"


def added(request: Request) -> dict[str, str]:
    return {key: text for key, text in request[0].items() if key not in TEMPLATE and key != "HTTP_HOST"}


# whom to believe


def test_words_of_a_proxy_that_is_believed_are_there_and_flagged() -> None:
    request = only(request_of(WORDS + b"X-Forwarded-For: 192.0.2.2\r\nX-A: b\r\n"))
    assert request[2] == KEEP_ALIVE | HTTP11 | FORWARDED
    assert added(request) == {
        "HTTP_X_FORWARDED_FOR": "192.0.2.1,192.0.2.2", "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_FORWARDED_HOST": "h", "HTTP_X_FORWARDED_PREFIX": "/p", "HTTP_X_FORWARDED_PORT": "443",
        "HTTP_X_FORWARDED_SSL": "on", "HTTP_X_FORWARDED_PROTOCOL": "ssl", "HTTP_X_REAL_IP": "192.0.2.1",
        "HTTP_FORWARDED": "for=192.0.2.1", "HTTP_X_A": "b",
    }  # fmt: skip


def test_words_of_anybody_else_are_there_as_they_came() -> None:
    heard, told = (only(request_of(WORDS * 2 + b"X-A: b\r\n"), believed=believed) for believed in (True, False))
    assert (heard[2], told[2]) == (KEEP_ALIVE | HTTP11 | FORWARDED, KEEP_ALIVE | HTTP11 | UNBELIEVED)
    assert added(told) == added(heard)


def test_head_of_who_is_not_believed_is_not_known_from_who_is() -> None:
    limits = Limits(4094, 100, 8190)
    for believed, flag in ((False, UNBELIEVED), (False, UNBELIEVED), (True, FORWARDED), (False, UNBELIEVED)):
        decoder = Decoder(TEMPLATE.copy(), limits, BodyMakerFor(0), believed)
        for _ in range(3):
            decoder.feed(request_of(WORDS))
        assert {request[2] for request in decoder.ready} == {KEEP_ALIVE | HTTP11 | flag}


def test_flags_of_a_request_are_not_those_of_the_next() -> None:
    decoder = decoder_of()
    decoder.feed(request_of(WORDS, b"HEAD / HTTP/1.1") + PLAIN + request_of(WORDS) + CHUNKED)
    flags = [request[2] & ~(KEEP_ALIVE | HTTP11) for request in decoder.ready]
    assert flags == [HEAD_ONLY | FORWARDED, 0, FORWARDED, 0]


def test_words_in_a_trailer_are_not_heard() -> None:
    request = only(CHUNKED[:-2] + WORDS + b"\r\n")
    assert (request[2], added(request)) == (KEEP_ALIVE | HTTP11, {"CONTENT_LENGTH": "3"})


@pytest.mark.parametrize("name", [b"X_A", b"X-Forwarded_For", b"Content_Length", b"_", b"A_" + b"b" * 100])
def test_names_with_an_underscore_are_dropped_or_refused(name: bytes) -> None:
    raw = request_of(name + b": 1\r\n")
    assert added(only(raw)) == {}
    with pytest.raises(Refused, match="underscore") as caught:
        only(raw, header_map="refuse")
    assert caught.value.status == "400 Bad Request"


def test_a_field_cannot_name_the_peer_or_a_proxy_for_the_app() -> None:
    raw = request_of(b"Remote_Addr: e\r\nREMOTE_ADDR: e\r\nRemote-Addr: e\r\nPROXY: e\r\nproxy: e\r\n")
    assert added(only(raw)) == {"HTTP_REMOTE_ADDR": "e"}
    assert only(raw)[0]["REMOTE_ADDR"] == ""
    assert added(only(raw, header_map="drop", believed=False)) == {"HTTP_REMOTE_ADDR": "e"}


# how many fields


@pytest.mark.parametrize("field", [b"A: b\r\n", b"A_: b\r\n", b"Proxy: b\r\n", b"X-Real-IP: b\r\n", b"Cookie: b\r\n"])
@pytest.mark.parametrize("believed", [True, False])
def test_every_field_counts_even_repeated_or_dropped(field: bytes, believed: bool) -> None:
    only(request_of(field * 9), fields=10, believed=believed)
    for raw in (request_of(field * 10), request_of(field * 5 + b"B: c\r\nC: d\r\nD: e\r\nE: f\r\nF: g\r\n")):
        with pytest.raises(Refused, match="more than 10 fields"):
            only(raw, fields=10, believed=believed)


def test_fields_of_a_request_do_not_count_for_the_next() -> None:
    decoder = decoder_of(fields=10)
    for _ in range(5):
        decoder.feed(request_of(b"A: b\r\n" * 9))
    assert len(decoder.ready) == 5


# what has been read of a head


def test_between_requests_nothing_is_unread() -> None:
    decoder = decoder_of()
    assert decoder.unread() == b""
    for raw in (PLAIN, POST, CHUNKED, UPGRADE, PLAIN[:9], PLAIN[9:]):
        decoder.feed(raw)
    assert decoder.unread() == b""


def test_within_a_body_and_after_the_last_request_it_is_not_known() -> None:
    decoder = decoder_of()
    decoder.feed(POST[:-1])
    assert decoder.unread() is None
    decoder.feed(POST[-1:] + PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert decoder.unread() is None
    assert len(decoder.ready) == 2


@pytest.mark.parametrize("before", [b"", PLAIN, PLAIN * 3, POST, POST + PLAIN, UPGRADE, UPGRADE + PLAIN])
def test_a_head_that_has_begun_is_known_byte_for_byte(before: bytes) -> None:
    decoder = decoder_of()
    decoder.feed(memoryview(before + PLAIN[:6]))
    assert decoder.unread() == PLAIN[:6]
    decoder.feed(PLAIN[6:20])
    assert decoder.unread() == PLAIN[:20]
    decoder.feed(PLAIN[20:] + PLAIN[:1])
    assert decoder.unread() == PLAIN[:1]


def test_where_a_head_begins_after_a_chunked_body_is_not_known() -> None:
    decoder = decoder_of()
    decoder.feed(CHUNKED + PLAIN[:6])
    assert decoder.unread() is None
    decoder.ready.clear()
    decoder.feed(PLAIN[6:9])
    assert decoder.unread() is None
    decoder.feed(PLAIN[9:] + PLAIN[:3])
    assert decoder.unread() == PLAIN[:3]


@given(st.lists(st.sampled_from([PLAIN, POST, CHUNKED, UPGRADE]), max_size=4), st.data())
@settings(max_examples=200, deadline=None)
def test_whoever_goes_on_with_what_is_unread_reads_the_same_requests(kinds: list[bytes], data: st.DataObject) -> None:
    stream = b"".join([*kinds, PLAIN])
    cut = data.draw(st.integers(0, len(stream)))
    starts = sorted({0, cut, *data.draw(st.lists(st.integers(0, cut), max_size=4))})
    here, there = decoder_of(), decoder_of()
    for start, end in pairwise(starts):
        here.feed(memoryview(stream)[start:end])
    unread = here.unread()
    if unread is not None:
        if unread:
            there.feed(unread)
        if cut < len(stream):
            there.feed(stream[cut:])
        assert [line for _, line, _ in here.ready + there.ready] == [
            raw[: raw.index(b" HTTP")] for raw in [*kinds, PLAIN]
        ]


# lines that llhttp lets through


@pytest.mark.parametrize("bad", [b"GET /r RTSP/1.0\r\n\r\n", b"GET  /r HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize(
    ("before", "cut"),
    [
        *((before, cut) for before in (b"", b"\r\n", PLAIN, UPGRADE) for cut in (0, 1, 4, 8, 13)),
        (POST, 0),
        (CHUNKED, 0),  # cut elsewhere, its beginning is not known
    ],
)
def test_a_line_of_another_protocol_is_refused_wherever_it_stands(before: bytes, bad: bytes, cut: int) -> None:
    decoder = decoder_of()
    with pytest.raises(Refused) as caught:
        decoder.feed(before + bad[:cut])
        decoder.ready.clear()
        decoder.feed(bad[cut:])
    assert caught.value.status == "400 Bad Request"


@pytest.mark.parametrize("before", [b"", b"\r\n\r\n", PLAIN])
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_an_unknown_method_is_named_however_it_is_split(before: bytes, cut: int) -> None:
    decoder = decoder_of()
    with pytest.raises(Refused) as caught:
        decoder.feed(before + b"COPPER / HTTP/1.1"[:cut])
        decoder.ready.clear()
        decoder.feed(b"COPPER / HTTP/1.1"[cut:])
    assert caught.value.status == "501 Not Implemented"
