"""One run of benchmarks/ends.py: a server and a caching nginx, requests of every kind under way, and then their end.

The app leaves a file where it has come to; so what is done to the server is done amid the body of every response. All
waits are bounded, and nothing is left behind.
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import tree
from benchmarks.end_cases import SILENT_S, WHOLE, Act, Asked, Batch, Group, asked
from benchmarks.end_front import freeze, fronted
from benchmarks.end_judge import Judged, judge, judge_cache
from benchmarks.end_wire import Client, request
from benchmarks.errors import InvalidRunError
from benchmarks.measure import free_port, has_ended, started
from benchmarks.servers import APPS

_START_S = 40.0
_BEGIN_S = 25.0
_ENDED_S = 30.0
_SETTLE_S = 0.3  # what has been given away arrives meanwhile
_SILENCE_S = SILENT_S + 3.0  # deadlines are looked at once a second
_POLL_S = 0.02
_SECOND = "then=whole&size=1"


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one request."""

    batch: Batch
    asked: Asked
    judged: Judged


def run(batch: Batch, program: Path, tree_of_code: Path, bytecode: Path) -> list[Seen]:
    """Run one batch. Raises InvalidRunError where a server or the app does not come as far as it should."""
    with tempfile.TemporaryDirectory(prefix="ends-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "body").write_bytes(WHOLE)
        places = _places(batch, folder)
        wanted = asked(batch)
        workers = batch.subject.workers(len(wanted), batch.threads)
        words = batch.subject.arguments(batch.end, workers, batch.threads, places)
        if batch.group is Group.TLS:
            words += _certificate(folder)
        log = stack.enter_context((folder / "log").open("w+b"))
        env = _environment(batch, folder, tree_of_code, bytecode)
        pid = stack.enter_context(started([str(program), *words], APPS, env, log))
        nginx, front = stack.enter_context(fronted(folder / "nginx", batch.channels, places))
        _await(lambda: has_ended(pid) or len(list(folder.glob("ready-*"))) >= workers, _START_S, "no server")
        for place in (*places.values(), front):
            _await(partial(_either, partial(_listens, place), pid), _START_S, f"nobody listens at {place}")
        if has_ended(pid):
            raise InvalidRunError("the server ended before it was asked")
        return _asked(batch, wanted, _World(folder, places, front, pid, nginx))


@dataclass(frozen=True, slots=True)
class _World:
    folder: Path
    places: Mapping[tuple[str, str], str]
    front: str
    server: int
    nginx: int


def _asked(batch: Batch, wanted: list[Asked], world: _World) -> list[Seen]:
    end = batch.end
    clients: dict[Asked, Client] = {}
    for one in wanted:  # one by one: none comes to a worker that is at work, which could not always pass it on
        query = (
            f"token={one.token}&then={end.then}&first={end.first}&by={one.by}&length={int(one.channel.protocol.length)}"
        )
        if one.cached:
            clients[one] = client = Client(world.front, _through_nginx(one, query))
        else:
            sent = request(one.channel.protocol, query)
            place = world.places[one.channel.address]
            clients[one] = client = Client(place, sent, tls=one.channel.tls, reads=one.reads)
        # Who does not read may keep the app from its gate; but its answer has begun.
        note = world.folder / f"at-{one.token}"
        begun = note.exists if one.reads or end.act is Act.SILENCE else client.begun.is_set
        _await(partial(_either, begun, world.server), _BEGIN_S, f"{one.token} did not begin")
    time.sleep(_SETTLE_S)
    _do(end.act, world)
    for client in clients.values():
        client.go_on()
    seconds: dict[Asked, Client] = {}
    for client in clients.values():
        client.finish()
    for one in clients:
        if one.cached:
            seconds[one] = Client(world.front, _through_nginx(one, _SECOND))
    found = []
    for one, client in clients.items():
        if one.cached:
            seconds[one].finish()
            judged = judge_cache(judge(client.data, client.end, WHOLE), seconds[one].data, seconds[one].end, WHOLE)
        else:
            judged = judge(client.data, client.end, WHOLE, fastcgi=one.channel.protocol.family == "fastcgi")
        found.append(Seen(batch, one, judged))
    return found


def _through_nginx(one: Asked, query: str) -> bytes:
    return f"GET /{one.channel.name}/{one.token}?{query} HTTP/1.1\r\nHost: ended\r\nConnection: close\r\n\r\n".encode()


def _do(act: Act, world: _World) -> None:
    """End the responses, and return when they have ended."""
    workers = set(tree.pids(world.server)) - {world.server}

    def are_gone() -> bool:
        return has_ended(world.server) or not workers & set(tree.pids(world.server))

    match act:
        case Act.NOTHING:
            pass
        case Act.SILENCE:
            freeze(world.nginx, True)
            (world.folder / "gate").touch()
            time.sleep(_SILENCE_S)
            freeze(world.nginx, False)
        case Act.KILL:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            _await(are_gone, _ENDED_S, "workers outlived KILL")
        case Act.WAIT:
            workers = {int(note.read_text()) for note in world.folder.glob("at-*")}
            _await(are_gone, _ENDED_S, "the workers did not end")
        case Act.HUP:
            os.kill(world.server, signal.SIGHUP)
            _await(are_gone, _ENDED_S, "the workers did not end")
        case Act.TERM | Act.INT:
            os.kill(world.server, signal.SIGTERM if act is Act.TERM else signal.SIGINT)
            _await(lambda: has_ended(world.server), _ENDED_S, "the server did not end")


def _places(batch: Batch, folder: Path) -> dict[tuple[str, str], str]:
    addresses = dict.fromkeys(channel.address for channel in batch.channels)
    return {
        (family, transport): f"127.0.0.1:{free_port()}" if transport == "tcp" else str(folder / f"{family}.sock")
        for family, transport in addresses
    }


def _environment(batch: Batch, folder: Path, tree_of_code: Path, bytecode: Path) -> dict[str, str]:
    theirs = ("PYTHON", "FORKSERVE", "GUNICORN", "UWSGI")
    env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    env |= {"PYTHONPYCACHEPREFIX": str(bytecode), "ENDED_FOLDER": str(folder)}
    if batch.subject.own:
        env["PYTHONPATH"] = str(tree_of_code)
    return env


def _certificate(folder: Path) -> list[str]:
    """Make a certificate; the words that give it to the server."""
    file, key = str(folder / "it.crt"), str(folder / "it.key")
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", key, "-out", file, "-days", "2", "-subj", "/CN=ended",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return ["--certfile", file, "--keyfile", key]


def _listens(place: str) -> bool:
    host, colon, port = place.rpartition(":")
    with socket.socket(socket.AF_INET if colon else socket.AF_UNIX) as sock:
        sock.settimeout(5)
        try:
            sock.connect((host, int(port)) if colon else place)
        except OSError:
            return False
        return True


def _either(fact: Callable[[], bool], pid: int) -> bool:
    return fact() or has_ended(pid)


def _await(fact: Callable[[], bool], bound_s: float, otherwise: str) -> None:
    until = time.monotonic() + bound_s
    while not fact():
        if time.monotonic() > until:
            raise InvalidRunError(otherwise)
        time.sleep(_POLL_S)
