"""The servers that are compared, as one table: how a user would start each for one worker on one port.

To add a server: one row here, and its package in requirements-peers.txt. Knows nothing of cases or measuring.
"""

import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"


@dataclass(frozen=True, slots=True)
class Server:
    """One way to serve a WSGI app.

    `command` is what follows the interpreter; {port}, {workers} and {app} are filled in. It runs in benchmarks/apps.
    """

    name: str  # for --only-servers and the JSON file
    package: str  # the distribution; forkserve's own is this tree
    command: tuple[str, ...]
    prefork: bool = True  # can have several workers
    note: str = ""  # what a reader of the figures must know
    needs: str = ""  # a module without which this row cannot be run, beside the package itself
    logging: tuple[str, ...] | None = None  # further arguments for an access log on stdout; None: it has none
    holding: tuple[str, ...] | None = None  # for 10,000 idle connections; None: it closes every connection
    code: Path = HERE.parent  # of forkserve: the tree that is run
    remedy: str = "make bench installs it, or: pip install -r benchmarks/requirements-peers.txt"

    @property
    def own(self) -> bool:
        """Whether this is forkserve, which runs with our interpreter and not with the peers'."""
        return self.package == "forkserve"

    def arguments(self, *, port: object, workers: object, app: str, more: Sequence[str] = ()) -> list[str]:
        """The command with its blanks filled in, without the interpreter; `more` comes before the app, the last."""
        words = [*self.command[:-1], *more, *self.command[-1:]]
        return [word.format(port=port, workers=workers, app=app) for word in words]


_FORKSERVE = ("-m", "forkserve", "-w", "{workers}", "-b", "127.0.0.1:{port}")
_GUNICORN = ("-m", "gunicorn", "-w", "{workers}", "-b", "127.0.0.1:{port}", "--no-control-socket")
_LOG = ("--access-logfile", "-")
_HOLD = ("--worker-connections", "20000")

SERVERS = (
    Server(
        "forkserve",
        "forkserve",
        (*_FORKSERVE, "{app}"),
        remedy="pip install -e .",
        logging=_LOG,
        holding=(*_HOLD, "--keep-alive", "75"),
    ),
    Server(
        "bjoern",
        "bjoern",
        ("on_bjoern.py", "{port}", "{app}"),
        prefork=False,
        note="one process, no master that would replace it",
        remedy="apt install gcc libev-dev, then make bench",
        holding=(),
    ),
    Server(
        "gunicorn-sync",
        "gunicorn",
        (*_GUNICORN, "{app}"),
        note="closes every connection, so each request opens one",
        logging=_LOG,
    ),
    Server(
        "gunicorn-gthread",
        "gunicorn",
        (*_GUNICORN, "--threads", "4", "{app}"),
        note="4 threads per worker",
        logging=_LOG,
        holding=(*_HOLD, "--keep-alive", "75"),
    ),
    Server(
        "granian",
        "granian",
        (
            *("-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}"),
            *("--workers", "{workers}", "--blocking-threads", "1", "{app}"),
        ),
        note="one Python thread per worker; threads in Rust for the sockets",
        logging=("--access-log",),
        holding=("--backpressure", "20000"),
    ),
    Server(
        "waitress",
        "waitress",
        ("-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "4", "{app}"),
        prefork=False,
        note="one process with 4 threads; asks poll about all its connections each time, so 10,000 take it minutes",
    ),
    Server(
        "forkserve-threads",
        "forkserve",
        (*_FORKSERVE, "--threads", "4", "{app}"),
        note="4 threads per worker",
        needs="forkserve.worker.pool",
        remedy="pip install -e .",
        logging=_LOG,
        holding=(*_HOLD, "--keep-alive", "75"),
    ),
)


def interpreter(server: Server, peers: Path) -> Path:
    """The Python that runs the server: ours for forkserve, that of the peers' environment for the rest."""
    return Path(sys.executable) if server.own else peers / "bin" / "python"


def version(server: Server, peers: Path) -> tuple[str, str]:
    """The installed version and that of its Python, or two empty strings when the server cannot be started here."""
    number = "p.__version__" if server.own else f"m.version({server.package!r})"
    needs = f"import {server.needs}; " if server.needs else ""
    ask = f"import importlib.metadata as m, platform, {server.package} as p; print({number}, platform.python_version())"
    try:
        done = subprocess.run(
            [interpreter(server, peers), "-c", needs + ask],
            capture_output=True,
            text=True,
            cwd=HERE.parent,
            check=False,
        )
    except OSError:
        return "", ""
    installed, _, python = done.stdout.strip().partition(" ")
    return installed, python


def present(chosen: Sequence[Server], peers: Path) -> tuple[dict[Server, str], list[str]]:
    """The chosen servers that can run here with their versions, and a remark about each that cannot, or not fairly."""
    found: dict[Server, str] = {}
    remarks: list[str] = []
    for server in chosen:
        number, python = version(server, peers)
        if not number:
            missing = f"{server.package} is not installed" + (f" or has no {server.needs}" if server.needs else "")
            remarks.append(f"{server.name} is left out: {missing}; {server.remedy}")
            continue
        found[server] = number
        if python != platform.python_version():
            remarks.append(f"{server.name} ran on another Python, {python}: make the peers' environment anew")
    return found, remarks
