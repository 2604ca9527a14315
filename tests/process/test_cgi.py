"""CGI both ways: a folder of programs as an app, and an app as a program that a web server starts. RFC 3875."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.harness import PATIENCE_S, ROOT, Server, clean_environ, read_to_end, wait_until
from tests.process.gateway_clients import read_request_end, variables
from tests.process.tools import lives
from tests.unit.gateways import fastcgi_request

SITE = "tests.process.gateway_site:app"
ENVIRON = f"""#!{sys.executable}
import json, os, sys
print("Content-Type: application/json")
print()
told = {{"environ": dict(os.environ), "body": sys.stdin.read(), "argv": sys.argv[1:], "cwd": os.getcwd()}}
json.dump(told, sys.stdout)
"""
PROGRAMS = {
    "environ": ENVIRON,
    "sub/environ": ENVIRON,
    "status": "#!/bin/sh\nprintf 'Status: 404 Nowhere\\r\\nContent-Type: text/plain\\r\\nX-A: b\\r\\n\\r\\ngone'\n",
    "away": "#!/bin/sh\nprintf 'Location: https://example.org/x\\n\\n'\n",
    "local": "#!/bin/sh\nprintf 'Location: /environ/there?a=b\\n\\n'\n",
    "circle": "#!/bin/sh\nprintf 'Location: /circle\\n\\n'\n",
    "complains": "#!/bin/sh\necho one >&2; printf 'two\\tthree' >&2; printf 'Content-Type: text/plain\\n\\nfine'\n",
    "hangs": "#!/bin/sh\nsleep 1000 &\necho $! > $HANGS; sleep 1000\n",
    "hangs-later": "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nbegun'; sleep 1000\n",
    "writes-on": "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'; exec cat /dev/zero\n",
    "long-head": "#!/bin/sh\nexec cat /dev/zero\n",
    "no-head": "#!/bin/sh\necho hello\n",
    "odd-head": "#!/bin/sh\nprintf 'Hello there\\n\\nbody'\n",
    "no-field": "#!/bin/sh\nprintf 'X-A: b\\n\\nbody'\n",
    "two-status": "#!/bin/sh\nprintf 'Status: 200 OK\\nStatus: 500 No\\n\\nbody'\n",
    "odd-length": "#!/bin/sh\necho $$ > $HANGS; printf 'Status: 200\\nContent-Length: x\\n\\n'; sleep 1000\n",
    "dies": "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nbegun'; kill -KILL $$\n",
    "silent": "#!/bin/sh\n",
    "cannot-run": "#!/no/such/interpreter\n",
    "nph-own": "#!/bin/sh\nprintf 'HTTP/1.1 200 OK\\r\\n\\r\\nown'\n",
    ".hidden": ENVIRON,
    "data": "no program",
    "app": f"#!/bin/sh\nexec env PYTHONPATH={ROOT} {sys.executable} -m forkserve.cgi {SITE}\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = "forkserve.apps.cgi:folder('cgi-bin', timeout=1.0, limit_output=1000000, variables={'HANGS': '%s'})"
    server = Server(app="x")
    folder = server.folder / "cgi-bin"
    server.app = server.command[-1] = made % (server.folder / "hangs.pid")
    server.expect = ["app raised"]
    for name, text in PROGRAMS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644 if name == "data" else 0o755)
    (server.folder / "outside").write_text(ENVIRON)
    (server.folder / "outside").chmod(0o755)
    (folder / "link").symlink_to("../outside")
    (folder / "up").symlink_to("..")
    with server:
        yield server


def test_a_program_gets_the_request(server: Server) -> None:
    with Client(server) as client:
        client.send(
            b"POST /sub/environ/more%20path//x?a=b+c HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\nProxy: http://evil\r\n"
            b"Authorization: Basic eDp5\r\nA-B: c\r\nContent-Length: 4\r\n\r\nbody"
        )
        told = json.loads(client.reply().body)
    environ = told["environ"]
    assert (told["body"], told["argv"]) == ("body", [])
    assert told["cwd"] == str(server.folder / "cgi-bin" / "sub")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/sub/environ", "/more path//x")
    assert environ["PATH_TRANSLATED"] == f"{server.folder}/cgi-bin/more path//x"
    assert (environ["QUERY_STRING"], environ["REQUEST_METHOD"], environ["CONTENT_LENGTH"]) == ("a=b+c", "POST", "4")
    assert (environ["CONTENT_TYPE"], environ["HTTP_A_B"], environ["GATEWAY_INTERFACE"]) == ("text/x", "c", "CGI/1.1")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1" and environ["REMOTE_ADDR"] == "127.0.0.1"
    strange = {"HTTP_PROXY", "HTTP_AUTHORIZATION", "PYTHONPATH", "HOME", "FORKSERVE_PIDFILE", "NOTIFY_SOCKET"}
    assert not strange & set(environ)


def test_query_words_are_no_arguments(server: Server) -> None:
    assert server.get("/environ?-s+-d").json["argv"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404), ("/nothing", 404), ("/sub", 404), ("/data", 403), ("/nph-own", 501), ("/.hidden", 404),
        ("/../outside", 404), ("/sub/../environ", 404), ("/%2e%2e/outside", 404), ("/link", 404), ("/up/outside", 404),
        ("//environ", 404), ("/environ/x%00", 400), ("/no-head", 502), ("/odd-head", 502), ("/no-field", 502),
        ("/two-status", 502), ("/silent", 502), ("/cannot-run", 500), ("/long-head", 502), ("/circle", 502),
        ("/status", 404), ("/hangs", 504),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_why(server: Server, path: str, status: int) -> None:
    assert server.get(path).status == status


def test_status_and_fields_are_the_programs(server: Server) -> None:
    answer = server.get("/status")
    assert (answer.status, answer.headers["X-A"], answer.text) == (404, "b", "gone")


def test_a_redirect_elsewhere_goes_to_the_client(server: Server) -> None:
    answer = server.get("/away")
    assert (answer.status, answer.headers["Location"]) == (302, "https://example.org/x")


def test_a_local_redirect_is_served_at_once(server: Server) -> None:
    with Client(server) as client:
        client.send(b"POST /local HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        told = json.loads(client.reply().body)
    environ = told["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/environ", "/there", "a=b")
    assert (environ["REQUEST_METHOD"], told["body"], "CONTENT_LENGTH" in environ) == ("GET", "", False)


def test_complaints_go_to_the_error_log_line_by_line(server: Server) -> None:
    assert server.get("/complains").text == "fine"
    server.wait_line("complains: one")
    server.wait_line("complains: two\\tthree")


def test_a_program_that_hangs_is_killed_with_its_children(server: Server) -> None:
    server.get("/hangs")
    pid = int((server.folder / "hangs.pid").read_text())
    wait_until(lambda: not lives(pid), "its child's end")


def test_a_program_whose_head_the_server_cannot_send_is_killed(server: Server) -> None:
    assert server.get("/odd-length").status == 500
    pid = int((server.folder / "hangs.pid").read_text())
    wait_until(lambda: not lives(pid), "its end")


def test_a_body_in_chunks_that_still_arrive_reaches_the_program() -> None:
    server = Server(app="forkserve.apps.cgi:folder('.')", stream_request_body=True)
    (server.folder / "environ").write_text(ENVIRON)
    (server.folder / "environ").chmod(0o755)
    with server, Client(server) as client:
        client.send(b"POST /environ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert client.reply().line == "HTTP/1.1 100 Continue"
        client.send(b"4\r\nbody\r\n0\r\n\r\n")
        told = json.loads(client.reply().body)
    assert (told["body"], told["environ"]["CONTENT_LENGTH"]) == ("body", "4")
    assert "HTTP_TRANSFER_ENCODING" not in told["environ"]


def test_a_cgi_program_refuses_a_body_whose_length_nobody_told() -> None:
    env = {**clean_environ(), **variables("/", "POST"), "HTTP_TRANSFER_ENCODING": "chunked"}
    env.pop("CONTENT_LENGTH", None)
    command = [sys.executable, "-m", "forkserve.cgi", SITE]
    done = subprocess.run(command, env=env, input=b"12345", capture_output=True, timeout=PATIENCE_S)
    assert done.stdout.startswith(b"Status: 411 Length Required\r\n")


def test_a_program_whose_end_nobody_can_tell_is_whole() -> None:
    server = Server(app="ignoring:app")
    server.write_app(
        "import signal\nfrom forkserve.apps.cgi import folder\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\napp = folder('cgi-bin')\n",
        "ignoring",
    )
    (server.folder / "cgi-bin").mkdir()
    (server.folder / "cgi-bin" / "status").write_text(PROGRAMS["status"])
    (server.folder / "cgi-bin" / "status").chmod(0o755)
    with server:
        assert (server.get("/status").status, server.get("/status").text) == (404, "gone")


@pytest.mark.parametrize("path", ["/hangs-later", "/writes-on", "/dies"])
def test_a_body_that_is_cut_does_not_look_whole(server: Server, path: str) -> None:
    raw = b""
    with server.connect() as sock:
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        try:
            while piece := sock.recv(65536):
                raw += piece
        except ConnectionResetError:
            pass
    assert raw.startswith(b"HTTP/1.1 200 ") and not raw.endswith(b"0\r\n\r\n") and len(raw) < 2_000_000


def test_an_app_is_a_cgi_program(server: Server) -> None:
    with Client(server) as client:
        client.send(b"POST /app/a%20b?c=d HTTP/1.1\r\nHost: x\r\nX-Y: z\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        told = json.loads(client.reply().body)
    environ = told["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], told["bytes"]) == ("/app", "/a b", 1000)
    assert (environ["HTTP_X_Y"], environ["QUERY_STRING"]) == ("z", "c=d")
    itself = server.get("/app").json["environ"]
    assert (itself["SCRIPT_NAME"], itself["PATH_INFO"]) == ("/app", "")
    assert server.get("/app/empty").status == 204
    assert len(server.get("/app/stream?300").body) == len(b"".join(b"%d\n" % n * 100 for n in range(300)))
    assert server.get("/app/raise").status == 500


def test_a_cgi_program_whose_body_is_cut_fails_the_read() -> None:
    env = {**clean_environ(), **variables("/", "POST", 10), "SCRIPT_NAME": "/x"}
    command = [sys.executable, "-m", "forkserve.cgi", SITE]
    done = subprocess.run(command, env=env, input=b"12345", capture_output=True, timeout=PATIENCE_S)
    assert done.stdout.startswith(b"Status: 500 Internal Server Error\r\n")
    assert b"the body ended before its CONTENT_LENGTH" in done.stderr


def test_an_app_that_cannot_be_imported_is_a_500_of_the_cgi_program() -> None:
    env = {**clean_environ(), **variables()}
    command = [sys.executable, "-m", "forkserve.cgi", "no_such_module_at_all"]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    assert done.stdout.startswith(b"Status: 500 Internal Server Error\r\n")
    assert (done.returncode, b"no_such_module_at_all" in done.stderr) == (3, True)


@pytest.mark.parametrize(("allowed", "is_served"), [("", True), ("127.0.0.1,192.0.2.1", True), ("192.0.2.1", False)])
def test_an_app_is_a_fastcgi_program_at_descriptor_0(allowed: str, is_served: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()
        env = clean_environ() | ({"FCGI_WEB_SERVER_ADDRS": allowed} if allowed else {})
        command = [sys.executable, "-m", "forkserve.cgi", "-w", "1", SITE]
        program = subprocess.Popen(
            command, env=env, stdin=listener.fileno(), stderr=subprocess.PIPE, start_new_session=True
        )
    try:
        with socket.create_connection(place) as sock:
            sock.settimeout(PATIENCE_S)
            if is_served:
                sock.sendall(fastcgi_request(variables("/pid"), keep=True))
                assert read_request_end(sock).status == "200 OK"
            else:
                assert read_to_end(sock) == b""
    finally:
        program.send_signal(signal.SIGTERM)
        said = program.communicate(timeout=PATIENCE_S)[1]
    assert program.returncode == 0, said
