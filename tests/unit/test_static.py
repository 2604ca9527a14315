"""forkserve/wsgi/static.py: what is served from folders, and how a request's fields decide."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkserve.errors import SettingsError
from forkserve.wsgi.files import FileWrapper
from forkserve.wsgi.static import StaticFiles
from tests.unit.files_client import OLD, OLD_DATE, Reply, ask, call, environ_of, make_site, put, says_app


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder that is served."""
    yield from make_site(tmp_path)


def get(root: Path, path: str, method: str = "GET", **fields: str) -> Reply:
    return ask(StaticFiles(says_app, [("/static", str(root))]), path, method, **fields)


# what is served


def test_a_file_is_answered_with_its_bytes_type_length_and_validators(root: Path) -> None:
    reply = get(root, "/static/a.txt")
    assert (reply.code, reply.body) == (200, b"0123456789")
    assert reply["Content-Type"] == "text/plain; charset=utf-8"
    assert reply["Content-Length"] == "10"
    assert reply["Last-Modified"] == OLD_DATE
    assert reply["ETag"].startswith('"')
    assert reply["Accept-Ranges"] == "bytes"
    assert reply["X-Content-Type-Options"] == "nosniff"


def test_the_body_is_a_file_wrapper_that_knows_its_region(root: Path) -> None:
    app = StaticFiles(says_app, [("/static", str(root))])
    body = app(environ_of("/static/a.txt", range="bytes=2-4"), lambda status, headers: print)
    assert type(body) is FileWrapper
    try:
        region = body.region()
        assert region is not None and region[1:] == (2, 3)
        assert os.pread(region[0], region[2], region[1]) == b"234"
        assert b"".join(body) == b"234", "reading yields the same"
    finally:
        body.close()


def test_head_is_answered_as_get_without_the_body(root: Path) -> None:
    got, head = get(root, "/static/a.txt"), get(root, "/static/a.txt", "HEAD", range="bytes=0-1")
    assert (head.code, head.body) == (200, b"")
    assert head.fields == got.fields


def test_an_empty_file_is_answered(root: Path) -> None:
    reply = get(root, "/static/empty.txt")
    assert (reply.code, reply["Content-Length"], reply.body) == (200, "0", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused_with_those_that_are_allowed(root: Path, method: str) -> None:
    for path in ("/static/a.txt", "/static/none"):
        reply = get(root, path, method)
        assert (reply.code, reply["Allow"]) == (405, "GET, HEAD")


def test_the_app_has_every_path_that_no_prefix_has(root: Path) -> None:
    for path in ("/", "/statics", "/static2/a.txt", "/stati", "/x/static/a.txt", "/Static/a.txt"):
        assert get(root, path).body == b"app", path
    assert get(root, "/x", "POST").body == b"app"


def test_a_missing_file_is_not_the_app_s(root: Path) -> None:
    assert get(root, "/static/none.txt").code == 404
    assert get(root, "/static/none/none.txt").code == 404
    assert get(root, "/static/a.txt/none").code == 404
    assert get(root, "/static/a.txt/").code == 404


def test_the_longest_prefix_wins_however_they_are_ordered(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "deep" / "a.txt", b"deep")
    maps = [("/static", str(root)), ("/static/deep/", str(tmp_path / "deep"))]
    for ordered in (maps, maps[::-1]):
        app = StaticFiles(says_app, ordered)
        assert ask(app, "/static/deep/a.txt").body == b"deep"
        assert ask(app, "/static/deep/site.css").code == 404
        assert ask(app, "/static/a.txt").body == b"0123456789"


def test_the_prefix_of_everything_leaves_to_the_app_what_it_has_not(root: Path) -> None:
    app = StaticFiles(says_app, [("/", str(root)), ("/css", str(root / "css"))])
    assert ask(app, "/a.txt").body == b"0123456789"
    assert ask(app, "/none.txt").body == b"app"
    assert ask(app, "/").body == b"app"
    assert ask(app, "/a.txt", "POST").body == b"app"
    assert ask(app, "/css/none.css").code == 404, "a longer prefix has decided"


def test_a_prefix_beyond_ascii_meets_the_bytes_of_its_path(root: Path) -> None:
    app = StaticFiles(says_app, [("/stätic", str(root))])
    put(root / "ä.txt", b"umlaut")
    assert ask(app, "/stätic/ä.txt".encode().decode("latin-1")).body == b"umlaut"


def test_a_folder_is_its_index_and_else_not_found(root: Path) -> None:
    put(root / "index.html", b"home")
    assert get(root, "/static/docs/").body == b"<h1>docs"
    assert get(root, "/static/").body == b"home"
    assert get(root, "/static/bare").code == 404
    assert get(root, "/static/bare/").code == 404


def test_a_folder_without_its_slash_redirects_to_where_relative_links_work(root: Path) -> None:
    (root / "a ü\\b").mkdir()
    put(root / "a ü\\b" / "index.html", b"x")
    assert (get(root, "/static/docs").code, get(root, "/static/docs")["Location"]) == (301, "/static/docs/")
    assert get(root, "/static/a ü\\b".encode().decode("latin-1"))["Location"] == "/static/a%20%C3%BC%5Cb/"
    app = StaticFiles(says_app, [("/", str(root))])
    environ = environ_of("/docs") | {"SCRIPT_NAME": "//evil.example", "QUERY_STRING": "a=b"}
    assert call(app, environ)["Location"] == "/evil.example/docs/?a=b", "never another host"
    assert ask(app, "//docs").body == b"app"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.html", "text/html; charset=utf-8"),
        ("x.css", "text/css; charset=utf-8"),
        ("x.js", "text/javascript; charset=utf-8"),
        ("x.MJS", "text/javascript; charset=utf-8"),
        ("x.json", "application/json"),
        ("x.js.map", "application/json"),
        ("x.webmanifest", "application/manifest+json"),
        ("x.wasm", "application/wasm"),
        ("x.woff2", "font/woff2"),
        ("x.svg", "image/svg+xml"),
        ("x.png", "image/png"),
        ("x.webp", "image/webp"),
        ("x.avif", "image/avif"),
        ("x.tar.gz", "application/gzip"),
        ("x.pdf", "application/pdf"),
        ("x.nosuchtype", "application/octet-stream"),
        ("README", "application/octet-stream"),
    ],
)
def test_the_type_follows_the_end_of_the_name(root: Path, name: str, kind: str) -> None:
    put(root / name, b"x")
    reply = get(root, f"/static/{name}")
    assert (reply["Content-Type"], reply["Content-Encoding"]) == (kind, "")


