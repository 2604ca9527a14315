"""forkserve/protocol/cgi.py: variables to an environ, by every protocol that carries them, and a CGI response."""

import pytest

from forkserve.protocol.cgi import MOST_VARIABLES, CgiEncoder
from forkserve.protocol.types import HEAD_ONLY, Limits, Refused
from tests.unit.gateways import NGINX, TEMPLATE, decoder_for, feed, one, request_for

PROTOCOLS = ["uwsgi", "scgi", "fastcgi"]
BARE = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REQUEST_URI": "/"}

by_every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def refusal(protocol: str, variables: dict[str, str], limits: Limits | None = None) -> Refused:
    decoder = decoder_for(protocol, limits=limits) if limits else decoder_for(protocol)
    refused = feed(decoder, request_for(protocol, variables))
    assert refused is not None
    assert decoder.ready == []
    return refused


@by_every_protocol
@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
def test_request_of_nginx_becomes_an_environ(protocol: str, step: int) -> None:
    environ = one(protocol, NGINX, b"hello", step=step)
    with environ["wsgi.input"] as file:
        assert file.read() == b"hello"
    assert type(environ) is dict
    assert environ["CONTENT_LENGTH"] == "5"
    assert "CONTENT_TYPE" not in environ  # nginx sends it empty
    told = {key: text for key, text in NGINX.items() if not key.startswith("CONTENT_")}
    assert {key: environ[key] for key in told} == told
    assert (environ["SCRIPT_NAME"], environ["RAW_URI"]) == ("", "/a/b%2Fc?d=e")
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["wsgi.input_terminated"] is True
    assert environ["forkserve.generation"] == TEMPLATE["forkserve.generation"]


@by_every_protocol
def test_template_is_left_as_it_was(protocol: str) -> None:
    before = dict(TEMPLATE)
    one(protocol, NGINX)
    assert before == TEMPLATE


@by_every_protocol
def test_request_is_what_its_line_and_flags_say(protocol: str) -> None:
    decoder = decoder_for(protocol)
    assert decoder.idle
    feed(decoder, request_for(protocol, NGINX | {"REQUEST_METHOD": "HEAD"}))
    ((environ, line, flags),) = decoder.ready
    assert line == b"HEAD /a/b%2Fc?d=e"
    assert flags == HEAD_ONLY
    assert environ["wsgi.input"].read() == b""
    assert (decoder.idle, decoder.body_began, decoder.wants_continue) == (False, False, False)


@by_every_protocol
def test_bytes_are_latin_1(protocol: str) -> None:
    environ = one(protocol, BARE | {"PATH_INFO": "/ä".encode().decode("latin-1"), "HTTP_A": "\x80\xff"})
    assert (environ["PATH_INFO"], environ["HTTP_A"]) == ("/\xc3\xa4", "\x80\xff")


