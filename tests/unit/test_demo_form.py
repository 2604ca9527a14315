"""Bodies that the demo app is sent: forms and uploads, whole, hostile, broken or huge."""

import hashlib
import json
import os
import tracemalloc
from io import BytesIO
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.apps.demo import app
from tests.unit.demo_calls import PNG, Dribble, ask, ask_json, multipart, part


def test_urlencoded_form_is_decoded() -> None:
    body = urlencode([("name", "Ada Lövelace"), ("n", "1"), ("n", "2"), ("none", "")]).encode()
    told = ask_json(body=body, CONTENT_TYPE="application/x-www-form-urlencoded")
    assert told["form"] == {"name": ["Ada Lövelace"], "n": ["1", "2"], "none": [""]}
    assert told["faults"] == []


def test_urlencoded_form_beyond_its_limits_is_refused_in_part() -> None:
    content_type = "application/x-www-form-urlencoded"
    long = ask(body=b"a=" + b"x" * (1 << 20), CONTENT_TYPE=content_type, HTTP_ACCEPT="application/json")
    assert long.status == "400 Bad Request"
    assert len(long.json["form"]["a"][0]) == (1 << 20) - 2
    many = ask(body=b"a&" * 1001, CONTENT_TYPE=content_type, HTTP_ACCEPT="application/json")
    assert many.status == "400 Bad Request"
    assert many.json["faults"] == ["more than 1000 fields: none is shown"]


def test_multipart_fields_and_files_are_shown_with_size_and_digest() -> None:
    text = "naïve\nsecond line\n".encode()
    form = multipart(
        part('name="note"', "grüße".encode()),
        part('name="f"; filename="a.txt"', text, "text/plain; charset=utf-8"),
        part('name="f"; filename="b.png"', PNG, "image/png"),
        part('name="f"; filename="empty.bin"', b"", "application/octet-stream"),
    )
    told = ask_json(**form)
    assert told["form"] == {"note": ["grüße"]}
    assert [(f["field"], f["filename"], f["size"]) for f in told["files"]] == [
        ("f", "a.txt", len(text)),
        ("f", "b.png", len(PNG)),
        ("f", "empty.bin", 0),
    ]
    assert [f["sha256"] for f in told["files"]] == [hashlib.sha256(c).hexdigest() for c in (text, PNG, b"")]
    assert told["files"][0]["text"] == text.decode()
    page = ask(**form).page
    assert "img" in page.tags
    assert any(value and value.startswith("data:image/png;base64,iVBORw0K") for _, value in page.attributes)
    assert text.decode() in "".join(page.texts)


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        (r'name="f"; filename="a\"b\\c.txt"', "f", r'a"b\c.txt'),
        (r'name="f"; filename="C:\temp\x.txt"', "f", r"C:\temp\x.txt"),
        ('name="a%22b"; filename="x%0D%0Ay"', 'a"b', "x\r\ny"),
        ('name="f;g=h"; filename="a;filename=b"', "f;g=h", "a;filename=b"),
        ("filename=plain.txt; name=f", "f", "plain.txt"),
        ("name=f; filename=\"x\"; filename*=utf-8'en'%e2%82%ac.txt", "f", "€.txt"),
        ("name=f; filename=\"x\"; filename*=punycode''abc", "f", "x"),
        ('NAME="f"; FileName="wörld.txt"', "f", "wörld.txt"),
        ('filename="no name"', "", "no name"),
        ('name="f"; filename=""', "f", ""),
    ],
)
def test_names_in_part_heads_are_read_as_clients_write_them(disposition: str, name: str, filename: str) -> None:
    [upload] = ask_json(**multipart(part(disposition, b"x")))["files"]
    assert (upload["field"], upload["filename"]) == (name, filename)


