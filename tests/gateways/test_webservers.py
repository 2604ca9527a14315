"""forkserve behind nginx, Apache and HAProxy, with the files of docs/proxies: each protocol, what is promised of it.

Where a web server decides by itself, what it does is written down here: a new version that does otherwise shows.
"""

import hashlib
import os
import re
import signal
import threading
from collections import Counter
from functools import partial
from http.client import HTTPException, IncompleteRead
from pathlib import Path

import pytest

from tests.gateways.asking import CLIENT, ask, ask_chunked, connect, send
from tests.gateways.conftest import House
from tests.gateways.webservers import FRONTS, SHOWN, Front
from tests.harness import ROOT, wait_until
from tests.process.tools import status

every_front = pytest.mark.parametrize("front", FRONTS, ids=[front.name for front in FRONTS])
UPLOAD_BYTES = 50_000_000

# What each web server does with what is ambiguous, by itself.
MERGES_SLASHES = {"nginx/uwsgi", "nginx/fastcgi", "nginx/scgi", "apache/uwsgi", "apache/fastcgi", "apache/scgi"}
REFUSES_NUL = {"nginx/http": 400, "nginx/uwsgi": 400, "nginx/fastcgi": 400, "nginx/scgi": 400} | {
    f"apache/{protocol}": 404 for protocol in ("http", "uwsgi", "fastcgi", "scgi")
}
REFUSES_CHUNKS = {"apache/uwsgi": 411, "apache/scgi": 411}


