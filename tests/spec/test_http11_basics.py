"""RFC 9110 and RFC 9112, one sentence per test, asked of a real server."""

import email.utils
import time
from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.harness import Server, read_to_end

APP = """
TEXT = [("Content-Type", "text/plain")]
STATUS = {"/204": "204 No Content", "/205": "205 Reset Content", "/304": "304 Not Modified"}

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path in STATUS:
        start_response(STATUS[path], [("Content-Length", "5")])
        return [b"hello"]
    start_response("200 OK", TEXT)
    if path == "/generated":
        return iter([b"one", b"two"])
    body = environ["wsgi.input"].read()
    return [" ".join((environ["REQUEST_METHOD"], environ.get("HTTP_HOST", "-"), path, "")).encode("latin-1") + body]
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
    """Check that ``raw`` is answered with ``code`` and that the connection is closed after it."""
    reply = client.send(raw).reply()
    assert reply.code == code
    assert reply.values("Connection") == ["close"]
    assert client.rest() == b""


# the request


def test_an_empty_line_before_the_request_is_ignored(client: Client) -> None:
    """RFC 9112 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one empty
    line (CRLF) received prior to the request-line." """
    assert client.send(b"\r\n").get("/a").reply().body == b"GET x /a "


def test_an_unknown_method_is_501(client: Client) -> None:
    """RFC 9110 9.1: "An origin server that receives a request method that is unrecognized or not implemented SHOULD
    respond with the 501 (Not Implemented) status code." """
    refused(client, b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501)


def test_a_target_that_is_too_long_is_414(client: Client) -> None:
    """RFC 9112 3: "A server that receives a request-target longer than any URI it wishes to parse MUST respond with a
    414 (URI Too Long) status code" """
    refused(client, b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 5000), 414)


def test_fields_that_are_too_large_are_431(client: Client) -> None:
    """RFC 6585 5: "The 431 status code indicates that the server is unwilling to process the request because its
    header fields are too large." """
    refused(client, b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (b"a" * 9000), 431)


def test_a_body_that_is_too_large_is_413(client: Client) -> None:
    """RFC 9110 15.5.14: "The 413 (Content Too Large) status code indicates that the server is refusing to process a
    request because the request content is larger than the server is willing or able to process." """
    refused(client, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", 413)


def test_another_major_version_is_505(client: Client) -> None:
    """RFC 9110 15.6.6: "The 505 (HTTP Version Not Supported) status code indicates that the server does not support,
    or refuses to support, the major version of HTTP that was used in the request message." """
    refused(client, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505)


@pytest.mark.parametrize("fields", [b"", b"Host: x\r\nHost: y\r\n", b"Host: x/y\r\n"])
def test_no_host_two_hosts_or_a_bad_one_is_400(client: Client, fields: bytes) -> None:
    """RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    lacks a Host header field and to any request message that contains more than one Host header field line or a Host
    header field with an invalid field value." """
    refused(client, b"GET / HTTP/1.1\r\n%b\r\n" % fields, 400)


def test_the_authority_of_the_target_replaces_host(client: Client) -> None:
    """RFC 9112 3.2.2: "the origin server MUST ignore the received Host header field (if any) and instead use the host
    information of the request-target." """
    assert client.get("http://h:8/a").reply().body == b"GET h:8 /a "


@pytest.mark.parametrize("field", [b"Host : x", b"Host: x\r\n folded", b"Host: x\r\nA: \0", b"Host: x\r\nA: a\rb"])
def test_a_field_that_is_no_field_is_400(client: Client, field: bytes) -> None:
    """RFC 9112 5.1: "A server MUST reject, with a response status code of 400 (Bad Request), any received request
    message that contains whitespace between a header field name and colon." """
    refused(client, b"GET / HTTP/1.1\r\n%b\r\n\r\n" % field, 400)


# the body of the request

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5a\r\n",
    ],
)
def test_framing_that_is_ambiguous_is_400_and_the_connection_ends(client: Client, framing: bytes) -> None:
    """RFC 9112 6.3: "the server MUST respond with a 400 (Bad Request) status code and then close the connection." """
    refused(client, b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n0\r\n\r\n" % framing + SMUGGLED, 400)


def test_a_coding_that_is_not_known_is_501(client: Client) -> None:
    """RFC 9112 6.1: "A server that receives a request message with a transfer coding it does not understand SHOULD
    respond with 501 (Not Implemented)." """
    refused(client, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501)


def test_http_1_0_has_no_transfer_encoding(client: Client) -> None:
    """RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field
    MUST treat the message as if the framing is faulty" """
    refused(client, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)


def test_unrecognized_chunk_extensions_are_ignored(client: Client) -> None:
    """RFC 9112 7.1.1: "A recipient MUST ignore unrecognized chunk extensions." """
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert client.send(head + b'4;a=b;c="d"\r\nbody\r\n0;e\r\n\r\n').reply().body == b"POST x / body"


def test_continue_is_sent_once_and_before_the_final_response(client: Client) -> None:
    """RFC 9110 10.1.1: "Upon receiving an HTTP/1.1 (or later) request that has a method, target URI, and complete
    header section that contains a 100-continue expectation ... an origin server MUST send either: an immediate
    response with a final status code ... or an immediate 100 (Continue) response" """
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert client.reply().line == "HTTP/1.1 100 Continue"
    assert client.send(b"bo").send(b"dy").reply().body == b"POST x / body"


def test_continue_is_not_sent_to_http_1_0(client: Client) -> None:
    """RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
    expectation." """
    client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").send(b"body")
    assert client.reply().code == 200


def test_an_expectation_that_is_not_known_is_417(client: Client) -> None:
    """RFC 9110 10.1.1: "A server that receives an Expect field value containing a member other than 100-continue MAY
    respond with a 417 (Expectation Failed) status code" """
    refused(client, b"POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\nContent-Length: 4\r\n\r\nbody", 417)


def test_a_final_status_may_come_instead_of_continue(client: Client) -> None:
    """RFC 9110 10.1.1: "an immediate response with a final status code" """
    refused(client, b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n", 413)


@pytest.mark.parametrize(
    "body", [b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
)
def test_an_upgrade_is_ignored_and_its_body_read(client: Client, body: bytes) -> None:
    """RFC 9110 7.8: "A server MAY ignore a received Upgrade header field if it wishes to continue using the current
    protocol on that connection." """
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + upgrade + body).get("/next")
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
    """RFC 9112 9.3.2: "A server MAY process a sequence of pipelined requests in parallel if they all have safe methods,
    but it MUST send the corresponding responses in the same order that the requests were received." """
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(100)))
    assert [client.reply().body for _ in range(100)] == [b"GET x /%d " % number for number in range(100)]


def test_a_refusal_is_readable_though_more_was_sent(server: Server) -> None:
    """RFC 9112 9.6: "If a server performs an immediate close of a TCP connection, there is a significant risk that the
    client will not be able to read the last HTTP response." """
    with server.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(50):
            sock.sendall(b"x" * 100_000)
        assert read_to_end(sock).startswith(b"HTTP/1.1 413 ")
