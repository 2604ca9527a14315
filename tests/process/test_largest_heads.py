"""A limit of 0 is the largest that there can be, as with Gunicorn: 1 MiB."""

import pytest

from tests.harness import Server, read_to_end

SITE = "tests.process.site:app"


@pytest.mark.parametrize(("size", "status"), [(500_000, b"200"), (1 << 20, b"414")])
def test_a_request_line_without_a_limit_may_have_a_mebibyte(size: int, status: bytes) -> None:
    with Server(app=SITE, workers=1, limit_request_line=0) as s, s.connect() as sock:
        sock.sendall(b"GET /pid?" + b"q" * size + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(("size", "status"), [(500_000, b"200"), (1 << 20, b"431")])
def test_a_field_without_a_limit_may_have_a_mebibyte(size: int, status: bytes) -> None:
    with Server(app=SITE, workers=1, limit_request_field_size=0) as s, s.connect() as sock:
        sock.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"q" * size + b"\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 " + status)