@every_front
def test_the_app_learns_who_asks_for_what(house: House, front: Front) -> None:
    answer = ask(
        front, "/a%20b/%C3%A9?d=e%20f", Cookie="g=h", X_Thing="1",
        Proxy="http://evil", X_Forwarded_For="6.6.6.6", X_Forwarded_Proto="gopher", X_Forwarded_Host="evil",
        X_Forwarded_Port="6", X_Forwarded_Prefix="/evil", Forwarded="for=6.6.6.6",
        X_Real_IP="6.6.6.6",
    )  # fmt: skip
    environ = answer.json["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/a b/é".encode().decode("latin-1"))
    assert (environ["QUERY_STRING"], environ["REQUEST_URI"]) == ("d=e%20f", "/a%20b/%C3%A9?d=e%20f")
    assert (environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"]) == ("GET", "HTTP/1.1")
    assert environ["REMOTE_ADDR"] == CLIENT
    assert environ["wsgi.url_scheme"] == ("https" if front.tls else "http")
    assert ("HTTPS" in environ) == front.tls
    assert (environ["HTTP_HOST"], environ["HTTP_COOKIE"], environ["HTTP_X_THING"]) == ("shop.example", "g=h", "1")
    assert "HTTP_PROXY" not in environ
    if front.name in ("nginx/stream", "haproxy/proxy-v1", "haproxy/proxy-v2"):  # which pass bytes on
        assert environ["HTTP_X_REAL_IP"] == "6.6.6.6", "what the client says stays what it said"
    elif front.protocol not in ("uwsgi", "fastcgi", "scgi"):  # there no app goes by it
        assert environ.get("HTTP_X_REAL_IP", CLIENT) == CLIENT
    assert environ["SERVER_NAME"] and environ["SERVER_PORT"].isdigit()


@every_front
def test_an_upload_of_50_mb_arrives(house: House, front: Front) -> None:
    body = os.urandom(1000) * (UPLOAD_BYTES // 1000)
    answer = ask(front, "/digest", "POST", body)
    assert answer.text == f"{UPLOAD_BYTES} {hashlib.md5(body).hexdigest()}"


@every_front
def test_a_chunked_upload_arrives_or_is_refused(house: House, front: Front) -> None:
    pieces = [b"x" * 1000] * 10
    answer = ask_chunked(front, "/digest", pieces)
    if front.name in REFUSES_CHUNKS:
        assert answer.status == REFUSES_CHUNKS[front.name]
    else:
        assert answer.text == f"10000 {hashlib.md5(b''.join(pieces)).hexdigest()}"
        assert ask_chunked(front, "/", pieces).json["environ"]["CONTENT_LENGTH"] == "10000"


@every_front
def test_a_response_is_passed_on_while_it_is_made(house: House, front: Front) -> None:
    fifo = house.folder / f"fifo-{front.name.replace('/', '-')}"
    os.mkfifo(fifo)
    connection = connect(front)
    try:
        send(connection, f"/two?{fifo}")
        with connection.getresponse() as response:
            assert response.readline() == b"first\n"  # though the second is not made before we let it
            fifo.open("w").close()
            assert response.read() == b"second\n"
    finally:
        connection.close()


@every_front
@pytest.mark.parametrize("path", ["/", "/stream?3", "/large?100000", "/empty"])
def test_head_has_no_body_and_the_connection_goes_on(house: House, front: Front, path: str) -> None:
    connection = connect(front)
    try:
        for method in ("HEAD", "GET"):
            send(connection, path, method)
            with connection.getresponse() as response:
                assert response.status in (200, 204)
                body = response.read()
                assert (body == b"") == (method == "HEAD" or path == "/empty")
    finally:
        connection.close()


@every_front
def test_faults_of_the_app_reach_the_client(house: House, front: Front) -> None:
    answer = ask(front, "/raise")
    assert (answer.status, answer.text) == (500, "500 Internal Server Error\n")
    assert ask(front, "/empty").status == 204


@every_front
def test_a_response_that_breaks_off_does_not_look_whole(house: House, front: Front) -> None:
    with pytest.raises(IncompleteRead):
        ask(front, "/breaks")
    if front.name != "apache/scgi":  # which forgets the length
        with pytest.raises(IncompleteRead):
            ask(front, "/short")


@every_front
def test_a_client_that_leaves_ends_the_response(house: House, front: Front) -> None:
    written = house.folder / f"left-{front.name.replace('/', '-')}"
    connection = connect(front)
    try:
        send(connection, f"/endless?{written}")
        with connection.getresponse() as response:
            assert response.read(100_000)
    finally:
        connection.close()
    wait_until(lambda: written.exists() and written.read_text(), "the end of the body")
    assert int(written.read_text()) > 0  # not to its end


@every_front
def test_an_encoded_slash_is_a_slash_to_the_app(house: House, front: Front) -> None:
    environ = ask(front, "/a%2Fb").json["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["REQUEST_URI"]) == ("", "/a/b", "/a%2Fb")


@every_front
def test_double_slashes_are_kept_or_merged_by_the_web_server(house: House, front: Front) -> None:
    environ = ask(front, "/a//b").json["environ"]
    assert environ["PATH_INFO"] == ("/a/b" if front.name in MERGES_SLASHES else "/a//b")
    assert (environ["SCRIPT_NAME"], environ["REQUEST_URI"]) == ("", "/a//b")


@every_front
@pytest.mark.parametrize(
    ("target", "path"), [("/a%25b", "/a%b"), ("/a%3Fb?c", "/a?b"), ("/a;b=c", "/a;b=c"), ("/a+b", "/a+b")]
)
def test_a_path_is_decoded_once(house: House, front: Front, target: str, path: str) -> None:
    assert ask(front, target).json["environ"]["PATH_INFO"] == path


@every_front
def test_an_encoded_nul_is_refused_or_reaches_the_app_as_one(house: House, front: Front) -> None:
    answer = ask(front, "/a%00b")
    if front.name in REFUSES_NUL:
        assert answer.status == REFUSES_NUL[front.name]
    else:
        assert answer.json["environ"]["PATH_INFO"] == "/a\0b"


@every_front
def test_a_header_of_7_kb_arrives_and_one_of_60_kb_is_refused(house: House, front: Front) -> None:
    assert len(ask(front, "/", X_Long="x" * 7000).json["environ"]["HTTP_X_LONG"]) == 7000
    answer = ask(front, "/", X_Long="x" * 60_000)
    assert answer.status == (431 if front.protocol in ("stream", "proxy") else 400)


def test_static_files_come_from_the_web_server(house: House) -> None:
    for front in FRONTS:
        if "/static/" in front.file.read_text():
            answer = ask(front, "/static/style.css")
            assert (answer.status, answer.text) == (200, "body { }\n"), front.name
            assert ask(front, "/static/nothing").status == 404


def test_a_client_without_tls_is_sent_to_https(house: House) -> None:
    front = Front("nginx/http")
    front.ports = next(known.ports for known in FRONTS if known.name == "nginx/http")
    answer = ask(front, "/a?b")
    assert (answer.status, answer.headers["Location"]) == (308, "https://shop.example/a?b")


def _all_went_on(answers: Counter[str], before: Counter[str]) -> bool:
    return all(answers[front.name] > before[front.name] + 20 for front in FRONTS)


def test_reloads_under_load_fail_nobody(house: House) -> None:
    answers: Counter[str] = Counter()
    failures: list[str] = []
    over = threading.Event()

    def load(front: Front) -> None:
        while not over.is_set():
            try:
                connection = connect(front)
                for number in range(20):
                    if number % 4:
                        send(connection, "/generation")
                    else:
                        send(connection, "/digest", "POST", Content_Length="1000")
                        connection.send(b"x" * 1000)
                    with connection.getresponse() as response:
                        body = response.read()
                        assert response.status == 200, f"{response.status} {body[:100]!r}"
                    answers[front.name] += 1
                connection.close()
            except (OSError, HTTPException, AssertionError) as error:
                failures.append(f"{front.name}: {error!r}")

    threads = [threading.Thread(target=load, args=(front,)) for front in FRONTS]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            for server in (house.plain, house.proxied):
                done = len(server.lines("reload done"))
                server.signal(signal.SIGHUP)
                server.wait_line("reload done", done + 1)
            wait_until(partial(_all_went_on, answers, Counter(answers)), "answers of all")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert ask(FRONTS[0], "/generation").text.split()[0] >= "4"


def test_haproxy_finds_the_service_healthy(house: House) -> None:
    for front in FRONTS:
        if front.server == "haproxy":
            assert "check" in front.file.read_text()
            said = (house.folder / front.name.replace("/", "-") / "output").read_text()
            assert "is DOWN" not in said, said


def test_workers_hold_no_connection_nor_memory_of_what_has_passed(house: House) -> None:
    for server in (house.plain, house.proxied):
        for pid in server.workers():
            assert int(status(pid, "VmRSS").split()[0]) < 120_000
            assert len(os.listdir(f"/proc/{pid}/fd")) < 100


def test_every_file_is_tested_and_shown() -> None:
    files = {str(path.relative_to(SHOWN)) for path in SHOWN.rglob("*.c*")}
    assert files == {f"{front.server}/{front.file.name}" for front in FRONTS}
    page = (ROOT / "docs" / "proxies.md").read_text()
    assert set(re.findall(r"\]\(proxies/([^)]+\.c\w+)\)", page)) == files
    for path in files:
        assert Path(SHOWN / path).read_text().strip() in page, f"{path} is shown otherwise than it is"