# preconditions and ranges


def test_a_copy_that_is_still_good_is_not_sent_again(root: Path) -> None:
    etag = get(root, "/static/a.txt")["ETag"]
    for fields in ({"if_none_match": f'"x", W/{etag}'}, {"if_none_match": "*"}, {"if_modified_since": OLD_DATE}):
        reply = get(root, "/static/a.txt", **fields)
        assert (reply.code, reply.body, reply["ETag"]) == (304, b"", etag), fields
        assert reply["Content-Type"] == reply["Content-Length"] == ""
        assert reply["Vary"] == "Accept-Encoding"


def test_a_copy_that_is_not_good_any_more_is_replaced(root: Path) -> None:
    for fields in (
        {"if_none_match": '"x"'},
        {"if_none_match": '"x"', "if_modified_since": OLD_DATE},
        {"if_modified_since": "Tue, 14 Nov 2023 22:13:19 GMT"},
        {"if_modified_since": "yesterday"},
    ):
        assert get(root, "/static/a.txt", **fields).code == 200, fields


def test_a_precondition_that_fails_is_412(root: Path) -> None:
    etag = get(root, "/static/a.txt")["ETag"]
    assert get(root, "/static/a.txt", if_match='"x"').code == 412
    assert get(root, "/static/a.txt", if_match=f"W/{etag}").code == 412, "the comparison is strong"
    assert get(root, "/static/a.txt", if_unmodified_since="Tue, 14 Nov 2023 22:13:19 GMT").code == 412
    assert get(root, "/static/a.txt", if_match=etag, if_unmodified_since="Tue, 14 Nov 2000 22:13:19 GMT").code == 200
    assert get(root, "/static/a.txt", if_unmodified_since=OLD_DATE).code == 200


RANGES = {
    "bytes=0-0": (206, b"0", "bytes 0-0/10"),
    "bytes=2-4": (206, b"234", "bytes 2-4/10"),
    "bytes=7-": (206, b"789", "bytes 7-9/10"),
    "bytes=0-": (206, b"0123456789", "bytes 0-9/10"),
    "bytes=8-99": (206, b"89", "bytes 8-9/10"),
    "bytes=-3": (206, b"789", "bytes 7-9/10"),
    "bytes=-99": (206, b"0123456789", "bytes 0-9/10"),
    "Bytes= 1-2 ": (206, b"12", "bytes 1-2/10"),
    "bytes=10-": (416, None, "bytes */10"),
    "bytes=99999999999999999999999-": (416, None, "bytes */10"),
    "bytes=-0": (416, None, "bytes */10"),
    "bytes=4-2": (200, b"0123456789", ""),
    "bytes=-": (200, b"0123456789", ""),
    "bytes=a-b": (200, b"0123456789", ""),
    "lines=1-2": (200, b"0123456789", ""),
    "bytes=0-1,4-5": (200, b"0123456789", ""),
    "bytes=\u0661-": (200, b"0123456789", ""),
}


@pytest.mark.parametrize("field", RANGES)
def test_range(root: Path, field: str) -> None:
    code, body, content_range = RANGES[field]
    reply = get(root, "/static/a.txt", range=field)
    assert (reply.code, reply["Content-Range"]) == (code, content_range)
    if body is not None:
        assert (reply.body, reply["Content-Length"]) == (body, str(len(body)))


def test_a_range_of_nothing(root: Path) -> None:
    assert get(root, "/static/empty.txt", range="bytes=0-").code == 416
    assert get(root, "/static/empty.txt", range="bytes=-5").code == 200


