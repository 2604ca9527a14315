"""The soak: every answer is whole or visibly cut, whatever happens to the service, its workers, its disk, its clients.

FORKSERVE_FULL=1 asks 100,000 times in every mode. FORKSERVE_SOAK_SEED=<the one that was printed> asks the same again.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import psutil
import pytest

from tests.certificates import Certificate
from tests.harness import Server, wait_until
from tests.process.known_site import prepare
from tests.process.probes import status
from tests.process.soak import BIND, Client, Disturber, Mode, Record
from tests.process.tools import may_mount, on_small_disk, open_files
from tests.unit.tls_pair import client_context

FULL = "FORKSERVE_FULL" in os.environ
SEED = os.environ.get("FORKSERVE_SOAK_SEED") or str(random.SystemRandom().getrandbits(32))
CLIENTS = 10
WORKERS = 2
DISK = "2m"  # with a limit_spool far above it, so that it is the disk that is full
DESCRIPTORS = 40  # of which a worker has 21 at its start
# A worker may hold an app's whole answer for each of its threads, and what its clients have not taken yet.
MOST_BYTES = 200 << 20

_EVERY = [
    *(
        Mode(threads, relay, stream, tls)
        for threads, relay, stream, tls in product((1, 4), (True, False), (True, False), (True, False))
    ),
    *(
        Mode(threads, lacks=lacks, tls=tls)
        for threads, lacks, tls in product((1, 4), ("disk", "descriptors"), (False, True))
    ),
]
_SOME = [
    Mode(1), Mode(4, relay=False, stream=True), Mode(4, tls=True), Mode(1, lacks="disk"), Mode(4, lacks="descriptors"),
]  # fmt: skip
MODES = _EVERY if FULL else _SOME
ANSWERS = 100_000 // len(MODES) if FULL else 200  # in each mode
# What the disturber and the shortage make the log say.
EXPECTED = [
    "worker exited", "worker could not boot", "degraded", "reload failed", "reload rejected", "upgrade",
    "cannot accept", "app raised", "fork failed", "no room", "descriptor", "Too many open files",
]  # fmt: skip


def _launcher(mode: Mode) -> list[str]:
    if mode.lacks == "disk":
        return on_small_disk("tmp", DISK)
    if mode.lacks == "descriptors":
        return ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"]
    return []


def _serve(mode: Mode, folder: Path) -> Server:
    made = Certificate(folder, "soak") if mode.tls else None
    s = Server(
        app="tests.process.known_site:app", bind=BIND, workers=WORKERS, launcher=_launcher(mode), expect=EXPECTED,
        threads=mode.threads, relay=str(mode.relay).lower(), stream_request_body=str(mode.stream).lower(),
        reload_settle=0.2, keepalive=30, header_timeout=60, send_timeout=60,
        limit_spool="1GiB" if mode.lacks == "disk" else None,
        certfile=made.file if made else None, keyfile=made.key if made else None,
    )  # fmt: skip
    [(prefix, static)] = prepare(s.folder).items()
    s.env["FORKSERVE_STATIC"] = f"{prefix}={static}"
    (s.folder / "tmp").mkdir()
    s.env["TMPDIR"] = str(s.folder / "tmp")
    return s


def _places(s: Server) -> dict[str, str | tuple[str, int]]:
    found: dict[str, str | tuple[str, int]] = {}
    for asked, address in zip(BIND, s.addresses, strict=True):
        protocol, _, place = asked.partition("://")
        if place.startswith("unix:"):
            found[f"{protocol} unix"] = str(s.folder / place.removeprefix("unix:"))
        else:
            found[f"{protocol} tcp"] = ("127.0.0.1", int(address.rpartition(":")[2]))
    return found


def _is_calm(s: Server, most: int) -> bool:
    """Whether the wanted workers serve, hold nobody and nothing, and nobody else is there."""
    found = status(s)
    if found["ready"] != WORKERS or found["reloading"] or len(s.workers()) != WORKERS:
        return False
    return all(len(open_files(pid)) <= most and not _spools(s, pid) for pid in s.workers())


def _spools(s: Server, pid: int) -> list[str]:
    return [name for name in open_files(pid) if name.startswith(str(s.folder / "tmp"))]


@pytest.mark.parametrize("mode", MODES, ids=map(str, MODES))
def test_no_answer_looks_whole_and_is_not_whatever_happens(mode: Mode, tmp_path: Path) -> None:
    if mode.lacks == "disk" and not may_mount():
        pytest.skip("needs the right to mount: a small disk cannot be made of anything else")
    if mode.lacks == "descriptors" and shutil.which("prlimit") is None:
        pytest.skip("needs the prlimit command")
    if mode.tls and shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificates")
    print(f"FORKSERVE_SOAK_SEED={SEED}")
    record = Record(mode, SEED)
    with ExitStack() as stack:
        s = stack.enter_context(_serve(mode, tmp_path))
        at_rest = max(len(open_files(pid)) for pid in s.workers())
        tls = client_context() if mode.tls else None
        clients = [Client(n, ANSWERS // CLIENTS, record, _places(s), tls) for n in range(CLIENTS)]
        with Disturber(s, record) as disturber:
            _run(clients)
        print(disturber.done, disturber.peak >> 20, "MiB at most", record.outcomes)
        assert not record.complaints, _told(record.complaints)
        try:
            wait_until(lambda: _is_calm(s, at_rest + 3), "the calm after it")
        except AssertionError:
            print(
                at_rest, "descriptors at rest", *(sorted(open_files(pid)) for pid in s.workers()), status(s), sep="\n"
            )
            raise
        assert disturber.peak < MOST_BYTES
        assert max(psutil.Process(pid).memory_info().rss for pid in s.workers()) < MOST_BYTES
        assert list((s.folder / "tmp").iterdir()) == []
        assert sum(count for name, count in record.outcomes.items() if name.endswith("whole")) >= ANSWERS / 2


def _run(clients: Iterable[Client]) -> None:
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def _told(complaints: list[str]) -> str:
    """The complaints by their kind, and some of them in full."""
    kinds = Counter(" ".join(complaint.split(" (")[0].split()) for complaint in complaints)
    shown = "\n".join(complaints[:20])
    return f"{len(complaints)} wrong answers (FORKSERVE_SOAK_SEED={SEED}):\n{kinds}\n{shown}"
