"""What a process closes at its end, and what it leaves alone."""

import io
import os
import threading
from typing import Any

from forkserve.unix.spool import Spool, SpoolFile
from forkserve.worker.ending import close_files


class Slow(SpoolFile):
    """A file on a disk that takes its time."""

    entered = threading.Event()
    go_on = threading.Event()

    def write(self, data: Any, /) -> int:
        self.entered.set()
        self.go_on.wait()
        return len(data)


def test_a_fork_that_ends_does_not_wait_for_a_thread_that_wrote_to_a_spool() -> None:
    spool = Spool()
    fd = spool.open()
    assert fd is not None
    file = io.BufferedRandom(Slow(fd, spool), 4096)
    writer = threading.Thread(target=file.write, args=(bytes(10_000),))
    writer.start()
    assert Slow.entered.wait(30)
    pid = os.fork()
    if pid == 0:
        close_files()
        os._exit(7)
    ended = [threading.Event()]
    status: list[int] = []

    def reap() -> None:
        status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        ended[0].set()

    threading.Thread(target=reap).start()
    is_over = ended[0].wait(20)
    if not is_over:
        os.kill(pid, 9)
    Slow.go_on.set()
    writer.join()
    file.close()
    assert is_over and status == [7]
