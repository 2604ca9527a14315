"""The parts of benchmarks/ends.py: its judge tells each cut from whole, its clients notice how a peer ends."""

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import end_report, ends, report
from benchmarks.end_cases import ENDS, PROTOCOLS, SUBJECTS, Asked, Batch, Channel, Group, Protocol, asked, batches
from benchmarks.end_judge import End, Judged, Look, judge, judge_cache
from benchmarks.end_report import Results, is_wrong, markdown
from benchmarks.end_rig import Seen
from benchmarks.end_wire import Client, request
from tests.unit.gateways import decoder_for, feed

HTTP_1_0 = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwho\r\n2\r\nle\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CGI = b"Status: 200 OK\r\nServer: x\r\n\r\n"
FORKSERVE = SUBJECTS[0]
SILENT, KILLED = ENDS[2], ENDS[-1]


def fastcgi(content: bytes, *, ending: bytes | None = b"\0\0\0\0\0\0\0\0") -> bytes:
    """An answer in two STDOUT records, padded, and an END_REQUEST with this content."""

    def record(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBHHBx", 1, kind, 1, len(content), 3) + content + b"pad"

    half = len(content) // 2
    stream = record(6, content[:half]) + record(6, content[half:])
    return stream + (record(3, ending) if ending is not None else b"")


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (HTTP_1_0 + b"whole", End.CLOSED),
        (CGI + b"whole", End.CLOSED),
        (CHUNKED + b"0\r\n\r\n", End.CLOSED),
        # What its framing says to be whole is so, however the connection ends afterwards.
        (CHUNKED + b"0\r\n\r\n", End.RESET),
        (CHUNKED + b"0\r\n\r\n", End.RAGGED),
        (LENGTH + b"whole", End.CLOSED),
        (LENGTH + b"whole", End.RAGGED),
        (LENGTH + b"whole", End.OPEN),
    ],
)
def test_answer_that_is_whole_looks_whole(data: bytes, end: End) -> None:
    assert judge(data, end, b"whole").look is Look.WHOLE


@pytest.mark.parametrize(
    ("data", "end", "how"),
    [
        (HTTP_1_0 + b"who", End.RESET, "reset"),
        (HTTP_1_0 + b"who", End.RAGGED, "no close_notify"),
        (HTTP_1_0 + b"who", End.OPEN, "no end"),
        (HTTP_1_0 + b"whole", End.RESET, "reset"),  # nobody can know that it is
        (CGI + b"who", End.RESET, "reset"),
        (CHUNKED, End.CLOSED, "no last chunk"),
        (CHUNKED, End.RAGGED, "no last chunk"),
        (CHUNKED, End.RESET, "reset"),
        (CHUNKED + b"0\r\n", End.CLOSED, "no last chunk"),
        (CHUNKED + b"zz\r\n", End.CLOSED, "no last chunk"),
        (CHUNKED[:-4], End.CLOSED, "no last chunk"),
        (LENGTH + b"who", End.CLOSED, "short"),
        (LENGTH + b"who", End.RESET, "reset"),
        (HTTP_1_0.replace(b"200 OK", b"504 Gateway Timeout"), End.CLOSED, "status 504"),
        (HTTP_1_0[:-2], End.CLOSED, "no answer"),
        (b"", End.CLOSED, "no answer"),
        (b"", End.RESET, "reset"),
    ],
)
def test_cut_is_told_by_what_shows_it(data: bytes, end: End, how: str) -> None:
    assert judge(data, end, b"whole") == Judged(Look.CUT, how)


@pytest.mark.parametrize(
    "data",
    [
        HTTP_1_0 + b"who",
        CGI + b"",
        CHUNKED.replace(b"2\r\nle\r\n", b"0\r\n\r\n"),
        LENGTH.replace(b"5", b"3") + b"who",
        HTTP_1_0 + b"whale",
    ],
)
def test_part_that_ends_like_a_whole_answer_is_a_lie(data: bytes) -> None:
    assert judge(data, End.CLOSED, b"whole").look is Look.LIES