def test_only_images_that_browsers_draw_become_previews() -> None:
    for content_type in ("text/html", "image/x-unheard-of", 'image/png"onload="x', "IMAGE/PNG "):
        page = ask(**multipart(part('name="f"; filename="f"', PNG, content_type))).page
        assert ("img" in page.tags) is (content_type == "IMAGE/PNG ")
    too_large = PNG + b"\0" * (256 * 1024)
    assert "img" not in ask(**multipart(part('name="f"; filename="f"', too_large, "image/png"))).page.tags


def test_missing_final_boundary_is_told_and_what_came_is_shown() -> None:
    body = part('name="a"', b"1") + part('name="f"; filename="cut.txt"', b"half a fi", "text/plain")[:-2]
    answer = ask(body=body, CONTENT_TYPE="multipart/form-data; boundary=frontier", HTTP_ACCEPT="application/json")
    assert answer.status == "400 Bad Request"
    assert answer.json["faults"] == ["the body ended without its final boundary"]
    assert answer.json["form"] == {"a": ["1"]}
    assert answer.json["files"][0]["text"] == "half a fi"


@pytest.mark.parametrize(
    ("body", "content_type", "fault"),
    [
        (b"--frontier--", "multipart/form-data", "names no boundary"),
        (b"--frontier--", 'multipart/form-data; boundary=""', "names no boundary"),
        (b"--frontier--", f"multipart/form-data; boundary={'b' * 71}", "names no boundary"),
        (b"", "multipart/form-data; boundary=frontier", "without its final boundary"),
        (b"--frontier\n\r\n--frontier--", "multipart/form-data; boundary=frontier", "other bytes on its line"),
        (b"--frontierer\r\n\r\n", "multipart/form-data; boundary=frontier", "other bytes on its line"),
        (b"--frontier\r\nA: " + b"x" * 5000, "multipart/form-data; boundary=frontier", "head is longer"),
        (b"--frontier\r\n" + b"A: b\r\n" * 1000, "multipart/form-data; boundary=frontier", "head is longer"),
        (part("name=a", b"") * 1001, "multipart/form-data; boundary=frontier", "more than 1000 parts"),
    ],
)
def test_broken_multipart_is_told(body: bytes, content_type: str, fault: str) -> None:
    answer = ask(body=body, CONTENT_TYPE=content_type, HTTP_ACCEPT="application/json")
    assert answer.status == "400 Bad Request"
    assert fault in answer.json["faults"][0]


def test_multipart_may_have_preamble_epilogue_padding_and_no_last_line_break() -> None:
    padded = part('name="a"', b"1").replace(b"--frontier\r\n", b"--frontier \t\r\n")
    for body in (b"preamble\r\n" + padded + b"--frontier--\r\nepilogue", padded + b"--frontier--"):
        told = ask_json(body=body, CONTENT_TYPE='multipart/form-data; charset=utf-8; boundary="frontier"')
        assert told["form"] == {"a": ["1"]}
        assert told["faults"] == []


def test_empty_multipart_form_is_no_fault() -> None:
    told = ask_json(**multipart())
    assert (told["form"], told["files"], told["faults"]) == ({}, [], [])


_CONTENT = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"\r\n", b"\r\n--fron", b"--frontier", b"\r\n-", b"-\r\n\r\n-"])
)


@given(contents=st.lists(_CONTENT, max_size=4), at_once=st.integers(1, 50))
def test_multipart_is_read_alike_however_the_bytes_arrive(contents: list[bytes], at_once: int) -> None:
    contents = [content for content in contents if b"\r\n--frontier" not in b"\r\n" + content]
    form = multipart(*[part('name="f"; filename="f"', content) for content in contents])
    told = ask_json(body=Dribble(form["body"], at_once), CONTENT_TYPE=form["CONTENT_TYPE"])
    assert told["faults"] == []
    assert [f["sha256"] for f in told["files"]] == [hashlib.sha256(c).hexdigest() for c in contents]


