"""A head that came before is taken without the parser: what comes of it is what the parser would have made of it."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.protocol._http_known import KnownHeads
from forkserve.protocol.http import Decoder
from forkserve.protocol.types import Limits, Refused
from forkserve.wsgi.input import BodyMakerFor

TEMPLATE = {"REQUEST_METHOD": "", "PATH_INFO": "", "QUERY_STRING": "", "RAW_URI": "", "REQUEST_URI": "",
            "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.input": None, "REMOTE_ADDR": "192.0.2.1"}  # fmt: skip
FIELDS = b"Host: a.example\r\nAccept: */*\r\nCookie: a=b\r\n"


def decoder(limits: Limits | None = None, **options: Any) -> Decoder:
    return Decoder(TEMPLATE.copy(), limits or Limits(8190, 100, 8190), BodyMakerFor(0), **options)


def told(one: Decoder, raw: bytes) -> object:
    """What a decoder makes of ``raw``: the requests, and the refusal if there is one."""
    refused = None
    try:
        one.feed(raw)
    except Refused as error:
        refused = error.status
    requests = []
    while one.ready:
        environ, line, flags = one.ready.pop(0)
        requests.append((environ | {"wsgi.input": environ["wsgi.input"].read()}, line, flags))
    return requests, refused, one.idle, one.body_began


def head(line: bytes = b"GET / HTTP/1.1", fields: bytes = FIELDS) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def is_recalled(limits: Limits, raw: bytes) -> bool:
    """Whether a newcomer's request is taken without a parser."""
    one = decoder(limits)
    one.feed(raw)
    return one._parser is None


def test_second_request_of_a_connection_needs_no_parser() -> None:
    limits = Limits(8190, 100, 8190)
    one = decoder(limits)
    one.feed(head())
    one.feed(head(b"GET /other?x=1 HTTP/1.1"))
    assert is_recalled(limits, head(b"GET /third HTTP/1.1"))
    assert [environ["RAW_URI"] for environ, _, _ in one.ready] == ["/", "/other?x=1"]
    assert one.ready[0][0]["wsgi.input"] is not one.ready[1][0]["wsgi.input"]


@pytest.mark.parametrize("target", [b"/a%cb", b"/a?b%cd", b"%c", b"/%c"])
def test_target_is_read_as_the_parser_reads_it(target: bytes) -> None:
    limits = Limits(8190, 100, 8190)
    decoder(limits).feed(head())
    for byte in range(256):
        raw = head(b"GET " + target.replace(b"%c", bytes((byte,))) + b" HTTP/1.1")
        assert told(decoder(limits), raw) == told(decoder(), raw)


