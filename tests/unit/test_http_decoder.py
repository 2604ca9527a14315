"""forkserve/protocol/http.py: bytes to requests, however they are split, and the refusal of everything else."""

import gc
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forkserve.protocol.types import FORWARDED, HEAD_ONLY, HTTP11, KEEP_ALIVE, Limits, Refused, Request
from forkserve.wsgi.environ import listener_template
from forkserve.wsgi.input import BodyMakerFor
from tests.unit.eager import EagerDecoder as Decoder

TEMPLATE = listener_template("localhost", "80", generation=1, slot=0, extend_deadline=lambda seconds: None)
DEFAULTS = Limits(4094, 100, 8190)
ONE_MEBIBYTE = 1 << 20
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"

# Each is one request; what must come of it: method, PATH_INFO, QUERY_STRING, body, flags.
GOOD: dict[str, tuple[bytes, tuple[str, str, str, bytes, int]]] = {
    "plain": (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/a", "", b"", 3)),
    "query": (b"GET /a?b=%20&c?d HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/a", "b=%20&c?d", b"", 3)),
    "empty query": (b"GET /? HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/", "", b"", 3)),
    "escapes": (b"GET /%2F%c3%a4%00%zz HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "//\xc3\xa4\0%zz", "", b"", 3)),
    "slashes": (b"GET //a/../b HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "//a/../b", "", b"", 3)),
    "absolute": (b"GET http://h:1/%41?q HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/A", "q", b"", 3)),
    "absolute, no path": (b"GET HTTP://h?q HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/", "q", b"", 3)),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", ("OPTIONS", "*", "", b"", 3)),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", ("GET", "/", "", b"", 3)),
    "IPv6 Host": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", ("GET", "/", "", b"", 3)),
    "HEAD": (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", ("HEAD", "/", "", b"", 7)),
    "keep-alive of 1.0": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", ("GET", "/", "", b"", 1)),
    "keep-alive of 1.1": (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", ("GET", "/", "", b"", 3)),
    "length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", ("POST", "/", "", b"hello", 3)),
    "length 0": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", ("POST", "/", "", b"", 3)),
    "body of GET": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET", ("GET", "/", "", b"GET", 3)),
    "chunked": (
        b'PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunkeD\r\n\r\n5;v="a"\r\nhello\r\n05\r\n, all\r\n0\r\n\r\n',
        ("PUT", "/", "", b"hello, all", 3),
    ),
    "trailer": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n",
        ("PUT", "/", "", b"a", 3),
    ),
    "no chunk": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ("PUT", "/", "", b"", 3),
    ),
    "upgrade": (b"GET /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n", ("GET", "/u", "", b"", 3)),
    "upgrade with a body": (
        b"POST /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabc",
        ("POST", "/u", "", b"abc", 3),
    ),
    "upgrade, chunked": (
        b"POST /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        ("POST", "/u", "", b"abc", 3),
    ),
    "expectation": (
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\na",
        ("POST", "/", "", b"a", 3),
    ),
}  # fmt: skip
# As above, and the client says that it is the last.
LAST: dict[str, tuple[bytes, tuple[str, str, str, bytes, int]]] = {
    "close": (b"GET /l HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", ("GET", "/l", "", b"", 2)),
    "1.0": (b"GET /l HTTP/1.0\r\n\r\n", ("GET", "/l", "", b"", 0)),
    "1.0 with a body": (b"POST /l HTTP/1.0\r\nContent-Length: 2\r\n\r\nab", ("POST", "/l", "", b"ab", 0)),
    "upgrade and close": (
        b"POST /l HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: a\r\nContent-Length: 3\r\n\r\nabc",
        ("POST", "/l", "", b"abc", 2),
    ),
}  # fmt: skip

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BAD: list[tuple[str, bytes]] = [
    # the request line
    ("400", b"GET / HTTP/1.1\nHost: x\n\n"),
    ("400", b"GET HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n"),
    ("400", b"GET / http/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET / HTTP/1.11\r\nHost: x\r\n\r\n"),
    ("400", b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"OPTIONS *a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET a:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET http://u@h/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET ftp://h/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("501", b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("501", b"get / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("501", b"DESCRIBE / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET / RTSP/1.0\r\nHost: x\r\n\r\n"),
    ("400", b"POST / RTSP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
    ("400", b"DESCRIBE / RTSP/1.0\r\nHost: x\r\n\r\n"),
    ("400", b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n"),
    ("400", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("400", b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("501", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"),
    ("501", b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("505", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n"),
    ("505", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
    ("505", b"GET / HTTP/0.9\r\n\r\n"),
    ("505", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    # fields
    ("400", b"GET / HTTP/1.1\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("400", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nA: \x7f\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nA: a\rb\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nA: a\nB: b\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\n\xe4: b\r\n\r\n"),
    ("400", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n"),
    ("417", HEAD + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\na"),
    # framing
    ("400", HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("400", HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    ("400", HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    ("400", HEAD + b"Content-Length: 3, 3\r\n\r\nabc"),
    ("400", HEAD + b"Content-Length: +3\r\n\r\nabc"),
    ("400", HEAD + b"Content-Length: -3\r\n\r\nabc"),
    ("400", HEAD + b"Content-Length: 1_0\r\n\r\n"),
    ("400", HEAD + b"Content-Length: 0x3\r\n\r\nabc"),
    ("400", HEAD + b"Content-Length:\r\n\r\n"),
    ("400", HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"),
    ("413", HEAD + b"Content-Length: 1048577\r\n\r\n"),
    ("413", CHUNKED + b"100001\r\n" + b"a" * 0x100001),
    ("501", HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("501", HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("501", HEAD + b"Transfer-Encoding: identity\r\n\r\n"),
    ("400", HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("400", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("400", b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"0x1\r\na\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"+1\r\na\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"1_0\r\na\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"1 \r\na\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"11111111111111111\r\n"),
    ("400", CHUNKED + b"\r\n\r\n"),
    ("400", CHUNKED + b"1\na\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"1\r\na\n0\r\n\r\n"),
    ("400", CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"1\r\nab\r\n0\r\n\r\n"),
    ("400", CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n"),
]
BAD_IDS = [f"{number}-{raw[:40] + raw[40:][-30:]!r}" for number, (_, raw) in enumerate(BAD)]


def new_decoder(limits: Limits = DEFAULTS, body_limit: int = ONE_MEBIBYTE) -> Decoder:
    return Decoder(TEMPLATE.copy(), limits, BodyMakerFor(body_limit))


def told(request: Request) -> tuple[str, str, str, bytes, int]:
    environ, _, flags = request
    body = environ["wsgi.input"].read()
    return environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], body, flags


def whole(request: Request) -> tuple[Any, ...]:
    """A request as something that compares."""
    environ, line, flags = request
    return {**environ, "wsgi.input": environ["wsgi.input"].getvalue()}, line, flags


def only(raw: bytes, limits: Limits = DEFAULTS) -> dict[str, Any]:
    """The environ of the one request that ``raw`` is."""
    decoder = new_decoder(limits)
    decoder.feed(raw)
    [(environ, _, _)] = decoder.ready
    return environ


def refusal(raw: bytes, limits: Limits = DEFAULTS) -> Refused:
    decoder = new_decoder(limits)
    with pytest.raises(Refused) as caught:
        decoder.feed(raw)
    decoder.close()
    return caught.value


@pytest.mark.parametrize("name", [*GOOD, *LAST])
def test_a_request_is_read(name: str) -> None:
    raw, expected = {**GOOD, **LAST}[name]
    decoder = new_decoder()
    decoder.feed(raw)
    assert [told(request) for request in decoder.ready] == [expected]


@pytest.mark.parametrize(("status", "raw"), BAD, ids=BAD_IDS)
def test_a_bad_request_is_refused_with_its_status(status: str, raw: bytes) -> None:
    assert refusal(raw).status[:3] == status


@pytest.mark.parametrize(("status", "raw"), BAD, ids=BAD_IDS)
def test_a_bad_request_is_refused_byte_by_byte_too(status: str, raw: bytes) -> None:
    decoder = new_decoder()
    with pytest.raises(Refused) as caught:
        for at in range(len(raw)):
            decoder.feed(raw[at : at + 1])
    if status != "501" or raw[:4] != b"DESC":  # llhttp ends at its first wrong byte, here it is beyond the method
        assert caught.value.status[:3] == status
    assert decoder.ready == []
    decoder.close()


@given(st.lists(st.sampled_from(sorted(GOOD)), min_size=1, max_size=5), st.sampled_from([None, *LAST]), st.data())
@settings(max_examples=150, deadline=None)
def test_any_split_of_a_stream_gives_the_same_requests(names: list[str], last: str | None, data: st.DataObject) -> None:
    stream = b"".join(GOOD[name][0] for name in names)
    expected = [GOOD[name][1] for name in names]
    if last is not None:
        stream += LAST[last][0] + b"GET /unread HTTP/1.1\r\nHost: x\r\n\r\n"
        expected.append(LAST[last][1])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    at_once, in_pieces = new_decoder(), new_decoder()
    at_once.feed(stream)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if end > start:
            in_pieces.feed(memoryview(stream)[start:end])
    assert [whole(request) for request in in_pieces.ready] == [whole(request) for request in at_once.ready]
    assert [told(request) for request in at_once.ready] == expected


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([raw for raw, _ in [*GOOD.values(), *LAST.values()]] + [raw for _, raw in BAD if len(raw) < 999]),
)


@given(st.lists(PIECES, min_size=1, max_size=4), st.lists(st.tuples(st.integers(0), st.integers(0, 255))), st.data())
@example([GOOD["upgrade"][0], b"GET / HTTP/1.1\r\n\r\n"], [], None)
@settings(max_examples=400, deadline=None)
def test_nothing_but_refused_leaves_the_decoder(
    pieces: list[bytes], mutations: list[tuple[int, int]], data: st.DataObject | None
) -> None:
    stream = bytearray(b"".join(pieces))
    for at, byte in mutations:
        if stream:
            stream[at % len(stream)] = byte
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=3))) if data is not None else []
    decoder = new_decoder()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        try:
            decoder.feed(memoryview(stream)[start:end])
        except Refused as refused:  # and it goes on feeding, as after a refusal that could not be sent yet
            assert refused.status[:3] in {"400", "413", "414", "417", "431", "501", "505"}
    for request in decoder.ready:
        assert request[0]["REQUEST_METHOD"].isascii()
    decoder.close()


def test_good_requests_before_a_bad_one_are_there() -> None:
    decoder = new_decoder()
    with pytest.raises(Refused, match="without Host"):
        decoder.feed(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\nGET /3 HTTP/1.1\r\n\r\n")
    assert [told(request)[1] for request in decoder.ready] == ["/1", "/2"]


def test_a_bad_method_after_a_good_request_is_not_taken_for_it() -> None:
    decoder = new_decoder()
    with pytest.raises(Refused) as caught:
        decoder.feed(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n\x00\x01")
    assert (caught.value.status[:3], "GET" in caught.value.reason) == ("400", False)


def test_more_after_a_refusal_is_refused_again() -> None:
    decoder = new_decoder()
    for _ in range(3):
        with pytest.raises(Refused):
            decoder.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert decoder.ready == []


def test_a_bad_request_after_an_upgrade_is_refused() -> None:
    decoder = new_decoder()
    with pytest.raises(Refused, match="without Host"):
        decoder.feed(GOOD["upgrade"][0] + b"GET / HTTP/1.1\r\n\r\n")
    assert len(decoder.ready) == 1


def test_a_buffer_full_of_upgrades_is_read() -> None:
    raw = b"GET / HTTP/1.1\r\nHost:\r\nConnection:upgrade\r\nUpgrade:a\r\n\r\n"
    decoder = new_decoder()
    decoder.feed(raw * (65536 // len(raw)))
    assert len(decoder.ready) == 65536 // len(raw)


def test_nothing_is_read_after_the_last_request() -> None:
    decoder = new_decoder()
    decoder.feed(LAST["close"][0])
    for garbage in (b"\0\xff", GOOD["plain"][0], b"x" * 100_000):
        decoder.feed(garbage)
    assert [told(request)[1] for request in decoder.ready] == ["/l"]


def test_flags_say_version_method_and_persistence() -> None:
    assert (KEEP_ALIVE, HTTP11, HEAD_ONLY, FORWARDED) == (1, 2, 4, 8)  # as the tables above have them
    decoder = new_decoder()
    decoder.feed(b"HEAD /h HTTP/1.0\r\n\r\n")
    assert decoder.ready[0][2] == HEAD_ONLY
    assert decoder.ready[0][0]["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_the_line_of_a_request_is_method_and_target_as_they_came() -> None:
    decoder = new_decoder()
    decoder.feed(b"PUT http://h/%41?b HTTP/1.1\r\nHost: x\r\n\r\n")
    assert decoder.ready[0][1] == b"PUT http://h/%41?b"


def test_fields_become_cgi_variables() -> None:
    environ = only(
        b"GET / HTTP/1.1\r\nhOST: x:80\r\nX-A:  \xe4 b\t \r\nX-Empty:\r\nContent-Type: text/plain; a=b\r\n"
        b"X-B: 1\r\nx-b: 2\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n"
    )
    added = {key: text for key, text in environ.items() if key not in TEMPLATE}
    assert added == {
        "HTTP_HOST": "x:80", "HTTP_X_A": "\xe4 b", "HTTP_X_EMPTY": "", "CONTENT_TYPE": "text/plain; a=b",
        "HTTP_X_B": "1,2", "HTTP_COOKIE": "a=b; c=d",
    }  # fmt: skip


def test_names_that_could_forge_another_are_dropped() -> None:
    environ = only(b"GET / HTTP/1.1\r\nHost: x\r\nX_Real_IP: 1\r\nProxy: http://evil\r\nContent_Length: 5\r\n\r\n")
    assert {key for key in environ if key not in TEMPLATE} == {"HTTP_HOST"}


def test_a_chunked_body_reaches_the_app_with_its_length_and_without_its_coding() -> None:
    environ = only(GOOD["chunked"][0])
    assert environ["CONTENT_LENGTH"] == "10"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_trailer_fields_are_dropped() -> None:
    environ = only(GOOD["trailer"][0])
    assert environ["HTTP_HOST"] == "x"
    assert "HTTP_X_SUM" not in environ


def test_the_authority_of_an_absolute_target_replaces_host() -> None:
    environ = only(GOOD["absolute"][0])
    assert (environ["HTTP_HOST"], environ["RAW_URI"]) == ("h:1", "http://h:1/%41?q")


def test_each_environ_is_a_dict_of_its_own() -> None:
    decoder = new_decoder()
    decoder.feed(GOOD["plain"][0] * 2)
    first, second = decoder.ready[0][0], decoder.ready[1][0]
    first.clear()
    assert type(second) is dict
    assert second["PATH_INFO"] == "/a"
    assert TEMPLATE["REQUEST_METHOD"] == ""


def test_an_expectation_is_met_only_while_the_body_is_missing() -> None:
    raw, _ = GOOD["expectation"]
    decoder = new_decoder()
    decoder.feed(raw[:-1])
    assert decoder.wants_continue
    decoder.feed(raw[-1:])
    assert not decoder.wants_continue
    decoder.feed(raw)
    assert not decoder.wants_continue


def test_http_1_0_gets_no_interim_response() -> None:
    decoder = new_decoder()
    decoder.feed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert (decoder.body_began, decoder.wants_continue) == (True, False)


# bounds

TIGHT = Limits(100, 3, 50)


def head(line: bytes = b"GET / HTTP/1.1", *fields: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: x", *fields, b"", b""))


def test_a_request_line_at_the_limit_is_read_and_one_beyond_it_is_not() -> None:
    line = b"GET /" + b"a" * (100 - len("GET / HTTP/1.1")) + b" HTTP/1.1"
    assert len(only(head(line), TIGHT)["PATH_INFO"]) == len(line) - len("GET  HTTP/1.1")
    assert refusal(head(line.replace(b"/a", b"/aa")), TIGHT).status == "414 URI Too Long"


@pytest.mark.parametrize("name", [b"X-Long", b"Content-Type"])
def test_a_field_at_the_limit_is_read_and_one_beyond_it_is_not(name: bytes) -> None:
    field = name + b": " + b"a" * (50 - len(name) - 2)
    only(head(b"GET / HTTP/1.1", field), TIGHT)
    refused = refusal(head(b"GET / HTTP/1.1", field + b"a"), TIGHT)
    assert refused.status == "431 Request Header Fields Too Large"
    assert name.decode() in refused.reason


def test_as_many_fields_as_the_limit_are_read_and_one_more_is_not() -> None:
    fields = [b"X-%d: a" % number for number in range(3)]
    only(head(b"GET / HTTP/1.1", *fields[:2]), TIGHT)
    assert refusal(head(b"GET / HTTP/1.1", *fields), TIGHT).status == "431 Request Header Fields Too Large"


def test_a_body_may_come_in_pieces_larger_than_any_head() -> None:
    decoder = new_decoder(TIGHT)
    decoder.feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
    for _ in range(4):
        decoder.feed(b"a" * 50_000)
    assert len(told(decoder.ready[0])[3]) == 200_000


ENDLESS = {
    "request line": (b"GET /", b"a" * 1000, "414"),
    "field name": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a" * 1000, "431"),
    "field value": (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 1000, "431"),
    "fields": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 200, "431"),
    "dropped fields": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A_: b\r\n" * 200, "431"),
    "chunk size": (CHUNKED, b"0" * 1000, "431"),
    "chunk extension": (CHUNKED + b"1;", b"a" * 1000, "431"),
    "trailer field": (CHUNKED + b"0\r\nA: ", b"a" * 1000, "431"),
    "trailer": (CHUNKED + b"0\r\n", b"A: b\r\n" * 200, "431"),
    "trailer of an upgrade": (
        CHUNKED.replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n") + b"0\r\n", b"A: b\r\n" * 200, "431",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_refused_at_a_bound(name: str) -> None:
    start, more, status = ENDLESS[name]
    decoder = new_decoder()
    decoder.feed(start)
    with pytest.raises(Refused) as caught:
        for _ in range(2 * DEFAULTS.head_bytes // len(more)):
            decoder.feed(more)
    assert caught.value.status[:3] == status


def test_empty_lines_between_requests_are_ignored_and_kept_nowhere() -> None:
    decoder = new_decoder()
    decoder.feed(b"\r\n" * 5000 + GOOD["plain"][0] + b"\r\n" * 5000)
    assert decoder.idle
    assert len(decoder.ready) == 1


def test_names_that_clients_invent_do_not_fill_the_memory() -> None:
    decoder = new_decoder()
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(20_000):
        decoder.feed(b"GET / HTTP/1.1\r\nHost: h%d\r\nX-%d: a\r\n\r\n" % (number, number))
        decoder.ready.clear()
    gc.collect()
    assert sys.getallocatedblocks() - before < 10_000
