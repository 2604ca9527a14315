"""The demo app called in-process: what the inspector shows of a request, and what the special pages do."""

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

import pytest

from forkserve.apps.demo import app
from tests.unit.demo_calls import ask, ask_json, multipart, part

CONTROL_CHARACTERS = "".join(map(chr, range(32)))


def test_page_shows_the_request_line_headers_query_environ_and_the_worker() -> None:
    answer = ask("/a path", "q=1&q=2&empty=", HTTP_X_FOO="bar", REMOTE_ADDR="192.0.2.7", REMOTE_PORT="4711")
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    page = answer.page
    assert "/a%20path?q=1&q=2&empty= HTTP/1.0" in "".join(page.texts)
    assert {"192.0.2.7:4711", str(os.getpid()), "-"} <= set(page.texts)
    assert page.rows["X-Foo"] == "bar"
    assert page.rows["q"] == "2"
    assert page.rows["empty"] == ""
    assert page.rows["wsgi.version"] == "(1, 0)"
    assert page.rows["QUERY_STRING"] == "q=1&q=2&empty="
    assert page.tags.count("form") == 3


def test_generation_and_slot_are_shown_where_the_server_tells_them() -> None:
    server: dict[str, Any] = {"forkserve.generation": 7, "forkserve.slot": 0}
    told = ask_json(**server)
    assert told["worker"] == {"pid": os.getpid(), "generation": 7, "slot": 0}
    assert ask_json()["worker"] == {"pid": os.getpid(), "generation": None, "slot": None}
    texts = ask(**server).page.texts
    assert texts[texts.index("Generation") + 1] == "7"
    assert texts[texts.index("Slot") + 1] == "0"


def test_links_and_forms_stay_below_the_mount_point() -> None:
    page = ask("/", SCRIPT_NAME="/de\xc3\xa9p").page
    targets = [value for name, value in page.attributes if name == "action" or name == "href"]
    assert targets
    assert all(target and target.startswith("/de%C3%A9p/") for target in targets)


@pytest.mark.parametrize(
    ("accept", "wants_json"),
    [
        ("application/json", True),
        ("application/json, */*", True),
        ("application/json, text/plain, */*", True),
        ("text/html;q=0.8, application/json", True),
        ("application/*", True),
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/html, application/json;q=0.9", False),
        ("text/html, application/json", False),
        ("application/json;q=0, */*;q=0.1", False),
        ("application/json;q=often, text/html", False),
        ("application/jsonx", False),
        ("application/json;q=nan", False),
    ],
)
def test_accept_header_chooses_between_page_and_json_by_weight(accept: str, wants_json: bool) -> None:
    answer = ask(HTTP_ACCEPT=accept)
    assert (answer.headers["Content-Type"] == "application/json") is wants_json
    assert answer.headers["Vary"] == "Accept"


def test_format_in_the_query_outweighs_the_accept_header() -> None:
    assert ask(query="format=json", HTTP_ACCEPT="text/html").json["query"] == {"format": ["json"]}
    assert ask(query="format=html", HTTP_ACCEPT="application/json").headers["Content-Type"].startswith("text/html")


def test_head_has_the_headers_of_get_and_no_body() -> None:
    for path, query in (("/", ""), ("/big", "kib=3"), ("/favicon.ico", ""), ("/stream", ""), ("/sleep", "s=0")):
        head, get = ask(path, query, REQUEST_METHOD="HEAD"), ask(path, query + "&n=1")
        assert head.body == b""
        assert head.status == get.status == "200 OK"
        assert head.headers.keys() == get.headers.keys()
    assert ask("/big", "kib=3", REQUEST_METHOD="HEAD").headers["Content-Length"] == "3072"


def test_every_other_method_is_shown_by_the_inspector() -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert ask_json(REQUEST_METHOD=method)["method"] == method


def test_latin1_strings_of_the_environ_are_shown_as_the_text_they_stand_for() -> None:
    told = ask_json("/日本".encode().decode("latin-1"), HTTP_X_NAME="J\xc3\xbcrgen", HTTP_X_OLD="J\xfcrgen")
    assert told["environ"]["PATH_INFO"] == "/日本"
    assert told["headers"]["X-Name"] == "Jürgen"
    assert told["headers"]["X-Old"] == "Jürgen"
    assert told["request_line"] == "GET /%E6%97%A5%E6%9C%AC HTTP/1.0"


def test_request_target_is_shown_as_sent_where_the_server_tells_it() -> None:
    assert ask_json("/a/b", RAW_URI="/a%2fb?x")["request_line"] == "GET /a%2fb?x HTTP/1.0"


def test_query_of_too_many_fields_is_told_and_the_rest_is_shown() -> None:
    answer = ask(query="&".join("a" * 1001), HTTP_ACCEPT="application/json")
    assert answer.status == "400 Bad Request"
    assert answer.json["faults"] == ["the query has more than 1000 fields: none is shown"]


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;"


