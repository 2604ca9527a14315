"""A worker's loop at moments that a running server meets by chance: who comes, and when, is up to the app here.

Each loop lives in a child of its own, with real doors, connections and attendant; the test is its clients and its
master.
"""

import os
import re
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from forkserve.config.settings import Settings
from forkserve.net.address import parse
from forkserve.net.listener import bind_all
from forkserve.unix import signals
from forkserve.unix.bell import Bell
from forkserve.unix.channel import Channel
from forkserve.unix.messages import DOWN, UP, Leave, Serve, Stuck
from forkserve.unix.relay import Relay
from forkserve.unix.scoreboard import PID, SERVES, Scoreboard
from forkserve.worker.loop import Loop
from forkserve.worker.room import Room
from tests.harness import PATIENCE_S, read_to_end, wait_until
from tests.process.tools import one_request

BOUND_S = PATIENCE_S / 3  # for what may not happen at all, within the life of a child


class Bench:
    """A loop and what belongs to it; ``pages`` are called by their paths, while the requests for them run."""

    def __init__(self, pages: dict[str, Callable[[], None]]) -> None:
        [self.listener] = bind_all([parse("127.0.0.1:0")], backlog=16)
        self.relay = Relay()
        board = Scoreboard()
        for slot, serves in ((0, 0), (1, 1)):  # the other one has time
            board.row(slot).ints[PID], board.row(slot).ints[SERVES] = slot + 1, serves
        self._master, channel = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self._pages = pages
        self.bell = Bell()
        self.loop = Loop(
            self._app, Settings(keepalive=60, workers=2), [self.listener], channel, signals.Wakeup(()),
            board.row(0), board.siblings(0), self.relay, None, self.bell, Bell(),
            generation=1, slot=0, access=None, spool=Room(), title=lambda text: None,
        )  # fmt: skip

    def client(self, path: str = "", *, close: bool = False) -> socket.socket:
        """Connect, and ask for ``path``."""
        sock = socket.create_connection(self.listener.socket.getsockname(), PATIENCE_S)
        if path:
            sock.sendall(one_request(path, close))
        return sock

    def run(self) -> None:
        """Serve until a page says ``leave``."""
        self._master.send(DOWN.encode(Serve()))
        self.loop.run()

    def hears(self, word: Stuck) -> bool:
        """Whether the master hears this before long."""
        until = time.monotonic() + BOUND_S
        while select.select([self._master], [], [], max(0.0, until - time.monotonic()))[0]:
            if any(UP.decode(raw) == word for raw in self._master.receive()):
                return True
        return False

    def leave(self) -> None:
        """Order the loop's end, after whatever has come."""
        self._master.send(DOWN.encode(Leave(drain=True)))

    def _app(self, environ: Any, start_response: Any) -> list[bytes]:
        self.bell.ring()  # as the master would if it took longer
        self._pages[environ["PATH_INFO"]]()
        body = environ["PATH_INFO"].encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


def pages(client: socket.socket) -> list[str]:
    """The pages that this client has been given, when its connection has ended."""
    return re.findall(r"HTTP/1.1 200 OK\r\n.*?\r\n\r\n(/[a-z]*)", read_to_end(client).decode(), re.DOTALL)


def in_child(scenario: Callable[..., None], *given: Any) -> None:
    """Run a scenario and end, in a child: a loop's thread and handlers at forks stay as long as their process."""
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE_S))
        scenario(*given)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def test_connection_that_is_passed_on_amid_the_sweep_is_no_longer_overdue() -> None:
    in_child(_passed_on_amid_the_sweep)


def _passed_on_amid_the_sweep() -> None:
    """Both ``one`` and ``other`` are overdue and idle; the sweep finds that ``one`` has asked, and runs that."""
    held: dict[str, Any] = {}

    def make_overdue() -> None:
        held["connections"] = list(loop.connections.values())
        for connection in held["connections"]:
            connection.deadline = 0.0
        loop._sweep_at = 0.0
        one.sendall(one_request("/slow"))

    def slow() -> None:
        at_work.release()
        other.sendall(one_request("/last"))
        wait_until(lambda: held["connections"][1].fd < 0, "the other one to be passed on")

    bench = Bench({"/": lambda: None, "/slow": slow, "/overdue": make_overdue, "/last": lambda: bench.leave()})
    loop = bench.loop
    assert loop.attendant is not None
    at_work = loop.attendant._at_work
    at_work.acquire()  # until it has something to pass on amid the sweep
    one, other = bench.client("/"), bench.client("/")
    third = bench.client("/overdue", close=True)
    bench.run()
    assert [pages(client) for client in (one, other, third)] == [["/", "/slow"], ["/", "/last"], ["/overdue"]]


def test_promise_14_newcomer_behind_the_only_connection_does_not_wait_for_its_slow_request() -> None:
    in_child(_newcomer_behind_the_only_connection)


def _newcomer_behind_the_only_connection() -> None:
    """The kernel tells of the second request and of the newcomer at once."""
    newcomers: list[socket.socket] = []
    queued: list[bool] = []

    def first() -> None:
        only.sendall(one_request("/slow"))
        newcomers.append(bench.client("/new", close=True))

    def slow() -> None:
        assert len(bench.loop.connections) == 1
        queued.append(bench.hears(Stuck()))

    bench = Bench({"/first": first, "/slow": slow, "/new": lambda: bench.leave()})
    only = bench.client("/first")
    bench.run()
    assert queued == [True], "siblings were told to look while the request ran"
    assert pages(newcomers[0]) == ["/new"]
