"""A crowd of keep-alive clients, each of which is asked which worker holds it; and the app that tells."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.client import Client
from tests.harness import Server
from tests.process.tools import Gate

# Every answer tells who gave it. /gate?FIFO waits there, /gil?FIFO does so in C with the interpreter lock held,
# /slow?SECONDS sleeps; /fork, /run and /spawn make that many processes, one after the other, and tell of them.
APP = '''
import ctypes, gc, json, multiprocessing, os, subprocess, time

def told_by_child():
    """Whether garbage is collected here, and how many sockets are open."""
    sockets = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            sockets += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            pass
    return int(gc.isenabled()) + 2 * sockets

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(told_by_child())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def leave():
    os._exit(told_by_child())

def spawn():
    child = multiprocessing.get_context("fork").Process(target=leave)
    child.start()
    child.join()
    return child.exitcode

def run():
    return 1 - subprocess.run(["true"]).returncode

def wait_in_c(fifo):
    c = ctypes.PyDLL(None)
    fd = c.open(fifo.encode(), os.O_RDONLY)
    c.read(fd, ctypes.create_string_buffer(1), 1)
    os.close(fd)

MAKERS = {"/fork": fork, "/run": run, "/spawn": spawn}

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    told = {name: value for name, value in environ.items() if name.startswith(("REMOTE", "SERVER"))}
    told |= {"pid": os.getpid(), "generation": environ["forkserve.generation"], "query": query}
    told["body"] = environ["wsgi.input"].read().decode("latin-1")
    if path == "/gate":
        with open(query, "rb") as fifo:
            fifo.read()
    elif path == "/gil":
        wait_in_c(query)
    elif path == "/slow":
        time.sleep(float(query))
    elif path in MAKERS:
        told["children"] = [MAKERS[path]() for _ in range(int(query))]
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
'''


def serve(**settings: Any) -> Server:
    """A server of this app, to be started."""
    s = Server(app="crowd_app:app", **{"keepalive": 60, "reload_settle": 0, **settings})
    s.write_app(APP, "crowd_app")
    return s


def told(client: Client) -> dict[str, Any]:
    """Read one answer, which must be good and must not announce the connection's end."""
    reply = client.reply()
    assert reply.code == 200, reply.line
    assert reply.values("Connection") == [], "the connection is kept"
    found = json.loads(reply.body)
    assert isinstance(found, dict)
    return found


def who(client: Client) -> int:
    """The pid of the worker that holds this client: nobody else is asked while that one is idle."""
    pid = told(client.get("/"))["pid"]
    assert isinstance(pid, int)
    return pid


@contextmanager
def crowd(s: Server, count: int) -> Iterator[list[Client]]:
    """So many clients, each of which has been answered once."""
    with ExitStack() as held:
        clients = [held.enter_context(Client(s)) for _ in range(count)]
        for client in clients:
            who(client)
        yield clients


@contextmanager
def houses(s: Server, workers: int, each: int) -> Iterator[dict[int, list[Client]]]:
    """``each`` clients at every worker, by its pid: the others stand at gates while they come."""
    with ExitStack() as held:
        found: dict[int, list[Client]] = {}
        for place in range(workers):
            with ExitStack() as strangers:
                busy = [house[0] for house in found.values()]
                busy += [strangers.enter_context(Client(s)) for _ in range(workers - 1 - place)]
                with ExitStack() as gates:
                    for number, client in enumerate(busy):
                        gate = gates.enter_context(Gate(s, f"door{place}.{number}"))
                        client.get(gate.path)
                        gate.wait_entered()
                    clients = [held.enter_context(Client(s)) for _ in range(each)]
                    [pid] = {who(client) for client in clients}
                for client in busy:
                    told(client)
            found[pid] = clients
        yield found


def descriptors(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))
