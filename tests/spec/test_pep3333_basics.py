"""PEP 3333, one sentence per test, asked of a real server; the app of most tests is watched by wsgiref.validate."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

APP = '''
import json, os, sys
from pathlib import Path
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]
closed = Path("closed")

def environ_of(environ, start_response):
    """Everything of the environ that JSON can say, the types of the rest."""
    assert type(environ) is dict
    start_response("200 OK", TEXT)
    spell = lambda value: value if isinstance(value, (str, bool)) else repr(value)
    return [json.dumps({key: spell(value) for key, value in environ.items()}).encode()]

def body_of(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])) + environ["wsgi.input"].read(10)
    start_response("200 OK", TEXT)
    return [body]

def lines_of(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"|".join(list(environ["wsgi.input"]))]

def quoted_error(environ, start_response):
    environ["wsgi.errors"].write("of the app: \\u20ac\\n")
    environ["wsgi.errors"].flush()
    start_response("200 OK", TEXT)
    return [b"written"]

def lazy(environ, start_response):
    start_response("200 OK", TEXT)
    yield b""
    yield b"first"
    yield b"second"

def gated(environ, start_response):
    start_response("200 OK", TEXT)
    for number in (b"1", b"2", b"3"):
        yield number
        with open(environ["QUERY_STRING"], "rb") as fifo:
            fifo.read()

def late(environ, start_response):
    """The head is held until the gate opens, although start_response was called."""
    start_response("200 OK", TEXT)
    with open(environ["QUERY_STRING"], "rb") as fifo:
        fifo.read()
    raise LookupError("after start_response")

def writes(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"a")
    write(b"b")
    return [b"c"]

def twice(environ, start_response):
    start_response("200 OK", TEXT)
    try:
        start_response("201 Created", TEXT)
    except AssertionError:
        return [b"refused"]
    return [b"taken"]

def replaced(environ, start_response):
    start_response("200 OK", [*TEXT, ("X-First", "1")])
    try:
        raise LookupError
    except LookupError:
        start_response("503 Busy", TEXT, sys.exc_info())
    return [b"sorry"]

def too_late(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"first"
    try:
        raise LookupError("too late")
    except LookupError:
        start_response("503 Busy", TEXT, sys.exc_info())
    yield b"never"

def hop_by_hop(environ, start_response):
    start_response("200 OK", [*TEXT, ("Keep-Alive", "timeout=9"), ("Transfer-Encoding", "chunked")])
    return [b"plain"]

def too_much(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return iter([b"abc", b"def", b"ghi"])

def too_little(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return iter([b"abc"])

class Closing:
    def __init__(self, ending):
        self.ending = ending
    def __iter__(self):
        yield b"x" * 100000
        if self.ending == "fault":
            raise LookupError("in the iteration")
        while self.ending == "endless":
            yield b"x" * 100000
    def close(self):
        with closed.open("a") as file:
            file.write(self.ending + "\\n")

def closing(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing(environ["QUERY_STRING"])

PLAIN = {"/" + f.__name__: f for f in (closing, hop_by_hop, too_much, too_little, twice, too_late, lazy, lines_of)}
CHECKED = {"/" + f.__name__: validator(f) for f in (environ_of, body_of, quoted_error, gated, writes, replaced, late)}
APPS = {**PLAIN, **CHECKED}

def app(environ, start_response, *rest, **named):
    assert not rest and not named
    return APPS.get(environ["PATH_INFO"], CHECKED["/environ_of"])(environ, start_response)
'''

EXPECTED = [
    "app raised", "less than its Content-Length", "more than its Content-Length", "the server's own; dropped",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(app="pep_app:app", expect=EXPECTED)
    server.write_app(APP, "pep_app")
    with server:
        yield server
        assert "garbage collected without being closed" not in server.said()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def environ(client: Client, target: str = "/environ_of", *fields: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(client.get(target, *fields).reply().body)
    return made


# environ


def test_each_required_variable_is_there_and_a_string(client: Client) -> None:
    """ "SERVER_NAME and SERVER_PORT are required strings and must never be empty." """
    made = environ(client)
    assert made["SERVER_NAME"]
    assert made["SERVER_PORT"].isdigit()
    assert (made["REQUEST_METHOD"], made["SERVER_PROTOCOL"], made["SCRIPT_NAME"]) == ("GET", "HTTP/1.1", "")
    assert made["REMOTE_ADDR"] == "127.0.0.1"


def test_text_is_latin_1(client: Client) -> None:
    """ "servers and gateways must not supply strings to an application containing any other Unicode characters" """
    made = environ(client, "/%E2%82%AC?%E2%82%AC", "X-A: \xe4")
    assert made["PATH_INFO"].encode("latin-1").decode() == "/\u20ac"
    assert (made["QUERY_STRING"], made["HTTP_X_A"]) == ("%E2%82%AC", "\xe4")


def test_fields_of_the_request_have_http_variables(client: Client) -> None:
    """ "Variables corresponding to the client-supplied HTTP request headers" """
    made = environ(client, "/", "X-Two-Words: a", "X-Two-Words: b", "Proxy: evil", "X_Two_Words: c")
    assert made["HTTP_X_TWO_WORDS"] == "a,b"
    assert not {"HTTP_PROXY", "CONTENT_TYPE", "CONTENT_LENGTH"} & set(made)


def test_the_wsgi_variables_are_there(client: Client) -> None:
    """ "wsgi.multiprocess: This value should evaluate true if an equivalent application object may be simultaneously
    invoked by another process" """
    made = environ(client)
    assert (made["wsgi.version"], made["wsgi.url_scheme"]) == ("(1, 0)", "http")
    assert (made["wsgi.multithread"], made["wsgi.multiprocess"], made["wsgi.run_once"]) == (False, True, False)
    assert made["wsgi.input_terminated"] is True


