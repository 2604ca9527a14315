"""Promise 2, a deploy that is half done breaks what the master imports late: a line in the log, and nobody dies."""

import signal

import pytest

from tests.harness import Server, wait_until
from tests.process.test_upgrade import copy_of_the_package
from tests.process.tools import one_request

SITE = "tests.process.site:app"
TLS, TRUST = ("tls.py", "certfile = 'x.pem'\n"), ("trust.py", "forwarded_allow_ips = '10.0.0.1'\n")
ANOTHER_VERSION = "from forkserve.errors import nothing_of_that_name\n"


@pytest.mark.parametrize(
    ("module", "setting", "source"),
    [
        (*TLS, "def make_contexts(\n"),
        (*TLS, "import ssl\nnothing_of_that_na\n"),
        (*TLS, '"""TLS, without a function yet."""\n'),
        (*TLS, ANOTHER_VERSION),
        (*TRUST, ANOTHER_VERSION),
    ],
    ids=["half a file", "half a line", "half a module", "another version", "of another module"],
)
def test_promise_02_reload_that_needs_a_broken_part_of_the_package_is_rejected(
    module: str, setting: str, source: str
) -> None:
    s = Server(app=SITE, workers=1, reload_settle=0, config="", expect=["reload rejected"])
    package = copy_of_the_package(s)
    with s:
        before = s.get("/pid").json
        (package / "net" / module).write_text(source)
        s.config.write_text(setting)
        s.signal(signal.SIGHUP)
        assert "a part of forkserve that they need is broken on the disk" in s.wait_line("reload rejected")
        assert s.get("/pid").json == before
        s.config.write_text("")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get("/pid").json[0] != before[0]


def test_promise_05_hang_is_met_and_memory_is_watched_without_psutil() -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited"]
    s = Server(app=SITE, workers=1, timeout=1, max_worker_memory_hard="8GiB", expect=expect)
    with s, s.connect() as client:
        (s.folder / "psutil.py").write_text("half of (\n")  # its folder is the first to import from
        [worker] = s.workers()
        client.sendall(one_request("/sleep?60"))
        s.wait_line("worker exited")
        wait_until(lambda: s.workers() and s.workers() != [worker], "the replacement")
        assert s.get("/pid").json[0] == s.workers()[0]


def test_promise_08_hard_limit_of_memory_is_kept_without_psutil() -> None:
    expect = ["worker too big", "worker was asked for its stacks", "worker exited", "degraded"]
    s = Server(app=SITE, workers=1, max_worker_memory_hard="1MiB", expect=expect)
    (s.folder / "psutil.py").write_text("half of (\n")
    with s:
        assert "limit_mib=1" in s.wait_line("worker too big")
