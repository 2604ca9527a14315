"""LISTEN_FDS and LISTEN_PID as sd_listen_fds(3) has them."""

import os
import socket

import pytest

from forkserve.net import inherit
from forkserve.net.address import Address, Family


def handed_in(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[Address, ...]:
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = inherit.handed_in()
    assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(os.environ), "children would believe them too"
    return found


def test_descriptors_begin_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    found = handed_in(monkeypatch, LISTEN_FDS="2", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="a:b")
    assert found == (Address(Family.FD, fd=3), Address(Family.FD, fd=4))


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "0", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "two", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "²", "LISTEN_PID": "ours"},
    ],
)
def test_what_is_meant_for_another_process_or_makes_no_sense_is_ignored(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    ours = str(os.getpid())
    assert handed_in(monkeypatch, **{k: ours if v == "ours" else v for k, v in variables.items()}) == ()


def test_unwanted_sockets_are_closed_and_nothing_else() -> None:
    wanted, unwanted, internal = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
    gone = socket.socket()
    never_open = gone.detach()
    os.close(never_open)
    for handed in (wanted, unwanted):
        handed.set_inheritable(True)  # as after exec
    addresses = [
        Address(Family.FD, fd=fd) for fd in (wanted.fileno(), unwanted.fileno(), internal.fileno(), never_open)
    ]
    assert inherit.close_unwanted(addresses, addresses[:1]) == (addresses[1],)
    assert os.get_inheritable(wanted.fileno())
    with pytest.raises(OSError):
        os.fstat(unwanted.fileno())
    os.fstat(internal.fileno())  # LISTEN_FDS counted too many: this one is our own
    unwanted.detach()
    wanted.close()
    internal.close()