# wsgi.input and wsgi.errors


def test_reading_ends_at_the_content_length(client: Client) -> None:
    """ "The server ... should simulate an end-of-file condition if the application attempts to read past that
    point." """
    client.post("/body_of", b"five!")
    client.get("/environ_of")
    assert client.reply().body == b"five!"
    assert client.reply().code == 200


def test_chunks_are_decoded_for_the_app(client: Client) -> None:
    """ "WSGI servers must handle any supported inbound 'hop-by-hop' headers on their own, such as by decoding any
    inbound Transfer-Encoding, including chunked encoding if applicable." """
    head = b"POST /body_of HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = client.send(head + b"3\r\none\r\n3;x=y\r\ntwo\r\n0\r\nX-Trailer: z\r\n\r\n").reply()
    assert reply.body == b"onetwo"


def test_a_body_is_read_by_lines(client: Client) -> None:
    """ "__iter__()" is one of the methods of an input stream."""
    assert client.post("/lines_of", b"one\ntwo\nthree").reply().body == b"one\n|two\n|three"


def test_a_large_body_arrives_whole(client: Client) -> None:
    body = os.urandom(3 << 20)
    assert client.post("/body_of", body).reply().body == body


def test_error_output_goes_to_the_error_log(client: Client, server: Server) -> None:
    """ "wsgi.errors: An output stream (file-like object) to which error output can be written" """
    assert client.get("/quoted_error").reply().code == 200
    assert "of the app: \u20ac" in server.log()


# start_response and the body


def gate(server: Server, name: str) -> str:
    path = str(server.folder / name)
    os.mkfifo(path)
    return path


def let_through(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def test_each_chunk_is_sent_before_the_next_is_asked_for(client: Client, server: Server) -> None:
    """ "The server or gateway must transmit the yielded bytestrings to the client in an unbuffered fashion, completing
    the transmission of each bytestring before requesting another one." """
    path = gate(server, "gated")
    client.get(f"/gated?{path}").read_head()
    for number in (b"1", b"2", b"3"):
        assert client.read_chunk() == number
        let_through(path)
    assert client.read_chunk() == b""


def test_the_head_is_kept_until_the_first_bytes(client: Client, server: Server) -> None:
    """ "the start_response callable must not actually transmit the response headers. Instead, it must store them" """
    path = gate(server, "late")
    client.get(f"/late?{path}")
    let_through(path)
    assert client.reply().code == 500


def test_an_empty_chunk_does_not_end_the_body(client: Client) -> None:
    """ "only after the first iteration of the application return value that yields a non-empty bytestring" """
    assert client.get("/lazy").reply().chunks == [b"first", b"second", b""]


def test_written_bytes_come_first(client: Client) -> None:
    """ "start_response must return a write(body_data) callable" """
    assert client.get("/writes").reply().body == b"abc"


def test_a_second_start_response_is_an_error(client: Client) -> None:
    """ "It is a fatal error to call start_response without the exc_info argument if start_response has already been
    called within the current invocation of the application." """
    assert client.get("/twice").reply().body == b"refused"


def test_exc_info_replaces_the_head(client: Client) -> None:
    """ "start_response should replace the currently-stored HTTP response headers with the newly-supplied ones" """
    reply = client.get("/replaced").reply()
    assert (reply.line, reply.values("X-First"), reply.body) == ("HTTP/1.1 503 Busy", [], b"sorry")


def test_exc_info_after_the_head_is_raised(client: Client, server: Server) -> None:
    """ "if exc_info is provided, and the HTTP headers have already been sent, start_response must raise an error" """
    client.get("/too_late").read_head()
    assert client.read_chunk() == b"first"
    with pytest.raises(ConnectionResetError):
        client.rest()
    server.wait_line("app raised")
    assert "LookupError: too late" in server.log()


def test_hop_by_hop_headers_of_the_app_are_not_sent(client: Client) -> None:
    """ "Applications are forbidden from using HTTP/1.1 'hop-by-hop' features or headers" """
    reply = client.get("/hop_by_hop").reply()
    assert (reply.values("Keep-Alive"), reply.values("Transfer-Encoding"), reply.body) == ([], [], b"plain")


def test_no_more_than_the_content_length_is_sent(client: Client) -> None:
    """ "the server should not transmit more bytes to the client than the header allows, and should stop iterating over
    the response when enough data has been sent" """
    assert client.get("/too_much").reply().body == b"abcd"
    assert client.get("/environ_of").reply().code == 200


def test_too_little_closes_the_connection_and_is_logged(client: Client, server: Server) -> None:
    """ "if the application does not provide enough data to meet its stated Content-Length, the server should close the
    connection and log or otherwise report the error." """
    with pytest.raises(EOFError):
        client.get("/too_little").reply()
    server.wait_line("less than its Content-Length")


@pytest.mark.parametrize("ending", ["peace", "fault", "endless"])
def test_close_is_called_however_it_ends(server: Server, ending: str) -> None:
    """ "the server or gateway must call that method upon completion of the current request, whether the request was
    completed normally, or terminated early due to an application error during iteration or an early disconnect of the
    browser." """
    with Client(server) as client:
        client.get(f"/closing?{ending}").read_head()
        client.read_chunk()  # then the client leaves
    closed = server.folder / "closed"
    wait_until(lambda: closed.exists() and ending in closed.read_text(), f"close() after {ending}")
    assert closed.read_text().split().count(ending) == 1
