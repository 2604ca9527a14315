"""Real Bottle, Falcon and Pyramid sites, each served by two workers, used with requests and curl."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.apps.everyday import EVERYDAY, Check
from tests.harness import Server


@pytest.fixture(scope="module", params=["bottle", "falcon", "pyramid"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    pytest.importorskip(request.param)
    with Server(
        app=f"tests.apps.sites.{request.param}_site:app", workers=2, expect=['app raised request="GET /raise']
    ) as serving:
        yield serving


@pytest.mark.parametrize("check", EVERYDAY, ids=lambda check: check.__name__)
def test_everyday(server: Server, session: requests.Session, tmp_path: Path, check: Check) -> None:
    check(server, session, tmp_path)
