"""forkserve/config/sources.py: files, variables and flags become layers; what is no setting becomes one line."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.config.settings import Settings, declared
from forkserve.config.sources import Given, Layer, read_argv, read_environ, read_file, to_toml
from forkserve.config.values import parse_duration, parse_size


def layer_of(folder: Path, text: str) -> Layer:
    (folder / "config.toml").write_text(text)
    return read_file(str(folder / "config.toml"), "--config")


def problems_of(folder: Path, text: str) -> list[str]:
    """The problems of a file, with its folder left out."""
    return [problem.replace(f"{folder}/", "") for problem in layer_of(folder, text).problems]


def test_each_value_of_a_file_has_its_line_as_origin(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, '# first\nworkers = 4\n\n  "timeout" = "30s"\nbind = [\n  "a:1",\n]\nbacklog=1\n')
    path = tmp_path / "config.toml"
    assert layer == Layer(
        {
            "workers": Given(4, f"{path}:2", is_text=False),
            "timeout": Given("30s", f"{path}:4", is_text=False),
            "bind": Given(["a:1"], f"{path}:5", is_text=False),
            "backlog": Given(1, f"{path}:8", is_text=False),
        }
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('proc_name = """\nworkers = 1\n"""\nworkers = 4\n', ":4"),
        ("workers = 4\n[x]\nworkers = 1\n", ":1"),
        ('"w\\u006frkers" = 4\n', ""),
    ],
)
def test_a_line_is_not_taken_for_another_that_looks_like_it(tmp_path: Path, text: str, line: str) -> None:
    assert layer_of(tmp_path, text).given["workers"] == Given(4, f"{tmp_path}/config.toml{line}", is_text=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("worker = 4", 'config.toml:1: worker = 4: unknown setting; did you mean "workers"?'),
        ("\nkeep-alive = 5", 'config.toml:2: keep-alive = 5: unknown setting; did you mean "keepalive"?'),
        ("error-logfile = '-'", 'config.toml:1: error-logfile = "-": unknown setting; did you mean "errorlog"?'),
        ("error_log = '-'", 'config.toml:1: error_log = "-": unknown setting; did you mean "errorlog"?'),
        ("log-level = 'info'", 'config.toml:1: log-level = "info": unknown setting; did you mean "loglevel"?'),
        ("pid = 'x'", 'config.toml:1: pid = "x": unknown setting; did you mean "pidfile"?'),
        ("name = 'x'", 'config.toml:1: name = "x": unknown setting; did you mean "proc_name"?'),
        ("access_logfile = 'x'", 'config.toml:1: access_logfile = "x": unknown setting; did you mean "accesslog"?'),
        ("WORKERS = 4", 'config.toml:1: WORKERS = 4: unknown setting; did you mean "workers"?'),
        ("wsgi_app = 'x'", 'config.toml:1: wsgi_app = "x": unknown setting; did you mean "app"?'),
        ("colour = 'red'", 'config.toml:1: colour = "red": unknown setting'),
        ("'two words' = 1", 'config.toml:1: "two words" = 1: unknown setting'),
        (
            "# mine\n[forkserve]\nworkers = 4",
            "config.toml:2: [forkserve]: there are no tables; settings stand at the top level of the file",
        ),
        (
            "[[gunicorn]]\nworkers = 4",
            "config.toml:1: [gunicorn]: there are no tables; settings stand at the top level of the file",
        ),
        ("workers = ", "config.toml:1: not TOML: invalid value (column 11); strings stand in quotes"),
        ("\nloglevel = debug", "config.toml:2: not TOML: invalid value (column 12); strings stand in quotes"),
        ("workers 4", "config.toml:1: not TOML: expected '=' after a key in a key/value pair (column 9)"),
        ("workers = 1\nworkers = 2", "config.toml:2: not TOML: cannot overwrite a value (column 12)"),
    ],
)
def test_what_is_no_setting_in_a_file_is_told_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, text + "\n") == [problem]


def test_every_unknown_key_is_told_and_the_known_ones_are_kept(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "a = 1\nworkers = 4\nb = 2\n")
    assert len(layer.problems) == 2
    assert list(layer.given) == ["workers"]


@pytest.mark.parametrize("text", ["workers = " + "9" * 5000, "workers = " + "[" * 5000], ids=["digits", "brackets"])
def test_what_overwhelms_the_toml_parser_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("config.toml")
    assert ": not TOML: " in problem
    assert "\n" not in problem


def test_a_python_file_is_told_apart_from_toml(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("import os\n")
    (problem,) = read_file(str(tmp_path / "gunicorn.conf.py"), "--config").problems
    assert problem.endswith("; settings are TOML, not Python")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert layer_of(tmp_path, "\ufeffworkers = 4\n").given["workers"].raw == 4


def test_a_file_that_cannot_be_read_is_told_with_whoever_named_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin1").write_bytes(b'workers = 4\nproc_name = "\xe9"\n')
    (tmp_path / "huge").write_bytes(b"#" * (1 << 20) + b"\n")
    reasons = {
        "missing": "cannot be read: No such file or directory",
        "": "cannot be read: Is a directory",
        "fifo": "is not a regular file; it is read again at each reload",
        "latin1": "is not UTF-8 in line 2",
        "huge": "is longer than 1MiB, so it is hardly a file of settings",
    }
    for name, reason in reasons.items():
        layer = read_file(f"{tmp_path}/{name}", "FORKSERVE_CONFIG")
        assert layer == Layer(problems=(f"{tmp_path}/{name}: {reason} (named by FORKSERVE_CONFIG)",))


def test_each_setting_has_a_variable_with_its_name() -> None:
    for name in declared():
        assert read_environ({"FORKSERVE_" + name.upper(): "x"}) == Layer(
            {name: Given("x", "FORKSERVE_" + name.upper(), is_text=True)}
        )


def test_the_variables_of_platforms_are_read_and_our_own_win() -> None:
    platform = {"WEB_CONCURRENCY": "4", "PORT": "5000"}
    assert read_environ(platform).given == {
        "bind": Given("0.0.0.0:5000", "PORT", is_text=True),
        "workers": Given("4", "WEB_CONCURRENCY", is_text=True),
    }
    ours = {"FORKSERVE_WORKERS": "2", "FORKSERVE_BIND": "a:1"}
    assert read_environ(platform | ours).given == {
        "bind": Given("a:1", "FORKSERVE_BIND", is_text=True),
        "workers": Given("2", "FORKSERVE_WORKERS", is_text=True),
    }


def test_empty_variables_of_platforms_count_as_unset_and_our_own_do_not() -> None:
    assert read_environ({"WEB_CONCURRENCY": "", "PORT": ""}) == Layer()
    assert read_environ({"FORKSERVE_PIDFILE": ""}).given["pidfile"].raw == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("FORKSERVE_WORKER", 'FORKSERVE_WORKER: unknown variable, ignored; did you mean "FORKSERVE_WORKERS"?'),
        ("FORKSERVE_LOG_LEVEL", 'FORKSERVE_LOG_LEVEL: unknown variable, ignored; did you mean "FORKSERVE_LOGLEVEL"?'),
        ("FORKSERVE_CONFIG_FILE", 'FORKSERVE_CONFIG_FILE: unknown variable, ignored; did you mean "FORKSERVE_CONFIG"?'),
        ("FORKSERVE_PORT", 'FORKSERVE_PORT: unknown variable, ignored; did you mean "PORT"?'),
        ("FORKSERVE_COLOUR", "FORKSERVE_COLOUR: unknown variable, ignored"),
        ("FORKSERVE_", "FORKSERVE_: unknown variable, ignored"),
    ],
)
def test_an_unknown_variable_with_our_prefix_is_told_in_one_line(name: str, problem: str) -> None:
    assert read_environ({name: "4"}) == Layer(strangers=(problem,))


def test_variables_of_others_and_those_that_kubernetes_makes_for_a_service_are_left_alone() -> None:
    service = {
        "FORKSERVE_SERVICE_HOST": "10.0.0.1",
        "FORKSERVE_SERVICE_PORT": "80",
        "FORKSERVE_SERVICE_PORT_HTTP": "80",
        "FORKSERVE_PORT": "tcp://10.0.0.1:80",
        "FORKSERVE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "FORKSERVE_PORT_80_TCP_PROTO": "tcp",
        "FORKSERVE_PORT_80_TCP_PORT": "80",
        "FORKSERVE_PORT_80_TCP_ADDR": "10.0.0.1",
        "FORKSERVE_SHOP_SERVICE_HOST": "10.0.0.2",
    }
    assert read_environ({**service, "PATH": "/bin", "FORKSERVE_CONFIG": "x", "WORKERS": "4"}) == Layer()


def test_flags_are_origins_by_their_long_spelling() -> None:
    layer = read_argv({"workers": "4", "bind": ("a:1", "b:2"), "app": "shop", "errorlog": "x"})
    assert layer.given == {
        "workers": Given("4", "--workers", is_text=True),
        "bind": Given(("a:1", "b:2"), "--bind", is_text=True),
        "app": Given("shop", "APP", is_text=True),
        "errorlog": Given("x", "--error-logfile", is_text=True),
    }


def test_no_two_settings_share_a_flag_or_a_variable() -> None:
    flags = [flag for setting in declared().values() for flag in setting.flags]
    variables = [variable for setting in declared().values() for variable in setting.variables]
    assert len(set(flags)) == len(flags)
    assert len(set(variables)) == len(variables)


def test_printed_settings_carry_their_origin_as_a_comment() -> None:
    printed = to_toml(Settings(workers=4, bind=("a:1", "unix:b")), {"workers": "config.toml:3", "bind": "a\nb"})
    assert "workers = 4  # from config.toml:3\n" in printed
    assert "  # from a\\nb\n" in printed
    assert 'timeout = "30s"\n' in printed
    assert tomllib.loads(printed)["bind"] == ["a:1", "unix:b"]


# What the reader lets through: no control characters but the tab, and no half of a surrogate pair.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\t"))


@given(texts)
def test_any_text_survives_being_printed_and_read(text: str) -> None:
    settings = Settings(proc_name=text, access_log_format=text, bind=(f"unix:{text}",))
    document = tomllib.loads(to_toml(settings, {}))
    assert document["proc_name"] == document["access_log_format"] == text
    assert document["bind"] == [f"unix:{text}"]


@given(st.floats(0, 3e9), st.integers(0, 2**63 - 1))
def test_any_number_survives_being_printed_and_read(seconds: float, size: int) -> None:
    document = tomllib.loads(to_toml(Settings(timeout=seconds, limit_request_body=size), {}))
    assert parse_duration(document["timeout"]) == seconds
    assert parse_size(document["limit_request_body"]) == size
