"""What the tests of this folder share: curl, a requests session, and a FIFO that holds a streaming app back."""

import os
import subprocess
from pathlib import Path
from typing import Self

import requests

TIMEOUT_S = 20  # none of these requests takes long: it ends a test whose server never answers


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run curl silently; fail with what it said where it does not exit with 0."""
    ran = subprocess.run(
        ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(TIMEOUT_S), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def new_session() -> requests.Session:
    """Return a session that the environment's proxies do not concern."""
    session = requests.Session()
    session.trust_env = False
    return session


class Held:
    """A FIFO whose reader, the app, waits until ``release`` writes a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Linux opens a FIFO for both at once: neither this end nor the app's waits to be opened.
        self._fd = os.open(path, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def release(self, line: bytes) -> None:
        os.write(self._fd, line)


def assert_arrives_line_by_line(response: requests.Response, held: Held) -> None:
    """Check a streamed response: the app has not made the second line when the first arrives."""
    lines = response.iter_lines(chunk_size=1)
    assert next(lines) == b"first"
    held.release(b"second\n")
    assert list(lines) == [b"second"]
