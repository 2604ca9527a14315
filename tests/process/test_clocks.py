"""Promise 5: a wall clock that jumps by a day does nothing: whatever is timed goes by the monotonic clock.

The clock of the whole machine is not ours to set, and namespaces have none of their own for it, so the C library's is
replaced, in one server, by libfaketime (Debian: the package faketime); monotonic clocks stay as they are.
"""

import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.harness import Server, read_to_end
from tests.process.probes import status
from tests.process.tools import Gate, one_request

LIBRARY = next(iter(Path("/usr/lib").glob("**/faketime/libfaketime.so.1")), None)
DAY_S = 86_400


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: on Debian, apt-get install faketime")
@pytest.mark.parametrize("days", [1, -1])
def test_promise_05_wall_clock_that_jumps_by_a_day_does_nothing(days: int) -> None:
    s = Server(
        app="tests.process.site:app", workers=2, timeout="3s", max_worker_lifetime="1h", keepalive="60s",
        header_timeout="60s", reload_settle=0,
    )  # fmt: skip
    clock = s.folder / "clock"
    clock.write_text("+0d")
    s.env |= {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with s, Gate(s) as gate, s.connect() as kept, s.connect() as sock:
        before = s.workers()
        kept.sendall(one_request("/pid", close=False))
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        clock.write_text(f"{days:+}d")
        s.signal(signal.SIGUSR1)  # whoever looks at a clock has a reason to
        s.wait_line("log files reopened")
        assert 0 < next(worker["request_s"] for worker in status(s)["workers"] if worker["request"]) < 60
        gate.open()
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        kept.sendall(one_request("/pid", close=False))
        assert kept.recv(65536).startswith(b"HTTP/1.1 200"), "a kept connection is kept"
        assert s.workers() == before
        assert status(s)["ends"] == {}
        assert 0 < status(s)["uptime_s"] < 3600
        kept.close()  # else its worker waits for its next request
        s.signal(signal.SIGHUP)
        done = s.wait_line("reload done")
        jumped_s = datetime.strptime(done[:29], "%Y-%m-%d %H:%M:%S.%f %z").timestamp() - time.time()
        assert abs(jumped_s - days * DAY_S) < DAY_S / 2, "the clock did jump, as the log shows"
