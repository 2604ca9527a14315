"""A box for each suite of Debian, and the service in it; without FORKSERVE_SYSTEMD=1 (make test-systemd) none."""

import os
from collections.abc import Iterator

import pytest

from tests.systemd.box import Box
from tests.systemd.image import SUITES, NoBoxError
from tests.systemd.service import Service, figures


@pytest.fixture(scope="session", params=SUITES)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """A systemd as PID 1 of a container, one at a time; skips with the reason where this machine cannot have it."""
    if os.environ.get("FORKSERVE_SYSTEMD") != "1":
        pytest.skip("a real systemd is for `make test-systemd`")
    try:
        made = Box(request.param)
        made.__enter__()
    except NoBoxError as reason:
        pytest.skip(f"no systemd in a box: {reason}")
    try:
        yield made
    finally:
        made.__exit__(None, None, None)


@pytest.fixture
def service(box: Box) -> Iterator[Service]:
    """The service, stopped and new."""
    with Service(box) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    for line in figures:
        terminalreporter.write_line(line)
