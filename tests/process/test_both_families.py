"""`[::]:PORT` takes IPv4 too, unless that is bound beside it."""

import socket
from pathlib import Path

import pytest

from tests.harness import Server

SITE = "tests.process.site:app"
BOTH = Path("/proc/sys/net/ipv6/bindv6only")


@pytest.fixture(autouse=True)
def kernel_that_takes_both() -> None:
    if not BOTH.exists() or BOTH.read_text().strip() != "0":
        pytest.skip("this kernel has no IPv6, or keeps the families apart")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_every_interface_of_ipv6_takes_ipv4_too() -> None:
    port = free_port()
    with Server(app=SITE, bind=[f"[::]:{port}"]) as s:
        for host in ("127.0.0.1", "[::1]"):
            assert s.get_at(f"{host}:{port}", "/pid").status == 200


def test_ipv6_alone_where_ipv4_is_bound_beside_it_in_either_order() -> None:
    for first in (0, 1):
        port = free_port()
        names = [f"[::]:{port}", f"0.0.0.0:{port}"]
        with Server(app=SITE, bind=[names[first], names[1 - first]]) as s:
            for host in ("127.0.0.1", "[::1]"):
                assert s.get_at(f"{host}:{port}", "/pid").status == 200
