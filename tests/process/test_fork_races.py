"""Promise 13: no handler of the parent ever runs in a child, however close to the fork a signal comes.

A process of its own group forks by forkserve's own fork, again and again; its children do nothing. Meanwhile another
one sends TERM to the whole group all the time, so that parent and children are hit at every moment of the fork.
"""

import os
import subprocess
import sys

from tests.harness import ROOT

# FORKSERVE_FULL=1 asks for the long form, as `make promises` does.
FORKS = 100_000 if os.environ.get("FORKSERVE_FULL") else 2_000

# Handlers that tell who ran them; a child that is not done with its birth must never be among them. The child lets
# the signals in at its end, as a worker does when its own handlers stand: what is pending then ends it by default.
PARENT = """
import os, signal, sys
from forkserve.master import process
from forkserve.unix import signals

parent = os.getpid()
report_fd, forks = int(sys.argv[1]), int(sys.argv[2])
hits = 0

def handler(signum, frame):
    global hits
    if os.getpid() == parent:
        hits += 1
    else:
        os.write(report_fd, b"!")

def child():
    signals.restore(set())
    return 0

wakeup = signals.Wakeup(signals.MASTER)
for number in signals.MASTER:
    signal.signal(number, handler)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
print("handlers stand", flush=True)
by_signal = 0
for _ in range(forks):
    pid = process.fork(child, [wakeup.close])
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM or status == 0, status
    by_signal += os.WIFSIGNALED(status)
    wakeup.read()
signals.block_all()  # the sender goes on while this process ends
print(hits, by_signal)
"""
SENDER = """
import os, signal, sys, time
while True:
    os.killpg(int(sys.argv[1]), signal.SIGTERM)
    time.sleep(0.0001)
"""


def test_promise_13_no_handler_of_the_parent_runs_in_a_child_that_is_hit_while_it_is_forked() -> None:
    read_fd, report_fd = os.pipe()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(report_fd), str(FORKS)], env=env, pass_fds=[report_fd],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as parent:  # fmt: skip
        os.close(report_fd)
        assert parent.stdout is not None
        assert parent.stdout.readline() == "handlers stand\n"
        with subprocess.Popen([sys.executable, "-c", SENDER, str(parent.pid)], stderr=subprocess.DEVNULL) as sender:
            try:
                hits, by_signal = map(int, parent.stdout.read().split())
            finally:
                sender.kill()
    with open(read_fd, "rb") as report:
        assert report.read() == b"", "a handler of the parent ran in a child"
    assert parent.returncode == 0
    assert hits >= FORKS / 10 and by_signal >= FORKS / 10, "too few signals came to be a race"
