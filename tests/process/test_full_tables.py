"""`worker_connections` is reached: who waits for a next request makes room, and nobody's request is reset."""

import threading
import time
from contextlib import ExitStack

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

FULL = "worker_connections is reached"

APP = """
import time

def app(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


def small(**settings: object) -> Server:
    s = Server(app="fresh_app:app", expect=[FULL], keepalive=60, **settings)  # type: ignore[arg-type]
    s.write_app(APP)
    return s


ASKED = 8  # by each client, which may have to wait for a place each time


class Browser:
    """A client that keeps its connection, and comes again when it was told to leave."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.stack = ExitStack()
        self.client = self.stack.enter_context(Client(server))
        self.answers = self.comings = 0

    def ask(self) -> None:
        reply = self.client.get("/?0.002").reply()
        assert (reply.code, reply.body) == (200, b"ok")
        self.answers += 1
        if reply.values("Connection") == ["close"]:
            self.comings += 1
            self.client = self.stack.enter_context(Client(self.server))


@pytest.mark.parametrize("relay", ["true", "false"])
@pytest.mark.parametrize("threads", [1, 3])
def test_more_active_clients_than_places_lose_no_request(threads: int, relay: str) -> None:
    failures: list[str] = []
    began = time.monotonic()

    def browse(browser: Browser) -> None:
        try:
            for number in range(ASKED):
                browser.ask()
                if number % 7 == 0:
                    time.sleep(0.02)  # a client that thinks: its next request comes when it likes
        except Exception as error:
            failures.append(repr(error))

    with small(workers=1, threads=threads, relay=relay, worker_connections=8) as s, ExitStack() as stack:
        browsers = [Browser(s) for _ in range(12)]
        for browser in browsers:
            stack.callback(browser.stack.close)
        clients = [threading.Thread(target=browse, args=(browser,)) for browser in browsers]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert failures == []
        assert sum(browser.answers for browser in browsers) == 12 * ASKED
        assert sum(browser.comings for browser in browsers) > 0, "they were asked to leave"
        assert 1 <= len(s.lines(FULL)) <= 1 + (time.monotonic() - began) // 60, "one line a minute"


def test_request_that_came_while_the_app_ran_is_served_before_its_place_is_given_away() -> None:
    # The slow one takes the last place but one: else an idle client would make room for it before it has asked again.
    with small(workers=1, relay="false", worker_connections=5) as s, ExitStack() as stack:
        kept = [stack.enter_context(Client(s)) for _ in range(3)]
        for client in kept:
            assert client.get("/").reply().code == 200
        time.sleep(0.4)  # they have been idle for long enough to be closed
        slow = stack.enter_context(Client(s)).get("/?1")
        for client in kept:
            client.get("/")  # stands unread behind the slow one
        newcomers = [stack.enter_context(Client(s)).get("/") for _ in range(3)]
        for client in [slow, *kept, *newcomers]:
            assert client.reply().code == 200


def test_newcomer_waits_while_everybody_is_at_work_and_one_line_says_so() -> None:
    with small(workers=1, threads=4, worker_connections=2) as s, ExitStack() as stack:
        busy = [stack.enter_context(Client(s)).get("/?1") for _ in range(2)]
        newcomer = stack.enter_context(Client(s)).get("/")
        for client in [*busy, newcomer]:
            assert client.reply().code == 200
        wait_until(lambda: s.lines(FULL), "the line")
