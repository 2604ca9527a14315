"""Real web servers in front of forkserve, with the configuration files that docs/proxies.md shows.

Each file is used as it stands but for its ports and folders, which the test's own replace. The web servers run in the
foreground, in a temporary folder and without privileges.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.certificates import Certificate
from tests.harness import ROOT, wait_until

SHOWN = ROOT / "docs" / "proxies"
# Debian's; where one is missing, `make test-gateways` installs it.
PROGRAMS = {"nginx": "nginx", "apache": "apache2", "haproxy": "haproxy"}
_NGINX_SHARED = ("mime.types", "uwsgi_params", "fastcgi_params", "scgi_params")
_APACHE_MODULES = (
    "mpm_event", "authz_core", "alias", "headers", "mime", "proxy", "proxy_http", "proxy_uwsgi", "proxy_fcgi",
    "proxy_scgi",
)  # fmt: skip
_UNPRIVILEGED = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
_PLACE = re.compile(r"(listen |bind |<VirtualHost )(?:\*|\S*?):?(80|443)\b")


class Front:
    """One place where clients may ask: one of the files, in one of the web servers."""

    def __init__(self, name: str, *, tls: bool = False) -> None:
        self.name = name  # nginx/http
        self.server = name.partition("/")[0]
        self.protocol = name.partition("/")[2].partition("-v")[0]
        self.tls = tls
        self.ports: dict[str, int] = {}

    @property
    def port(self) -> int:
        """Where to ask."""
        return self.ports["443" if self.tls else "80"]

    @property
    def file(self) -> Path:
        """The file that the page shows."""
        return next(SHOWN.glob(f"{self.name}.c*"))

    def render(self, folder: Path) -> str:
        """Return the file with the test's own ports and folders in it."""

        def place(match: re.Match[str]) -> str:
            port = self.ports.setdefault(match[2], free_port())
            return f"{match[1]}127.0.0.1:{port}"

        text = _PLACE.sub(place, self.file.read_text())
        for shown, mine in (("/run/shop", "run"), ("/srv/shop", "srv"), ("/etc/ssl/shop", "tls")):
            text = text.replace(shown, str(folder / mine))
        return text


FRONTS = [
    Front("nginx/http", tls=True), Front("nginx/uwsgi"), Front("nginx/fastcgi"), Front("nginx/scgi"),
    Front("nginx/stream"),
    Front("apache/http"), Front("apache/uwsgi"), Front("apache/fastcgi"), Front("apache/scgi"),
    Front("haproxy/http"), Front("haproxy/fastcgi"), Front("haproxy/proxy-v1"), Front("haproxy/proxy-v2"),
]  # fmt: skip


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Run every web server with every file; ``folder``/run has the sockets, srv the files, tls the certificate."""
    (folder / "tls").mkdir()
    made = Certificate(folder / "tls", "shop.example")
    Path(made.file).rename(folder / "tls" / "fullchain.pem")
    Path(made.key).rename(folder / "tls" / "key.pem")
    for path in (folder / "tls").iterdir():
        path.chmod(0o644)
    with ExitStack() as stack:
        for name, start in (("nginx", _nginx), ("apache", _apache)):
            own = _own_folder(folder, name)
            stack.enter_context(_process(own, start(folder, own)))
        for front in FRONTS:
            if front.server == "haproxy":
                own = _own_folder(folder, front.name.replace("/", "-"))
                (own / "haproxy.cfg").write_text(front.render(folder))
                stack.enter_context(_process(own, ["haproxy", "-db", "-f", str(own / "haproxy.cfg")]))
        try:
            for front in FRONTS:
                wait_until(partial(_listens, front.port), front.name, 10)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "".join(map(_said, folder.glob("*/output")))) from None
        yield


def _said(output: Path) -> str:
    return f"{output.parent.name}: {output.read_text(errors='replace')}"


def _own_folder(folder: Path, name: str) -> Path:
    own = folder / name
    own.mkdir()
    if os.getuid() == 0:
        shutil.chown(own, "nobody", "nogroup")
    return own


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def _process(own: Path, command: list[str]) -> Iterator[None]:
    with (own / "output").open("wb") as output:
        process = subprocess.Popen(
            [*_UNPRIVILEGED, *command], cwd=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            _kill_session(process.pid)
            process.wait()


def _kill_session(pid: int) -> None:
    """Kill what the process left of its own session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _nginx(folder: Path, own: Path) -> list[str]:
    for name in _NGINX_SHARED:
        shutil.copy(Path("/etc/nginx") / name, own)
    for front in FRONTS:
        if front.server == "nginx":
            (own / front.file.name).write_text(front.render(folder))
    sites = "".join(f"    include {own}/{front.file.name};\n" for front in FRONTS if front.name in _NGINX_HTTP)
    temporary = "".join(
        f"    {kind}_temp_path {own}/{kind};\n" for kind in ("client_body", "proxy", "uwsgi", "fastcgi", "scgi")
    )
    (own / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
pid {own}/pid;
error_log {own}/error.log info;
events {{ worker_connections 512; }}
http {{
    include mime.types;
    access_log off;
{temporary}{sites}}}
stream {{
    include {own}/stream.conf;
}}
""")
    return ["nginx", "-p", str(own), "-c", str(own / "nginx.conf"), "-e", str(own / "error.log")]


_NGINX_HTTP = [front.name for front in FRONTS if front.server == "nginx" and front.protocol != "stream"]


def _apache(folder: Path, own: Path) -> list[str]:
    modules = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in _APACHE_MODULES)
    sites = ""
    for front in FRONTS:
        if front.server == "apache":
            path = own / front.file.name
            path.write_text(front.render(folder))
            sites += f"Listen 127.0.0.1:{front.port}\nInclude {path}\n"
    (own / "apache.conf").write_text(f"""
ServerRoot {own}
ServerName test
PidFile {own}/pid
DefaultRuntimeDir {own}
Mutex posixsem
KeepAliveTimeout 1
ErrorLog {own}/error.log
{modules}
TypesConfig /etc/mime.types
{sites}""")
    return ["apache2", "-DFOREGROUND", "-f", str(own / "apache.conf")]
