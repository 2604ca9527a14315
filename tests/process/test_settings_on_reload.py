"""Settings are read anew at each reload: what applies does, and what needs a restart is said to."""

import signal

from tests.harness import Server, wait_until
from tests.process.tools import one_request, title

SITE = "tests.process.site:app"


def test_changed_settings_apply_to_the_new_workers() -> None:
    with Server(app=SITE, workers=None, config="workers = 1\nkeepalive = 60\nproc_name = 'a'\n") as s:
        with s.connect() as sock:
            sock.sendall(one_request("/pid", close=False))
            assert b"Connection: close" not in sock.recv(65536)
        s.config.write_text("workers = 3\nkeepalive = 0\nproc_name = 'b'\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=2 workers=3")
        assert s.exchange(one_request("/pid", close=False)).count(b"\r\nConnection: close\r\n") == 1
        wait_until(lambda: title(s.pid) == "forkserve: master [b] gen=2", "the new name")
        assert all(" [b] gen=2 " in title(pid) for pid in s.workers())
        assert 'old=1 new=3 applies_to="at once"' in s.wait_line("setting changed name=workers")
        assert s.lines("setting changed name=keepalive")


def test_promise_12_changed_bind_is_a_transaction() -> None:
    with Server(app=SITE, config="bind = 'unix:a.sock'\n", bind=["127.0.0.1:0"]) as s:
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.lines("setting changed") == [], "the flag wins, nothing changed"
    s = Server(app=SITE, config="", pidfile=None)
    s.config.write_text("bind = 'unix:a.sock'\n")
    s.expect = ["socket handed in is not used"]
    with s:
        s.config.write_text("bind = ['unix:a.sock', 'unix:b.sock']\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.lines("setting changed name=bind")
        assert s.get_at("unix:a.sock", "/pid").json[1] == 2
        assert s.get_at("unix:b.sock", "/pid").json[1] == 2
        s.expect.append("reload rejected")
        s.config.write_text("bind = ['unix:c.sock', 'unix:no/such/folder/d.sock']\n")
        s.signal(signal.SIGHUP)
        assert "the folder does not exist" in s.wait_line("reload rejected")
        assert not (s.folder / "c.sock").exists(), "all or nothing"
        assert s.get_at("unix:b.sock", "/pid").json[1] == 2
        s.config.write_text("bind = ['unix:b.sock', 'unix:@forkserve-test-twelve', '127.0.0.1:0']\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done", count=2)
        s.wait_line("no longer listening address=unix:a.sock")
        assert not (s.folder / "a.sock").exists()
        assert s.get_at("unix:b.sock", "/pid").json[1] == 3
        assert s.get_at("unix:@forkserve-test-twelve", "/pid").json[1] == 3


def test_fewer_workers_in_the_file_win_over_ttin() -> None:
    with Server(app=SITE, workers=None, config="workers = 2\n") as s:
        s.signal(signal.SIGTTIN)
        s.wait_line("worker ready", count=3)
        s.config.write_text("workers = 1\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=2 workers=1")
        assert len(s.workers()) == 1


def test_changed_error_log_takes_over_master_and_workers() -> None:
    with Server(app=SITE, errorlog=None, workers=1, config="errorlog = 'error.log'\n") as s:
        s.config.write_text("errorlog = 'other.log'\n")
        s.signal(signal.SIGHUP)
        other = s.folder / "other.log"
        wait_until(lambda: other.exists() and "reload done" in other.read_text(), "the other log")
        assert s.get("/pid").json[1] == 2
        s.config.write_text("errorlog = 'no/such/folder/log'\n")
        s.signal(signal.SIGHUP)
        wait_until(lambda: "reload rejected" in other.read_text(), "the refusal")
        assert s.get("/pid").json[1] == 2


def test_value_from_a_flag_stays_above_the_files() -> None:
    with Server(app=SITE, flags=["--workers", "2"], workers=None, config="workers = 5\n") as s:
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=2 workers=2")
        assert len(s.workers()) == 2


def test_what_variables_hold_is_never_logged() -> None:
    with Server(app=SITE, config="env = { KEY = 'first-secret' }\n", expect=["reload rejected"]) as s:
        s.config.write_text("env = { KEY = 'second-secret', TOKEN = '' }\n")
        s.signal(signal.SIGHUP)
        assert 'old=KEY new="KEY, TOKEN"' in s.wait_line("setting changed name=env")
        s.wait_line("reload done")
        s.config.write_text("env = { '' = 'third-secret' }\n")
        s.signal(signal.SIGHUP)
        assert "a variable needs a name" in s.wait_line("reload rejected")
        assert "secret" not in s.log() + s.said()


def test_changed_permissions_are_those_of_unix_sockets_bound_from_then_on() -> None:
    s = Server(app=SITE, config="", pidfile=None, expect=["socket handed in is not used"])
    s.config.write_text("bind = ['unix:a.sock']\nsocket_mode = '0600'\n")
    with s:
        s.config.write_text("bind = ['unix:a.sock', 'unix:b.sock']\nsocket_mode = '0660'\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert 'applies_to="unix sockets bound from now on"' in s.wait_line("setting changed name=socket_mode")
        assert [(s.folder / name).stat().st_mode & 0o777 for name in ("a.sock", "b.sock")] == [0o600, 0o660]
