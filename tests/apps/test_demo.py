"""The demo inspector, served by two workers, used with requests and curl."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.apps.clients import TIMEOUT_S, curl, new_session
from tests.harness import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(app="forkserve.apps.demo:app", workers=2, expect=['app raised request="GET /boom']) as serving:
        yield serving


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as fresh:
        fresh.headers["Accept"] = "application/json"
        yield fresh


def test_page_is_served_to_browsers_and_json_to_programs(server: Server, session: requests.Session) -> None:
    page = session.get(server.url + "/", headers={"Accept": "text/html,*/*;q=0.8"}, timeout=TIMEOUT_S)
    assert page.status_code == 200
    assert page.text.startswith("<!doctype html>")
    assert page.headers["Content-Length"] == str(len(page.content))
    assert session.get(server.url + "/", timeout=TIMEOUT_S).json()["request_line"] == "GET / HTTP/1.1"


def test_worker_generation_and_slot_are_told_by_the_server(server: Server, session: requests.Session) -> None:
    told = session.get(server.url + "/", timeout=TIMEOUT_S).json()
    assert told["worker"]["pid"] != os.getpid()
    assert isinstance(told["worker"]["generation"], int)
    assert told["worker"]["slot"] in (0, 1)
    assert told["server"].startswith("forkserve")


def test_path_query_and_headers_arrive_as_sent(server: Server, session: requests.Session) -> None:
    headers: dict[str, str | bytes] = {"X-Name": "Jürgen".encode(), "X-Twice": "a, b"}
    told = session.get(server.url + "/日本/%2F//x?q=%26&q=ü", headers=headers, timeout=TIMEOUT_S).json()
    assert told["environ"]["PATH_INFO"] == "/日本////x"
    assert told["query"] == {"q": ["&", "ü"]}
    assert told["headers"]["X-Name"] == "Jürgen"
    assert told["headers"]["X-Twice"] == "a, b"


def test_form_is_posted(server: Server, session: requests.Session) -> None:
    data = {"name": "Ada & Lövelace", "n": ["1", "2"], "empty": ""}
    told = session.post(server.url + "/form", data=data, timeout=TIMEOUT_S).json()
    assert told["form"] == {"name": ["Ada & Lövelace"], "n": ["1", "2"], "empty": [""]}
    assert told["faults"] == []


def test_files_are_uploaded_with_their_names_and_bytes(server: Server, session: requests.Session) -> None:
    contents = [os.urandom(5 << 20), b"", b"\r\n--not the boundary\r\n" * 5000]
    names = ["größe.bin", 'qu"ote.bin', "a;b='c'.bin"]
    files = [("f", pair) for pair in zip(names, contents, strict=True)]
    told = session.post(server.url + "/upload", data={"note": "three"}, files=files, timeout=TIMEOUT_S).json()
    assert told["form"] == {"note": ["three"]}
    assert told["faults"] == []
    assert [file["filename"] for file in told["files"]] == names
    assert [file["sha256"] for file in told["files"]] == [hashlib.sha256(c).hexdigest() for c in contents]


def test_chunked_body_is_read_whole(server: Server, session: requests.Session) -> None:
    pieces = [b"x" * size for size in (1, 10, 65_536, 100_000)]
    told = session.put(server.url + "/", data=iter(pieces), timeout=TIMEOUT_S).json()
    assert told["body"]["size"] == sum(map(len, pieces))
    assert told["body"]["sha256"] == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_stream_arrives_line_by_line(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/stream?n=2", stream=True, timeout=TIMEOUT_S)
    lines = response.iter_lines(chunk_size=1)
    assert next(lines).startswith(b"1 of 2")
    # The app sleeps a second between its lines: that the first came alone shows in the time that the second took.
    assert response.elapsed.total_seconds() < 0.9
    assert next(lines).startswith(b"2 of 2")
    assert list(lines) == []


def test_big_response_is_exact(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/big?kib=5000", timeout=TIMEOUT_S)
    assert response.headers["Content-Length"] == str(5000 * 1024)
    lines = response.content.splitlines(keepends=True)
    assert [(int(line[:12]), len(line)) for line in lines] == [(number, 1024) for number in range(5000)]


def test_head_has_the_headers_of_get_and_no_body(server: Server, session: requests.Session) -> None:
    response = session.head(server.url + "/big?kib=5000", timeout=TIMEOUT_S)
    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(5000 * 1024)
    assert response.content == b""
    assert session.get(server.url + "/sleep?s=0", timeout=TIMEOUT_S).text.startswith("slept 0 s")


def test_exception_before_the_response_is_a_500_and_a_traceback_in_the_error_log(
    server: Server, session: requests.Session
) -> None:
    response = session.get(server.url + "/boom", timeout=TIMEOUT_S)
    assert response.status_code == 500
    assert "as asked" not in response.text
    server.wait_line("RuntimeError: boom, as asked")
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def test_exception_amid_the_response_leaves_it_visibly_unfinished(server: Server, session: requests.Session) -> None:
    response = session.get(server.url + "/boom?after=1", stream=True, timeout=TIMEOUT_S)
    assert response.status_code == 200
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        response.content  # noqa: B018 - reading it is what fails
    server.wait_line("RuntimeError: boom after chunk 1, as asked")
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def test_number_out_of_range_is_refused(server: Server, session: requests.Session) -> None:
    assert session.get(server.url + "/sleep?s=soon", timeout=TIMEOUT_S).status_code == 400


def test_body_that_the_app_leaves_unread_does_not_disturb_the_next_request(
    server: Server, session: requests.Session
) -> None:
    assert session.post(server.url + "/stream", data=b"x" * 100_000, timeout=TIMEOUT_S).status_code == 405
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def test_one_connection_serves_several_requests(server: Server, session: requests.Session) -> None:
    clients = {session.post(server.url + "/", data={"n": n}, timeout=TIMEOUT_S).json()["client"] for n in range(10)}
    assert len(clients) == 1


def test_curl_posts_a_form_and_uploads_files(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("from curl")
    address = server.url + "/?format=json"
    assert '"Grace"' in curl("-d", "name=Grace", address).stdout
    answer = curl("-F", "note=curl", "-F", f'f=@{tmp_path}/x.txt;filename="a\\"b.txt"', address).stdout
    assert hashlib.sha256(b"from curl").hexdigest() in answer
    assert r"a\"b.txt" in answer


def test_curl_is_told_to_continue_before_it_sends_a_large_body(server: Server, tmp_path: Path) -> None:
    content = os.urandom(2 << 20)
    (tmp_path / "large.bin").write_bytes(content)
    ran = curl("-v", "-T", f"{tmp_path}/large.bin", "-H", "Expect: 100-continue", server.url + "/?format=json")
    assert "< HTTP/1.1 100 Continue" in ran.stderr
    assert hashlib.sha256(content).hexdigest() in ran.stdout


def test_curl_over_http10_gets_the_whole_response(server: Server) -> None:
    answer = curl("--http1.0", server.url + "/?format=json").stdout
    assert '"request_line": "GET /?format=json HTTP/1.0"' in answer
    assert len(curl("--http1.0", server.url + "/big?kib=300").stdout) == 300 * 1024
