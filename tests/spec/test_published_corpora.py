"""The requests that Gunicorn publishes as valid and invalid, sent to a real server as they are.

They come from its source distribution, which is downloaded for the test and never kept. Where forkserve answers
otherwise than Gunicorn would, DIFFERENCES says why. A request of HTTP/1.1 without Host is given one: without it, it is
refused whatever else it says (RFC 9112 section 3.2), which test_rfc9112.py has.
"""

import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness import Server, read_to_end

VERSION = "27.0.1"
PACKED = f"gunicorn-{VERSION}/tests/requests/"

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read()]
"""

# Settings that mean the same here and there; one server for each combination that the corpora ask for.
SETTING = re.compile(r"""cfg\.set\(["'](limit_request_\w+|header_map)["'], ["']?(\w+)["']?\)""")

_CODINGS = "RFC 9112 6.1: codings other than chunked are not implemented, which is 501; those that an app would have to"
_CODINGS += " undo behind our back are refused, not passed on"
_METHOD = "RFC 9110 9.1: a method that is not known is 501; Gunicorn takes any token"
_FOLDED = "RFC 9112 5.2: obs-fold is 400; Gunicorn has a setting for it"
_PROXY = "PROXY headers need proxy_protocol, which has tests of its own"
_CONNECT = "RFC 9110 9.3.6: CONNECT is for proxies; no app could serve it, so it is 501"
_SIZE = "the limit counts the field; Gunicorn counts its CRLF too"
DIFFERENCES = {
    "valid/005": "RFC 9112 3.2: a request-target has no fragment",
    "valid/013": "RFC 9112 7.1.1: white space around a chunk extension's `;` is bad, and smuggling's friend",
    "valid/025": _CODINGS,
    "valid/025_line": _CODINGS,
    "valid/029": _CODINGS,
    "valid/030": _CODINGS,
    "valid/rfc9112_smuggle_gzip_chunked_01": _CODINGS,
    "valid/rfc9112_smuggle_te_identity_chunked_01": _CODINGS,
    "valid/028": "RFC 9112 5.1: a space before the colon is 400; Gunicorn has a setting for it",
    "valid/031": _METHOD,
    "valid/031compat": _METHOD,
    "valid/031compat2": _METHOD,
    "valid/099": "it announces 17,914 bytes and has 8,599: the app never meets half a body",
    "valid/compat_obs_fold": _FOLDED,
    "valid/compat_obs_fold_huge": _FOLDED,
    "valid/pp_01": _PROXY,
    "valid/pp_02": _PROXY,
    "valid/pp_04": _PROXY,
    "valid/pp_05": _PROXY,
    "valid/rfc9112_target_absolute_userinfo_01": "RFC 9110 4.2.4: userinfo in a target is treated as an error",
    "valid/rfc9112_target_authority_connect_01": _CONNECT,
    "valid/rfc9112_target_authority_ipv6_01": _CONNECT,
    "invalid/010": "a field of 11 bytes; the setting's least value is 16",
    "invalid/012": _SIZE,
    "invalid/017": _SIZE,
    "invalid/limit_header_default_01": _SIZE,
    "invalid/019": "contradicting words of a proxy are settled by an order, not refused",
    "invalid/rfc9110_trailer_forbidden_host_01": "RFC 9112 7.1.2: trailer fields are dropped, Host too",
    "invalid/rfc9112_leading_crlf_02": "RFC 9112 2.2: at least one empty line is ignored; we ignore a second one too",
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every file of the corpora by its path below them, as latin-1 text."""
    folder = tmp_path_factory.mktemp("corpora")
    words = ["download", "--no-deps", "--no-binary", "gunicorn", "--quiet", "--timeout", "10", "--retries", "0"]
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pip", *words, f"gunicorn=={VERSION}", "--dest", str(folder)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("the package index did not answer in two minutes, and the corpora are not kept here")
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["pip failed"])[-1]
        pytest.skip(f"Gunicorn's corpora cannot be downloaded from the package index: {reason}")
    [archive] = folder.glob("gunicorn-*.tar.gz")
    with tarfile.open(archive) as packed:
        files = {name.removeprefix(PACKED): packed.extractfile(name) for name in packed.getnames() if PACKED in name}
        return {name: file.read().decode("latin-1") for name, file in files.items() if file is not None}


class Servers:
    """A running server for each combination of settings."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[tuple[tuple[str, str], ...], Server] = {}

    def having(self, settings: Mapping[str, Any]) -> Server:
        """The one with these settings."""
        key = tuple(sorted(settings.items()))
        if key not in self._running:
            server = Server(app="echo:app", **settings)
            server.write_app(APP, "echo")
            self._running[key] = self._stack.enter_context(server)
        return self._running[key]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


def raw_of(text: str) -> bytes:
    r"""The bytes that a .http file stands for: line ends mean nothing, \r\n, \n, \t, \0 and \xHH are spelled out."""
    spelled = {"r": "\r", "n": "\n", "t": "\t", "0": "\0"}
    unfold = re.sub(r"\\(?:x([0-9A-Fa-f]{2})|([rnt0]))", lambda m: chr(int(m[1], 16)) if m[1] else spelled[m[2]],
                    text.replace("\n", ""))  # fmt: skip
    raw = unfold.encode("latin-1")
    if re.search(rb"(?i)^host:", raw, re.MULTILINE):
        return raw
    return re.sub(rb"(?m)^(\S+ \S+ HTTP/1\.1\r\n)", rb"\1Host: x\r\n", raw)


def settings_of(text: str) -> dict[str, str]:
    """The settings that a .py file asks for, but for values that we do not take; 0 means the default there."""
    return {name: value for name, value in SETTING.findall(text) if value not in ("0", "10", "14", "dangerous")}


def codes(server: Server, raw: bytes) -> list[int]:
    """The status of each response to ``raw``, up to the end of the connection."""
    with server.connect() as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", read_to_end(sock))]


def is_taken(told: list[int]) -> bool:
    """Whether every request was answered by the app."""
    return bool(told) and set(told) == {200}


@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_gunicorns_requests_are_taken_and_refused_as_there(
    kind: str, corpora: dict[str, str], servers: Servers
) -> None:
    names = sorted(name.removesuffix(".http") for name in corpora if name.startswith(f"{kind}/") and ".http" in name)
    assert len(names) > 50
    others = set()
    for name in names:
        told = codes(servers.having(settings_of(corpora[f"{name}.py"])), raw_of(corpora[f"{name}.http"]))
        if is_taken(told) != (kind == "valid"):
            others.add(name)
    assert others == {name for name in DIFFERENCES if name.startswith(f"{kind}/")}