def test_a_range_is_sent_only_if_the_pieces_fit_together(root: Path) -> None:
    etag = get(root, "/static/a.txt")["ETag"]
    for validator, code in ((etag, 206), (OLD_DATE, 206), ('"x"', 200), (f"W/{etag}", 200), ("x", 200), ("", 200)):
        assert get(root, "/static/a.txt", range="bytes=1-2", if_range=validator).code == code, validator


def test_a_file_that_has_just_changed_has_no_strong_name_yet(root: Path) -> None:
    path = root / "new.txt"
    path.write_bytes(b"first")
    reply = get(root, "/static/new.txt")
    assert reply["ETag"].startswith('W/"')
    assert get(root, "/static/new.txt", if_none_match=reply["ETag"]).code == 304
    assert get(root, "/static/new.txt", range="bytes=1-2", if_range=reply["ETag"]).code == 200
    assert get(root, "/static/new.txt", range="bytes=1-2", if_range=reply["Last-Modified"]).code == 200
    os.utime(path, (OLD, OLD))
    assert get(root, "/static/new.txt", if_none_match=reply["ETag"]).code == 200


def test_every_change_gives_another_etag(root: Path) -> None:
    names = {get(root, "/static/a.txt")["ETag"]}
    put(root / "a.txt", b"0123456789", OLD + 0.5)
    names.add(get(root, "/static/a.txt")["ETag"])
    put(root / "a.txt", b"012345678", OLD)
    names.add(get(root, "/static/a.txt")["ETag"])
    put(root / "b.txt", b"987654321", OLD).rename(root / "a.txt")
    names.add(get(root, "/static/a.txt")["ETag"])
    assert len(names) == 4


def test_a_file_from_the_future_is_dated_now(root: Path) -> None:
    put(root / "a.txt", b"x", 4_000_000_000)
    assert "2096" not in get(root, "/static/a.txt")["Last-Modified"]


# compressed siblings


def test_the_best_sibling_that_the_client_takes_is_sent(root: Path) -> None:
    put(root / "css" / "site.css.gz", b"gzipped")
    put(root / "css" / "site.css.br", b"brotli!")
    for field, coding, body in (
        ("gzip, deflate, br, zstd", "br", b"brotli!"),
        ("gzip", "gzip", b"gzipped"),
        ("x-gzip", "gzip", b"gzipped"),
        ("br;q=0.5, gzip;q=0.8", "gzip", b"gzipped"),
        ("br;q=0, *", "gzip", b"gzipped"),
        ("*;q=0", "", b"body {}"),
        ("identity, gzip;q=0.5", "", b"body {}"),
        ("gzip;q=0", "", b"body {}"),
        ("gzip;q=2", "", b"body {}"),
        ("gzip;level=9", "", b"body {}"),
        ("", "", b"body {}"),
    ):
        reply = get(root, "/static/css/site.css", accept_encoding=field)
        assert (reply.body, reply["Content-Encoding"], reply["Vary"]) == (body, coding, "Accept-Encoding"), field
        assert reply["Content-Type"] == "text/css; charset=utf-8"
        assert reply["Content-Length"] == str(len(body))


def test_each_coding_has_an_etag_of_its_own_and_ranges_are_of_the_file_itself(root: Path) -> None:
    put(root / "a.txt.gz", b"gzipped")
    plain = get(root, "/static/a.txt")
    packed = get(root, "/static/a.txt", accept_encoding="gzip")
    assert plain["ETag"] != packed["ETag"]
    assert packed["Accept-Ranges"] == ""
    again = get(root, "/static/a.txt", accept_encoding="gzip", if_none_match=packed["ETag"])
    assert (again.code, again["ETag"]) == (304, packed["ETag"])
    assert get(root, "/static/a.txt", accept_encoding="gzip", if_none_match=plain["ETag"]).code == 200
    part = get(root, "/static/a.txt", accept_encoding="gzip", range="bytes=1-3")
    assert (part.code, part.body, part["Content-Encoding"], part["ETag"]) == (206, b"123", "", plain["ETag"])
    assert get(root, "/static/a.txt", accept_encoding="gzip", range="bytes=1-3", if_range=packed["ETag"]).code == 200


def test_a_sibling_serves_only_its_file_as_it_is_now(root: Path) -> None:
    put(root / "css" / "site.css.gz", b"forgotten", OLD - 1)
    (root / "css" / "site.css.br").mkdir()
    assert get(root, "/static/css/site.css", accept_encoding="br, gzip").body == b"body {}"
    put(root / "alone.css.gz", b"alone")
    assert get(root, "/static/alone.css", accept_encoding="gzip").code == 404
    put(root / "photo.png", b"png")
    put(root / "photo.png.gz", b"gzipped")
    reply = get(root, "/static/photo.png", accept_encoding="gzip")
    assert (reply.body, reply["Vary"]) == (b"png", ""), "what is packed already has no siblings"


def test_settings_that_cannot_be_meant_are_refused(root: Path) -> None:
    with pytest.raises(SettingsError, match="begin with a slash"):
        StaticFiles(says_app, [("static", str(root))])
