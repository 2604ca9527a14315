"""forkserve/config/resolve.py: which layer wins, whence each value came, what is refused, what changed."""

import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest

from forkserve.config.options import Effect
from forkserve.config.resolve import Change, Resolved, diff, load
from forkserve.config.settings import Settings
from forkserve.config.sources import Layer, read_argv
from forkserve.errors import ExitCode, SettingsError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in a folder of its own, so that origins are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(file: str = "", environ: Mapping[str, str] | None = None, **flags: str) -> Resolved:
    Path("config.toml").write_text(file)
    return load(read_argv(flags), environ or {}, "config.toml")


def refused(file: str = "", environ: Mapping[str, str] | None = None, **flags: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        loaded(file, environ, **flags)
    assert error.value.exit_code is ExitCode.USAGE
    return str(error.value).split("\n")


def test_without_any_layer_everything_is_the_default_and_has_no_origin() -> None:
    resolved = load(Layer(), {})
    assert resolved.settings == Settings()
    assert resolved.origins == {}


@pytest.mark.parametrize("present", [set(c) for n in range(4) for c in combinations(("file", "environ", "flag"), n)])
def test_the_strongest_layer_that_gives_a_value_wins_and_is_its_origin(present: set[str]) -> None:
    resolved = loaded(
        "workers = 2" if "file" in present else "",
        {"FORKSERVE_WORKERS": "3"} if "environ" in present else {},
        **({"workers": "4"} if "flag" in present else {}),
    )
    strongest = next((layer for layer in ("flag", "environ", "file") if layer in present), "default")
    expected: dict[str, tuple[int, dict[str, str]]] = {
        "flag": (4, {"workers": "--workers"}),
        "environ": (3, {"workers": "FORKSERVE_WORKERS"}),
        "file": (2, {"workers": "config.toml:1"}),
        "default": (1, {}),
    }
    assert (resolved.settings.workers, resolved.origins) == expected[strongest]


def test_a_value_that_was_given_has_an_origin_even_if_it_equals_the_default() -> None:
    assert loaded('bind = "127.0.0.1:8000"').origins == {"bind": "config.toml:1"}


def test_an_address_list_of_a_stronger_layer_replaces_that_of_a_weaker_one() -> None:
    assert loaded('bind = ["a:1", "b:2"]', {"PORT": "5000"}).settings.bind == ("0.0.0.0:5000",)


def test_a_variable_names_the_file_and_the_flag_beats_it() -> None:
    Path("a.toml").write_text("workers = 2")
    Path("b.toml").write_text("workers = 3")
    environ = {"FORKSERVE_CONFIG": "a.toml"}
    assert load(Layer(), environ).settings.workers == 2
    assert load(Layer(), environ, "b.toml").settings.workers == 3


def test_a_file_that_nobody_named_is_not_read() -> None:
    Path("config.toml").write_text("workers = 2")
    Path("forkserve.toml").write_text("workers = 3")
    assert load(Layer(), {}).settings == Settings()


@pytest.mark.parametrize(
    ("file", "environ", "flags", "line"),
    [
        ("\n\nworkers = 0", {}, {}, "config.toml:3: workers = 0: must be between 1 and 1024"),
        ('workers = "4"', {}, {}, 'config.toml:1: workers = "4": must be a whole number, without quotes'),
        ("workers = true", {}, {}, "config.toml:1: workers = true: must be a whole number"),
        ("worker = 4", {}, {}, 'config.toml:1: worker = 4: unknown setting; did you mean "workers"?'),
        ("bind = 'a:x'", {}, {}, 'config.toml:1: bind = "a:x": the port must be a number from 0 to 65535, not "x"'),
        ('proc_name = "a\\nb"', {}, {}, 'config.toml:1: proc_name = "a\\nb": must not hold control characters'),
        ("", {"FORKSERVE_WORKERS": "0"}, {}, "FORKSERVE_WORKERS: workers = 0: must be between 1 and 1024"),
        ("", {"WEB_CONCURRENCY": "many"}, {}, 'WEB_CONCURRENCY: workers = "many": must be a whole number'),
        (
            "",
            {"PORT": "http"},
            {},
            'PORT: bind = "0.0.0.0:http": the port must be a number from 0 to 65535, not "http"',
        ),
        ("", {}, {"workers": "-1"}, "--workers: workers = -1: must be between 1 and 1024"),
        ("", {}, {"timeout": "-1s"}, '--timeout: timeout = "-1s": must not be negative'),
        (
            "",
            {},
            {"app": "shop/web.py"},
            'APP: app = "shop/web.py": a module is named with dots, not by its file; did you mean "shop.web"?',
        ),
        (
            "pidfile = 'x'\nerrorlog = 'x'",
            {},
            {},
            'config.toml:1: pidfile = "x": is also errorlog\'s file; give each its own',
        ),
        (
            "bind = 'unix:x'",
            {},
            {"pidfile": "x"},
            '--pid: pidfile = "x": is also bind\'s file; give each its own',
        ),
    ],
)
def test_bad_input_is_told_in_one_line_with_its_origin(
    file: str, environ: dict[str, str], flags: dict[str, str], line: str
) -> None:
    assert refused(file, environ, **flags) == [line]


def test_every_problem_of_every_layer_is_told_in_a_line_of_its_own() -> None:
    lines = refused("worker = 4\nbacklog = 0\n", {"FORKSERVE_BACKLOG": "x"}, timeout="soon")
    assert [line.split(": ")[0] for line in lines] == [
        "config.toml:1",
        "config.toml:2",
        "FORKSERVE_BACKLOG",
        "--timeout",
    ]


def test_a_bad_value_is_refused_though_a_stronger_layer_hides_it() -> None:
    assert refused("workers = 0", workers="4") == ["config.toml:1: workers = 0: must be between 1 and 1024"]


def test_a_file_whose_name_holds_a_line_break_still_makes_one_line() -> None:
    with pytest.raises(SettingsError) as error:
        load(Layer(), {}, "no\nsuch")
    assert str(error.value) == "no\\nsuch: cannot be read: No such file or directory (named by --config)"


def test_an_app_is_demanded_only_where_one_is_needed() -> None:
    assert load(Layer(), {}).settings.app == ""
    with pytest.raises(SettingsError) as error:
        load(Layer(), {}, is_app_needed=True)
    assert str(error.value) == (
        'no app: give it as an argument (forkserve module:attr) or as app = "module:attr" in the file'
    )
    assert load(read_argv({"app": "shop"}), {}, is_app_needed=True).settings.app == "shop"


def test_a_reload_reads_the_file_anew_and_keeps_flags_and_variables() -> None:
    first = loaded("workers = 2\nbacklog = 10", {"FORKSERVE_TIMEOUT": "5"}, workers="4")
    Path("config.toml").write_text("workers = 3\nbacklog = 20")
    again = first.reload()
    assert (again.settings.workers, again.settings.timeout, again.settings.backlog) == (4, 5.0, 20)
    assert diff(first.settings, again.settings) == (Change("backlog", 10, 20, Effect.NOW),)


def test_a_reload_of_a_file_that_has_become_bad_is_refused_and_a_later_one_works() -> None:
    first = loaded("workers = 2")
    Path("config.toml").write_text("workers = 0")
    with pytest.raises(SettingsError):
        first.reload()
    os.unlink("config.toml")
    with pytest.raises(SettingsError):
        first.reload()
    Path("config.toml").write_text("workers = 5")
    assert first.reload().settings.workers == 5


def test_a_reload_demands_an_app_where_the_start_did() -> None:
    Path("config.toml").write_text('app = "shop"')
    first = load(Layer(), {}, "config.toml", is_app_needed=True)
    Path("config.toml").write_text("")
    with pytest.raises(SettingsError, match=r"^no app: "):
        first.reload()


def test_a_reload_reads_the_environment_of_the_start() -> None:
    environ = {"FORKSERVE_WORKERS": "2"}
    first = load(Layer(), environ)
    environ["FORKSERVE_WORKERS"] = "3"
    assert first.reload().settings.workers == 2


def test_what_changed_is_listed_with_the_moment_at_which_it_takes_effect() -> None:
    old, new = Settings(workers=2), Settings(workers=3, pidfile="x")
    assert diff(old, old) == ()
    assert diff(old, new) == (
        Change("workers", 2, 3, Effect.NOW),
        Change("pidfile", "", "x", Effect.UPGRADE),
    )


def test_the_example_file_is_good() -> None:
    resolved = load(Layer(), {}, str(REPOSITORY / "config.example.toml"))
    assert resolved.settings.bind == ("127.0.0.1:8000",)
    assert resolved.settings.pidfile == "forkserve.pid"


def test_each_default_that_the_example_file_shows_is_the_default_still() -> None:
    lines = (REPOSITORY / "config.example.toml").read_text().splitlines()
    shown = [
        line.removeprefix("# ")
        for line in lines
        if line.startswith("# ") and " = " in line and '"forkserve.' not in line
    ]
    assert len(shown) > 15
    assert loaded("\n".join(shown)).settings == Settings()


def test_the_example_file_shows_every_setting() -> None:
    lines = (REPOSITORY / "config.example.toml").read_text().splitlines()
    keys = [line.removeprefix("# ").split(" = ")[0] for line in lines if " = " in line]
    assert keys == sorted(set(keys), key=keys.index)
    assert set(keys) == set(Settings.__struct_fields__)


@pytest.mark.parametrize("name", ["forwarded_allow_ips", "proxy_allow_ips", "gateway_allow_ips"])
def test_list_of_peers_that_cannot_be_read_is_refused_with_the_word(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(read_argv({name: "127.0.0.1, 10.0.0.0/33"}), {})
    assert f"--{name.replace('_', '-')}: {name} = " in str(refused.value)
    assert "10.0.0.0/33" in str(refused.value)


def test_what_variables_hold_is_not_said_when_they_are_refused() -> None:
    told = refused('env = { "A=B" = "secret", KEY = "secret" }', {"FORKSERVE_ENV": "KEY=a,secret"}, env="secret")
    assert told == [
        'config.toml:1: env: a variable needs a name, without "="',
        "FORKSERVE_ENV: env: must be written KEY=VALUE",
        "--env: env: must be written KEY=VALUE",
    ]
