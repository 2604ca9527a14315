"""Promise 11 under a real systemd: USR2 replaces forkserve itself, and the service keeps its PID and its state."""

import json
import re
from types import TracebackType
from typing import Self

import pytest

from tests.harness import wait_until
from tests.systemd.box import HOME
from tests.systemd.service import Asking, Service, site

CALM_S = 0.5


def version(service: Service) -> str:
    """The version of forkserve that runs, as it says itself."""
    command = [f"{HOME}/venv/bin/forkservectl", "-s", "/run/forkserve/control", "status", "--json"]
    return str(json.loads(service.box.run(*command).stdout)["version"])


class Package:
    """The package that is installed in the box; after the block it is what it was."""

    def __init__(self, service: Service) -> None:
        [self._init] = service.box.path(f"{HOME}/venv/lib").glob("python3*/site-packages/forkserve/__init__.py")
        self._was = self._init.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._init.write_text(self._was)

    def install(self, number: str) -> None:
        """Put another version in its place."""
        self._init.write_text(re.sub("__version__ = .*", f'__version__ = "{number}"', self._was))

    def spoil(self) -> None:
        """Put one in its place that cannot run."""
        self._init.write_text("import nosuch\n")


@pytest.mark.parametrize("held_by", ["forkserve", "socket unit"])
def test_promise_11_upgrade_keeps_the_pid_and_loses_nothing(service: Service, held_by: str) -> None:
    if held_by == "socket unit":
        service.settle(without="bind")
        service.systemctl("start", "forkserve.socket")
    service.systemctl("start")
    pid = service.main_pid
    with Package(service) as package:
        with Asking(service, f"upgrade, sockets of {held_by}") as asking:
            asking.for_seconds(CALM_S)
            package.install("99.0")
            service.deploy(site("new"))
            service.kill("USR2")
            wait_until(lambda: service.show("StatusText") == "generation 2, 2 workers", "the upgrade")
            asking.for_seconds(CALM_S)
        assert version(service) == "99.0"
        assert (service.main_pid, service.show("ActiveState"), service.show("NRestarts")) == (pid, "active", "0")
        assert asking.answers[-1] == "site new"
        service.deploy(site("newer"))
        service.systemctl("reload")
        assert service.get() == "site newer"


def test_promise_11_upgrade_to_what_cannot_run_is_refused_and_all_serves_on(service: Service) -> None:
    service.systemctl("start")
    pid, old = service.main_pid, version(service)
    with Package(service) as package, Asking(service, "upgrade that is refused") as asking:
        package.spoil()
        service.kill("USR2")
        wait_until(lambda: "upgrade failed" in service.show("StatusText"), "the refusal in STATUS")
        asking.for_seconds(CALM_S)
    assert (service.main_pid, service.show("NRestarts"), version(service)) == (pid, "0", old)
    assert "No module named 'nosuch'" in service.journal()
    service.systemctl("reload")
    assert service.get() == "site old"
