"""PEP 3333, one sentence per test, asked of a real server; lawful apps are watched by wsgiref.validate."""

import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificate, needs_openssl
from tests.client import Client
from tests.harness import Server, read_to_end, wait_until

EXPECTED = [
    "app raised", "less than its Content-Length", "more than its Content-Length", "the server's own; dropped",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(app="pep_app:app", expect=EXPECTED)
    server.write_app((Path(__file__).parent / "pep3333_app.py").read_text(), "pep_app")
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


def faults(server: Server) -> int:
    return len(server.lines("app raised"))


# environ


def test_environ_is_a_dict_and_belongs_to_the_app(client: Client) -> None:
    """ "This object must be a builtin Python dictionary ... and the application is allowed to modify the dictionary in
    any way it desires." """
    assert [client.get("/scribbler").reply().body for _ in range(2)] == [b"fresh", b"fresh"]


def test_each_required_variable_is_there(client: Client) -> None:
    """ "SERVER_NAME and SERVER_PORT are required strings and must never be empty." """
    made = environ(client)
    assert made["SERVER_NAME"]
    assert made["SERVER_PORT"].isdigit()
    assert (made["REQUEST_METHOD"], made["SERVER_PROTOCOL"], made["SCRIPT_NAME"]) == ("GET", "HTTP/1.1", "")
    assert (made["REMOTE_ADDR"], made["GATEWAY_INTERFACE"]) == ("127.0.0.1", "CGI/1.1")
    assert made["REMOTE_PORT"] == str(client.sock.getsockname()[1])
    assert made["SERVER_SOFTWARE"].startswith("forkserve/")


def test_server_protocol_is_the_version_of_the_request(client: Client) -> None:
    """ "SERVER_PROTOCOL: The version of the protocol the client used to send the request." """
    assert json.loads(client.send(b"GET / HTTP/1.0\r\n\r\n").reply().body)["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_every_cgi_variable_is_native_text_of_latin_1(client: Client) -> None:
    """ "servers and gateways must not supply strings to an application containing any other Unicode characters" """
    made = environ(client, "/%E2%82%AC/%FF?%E2%82%AC", "X-A: \xe4")
    assert made["PATH_INFO"].encode("latin-1") == b"/\xe2\x82\xac/\xff"
    assert (made["QUERY_STRING"], made["HTTP_X_A"]) == ("%E2%82%AC", "\xe4")
    for key, value in made.items():
        if key.isupper():
            assert isinstance(value, str), key
            value.encode("latin-1")


def test_the_path_is_decoded_once_and_otherwise_as_it_came(client: Client) -> None:
    """ "The remainder of the request URL's "path", designating the virtual "location" of the request's target within
    the application": CGI wants it decoded, apps may need it raw."""
    made = environ(client, "//a%2Fb/%252e/../c?d=%2F")
    assert (made["PATH_INFO"], made["RAW_URI"]) == ("//a/b/%2e/../c", "//a%2Fb/%252e/../c?d=%2F")
    assert made["REQUEST_URI"] == made["RAW_URI"]


def test_fields_of_the_request_have_http_variables(client: Client) -> None:
    """ "HTTP_ Variables: Variables corresponding to the client-supplied HTTP request headers" """
    made = environ(client, "/", "X-Two-Words: a", "x-two-words: b", "Cookie: a=b", "Cookie: c=d", "X-Empty:")
    assert (made["HTTP_X_TWO_WORDS"], made["HTTP_COOKIE"], made["HTTP_X_EMPTY"]) == ("a,b", "a=b; c=d", "")


def test_variables_that_the_request_does_not_have_are_absent(client: Client) -> None:
    """ "missing variables (such as REMOTE_USER when no authentication has occurred) should be left out of the environ
    dictionary." """
    assert not {"CONTENT_TYPE", "CONTENT_LENGTH", "HTTPS", "HTTP_TRANSFER_ENCODING"} & set(environ(client))


@needs_openssl
def test_https_is_told_by_variables_and_the_scheme(tmp_path: Path) -> None:
    """ "HTTPS: ... a server ... should also define the Apache SSL environment variables, such as HTTPS=on and
    SSL_PROTOCOL." """
    shown = Certificate(tmp_path, "a", "DNS:a.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(shown.file)
    with (
        Server(app="tests.process.site:app", certfile=str(shown.file), keyfile=str(shown.key)) as server,
        context.wrap_socket(server.connect(), server_hostname="a.example") as sock,
    ):
        sock.sendall(b"GET /environ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        made = json.loads(read_to_end(sock).partition(b"\r\n\r\n")[2])
    assert (made["HTTPS"], made["wsgi.url_scheme"], made["SSL_PROTOCOL"]) == ("on", "https", "TLSv1.3")


def test_the_deployer_adds_pairs_to_the_environ(tmp_path: Path) -> None:
    """ "Server authors should support this by allowing an application's deployer to specify name-value pairs to be
    placed in environ." """
    flags = ["-e", "shop.debug=yes", "-e", "HTTP_HOST=forged"]
    with Server(app="tests.process.site:app", flags=flags) as server:
        made = server.get("/environ").json
    assert made["shop.debug"] == "yes"
    assert made["HTTP_HOST"] != "forged"


def test_type_and_length_have_no_prefix(client: Client) -> None:
    """ "CONTENT_LENGTH: The contents of any Content-Length fields in the HTTP request." """
    made = json.loads(client.post("/environ_of", b"hello", "Content-Type: text/plain").reply().body)
    assert (made["CONTENT_LENGTH"], made["CONTENT_TYPE"]) == ("5", "text/plain")
    assert not {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"} & set(made)


@pytest.mark.parametrize(
    "field", ["Proxy: evil", "Remote_Addr: evil", "X_Real_IP: evil", "wsgi.url_scheme: evil", "Remote-Addr: evil"]
)
def test_no_field_becomes_a_variable_of_the_servers(client: Client, field: str) -> None:
    """ "The presence or absence of these variables should correspond with the presence or absence of the appropriate
    HTTP header in the request": fields make HTTP_ variables and no others, and never HTTP_PROXY, which is not CGI's."""
    plain = environ(client)
    made = environ(client, "/environ_of", field)
    added = {key for key, value in made.items() if value != plain.get(key) and not str(value).startswith("<")}
    assert added <= {"HTTP_REMOTE_ADDR"}


def test_the_wsgi_variables_are_there(client: Client) -> None:
    """ "wsgi.multiprocess: This value should evaluate true if an equivalent application object may be simultaneously
    invoked by another process": two generations are during a reload."""
    made = environ(client)
    assert (made["wsgi.version"], made["wsgi.url_scheme"]) == ("(1, 0)", "http")
    assert (made["wsgi.multithread"], made["wsgi.multiprocess"], made["wsgi.run_once"]) == (False, True, False)
    assert made["wsgi.input_terminated"] is True


def test_keys_of_the_server_itself_are_lower_case_and_have_its_name(client: Client) -> None:
    """ "the environ dictionary may also contain server-defined variables ... named using only lower-case letters,
    numbers, dots, and underscores, and should be prefixed with a name that is unique to the defining server" """
    private = {key for key in environ(client) if not key.isupper() and not key.startswith("wsgi.")}
    assert private
    assert all(key.startswith("forkserve.") and key == key.lower() for key in private)


def test_errors_take_any_text(client: Client, server: Server) -> None:
    """ "wsgi.errors: An output stream (file-like object) to which error output can be written" """
    assert client.get("/errors").reply().body == b"written"
    assert "of the app: \u20ac" in server.log()
    assert "\\ud800" in server.log()


# wsgi.input


def test_reading_ends_at_the_content_length(client: Client) -> None:
    """ "The server ... should simulate an end-of-file condition if the application attempts to read past that
    point." """
    client.post("/reads", b"five!").get("/environ_of")
    assert client.reply().body == b"|fi|ve!||"
    assert client.reply().code == 200


def test_reading_without_a_body_gives_nothing(client: Client) -> None:
    """ "A server should allow read() to be called without an argument, and return the remainder of the client's input
    stream." """
    assert client.get("/rest_of").reply().body == b""
    assert client.post("/rest_of", b"all\n").reply().body == b"all\n"


def test_a_body_is_read_by_lines(client: Client) -> None:
    """ "Servers should support the optional "size" argument to readline()"; "The hint argument to readlines() is
    optional for both caller and implementer." """
    body = b"one\ntwo\n\nthree"
    assert client.post("/lines_of", body).reply().body == b"one\n|two\n|\n|three"
    assert client.post("/readline_of", body).reply().body == b"on|e\n|two\n|\n|three||"
    assert client.post("/readlines_of", body).reply().body == b"one\n|two\n|\n|three"


def chunked(target: bytes, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (target, body)


def test_chunks_are_decoded_for_the_app(client: Client) -> None:
    """ "WSGI servers must handle any supported inbound 'hop-by-hop' headers on their own, such as by decoding any
    inbound Transfer-Encoding, including chunked encoding if applicable." """
    raw = chunked(b"/rest_of", b"3\r\none\r\n3;x=y\r\ntwo\r\n0\r\nX-Trailer: z\r\n\r\n")
    assert client.send(raw).reply().body == b"onetwo"
    made = json.loads(client.send(chunked(b"/environ_of", b"2\r\nab\r\n0\r\n\r\n")).reply().body)
    assert (made["CONTENT_LENGTH"], "HTTP_TRANSFER_ENCODING" in made) == ("2", False)


@pytest.mark.parametrize("how", ["in chunks", "by length"])
def test_a_large_body_arrives_whole(client: Client, how: str) -> None:
    """As above, for a body that does not stay in memory."""
    body = os.urandom(3 << 20)
    if how == "by length":
        client.post("/rest_of", body)
    else:
        pieces = [body[start : start + (1 << 20)] for start in range(0, 3 << 20, 1 << 20)]
        client.send(chunked(b"/rest_of", b"".join(b"100000\r\n%b\r\n" % piece for piece in pieces) + b"0\r\n\r\n"))
    assert client.reply().body == body


@pytest.mark.parametrize("how", ["in chunks", "by length"])
def test_a_body_that_broke_off_is_no_body(client: Client, server: Server, how: str) -> None:
    """RFC 9112 8: "A message body that uses the chunked transfer coding is incomplete if the zero-sized chunk ... has
    not been received": no app may take it for whole."""
    if how == "by length":
        client.send(b"POST /touch HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfive!")
    else:
        client.send(chunked(b"/touch", b"5\r\nfive!\r\n"))
    assert client.half_close().rest() == b""
    assert not (server.folder / "touched").exists()


def test_a_body_that_the_app_does_not_read_is_no_next_request(client: Client) -> None:
    """RFC 9112 9.3: "A server MUST read the entire request message body or close the connection after sending its
    response" """
    client.post("/environ_of", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n" * 600).get("/writes")
    assert [client.reply().code, client.reply().body] == [200, b"abc"]


# start_response


def gate(server: Server, name: str) -> str:
    path = str(server.folder / name)
    os.mkfifo(path)
    return path


def let_through(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def test_the_head_is_kept_until_the_first_bytes(client: Client, server: Server) -> None:
    """ "the start_response callable must not actually transmit the response headers. Instead, it must store them" """
    path = gate(server, "late")
    client.get(f"/late?{path}")
    let_through(path)
    assert client.reply().code == 500


def test_an_empty_chunk_is_no_first_chunk(client: Client, server: Server) -> None:
    """ "only after the first iteration of the application return value that yields a non-empty bytestring" """
    assert client.get("/empty_then_fault").reply().code == 500
    server.wait_line("app raised")


def test_start_response_may_be_called_by_the_first_iteration(client: Client) -> None:
    """ "this invocation may be performed by the iterable's first iteration, so servers must not assume that
    start_response() has been called before they begin iterating over the iterable." """
    reply = client.get("/lazy").reply()
    assert (reply.line, reply.chunks) == ("HTTP/1.1 404 Not Found", [b"first", b"second", b""])


def test_written_bytes_come_first(client: Client) -> None:
    """ "start_response must return a write(body_data) callable" """
    assert client.get("/writes").reply().body == b"abc"


def test_a_second_start_response_is_an_error(client: Client) -> None:
    """ "It is a fatal error to call start_response without the exc_info argument if start_response has already been
    called within the current invocation of the application." """
    assert client.get("/twice").reply().body == b"AssertionError"


def test_exc_info_replaces_the_head(client: Client) -> None:
    """ "start_response should replace the currently-stored HTTP response headers with the newly-supplied ones" """
    reply = client.get("/replaced").reply()
    assert (reply.line, reply.values("X-First"), reply.body) == ("HTTP/1.1 503 Busy", [], b"sorry")
    assert reply.values("Content-Length") == ["5"]


def test_exc_info_after_the_head_is_raised(client: Client, server: Server) -> None:
    """ "if exc_info is provided, and the HTTP headers have already been sent, start_response must raise an error, and
    should re-raise using the exc_info tuple." """
    client.get("/too_late").read_head()
    assert client.read_chunk() == b"first"
    with pytest.raises(ConnectionResetError):
        client.rest()
    server.wait_line("app raised")
    assert "LookupError: too late" in server.log()


BAD_STARTS = {
    "no space": "'200', []", "no number": "'OK', []", "bytes": "b'200 OK', []", "interim": "'100 Continue', []",
    "CRLF in the status": "'200 OK\\r\\nX: y', []", "a status beyond latin-1": "'200 \\u20ac', []",
    "tuple of headers": "'200 OK', ()", "list for a header": "'200 OK', [['A', 'b']]",
    "bytes in a header": "'200 OK', [('A', b'b')]", "a number": "'200 OK', [('Content-Length', 5)]",
    "CRLF in a value": "'200 OK', [('A', 'b\\r\\nC: d')]", "LF in a name": "'200 OK', [('A\\n', 'b')]",
    "NUL in a value": "'200 OK', [('A', '\\0')]", "a space in a name": "'200 OK', [('A b', 'c')]",
    "a colon in a name": "'200 OK', [('A:', 'c')]", "no name": "'200 OK', [('', 'c')]",
    "a value beyond latin-1": "'200 OK', [('A', '\\u20ac')]", "no length": "'200 OK', [('Content-Length', '-1')]",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_STARTS)
def test_what_start_response_cannot_send_is_raised_where_it_is_called(client: Client, name: str) -> None:
    """ "Servers should check for errors in the headers at the time start_response is called, so that an error can be
    raised while the application is still running." """
    reply = client.post("/starts", BAD_STARTS[name].encode()).reply()
    assert (reply.code, reply.body) == (200, b"raised")


def test_hop_by_hop_headers_of_the_app_are_not_sent(client: Client) -> None:
    """ "applications and middleware are forbidden from using HTTP/1.1 "hop-by-hop" features or headers" """
    reply = client.get("/hop_by_hop").reply()
    assert (reply.values("Keep-Alive"), reply.values("Transfer-Encoding"), reply.body) == ([], [], b"plain")


def test_date_and_server_are_sent_once(client: Client) -> None:
    """ "if the application omits a header required by HTTP ..., the server or gateway must add it. For example, the
    HTTP Date: and Server: headers would normally be supplied by the server or gateway." """
    assert len(client.get("/writes").reply().values("Date")) == 1
    reply = client.get("/dated").reply()
    assert (reply.values("Date"), reply.values("Server")) == (["Thu, 01 Jan 1970 00:00:00 GMT"], ["mine"])


# sending


def test_each_chunk_is_sent_before_the_next_is_asked_for(client: Client, server: Server) -> None:
    """ "The server or gateway must transmit the yielded bytestrings to the client in an unbuffered fashion, completing
    the transmission of each bytestring before requesting another one." """
    path = gate(server, "gated")
    client.get(f"/gated?{path}").read_head()
    for number in (b"1", b"2", b"3"):
        assert client.read_chunk() == number
        let_through(path)
    assert client.read_chunk() == b""


def test_text_for_a_body_is_a_fault_before_the_head(client: Client) -> None:
    """ "the application object must return an iterable yielding zero or more bytestrings." """
    assert client.get("/text").reply().code == 500


def test_the_length_of_one_chunk_is_the_length_of_the_body(client: Client) -> None:
    """ "if the value returned by the application is an iterable whose len() is 1, then the server can automatically
    determine Content-Length by taking the length of the first bytestring yielded by the iterable." """
    assert client.get("/one").reply().values("Content-Length") == ["5"]
    assert client.get("/none").reply().values("Content-Length") == ["0"]


def test_no_more_than_the_content_length_is_sent(client: Client, server: Server) -> None:
    """ "the server should not transmit more bytes to the client than the header allows, and should stop iterating over
    the response when enough data has been sent" """
    assert client.get("/too_much").reply().body == b"abcd"
    server.wait_line("more than its Content-Length")
    assert client.get("/environ_of").reply().code == 200
    assert not (server.folder / "asked for more").exists()


def test_too_little_closes_the_connection_and_is_logged(client: Client, server: Server) -> None:
    """ "if the application does not provide enough data to meet its stated Content-Length, the server should close the
    connection and log or otherwise report the error." """
    with pytest.raises(EOFError):
        client.get("/too_little").reply()
    server.wait_line("less than its Content-Length")


# ending


@pytest.mark.parametrize("ending", ["peace", "fault", "endless", "short", "long"])
def test_close_is_called_once_however_it_ends(server: Server, ending: str) -> None:
    """ "the server or gateway must call that method upon completion of the current request, whether the request was
    completed normally, or terminated early due to an application error during iteration or an early disconnect of the
    browser." """
    with Client(server) as client:
        client.get(f"/closing?{ending}").read_head()
        client.rest_of(1000)  # then the client leaves
    closed = server.folder / "closed"
    wait_until(lambda: closed.exists() and ending in closed.read_text(), f"close() after {ending}")
    assert closed.read_text().split().count(ending) == 1


def test_close_is_called_for_head_too(client: Client, server: Server) -> None:
    """As above: no body leaves, but the app has made one."""
    client.send(b"HEAD /closing?head HTTP/1.1\r\nHost: x\r\n\r\n").reply(is_head=True)
    closed = server.folder / "closed"
    wait_until(lambda: closed.exists() and "head" in closed.read_text(), "close() after HEAD")


def test_a_fault_before_the_head_is_a_500_without_details(client: Client, server: Server) -> None:
    """RFC 9110 15.6.1: "the server encountered an unexpected condition that prevented it from fulfilling the
    request." """
    before = faults(server)
    reply = client.get("/faulty").reply()
    assert (reply.code, b"LookupError" in reply.body, client.rest()) == (500, False, b"")
    assert faults(server) == before + 1


def test_a_fault_after_the_head_breaks_off_without_a_final_chunk(client: Client) -> None:
    """ "a mechanism to either allow the application to send its error message, or be automatically aborted" """
    client.get("/fault_within").read_head()
    assert client.read_chunk() == b"first"
    with pytest.raises(ConnectionResetError):
        client.rest()


# concurrency


def test_an_app_meets_one_request_at_a_time(server: Server) -> None:
    """ "wsgi.multithread: This value should evaluate true if the application object may be simultaneously invoked by
    another thread in the same process, and should evaluate false otherwise." """
    clients = [Client(server) for _ in range(8)]
    for client in clients:
        client.get("/alone")
    assert [client.reply().body for client in clients] == [b"alone"] * 8
    for client in clients:
        client.__exit__(None, None, None)
