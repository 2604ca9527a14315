"""What the tests of sites have in common."""

from collections.abc import Iterator

import pytest
import requests

from tests.apps.clients import new_session


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as fresh:
        yield fresh
