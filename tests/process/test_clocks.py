"""Promise 5: a wall clock that jumps by a day does nothing: whatever is timed goes by the monotonic clock.

The clock of the whole machine is not ours to set, and namespaces have none of their own for it. So one server gets a
C library whose wall clock is as many seconds off as a file says; monotonic clocks are the kernel's.
"""

import shutil
import signal
import subprocess
import time
from datetime import datetime

import pytest

from tests.harness import Server, read_to_end
from tests.process.probes import status
from tests.process.tools import Gate, one_request

COMPILER = shutil.which("cc")
SHIM = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long off(void) {
    char text[32] = {0};
    int fd = open(getenv("TEST_CLOCK_OFF"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}

int clock_gettime(clockid_t id, struct timespec *moment) {
    int failed = syscall(SYS_clock_gettime, id, moment);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) moment->tv_sec += off();
    return failed;
}

int gettimeofday(struct timeval *restrict moment, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    moment->tv_sec = exact.tv_sec;
    moment->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *moment) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (moment) *moment = exact.tv_sec;
    return exact.tv_sec;
}
"""
DAY_S = 86_400


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, for the clock that jumps")
@pytest.mark.parametrize("days", [1, -1])
def test_promise_05_wall_clock_that_jumps_by_a_day_does_nothing(days: int) -> None:
    s = Server(
        app="tests.process.site:app", workers=2, timeout="3s", max_worker_lifetime="1h", keepalive="60s",
        header_timeout="60s", reload_settle=0,
    )  # fmt: skip
    clock = s.folder / "clock"
    clock.write_text("0")
    library, source = s.folder / "clock.so", s.folder / "clock.c"
    source.write_text(SHIM)
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    s.env |= {"LD_PRELOAD": str(library), "TEST_CLOCK_OFF": str(clock)}
    with s, Gate(s) as gate, s.connect() as kept, s.connect() as sock:
        before = s.workers()
        kept.sendall(one_request("/pid", close=False))
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        clock.write_text(str(days * DAY_S))
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
