"""A real Falcon site, served by two workers, used with requests and curl."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.apps.clients import new_session
from tests.apps.everyday import EVERYDAY, Check
from tests.harness import Server

pytest.importorskip("falcon")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(
        app="tests.apps.sites.falcon_site:app", workers=2, expect=['app raised request="GET /raise']
    ) as serving:
        yield serving


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as fresh:
        yield fresh


@pytest.mark.parametrize("check", EVERYDAY, ids=lambda check: check.__name__)
def test_everyday(server: Server, session: requests.Session, tmp_path: Path, check: Check) -> None:
    check(server, session, tmp_path)
