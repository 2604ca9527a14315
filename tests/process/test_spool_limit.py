"""All spools of a service together hold no more than `limit_spool`, and what finds no room waits and is whole.

Where they lie in a tmpfs they are memory: in a control group of 200 MB nobody is killed for slow readers.
"""

import hashlib
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

MIB = 1 << 20
SIZE = 24 * MIB
SITE = f"""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "{SIZE}")])
    return (bytes([number & 255]) * 65536 for number in range({SIZE} // 65536))
"""
DIGEST = hashlib.sha256(b"".join(bytes([number & 255]) * 65536 for number in range(SIZE // 65536))).hexdigest()
GROUPS = Path("/sys/fs/cgroup/memory")
LIMIT = 200 * MIB


def serving(**settings: object) -> Server:
    server = Server(app="large_app:app", expect=["no room for what clients"], **settings)  # type: ignore[arg-type]
    server.write_app(SITE, "large_app")
    return server


def spooled(server: Server) -> int:
    """How many bytes the unlinked files of all workers hold."""
    found = 0
    for pid in server.workers():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
                if target.endswith(" (deleted)") and not target.startswith("/memfd:"):
                    found += os.stat(fd).st_size
            except OSError:
                pass
    return found


def readers(server: Server, count: int, stack: ExitStack) -> list[Client]:
    """Clients that have asked, and read nothing."""
    return [stack.enter_context(Client(server, window=1 << 14)).get("/") for _ in range(count)]


def take(clients: list[Client]) -> None:
    """Read all of them at the same time, since one may be waited for by the worker of another; find them whole."""
    with ThreadPoolExecutor(len(clients)) as pool:
        assert list(pool.map(digest, clients)) == [DIGEST] * len(clients)


def digest(client: Client) -> str:
    """Read an answer."""
    assert client.read_head().code == 200
    return hashlib.sha256(client.rest_of(SIZE)).hexdigest()


def test_all_workers_together_stay_below_the_limit_and_every_answer_is_whole() -> None:
    with serving(workers=2, threads=4, limit_spool="8MiB") as server, ExitStack() as stack:
        clients = readers(server, 6, stack)
        server.wait_line("no room for what clients have not taken or sent")
        wait_until(lambda: spooled(server) > 4 * MIB, "something in the spools")
        most = 0
        until = time.monotonic() + 1
        while time.monotonic() < until:
            most = max(most, spooled(server))
        assert most <= 10 * MIB  # two that ask at the same moment may pass it by a step of 1 MiB each
        take(clients)
        wait_until(lambda: spooled(server) == 0, "empty spools")


def test_what_a_killed_worker_held_is_free_again() -> None:
    with serving(threads=4, limit_spool="8MiB", workers=1) as server, ExitStack() as stack:
        server.expect.append("worker exited")
        readers(server, 3, stack)
        server.wait_line("no room for what clients have not taken or sent")
        server.kill(server.workers()[0])
        server.wait_line("worker ready", count=2)
        clients = readers(server, 3, stack)
        server.wait_line("no room for what clients have not taken or sent", count=2)
        wait_until(lambda: spooled(server) > 4 * MIB, "the new worker's spools")
        take(clients)


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(GROUPS, os.W_OK) or not (GROUPS / "memory.limit_in_bytes").exists(),
    reason="needs root and a memory controller of control groups (v1) that is ours",
)
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_slow_readers_get_nobody_killed_where_spools_are_memory() -> None:
    group = GROUPS / f"forkserve-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        inside = f'mount -t tmpfs -o size=1000m none spools && echo $$ >{group}/cgroup.procs && exec "$@"'
        server = serving(workers=2, send_timeout="60s", launcher=["unshare", "-m", "bash", "-c", inside, "inside"])
        (server.folder / "spools").mkdir()
        server.env["TMPDIR"] = str(server.folder / "spools")
        with server, ExitStack() as stack:
            clients = readers(server, 6, stack)
            server.wait_line("limit_spool is reached")
            take(clients)
        assert "oom_kill 0" in (group / "memory.oom_control").read_text()
        assert int((group / "memory.max_usage_in_bytes").read_text()) < LIMIT
    finally:
        subprocess.run(["rmdir", str(group)], check=False)