def test_nothing_that_came_with_the_request_becomes_markup() -> None:
    plain = ask(**multipart(part('name="a"', b"b"), part('name="f"; filename="f"', b"c", "text/html"))).page
    quoted = HOSTILE.replace('"', r"\"")
    form = multipart(
        part(f'name="{quoted}"', HOSTILE.encode()),
        part(f'name="{quoted}"; filename="{quoted}"', HOSTILE.encode(), "text/html"),
        part(f'name="{quoted}"; filename="{quoted}"', HOSTILE.encode(), HOSTILE),
    )
    page = ask(
        "/" + HOSTILE,
        query=urlencode({HOSTILE: HOSTILE}),
        RAW_URI="/" + HOSTILE,
        HTTP_X_EVIL=HOSTILE,
        REMOTE_ADDR=HOSTILE,
        SERVER_SOFTWARE=HOSTILE,
        SCRIPT_NAME="/" + HOSTILE,
        **{**form, "HTTP_" + HOSTILE: HOSTILE},
    ).page
    assert set(page.tags) == set(plain.tags)
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert page.texts.count(HOSTILE) >= 8
    assert not any(HOSTILE in (value or "") for _, value in page.attributes)


def test_policy_of_the_page_allows_its_own_style_and_no_script() -> None:
    answer = ask()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert "unsafe" not in policy
    assert not any(name == "style" or name.startswith("on") for name, _ in answer.page.attributes)


def test_control_characters_are_shown_as_pictures() -> None:
    rows = ask(query=urlencode({"c": CONTROL_CHARACTERS})).page.rows
    assert rows["c"] == "".join(c if c in "\t\n\r" else chr(0x2400 + ord(c)) for c in CONTROL_CHARACTERS)


def test_big_is_exact_and_repeatable_and_every_kibibyte_tells_its_number() -> None:
    for kib in (0, 1, 63, 64, 65, 1000):
        answer = ask("/big", f"kib={kib}")
        assert answer.headers["Content-Length"] == str(kib * 1024) == str(len(answer.body))
        lines = answer.body.splitlines(keepends=True)
        assert [(int(line[:12]), len(line)) for line in lines] == [(n, 1024) for n in range(kib)]
    assert ask("/big").body == ask("/big", "kib=1024").body


def test_big_comes_in_chunks_of_at_most_64_kib() -> None:
    environ: dict[str, Any] = {"PATH_INFO": "/big", "QUERY_STRING": "kib=1048576"}
    setup_testing_defaults(environ)
    chunks = iter(app(environ, lambda status, headers, exc_info=None: None))  # type: ignore[arg-type]
    assert [len(next(chunks)) for _ in range(3)] == [65536] * 3


def test_stream_gives_one_line_a_second_and_the_first_at_once() -> None:
    environ: dict[str, Any] = {"PATH_INFO": "/stream", "QUERY_STRING": "n=2", "forkserve.generation": 3}
    setup_testing_defaults(environ)
    began = time.monotonic()
    lines: Iterator[bytes] = iter(app(environ, lambda status, headers, exc_info=None: None))  # type: ignore[arg-type]
    assert next(lines) == f"1 of 2 from worker {os.getpid()}, generation 3\n".encode()
    assert time.monotonic() - began < 0.9
    assert next(lines).startswith(b"2 of 2")
    assert time.monotonic() - began >= 1
    assert list(lines) == []


def test_sleep_answers_after_as_long_as_asked() -> None:
    began = time.monotonic()
    answer = ask("/sleep", "s=0.05")
    assert time.monotonic() - began >= 0.05
    assert answer.body == f"slept 0.05 s in worker {os.getpid()}, generation -\n".encode()


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/sleep", "s=-1"),
        ("/sleep", "s=3601"),
        ("/sleep", "s=nan"),
        ("/sleep", "s=inf"),
        ("/sleep", "s=soon"),
        ("/stream", "n=0"),
        ("/stream", "n=3601"),
        ("/stream", "n=1.5"),
        ("/big", "kib=-1"),
        ("/big", "kib=1048577"),
        ("/big", "kib=" + "9" * 5000),
        ("/boom", "after=x%0Ay%E2%82%AC"),
    ],
)
def test_number_out_of_range_is_refused_in_one_line(path: str, query: str) -> None:
    answer = ask(path, query)
    assert answer.status == "400 Bad Request"
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.body.endswith(b"\n")
    assert answer.body.count(b"\n") == 1
    assert query.partition("=")[0].encode() in answer.body


def test_boom_raises_before_the_response_starts() -> None:
    with pytest.raises(RuntimeError, match="boom, as asked"):
        ask("/boom")


def test_boom_raises_after_the_first_chunk_where_asked() -> None:
    environ: dict[str, Any] = {"PATH_INFO": "/boom", "QUERY_STRING": "after=1"}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    chunks = iter(app(environ, lambda status, headers, exc_info=None: statuses.append(status)))  # type: ignore[arg-type]
    assert next(chunks).startswith(b"chunk 1")
    assert statuses == ["200 OK"]
    with pytest.raises(RuntimeError, match="after chunk 1"):
        next(chunks)


@pytest.mark.parametrize("path", ["/stream", "/sleep", "/boom", "/big", "/favicon.ico"])
def test_special_pages_take_only_get_and_head(path: str) -> None:
    answer = ask(path, body=b"a=1")
    assert answer.status == "405 Method Not Allowed"
    assert answer.headers["Allow"] == "GET, HEAD"


def test_icon_is_an_image() -> None:
    answer = ask("/favicon.ico")
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert answer.body.startswith(b"<svg")
