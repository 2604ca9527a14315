"""forkserve/wsgi/sentfiles.py: an app names a file, and it is sent; whatever else it does passes as it is."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, send_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forkserve.log import log
from forkserve.wsgi.files import FileWrapper
from forkserve.wsgi.sentfiles import SentFiles
from tests.unit.files_client import OLD_DATE, SECRET, Reply, ask, call, environ_of, make_site, put

Headers = list[tuple[str, str]]
PDF = ("Content-Type", "application/pdf")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder that files are sent from."""
    yield from make_site(tmp_path)


@pytest.fixture
def said() -> Iterator[io.FileIO]:
    """The error log, in a file of the test's."""
    with os.fdopen(os.memfd_create("log"), "w+b", buffering=0) as file:
        before, log.file.fd = log.file.fd, file.fileno()
        yield file
        log.file.fd = before


def text_of(file: io.FileIO) -> str:
    file.seek(0)
    return file.read().decode()


class Body:
    """A body that knows what was done with it."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.read = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            self.read += 1
            yield block

    def close(self) -> None:
        self.closed += 1


def names(header: str, path: str, *more: tuple[str, str], status: str = "200 OK", body: Any = ()) -> Any:
    """An app that names a file."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [("Content-Type", "application/pdf"), (header, path), *more])
        return body

    return app


def send(root: Path, app: Any, method: str = "GET", **fields: str) -> Reply:
    return ask(SentFiles(app, [("/protected", str(root))]), "/x", method, **fields)


def test_the_file_replaces_the_body_and_the_app_s_headers_stay(root: Path) -> None:
    cookies = [("Set-Cookie", "a=b"), ("Content-Disposition", "attachment"), ("content-length", "3")]
    for header, path in (("X-Accel-Redirect", "/protected/a.txt"), ("x-sendfile", str(root / "a.txt"))):
        body = Body(iter([b"abc"]))
        reply = send(root, names(header, path, *cookies, body=body))
        assert (reply.code, reply.body) == (200, b"0123456789")
        assert reply["Content-Type"] == "application/pdf"
        assert reply["Content-Disposition"] == "attachment"
        assert reply["Set-Cookie"] == "a=b"
        assert reply["Content-Length"] == "10"
        assert header.lower() not in reply.fields
        assert (body.read, body.closed) == (0, 1)


def test_the_file_is_a_wrapper_that_the_kernel_can_send(root: Path) -> None:
    def lazily(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [PDF, ("X-Accel-Redirect", "/protected/a.txt")])
        yield b""

    for app in (names("X-Accel-Redirect", "/protected/a.txt"), lazily):
        body = SentFiles(app, [("/protected", str(root))])(environ_of("/"), lambda status, headers: print)
        assert type(body) is FileWrapper
        assert body.region() is not None
        body.close()


def test_ranges_and_preconditions_are_honoured_as_for_any_file(root: Path) -> None:
    app = names("X-Accel-Redirect", "/protected/a.txt", ("Set-Cookie", "a=b"))
    part = send(root, app, range="bytes=2-3")
    assert (part.code, part.body, part["Content-Range"]) == (206, b"23", "bytes 2-3/10")
    again = send(root, app, if_none_match=part["ETag"])
    assert (again.code, again["Set-Cookie"], again["Content-Type"]) == (304, "a=b", "")
    assert send(root, app, range="bytes=99-").code == 416
    head = send(root, app, "HEAD")
    assert (head.code, head["Content-Length"], head.body) == (200, "10", b"")
    assert send(root, app, "POST", range="bytes=2-3").body == b"0123456789", "no range for a POST"


def test_validators_of_the_app_win_over_those_of_the_file(root: Path) -> None:
    app = names("X-Accel-Redirect", "/protected/a.txt", ("ETag", '"app"'), ("Last-Modified", OLD_DATE))
    assert send(root, app)["ETag"] == '"app"'
    assert send(root, app, if_none_match='"app"').code == 304
    assert send(root, app, range="bytes=0-0", if_range='"app"').code == 206


def test_a_status_other_than_200_is_kept_with_the_whole_file(root: Path) -> None:
    reply = send(root, names("X-Accel-Redirect", "/protected/a.txt", status="403 Forbidden"), range="bytes=2-3")
    assert (reply.code, reply.body) == (403, b"0123456789")


