"""forkserve.service under a real systemd: start, reload and stop tell the truth and lose nothing."""

import time

import pytest

from tests.harness import ROOT
from tests.systemd.service import Asking, Service, end_of, site

BROKEN = "import nosuch\n"
CALM_S = 0.5


def test_start_returns_when_the_workers_serve(service: Service) -> None:
    service.deploy(site("old", boot_s=1.0))
    began = time.monotonic()
    service.systemctl("start")
    assert time.monotonic() - began >= 1.0
    assert service.get() == "site old"
    assert service.show("StatusText") == "generation 1, 2 workers"


def test_start_of_a_broken_app_fails_with_the_traceback_in_the_journal(service: Service) -> None:
    service.deploy(BROKEN)
    said = service.fails("start")
    assert "Job for forkserve.service failed" in said
    journal = service.journal()
    assert "ModuleNotFoundError: No module named 'nosuch'" in journal
    assert "first start failed" in journal


def test_promise_01_reload_returns_after_the_roll(service: Service) -> None:
    service.systemctl("start")
    with Asking(service, "reload") as asking:
        asking.for_seconds(CALM_S)
        service.deploy(site("new"))
        service.systemctl("reload")
        assert service.show("StatusText") == "generation 2, 2 workers"
        assert [service.get() for _ in range(4)] == ["site new"] * 4
        asking.for_seconds(CALM_S)
    assert set(asking.answers) == {"site old", "site new"}
    assert asking.answers[-1] == "site new"


def test_promise_02_reload_of_broken_code_fails_and_the_old_code_serves_on(service: Service) -> None:
    service.systemctl("start")
    pid = service.main_pid
    with Asking(service, "reload of broken code") as asking:
        service.deploy(BROKEN)
        said = service.fails("reload")
        asking.for_seconds(CALM_S)
    assert "Job for forkserve.service failed" in said
    assert set(asking.answers) == {"site old"}
    assert (service.show("ActiveState"), service.main_pid) == ("active", pid)
    assert service.show("StatusText").startswith(
        "generation 1 serving; reload to 2 failed: module 'site_app' could not"
    )
    assert "ModuleNotFoundError: No module named 'nosuch'" in service.journal()
    service.deploy(site("repaired"))
    service.systemctl("reload")
    assert service.get() == "site repaired"


def test_journal_knows_how_severe_each_line_is_and_gets_no_second_time(service: Service) -> None:
    service.systemctl("start")
    service.deploy(BROKEN)
    service.fails("reload")
    severe = service.journal("--priority=err", "--output=cat")
    assert "[error] reload failed gen=2" in severe
    assert "No module named 'nosuch'" in severe
    assert "[info]" not in severe
    assert "\n[info] serving gen=1 workers=2\n" in service.journal("--output=cat")


def test_notify_reload_waits_but_cannot_fail(service: Service) -> None:
    service.drop_in((ROOT / "systemd" / "notify-reload.conf").read_text())
    service.systemctl("start")
    if service.box.version < 253:
        assert "reload" in service.fails("reload")  # it does not know the type: no reload instead of half a one
        return
    assert service.show("Type") == "notify-reload"
    with Asking(service, "reload, Type=notify-reload") as asking:
        service.deploy(site("new"))
        service.systemctl("reload")
        assert service.get() == "site new"
        service.deploy(BROKEN)
        service.systemctl("reload")
    assert asking.answers[-1] == "site new"
    assert "reload to 3 failed" in service.show("StatusText")
    assert service.show("ActiveState") == "active"


def test_promise_04_stop_answers_what_is_under_way_and_ends_with_0(service: Service) -> None:
    service.systemctl("start")
    request = service.start_get("1")
    service.wait_busy()
    began = time.monotonic()
    service.systemctl("stop")
    assert time.monotonic() - began < 10
    assert end_of(request) == "site old"
    shown = {name: service.show(name) for name in ("ActiveState", "Result", "ExecMainCode", "ExecMainStatus")}
    assert shown == {"ActiveState": "inactive", "Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0"}
    assert "stopped" in service.journal()


@pytest.mark.parametrize("name", ["accesslog", "errorlog"])
def test_logrotate_gets_a_new_file(service: Service, name: str) -> None:
    path = "/var/log/forkserve/site.log"
    service.settle(**{name: path})
    service.systemctl("start")
    service.get()
    service.box.write("/etc/logrotate.d/forkserve", (ROOT / "systemd" / "forkserve.logrotate").read_text())
    service.wait_file(path)
    service.box.run("logrotate", "--force", "/etc/logrotate.d/forkserve")
    service.wait_file(path + ".1")
    service.get()
    service.systemctl("reload")
    service.wait_file(path)
    assert service.show("StatusText") == "generation 2, 2 workers"
