"""Promise 15: the truth can be asked for. The control socket answers whatever the workers and other clients do."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from forkserve.typed import to_json
from tests.harness import Server, read_to_end, wait_until
from tests.process.probes import ask, auto_socket, control, cpu_share, ctl, end_of, start_ctl, status
from tests.process.tools import Gate, answers, one_request
from tests.process.tools import status as process_status

SITE = "tests.process.site:app"
ANSWER_S = 2.0  # a bound for an answer that needs milliseconds: the machine may be busy


def _broken_by_code(s: Server) -> None:
    s.write_app("raise RuntimeError('this deploy is broken')\n")


def _broken_by_settings(s: Server) -> None:
    s.config.write_text("workers = = 2\n")


def test_promise_15_status_says_what_every_worker_does() -> None:
    with Server(app=SITE, workers=2) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        code, out, err = ctl(s, "status", "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert {name: found[name] for name in ("app", "phase", "generation", "serving", "size", "ready")} == {
            "app": SITE, "phase": "serving", "generation": 1, "serving": 1, "size": 2, "ready": 2,
        }  # fmt: skip
        assert (found["reloading"], found["degraded"], found["last_error"], found["ends"]) == (False, False, "", {})
        assert found["uptime_s"] > 0
        assert {worker["pid"] for worker in found["workers"]} == set(s.workers())
        assert {worker["stage"] for worker in found["workers"]} == {"ready"}
        [busy] = [worker for worker in found["workers"] if worker["request"]]
        assert busy["request"] == f"GET {gate.path}"
        assert 0 < busy["request_s"] < 30
        [idle] = [worker for worker in found["workers"] if not worker["request"]]
        assert (idle["request"], idle["request_s"]) == (None, None)
        code, page, _ = ctl(s, "status")
        assert code == 0
        assert "generation 1, 2 of 2 workers ready" in page
        assert busy["request"] in page


def test_promise_15_status_counts_ends_and_the_queue_of_a_listener() -> None:
    expect = ["worker exited"]
    with Server(app=SITE, workers=1, backlog=77, expect=expect) as s, Gate(s) as gate, ExitStack() as held:
        s.kill(s.workers()[0])
        s.wait_line("worker ready", count=2)
        sock = held.enter_context(s.connect())
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        queued = [held.enter_context(s.connect()) for _ in range(5)]
        found = status(s)
        assert found["ends"] == {"signal 9": 1}
        assert [(listener["waiting"], listener["limit"]) for listener in found["listeners"]] == [(len(queued), 77)]


def test_promise_15_status_is_answered_while_every_worker_hangs_and_the_master_has_no_descriptor_left() -> None:
    launcher = ("bash", "-c", 'ulimit -n 28; exec "$0" "$@"')
    # The reloads that are wished for wait until there are descriptors again; one that had to open a file would be
    # rejected, and who waits for it would be gone.
    with Server(app=SITE, workers=2, launcher=launcher, errorlog="-") as s, ExitStack() as held:
        gates = [held.enter_context(Gate(s, f"gate{number}")) for number in range(2)]
        for gate in gates:
            sock = held.enter_context(s.connect())
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
        waiting: list[socket.socket] = []

        def is_full() -> bool:
            # A child of a superseded reload may end at any moment, and leaves a descriptor to one more who waits.
            if len(os.listdir(f"/proc/{s.pid}/fd")) < 28 and len(waiting) < 15:
                waiting.append(held.enter_context(control(s)))
                waiting[-1].sendall(to_json({"verb": "reload", "wait": True}) + b"\n")
                assert waiting[-1].recv(100) == b'{"begun":true}\n'
            return len(os.listdir(f"/proc/{s.pid}/fd")) == 28

        wait_until(is_full, "the end of the descriptors")
        began = time.monotonic()
        for _ in range(3):
            assert status(s)["ready"] == 2
        assert time.monotonic() - began < ANSWER_S
        # Beyond the reserve nobody can be let in; whoever waits is not what the master burns its time on.
        last = [held.enter_context(control(s)) for _ in range(3)]
        assert cpu_share(s.pid, 1.0) < 0.2
        for sock in last:
            sock.close()
        waiting[0].close()
        assert wait_until(lambda: status(s)["ready"], "room") >= 1


def test_reload_wait_prints_the_new_generation() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(answers("old"))
    with s:
        s.write_app(answers("new"))
        assert ctl(s, "reload", "--wait") == (0, "generation 2\n", "")
        assert s.get().text == "new 2 0"


@pytest.mark.parametrize(
    ("spoil", "said"), [(_broken_by_code, "this deploy is broken"), (_broken_by_settings, "config.toml")]
)
def test_promise_02_reload_wait_says_why_it_failed_while_the_old_code_serves_on(spoil: object, said: str) -> None:
    expect = ["worker could not boot", "reload failed", "reload rejected", "degraded"]
    s = Server(app="fresh_app:app", workers=2, config="reload_retries = 0\n", expect=expect)
    s.write_app(answers("old"))
    with s:
        old = s.workers()
        assert callable(spoil)
        spoil(s)
        code, out, err = ctl(s, "reload", "--wait")
        assert (code, out) == (1, "")
        assert said in err
        assert ("Traceback" in err) is (spoil is _broken_by_code)
        assert s.get().text == "old 1 0"
        assert s.workers() == old
        assert said in status(s)["last_error"]
        s.write_app(answers("repaired"))
        s.config.write_text("")
        code, out, err = ctl(s, "reload", "--wait")
        assert (code, err) == (0, "")
        assert status(s)["last_error"] == ""
        assert s.get().text.startswith("repaired ")


def test_reload_that_outlasts_the_patience_of_who_waits_goes_on_and_has_an_exit_code_of_its_own() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(answers("old"))
    with s, Gate(s) as gate:
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n" + answers("new"))
        code, out, err = ctl(s, "reload", "--wait", "--timeout", "0.3")
        assert (code, out) == (4, "")
        assert err == "forkservectl: error: the reload has not ended within 0.3 s; it goes on\n"
        gate.wait_entered()
        gate.open()
        s.wait_line("reload done gen=2")
        for wrong in ("-1", "30s", "inf", "nan"):
            code, _, err = ctl(s, "reload", "--wait", f"--timeout={wrong}")
            assert code == 2
            assert err.endswith(f"argument --timeout: {wrong!r} is no number of seconds, such as 30\n")


def test_master_that_lets_nobody_in_is_said_to() -> None:
    with Server(app=SITE, workers=1, expect=["master overslept"]) as s, ExitStack() as held:
        s.signal(signal.SIGSTOP)
        wait_until(lambda: process_status(s.pid, "State").startswith("T"), "the stop")
        unheard = ctl(s, "reload", "--wait", "--timeout", "0.3")
        assert unheard[0] == 3
        assert "does not answer in time" in unheard[2]
        _fill(s, held)
        turned_away = ctl(s, "reload", "--wait", "--timeout", "0.3")
        s.signal(signal.SIGCONT)
        assert turned_away[0] == 3
        assert "nobody was let in for 0.3 s; it may be stopped" in turned_away[2]


def _fill(s: Server, held: ExitStack) -> None:
    """Connect until the queue of the control socket is full."""
    while True:
        sock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.setblocking(False)
        try:
            sock.connect(auto_socket(s.pid))
        except BlockingIOError:
            return


def test_two_who_wait_for_reloads_are_both_answered_with_the_code_that_serves() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(answers("old"))
    with s, Gate(s) as gate:
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n" + answers("new"))
        first = start_ctl(s, "reload", "--wait")
        gate.wait_entered()
        s.write_app(answers("newer"))
        second = start_ctl(s, "reload", "--wait")
        s.wait_line("reload superseded gen=2")
        assert end_of(second) == (0, "generation 3\n", "")
        assert end_of(first) == (0, "generation 3\n", "")
        assert s.get().text == "newer 3 0"


def test_who_waits_for_a_reload_is_told_when_the_service_stops_instead() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(answers("old"))
    with s, Gate(s) as gate:
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n")
        waiting = start_ctl(s, "reload", "--wait")
        gate.wait_entered()
        assert s.stop() == 0
        code, _, err = end_of(waiting)
        assert code == 1
        assert "the service is stopping" in err


def test_what_a_stop_has_overtaken_is_refused_and_not_said_to_be_done() -> None:
    with Server(app=SITE, workers=1) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        assert ctl(s, "stop") == (0, "", "")
        for words in (["scale", "3"], ["reload"], ["reload", "--wait"], ["upgrade"]):
            code, out, err = ctl(s, *words)
            assert (code, out) == (1, "")
            assert "the service is stopping" in err
        assert status(s)["size"] == 1
        gate.open()
        assert s.wait_exit() == 0


def test_scale_reopen_and_stop_do_what_the_signals_do() -> None:
    with Server(app=SITE, workers=1) as s:
        assert ctl(s, "scale", "3") == (0, "", "")
        wait_until(lambda: status(s)["ready"] == 3, "three workers")
        assert ctl(s, "scale", "0")[0] == 1
        assert ctl(s, "reopen") == (0, "", "")
        s.wait_line("log files reopened")
        with Gate(s) as gate, s.connect() as sock:
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
            assert ctl(s, "stop") == (0, "", "")
            s.wait_line("draining")
            gate.open()
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0
        s.pidfile.write_text(str(s.pid))
        code, _, err = ctl(s, "status")
        assert code == 3
        assert "no master answers" in err
        s.pidfile.unlink()


def test_quick_stop_waits_for_no_request() -> None:
    expect = ["worker overdue", "worker was asked for its stacks"]
    with Server(app=SITE, workers=1, expect=expect) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        began = time.monotonic()
        assert ctl(s, "stop", "--quick")[0] == 0
        assert s.wait_exit() == 0
        assert time.monotonic() - began < 5.0


def test_path_is_for_the_owner_only_and_goes_with_the_service() -> None:
    with Server(app=SITE, workers=1, control_socket="control.sock") as s:
        path = s.folder / "control.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ask(s, str(path), verb="status")["status"]["ready"] == 1
        with pytest.raises(ConnectionRefusedError):
            control(s)
        assert s.stop() == 0
        assert not path.exists()


@pytest.mark.parametrize("where", ["./c.sock", "@c.sock", "x/..//c.sock", "ABSOLUTE//c.sock"])
def test_reloads_after_an_upgrade_know_the_path_again_however_it_is_spelled(where: str) -> None:
    s = Server(app=SITE, workers=1, reload_settle=0)
    (s.folder / "x").mkdir()
    where = where.replace("ABSOLUTE", f"/{s.folder}")
    path = s.folder / ("@c.sock" if where == "@c.sock" else "c.sock")
    s.env["FORKSERVE_CONTROL_SOCKET"] = where
    with s:
        inode = path.stat().st_ino
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done")
        assert ask(s, str(path), verb="reload", wait=True)["ok"] is True
        assert path.stat().st_ino == inode, "it was not made anew"
        assert s.stop() == 0
        assert not path.exists()


def test_path_of_a_folder_is_refused_at_the_start() -> None:
    s = Server(app=SITE, control_socket="run/", await_ready=False, expect=["control_socket"])
    with s:
        assert s.wait_exit() != 0
        assert "control_socket = 'run/': the path \"run/\" names a folder" in s.said() + s.log()


def test_second_instance_does_not_take_the_path_of_a_living_one() -> None:
    with Server(app=SITE, workers=1, control_socket="control.sock") as s:
        path = s.folder / "control.sock"
        inode = path.stat().st_ino
        second = Server(app=SITE, control_socket=path, await_ready=False)
        second.expect = ["control_socket"]
        with second:
            assert second.wait_exit() != 0
            assert "control_socket" in second.said() + second.log()
            assert "in use" in second.said() + second.log()
        assert path.stat().st_ino == inode
        assert ask(s, str(path), verb="status")["status"]["ready"] == 1


def test_no_control_socket_where_it_is_switched_off() -> None:
    with Server(app=SITE, workers=1, control_socket="") as s:
        with pytest.raises(ConnectionRefusedError):
            control(s)
        assert s.get("/pid").status == 200


@pytest.mark.parametrize(
    "request_",
    [b"\0\xff\n", b"[]\n", b"{}\n", b'{"verb": "burn"}\n', b"x" * (1 << 20), b'{"verb": "scale", "to": "2"}\n',
     b'{"verb": "scale", "to": true}\n', b'{"verb": "scale", "to": 1e99}\n', b"[" * 4000 + b"\n", b"\n"],
    ids=["bytes", "list", "nothing", "unknown verb", "1 MiB", "text", "bool", "float", "deep", "empty"],
)  # fmt: skip
def test_garbage_is_refused_and_changes_nothing(request_: bytes) -> None:
    with Server(app=SITE, workers=1) as s:
        answer = b""
        with control(s) as sock:
            try:
                sock.sendall(request_)
                answer = read_to_end(sock)
            except OSError:
                assert len(request_) > 4096, "only who is too long is cut off"
        assert not answer or json.loads(answer)["ok"] is False
        assert not answer or json.loads(answer)["error"]
        assert answer or len(request_) > 4096
        assert status(s)["size"] == 1


def test_clients_that_never_ask_or_never_read_hold_up_nobody() -> None:
    with Server(app=SITE, workers=1, expect=["control connection refused"]) as s, ExitStack() as held:
        for _ in range(5):
            held.enter_context(control(s))
        for _ in range(5):
            held.enter_context(control(s)).sendall(b'{"verb": "status"}\n' * 100)
        began = time.monotonic()
        assert status(s)["ready"] == 1
        assert time.monotonic() - began < ANSWER_S
        idle = [held.enter_context(control(s)) for _ in range(30)]
        assert read_to_end(idle[0]) == b"", "who has asked nothing makes room for who comes later"
        assert status(s)["ready"] == 1
        assert s.get("/pid").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_promise_15_another_user_is_not_heard() -> None:
    with Server(app=SITE, workers=1, expect=["control connection refused"]) as s:
        code = (
            "import os, socket, sys\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "sock = socket.socket(socket.AF_UNIX); sock.connect(chr(0) + sys.argv[1][1:])\n"
            "try:\n"
            '    sock.sendall(b\'{"verb": "stop"}\\n\')\n'
            "    print(sock.recv(100))\n"
            "except (ConnectionResetError, BrokenPipeError):\n"
            "    print(b'')\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, "@" + auto_socket(s.pid)[1:]], capture_output=True, text=True, cwd="/"
        )
        assert ran.stdout == "b''\n", ran.stderr
        s.wait_line("control connection refused")
        assert status(s)["phase"] == "serving"


def test_answer_comes_from_that_master_and_not_from_whoever_took_the_name() -> None:
    with Server(app=SITE, workers=1, control_socket="") as s, socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(auto_socket(s.pid))
        impostor.listen()
        code, _, err = ctl(s, "status")
        assert code == 3
        assert f"held by pid {os.getpid()}" in err
        assert Path(s.pidfile).exists()
