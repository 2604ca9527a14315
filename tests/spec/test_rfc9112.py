"""RFC 9110 and RFC 9112, one sentence per test, asked of a real server; what must be refused stands in tables."""

import email.utils
import time
from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.harness import Server, read_to_end

APP = """
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]
STATUS = {"/204": "204 No Content", "/205": "205 Reset Content", "/304": "304 Not Modified"}

def unlawful(environ, start_response):
    start_response(STATUS[environ["PATH_INFO"]], [("Content-Length", "5")])
    return [b"hello"]

@validator
def lawful(environ, start_response):
    if environ["PATH_INFO"] == "/generated":
        start_response("200 OK", TEXT)
        return iter([b"one", b"two"])
    words = (environ["REQUEST_METHOD"], environ.get("HTTP_HOST", "-"), environ["PATH_INFO"], "")
    page = " ".join(words).encode("latin-1") + environ["wsgi.input"].read(100)
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(page)))])
    return [page]

def app(environ, start_response):
    if environ["PATH_INFO"] == "*":  # which wsgiref.validate takes for an error
        start_response("200 OK", TEXT)
        return [b"server-wide"]
    return (unlawful if environ["PATH_INFO"] in STATUS else lawful)(environ, start_response)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(app="http_app:app", header_timeout=30, body_timeout=30, limit_request_body=1 << 20)
    server.write_app(APP, "http_app")
    with server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def refused(client: Client, raw: bytes, code: int) -> None:
    """Check that ``raw`` is answered with ``code``, once, and that the connection is closed after it."""
    reply = client.send(raw).reply()
    assert reply.code == code
    assert reply.values("Connection") == ["close"]
    assert client.rest() == b""


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n" + SMUGGLED

# 3: "request-line = method SP request-target SP HTTP-version", and section 2.3 for the version.
LINES = {
    "no version": (b"GET /\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\nHost: x\r\n\r\n", 400),
    "HTTP/01.1": (b"GET / HTTP/01.1\r\nHost: x\r\n\r\n", 400),
    "http/1.1": (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400),
    "RTSP/1.0": (b"GET / RTSP/1.0\r\nHost: x\r\n\r\n", 400),
    "RTSP/1.1": (b"POST / RTSP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400),
    "RTSP/1.1 of another line": (b"OPTIONS * RTSP/1.1\r\nHost: x\r\n\r\n", 400),
    "a method of RTSP": (b"DESCRIBE / RTSP/1.0\r\nHost: x\r\n\r\n", 400),
    "ICE/1.0": (b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n", 400),
    "FTP/1.1": (b"GET / FTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two spaces before the target": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a space after the version": (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    "Host beyond ASCII": (b"GET / HTTP/1.1\r\nHost: b\xfccher.example\r\n\r\n", 400),
    "Host with a broken escape": (b"GET / HTTP/1.1\r\nHost: a%2.example\r\n\r\n", 400),
    "Host with a percent sign alone": (b"GET / HTTP/1.1\r\nHost: a%\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare CR": (b"GET / HTTP/1.1\rHost: x\r\n\r\n", 400),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a byte beyond ASCII in the target": (b"GET /\xe4 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "* without OPTIONS": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an authority without CONNECT": (b"GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an absolute target without authority": (b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "userinfo": (b"GET http://u:p@h/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "another scheme": (b"GET ftp://h/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "no token for a method": (b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a colon after the method": (b"GET: / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 501),
    "an unknown method": (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "a method in another case": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "a method of RTSP in HTTP": (b"DESCRIBE / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "a long target": (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 5000), 414),
}  # fmt: skip

# 5: "field-line = field-name ":" OWS field-value OWS", RFC 9110 5.5 for the values; section 3.2 for Host.
FIELDS = {
    "space before the colon": b"A : b", "tab before the colon": b"A\t: b", "space in the name": b"A b: c",
    "space before the first field": b" A: b", "an empty name": b": b", "no colon": b"A", "quotes": b'"A": b',
    "NUL in the name": b"A\0: b", "a byte beyond ASCII in the name": b"\xe4: b", "CR in the name": b"A\rB: c",
    "obs-fold": b"A: b\r\n c", "obs-fold with a tab": b"A: b\r\n\tc", "obs-fold of an empty value": b"A:\r\n b",
    "NUL": b"A: \0", "bell": b"A: b\x07c", "vertical tab": b"A: b\x0bc", "DEL": b"A: b\x7f",
    "bare CR": b"A: b\rc", "bare CR at the end": b"A: b\r", "bare LF": b"A: b\nB: c", "bare LF at the end": b"A: b\n",
    "two Content-Types": b"Content-Type: a\r\nContent-Type: b",
    "two Hosts": b"Host: x", "another Host": b"Host: y", "an empty Host": b"Host:",
}  # fmt: skip
HOSTS = {
    "no Host": b"", "a path": b"Host: x/y", "userinfo": b"Host: u@x", "a space": b"Host: x y", "a list": b"Host: x, y",
    "no port": b"Host: x:y", "half a bracket": b"Host: [::1",
}  # fmt: skip

# 6: framing. Whatever two readers of one connection could frame differently is refused.
FRAMING = {
    "CL.TE": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    "TE.CL": (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    "CL.TE with 0": (b"Content-Length: 0\r\nTransfer-Encoding: chunked", 400),
    "TE.TE": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
    "TE.TE, the second unknown": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", 400),
    "TE.TE, the first unknown": (b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", 400),
    "TE.TE, identity": (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 400),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked", 400),
    "chunked not last": (b"Transfer-Encoding: chunked, identity", 400),
    "an empty element after it": (b"Transfer-Encoding: chunked,", 400),
    "an empty element before it": (b"Transfer-Encoding: ,chunked", 501),
    "an empty coding": (b"Transfer-Encoding:", 400),
    "a vertical tab": (b"Transfer-Encoding:\x0bchunked", 400),
    "a space before the colon": (b"Transfer-Encoding : chunked", 400),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked", 400),
    "a bare CR before it": (b"A: b\rTransfer-Encoding: chunked", 400),
    "a bare LF before it": (b"A: b\nTransfer-Encoding: chunked", 400),
    "xchunked": (b"Transfer-Encoding: xchunked", 501),
    "gzip": (b"Transfer-Encoding: gzip", 501),
    "gzip, chunked": (b"Transfer-Encoding: gzip, chunked", 501),
    "identity": (b"Transfer-Encoding: identity", 501),
    "quotes": (b'Transfer-Encoding: "chunked"', 501),
    "a parameter": (b"Transfer-Encoding: chunked;q=1", 501),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6", 400),
    "the same length twice": (b"Content-Length: 5\r\nContent-Length: 5", 400),
    "a list": (b"Content-Length: 5, 5", 400),
    "two numbers": (b"Content-Length: 5 5", 400),
    "plus": (b"Content-Length: +5", 400),
    "minus": (b"Content-Length: -5", 400),
    "minus zero": (b"Content-Length: -0", 400),
    "hexadecimal": (b"Content-Length: 0x5", 400),
    "an underscore": (b"Content-Length: 1_0", 400),
    "a fraction": (b"Content-Length: 5.0", 400),
    "letters": (b"Content-Length: 5a", 400),
    "quoted": (b'Content-Length: "5"', 400),
    "a digit of latin-1": (b"Content-Length: \xb2", 400),
    "empty": (b"Content-Length:", 400),
    "2**64": (b"Content-Length: 18446744073709551616", 400),
    "2**64 - 1": (b"Content-Length: 18446744073709551615", 413),
    "too large": (b"Content-Length: 1048577", 413),
    "an unknown expectation": (b"Content-Length: 5\r\nExpect: more", 417),
}  # fmt: skip

# 7.1: "chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF".
CHUNKS = {
    "0x": b"0x5\r\nhello\r\n", "plus": b"+5\r\nhello\r\n", "minus": b"-5\r\nhello\r\n",
    "an underscore": b"1_0\r\nhello\r\n", "a space before": b" 5\r\nhello\r\n", "a space after": b"5 \r\nhello\r\n",
    "a tab after": b"5\t\r\nhello\r\n", "no size": b"\r\nhello\r\n", "an extension only": b";a=b\r\nhello\r\n",
    "letters": b"5g\r\nhello\r\n", "17 digits": b"10000000000000005\r\nhello\r\n",
    "bare LF after the size": b"5\nhello\r\n", "bare CR after the size": b"5\rhello\r\n",
    "bare LF after the data": b"5\r\nhello\n", "nothing after the data": b"5\r\nhello",
    "too much data": b"5\r\nhello!\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n", "bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "NUL in an extension": b"5;a=\0\r\nhello\r\n", "CRLF in quotes": b'5;a="\r\n"\r\nhello\r\n',
    "Content-Length in the trailer": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "Transfer-Encoding in the trailer": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no field in the trailer": b"5\r\nhello\r\n0\r\nA\r\n\r\n",
    "bare LF in the trailer": b"5\r\nhello\r\n0\r\nA: b\n\r\n",
    "bare LF for the last line": b"5\r\nhello\r\n0\r\n\n",
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_request_line_that_is_none_is_refused(client: Client, name: str) -> None:
    """RFC 9112 3: "Recipients of an invalid request-line SHOULD respond with either a 400 (Bad Request) error or a
    301 ... redirect"; RFC 9110 9.1: "... unrecognized or not implemented SHOULD respond with the 501" """
    refused(client, *LINES[name])


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_no_field_is_400(client: Client, name: str) -> None:
    """RFC 9112 5.1: "A server MUST reject, with a response status code of 400 (Bad Request), any received request
    message that contains whitespace between a header field name and colon." """
    refused(client, b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % FIELDS[name] + SMUGGLED, 400)


