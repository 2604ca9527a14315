"""A real Django site, served by two workers, used with requests and curl."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.apps.clients import TIMEOUT_S, Held, assert_arrives_line_by_line, curl, new_session
from tests.harness import Server

VIEWS = Path(__file__).parent / "sites/django_site/views.py"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(app="tests.apps.sites.django_site.wsgi:application", workers=2) as serving:
        yield serving


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as fresh:
        yield fresh


def token_of(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found, page
    return found.group(1)


def test_form_is_posted_with_the_token_of_its_page(server: Server, session: requests.Session) -> None:
    page = session.get(server.url + "/", timeout=TIMEOUT_S)
    assert page.status_code == 200
    assert "<title>Django site</title>" in page.text
    data = {"name": "Ada & Lövelace", "csrfmiddlewaretoken": token_of(page.text)}
    answer = session.post(server.url + "/", data=data, timeout=TIMEOUT_S)
    assert answer.status_code == 200
    assert "<p>Hello, Ada &amp; Lövelace!</p>" in answer.text


def test_form_without_the_token_is_refused(server: Server, session: requests.Session) -> None:
    session.get(server.url + "/", timeout=TIMEOUT_S)
    assert session.post(server.url + "/", data={"name": "Mallory"}, timeout=TIMEOUT_S).status_code == 403


def test_field_that_is_too_long_is_told_by_the_form(server: Server, session: requests.Session) -> None:
    page = session.get(server.url + "/", timeout=TIMEOUT_S)
    data = {"name": "x" * 21, "csrfmiddlewaretoken": token_of(page.text)}
    answer = session.post(server.url + "/", data=data, timeout=TIMEOUT_S)
    assert "at most 20 characters" in answer.text


def test_small_upload_stays_in_memory_and_a_large_one_is_spooled(server: Server, session: requests.Session) -> None:
    small, large = b"small", os.urandom(3 << 20)
    files = [("f", ("klein.txt", small)), ("f", ("größe.bin", large))]
    response = session.post(server.url + "/upload", data={"note": "two"}, files=files, timeout=TIMEOUT_S)
    assert response.json()["note"] == "two"
    digests = [hashlib.sha256(content).hexdigest() for content in (small, large)]
    # Django looks at the length of the whole request: with a large file in it every file is spooled.
    assert response.json()["files"] == [
        ["f", "klein.txt", len(small), digests[0], "TemporaryUploadedFile"],
        ["f", "größe.bin", len(large), digests[1], "TemporaryUploadedFile"],
    ]
    response = session.post(server.url + "/upload", files=files[:1], timeout=TIMEOUT_S)
    assert response.json()["files"] == [["f", "klein.txt", len(small), digests[0], "InMemoryUploadedFile"]]


def test_first_chunk_arrives_before_the_second_is_made(
    server: Server, session: requests.Session, tmp_path: Path
) -> None:
    with Held(tmp_path / "fifo") as held:
        response = session.get(f"{server.url}/stream?fifo={held.path}", stream=True, timeout=TIMEOUT_S)
        assert response.status_code == 200
        assert_arrives_line_by_line(response, held)


def test_file_is_sent_whole(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/file", timeout=TIMEOUT_S)
    assert response.content == VIEWS.read_bytes()
    assert response.headers["Content-Type"] == "text/x-python"
    assert response.headers["Content-Length"] == str(len(response.content))


def test_head_of_a_page_and_of_a_file_has_no_body(server: Server, session: requests.Session) -> None:
    for path in ("/visits", "/file"):
        response = session.head(server.url + path, timeout=TIMEOUT_S)
        assert response.status_code == 200
        assert int(response.headers["Content-Length"]) > 0
        assert response.content == b""


def test_redirect_leads_to_the_form(server: Server, session: requests.Session) -> None:
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
        # Refused before its body is read: what is left of it must not become the next request.
        assert session.post(server.url + "/", data={"name": "x" * 10_000}, timeout=TIMEOUT_S).status_code == 403
        ports.add(session.get(server.url + "/peer", timeout=TIMEOUT_S).text)
    assert len(ports) == 1


def test_unknown_path_is_the_sites_404(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/nowhere", timeout=TIMEOUT_S)
    assert response.status_code == 404
    assert "<h1>Not Found</h1>" in response.text


def test_host_that_the_site_does_not_know_is_its_400(server: Server, session: requests.Session) -> None:
    # CommonMiddleware asks for the host, which is the Host header of the client, not the server's own name.
    response = session.get(server.url + "/", headers={"Host": "elsewhere.test"}, timeout=TIMEOUT_S)
    assert response.status_code == 400


def test_view_that_raises_is_a_500_with_its_traceback_on_stderr_alone(
    server: Server, session: requests.Session
) -> None:
    response = session.get(server.url + "/raise", timeout=TIMEOUT_S)
    assert response.status_code == 500
    assert "the Django view failed" not in response.text
    assert "RuntimeError: the Django view failed" in server.said()  # the site logs to stderr
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def test_curl_uploads_a_large_file_after_100_continue(server: Server, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "large.bin").write_bytes(content)
    upload = ("-F", "note=curl", "-F", f"f=@{tmp_path}/large.bin")
    ran = curl("-v", *upload, "-H", "Expect: 100-continue", server.url + "/upload")
    assert "< HTTP/1.1 100 Continue" in ran.stderr
    assert hashlib.sha256(content).hexdigest() in ran.stdout
    assert "TemporaryUploadedFile" in ran.stdout


def test_curl_over_http10_gets_a_stream_that_ends_with_its_connection(server: Server, tmp_path: Path) -> None:
    with Held(tmp_path / "fifo") as held:
        held.release(b"second\n")
        answer = curl("--http1.0", "-i", f"{server.url}/stream?fifo={held.path}").stdout
    head, _, body = answer.partition("\n\n")
    assert "Transfer-Encoding" not in head
    assert body == "first\nsecond\n"
