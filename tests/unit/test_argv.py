"""The plain reader of the command line reads what it reads exactly as click does, and leaves the rest to click."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve import flags
from forkserve.argv import plain
from forkserve.config.settings import declared
from forkserve.errors import AnsweredError, UsageError
from tests.unit.test_cli import ENVIRON

_NAMES = sorted(
    {flag for setting in declared().values() for flag in setting.flags} | {"-c", "--config", "--check-config"}
)
_WORDS = st.sampled_from([*_NAMES, *("--no-" + name[2:] for name in _NAMES if name.startswith("--")), "-", "--", "-x"])
_VALUES = st.sampled_from(
    ["4", "a=b", "", "app:wsgi", "127.0.0.1:0", "--workers=3", "-w4", "unix:/run/x", "--bind=", "%(h)s"]
)


@given(st.lists(st.one_of(_WORDS, _VALUES), max_size=6))
def test_what_the_plain_reader_reads_click_reads_alike(argv: list[str]) -> None:
    read = plain(argv)
    if read is None:
        return
    try:
        params = flags.read(list(argv))
    except (UsageError, AnsweredError) as error:
        raise AssertionError(f"{argv}: {read}, and click says {error}") from error
    assert read == {name: value for name, value in params.items() if value not in (None, (), False) or name in read}


@pytest.mark.parametrize(
    "argv", [["--help"], ["-w4"], ["--wrokers", "4"], ["-w"], ["-w", "-b"], ["a", "b"], ["--", "a"]]
)
def test_what_is_not_plain_is_left_to_click(argv: list[str]) -> None:
    assert plain(argv) is None


def test_usual_start_is_plain() -> None:
    line = "-w 4 -c config.toml --bind=:80 -b :81 --no-relay --access-logfile - app:wsgi"
    assert plain(line.split()) == {
        "workers": "4",
        "config": "config.toml",
        "bind": (":80", ":81"),
        "relay": False,
        "accesslog": "-",
        "app": "app:wsgi",
    }


def test_plain_line_does_not_import_click() -> None:
    program = "import sys; from forkserve.cli import _read; _read(['-w', '4', 'a:b']); print('click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRON, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
