"""forkserve/accesslog.py: Gunicorn's atoms, values that clients chose, formats that cannot be."""

import base64
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.accesslog import AccessLog, compile_format
from forkserve.config.settings import Settings
from forkserve.log import log

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "RAW_URI": "/a%20b?c=d",
    "PATH_INFO": "/a b",
    "QUERY_STRING": "c=d",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.1",
    "REMOTE_PORT": "1234",
    "HTTP_AUTHORIZATION": "Basic " + base64.b64encode(b"joe:secret").decode(),
    "HTTP_REFERER": "http://example.org/",
    "HTTP_USER_AGENT": "curl/8",
    "HTTP_X_REQUEST_ID": "r1",
    "CONTENT_TYPE": "text/plain",
    "wsgi.url_scheme": "http",
}
HEADERS = [("Content-Type", "text/html"), ("X-Cache", "miss"), ("X-CACHE", "second")]


def line(text: str, environ: dict[str, Any] | None = None, took_s: float = 1.2345678, **answer: Any) -> str:
    """The line that the format ``text`` makes of one answer."""
    given = {"code": 200, "status": "200 OK", "headers": HEADERS, "body_bytes": 42, **answer}
    spell = compile_format(text)
    return spell(ENVIRON if environ is None else environ, SimpleNamespace(**given), took_s, time.monotonic())


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        ("h", "192.0.2.1"), ("l", "-"), ("u", "joe"), ("r", "GET /a%20b?c=d HTTP/1.1"), ("m", "GET"), ("U", "/a b"),
        ("q", "c=d"), ("H", "HTTP/1.1"), ("s", "200"), ("B", "42"), ("b", "42"), ("f", "http://example.org/"),
        ("a", "curl/8"), ("T", "1"), ("M", "1234"), ("D", "1234567"), ("L", "1.234568"),
        pytest.param("p", f"<{os.getpid()}>", id="p"),
        ("{X-Request-Id}i", "r1"), ("{content-type}i", "text/plain"), ("{absent}i", "-"),
        ("{content-type}o", "text/html"), ("{X-Cache}o", "miss"), ("{absent}o", "-"),
        ("{REMOTE_PORT}e", "1234"), ("{remote_port}e", "1234"), ("{wsgi.url_scheme}e", "http"), ("{absent}e", "-"),
    ],
)  # fmt: skip
def test_every_atom_of_gunicorn_is_known(atom: str, expected: str) -> None:
    assert line(f"%({atom})s") == expected + "\n"


def test_the_time_is_that_of_common_log_format() -> None:
    assert re.fullmatch(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]\n", line("%(t)s"))


def test_what_is_empty_is_a_dash_but_the_query() -> None:
    environ = {**ENVIRON, "QUERY_STRING": "", "REMOTE_ADDR": ""}
    del environ["HTTP_AUTHORIZATION"], environ["HTTP_REFERER"], environ["HTTP_USER_AGENT"]
    assert line("%(h)s %(u)s %(f)s %(a)s %(b)s %(B)s [%(q)s]", environ, body_bytes=0) == "- - - - - 0 []\n"
    assert line("%({a}o)s", headers=None) == "-\n"


def test_the_default_format_is_the_combined_one() -> None:
    combined = r'192\.0\.2\.1 - joe \[.+\] "GET /a%20b\?c=d HTTP/1\.1" 200 42 "http://example\.org/" "curl/8"\n'
    assert re.fullmatch(combined, line(Settings().access_log_format))


@pytest.mark.parametrize("text", ["%(nonsense)s", "%(h)d", "%(h)", "%h", "%", "%({x}z)s", "%({x)s", "%()s", "%(h s"])
def test_what_is_no_atom_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text[:9])[1:-1])):
        compile_format("%(s)s " + text)


def test_percent_signs_and_tabs_of_the_format_are_kept() -> None:
    assert line("100%% %(s)s\t%%(s)s\n") == "100% 200\t%(s)s\\n\n"


# values that clients chose

LEAVES_QUOTES = re.compile(r'(?<!\\)(?:\\\\)*"')


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ('a" 200 "b', 'a\\" 200 \\"b'),
        ('a\\" 200', 'a\\\\\\" 200'),
        ("a\r\nb", "a\\r\\nb"),
        ("a\x1b[2Jb\x85", "a\\x1b[2Jb\\x85"),
        ("\u2028\ud800", "\\u2028\\ud800"),
    ],
)
def test_a_value_cannot_leave_its_quotes_or_its_line(said: str, written: str) -> None:
    assert line('"%(a)s"', {**ENVIRON, "HTTP_USER_AGENT": said}) == f'"{written}"\n'