@given(body=st.binary(max_size=300).map(lambda b: b.replace(b"!", b"\r\n--frontier")), at_once=st.integers(1, 50))
def test_no_body_makes_the_inspector_raise(body: bytes, at_once: int) -> None:
    for content_type in ("multipart/form-data; boundary=frontier", "application/x-www-form-urlencoded", "text/plain"):
        answer = ask(body=Dribble(b"--frontier\r\n" + body, at_once), CONTENT_TYPE=content_type)
        assert answer.status in ("200 OK", "400 Bad Request")


def test_large_upload_is_digested_in_bounded_memory() -> None:
    content = os.urandom(5 << 20)
    form = multipart(part('name="f"; filename="5MB.txt"', content, "text/plain"))
    tracemalloc.start()
    try:
        told = ask_json(**{**form, "body": BytesIO(form["body"])})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["files"][0]["size"] == 5 << 20
    assert peak < 1 << 20


def test_previews_of_many_images_together_stay_bounded() -> None:
    image = PNG + b"\0" * (200 * 1024)
    too_large = [part('name="f"; filename="f"', image + image, "image/png")] * 20
    form = multipart(*too_large, *[part('name="f"; filename="f"', image, "image/png")] * 40)
    page = ask(**form).page
    assert page.tags.count("figure") == 60
    assert page.tags.count("img") == (4 << 20) // len(image)


def test_long_field_is_clipped_between_characters_and_its_size_told() -> None:
    long = "€" * 30_000
    answer = ask(**multipart(part('name="long"', long.encode())))
    assert answer.page.rows["long"] == "€" * (65536 // 3) + "… (90000 bytes)"


def test_text_preview_ends_at_two_kibibytes() -> None:
    [upload] = ask_json(**multipart(part('name="f"; filename="f"', b"x" * 2049, "application/ld+json")))["files"]
    assert upload["text"] == "x" * 2048


def test_body_that_is_no_form_is_shown_as_a_file() -> None:
    told = ask_json(body=b'{"a": 1}', CONTENT_TYPE="application/json", REQUEST_METHOD="PUT")
    assert told["body"]["text"] == '{"a": 1}'
    assert told["body"]["sha256"] == hashlib.sha256(b'{"a": 1}').hexdigest()


def test_body_without_length_is_read_only_where_the_server_ends_the_input() -> None:
    form: dict[str, Any] = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    assert ask_json(**form | {"wsgi.input": BytesIO(b"a=1")})["form"] == {}
    told = ask_json(**form | {"wsgi.input": BytesIO(b"a=1"), "wsgi.input_terminated": True})
    assert told["form"] == {"a": ["1"]}


def test_bytes_beyond_the_content_length_are_left_alone() -> None:
    stream = BytesIO(b"a=1&b=2GET / HTTP/1.1")
    told = ask_json(body=stream, CONTENT_LENGTH="7", CONTENT_TYPE="application/x-www-form-urlencoded")
    assert told["form"] == {"a": ["1"], "b": ["2"]}
    assert stream.tell() == 7


def test_body_shorter_than_its_content_length_is_told() -> None:
    answer = ask(
        body=b"a=1",
        CONTENT_LENGTH="10",
        CONTENT_TYPE="application/x-www-form-urlencoded",
        HTTP_ACCEPT="application/json",
    )
    assert answer.status == "400 Bad Request"
    assert answer.json["faults"] == ["the body ended 7 bytes before its Content-Length of 10"]
    assert answer.json["form"] == {"a": ["1"]}


@pytest.mark.parametrize("length", ["1e3", "+5", "1_0", " 3", "٣", "9" * 5000, "<b>"])
def test_content_length_that_is_no_number_is_told(length: str) -> None:
    # Not through the validator, which would refuse such an environ itself.
    environ: dict[str, Any] = {"CONTENT_LENGTH": length, "QUERY_STRING": "format=json", "wsgi.input": BytesIO(b"abc")}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    [body] = app(environ, lambda status, headers, exc_info=None: statuses.append(status))  # type: ignore[arg-type]
    assert statuses == ["400 Bad Request"]
    assert json.loads(body)["faults"][0].startswith("Content-Length is not a number of bytes")