@by_every_protocol
def test_names_that_are_no_cgi_variables_do_not_reach_the_app(protocol: str) -> None:
    strange = dict.fromkeys(
        ["proxy-nokeepalive", "downgrade-1.0", "path", "HTTP_X-Y", "1A", "_A", "A\nB", "HTTP_\xc4", "HTTP_PROXY",
         "UWSGI_FILE", "UWSGI_SCRIPT", "UWSGI_SCHEME", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"], "7",
    )  # fmt: skip
    environ = one(protocol, BARE | strange)
    assert set(strange) & set(environ) == set()
    assert set(environ) - set(TEMPLATE) <= {"CONTENT_LENGTH", "SCGI"}


@by_every_protocol
@pytest.mark.parametrize("name", ["wsgi.input", "wsgi.url_scheme", "WSGI.errors", "forkserve.slot", ""])
def test_names_of_the_server_itself_are_refused(protocol: str, name: str) -> None:
    refused = refusal(protocol, BARE | {name: "1"})
    assert refused.status == "400 Bad Request"
    assert "a variable called" in refused.reason or protocol == "scgi"  # where an empty name shifts the pairs


@pytest.mark.parametrize("protocol", ["uwsgi", "fastcgi"])  # SCGI has no way to say NUL
def test_nul_is_taken_in_a_path_only(protocol: str) -> None:
    assert one(protocol, BARE | {"PATH_INFO": "/\0"})["PATH_INFO"] == "/\0"
    for name, value in (("HTTP_A", "a\0b"), ("QUERY_STRING", "\0"), ("A\0B", "a"), ("REMOTE_USER", "root\0")):
        assert refusal(protocol, BARE | {name: value}).status == "400 Bad Request"


@by_every_protocol
@pytest.mark.parametrize("name", ["HTTP_A", "QUERY_STRING", "REQUEST_URI", "REMOTE_ADDR", "REMOTE_USER"])
@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\rb"])
def test_line_ends_are_refused(protocol: str, name: str, value: str) -> None:
    assert refusal(protocol, BARE | {name: value}).reason == f"a control character in {name}"


@by_every_protocol
def test_certificate_may_have_lines(protocol: str) -> None:
    assert one(protocol, BARE | {"SSL_CLIENT_CERT": "a\nb\n"})["SSL_CLIENT_CERT"] == "a\nb\n"


@by_every_protocol
def test_field_that_came_twice_is_joined_and_a_second_host_refused(protocol: str) -> None:
    twice = [*BARE.items(), ("HTTP_A", "1"), ("HTTP_COOKIE", "a=1"), ("HTTP_A", "2"), ("HTTP_COOKIE", "b=2")]
    decoder = decoder_for(protocol)
    assert feed(decoder, request_for(protocol, twice)) is None
    environ = decoder.ready[0][0]
    assert (environ["HTTP_A"], environ["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")
    refused = feed(decoder_for(protocol), request_for(protocol, [*BARE.items(), *[("HTTP_HOST", "a")] * 2]))
    assert refused is not None
    assert refused.reason == "several HTTP_HOST variables"


@by_every_protocol
@pytest.mark.parametrize(
    ("name", "value"),
    [("REQUEST_METHOD", ""), ("REQUEST_METHOD", "G T"), ("CONTENT_LENGTH", "-1"), ("CONTENT_LENGTH", "+1"),
     ("CONTENT_LENGTH", "1_0"), ("CONTENT_LENGTH", "1 "), ("CONTENT_LENGTH", "9" * 19), ("CONTENT_LENGTH", "\xb2"),
     ("HTTP_HOST", "a/b"), ("HTTP_HOST", "a b"), ("SERVER_PORT", "http"), ("PATH_INFO", "a"), ("SCRIPT_NAME", "a")],
)  # fmt: skip
def test_malformed_variables_are_refused(protocol: str, name: str, value: str) -> None:
    variables = BARE | {name: value}
    if protocol == "scgi" and name == "CONTENT_LENGTH":
        block = b"CONTENT_LENGTH\0%b\0SCGI\x001\0REQUEST_METHOD\0GET\0" % value.encode("latin-1")
        refused = feed(decoder_for("scgi"), b"%d:%b," % (len(block), block))
    else:
        refused = refusal(protocol, variables)
    assert refused is not None
    assert refused.status == "400 Bad Request"


@by_every_protocol
def test_request_without_a_method_is_refused(protocol: str) -> None:
    assert refusal(protocol, {"PATH_INFO": "/"}).status == "400 Bad Request"


@by_every_protocol
def test_limits_of_http_hold(protocol: str) -> None:
    limits = Limits(100, 3, 50)
    three = {f"HTTP_{name}": "1" for name in "ABC"}
    decoder = decoder_for(protocol, limits=limits)
    assert feed(decoder, request_for(protocol, BARE | three)) is None
    assert refusal(protocol, BARE | three | {"HTTP_D": ""}, limits).status.startswith("431")
    assert refusal(protocol, BARE | {"HTTP_LONG": "x" * 45}, limits).status.startswith("431")
    decoder = decoder_for(protocol, limits=limits)
    assert feed(decoder, request_for(protocol, BARE | {"HTTP_LONG": "x" * 44, "QUERY_STRING": "q" * 99})) is None
    assert refusal(protocol, BARE | {"REQUEST_URI": "/" + "x" * 87}, limits).status.startswith("414")
    decoder = decoder_for(protocol, limits=limits)
    assert feed(decoder, request_for(protocol, BARE | {"REQUEST_URI": "/" + "x" * 86})) is None


@by_every_protocol
def test_count_of_variables_is_bounded(protocol: str) -> None:
    many = {f"A{number}": "" for number in range(MOST_VARIABLES)}
    assert refusal(protocol, BARE | many).status.startswith("431")


@by_every_protocol
def test_body_beyond_the_limit_is_refused_at_its_announcement(protocol: str) -> None:
    decoder = decoder_for(protocol, body_limit=4)
    whole = request_for(protocol, BARE, b"hello")
    refused = feed(decoder, whole[: whole.index(b"hello")], 1)
    assert refused is not None
    assert refused.status == "413 Content Too Large"


@by_every_protocol
def test_silence_about_the_client_does_not_make_the_gateway_the_client(protocol: str) -> None:
    environ = one(protocol, BARE)
    assert environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("fallback", "8000")


@by_every_protocol
def test_empty_variables_say_nothing(protocol: str) -> None:
    empty = dict.fromkeys(["SERVER_NAME", "SERVER_PORT", "REMOTE_USER", "SERVER_PROTOCOL", "AUTH_TYPE"], "")
    environ = one(protocol, BARE | empty | {"QUERY_STRING": "", "HTTP_A": ""})
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("fallback", "8000")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert "REMOTE_USER" not in environ and "AUTH_TYPE" not in environ
    assert (environ["QUERY_STRING"], environ["HTTP_A"]) == ("", "")


@by_every_protocol
@pytest.mark.parametrize(
    ("said", "scheme"),
    [({}, "http"), ({"HTTPS": "on"}, "https"), ({"HTTPS": "1"}, "https"), ({"HTTPS": "off"}, "http"),
     ({"HTTPS": ""}, "http"), ({"HTTPS": "", "REQUEST_SCHEME": "https"}, "https"), ({"REQUEST_SCHEME": "http"}, "http"),
     ({"HTTPS": "off", "REQUEST_SCHEME": "https"}, "http"), ({"UWSGI_SCHEME": "https"}, "http"),
     ({"HTTP_X_FORWARDED_PROTO": "https"}, "http")],
)  # fmt: skip
def test_scheme_is_the_gateways_word(protocol: str, said: dict[str, str], scheme: str) -> None:
    environ = one(protocol, BARE | said)
    assert environ["wsgi.url_scheme"] == scheme
    assert environ.get("HTTPS") == ("on" if scheme == "https" else None)


# What is sent of the paths, the mount that is set, SCRIPT_NAME and PATH_INFO that must come of it.
PATHS = [
    # nginx: uwsgi_params
    ({"PATH_INFO": "/a/b"}, "", ("", "/a/b")),
    ({"PATH_INFO": "/app/b"}, "/app", ("/app", "/b")),
    ({"PATH_INFO": "/app"}, "/app", ("/app", "")),
    ({"PATH_INFO": "/apple"}, "/app", ("/app", "/apple")),  # the gateway had cut the prefix
    # nginx: scgi_params
    ({"DOCUMENT_URI": "/a/b"}, "", ("", "/a/b")),
    ({"DOCUMENT_URI": "/app/b"}, "/app", ("/app", "/b")),
    # nginx: fastcgi_params; Apache: mod_proxy_fcgi; HAProxy
    ({"SCRIPT_NAME": "/a/b", "DOCUMENT_URI": "/a/b"}, "", ("", "/a/b")),
    ({"SCRIPT_NAME": "/a/b"}, "", ("", "/a/b")),
    ({"SCRIPT_NAME": "/app/b"}, "/app", ("/app", "/b")),
    ({"SCRIPT_NAME": "/a/b", "PATH_INFO": ""}, "", ("", "/a/b")),
    ({"SCRIPT_NAME": "/app", "PATH_INFO": ""}, "/app", ("/app", "")),
    # nginx: its recipe for FastCGI
    ({"SCRIPT_NAME": "", "PATH_INFO": "/a/b"}, "", ("", "/a/b")),
    # nginx: fastcgi_split_path_info ^(/app)(.*)$ and ^(/app/)(.*)$
    ({"SCRIPT_NAME": "/app", "PATH_INFO": "/b"}, "", ("/app", "/b")),
    ({"SCRIPT_NAME": "/app", "PATH_INFO": "/app/b"}, "", ("/app", "/app/b")),
    ({"SCRIPT_NAME": "/app/", "PATH_INFO": "b"}, "", ("/app", "/b")),
    # Apache: mod_proxy_uwsgi
    ({"SCRIPT_NAME": "/app/", "PATH_INFO": "/"}, "", ("/app", "/")),
    ({"SCRIPT_NAME": "/app", "PATH_INFO": "/b"}, "/app", ("/app", "/b")),
    ({"SCRIPT_NAME": "/", "PATH_INFO": "/b"}, "", ("", "/b")),
    # Apache: mod_proxy_scgi, which parts the paths encoded
    ({"SCRIPT_NAME": "", "PATH_INFO": "/a", "REQUEST_URI": "/a"}, "", ("", "/a")),
    ({"SCRIPT_NAME": "/a b", "PATH_INFO": "/a%20b", "REQUEST_URI": "/a%20b?c"}, "", ("", "/a b")),
    ({"SCRIPT_NAME": "/app/d e", "PATH_INFO": "/d%20e/f", "REQUEST_URI": "/app/d%20e/f"}, "", ("/app", "/d e/f")),
    ({"SCRIPT_NAME": "/a%41", "PATH_INFO": "/a%2541", "REQUEST_URI": "/a%2541"}, "", ("", "/a%41")),
    # and who does not: a percent sign that was meant stays
    ({"SCRIPT_NAME": "", "PATH_INFO": "/a%41", "REQUEST_URI": "/a%2541"}, "", ("", "/a%41")),
    ({"PATH_INFO": "/100%", "REQUEST_URI": "/100%25"}, "", ("", "/100%")),
    ({"PATH_INFO": "/a%20b", "REQUEST_URI": "/other"}, "", ("", "/a%20b")),
    ({"PATH_INFO": "/a%20b"}, "", ("", "/a%20b")),
    # nothing but the target
    ({"REQUEST_URI": "/a%20b/%2F/%zz?c"}, "", ("", "/a b///%zz")),
    ({"REQUEST_URI": "/app/b"}, "/app", ("/app", "/b")),
    ({"REQUEST_URI": "http://x/a?b"}, "", ("", "/a")),
    ({"PATH_INFO": "*", "REQUEST_URI": "*"}, "", ("", "*")),
    ({"PATH_INFO": "//a/../b"}, "", ("", "//a/../b")),
]


@by_every_protocol
@pytest.mark.parametrize(("said", "mount", "paths"), PATHS)
def test_paths_are_what_the_web_servers_mean(
    protocol: str, said: dict[str, str], mount: str, paths: tuple[str, str]
) -> None:
    environ = one(protocol, {"REQUEST_METHOD": "GET"} | said, mount=mount)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == paths


@by_every_protocol
def test_request_without_any_path_is_refused(protocol: str) -> None:
    assert refusal(protocol, {"REQUEST_METHOD": "GET"}).status == "400 Bad Request"


@by_every_protocol
def test_target_is_made_where_it_is_missing(protocol: str) -> None:
    environ = one(protocol, {"REQUEST_METHOD": "GET", "PATH_INFO": "/a b\xc3?", "QUERY_STRING": "c=d"})
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/a%20b%C3%3F?c=d"


@pytest.mark.parametrize("protocol", ["uwsgi", "scgi"])
def test_what_follows_the_request_is_not_read(protocol: str) -> None:
    decoder = decoder_for(protocol)
    whole = request_for(protocol, BARE, b"hello")
    assert feed(decoder, whole + whole) is None
    assert feed(decoder, whole, 1) is None
    assert len(decoder.ready) == 1
    assert decoder.ready[0][0]["wsgi.input"].read() == b"hello"


def test_chunked_body_without_a_length_is_not_taken_for_none() -> None:
    refused = refusal("uwsgi", BARE | {"HTTP_TRANSFER_ENCODING": "chunked"})
    assert refused.status == "411 Length Required"
    environ = one("uwsgi", BARE | {"HTTP_TRANSFER_ENCODING": "chunked"}, b"hello")
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["CONTENT_LENGTH"] == "5"


@by_every_protocol
def test_half_read_body_is_forgotten(protocol: str) -> None:
    decoder = decoder_for(protocol)
    whole = request_for(protocol, BARE, b"hello")
    assert feed(decoder, whole[: whole.index(b"llo")]) is None
    assert decoder.body_began
    decoder.close()
    decoder.close()
    assert decoder.ready == []


def test_cgi_head_has_the_status_in_a_field_and_no_other() -> None:
    encoder = CgiEncoder()
    head = encoder.head(b"HTTP/1.1 404 Not Found\r\n", [b"A: b\r\n", b"Status: 200 OK\r\n", b"Content-Length: 1\r\n"])
    assert head == b"Status: 404 Not Found\r\nA: b\r\nContent-Length: 1\r\n\r\n"
    assert (encoder.wrap(b"x"), encoder.end()) == (b"x", b"")
    assert (encoder.plain_body, encoder.ends_body) == (True, False)