@pytest.mark.parametrize(
    "raw",
    [
        head(b"HEAD / HTTP/1.1"),
        head(b"POST / HTTP/1.1"),
        head(b"GET / HTTP/1.0"),
        head(b"GET /%41?%42 HTTP/1.1"),
        head(b"GET http://b.example/x HTTP/1.1"),
        head(b"OPTIONS * HTTP/1.1"),
        head(b"get / HTTP/1.1"),
        head(b"GET  / HTTP/1.1"),
        head(b"GET / RTSP/1.0"),
        b"\r\n" + head(),
        head() + b"GET",
        head() * 2,
        head() + head(b"POST / HTTP/1.1", FIELDS + b"Content-Length: 3\r\n") + b"abc" + head(),
        head(fields=FIELDS + b"Connection: close\r\n"),
        head(fields=FIELDS + b"Connection: close\r\n") + b"more",
        head(fields=FIELDS + b"Connection: keep-alive\r\n"),
        head(fields=FIELDS + b"Content-Length: 0\r\n"),
        head(fields=FIELDS + b"Content-Length: 3\r\n") + b"abc",
        head(fields=FIELDS + b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        head(fields=FIELDS + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        head(fields=FIELDS + b"X-Forwarded-For: 1\r\n"),
        head(fields=FIELDS + b"X_A: 1\r\n"),
        head(fields=FIELDS + b"Cookie: c=d\r\n"),
        head(fields=FIELDS + b"Host: b\r\n"),
        head(fields=b"Accept: */*\r\n"),
        head(fields=FIELDS + b"X-Line: HTTP/1.1\r\nX-Odd:  HTTP/1.1 \r\n"),
        head(fields=FIELDS.replace(b"\r\n", b"\n")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"believed": False}, {"header_map": "refuse"}])
def test_same_bytes_mean_the_same_however_often_they_come(raw: bytes, options: dict[str, Any]) -> None:
    limits = Limits(8190, 100, 8190)
    for _ in range(3):
        assert told(decoder(limits, **options), raw) == told(decoder(**options), raw)
        one, other = decoder(limits, **options), decoder(**options)
        assert told(one, head()) == told(other, head())
        assert told(one, raw) == told(other, raw)
        assert told(one, head()) == told(other, head())


LINES = st.sampled_from([b"GET / HTTP/1.1", b"GET /a?b HTTP/1.1", b"GET /%2F HTTP/1.1", b"POST / HTTP/1.1",
                         b"HEAD / HTTP/1.1", b"GET / HTTP/1.0", b"GET /# HTTP/1.1", b"FOO / HTTP/1.1"])  # fmt: skip
PARTS = st.sampled_from([b"Host: a\r\n", b"Accept: b\r\n", b"Cookie: a=b\r\n", b"Connection: close\r\n",
                         b"Content-Length: 1\r\n", b"X_Y: 1\r\n", b"X-Real-IP: 1\r\n", b"Upgrade: x\r\n",
                         b"Connection: Upgrade\r\n", b" folded\r\n", b"X:\r\n", b"\n"])  # fmt: skip
HEADS = st.builds(lambda line, parts: head(line, b"".join(parts)), LINES, st.lists(PARTS, max_size=4))


@given(st.lists(st.tuples(HEADS, st.integers(0, 80)), min_size=1, max_size=8))
def test_what_came_before_changes_nothing(heads: list[tuple[bytes, int]]) -> None:
    limits = Limits(200, 4, 100)
    for _ in range(2):  # the second time much of it is known
        one, other = decoder(limits), decoder(Limits(200, 4, 100))
        for raw, cut in heads:
            for piece in (raw[:cut], raw[cut:]):
                if piece:
                    other._rests = 1 << 62  # it always asks the parser
                    assert told(one, piece) == told(other, piece)
            if not one.idle or one._rests > 1000:  # refused, or the last one
                one, other = decoder(limits), decoder(Limits(200, 4, 100))


def test_memory_is_bounded() -> None:
    limits = Limits(8190, 100, 8190)
    for number in range(300):
        decoder(limits).feed(head(fields=FIELDS + b"X-Number: %d\r\n" % number))
    known = KnownHeads.of(limits)
    assert len(known.ends) <= 64
    large = head(fields=FIELDS + b"X-Large: " + b"x" * 4000 + b"\r\n")
    assert not is_recalled(limits, large)
    assert not is_recalled(limits, large)


def test_who_sends_ever_new_fields_is_hardly_looked_up() -> None:
    one = decoder()
    looks = 0
    for number in range(1000):
        looks += one._rests == 0
        one.feed(head(fields=FIELDS + b"X-Number: %d\r\n" % number))
    assert len(one.ready) == 1000
    assert looks < 12


def test_app_that_changes_its_environ_changes_nobody_elses() -> None:
    limits = Limits(8190, 100, 8190)
    one = decoder(limits)
    for _ in range(3):
        one.feed(head())
        environ, _, _ = one.ready.pop()
        assert environ["HTTP_HOST"] == "a.example"
        assert isinstance(environ["wsgi.input"], BytesIO)
        environ.clear()


@pytest.mark.parametrize("is_newcomer", [False, True], ids=["its own head", "the head of another connection"])
def test_repeated_request_has_an_equal_environ_that_nobody_else_has_changed(is_newcomer: bool) -> None:
    limits = Limits(8190, 100, 8190)
    first, second = head(b"GET /a?b=c HTTP/1.1"), head(b"GET /%C3%BC HTTP/1.1")
    if is_newcomer:
        decoder(limits).feed(first)
    one = decoder(limits)
    given: list[tuple[dict[str, Any], BytesIO]] = []
    for raw in (*[first] * 6, second, first, first, first, second, second, second):
        one.feed(raw)
        [(environ, line, flags)] = one.ready
        one.ready.clear()
        body = environ["wsgi.input"]
        assert ([(environ | {"wsgi.input": body.read()}, line, flags)], None, one.idle, False) == told(decoder(), raw)
        assert not any(environ is other for other, _ in given)
        assert not any(body is other for _, other in given)
        given.append((environ, body))
        # What an app may do to what is its own:
        environ["PATH_INFO"] = environ["REQUEST_METHOD"] = "x"
        environ["shop.user"] = environ["HTTP_X_ADDED"] = "joe"
        del environ["HTTP_COOKIE"], environ["RAW_URI"]
        body.close()
    assert {environ["shop.user"] for environ, _ in given} == {"joe"}, "and each keeps what it was given"