def test_flask_s_send_file_names_a_file_with_ranges_and_all(root: Path) -> None:
    site = Flask(__name__)
    site.config["USE_X_SENDFILE"] = True
    site.add_url_rule("/x", "x", lambda: send_file(str(root / "a.txt"), conditional=True))
    whole = send(root, site)
    assert (whole.code, whole.body, whole["X-Sendfile"]) == (200, b"0123456789", "")
    part = send(root, site, range="bytes=2-3")
    assert (part.code, part.body, part["Content-Range"]) == (206, b"23", "bytes 2-3/10")
    assert send(root, site, range="bytes=2-3", if_range='"other"').body == b"0123456789"
    assert send(root, site, if_none_match=whole["ETag"]).code == 304


def test_a_type_is_found_where_the_app_gave_none(root: Path) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-Accel-Redirect", "/protected/a.txt")])
        return []

    reply = call(SentFiles(app, [("/protected", str(root))]), environ_of("/"))
    assert reply["Content-Type"] == "text/plain; charset=utf-8"


def test_an_accel_uri_is_decoded_once_and_a_sendfile_path_not_at_all(root: Path) -> None:
    put(root / "ä b?.txt", b"spaced")
    put(root / "%41.txt", b"percent")
    for header, path, body in (
        ("X-Accel-Redirect", "/protected/%C3%A4%20b%3F.txt?x=1", b"spaced"),
        ("X-Accel-Redirect", "/protected/ä b%3F.txt".encode().decode("latin-1"), b"spaced"),
        ("X-Accel-Redirect", "/protected/%2541.txt", b"percent"),
        ("X-Accel-Redirect", "/protected//./a.txt", b"0123456789"),
        ("X-Sendfile", f"{root}/ä b?.txt".encode().decode("latin-1"), b"spaced"),
        ("X-Sendfile", f"{root}/%41.txt", b"percent"),
        ("X-Sendfile", f"{root}//./a.txt", b"0123456789"),
    ):
        assert send(root, names(header, path)).body == body, (header, path)


def test_a_path_is_found_below_the_folder_as_it_resolves(root: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("root")
    app = SentFiles(names("X-Sendfile", str(root / "a.txt")), [("/protected", str(tmp_path / "current"))])
    assert ask(app, "/").body == b"0123456789"


@pytest.mark.parametrize(
    ("header", "path", "code"),
    [
        ("X-Accel-Redirect", "/protected/none.txt", 404),
        ("X-Accel-Redirect", "/protected/css", 404),
        ("X-Accel-Redirect", "/protected/out.txt", 404),
        ("X-Accel-Redirect", "/protected/outdir/secret.txt", 404),
        ("X-Accel-Redirect", "/protected", 500),
        ("X-Accel-Redirect", "/protected/", 500),
        ("X-Accel-Redirect", "/protected-secret/secret.txt", 500),
        ("X-Accel-Redirect", "/protected/../outside/secret.txt", 500),
        ("X-Accel-Redirect", "/protected/%2e%2e/outside/secret.txt", 500),
        ("X-Accel-Redirect", "/protected/..%2foutside/secret.txt", 500),
        ("X-Accel-Redirect", "/protected/css/../a.txt", 500),
        ("X-Accel-Redirect", "/protected/a.txt%00", 500),
        ("X-Accel-Redirect", "@named", 500),
        ("X-Accel-Redirect", "", 500),
        ("X-Sendfile", "{root}/../outside/secret.txt", 500),
        ("X-Sendfile", "{root}-secret/secret.txt", 500),
        ("X-Sendfile", "{root}", 500),
        ("X-Sendfile", "/etc/passwd", 500),
        ("X-Sendfile", "a.txt", 500),
        ("X-Sendfile", "{root}/\u20ac", 404),
    ],
)
def test_what_lies_outside_or_is_no_file_is_not_sent_and_said_in_one_line(
    root: Path, said: io.FileIO, header: str, path: str, code: int
) -> None:
    (root / "out.txt").symlink_to("../outside/secret.txt")
    (root / "outdir").symlink_to("../outside")
    app = SentFiles(names(header, path.format(root=root), ("Set-Cookie", "a=b")), [("/protected", str(root))])
    reply = call(app, environ_of("/"))
    assert (reply.code, reply["Set-Cookie"]) == (code, "")
    assert SECRET not in reply.body
    assert text_of(said).count("\n") == 1
    assert f"[error] app named a file outside of sendfile_folders header={header}" in text_of(said) or code == 404


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["X-Accel-Redirect", "X-Sendfile"]),
    st.lists(
        st.sampled_from(["..", "%2e%2e", "outside", "secret.txt", "outdir", "css", "", ".", "%2f", "\0", "a.txt"])
        | st.text(max_size=3)
    ),
)
@pytest.mark.usefixtures("said")
def test_no_path_leads_to_the_secret(root: Path, header: str, parts: list[str]) -> None:
    if not (root / "outdir").is_symlink():
        (root / "outdir").symlink_to("../outside")
    start = "/protected" if header == "X-Accel-Redirect" else str(root)
    app = SentFiles(names(header, f"{start}/{'/'.join(parts)}"), [("/protected", str(root))])
    assert SECRET not in call(app, environ_of("/")).body


