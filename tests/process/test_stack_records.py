"""Promise 5, the log: stacks are one record, whatever other threads and processes write meanwhile."""

import signal
import threading

from tests.harness import Server, wait_until

APP = """
import sys, threading, time

def chatter():
    while True:
        sys.stderr.write("")
        with open(LOG, "a") as log:
            log.write("chatter " + "x" * 50 + "\\n")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        for _ in range(3):
            threading.Thread(target=chatter, daemon=True).start()
        if environ["QUERY_STRING"] == "busy":
            sum(range(10**12))  # in C, and the lock is never given back
        time.sleep(600)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]
"""


def hang(query: str, threads: int) -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]
    s = Server(app="fresh_app:app", workers=1, threads=threads, timeout=0.5, graceful_timeout=1, expect=expect)
    s.write_app(f"LOG = {str(s.error_log)!r}\n" + APP)
    with s:

        def ask() -> None:
            try:
                s.get(f"/hang?{query}")
            except OSError:
                pass

        client = threading.Thread(target=ask)
        client.start()
        s.wait_line("worker was asked for its stacks and wrote them")
        client.join()
        s.wait_line("worker ready", 2)
        s.signal(signal.SIGTERM)
        s.wait_exit()
        wait_until(lambda: not s.alive(), "the end of all")
        lines = s.log().splitlines()
        begin = next(number for number, line in enumerate(lines) if "and wrote them" in line)
        record = []
        for line in lines[begin + 1 :]:
            if not line.startswith("    "):
                break
            record.append(line)
        assert any("fresh_app.py" in line and "in app" in line for line in record)
        strangers = [line for line in lines if "Thread 0x" in line or 'File "' in line]
        assert all(line in record for line in strangers), "pieces of stacks elsewhere"
        assert all(line[:1] in "2c " for line in lines if line), "lines that begin in the middle"


def test_promise_05_stacks_are_one_record_beside_threads_that_log() -> None:
    hang("", 1)


def test_promise_05_stacks_are_one_record_with_threads_of_ours() -> None:
    hang("", 4)


def test_promise_05_stacks_are_one_record_where_python_never_runs_again() -> None:
    hang("busy", 1)