def test_fastcgi_is_whole_by_its_end_of_the_request_alone() -> None:
    def look(data: bytes, end: End = End.CLOSED) -> Look:
        return judge(data, end, b"whole", fastcgi=True).look

    assert look(fastcgi(CGI + b"whole")) is Look.WHOLE
    assert look(fastcgi(CGI + b"whole"), End.RESET) is Look.WHOLE
    assert look(fastcgi(CGI + b"who")) is Look.LIES
    assert judge(fastcgi(CGI + b"who", ending=None), End.CLOSED, b"whole", fastcgi=True).how == "no END_REQUEST"
    assert judge(fastcgi(CGI + b"who", ending=None), End.RESET, b"whole", fastcgi=True).how == "reset"
    assert look(fastcgi(CGI + b"whole", ending=b"\0\0\0\1\0\0\0\0")) is Look.CUT  # the app's status is not 0
    assert look(fastcgi(CGI + b"whole", ending=b"\0\0\0\0\2\0\0\0")) is Look.CUT  # FCGI_OVERLOADED
    assert look(fastcgi(CGI + b"whole")[:-8]) is Look.CUT


def kept(state: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Cache: %b\r\n\r\n%b" % (len(body), state.encode(), body)


@pytest.mark.parametrize(
    ("first", "second", "look"),
    [
        (Judged(Look.WHOLE, "whole"), kept("HIT", b"whole"), Look.WHOLE),
        (Judged(Look.WHOLE, "whole"), kept("MISS", b"w"), Look.CUT),
        (Judged(Look.CUT, "reset"), kept("HIT", b"who"), Look.LIES),
        (Judged(Look.LIES, "3 of 5 bytes"), kept("HIT", b"who"), Look.LIES),
        (Judged(Look.LIES, "3 of 5 bytes"), kept("MISS", b"w"), Look.LIES),
        (Judged(Look.CUT, "reset"), kept("MISS", b"w"), Look.CUT),
        (Judged(Look.CUT, "reset"), b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", Look.CUT),
        (Judged(Look.CUT, "reset"), b"", Look.CUT),
    ],
)
def test_cache_lies_where_it_keeps_a_part(first: Judged, second: bytes, look: Look) -> None:
    assert judge_cache(first, second, End.CLOSED, b"whole").look is look


def served(sock: socket.socket, do: Callable[[socket.socket], None]) -> threading.Thread:
    def serve() -> None:
        peer, _ = sock.accept()
        with peer:
            peer.recv(65536)
            do(peer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def reset(peer: socket.socket) -> None:
    peer.sendall(HTTP_1_0)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize(
    ("do", "end"), [(lambda peer: peer.sendall(HTTP_1_0), End.CLOSED), (reset, End.RESET)], ids=["closed", "reset"]
)
def test_client_notices_how_its_peer_ends(do: Callable[[socket.socket], None], end: End, reads: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = served(listener, do)
        client = Client(f"127.0.0.1:{listener.getsockname()[1]}", b"GET", reads=reads)
        assert client.begun.wait(20)
        thread.join()
        client.finish()
    assert client.end is end


def test_client_notices_bytes_that_its_peer_left_unread_at_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "it.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        client = Client(path, b"GET")
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(2) == b"GE"
            peer.sendall(HTTP_1_0)
        client.finish()
    assert (client.data, client.end) == (HTTP_1_0, End.RESET)


def test_client_gives_up_on_a_peer_that_goes_on_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def wait(peer: socket.socket) -> None:
            peer.sendall(HTTP_1_0)
            over.wait(20)

        thread = served(listener, wait)
        client = Client(f"127.0.0.1:{listener.getsockname()[1]}", b"GET", patience_s=0.1)
        client.finish()
        over.set()
        thread.join()
    assert (client.data, client.end) == (HTTP_1_0, End.OPEN)


@pytest.mark.parametrize("protocol", PROTOCOLS[3:6], ids=["uwsgi", "SCGI", "FastCGI"])
def test_requests_are_what_a_gateway_sends(protocol: Protocol) -> None:
    decoder = decoder_for(protocol.family)
    assert feed(decoder, request(protocol, "token=a&size=1")) is None
    ((environ, _, _),) = decoder.ready
    assert environ["QUERY_STRING"] == "token=a&size=1"
    environ["wsgi.input"].close()


def test_requests_of_http_close_their_connection() -> None:
    one, chunked = (request(protocol, "a=b") for protocol in PROTOCOLS[:2])
    assert one == b"GET /?a=b HTTP/1.0\r\nHost: ended\r\n\r\n"
    assert chunked == b"GET /?a=b HTTP/1.1\r\nHost: ended\r\nConnection: close\r\n\r\n"


def test_every_end_meets_every_protocol_transport_and_number_of_threads() -> None:
    for cached in (False, True):
        plain = 14 if cached else 12  # FastCGI over kept connections is nginx's only
        for tls in (False, True):
            cells = {
                (batch.end.name, batch.threads, one.channel.protocol.name, one.channel.transport)
                for batch in batches(FORKSERVE)
                for one in asked(batch)
                if (one.cached, one.channel.tls) == (cached, tls)
            }
            assert len(cells) == len(ENDS) * 2 * (3 if tls else plain)


def test_requests_of_a_run_have_names_of_their_own() -> None:
    for subject in SUBJECTS:
        for batch in batches(subject):
            tokens = [one.token for one in asked(batch)]
            assert len(set(tokens)) == len(tokens)
            assert batch.subject.workers(len(tokens), batch.threads) >= 2


def seen(look: Look, how: str = "reset", *, cached: bool = False, tls: bool = False, end: int = -1) -> Seen:
    channel = Channel(PROTOCOLS[0], "tcp", tls)
    batch = Batch(FORKSERVE, ENDS[end], 1, Group.TLS if tls else Group.HTTP)
    return Seen(batch, Asked(channel, cached=cached), Judged(look, how))


def test_control_is_wrong_where_it_is_not_whole_and_a_cut_where_it_looks_so() -> None:
    assert [is_wrong(seen(look, end=0)) for look in Look] == [False, True, True]
    assert [is_wrong(seen(look)) for look in Look] == [False, False, True]


def test_table_counts_variants_and_names_what_is_wrong() -> None:
    found = (
        seen(Look.CUT), seen(Look.CUT, "no close_notify", tls=True), seen(Look.LIES, "3 of 5 bytes"),
        seen(Look.CUT, cached=True), seen(Look.LIES, "the cache keeps 3 of 5 bytes", cached=True, tls=True),
        seen(Look.WHOLE, end=0), seen(Look.WHOLE, end=0, cached=True),
    )  # fmt: skip
    text = markdown(Results(("A machine.",), {FORKSERVE: "1.0"}, found, ("a run: not measured (why).",)))
    assert f"| {KILLED.title} | ✘ 1/3 · ✘ 1/2 |" in text
    assert f"| {ENDS[0].title} | ✔ 1 · ✔ 1 |" in text
    assert "| a cut is seen as | no close_notify, reset |" in text
    assert "- HTTP/1.0 tcp, a client: KILL (a part)" in text
    assert "- HTTP/1.0 tcp, over TLS, a cache: KILL (the cache keeps a part)" in text
    assert "- a run: not measured (why)." in text
    assert SILENT.title not in text


def test_page_has_a_place_for_the_table() -> None:
    page = Path(report.__file__).resolve().parent.parent / "docs" / "wsgi.md"
    assert "new" in report.replace_between_markers(page.read_text("utf-8"), "new", end_report.SECTION)


def test_program_that_is_missing_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ends.main(["--servers", "forkserve"]) == 2
    assert "nginx is missing: tests/gateways/install installs it" in capsys.readouterr().err
