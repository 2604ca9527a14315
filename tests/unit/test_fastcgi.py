"""forkserve/protocol/fastcgi.py: records to requests, what the protocol answers by itself, a response to records."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.protocol.fastcgi import FastcgiEncoder, pair, pairs
from forkserve.protocol.types import HEAD_ONLY, KEEP_ALIVE, Limits, Refused
from tests.unit.gateways import (
    NGINX,
    begin,
    decoder_for,
    fastcgi_params,
    fastcgi_request,
    feed,
    one,
    record,
)

BARE = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/"}
BODY = b"quod erat demonstrandum\n" * 20
STEPS = pytest.mark.parametrize("step", [0, 1, 13])


def fastcgi() -> Any:
    return decoder_for("fastcgi")


def end(request_id: int, status: int) -> bytes:
    return record(3, request_id, bytes((0, 0, 0, 0, status, 0, 0, 0)))


def refusal(data: bytes) -> Refused:
    decoder = fastcgi()
    refused = feed(decoder, data)
    assert refused is not None
    assert decoder.ready == []
    return refused


def test_example_of_the_specification_is_read() -> None:
    # Appendix B, example 1, with the variables that it leaves out.
    params = b"\x0b\x02SERVER_PORT80\x0b\x0eSERVER_ADDR199.170.183.42" + fastcgi_params(BARE)
    decoder = fastcgi()
    assert feed(decoder, begin() + record(4, 1, params) + record(4, 1) + record(5, 1)) is None
    ((environ, line, flags),) = decoder.ready
    assert (environ["SERVER_PORT"], environ["SERVER_ADDR"]) == ("80", "199.170.183.42")
    assert (line, flags) == (b"GET /", 0)
    assert environ["wsgi.input"].read() == b""


@STEPS
@pytest.mark.parametrize("size", [1, 7, 8192])
@pytest.mark.parametrize("padding", [0, 3, 255])
def test_streams_may_be_cut_and_padded_anywhere(step: int, size: int, padding: int) -> None:
    decoder = fastcgi()
    variables = NGINX | {"CONTENT_LENGTH": str(len(BODY)), "HTTP_LONG": "x" * 300}
    assert feed(decoder, fastcgi_request(variables, BODY, size=size, padding=padding), step) is None
    environ = decoder.ready[0][0]
    assert environ["HTTP_LONG"] == "x" * 300
    assert environ["wsgi.input"].read() == BODY
    assert decoder.replies == []


@STEPS
def test_kept_connection_carries_one_request_after_the_other(step: int) -> None:
    decoder = fastcgi()
    three = [fastcgi_request(NGINX | {"HTTP_N": str(n)}, request_id=n, keep=True) for n in (1, 1, 2)]
    assert feed(decoder, b"".join(three), step) is None
    assert [environ["HTTP_N"] for environ, _, _ in decoder.ready] == ["1", "1", "2"]
    assert {flags for _, _, flags in decoder.ready} == {KEEP_ALIVE}
    assert [decoder.take_encoder().end() for _ in range(3)] == [
        record(6, n) + end(n, 0) for n in (1, 1, 2)
    ]  # fmt: skip
    assert decoder.take_encoder() is None
    assert decoder.idle


def test_nothing_is_read_after_the_last_request() -> None:
    decoder = fastcgi()
    assert feed(decoder, fastcgi_request(NGINX) + fastcgi_request(NGINX) + b"garbage") is None
    assert len(decoder.ready) == 1
    assert not decoder.idle


def test_head_is_told_apart() -> None:
    decoder = fastcgi()
    feed(decoder, fastcgi_request(NGINX | {"REQUEST_METHOD": "HEAD"}, keep=True))
    assert decoder.ready[0][2] == HEAD_ONLY | KEEP_ALIVE


@pytest.mark.parametrize("announced", ["", "0", "7", str(len(BODY)), "9999"])
def test_chunked_body_ends_with_its_stream(announced: str) -> None:
    # nginx with fastcgi_request_buffering off says no length; HAProxy one that means nothing.
    decoder = fastcgi()
    variables = NGINX | {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": announced}
    assert feed(decoder, fastcgi_request(variables, BODY)) is None
    environ = decoder.ready[0][0]
    assert environ["CONTENT_LENGTH"] == str(len(BODY))
    assert environ["wsgi.input"].read() == BODY
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_chunked_body_without_a_byte_has_no_length() -> None:
    decoder = fastcgi()
    assert feed(decoder, fastcgi_request(NGINX | {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "7"})) is None
    environ = decoder.ready[0][0]
    assert environ["CONTENT_LENGTH"] == "0"
    assert environ["wsgi.input"].read() == b""


@STEPS
@pytest.mark.parametrize("announced", [0, 1, len(BODY) - 1, len(BODY) + 1])
def test_body_of_another_length_than_announced_is_refused(announced: int, step: int) -> None:
    decoder = fastcgi()
    refused = feed(decoder, fastcgi_request(NGINX | {"CONTENT_LENGTH": str(announced)}, BODY), step)
    assert refused is not None
    assert refused.status == "400 Bad Request"
    assert decoder.ready == []
    assert decoder.take_encoder().end().endswith(end(1, 0))


def test_last_variable_of_a_name_wins() -> None:
    # nginx: include fastcgi_params; fastcgi_param PATH_INFO $fastcgi_script_name; fastcgi_param SCRIPT_NAME "";
    decoder = fastcgi()
    pairs_of_nginx = [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/a"), ("PATH_INFO", "/a"), ("SCRIPT_NAME", "")]
    assert feed(decoder, fastcgi_request(pairs_of_nginx)) is None
    assert (decoder.ready[0][0]["SCRIPT_NAME"], decoder.ready[0][0]["PATH_INFO"]) == ("", "/a")


@STEPS
def test_get_values_is_answered_with_what_is_known(step: int) -> None:
    decoder = fastcgi()
    asked = fastcgi_params({"FCGI_MAX_CONNS": "", "FCGI_MPXS_CONNS": "", "FCGI_NONE": ""})
    assert feed(decoder, record(9, 0, asked, padding=5) + record(9, 0, b""), step) is None
    (first, second) = decoder.replies
    assert first[:4] == b"\x01\x0a\0\0"
    assert len(first) % 8 == 0
    length = int.from_bytes(first[4:6], "big")
    assert dict(pairs(first[8 : 8 + length])) == {b"FCGI_MAX_CONNS": b"1024", b"FCGI_MPXS_CONNS": b"0"}
    assert second == record(10, 0, b"")
    assert decoder.idle


@pytest.mark.parametrize("kind", [0, 1, 4, 5, 6, 10, 11, 12, 255])
def test_unknown_management_record_is_answered(kind: int) -> None:
    decoder = fastcgi()
    assert feed(decoder, record(kind, 0, b"whatever") + fastcgi_request(NGINX)) is None
    assert decoder.replies == [record(11, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0)))]
    assert len(decoder.ready) == 1


def test_endless_questions_are_refused() -> None:
    refused = refusal(record(12, 0) * 1000)
    assert "more than" in refused.reason


@STEPS
def test_request_is_aborted(step: int) -> None:
    half = begin(7, keep=True) + record(4, 7, fastcgi_params(NGINX | {"CONTENT_LENGTH": "9"})) + record(4, 7)
    decoder = fastcgi()
    assert feed(decoder, half + record(5, 7, b"1234") + record(2, 7), step) is None
    assert decoder.replies == [end(7, 0)]
    assert (decoder.ready, decoder.idle, decoder.body_began, decoder.must_close) == ([], True, False, False)
    assert feed(decoder, record(5, 7, b"5") + record(5, 7) + fastcgi_request(NGINX, request_id=7)) is None
    assert len(decoder.ready) == 1


def test_connection_ends_with_an_aborted_request_that_does_not_keep_it() -> None:
    decoder = fastcgi()
    assert feed(decoder, begin() + record(2, 1) + fastcgi_request(NGINX)) is None
    assert (decoder.replies, decoder.ready, decoder.must_close) == ([end(1, 0)], [], True)


@pytest.mark.parametrize("role", [0, 2, 3, 256])
def test_other_roles_are_declined(role: int) -> None:
    decoder = fastcgi()
    assert feed(decoder, begin(3, role=role, keep=True) + record(4, 3, b"x") + record(4, 3)) is None
    assert decoder.replies == [end(3, 3)]
    assert (decoder.ready, decoder.must_close) == ([], False)
    assert feed(decoder, begin(4, role=role)) is None
    assert decoder.must_close


@STEPS
def test_second_request_within_one_is_declined(step: int) -> None:
    params = record(4, 1, fastcgi_params(NGINX)) + record(4, 1)
    within = begin(2, keep=True) + record(4, 2, fastcgi_params(NGINX)) + record(4, 2) + record(5, 2)
    decoder = fastcgi()
    assert feed(decoder, begin(1, keep=True) + within + params + within + record(5, 1), step) is None
    assert decoder.replies == [end(2, 1)] * 2
    assert len(decoder.ready) == 1
    assert feed(decoder, within, step) is None
    assert len(decoder.ready) == 2


def test_records_of_nobody_are_ignored() -> None:
    decoder = fastcgi()
    noise = record(5, 9, b"x") + record(4, 9, b"\xff") + record(2, 9) + record(99, 9, b"x" * 100) + record(8, 9, b"x")
    assert feed(decoder, noise + begin() + noise + record(4, 1, fastcgi_params(NGINX)) + noise + record(4, 1)) is None
    assert feed(decoder, record(8, 1, b"data") + record(8, 1) + record(5, 1)) is None
    assert len(decoder.ready) == 1
    assert decoder.replies == []


PARAMS = record(4, 1, fastcgi_params(BARE))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP was spoken"),
        (b"\0" * 8, "version 0"),
        (b"\x02\x01\0\x01\0\x08\0\0", "version 2"),
        (record(1, 1, b"\0\x01\0"), "BEGIN_REQUEST of 3 bytes"),
        (record(1, 1), "BEGIN_REQUEST of 0 bytes"),
        (begin() + begin(), "twice"),
        (begin() + record(5, 1), "before the end of PARAMS"),
        (begin() + PARAMS + record(5, 1, b"x"), "before the end of PARAMS"),
        (begin() + PARAMS + record(4, 1) + PARAMS, "after their end"),
        (begin() + PARAMS + record(4, 1) + record(4, 1), "after their end"),
        (begin() + record(6, 1, b"x"), "type 6"),
        (begin() + record(3, 1, bytes(8)), "type 3"),
        (begin() + record(200, 1), "type 200"),
        (begin() + record(4, 1), "REQUEST_METHOD"),
        (begin() + record(4, 1, b"\x01"), "beyond"),
        (begin() + record(4, 1, b"\x01\x01A"), "beyond"),
        (begin() + record(4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xffA"), "beyond"),
        (begin() + record(4, 1, b"\x80\0\0"), "beyond"),
        (begin() + record(4, 1, b"\x80"), "beyond"),
        (record(9, 0, b"\x0a\x00FCGI"), "beyond"),
        (record(9, 0, b"\x01\0A" * 342), "type 9 of more than 1024 bytes"),
        (record(1, 1, bytes(1025)), "type 1 of more than 1024 bytes"),
    ],
)
def test_everything_else_is_refused(data: bytes, reason: str) -> None:
    assert reason in refusal(data + (record(4, 1) if reason == "beyond" else b"")).reason
    assert reason in str(feed(fastcgi(), data + (record(4, 1) if reason == "beyond" else b""), 1))


def test_variables_are_bounded_before_they_are_whole() -> None:
    decoder = decoder_for("fastcgi", limits=Limits(100, 1, 100))
    bomb = b"\x01\xff\xff\xff\xffA" + b"x" * 60_000
    refused = feed(decoder, begin() + record(4, 1, bomb) + record(4, 1, bomb) + record(4, 1, bomb))
    assert refused is not None
    assert refused.status.startswith("431")


def test_large_variables_over_records_are_read() -> None:
    variables = BARE | {f"SSL_CLIENT_CERT_CHAIN_{n}": "c" * 5000 for n in range(20)}
    assert one("fastcgi", variables)["SSL_CLIENT_CERT_CHAIN_19"] == "c" * 5000


def test_refusal_answers_only_a_request_that_began() -> None:
    decoder = fastcgi()
    assert feed(decoder, b"\0" * 8) is not None
    assert decoder.take_encoder() is None
    decoder = fastcgi()
    assert feed(decoder, fastcgi_request(NGINX, keep=True) + begin(5) + b"\0" * 8) is not None
    assert [decoder.take_encoder().end()[3] for _ in range(2)] == [1, 5]
    assert decoder.take_encoder() is None


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=5))
@settings(max_examples=50)
def test_pairs_are_read_as_they_are_spelled(listed: list[tuple[bytes, bytes]]) -> None:
    assert list(pairs(b"".join(pair(name, value) for name, value in listed))) == listed


def unwrapped(data: bytes) -> tuple[bytes, list[int]]:
    """The content of STDOUT records of request 258, and the lengths of all."""
    content, lengths = b"", []
    while data:
        length, padding = int.from_bytes(data[4:6], "big"), data[6]
        assert data[:4] == b"\x01\x06\x01\x02"
        assert (8 + length + padding) % 8 == 0
        content += data[8 : 8 + length]
        lengths.append(length)
        data = data[8 + length + padding :]
    return content, lengths


def test_response_is_spelled_in_records() -> None:
    encoder = FastcgiEncoder(258)
    head = encoder.head(b"HTTP/1.1 200 OK\r\n", [b"A: b\r\n"])
    assert unwrapped(head) == (b"Status: 200 OK\r\nA: b\r\n\r\n", [24])
    assert encoder.wrap(b"") == b""  # an empty record would be the end
    assert unwrapped(encoder.wrap(b"x")) == (b"x", [1])
    large = bytes(range(256)) * 1000
    content, lengths = unwrapped(encoder.wrap(large))
    assert content == large
    assert max(lengths) <= 65535 and min(lengths) > 0
    assert encoder.end() == record(6, 258) + end(258, 0)
    assert (encoder.plain_body, encoder.ends_body) == (False, True)