@pytest.mark.parametrize("name", HOSTS)
def test_no_host_or_a_bad_one_is_400(client: Client, name: str) -> None:
    """RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    lacks a Host header field and to any request message that contains more than one ... or ... an invalid field
    value." """
    refused(client, b"GET / HTTP/1.1\r\n%b\r\n\r\n" % HOSTS[name], 400)


@pytest.mark.parametrize("name", FRAMING)
def test_framing_that_is_ambiguous_is_refused_and_the_connection_ends(client: Client, name: str) -> None:
    """RFC 9112 6.3: "the server MUST respond with a 400 (Bad Request) status code and then close the connection";
    6.1: "a transfer coding it does not understand SHOULD respond with 501 (Not Implemented)." """
    field, code = FRAMING[name]
    refused(client, POST + field + b"\r\n\r\n" + LAST, code)


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_that_is_none_is_400(client: Client, name: str) -> None:
    """RFC 9112 7.1: "chunk-size = 1*HEXDIG" """
    refused(client, CHUNKED + CHUNKS[name] + LAST, 400)


def test_http_1_0_has_no_transfer_encoding(client: Client) -> None:
    """RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field
    MUST treat the message as if the framing is faulty" """
    refused(client, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST, 400)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 9])
def test_an_unknown_method_is_501_however_it_is_split(client: Client, cut: int) -> None:
    """RFC 9110 9.1: "An origin server that receives a request method that is unrecognized or not implemented SHOULD
    respond with the 501 (Not Implemented) status code." """
    raw = b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n"
    refused(client.send(raw[:cut]), raw[cut:], 501)


