"""Sockets that systemd holds: nobody is refused before a start, during a restart, or when the master is killed.

Who was inside a worker when that was killed is lost with any server; who waited in a queue must not be.
"""

import pytest

from tests.harness import wait_until
from tests.systemd.service import Asking, Service, site

CALM_S = 0.5
# What a KILL to a worker does to the request that it runs, and to the connections that it holds.
CAUGHT = ("closed without an answer", "closed without an answer, kept", "reset", "reset, kept")


@pytest.fixture
def activated(service: Service) -> Service:
    """The service with its socket unit started, itself not: the first connection starts it."""
    service.settle(without="bind")
    service.systemctl("start", "forkserve.socket")
    return service


def test_promise_10_connections_made_before_the_start_are_answered(activated: Service) -> None:
    activated.deploy(site("old", boot_s=1.0))
    with Asking(activated, "start by the first connection (boot of 1 s)") as asking:
        wait_until(lambda: activated.show("ActiveState") == "active", "the start")
        asking.for_seconds(CALM_S)
    assert set(asking.answers) == {"site old"}


def test_promise_10_restart_with_a_socket_of_systemd_loses_nothing(activated: Service) -> None:
    activated.systemctl("start")
    pid = activated.main_pid
    with Asking(activated, "restart, socket unit") as asking:
        asking.for_seconds(CALM_S)
        activated.deploy(site("new"))
        activated.systemctl("restart")
        asking.for_seconds(CALM_S)
    assert set(asking.answers) == {"site old", "site new"}
    assert activated.main_pid != pid


def test_reload_with_a_socket_of_systemd_loses_nothing(activated: Service) -> None:
    activated.systemctl("start")
    with Asking(activated, "reload, socket unit") as asking:
        activated.deploy(site("new"))
        activated.systemctl("reload")
        assert activated.get() == "site new"
    assert asking.answers[-1] == "site new"


def test_named_socket_of_systemd_is_served_beside_one_of_our_own_over_restart_and_upgrade(service: Service) -> None:
    service.settle(bind=["fd://http", "unix:/run/forkserve/own.sock"])
    service.drop_in("[Socket]\nFileDescriptorName=http\n", unit="forkserve.socket")
    service.systemctl("start", "forkserve.socket", "forkserve.service")
    ask = ("curl", "--silent", "--fail", "--unix-socket", "/run/forkserve/own.sock", "http://localhost/")
    for change in ("restart", "upgrade"):
        service.deploy(site(change))
        with Asking(service, f"{change}, named socket of systemd and one of our own") as asking:
            if change == "restart":
                service.systemctl("restart")
            else:
                service.kill("USR2")
                wait_until(lambda: service.show("StatusText") == "generation 2, 2 workers", "the upgrade")
            assert service.get() == f"site {change}"
            assert service.box.run(*ask).stdout == f"site {change}"
        assert asking.answers[-1] == f"site {change}"


def test_address_in_bind_means_the_socket_that_systemd_holds_there(service: Service) -> None:
    service.systemctl("start", "forkserve.socket", "forkserve.service")
    with Asking(service, "restart, socket unit and bind of the same address"):
        service.systemctl("restart")
        assert service.get() == "site old"


def test_instance_runs_by_its_name_with_a_unix_socket_of_systemd(service: Service) -> None:
    box = service.box
    box.run("ln", "-sfn", "/srv/forkserve", "/srv/shop")
    box.write("/etc/forkserve/shop.toml", 'app = "site_app:app"\nworkers = 1\n')
    ask = ("curl", "--silent", "--fail", "--unix-socket", "/run/forkserve-shop.sock", "http://localhost/")
    try:
        service.systemctl("start", "forkserve@shop.socket", "forkserve@shop.service")
        assert box.run(*ask).stdout == "site old"
        service.deploy(site("new"))
        service.systemctl("reload", "forkserve@shop.service")
        assert box.run(*ask).stdout == "site new"
        users = box.run("systemctl", "show", "--property=User", "--value", "forkserve@shop.service").stdout
        assert users == "forkserve-shop\n"
    finally:
        service.systemctl("stop", "forkserve@shop.socket", "forkserve@shop.service")


@pytest.mark.parametrize("held_by", ["socket unit", "descriptor store"])
def test_promise_12_killed_master_comes_back_and_no_connection_is_refused(service: Service, held_by: str) -> None:
    if held_by == "socket unit":
        service.settle(without="bind")
        service.systemctl("start", "forkserve.socket")
    service.systemctl("start")
    pid = service.main_pid
    with Asking(service, f"master killed, {held_by}", may_fail=CAUGHT) as asking:
        asking.for_seconds(CALM_S)
        service.kill("KILL")
        service.wait_restarts(1)
        asking.for_seconds(CALM_S)
    assert service.main_pid != pid
    assert asking.answers[-1] == "site old"


def test_promise_12_unix_socket_of_a_killed_master_is_there_all_the_time(service: Service) -> None:
    service.settle(bind=["unix:/run/forkserve/http.sock"])
    service.systemctl("start")
    ask = ("curl", "--silent", "--fail", "--unix-socket", "/run/forkserve/http.sock", "http://localhost/")
    assert service.box.run(*ask).stdout == "site old"
    service.kill("KILL")
    wait_until(lambda: service.show("ActiveState") != "active", "the end of the master")
    assert service.box.run(*ask).stdout == "site old"  # waited in the queue
    service.wait_restarts(1)


def test_watchdog_restarts_a_stopped_master(activated: Service) -> None:
    activated.drop_in("[Service]\nWatchdogSec=1\n")
    activated.systemctl("start")
    with Asking(activated, "master stopped, watchdog of 1 s, socket unit", may_fail=CAUGHT) as asking:
        asking.for_seconds(2.5)  # of calm, in which the watchdog must not bite
        assert activated.show("NRestarts") == "0"
        activated.kill("STOP")
        activated.wait_restarts(1)
        asking.for_seconds(CALM_S)
    assert "Watchdog timeout" in activated.journal()
