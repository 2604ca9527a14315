"""The settings: one declaration per option, and nothing else.

A declaration gives the TOML key, the type, the default, the flag, the variable, the help text, the line of the
reference page and the moment at which a change takes effect. Names and short flags are Gunicorn's wherever
Gunicorn has the setting. Importable by every module; imports none of ours; knows no file, argv or environment.
"""

from enum import Enum
from functools import cache
from typing import Any

from forkserve.typed import Struct


class Kind(Enum):
    """How the written form of a value is read; config/values.py has a reader for each."""

    TEXT = "text"
    PATH = "path"
    INTEGER = "integer"
    DURATION = "duration"  # seconds as a float; written 30, 0.5, "30s", "2m", "1h"
    SIZE = "size"  # bytes as an int; written 1048576, "16MiB", "64kB"
    CHOICE = "choice"
    SHARE = "share"  # kept as text: a number, or a part of another setting's value; written 2 or "25%"
    APP = "app"
    ADDRESSES = "addresses"  # written "127.0.0.1:8000" or a list of such


class Effect(Enum):
    """When a changed value takes effect."""

    NOW = "now"  # HUP: the master goes by it at once
    RELOAD = "reload"  # HUP: new workers have it
    UPGRADE = "upgrade"  # only a new master has it


class Option(Struct, frozen=True):
    """What is declared about one setting beside its type and default."""

    kind: Kind
    help: str
    section: str
    effect: Effect = Effect.RELOAD
    flags: tuple[str, ...] = ()  # spelled out where they are not just --name-with-dashes
    variables: tuple[str, ...] = ()  # read after FORKSERVE_<NAME>
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""


