"""The settings of the service itself: the app, its sockets, its workers and how they are replaced.

One declaration per option: the TOML key, the type, the default, the flag, the variable, the help text, the line of the
reference page and the moment at which a change takes effect. Names and short flags are Gunicorn's wherever Gunicorn
has the setting. Knows no file, argv or environment. The others stand in config/settings.py.
"""

from forkserve.config.options import Effect, Kind, declare
from forkserve.typed import Struct


class PoolSettings(Struct, frozen=True, kw_only=True):
    """The first half of the settings, see Settings."""

    app: str = declare(
        "", Kind.APP, "Application",
        "The WSGI app: `module:attr`, `module` (its `application`, else `app`, else `wsgi`) or"
        " `module:factory('x', k=1)` with literal arguments. Also the command line's argument.",
        metavar="APP",
    )  # fmt: skip
    chdir: str = declare(
        "", Kind.PATH, "Application",
        "The folder that workers change to before they import the app, and the first place they import from."
        " Symlinks are followed anew for each worker. Empty: the folder forkserve was started in.",
        metavar="DIR",
    )  # fmt: skip

    pythonpath: str = declare(
        "", Kind.TEXT, "Application",
        "Folders, with commas between, from which workers import before those that Python knows by itself.",
        metavar="DIRS",
    )  # fmt: skip

    bind: tuple[str, ...] = declare(
        ("127.0.0.1:8000",), Kind.ADDRESSES, "Sockets",
        "Where to listen: `HOST:PORT`, `:PORT`, `[::1]:PORT`, `unix:PATH`, `unix:@name` (abstract), `fd://N`"
        " or `fd://NAME` (listening sockets that were handed in). An address that a socket handed in listens at already"
        " means that socket. Another protocol stands in front: `uwsgi://127.0.0.1:3031`, `fastcgi://unix:PATH`,"
        " `scgi://HOST:PORT`. May be given several times, each place once. `PORT` stands for `0.0.0.0:$PORT`."
        " Where a service manager hands in sockets (LISTEN_FDS), those are the default.",
        flags=("-b", "--bind"), variables=("PORT",), metavar="ADDRESS",
    )  # fmt: skip
    protocol: str = declare(
        "http", Kind.CHOICE, "Sockets",
        "What is spoken at addresses that name no protocol; `http://` in front makes an exception.",
        choices=("http", "uwsgi", "fastcgi", "scgi"),
    )  # fmt: skip
    backlog: int = declare(
        2048, Kind.INTEGER, "Sockets",
        "How many connections may wait in the accept queue of each address; the kernel's somaxconn caps it.",
        minimum=1, maximum=65535, effect=Effect.NOW,
    )  # fmt: skip

    reuse_port: bool = declare(
        False, Kind.FLAG, "Sockets",
        "Let other processes bind the same TCP ports too (SO_REUSEPORT). Each of them gets its own part of the"
        " connections, and those queued with one that ends are reset: only for a hand-over between two services.",
        effect=Effect.UPGRADE,
    )  # fmt: skip

    socket_mode: str = declare(
        "", Kind.TEXT, "Sockets",
        'The permissions of unix sockets, in octal: `socket_mode = "0660"`. Who may write may connect. Empty: all that'
        " `umask` leaves.", metavar="OCTAL", effect=Effect.BIND,
    )  # fmt: skip
    socket_user: str = declare(
        "", Kind.TEXT, "Sockets", "Whom the files of unix sockets belong to. Empty: to who started forkserve.",
        metavar="USER", effect=Effect.BIND,
    )  # fmt: skip
    socket_group: str = declare(
        "", Kind.TEXT, "Sockets", "The group of the files of unix sockets. Empty: that of who started forkserve.",
        metavar="GROUP", effect=Effect.BIND,
    )  # fmt: skip

    workers: int = declare(
        1, Kind.INTEGER, "Workers",
        "How many workers serve. TTIN and TTOU change it while running.",
        flags=("-w", "--workers"), variables=("WEB_CONCURRENCY",), minimum=1, maximum=1024, effect=Effect.NOW,
    )  # fmt: skip
    worker_class: str = declare(
        "sync", Kind.CHOICE, "Workers",
        "The kind of worker. There is one: `sync` runs one request at a time and holds slow clients outside the app.",
        flags=("-k", "--worker-class"), choices=("sync",),
    )  # fmt: skip
    threads: int = declare(
        1, Kind.INTEGER, "Workers",
        "How many threads of a worker run the app. With more than one, `wsgi.multithread` is true and the app must bear"
        " it; a slow request then holds up no other one of its worker.", minimum=1, maximum=1024,
    )  # fmt: skip
    relay: bool = declare(
        True, Kind.FLAG, "Workers",
        "Let workers pass connections on to each other: one that runs a slow request gives away those that wait behind"
        " it, one that retires its idle ones. It takes a second thread in each worker; false: strictly one thread.",
    )  # fmt: skip
    worker_connections: int = declare(
        1000, Kind.INTEGER, "Workers",
        "How many connections one worker holds at once. When there are as many, those that wait for a next request make"
        " room, the longest first; else newcomers wait in the accept queue. Each worker raises its"
        " own limit of descriptors to what that needs, two for each connection and some more, as far as the hard limit"
        " goes.",
        minimum=1, maximum=1_000_000,
    )  # fmt: skip
    timeout: float = declare(
        30.0, Kind.DURATION, "Workers",
        "How long the app may be silent in a request before the worker's stacks are logged and it is replaced: from"
        " the beginning to the first part of its response, and from each part to the next. 0: for ever.",
        flags=("-t", "--timeout"), minimum=0,
    )  # fmt: skip
    request_timeout: float = declare(
        0.0, Kind.DURATION, "Workers",
        "How long a whole request may take, whatever parts of its response the app gives meanwhile; then the same"
        " happens. The wait for a client who reads slowly counts too, as long as the app waits. 0: for ever.",
        minimum=0,
    )  # fmt: skip
    graceful_timeout: float = declare(
        30.0, Kind.DURATION, "Workers",
        "The grace: how long a retiring worker may take to finish its requests, and the threads that they have begun,"
        " before it is killed.", minimum=0,
        effect=Effect.NOW,
    )  # fmt: skip
    drain_delay: float = declare(
        0.0, Kind.DURATION, "Workers",
        "How long a graceful stop goes on accepting before it drains: the time that a load balancer takes to notice.",
        minimum=0, effect=Effect.NOW,
    )  # fmt: skip
    boot_timeout: float = declare(
        60.0, Kind.DURATION, "Workers",
        "How long a worker may take from its fork until it is ready to serve. 0: for ever.", minimum=0,
        effect=Effect.NOW,
    )  # fmt: skip

    reload_surge: str = declare(
        "1", Kind.SHARE, "Reload",
        "How many workers beyond `workers` may live while others are being replaced; or that part of them, rounded up."
        " 0: none, so the old one leaves first, one at a time, and until the new one serves there is one worker less:"
        " for apps that take a port or a lock while they are imported.",
        minimum=0, maximum=1024, effect=Effect.NOW,
    )  # fmt: skip
    reload_retiring: str = declare(
        "100%", Kind.SHARE, "Reload",
        "How many workers that only finish their last requests may live beside these; or that part of `workers`,"
        " rounded up. Beyond it they count as workers, so a reload waits for long downloads: less memory, more time.",
        minimum=0, maximum=1024, effect=Effect.NOW,
    )  # fmt: skip
    reload_settle: float = declare(
        1.0, Kind.DURATION, "Reload",
        "How long the first worker of a new generation must have been ready before the first old one is asked to leave."
        " 0: not at all.", minimum=0, effect=Effect.NOW,
    )  # fmt: skip
    reload_retries: int = declare(
        2, Kind.INTEGER, "Reload",
        "How many more times a new generation may try to boot before the reload is given up and the old one stays.",
        minimum=0, maximum=1000, effect=Effect.NOW,
    )  # fmt: skip
    reload_timeout: float = declare(
        600.0, Kind.DURATION, "Reload",
        "How long a reload may take before it is given up and the old generation stays. 0: for ever.", minimum=0,
        effect=Effect.NOW,
    )  # fmt: skip

    max_requests: int = declare(
        0, Kind.INTEGER, "Recycling",
        "How many requests a worker answers before it is replaced, and never one more: the replacement is asked for a"
        " little before. 0: no limit.", minimum=0,
    )  # fmt: skip
    max_requests_jitter: str = declare(
        "10%", Kind.SHARE, "Recycling",
        "How many fewer requests than `max_requests` it may be, drawn for each worker, so that they are not all"
        " replaced at once.", minimum=0,
    )  # fmt: skip
    max_worker_lifetime: float = declare(
        0.0, Kind.DURATION, "Recycling", "How long a worker serves before it is replaced. 0: no limit.", minimum=0,
    )  # fmt: skip
    max_worker_lifetime_jitter: str = declare(
        "10%", Kind.SHARE, "Recycling",
        "How many seconds, or what part, more or less than `max_worker_lifetime` it may be.", minimum=0,
    )  # fmt: skip
    max_worker_memory: int = declare(
        0, Kind.SIZE, "Recycling",
        "The resident memory at which a worker is replaced; looked at after a request, at most once a"
        " second. 0: no limit.",
        minimum=0,
    )  # fmt: skip
    max_worker_memory_hard: int = declare(
        0, Kind.SIZE, "Recycling",
        "The resident memory at which the master kills a worker, whatever it does; looked at each second. 0: no limit.",
        minimum=0, effect=Effect.NOW,
    )  # fmt: skip
