"""forkserve/protocol/uwsgi.py: packets to requests, and the refusal of every other packet."""

import pytest

from forkserve.protocol.types import Refused
from tests.unit.gateways import NGINX, decoder_for, feed, one, uwsgi_packet

BARE = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}


def refusal(data: bytes, step: int = 0) -> Refused:
    decoder = decoder_for("uwsgi")
    refused = feed(decoder, data, step)
    assert refused is not None
    assert decoder.ready == []
    return refused


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
def test_packet_is_read_as_the_documentation_spells_it(step: int) -> None:
    # modifier1 0, 41 bytes of variables, modifier2 0; lengths are little-endian.
    packet = b"\0\x29\0\0" + b"\x0e\0REQUEST_METHOD\x03\0PUT" + b"\x09\0PATH_INFO\x02\0/a" + b"\x01\0A\0\0"
    assert len(packet) == 4 + 0x29
    decoder = decoder_for("uwsgi")
    assert feed(decoder, packet, step) is None
    ((environ, line, flags),) = decoder.ready
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["REQUEST_URI"]) == ("PUT", "/a", "/a")
    assert (line, flags) == (b"PUT /a", 0)


@pytest.mark.parametrize("modifier", [*range(1, 30), *range(31, 256)])
def test_other_modifiers_are_refused(modifier: int) -> None:
    assert f"modifier1 is {modifier}" in refusal(uwsgi_packet({"UWSGI_FILE": "/etc/passwd"}, modifier=modifier)).reason


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n\r\n", b"POST /a HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n", b"HEAD /"])
def test_http_is_recognised(line: bytes, step: int) -> None:
    assert refusal(line, step).reason == "HTTP was spoken to a uwsgi address"


def test_modifier_30_cuts_the_script_from_the_path() -> None:
    def paths(script: str, path: str, modifier: int) -> tuple[str, str]:
        decoder = decoder_for("uwsgi")
        packet = uwsgi_packet(BARE | {"SCRIPT_NAME": script, "PATH_INFO": path}, modifier=modifier)
        assert feed(decoder, packet) is None
        environ = decoder.ready[0][0]
        return environ["SCRIPT_NAME"], environ["PATH_INFO"]

    assert paths("/app", "/app/x", 30) == ("/app", "/x")
    assert paths("/app", "/app", 30) == ("/app", "")
    assert paths("/app", "/apple", 30) == ("/app", "/apple")
    assert paths("/app/", "/app/x", 30) == ("/app", "/x")
    assert paths("", "/app/x", 30) == ("", "/app/x")
    assert paths("/app", "/app/x", 0) == ("/app", "/app/x")


def test_second_variable_of_a_name_is_refused() -> None:
    for name in ("PATH_INFO", "REMOTE_ADDR", "CONTENT_LENGTH", "REQUEST_METHOD"):
        packet = uwsgi_packet([*BARE.items(), (name, "1"), (name, "1")])
        assert refusal(packet).reason == f"several {name} variables"


@pytest.mark.parametrize(
    "block",
    [b"\x01", b"\x01\0", b"\x01\0A", b"\x01\0A\x01", b"\x01\0A\x02\0b", b"\xff\xffA\0\0", b"\x01\0A\xff\xff",
     b"\x01\0A\0\0\x01"],
)  # fmt: skip
def test_variable_beyond_the_packet_is_refused(block: bytes) -> None:
    packet = b"\0" + len(block).to_bytes(2, "little") + b"\0" + block
    assert refusal(packet + b"\0" * 100).reason == "a variable reaches beyond the packet"


def test_largest_packet_is_read_and_bounded_by_the_limits_of_fields() -> None:
    assert refusal(uwsgi_packet(BARE | {"HTTP_COOKIE": "c" * 60_000})).status.startswith("431")
    assert one("uwsgi", BARE | {"HTTP_COOKIE": "c" * 7_000})["HTTP_COOKIE"] == "c" * 7_000
    assert one("uwsgi", BARE | {"SSL_CLIENT_CERT": "c" * 60_000})["SSL_CLIENT_CERT"] == "c" * 60_000


def test_empty_packet_is_no_request() -> None:
    assert "REQUEST_METHOD" in refusal(bytes(4)).reason


def test_half_a_packet_waits() -> None:
    packet = uwsgi_packet(NGINX)
    decoder = decoder_for("uwsgi")
    assert feed(decoder, packet[:-1]) is None
    assert (decoder.ready, decoder.idle, decoder.body_began) == ([], False, False)
    assert feed(decoder, packet[-1:]) is None
    assert len(decoder.ready) == 1


def test_response_is_http_ended_by_the_end_of_the_connection() -> None:
    encoder = decoder_for("uwsgi").take_encoder()
    assert encoder is not None
    assert encoder.head(b"HTTP/1.1 200 OK\r\n", [b"A: b\r\n"]) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert (encoder.wrap(b"x"), encoder.end()) == (b"x", b"")
    assert (encoder.plain_body, encoder.ends_body) == (True, False)