class Declared(Struct, frozen=True):
    """One setting as the rest of config/ sees it: its name, default and declaration."""

    name: str
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """The command line flags, short ones first."""
        return self.option.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables, the first one that is set wins."""
        return ("FORKSERVE_" + self.name.upper(), *self.option.variables)


_options: list[Option] = []  # in the order of declaration


def _set(default: Any, kind: Kind, section: str, help: str, **more: Any) -> Any:
    """Declare a setting and return its default."""
    _options.append(Option(kind, help, section, **more))
    return default


_ACCESS_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


class Settings(Struct, frozen=True, kw_only=True):
    """All settings, typed and frozen; durations are seconds, sizes are bytes."""

    app: str = _set(
        "", Kind.APP, "Application",
        "The WSGI app: `module:attr`, `module` (its `application`, else `app`, else `wsgi`) or"
        " `module:factory('x', k=1)` with literal arguments. Also the command line's argument.",
        metavar="APP",
    )  # fmt: skip
    chdir: str = _set(
        "", Kind.PATH, "Application",
        "The folder that workers change to before they import the app, and the first place they import from."
        " Symlinks are followed anew for each worker. Empty: the folder forkserve was started in.",
        metavar="DIR",
    )  # fmt: skip

    bind: tuple[str, ...] = _set(
        ("127.0.0.1:8000",), Kind.ADDRESSES, "Sockets",
        "Where to listen: `HOST:PORT`, `:PORT`, `[::1]:PORT`, `unix:PATH`, `unix:@name` (abstract) or `fd://N`"
        " (a listening socket that was handed in). May be given several times. `PORT` stands for `0.0.0.0:$PORT`."
        " Where a service manager hands in sockets (LISTEN_FDS), those are the default.",
        flags=("-b", "--bind"), variables=("PORT",), metavar="ADDRESS",
    )  # fmt: skip
    backlog: int = _set(
        2048, Kind.INTEGER, "Sockets",
        "How many connections may wait in the accept queue of each address; the kernel's somaxconn caps it.",
        minimum=1, maximum=65535, effect=Effect.NOW,
    )  # fmt: skip

    workers: int = _set(
        1, Kind.INTEGER, "Workers",
        "How many workers serve. TTIN and TTOU change it while running.",
        flags=("-w", "--workers"), variables=("WEB_CONCURRENCY",), minimum=1, maximum=1024, effect=Effect.NOW,
    )  # fmt: skip
    worker_class: str = _set(
        "sync", Kind.CHOICE, "Workers",
        "The kind of worker. There is one: `sync` runs one request at a time and holds slow clients outside the app.",
        flags=("-k", "--worker-class"), choices=("sync",),
    )  # fmt: skip
    worker_connections: int = _set(
        1000, Kind.INTEGER, "Workers",
        "How many connections one worker holds at once; it accepts no more until one has ended.",
        minimum=1, maximum=1_000_000,
    )  # fmt: skip
    timeout: float = _set(
        30.0, Kind.DURATION, "Workers",
        "How long the app may work on one request before the worker's stacks are logged and it is replaced."
        " 0: for ever.",
        flags=("-t", "--timeout"), minimum=0,
    )  # fmt: skip
    graceful_timeout: float = _set(
        30.0, Kind.DURATION, "Workers",
        "The grace: how long a retiring worker may take to finish its requests before it is killed.", minimum=0,
        effect=Effect.NOW,
    )  # fmt: skip
    drain_delay: float = _set(
        0.0, Kind.DURATION, "Workers",
        "How long a graceful stop goes on accepting before it drains: the time that a load balancer takes to notice.",
        minimum=0, effect=Effect.NOW,
    )  # fmt: skip
    boot_timeout: float = _set(
        60.0, Kind.DURATION, "Workers",
        "How long a worker may take from its fork until it is ready to serve. 0: for ever.", minimum=0,
        effect=Effect.NOW,
    )  # fmt: skip

    reload_surge: str = _set(
        "1", Kind.SHARE, "Reload",
        "How many workers beyond `workers` may live while others are being replaced; or that part of them, rounded up.",
        minimum=1, maximum=1024, effect=Effect.NOW,
    )  # fmt: skip
    reload_retries: int = _set(
        2, Kind.INTEGER, "Reload",
        "How many more times a new generation may try to boot before the reload is given up and the old one stays.",
        minimum=0, maximum=1000, effect=Effect.NOW,
    )  # fmt: skip
    reload_timeout: float = _set(
        600.0, Kind.DURATION, "Reload",
        "How long a reload may take before it is given up and the old generation stays. 0: for ever.", minimum=0,
        effect=Effect.NOW,
    )  # fmt: skip

    max_requests: int = _set(
        0, Kind.INTEGER, "Recycling",
        "How many requests a worker answers before it is replaced: the replacement first. 0: no limit.", minimum=0,
    )  # fmt: skip
    max_requests_jitter: str = _set(
        "10%", Kind.SHARE, "Recycling",
        "How many fewer or more requests than `max_requests` it may be, drawn for each worker, so that they are not"
        " all replaced at once.", minimum=0,
    )  # fmt: skip
    max_worker_lifetime: float = _set(
        0.0, Kind.DURATION, "Recycling", "How long a worker serves before it is replaced. 0: no limit.", minimum=0,
    )  # fmt: skip
    max_worker_lifetime_jitter: str = _set(
        "10%", Kind.SHARE, "Recycling",
        "How many seconds, or what part, more or less than `max_worker_lifetime` it may be.", minimum=0,
    )  # fmt: skip
    max_worker_memory: int = _set(
        0, Kind.SIZE, "Recycling",
        "The resident memory at which a worker is replaced; looked at after a request, at most once a"
        " second. 0: no limit.",
        minimum=0,
    )  # fmt: skip
    max_worker_memory_hard: int = _set(
        0, Kind.SIZE, "Recycling",
        "The resident memory at which the master kills a worker, whatever it does; looked at each second. 0: no limit.",
        minimum=0, effect=Effect.NOW,
    )  # fmt: skip

    keepalive: float = _set(
        5.0, Kind.DURATION, "Clients",
        "How long an idle connection is kept for its next request. 0: every response closes its connection.",
        flags=("--keep-alive",), minimum=0,
    )  # fmt: skip
    header_timeout: float = _set(
        10.0, Kind.DURATION, "Clients",
        "How long a client may take to send the whole head of a request. 0: for ever.", minimum=0,
    )  # fmt: skip
    body_timeout: float = _set(
        30.0, Kind.DURATION, "Clients",
        "How long a client may be silent while it sends a body. 0: for ever.", minimum=0,
    )  # fmt: skip
    send_timeout: float = _set(
        30.0, Kind.DURATION, "Clients",
        "How long a client may take nothing of a response that waits for it. 0: for ever.", minimum=0,
    )  # fmt: skip
    limit_request_line: int = _set(
        4094, Kind.SIZE, "Clients", "The longest request line, in bytes; a longer one is answered with 414.",
        minimum=16, maximum=1 << 20,
    )  # fmt: skip
    limit_request_fields: int = _set(
        100, Kind.INTEGER, "Clients", "How many header fields a request may have; more are answered with 431.",
        minimum=1, maximum=32768,
    )  # fmt: skip
    limit_request_field_size: int = _set(
        8190, Kind.SIZE, "Clients", "The longest header field, in bytes; a longer one is answered with 431.",
        flags=("--limit-request-field-size", "--limit-request-field_size"), minimum=16, maximum=1 << 20,
    )  # fmt: skip
    limit_request_body: int = _set(
        1 << 30, Kind.SIZE, "Clients", "The largest body, in bytes; a larger one is answered with 413. 0: no limit.",
        minimum=0,
    )  # fmt: skip

    pidfile: str = _set(
        "", Kind.PATH, "Process",
        "Where the master writes its PID. The file stays locked while it lives. Empty: none.",
        effect=Effect.UPGRADE, flags=("-p", "--pid"), metavar="FILE",
    )  # fmt: skip
    proc_name: str = _set(
        "", Kind.TEXT, "Process",
        "A name that process titles show, to tell instances apart.", flags=("-n", "--name"), metavar="NAME",
    )  # fmt: skip

    control_socket: str = _set(
        "auto", Kind.PATH, "Process",
        "Where forkservectl reaches the master: a path, made with mode 0600; or `auto`, an abstract socket named after"
        " its PID, which needs no folder. Only the same user and root are heard. Empty: none.",
        effect=Effect.UPGRADE, metavar="PATH",
    )  # fmt: skip

    errorlog: str = _set(
        "-", Kind.PATH, "Logs", "Where the error log goes; `-` is stderr. USR1 reopens it.",
        flags=("--error-logfile", "--log-file"), metavar="FILE",
    )  # fmt: skip
    loglevel: str = _set(
        "info", Kind.CHOICE, "Logs", "The least severe level that the error log shows.",
        flags=("--log-level",), choices=("debug", "info", "warning", "error", "critical"), effect=Effect.NOW,
    )  # fmt: skip
    accesslog: str = _set(
        "", Kind.PATH, "Logs", "Where the access log goes; `-` is stdout. Empty: none. USR1 reopens it.",
        flags=("--access-logfile",), metavar="FILE",
    )  # fmt: skip
    access_log_format: str = _set(
        _ACCESS_FORMAT, Kind.TEXT, "Logs", "The line of the access log, with Gunicorn's atoms.",
        flags=("--access-logformat",), metavar="FORMAT",
    )  # fmt: skip


@cache
def declared() -> dict[str, Declared]:
    """All settings by name, in the order of declaration."""
    defaults = Settings()
    return {
        name: Declared(name, getattr(defaults, name), option)
        for name, option in zip(Settings.__struct_fields__, _options, strict=True)
    }
