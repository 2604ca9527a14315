"""docs/settings.md is made from the declarations and is fresh."""

import subprocess
import sys
from pathlib import Path

from forkserve.config.reference import render
from forkserve.config.settings import declared

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_reference_page_is_fresh() -> None:
    command = "python -m forkserve.config.reference > docs/settings.md"
    assert PAGE.read_text() == render(), f"docs/settings.md is stale: run {command}"


def test_the_command_in_the_page_prints_the_page() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "forkserve.config.reference"], cwd=PAGE.parents[1], check=True, capture_output=True
    )
    assert printed.stdout.decode() == render()


def test_the_page_has_an_entry_for_every_setting_with_its_flags_and_variables() -> None:
    page = render()
    for name, setting in declared().items():
        assert page.count(f"\n### `{name}`\n") == 1
        entry = page.split(f"\n### `{name}`\n")[1].split("\n### ")[0]
        assert setting.option.help in entry
        assert all(f"`{variable}`" in entry for variable in setting.variables)
        assert name == "app" or all(f"`{flag}`" in entry for flag in setting.flags)
