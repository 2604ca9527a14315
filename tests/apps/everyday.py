"""What every framework's site does every day, as checks that the sites' tests share; each site has the same routes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import requests

from tests.apps.clients import TIMEOUT_S, Held, assert_arrives_line_by_line, curl
from tests.harness import Server

Check = Callable[[Server, requests.Session, Path], None]


def page_is_served(server: Server, session: requests.Session, folder: Path) -> None:
    response = session.get(server.url + "/", timeout=TIMEOUT_S)
    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(len(response.content))
    assert response.headers["Content-Type"].startswith("text/html")
    assert " site</title>" in response.text


def head_is_the_page_without_its_body(server: Server, session: requests.Session, folder: Path) -> None:
    response = session.head(server.url + "/", timeout=TIMEOUT_S)
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0
    page_is_served(server, session, folder)  # on the same connection


def form_is_posted(server: Server, session: requests.Session, folder: Path) -> None:
    response = session.post(server.url + "/greet", data={"name": "Ada Lövelace & co"}, timeout=TIMEOUT_S)
    assert response.text == "Hello, Ada Lövelace & co!"
    assert curl("-d", "name=Grace", server.url + "/greet").stdout == "Hello, Grace!"


def file_is_uploaded(server: Server, session: requests.Session, folder: Path) -> None:
    content = os.urandom(2 << 20)
    digest = hashlib.sha256(content).hexdigest()
    told = {"name": "big.bin", "size": len(content), "sha256": digest}
    files = {"f": ("big.bin", content)}
    assert session.post(server.url + "/upload", files=files, timeout=TIMEOUT_S).json() == told
    (folder / "big.bin").write_bytes(content)
    assert digest in curl("-F", f"f=@{folder}/big.bin", server.url + "/upload").stdout


def chunked_body_is_read_whole(server: Server, session: requests.Session, folder: Path) -> None:
    pieces = [os.urandom(size) for size in (1, 1000, 70_000, 600_000)]
    content = b"".join(pieces)
    told = session.put(server.url + "/digest", data=iter(pieces), timeout=TIMEOUT_S).json()
    assert told == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def stream_arrives_line_by_line(server: Server, session: requests.Session, folder: Path) -> None:
    with Held(folder / "fifo") as held:
        response = session.get(f"{server.url}/stream?fifo={held.path}", stream=True, timeout=TIMEOUT_S)
        assert response.status_code == 200
        assert_arrives_line_by_line(response, held)


def redirect_leads_to_the_page(server: Server, session: requests.Session, folder: Path) -> None:
    response = session.get(server.url + "/old", timeout=TIMEOUT_S)
    assert [step.status_code for step in response.history] in ([302], [303])  # Bottle says 303 to HTTP/1.1
    assert response.url == server.url + "/"


def unknown_path_is_404_and_wrong_method_no_page(server: Server, session: requests.Session, folder: Path) -> None:
    assert session.get(server.url + "/nowhere", timeout=TIMEOUT_S).status_code == 404
    assert session.delete(server.url + "/greet", timeout=TIMEOUT_S).status_code in (404, 405)  # Pyramid: no view


def fault_is_500_and_in_some_log(server: Server, session: requests.Session, folder: Path) -> None:
    response = session.get(server.url + "/raise", timeout=TIMEOUT_S)
    assert response.status_code == 500
    assert "view failed" not in response.text
    server.wait_line("view failed")  # by wsgi.errors, or because the framework lets the server have it
    assert session.get(server.url + "/", timeout=TIMEOUT_S).status_code == 200


def one_connection_serves_many_requests(server: Server, session: requests.Session, folder: Path) -> None:
    ports = set()
    for path in ("/", "/nowhere", "/old"):
        session.get(server.url + path, timeout=TIMEOUT_S)
        session.post(server.url + "/greet", data={"name": "x" * 10_000}, timeout=TIMEOUT_S)
        ports.add(session.get(server.url + "/peer", timeout=TIMEOUT_S).text)
    assert len(ports) == 1


EVERYDAY: tuple[Check, ...] = (
    page_is_served, head_is_the_page_without_its_body, form_is_posted, file_is_uploaded, chunked_body_is_read_whole,
    stream_arrives_line_by_line, redirect_leads_to_the_page, unknown_path_is_404_and_wrong_method_no_page,
    fault_is_500_and_in_some_log, one_connection_serves_many_requests,
)  # fmt: skip