@given(
    st.text(),
    st.sampled_from(["HTTP_REFERER", "RAW_URI", "PATH_INFO", "REMOTE_ADDR", "REQUEST_METHOD", "QUERY_STRING"]),
)
def test_no_value_forges_a_line_or_a_quote(text: str, key: str) -> None:
    made = line('"%(h)s" "%(m)s" "%(r)s" "%(U)s" "%(q)s" "%(f)s"', {**ENVIRON, key: text})
    assert made.splitlines(keepends=True) == [made]
    assert len(LEAVES_QUOTES.findall(made)) == 12


@given(st.binary())
@settings(max_examples=50)
def test_no_user_name_forges_a_field(name: bytes) -> None:
    credentials = base64.b64encode(name + b":x").decode()
    made = line("%(u)s %(s)s", {**ENVIRON, "HTTP_AUTHORIZATION": "Basic " + credentials})
    assert re.fullmatch(r"[^ \r\n]+ 200\n", made)


@pytest.mark.parametrize("text", ["Basic", "Basic !!", "Basic \xe4", "Bearer abc", "Basic /w==", ""])
def test_credentials_that_make_no_sense_have_no_user(text: str) -> None:
    assert line("%(u)s", {**ENVIRON, "HTTP_AUTHORIZATION": text}) == "-\n"


class Silent:
    """What nobody can spell."""

    def __str__(self) -> str:
        raise LookupError("no words")


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "cleared": dict.clear,
    "numbers": lambda environ: environ.update(dict.fromkeys(environ, 5)),
    "nothing": lambda environ: environ.update(dict.fromkeys(environ)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_environ_that_the_app_has_changed_makes_a_line(name: str) -> None:
    environ = dict(ENVIRON)
    CHANGES[name](environ)
    assert line(Settings().access_log_format + " %(m)s %(U)s %(q)s %(H)s", environ).count("\n") == 1


# the file


def note(access: AccessLog, **environ: Any) -> None:
    answer: Any = SimpleNamespace(code=200, status="200 OK", headers=[], body_bytes=0)
    access.note({**ENVIRON, **environ}, answer, 0.0)


def test_lines_are_gathered_until_the_flush_or_until_they_are_many(tmp_path: Path) -> None:
    path = tmp_path / "access"
    access = AccessLog("%(m)s %(U)s")
    access.file.open(str(path))
    note(access)
    assert path.read_text() == ""
    access.flush()
    assert path.read_text() == "GET /a b\n"
    for _ in range(5000):
        note(access)
    assert path.read_text().count("\n") > 1000
    os.close(access.file.fd)


def test_what_the_app_put_into_its_environ_and_cannot_be_spelled_costs_one_line(tmp_path: Path) -> None:
    path = tmp_path / "access"
    access = AccessLog("%({thing}e)s")
    access.file.open(str(path))
    before, log.file.fd = log.file.fd, os.memfd_create("log")
    note(access, thing=Silent())
    note(access, thing="spoken")
    access.flush()
    assert path.read_text() == "spoken\n"
    assert b"no words" in os.pread(log.file.fd, 9999, 0)
    os.close(log.file.fd)
    os.close(access.file.fd)
    log.file.fd = before


def test_lost_lines_are_counted_and_said() -> None:
    reading, writing = os.pipe()
    access = AccessLog("%(s)s")
    access.file.open(f"/dev/fd/{writing}")
    os.set_blocking(writing, False)
    _fill(writing)
    before, log.file.fd = log.file.fd, os.memfd_create("log")
    for _ in range(3):
        note(access)
        access.flush()
    _drain(reading)
    note(access)
    access.flush()
    assert os.read(reading, 99) == b"200\n"
    text = os.pread(log.file.fd, 9999, 0).decode()
    assert text.count("access log takes no lines") == 1
    assert "count=3" in text
    for fd in (reading, writing, access.file.fd, log.file.fd):
        os.close(fd)
    log.file.fd = before


def _fill(fd: int) -> None:
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        pass


def _drain(fd: int) -> None:
    os.set_blocking(fd, False)
    try:
        while os.read(fd, 65536):
            pass
    except BlockingIOError:
        pass


@pytest.mark.parametrize(
    "agent", ["plain", "a\x1b[2J", 'quoted "so"', "\\x41", "\\\x7f", "\x85\x9f", "\u2028", "tab\tand\nline"]
)
def test_a_template_of_json_makes_lines_of_json(agent: str) -> None:
    made = line('{"agent": "%(a)s", "status": %(s)s}', {**ENVIRON, "HTTP_USER_AGENT": agent})
    assert json.loads(made) == {"agent": agent, "status": 200}
    assert made.count("\n") == 1