@pytest.mark.parametrize("fields", [b"A: b\r\n" * 100, b"A_: b\r\n" * 100, b"Proxy: b\r\n" * 100, b"A: " + b"a" * 9000])
def test_fields_that_are_too_many_or_too_large_are_431(client: Client, fields: bytes) -> None:
    """RFC 6585 5: "The 431 status code indicates that the server is unwilling to process the request because its
    header fields are too large." """
    refused(client, b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % fields.rstrip(), 431)


def test_trailer_fields_do_not_become_fields_of_the_head(client: Client) -> None:
    """RFC 9112 7.1.2: "A recipient MUST NOT merge a received trailer field into the header section unless its
    corresponding header field definition explicitly permits and instructs how" """
    raw = CHUNKED + b"5\r\nhello\r\n0\r\nHost: evil\r\nX-A: b\r\n\r\n"
    assert client.send(raw).reply().body == b"POST x / hello"


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_before_the_request_are_ignored(client: Client, empty: bytes) -> None:
    """RFC 9112 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one empty
    line (CRLF) received prior to the request-line." """
    assert client.send(empty + b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + empty).reply().body == b"GET x /a "
    assert client.send(empty).get("/b").reply().body == b"GET x /b "


def test_the_authority_of_the_target_replaces_host(client: Client) -> None:
    """RFC 9112 3.2.2: "the origin server MUST ignore the received Host header field (if any) and instead use the host
    information of the request-target." """
    assert client.get("http://h:8/a").reply().body == b"GET h:8 /a "


def test_options_may_ask_for_the_server_as_a_whole(client: Client) -> None:
    """RFC 9112 3.2.4: "The asterisk-form of request-target is only used for a server-wide OPTIONS request" """
    assert client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").reply().body == b"server-wide"


def test_unrecognized_chunk_extensions_are_ignored(client: Client) -> None:
    """RFC 9112 7.1.1: "A recipient MUST ignore unrecognized chunk extensions." """
    assert client.send(CHUNKED + b'0004;a=b;c="d"\r\nbody\r\n000;e\r\n\r\n').reply().body == b"POST x / body"


def test_continue_is_sent_once_and_before_the_final_response(client: Client) -> None:
    """RFC 9110 10.1.1: "an origin server MUST send either: an immediate response with a final status code ... or an
    immediate 100 (Continue) response" """
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert client.reply().line == "HTTP/1.1 100 Continue"
    assert client.send(b"bo").send(b"dy").reply().body == b"POST x / body"


def test_continue_is_not_sent_when_the_body_is_there(client: Client) -> None:
    """RFC 9110 10.1.1: "A server MAY omit sending a 100 (Continue) response if it has already received some or all of
    the content for the corresponding request" """
    assert client.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody").reply().code == 200


def test_continue_is_not_sent_to_http_1_0(client: Client) -> None:
    """RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
    expectation." """
    client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").send(b"body")
    assert client.reply().code == 200


