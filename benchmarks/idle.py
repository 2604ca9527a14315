"""What a server costs that has nothing to do: idle workers, and connections that wait for their next request.

Knows a running server only by its pid and port.
"""

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import tree
from benchmarks.errors import InvalidRunError

_BOOT_S = 60.0
_SETTLED_SHARE = 0.2  # of the time that is watched, before it: the first ticks of a worker are not its usual ones
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PATIENCE_S = 10.0
_RESERVE = 200  # descriptors that are no connections
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, so that no port waits in TIME_WAIT


def cpu_us_per_s(root: int, workers: int, seconds: float) -> float:
    """CPU microseconds of the tree per second, once so many workers have booted."""
    end = time.monotonic() + _BOOT_S
    while len(tree.pids(root)) < workers + 1:
        if time.monotonic() > end:
            raise InvalidRunError(f"{len(tree.pids(root))} processes after {_BOOT_S:g} seconds")
        time.sleep(0.1)
    return _cpu(root, seconds)


def kib_per_connection(root: int, port: int, count: int) -> float:
    """What each of so many idle keep-alive connections adds to the memory of the tree."""
    with _held(port, 1):
        before = tree.pss_bytes(root)
    with _held(port, count) as connections:
        added = tree.pss_bytes(root) - before
        _check(connections)
    return added / count / 1024


def cpu_of_held(root: int, port: int, count: int, seconds: float) -> float:
    """CPU microseconds of the tree per second while it holds so many idle keep-alive connections."""
    with _held(port, count) as connections:
        used = _cpu(root, seconds)
        _check(connections)
    return used


def most_connections(wanted: int) -> int:
    """How many connections this process and a server can hold: both are bound by RLIMIT_NOFILE, raised if it can be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(wanted, most - _RESERVE)


def _cpu(root: int, seconds: float) -> float:
    tree.quiet_usage(root, give_up_s=_BOOT_S)
    time.sleep(seconds * _SETTLED_SHARE)
    begun, before = time.monotonic(), tree.usage(root)
    time.sleep(seconds)
    after, ended = tree.usage(root), time.monotonic()
    return tree.spent_ns(before, after) / 1e3 / (ended - begun)


@contextmanager
def _held(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, each after one answered request."""
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
            connections.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.sendall(_REQUEST)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise InvalidRunError(f"connection {len(connections)} got no answer")
        yield connections
    except OSError as error:
        raise InvalidRunError(f"connection {len(connections)}: {error}") from error
    finally:
        for connection in connections:
            connection.close()


def _check(connections: list[socket.socket]) -> None:
    """Make sure that all are still open: a server that closes them does not hold them."""
    closed = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            closed += connection.recv(4096) == b""
        except BlockingIOError:
            pass  # open, and silent
        except OSError:
            closed += 1
    if closed:
        raise InvalidRunError(f"the server closed {closed} of {len(connections)} idle connections")
