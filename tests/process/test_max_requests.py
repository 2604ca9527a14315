"""`max_requests` is a limit: no worker answers more, whatever clients hold open, and nobody loses a request by it."""

import threading
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

APP = """
import os

def app(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

KINDS = [(1, True), (1, False), (3, True), (3, False)]
IDS = ["sync", "sync, no relay", "threads", "threads, no relay"]


def limited(**settings: object) -> Server:
    s = Server(app="fresh_app:app", max_requests_jitter=0, **settings)  # type: ignore[arg-type]
    s.write_app(APP)
    return s


def lives(pids: list[str]) -> list[int]:
    """How many requests each worker has answered, but for the last one."""
    return list(Counter(pids).values())[:-1]


def ask(client: Client) -> tuple[str, bool]:
    """Send one request; who has answered, and whether the connection stays."""
    reply = client.get("/").reply()
    assert reply.code == 200
    return reply.body.decode(), reply.values("Connection") != ["close"]


@pytest.mark.parametrize(("threads", "relay"), KINDS, ids=IDS)
@pytest.mark.parametrize("limit", [1, 5])
def test_worker_answers_as_many_as_its_limit_and_not_one_more(limit: int, threads: int, relay: bool) -> None:
    with limited(workers=1, threads=threads, relay=str(relay).lower(), max_requests=limit) as s:
        assert lives([s.get("/").text for _ in range(3 * limit + 1)]) == [limit] * 3


@pytest.mark.parametrize(("threads", "relay"), KINDS, ids=IDS)
def test_kept_connections_never_make_a_worker_pass_its_limit(threads: int, relay: bool) -> None:
    with limited(workers=1, threads=threads, relay=str(relay).lower(), max_requests=5) as s, ExitStack() as stack:
        clients = [stack.enter_context(Client(s)) for _ in range(3)]
        pids, closed = [], 0
        for number in range(21):
            place = number % 3
            pid, stays = ask(clients[place])
            pids.append(pid)
            if not stays:
                closed += 1
                assert clients[place].rest() == b""
                clients[place] = stack.enter_context(Client(s))
        assert max(Counter(pids).values()) <= 5
        assert len(set(pids)) >= 4
        assert closed == 0 if relay else closed > 0, "only what cannot move is told to come again"


@pytest.mark.parametrize("threads", [1, 3])
def test_pipeline_longer_than_the_limit_is_answered_in_order_by_several_workers(threads: int) -> None:
    with limited(workers=1, threads=threads, max_requests=5) as s, Client(s) as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(12)))
        replies = [client.reply() for _ in range(12)]
        assert {reply.code for reply in replies} == {200}
        assert list(Counter(reply.body for reply in replies).values()) == [5, 5, 2]


@pytest.mark.parametrize("relay", ["true", "false"])
def test_upload_that_has_begun_has_its_place(relay: str) -> None:
    with limited(workers=1, relay=relay, max_requests=3) as s, Client(s) as upload, Client(s) as other:
        [first] = s.workers()
        upload.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        wait_until(lambda: ask(other)[0] == str(first), "an answer, which comes after the upload's head was read")
        replies: list[str] = []
        clients = [threading.Thread(target=lambda: replies.append(s.get("/").text)) for _ in range(3)]
        for client in clients:
            client.start()
        s.wait_line("worker ready", count=1)
        wait_until(lambda: len(replies) >= 1, "what is left of the first worker's requests, and not more")
        assert replies.count(str(first)) <= 1
        upload.send(b"def")
        reply = upload.reply()
        assert (reply.code, reply.body) == (200, b"%d" % first)
        for client in clients:
            client.join()
    assert replies.count(str(first)) <= 1


@pytest.mark.parametrize("threads", [1, 2])
def test_limit_holds_for_many_clients_at_once_and_nobody_loses_a_request(threads: int) -> None:
    pids: list[str] = []
    failures: list[str] = []

    def go_on(s: Server) -> None:
        try:
            with ExitStack() as stack:
                client = stack.enter_context(Client(s))
                for _ in range(120):
                    pid, stays = ask(client)
                    pids.append(pid)
                    if not stays:
                        client = stack.enter_context(Client(s))
        except Exception as error:
            failures.append(repr(error))

    with limited(workers=2, threads=threads, max_requests=150) as s:
        clients = [threading.Thread(target=go_on, args=(s,)) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert failures == []
    assert len(pids) == 960
    assert max(Counter(pids).values()) <= 150


def test_limit_is_given_up_where_no_replacement_can_boot() -> None:
    expect = ["worker could not boot", "degraded", "max_requests is passed"]
    with limited(workers=1, max_requests=3, expect=expect) as s:
        [first] = s.workers()
        s.write_app("raise RuntimeError('half a deploy')")
        assert [s.get("/").text for _ in range(5)] == [str(first)] * 5
        s.wait_line("max_requests is passed")
        assert s.workers_from([first])
