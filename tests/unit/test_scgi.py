"""forkserve/protocol/scgi.py: netstrings of variables to requests, to the letter of the specification."""

import pytest

from forkserve.protocol.cgi import CgiEncoder
from forkserve.protocol.types import Limits
from tests.unit.gateways import TEMPLATE, decoder_for, feed, one, scgi_request

# The example at the end of the specification.
DEEP_THOUGHT = (
    b"70:CONTENT_LENGTH\x0027\0SCGI\x001\0REQUEST_METHOD\0POST\0REQUEST_URI\0/deepthought\0,"
    b"What is the answer to life?"
)  # fmt: skip


def netstring(block: bytes) -> bytes:
    return b"%d:%b," % (len(block), block)


GOOD_BLOCK = b"CONTENT_LENGTH\x000\0SCGI\x001\0REQUEST_METHOD\0GET\0REQUEST_URI\0/\0"


@pytest.mark.parametrize("step", [0, 1, 7])
def test_example_of_the_specification_is_read(step: int) -> None:
    decoder = decoder_for("scgi")
    assert feed(decoder, DEEP_THOUGHT, step) is None
    ((environ, line, flags),) = decoder.ready
    assert environ["wsgi.input"].read() == b"What is the answer to life?"
    assert {key: environ[key] for key in environ if environ[key] != TEMPLATE.get(key) and key != "wsgi.input"} == {
        "CONTENT_LENGTH": "27",
        "SCGI": "1",
        "REQUEST_METHOD": "POST",
        "REQUEST_URI": "/deepthought",
        "RAW_URI": "/deepthought",
        "PATH_INFO": "/deepthought",
        "REMOTE_ADDR": "",
    }
    assert (line, flags) == (b"POST /deepthought", 0)


def test_request_is_not_ready_before_its_last_byte() -> None:
    decoder = decoder_for("scgi")
    assert feed(decoder, DEEP_THOUGHT[:-1]) is None
    assert (decoder.ready, decoder.idle, decoder.body_began) == ([], False, True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"070:", "netstring"),
        (b"00:,", "netstring"),
        (b":", "netstring"),
        (b"-1:", "netstring"),
        (b" 7:", "netstring"),
        (b"+7:", "netstring"),
        (b"7 :", "netstring"),
        (b"0x7:", "netstring"),
        (b"12345678", "netstring"),
        (b"\xb2:", "netstring"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "netstring"),
        (b"9999999:", "9999999 bytes"),
        (b"0:,", "CONTENT_LENGTH"),
        (netstring(GOOD_BLOCK)[:-1] + b";", "comma"),
        (netstring(GOOD_BLOCK[:-1]), "NUL"),
        (netstring(GOOD_BLOCK + b"A\0"), "NUL"),
        (netstring(GOOD_BLOCK + b"\0\0"), "called ''"),
        (netstring(b"SCGI\x001\0CONTENT_LENGTH\x000\0"), "first"),
        (netstring(GOOD_BLOCK.replace(b"\x000\0", b"\0\0")), "first"),
        (netstring(GOOD_BLOCK.replace(b"SCGI\x001\0", b"")), "SCGI"),
        (netstring(GOOD_BLOCK.replace(b"SCGI\x001\0", b"SCGI\x002\0")), "SCGI"),
        (netstring(GOOD_BLOCK + b"SCGI\x001\0"), "several SCGI"),
        (netstring(GOOD_BLOCK + b"CONTENT_LENGTH\x000\0"), "several CONTENT_LENGTH"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP was spoken"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP was spoken"),
    ],
)
@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
def test_everything_else_is_refused(data: bytes, reason: str, step: int) -> None:
    decoder = decoder_for("scgi")
    refused = feed(decoder, data, step)
    assert refused is not None
    assert reason in refused.reason
    assert decoder.ready == []


def test_large_variables_are_read_up_to_a_bound() -> None:
    bare = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/"}
    assert len(one("scgi", bare | {"SSL_CLIENT_CERT": "c" * 100_000})["SSL_CLIENT_CERT"]) == 100_000
    decoder = decoder_for("scgi", limits=Limits(100, 1, 100))
    refused = feed(decoder, scgi_request(bare | {"SSL_CLIENT_CERT": "c" * 140_000})[:8])
    assert refused is not None
    assert refused.status.startswith("431")


def test_response_is_a_cgi_one() -> None:
    assert isinstance(decoder_for("scgi").take_encoder(), CgiEncoder)
