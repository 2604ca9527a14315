"""Very many mutated requests to a running server: its workers stay the ones they were, and do not grow.

What is served goes through wsgiref.validate: an environ that PEP 3333 does not allow would be a 500, and there is none.
FORKSERVE_FUZZ_REQUESTS=<number>: how many. FORKSERVE_FUZZ_SEED=<number>: which; it is printed.
"""

import os
import random
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.fuzz.mutate import VALID, mutated
from tests.harness import Server

REQUESTS = int(os.environ.get("FORKSERVE_FUZZ_REQUESTS", "0")) or 4000
SEED = int(os.environ.get("FORKSERVE_FUZZ_SEED", "20261120"))
PIPELINED = 6
CLIENTS = 4
MOST_GROWTH_BYTES = 24 << 20  # the heap settles within the first thousands; a leak of 200 bytes a request would show
APP = """
from wsgiref.validate import validator

@validator
def validated(environ, start_response):
    size = str(len(environ["wsgi.input"].read(-1)))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(size)))])
    return [size.encode()]

def app(environ, start_response):
    if environ["PATH_INFO"] == "*":  # of OPTIONS: PEP 3333 has no word for it, and the validator no patience
        environ["PATH_INFO"] = ""
        environ["SCRIPT_NAME"] = "/asterisk"
    return validated(environ, start_response)
"""
STATUS = re.compile(rb"HTTP/1[.]1 (\d{3}) ")


def attack(server: Server, seed: int, count: int) -> Counter[str]:
    """Send at least ``count`` mutated requests that the server has read; what was answered, by status."""
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    read = 0
    while read < count:
        requests = [mutated(chance) for _ in range(PIPELINED)]
        if chance.random() < 0.2:
            requests.insert(chance.randrange(PIPELINED), chance.choice(VALID))
        codes = [code.decode() for code in STATUS.findall(exchange(server, b"".join(requests)))]
        seen.update(codes)
        # A request that is answered was read; those behind one that closes the connection were not, and do not count.
        answered = len(codes) - codes.count("100")
        if not answered:
            seen["no answer"] += 1
        read += max(1, answered)
    return seen


def exchange(server: Server, raw: bytes) -> bytes:
    """Send it on a connection of its own and read to the end, be that a reset."""
    answer = b""
    with server.connect() as sock:
        try:
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                answer += piece
        except TimeoutError:
            raise
        except OSError:  # it was refused, and there was more of it than the server cared to read
            pass
    return answer


def memory(pids: list[int]) -> int:
    """The resident memory of these processes."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


def test_very_many_mutated_requests_leave_the_workers_as_they_were() -> None:
    server = Server(app="fuzzed_app:app", workers=2, loglevel="warning", timeout=20, env={"PYTHONWARNINGS": "ignore"})
    server.write_app(APP, "fuzzed_app")
    with server:
        pids = sorted(server.workers())
        began = time.monotonic()
        attack(server, SEED, min(2000, REQUESTS // 2))
        settled = memory(pids)
        with ThreadPoolExecutor(CLIENTS) as pool:
            tasks = [pool.submit(attack, server, SEED + 1 + n, REQUESTS // CLIENTS + 1) for n in range(CLIENTS)]
            seen = sum((task.result() for task in tasks), Counter[str]())
        grown = memory(pids) - settled
        took_s = time.monotonic() - began
        print(f"\nseed {SEED}: {sum(seen.values())} answers in {took_s:.0f} s: {dict(seen.most_common())}")
        print(f"both workers grew by {grown / 2**20:.1f} MiB")
        assert sorted(server.workers()) == pids
        assert grown < MOST_GROWTH_BYTES
        assert {code for code in seen if code.startswith("5")} <= {"501", "505"}, seen
        assert seen["200"] > REQUESTS / 20, "it was to reach the app too"
        assert seen["400"] > REQUESTS / 20, "it was to be refused too"
        assert server.get("/").status == 200
