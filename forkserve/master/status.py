"""The status: what the master knows, as plain data for whoever asks. Runs in the master; reads, changes nothing."""

import socket
import struct
from collections.abc import Iterable
from typing import Any

from forkserve import __version__
from forkserve.config.settings import Settings
from forkserve.master.children import Children
from forkserve.master.records import Record
from forkserve.master.supervisor import Supervisor
from forkserve.net.listener import Listener
from forkserve.unix.scoreboard import BEGAN, DEADLINE, REQUESTS

# struct tcp_info of linux/tcp.h: for a listener tcpi_unacked is the depth of its accept queue, tcpi_sacked the limit.
_UNACKED_AT, _TCP_INFO_BYTES = 24, 32


def snapshot(
    mind: Supervisor, children: Children, listeners: Iterable[Listener], settings: Settings, now: float, began_at: float
) -> dict[str, Any]:
    """Return the whole status; ages in seconds."""
    return {
        "version": __version__,
        "app": settings.app,
        "phase": mind.phase.value,
        "uptime_s": round(now - began_at, 3),
        "generation": mind.generation,
        "serving": mind.serving,
        "size": mind.size,
        "ready": mind.ready,
        "reloading": mind.reloading,
        "upgrading": mind.upgrading,
        "degraded": mind.degraded,
        "last_error": mind.last_error,
        "ends": mind.ends,
        "listeners": [_listener(listener) for listener in listeners],
        "workers": [_worker(record, children, now) for record in mind.records],
    }


def _listener(listener: Listener) -> dict[str, Any]:
    waiting = limit = None
    try:
        if listener.socket.family != socket.AF_UNIX:
            raw = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            waiting, limit = struct.unpack_from("2I", raw, _UNACKED_AT)
    except (OSError, struct.error):
        pass  # not TCP, or a kernel that says less
    return {"address": listener.name, "waiting": waiting, "limit": limit}


def _worker(record: Record, children: Children, now: float) -> dict[str, Any]:
    child = children.get(record.id)
    told: dict[str, Any] = {
        "id": record.id,
        "slot": record.slot,
        "pid": child.pid if child is not None else None,
        "generation": record.generation,
        "stage": record.stage.value,
        "stage_s": round(now - record.since, 3),
        "why": record.why or record.tired,
        "requests": 0,
        "request": None,
        "request_s": None,
    }
    if child is not None:
        row = child.row
        told["requests"] = row.ints[REQUESTS]
        if row.moment(DEADLINE):
            told["request"] = row.line
            told["request_s"] = round(max(0.0, now - row.moment(BEGAN)), 3)
    return told
