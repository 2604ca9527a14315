"""A real Flask site, served by two workers, used with requests and curl."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.apps.clients import TIMEOUT_S, Held, assert_arrives_line_by_line, curl, new_session
from tests.apps.sites import flask_site
from tests.harness import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(app="tests.apps.sites.flask_site:app", workers=2) as serving:
        yield serving


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as fresh:
        yield fresh


def test_page_of_a_template_is_served(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/", timeout=TIMEOUT_S)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Length"] == str(len(response.content))
    assert "<title>Flask &lt;site&gt;</title>" in response.text


def test_form_is_posted(server: Server, session: requests.Session) -> None:
    response = session.post(server.url + "/greet", data={"name": "Ada & Lövelace"}, timeout=TIMEOUT_S)
    assert response.status_code == 200
    assert response.text == "<p>Hello, Ada &amp; Lövelace!</p>"


def test_missing_form_field_is_the_sites_400(server: Server, session: requests.Session) -> None:
    assert session.post(server.url + "/greet", data={}, timeout=TIMEOUT_S).status_code == 400


def test_files_are_uploaded_with_their_names_and_bytes(server: Server, session: requests.Session) -> None:
    large = os.urandom(3 << 20)
    files = [("f", ("größe.bin", large)), ("f", ("empty.txt", b""))]
    response = session.post(server.url + "/upload", data={"note": "two"}, files=files, timeout=TIMEOUT_S)
    assert response.json() == {
        "note": "two",
        "files": [
            ["f", "größe.bin", len(large), hashlib.sha256(large).hexdigest()],
            ["f", "empty.txt", 0, hashlib.sha256(b"").hexdigest()],
        ],
    }


def test_chunked_body_is_read_whole(server: Server, session: requests.Session) -> None:
    pieces = [os.urandom(50_000) for _ in range(20)]
    response = session.put(server.url + "/digest", data=iter(pieces), timeout=TIMEOUT_S)
    assert response.request.headers["Transfer-Encoding"] == "chunked"
    assert response.json() == {"size": 1_000_000, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest()}


def test_first_chunk_arrives_before_the_second_is_made(
    server: Server, session: requests.Session, tmp_path: Path
) -> None:
    with Held(tmp_path / "fifo") as held:
        response = session.get(f"{server.url}/stream?fifo={held.path}", stream=True, timeout=TIMEOUT_S)
        assert response.status_code == 200
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert_arrives_line_by_line(response, held)


def test_file_is_sent_whole_in_part_and_not_at_all_where_unchanged(server: Server, session: requests.Session) -> None:
    content = Path(flask_site.__file__).read_bytes()
    whole = session.get(server.url + "/file", timeout=TIMEOUT_S)
    assert whole.content == content
    assert whole.headers["Content-Length"] == str(len(content))
    part = session.get(server.url + "/file", headers={"Range": "bytes=10-19"}, timeout=TIMEOUT_S)
    assert part.status_code == 206
    assert part.content == content[10:20]
    unchanged = session.get(server.url + "/file", headers={"If-None-Match": whole.headers["ETag"]}, timeout=TIMEOUT_S)
    assert unchanged.status_code == 304
    assert unchanged.content == b""
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def test_head_of_a_page_and_of_a_file_has_no_body(server: Server, session: requests.Session) -> None:
    for path in ("/", "/file"):
        get, head = (session.request(method, server.url + path, timeout=TIMEOUT_S) for method in ("GET", "HEAD"))
        assert head.status_code == 200
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
        assert head.content == b""


def test_redirect_leads_to_the_page(server: Server, session: requests.Session) -> None:
    assert session.get(server.url + "/old", allow_redirects=False, timeout=TIMEOUT_S).headers["Location"] == "/"
    response = session.get(server.url + "/old", timeout=TIMEOUT_S)
    assert [step.status_code for step in response.history] == [302]
    assert response.url == server.url + "/"


def test_cookie_session_counts_whichever_worker_answers(server: Server, session: requests.Session) -> None:
    counts = [session.get(server.url + "/visits", timeout=TIMEOUT_S).text for _ in range(6)]
    assert counts == ["1", "2", "3", "4", "5", "6"]


def test_one_connection_serves_several_requests(server: Server, session: requests.Session) -> None:
    ports = set()
    for path in ("/", "/nowhere", "/old", "/visits", "/file"):
        session.get(server.url + path, timeout=TIMEOUT_S)
        session.post(server.url + "/greet", data={"name": "x" * 10_000}, timeout=TIMEOUT_S)
        ports.add(session.get(server.url + "/peer", timeout=TIMEOUT_S).text)
    assert len(ports) == 1


def test_unknown_path_is_the_sites_404(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/nowhere", timeout=TIMEOUT_S)
    assert response.status_code == 404
    assert "The requested URL was not found" in response.text


def test_wrong_method_is_the_sites_405(server: Server, session: requests.Session) -> None:
    response = session.delete(server.url + "/greet", timeout=TIMEOUT_S)
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


def test_view_that_raises_is_a_500_with_its_traceback_in_the_error_log_alone(
    server: Server, session: requests.Session
) -> None:
    response = session.get(server.url + "/raise", timeout=TIMEOUT_S)
    assert response.status_code == 500
    assert "the Flask view failed" not in response.text
    server.wait_line("RuntimeError: the Flask view failed")  # Flask logs to wsgi.errors
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def test_curl_posts_a_form(server: Server) -> None:
    assert curl("-d", "name=Grace", server.url + "/greet").stdout == "<p>Hello, Grace!</p>"


def test_curl_uploads_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a b.bin").write_bytes(b"\0\r\n--x" * 1000)
    answer = curl("-F", "note=curl", "-F", f"f=@{tmp_path}/a b.bin", server.url + "/upload").stdout
    assert hashlib.sha256(b"\0\r\n--x" * 1000).hexdigest() in answer
    assert '"a b.bin"' in answer


def test_curl_is_told_to_continue_before_it_sends_a_large_body(server: Server, tmp_path: Path) -> None:
    content = os.urandom(2 << 20)
    (tmp_path / "large.bin").write_bytes(content)
    ran = curl("-v", "-T", f"{tmp_path}/large.bin", "-H", "Expect: 100-continue", server.url + "/digest")
    assert "< HTTP/1.1 100 Continue" in ran.stderr
    assert hashlib.sha256(content).hexdigest() in ran.stdout


def test_curl_over_http10_gets_a_stream_that_ends_with_its_connection(server: Server, tmp_path: Path) -> None:
    with Held(tmp_path / "fifo") as held:
        held.release(b"second\n")
        answer = curl("--http1.0", "-i", f"{server.url}/stream?fifo={held.path}").stdout
    head, _, body = answer.partition("\n\n")
    assert "Transfer-Encoding" not in head
    assert body == "first\nsecond\n"