# what names no file


def test_an_answer_without_these_headers_is_the_app_s_own_object(root: Path) -> None:
    for body in ([b"a"], (b"a",), FileWrapper(io.BytesIO(b"a"))):

        def app(environ: Any, start_response: Any, body: Any = body) -> Any:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return body

        assert SentFiles(app, [("/protected", str(root))])(environ_of("/"), lambda status, headers: print) is body


def test_a_lazy_app_that_names_no_file_is_passed_on_block_by_block(root: Path) -> None:
    body = Body(iter([b"", b"a", b"", b"b"]))

    def app(environ: Any, start_response: Callable[..., Any]) -> Any:
        def start() -> Iterator[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield from [b"", b"a", b"", b"b"]

        body.blocks = start()
        return body

    wrapped = SentFiles(app, [("/protected", str(root))])(environ_of("/"), lambda status, headers: print)
    assert body.read == 1, "no more than the server would have asked for"
    assert list(wrapped) == [b"", b"a", b"", b"b"]
    assert body.closed == 0
    wrapped.close()  # type: ignore[attr-defined]
    assert body.closed == 1


def test_a_lazy_app_that_raises_before_it_starts_is_closed_once(root: Path) -> None:
    def blocks() -> Iterator[bytes]:
        raise ValueError("broken")
        yield b""

    body = Body(blocks())
    with pytest.raises(ValueError, match="broken"):
        send(root, lambda environ, start_response: body)
    assert body.closed == 1


def test_a_lazy_app_that_names_a_file_is_closed_once_and_not_read_on(root: Path) -> None:
    body = Body(iter(()))

    def app(environ: Any, start_response: Callable[..., Any]) -> Any:
        def start() -> Iterator[bytes]:
            start_response("200 OK", [PDF, ("X-Sendfile", str(root / "a.txt"))])
            yield b"never sent"
            raise AssertionError("read on")

        body.blocks = start()
        return body

    assert send(root, app).body == b"0123456789"
    assert (body.read, body.closed) == (1, 1)


def test_write_still_works_and_is_forgotten_where_a_file_is_sent(root: Path) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        headers = [PDF] + ([("X-Sendfile", str(root / "a.txt"))] if environ["QUERY_STRING"] else [])
        write = start_response("200 OK", headers)
        write(b"written ")
        return [b"returned"]

    wrapped = SentFiles(app, [("/protected", str(root))])
    assert call(wrapped, environ_of("/")).body == b"written returned"
    assert call(wrapped, environ_of("/") | {"QUERY_STRING": "file"}).body == b"0123456789"


def test_an_error_after_a_file_was_named_replaces_it(root: Path) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [PDF, ("X-Sendfile", str(root / "a.txt"))])
        with pytest.raises(AssertionError, match="second time"):
            start_response("200 OK", [PDF])
        start_response("500 Oops", [PDF], (ValueError, ValueError("x"), None))
        return [b"sorry"]

    reply = call(SentFiles(app, [("/protected", str(root))]), environ_of("/"))
    assert (reply.code, reply.body) == (500, b"sorry")


def test_an_error_page_after_the_answer_began_names_no_file_and_leaks_no_header(root: Path) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [PDF])
        start_response("500 Oops", [PDF, ("X-Sendfile", str(root / "a.txt"))], (ValueError, ValueError("x"), None))
        return [b"sorry"]

    reply = call(SentFiles(app, [("/protected", str(root))]), environ_of("/"))
    assert (reply.code, reply.body, reply["X-Sendfile"]) == (500, b"sorry", "")


def test_what_is_no_list_of_headers_is_the_server_s_to_refuse(root: Path) -> None:
    seen: list[object] = []
    for headers in (None, [None], [()], ["abc"], [(1, 2)]):

        def app(environ: Any, start_response: Any, headers: Any = headers) -> list[bytes]:
            start_response("200 OK", headers)
            return []

        def start_response(status: str, headers: object) -> None:
            seen.append(headers)

        SentFiles(app, [("/protected", str(root))])(environ_of("/"), start_response)
    assert seen == [None, [None], [()], ["abc"], [(1, 2)]]
