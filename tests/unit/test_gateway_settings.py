"""What is wrong with the settings of gateways is said when they are read."""

import pytest

from forkserve.config.resolve import check
from forkserve.config.settings import Settings


@pytest.mark.parametrize("mount", ["", "/shop", "/a/b"])
def test_a_mount_is_a_path_without_an_end(mount: str) -> None:
    assert check(Settings(app="x", mount=mount), {}) == []


@pytest.mark.parametrize("mount", ["shop", "/", "/shop/"])
def test_another_mount_is_refused(mount: str) -> None:
    assert check(Settings(app="x", mount=mount), {"mount": "here:1"}) == [
        f'here:1: mount = "{mount}": must begin with a slash and end without one, such as /shop'
    ]
