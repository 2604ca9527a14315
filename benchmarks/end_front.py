"""A caching nginx in front of one server, for benchmarks/ends.py: a location for each channel, in a folder of its own.

It runs in the foreground and keeps whatever looks like a whole 200 for an hour, as its documentation shows it.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.end_cases import Channel
from benchmarks.measure import free_port, started

_PASS = {"http": "proxy", "uwsgi": "uwsgi", "scgi": "scgi", "fastcgi": "fastcgi"}
_PARAMS = Path("/etc/nginx")


@contextmanager
def fronted(
    folder: Path, channels: Sequence[Channel], places: Mapping[tuple[str, str], str]
) -> Iterator[tuple[int, str]]:
    """Run nginx; give its pid, which is its process group too, and its address."""
    folder.mkdir()
    place = f"127.0.0.1:{free_port()}"
    kinds = ("client_body", "proxy", "uwsgi", "fastcgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    caches = " ".join(f"{word}_cache_path {folder}/kept-{word} keys_zone={word}:1m;" for word in _PASS.values())
    locations = "\n".join(_location(channel, places[channel.address]) for channel in channels)
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log info;
{"user root;" if os.getuid() == 0 else ""}
events {{ worker_connections 512; }}
http {{
    access_log off; {temporary}
    {caches}
    server {{
        listen {place}; add_header X-Cache $upstream_cache_status always;
{locations}
    }}
}}
""")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with (folder / "output").open("w+b") as log, started(command, folder, dict(os.environ), log) as pid:
        try:
            yield pid, place
        finally:
            freeze(pid, False)


def freeze(pid: int, is_frozen: bool) -> None:
    """Stop all of nginx, or let it go on: while it stands still, it is a client that reads nothing."""
    try:
        os.killpg(pid, signal.SIGSTOP if is_frozen else signal.SIGCONT)
    except ProcessLookupError:
        pass


def _location(channel: Channel, place: str) -> str:
    """The location that asks a server by a channel and caches what it says."""
    word = _PASS[channel.protocol.family]
    shown = place if ":" in place else f"unix:{place}"
    target = f"{'https' if channel.tls else 'http'}://{shown}" if word == "proxy" else shown
    more = f"include {_PARAMS}/{word}_params;" if word != "proxy" else ""
    if channel.protocol.version == "1.1":
        more = "proxy_http_version 1.1;"
    if channel.protocol.kept:
        more += " fastcgi_keep_conn on;"
    return (
        f"        location /{channel.name}/ {{ {more} {word}_pass {target}; {word}_buffering on; {word}_cache {word};"
        f" {word}_cache_key $uri; {word}_cache_valid 200 1h; {word}_read_timeout 20s; }}"
    )
