"""Real web servers run with FORKSERVE_GATEWAYS=1 (make test-gateways) alone: they must be installed first."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateways.webservers import PROGRAMS, running
from tests.harness import Server

SITE = "tests.gateways.site:app"
ANYBODY = ["bash", "-c", 'umask 0; exec "$@"', "umask"]  # may connect: the web servers are another user


class House:
    """Two forkserves, with and without PROXY headers, behind every web server."""

    def __init__(self, folder: Path, plain: Server, proxied: Server) -> None:
        self.folder = folder
        self.plain = plain
        self.proxied = proxied

    def behind(self, protocol: str) -> Server:
        """The one that a front leads to."""
        return self.proxied if protocol in ("stream", "proxy") else self.plain


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    """Everything at work, once for all tests."""
    if os.environ.get("FORKSERVE_GATEWAYS") != "1":
        pytest.skip("real web servers are for `make test-gateways`")
    missing = [name for name in PROGRAMS.values() if shutil.which(name) is None]
    assert not missing, f"not installed: {missing}"
    folder = Path(tempfile.mkdtemp(prefix="forkserve-gateways-"))
    folder.chmod(0o755)
    run = folder / "run"
    run.mkdir()
    static = folder / "srv" / "static"
    static.mkdir(parents=True)
    (static / "style.css").write_text("body { }\n")
    plain = [f"{protocol}unix:{run}/{name}.sock" for protocol, name in (
        ("", "http"), ("uwsgi://", "uwsgi"), ("fastcgi://", "fastcgi"), ("scgi://", "scgi"),
    )]  # fmt: skip
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        servers = [
            stack.enter_context(_forkserve(bind, proxy_protocol))
            for bind, proxy_protocol in ((plain, "off"), ([f"unix:{run}/proxy.sock"], "any"))
        ]
        stack.enter_context(running(folder))
        yield House(folder, *servers)


def _forkserve(bind: list[str], proxy_protocol: str) -> Server:
    # Without a spool the app waits for its client: so it can be seen to stop when that leaves.
    return Server(
        app=SITE, bind=bind, launcher=ANYBODY, expect=["app raised", "app sent less"], proxy_protocol=proxy_protocol,
        limit_response_spool=0, workers=2, keepalive="75s", timeout="20s", reload_settle=0.2,
    )  # fmt: skip
