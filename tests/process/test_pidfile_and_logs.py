"""The pidfile says who serves, USR1 reopens the logs, and process titles say what each process is."""

import os
import signal

from tests.harness import Server, wait_until
from tests.process.tools import open_files, title

SITE = "tests.process.site:app"


def test_second_instance_is_refused_with_the_owners_pid() -> None:
    with Server(app=SITE) as s:
        assert s.pidfile.read_text() == f"{s.pid}\n"
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")  # and still held
        with Server(app=SITE, bind=["unix:second.sock"], pidfile=str(s.pidfile), await_ready=False) as second:
            assert second.wait_exit() == 1
            [line] = second.said().splitlines()
            assert f"held by a running forkserve, pid {s.pid};" in line
            assert not (second.folder / "second.sock").exists()
        assert s.pidfile.read_text() == f"{s.pid}\n"
        assert s.get("/pid").status == 200


def test_stale_pidfile_is_replaced_whatever_it_says() -> None:
    s = Server(app=SITE, pidfile="pid")
    s.pidfile.write_text(f"{os.getpid()}\n")  # of a living process, but nobody holds the lock
    with s:
        assert s.pidfile.read_text() == f"{s.pid}\n"


def test_pidfile_that_was_replaced_meanwhile_is_left_alone() -> None:
    with Server(app=SITE) as s:
        s.pidfile.unlink()
        s.pidfile.write_text("another's\n")
        assert s.stop() == 0
        assert s.pidfile.read_text() == "another's\n"
        s.forget_pidfile()


def test_pidfile_in_no_folder_is_one_line_and_exit_code_1() -> None:
    with Server(app=SITE, pidfile="no/such/folder/pid", await_ready=False) as s:
        assert s.wait_exit() == 1
        [line] = s.said().splitlines()
        assert "pidfile = " in line and "No such file or directory" in line


def test_usr1_reopens_the_logs_of_master_and_workers() -> None:
    with Server(app=SITE, workers=2, accesslog="access.log") as s:
        access, old_error, old_access = s.folder / "access.log", s.folder / "error.log.1", s.folder / "access.log.1"
        s.get("/pid?before")
        wait_until(lambda: access.exists() and "/pid?before" in access.read_text(), "its access line")
        s.error_log.rename(old_error)
        access.rename(old_access)
        s.signal(signal.SIGUSR1)
        s.wait_line("log files reopened")
        wait_until(lambda: len(_holders(s, str(s.error_log))) == 3, "the error log in each process")
        wait_until(lambda: len(_holders(s, str(access))) == 2, "the access log in each worker")
        assert _holders(s, str(old_error)) == _holders(s, str(old_access)) == []
        s.get("/pid?after")
        wait_until(lambda: "/pid?after" in access.read_text(), "its access line")
        assert "/pid?after" not in old_access.read_text()


def test_usr1_to_one_worker_reopens_its_logs() -> None:
    with Server(app=SITE, workers=1) as s:
        s.error_log.rename(s.folder / "old.log")
        os.kill(s.workers()[0], signal.SIGUSR1)
        wait_until(lambda: _holders(s, str(s.error_log)) == s.workers(), "the new file in the worker")
        s.signal(signal.SIGUSR1)  # so that the rest is in one place again
        s.wait_line("log files reopened")


def _holders(s: Server, path: str) -> list[int]:
    """The processes of the server that have this file open."""
    return [process.pid for process in s.tree() if path in open_files(process.pid)]


def test_titles_say_who_each_process_is() -> None:
    with Server(app=SITE, workers=2, proc_name="shop") as s:
        wait_until(lambda: title(s.pid) == "forkserve: master [shop] gen=1", "the master's title")
        _wait_titles(s, {"forkserve: worker 0 [shop] gen=1 idle", "forkserve: worker 1 [shop] gen=1 idle"})
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        wait_until(lambda: title(s.pid) == "forkserve: master [shop] gen=2", "the master's title")
        wait_until(lambda: all("[shop] gen=2 idle" in title(pid) for pid in s.workers()), "the workers' titles")


def _wait_titles(s: Server, wanted: set[str]) -> None:
    wait_until(lambda: {title(pid) for pid in s.workers()} == wanted, f"the titles {wanted}")


def test_title_without_a_name_has_no_brackets() -> None:
    with Server(app=SITE, workers=1) as s:
        wait_until(lambda: title(s.pid) == "forkserve: master gen=1", "the master's title")
        _wait_titles(s, {"forkserve: worker 0 gen=1 idle"})
