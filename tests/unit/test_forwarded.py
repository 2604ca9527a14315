"""net/trust.py and wsgi/forwarded.py: whom we believe, and what of the words of proxies reaches the environ."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.net.trust import Trust
from forkserve.protocol.types import Environ
from forkserve.wsgi.forwarded import apply
from tests.unit.gateways import TEMPLATE

LOOPBACK = Trust("127.0.0.1,::1")
NETWORK = Trust("127.0.0.1, 10.0.0.0/8, 2001:db8::/32")


def after(trust: Trust = NETWORK, /, **fields: str) -> Environ:
    """The environ of a request of the proxy at 127.0.0.1:40000, spoken to port 8000, with these fields."""
    environ = TEMPLATE | {"HTTP_HOST": "backend:8000", "PATH_INFO": "/x"}
    environ |= {f"HTTP_{name}": text for name, text in fields.items()}
    apply(environ, trust)
    return environ


def address(trust: Trust = NETWORK, /, **fields: str) -> str:
    found = after(trust, **fields)["REMOTE_ADDR"]
    assert isinstance(found, str)
    return found


# whom we believe


@pytest.mark.parametrize(
    ("text", "believed", "strangers"),
    [
        ("127.0.0.1,::1", ["127.0.0.1", "::1", "::ffff:127.0.0.1"], ["127.0.0.2", "::2", "::ffff:127.0.0.2"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0", "::1", "127.0.0.1"]),
        ("2001:db8::/32 , fe80::/10", ["2001:db8::5", "fe80::1%eth0"], ["2001:db9::", "1.2.3.4"]),
        ("*", ["1.2.3.4", "::1"], []),
        ("", [], ["127.0.0.1", "::1"]),
        ("unix", [], ["127.0.0.1"]),
        ("none", [], ["127.0.0.1"]),
    ],
)
def test_list_decides_about_tcp_peers(text: str, believed: list[str], strangers: list[str]) -> None:
    trust = Trust(text)
    for _ in range(2):  # the second time from memory
        assert all(trust.believes((host, 1234)) for host in believed)
        assert not any(trust.believes((host, 1234, 0, 0)) for host in strangers)


def test_unix_peers_are_believed_unless_nobody_is() -> None:
    assert all(Trust(text).believes("") for text in ("127.0.0.1", "*", "", "unix", "unix,::1"))
    assert not Trust("none").believes("")
    assert not Trust(" none ").believes(b"")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("localhost", "no IP address"), ("10.0.0.1/8", "10.0.0.0/8"), ("1.2.3", "no IP address"), ("10.0.0.0/33", "no IP"),
     ("none,::1", "alone"), ("1.2.3.4:80", "no IP"), ("010.0.0.1", "no IP"), ("127.0.0.1 ::1", "no IP")],
)  # fmt: skip
def test_malformed_list_is_told(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Trust(text)


def test_what_is_remembered_is_bounded() -> None:
    trust = Trust("10.0.0.0/8")
    for number in range(6000):
        assert trust.believes((f"10.0.{number >> 8}.{number & 255}", 1))
    assert len(trust._known) <= 4096


# X-Forwarded-For


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ("6.6.6.6,192.0.2.1,10.0.0.1,10.2.3.4", "192.0.2.1"),
        ("10.0.0.7, 10.0.0.1", "10.0.0.7"),  # all are ours: the left-most
        ("192.0.2.1:5678", "192.0.2.1"),
        ("2001:DB9::1", "2001:db9::1"),
        ("[2001:db9::1]:5678", "2001:db9::1"),
        ("[2001:db9::1]", "2001:db9::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("  192.0.2.1\t", "192.0.2.1"),
        # what is no address ends the search
        ("unknown", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("192.0.2.1, garbage", "127.0.0.1"),
        ("192.0.2.1, , 10.0.0.1", "10.0.0.1"),
        ("192.0.2.1, 10.0.0.1,", "127.0.0.1"),
        ("1.2.3.4\0, 10.0.0.1", "10.0.0.1"),
        ("192.0.2.1.", "127.0.0.1"),
        ("1.2.3.4:99:99", "127.0.0.1"),
        ("[1.2.3.4", "127.0.0.1"),
        ("\xb2.2.3.4", "127.0.0.1"),
    ],
)
def test_right_most_hop_that_is_no_proxy_is_the_client(chain: str, client: str) -> None:
    assert address(X_FORWARDED_FOR=chain) == client


def test_port_is_the_clients_or_nobodys() -> None:
    assert "REMOTE_PORT" not in after(X_FORWARDED_FOR="192.0.2.1")
    assert after(X_FORWARDED_FOR="192.0.2.1:5678")["REMOTE_PORT"] == "5678"
    assert "REMOTE_PORT" not in after(X_FORWARDED_FOR="192.0.2.1:99999")
    assert after(X_FORWARDED_FOR="unknown")["REMOTE_PORT"] == "40000"


def test_believing_everybody_believes_the_peer_and_not_whom_it_quotes() -> None:
    assert address(Trust("*"), X_FORWARDED_FOR="6.6.6.6, 192.0.2.1") == "192.0.2.1"
    assert address(Trust("*"), X_FORWARDED_FOR="6.6.6.6, 192.0.2.1, 10.0.0.1") == "10.0.0.1"
    assert address(Trust("*, 10.0.0.0/8"), X_FORWARDED_FOR="6.6.6.6, 192.0.2.1, 10.0.0.1") == "192.0.2.1"


# scheme, host, port, prefix


def test_words_about_the_server_are_taken() -> None:
    environ = after(
        X_FORWARDED_FOR="192.0.2.1",
        X_FORWARDED_PROTO="https",
        X_FORWARDED_HOST="shop.example",
        X_FORWARDED_PREFIX="/s/",
    )
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert (environ["HTTP_HOST"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == (
        "shop.example", "shop.example", "443",
    )  # fmt: skip
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/s", "/x")


@pytest.mark.parametrize(
    ("fields", "scheme", "host", "port"),
    [
        ({}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_PROTO": "https"}, "https", "backend:8000", "8000"),
        ({"X_FORWARDED_PROTO": "HTTPS"}, "https", "backend:8000", "8000"),
        ({"X_FORWARDED_PROTO": "wss"}, "https", "backend:8000", "8000"),
        ({"X_FORWARDED_PROTO": "gopher"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_PROTO": "https\r\n"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": "a.example"}, "http", "a.example", "80"),
        ({"X_FORWARDED_HOST": "a.example:81"}, "http", "a.example:81", "81"),
        ({"X_FORWARDED_HOST": "[::1]:81"}, "http", "[::1]:81", "81"),
        ({"X_FORWARDED_HOST": "[::1]", "X_FORWARDED_PROTO": "https"}, "https", "[::1]", "443"),
        ({"X_FORWARDED_HOST": "a.example:99999"}, "http", "a.example:99999", "80"),
        ({"X_FORWARDED_HOST": "a.example", "X_FORWARDED_PORT": "8443"}, "http", "a.example", "8443"),
        ({"X_FORWARDED_PORT": "8443"}, "http", "backend:8000", "8443"),
        ({"X_FORWARDED_PORT": "0"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_PORT": "65536"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_PORT": "+80"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": "a b"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": "a/b"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": "u@a"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": ":80"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": "a\r\nb: c"}, "http", "backend:8000", "8000"),
        ({"X_FORWARDED_HOST": ""}, "http", "backend:8000", "8000"),
    ],
)
def test_scheme_host_and_port(fields: dict[str, str], scheme: str, host: str, port: str) -> None:
    environ = after(**fields)
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"], environ["SERVER_PORT"]) == (scheme, host, port)
    assert environ.get("HTTPS") == ("on" if scheme == "https" else None)
    assert environ["SERVER_NAME"] == (host.rpartition(":")[0] or host if "X_FORWARDED_HOST" in fields and host[0] == "a"
                                      else environ["SERVER_NAME"])  # fmt: skip


def test_proxy_that_says_http_overrules_the_connections_tls() -> None:
    environ = TEMPLATE | {"wsgi.url_scheme": "https", "HTTPS": "on", "HTTP_X_FORWARDED_PROTO": "http"}
    apply(environ, LOOPBACK)
    assert environ["wsgi.url_scheme"] == "http"
    assert "HTTPS" not in environ


def test_of_several_values_the_one_of_the_clients_hop_counts_else_the_peers() -> None:
    def scheme(chain: str, proto: str) -> object:
        return after(X_FORWARDED_FOR=chain, X_FORWARDED_PROTO=proto)["wsgi.url_scheme"]

    assert scheme("192.0.2.1, 10.0.0.1", "https, http") == "https"  # the proxy at 10.0.0.1 saw TLS
    assert scheme("6.6.6.6, 192.0.2.1", "https, http") == "http"  # the first one is the client's own word
    assert scheme("192.0.2.1", "https, http") == "http"
    assert scheme("192.0.2.1, 10.0.0.1", "https") == "https"
    assert scheme("", "http, https") == "https"


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/a//b", "a", "/a?b", "/a b", "/a\\b", "/\r\nX: y", "/a#b", "/\0"]
)
def test_prefix_that_is_no_path_is_ignored(prefix: str) -> None:
    assert after(X_FORWARDED_PREFIX=prefix)["SCRIPT_NAME"] == ""


def test_prefix_comes_before_a_mount() -> None:
    environ = TEMPLATE | {"SCRIPT_NAME": "/mount", "HTTP_X_FORWARDED_PREFIX": "/outer"}
    apply(environ, LOOPBACK)
    assert environ["SCRIPT_NAME"] == "/outer/mount"
    environ = TEMPLATE | {"SCRIPT_NAME": "/mount", "HTTP_X_FORWARDED_PREFIX": "/mount"}
    apply(environ, LOOPBACK)
    assert environ["SCRIPT_NAME"] == "/mount"
    assert after(X_FORWARDED_PREFIX="/")["SCRIPT_NAME"] == ""


# Forwarded: the examples of RFC 7239, sections 4 to 7, and the like


@pytest.mark.parametrize(
    ("field", "client"),
    [
        ('for="_gazonk"', "127.0.0.1"),
        ('For="[2001:db9:cafe::17]:4711"', "2001:db9:cafe::17"),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        ("for=192.0.2.43, for=10.0.0.1", "192.0.2.43"),
        ('for=192.0.2.43, for="[2001:db8:cafe::17]"', "192.0.2.43"),
        ('for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown', "127.0.0.1"),
        ("for=_hidden, for=_SEVKISEK", "127.0.0.1"),
        ("for=unknown, for=10.0.0.1", "10.0.0.1"),
        ('for="192.0.2.43:47011"', "192.0.2.43"),
        ('for="\\1\\9\\2.0.2.43"', "192.0.2.43"),
        ("for=6.6.6.6,,for=192.0.2.1", "192.0.2.1"),
        ("proto=https", "127.0.0.1"),
        # malformed: as good as not said
        ("for=192.0.2.43:80", "127.0.0.1"),
        ("for=[::1]", "127.0.0.1"),
        ("for=192.0.2.1 for=192.0.2.1", "127.0.0.1"),
        ("for=192.0.2.1;for=192.0.2.1", "127.0.0.1"),
        ('for="192.0.2.1', "127.0.0.1"),
        ("for = 192.0.2.1", "127.0.0.1"),
        ("for=", "127.0.0.1"),
        ("for=192.0.2.1;", "127.0.0.1"),
        ("", "127.0.0.1"),
        ('for="192.0.2.1\0"', "127.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_says(field: str, client: str) -> None:
    assert address(FORWARDED=field) == client


def test_forwarded_tells_scheme_and_host_of_the_clients_hop() -> None:
    environ = after(FORWARDED='for=192.0.2.1;proto=https;host="shop.example:8443", for=10.0.0.1;proto=http;host=inner')
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.1", "https")
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"]) == ("shop.example:8443", "8443")
    environ = after(FORWARDED="for=6.6.6.6;proto=https;host=evil, for=192.0.2.1;proto=http;host=good.example")
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", "good.example")
    assert after(FORWARDED='host="a\\\r\\\nb"')["HTTP_HOST"] == "backend:8000"


def test_of_both_families_the_usual_one_wins_and_the_other_goes() -> None:
    environ = after(X_FORWARDED_FOR="192.0.2.1", FORWARDED="for=6.6.6.6;proto=https;host=evil.example")
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == (
        "192.0.2.1", "http", "backend:8000",
    )  # fmt: skip
    assert "HTTP_FORWARDED" not in environ
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"


WORDS = ["192.0.2.1", "10.0.0.1", "[::1]:5", ",", ", ", ";", "for=", "proto=", "host=", "https", '"', "\\", "unknown",
         "/a", "//", ":", "\0", "\r\n", "\xff", "a.example", " ", "%"]  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST", "X_FORWARDED_PORT",
                         "X_FORWARDED_PREFIX", "FORWARDED"]),
        st.lists(st.sampled_from(WORDS) | st.text(st.characters(max_codepoint=255), max_size=5)).map("".join),
    )
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_words_of_a_proxy_raise_or_smuggle_controls(fields: dict[str, str]) -> None:
    environ = after(**fields)
    keys = ("REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "wsgi.url_scheme")
    for key in keys:
        text = environ.get(key, "")
        assert isinstance(text, str)
        assert not re.search(r"[\x00-\x20\x7f]", text)
    assert environ["wsgi.url_scheme"] in ("http", "https")
    assert not environ["SCRIPT_NAME"].startswith("//")


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ({"X_FORWARDED_SSL": "on"}, "https"),
        ({"X_FORWARDED_SSL": "ON"}, "https"),
        ({"X_FORWARDED_SSL": "off"}, "http"),
        ({"X_FORWARDED_PROTOCOL": "ssl"}, "https"),
        ({"X_FORWARDED_PROTOCOL": "https"}, "https"),
        ({"X_FORWARDED_PROTOCOL": "http"}, "http"),
        ({"X_FORWARDED_SSL": "on", "X_FORWARDED_PROTO": "http"}, "http"),
        ({"X_FORWARDED_SSL": "on", "X_FORWARDED_PROTO": "garbage"}, "https"),
    ],
)
def test_older_spellings_of_the_scheme(fields: dict[str, str], scheme: str) -> None:
    assert after(**fields)["wsgi.url_scheme"] == scheme