def test_a_final_status_may_come_instead_of_continue(client: Client) -> None:
    """RFC 9110 10.1.1: "an immediate response with a final status code" """
    refused(client, POST + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n", 413)


@pytest.mark.parametrize(
    "body", [b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
)
def test_an_upgrade_is_ignored_and_its_body_read(client: Client, body: bytes) -> None:
    """RFC 9110 7.8: "A server MAY ignore a received Upgrade header field if it wishes to continue using the current
    protocol on that connection." """
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    client.send(POST + upgrade + body).get("/next")
    assert [client.reply().body, client.reply().body] == [b"POST x / body", b"GET x /next "]


# the response


def test_a_response_has_a_date(client: Client) -> None:
    """RFC 9110 6.6.1: "An origin server with a clock ... MUST generate a Date header field in all 2xx (Successful),
    3xx (Redirection), and 4xx (Client Error) responses" """
    [good] = client.get("/").reply().values("Date")
    [bad] = client.send(b"\0").reply().values("Date")
    for date in (good, bad):
        assert abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time()) < 60
        assert date.endswith(" GMT")


@pytest.mark.parametrize("target", ["/", "/generated"])
def test_head_is_get_without_content(client: Client, target: str) -> None:
    """RFC 9110 9.3.2: "The HEAD method is identical to GET except that the server MUST NOT send content in the
    response." """
    client.send(f"HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).get("/next")
    assert client.reply(is_head=True).code == 200
    assert client.reply().body == b"GET x /next "


@pytest.mark.parametrize(("target", "lengths"), [("/204", []), ("/205", ["0"]), ("/304", ["5"])])
def test_a_status_without_content_has_none(client: Client, target: str, lengths: list[str]) -> None:
    """RFC 9110 8.6: "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
    (Informational) or 204 (No Content)." """
    client.get(target).get("/next")
    reply = client.reply()
    assert str(reply.code) == target[1:]
    assert (reply.values("Content-Length"), reply.values("Transfer-Encoding")) == (lengths, [])
    assert client.reply().body == b"GET x /next "


# the connection


def test_a_connection_persists_unless_the_client_says_close(client: Client) -> None:
    """RFC 9112 9.3: "HTTP implementations SHOULD support persistent connections." """
    for _ in range(3):
        assert client.get("/").reply().values("Connection") == []
    assert client.get("/", "Connection: close").reply().values("Connection") == ["close"]
    assert client.rest() == b""


def test_http_1_0_persists_only_when_asked(client: Client) -> None:
    """RFC 9112 9.3: "If the received protocol is HTTP/1.0, the "keep-alive" connection option is present, ... the
    connection will persist after the current response" """
    asking = b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert client.send(asking % b"/").reply().values("Connection") == ["keep-alive"]
    reply = client.send(asking % b"/generated").reply()  # its length is known only at its end
    assert (reply.values("Connection"), reply.body) == (["close"], b"onetwo")


def test_http_1_0_does_not_persist_unless_asked(client: Client) -> None:
    """RFC 9112 9.3: "otherwise, The connection will close after the current response." """
    assert client.send(b"GET / HTTP/1.0\r\n\r\n").reply().values("Connection") == ["close"]
    assert client.rest() == b""


def test_responses_come_in_the_order_of_the_requests(client: Client) -> None:
    """RFC 9112 9.3.2: "it MUST send the corresponding responses in the same order that the requests were received." """
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(100)))
    assert [client.reply().body for _ in range(100)] == [b"GET x /%d " % number for number in range(100)]


def test_good_requests_before_a_bad_one_are_answered(client: Client) -> None:
    """RFC 9112 9.3.2: as above, and what is refused is refused after them."""
    client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /2 HTTP/1.1\r\n\r\n")
    assert [client.reply().code, client.reply().code, client.rest()] == [200, 400, b""]


def test_a_refusal_is_readable_though_more_was_sent(server: Server) -> None:
    """RFC 9112 9.6: "If a server performs an immediate close of a TCP connection, there is a significant risk that the
    client will not be able to read the last HTTP response." """
    with server.connect() as sock:
        sock.sendall(POST + b"Content-Length: 5000000\r\n\r\n")
        for _ in range(50):
            sock.sendall(b"x" * 100_000)
        assert read_to_end(sock).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "part", [b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"]
)
def test_a_request_that_does_not_come_to_its_end_is_408(part: bytes) -> None:
    """RFC 9110 15.5.9: "the server did not receive a complete request message within the time that it was prepared to
    wait." """
    with Server(app="tests.process.site:app", header_timeout=1, body_timeout=1) as server, Client(server) as client:
        reply = client.send(part).reply()
        assert (reply.code, reply.values("Connection"), client.rest()) == (408, ["close"], b"")
