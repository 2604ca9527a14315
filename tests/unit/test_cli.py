"""The command as people meet it: real processes, their output and exit codes."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forkserve import __version__, cli
from forkserve.config import resolve, sources
from forkserve.config.settings import Settings, declared
from forkserve.errors import SettingsError
from tests.certificates import Certificate, needs_openssl

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30  # a bound for a test that has failed; nothing waits for it
NO_APP = (
    'forkserve: error: no app: give it as an argument (forkserve module:attr) or as app = "module:attr" in the file\n'
)
ENVIRON = {name: text for name, text in os.environ.items() if not name.startswith("FORKSERVE_")} | {
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONDONTWRITEBYTECODE": "1",
}
for unwanted in ("WEB_CONCURRENCY", "PORT"):
    ENVIRON.pop(unwanted, None)

APPS = {
    "good": "def app(environ, start_response): return []\ndef make(*args, **kwargs): return app\nthree = 3\n",
    "raises": "def deep():\n    raise RuntimeError('the database is gone')\ndeep()\n",
    "syntax": "def (:\n",
    "leaves": "import sys\nsys.exit(0)\n",
    "vanishes": "import os\nos._exit(0)\n",
    "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "hangs": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nsignal.pause()\n",
    "prints": "print('hello from the app')\nfrom good import app\n",
    "imports": "import nothing_of_this_name\n",
}


def forkserve(folder: Path, *argv: str, environ: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "forkserve", *argv],
        cwd=folder, env=ENVIRON | (environ or {}), timeout=PATIENCE_S, text=True, capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    for name, text in APPS.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_the_version_is_shown(tmp_path: Path, flag: str) -> None:
    done = forkserve(tmp_path, flag)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"forkserve {__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_shows_every_flag_under_its_section(tmp_path: Path, flag: str) -> None:
    done = forkserve(tmp_path, flag)
    assert (done.returncode, done.stderr) == (0, "")
    for name, setting in declared().items():
        if name != "app":
            section = done.stdout.split(f"\n{setting.option.section}:\n")[1].split("\n\n")[0]
            assert all(spelled in section for spelled in setting.flags)
    assert "[default: 127.0.0.1:8000]" in " ".join(done.stdout.split())


def test_no_slow_module_is_imported_before_it_is_needed() -> None:
    program = "import forkserve.cli, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRON, check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & {
        "click",
        "tomllib",
        "difflib",
        "toml",
        "httptools",
        "psutil",
        "setproctitle",
        "forkserve.wsgi.app",
        "asyncio",
    }


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--wrokers", "4"], "No such option '--wrokers'. Did you mean '--workers'?"),
        (["--colour"], "No such option '--colour'."),
        (["-w"], "Option '-w' requires an argument."),
        (["good:app", "extra"], "Got unexpected extra argument (extra)"),
    ],
)
def test_a_misspelled_command_line_is_told_in_one_line(tmp_path: Path, argv: list[str], line: str) -> None:
    done = forkserve(tmp_path, *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("forkserve: error: ")
    assert line.split("'. ")[0] in done.stderr
    assert ("--workers" in done.stderr) == ("--workers" in line)


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        ([], NO_APP),
        (["--check-config"], NO_APP),
        ([""], NO_APP),
        (["-w", "0", "a"], "forkserve: error: --workers: workers = 0: must be between 1 and 1024\n"),
        (["-c", "", "a"], "forkserve: error: --config: names no file\n"),
        (
            ["-c", "none.toml", "a"],
            "forkserve: error: none.toml: cannot be read: No such file or directory (named by --config)\n",
        ),
        (
            ["-b", "a:x", "-t", "soon", "a"],
            (
                'forkserve: error: --bind: bind = "a:x": the port must be a number from 0 to 65535, not "x"\n'
                'forkserve: error: --timeout: timeout = "soon": expected seconds, such as 30, or a duration such as'
                ' "30s", "500ms", "2m" or "1h30m"\n'
            ),
        ),
    ],
)
def test_bad_settings_end_in_exit_code_2_with_a_line_for_each(tmp_path: Path, argv: list[str], lines: str) -> None:
    done = forkserve(tmp_path, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", lines)


def test_text_that_is_not_utf8_is_refused_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forkserve", "--print-config", "-n", b"\xff"], cwd=tmp_path, env=ENVIRON,
        timeout=PATIENCE_S, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b'forkserve: error: --name: proc_name = "\\udcff": must be UTF-8\n'


def test_each_flag_sets_its_setting(tmp_path: Path) -> None:
    argv = (
        "shop:app --chdir . -b a:1 -b b:2 --backlog 3 -w 4 -k sync --worker-connections 5 -t 6 --graceful-timeout 7"
        " --reload-retiring 36 --boot-timeout 8 --reload-surge 9 --reload-retries 10 --reload-timeout 11"
        " --keep-alive 12 --header-timeout 13"
        " --body-timeout 14 --send-timeout 15 --limit-request-line 16 --limit-request-fields 17"
        " --limit-request-field_size 18 --limit-request-body 19 -p 20 -n 21 --log-file 22 --log-level debug"
        " --access-logfile 23 --access-logformat 24 --no-relay --reuse-port --reload-settle 25 --body-min-rate 26"
        " --handshake-timeout 27 --stream-request-body --limit-response-spool 28 --forwarded-allow-ips ::29"
        " --proxy-protocol v2 --proxy-allow-ips ::30 --header-map refuse --certfile a.pem --certfile b.pem --keyfile 31"
        " --ca-certs 32 --cert-reqs optional --ciphers 33 --tls-min-version 1.3 --static /a=b --static /c=d"
        " --static-follow-links --sendfile-folders /e=f --threads 34"
        " --protocol scgi --mount /m --gateway-allow-ips ::35"
    )
    (tmp_path / "printed.toml").write_text(forkserve(tmp_path, "--print-config", *argv.split()).stdout)
    assert resolve.load(sources.Layer(), {}, str(tmp_path / "printed.toml")).settings == Settings(
        app="shop:app", chdir=".", bind=("a:1", "b:2"), backlog=3, workers=4, worker_connections=5, timeout=6,
        graceful_timeout=7, boot_timeout=8, reload_surge="9", reload_retries=10, reload_timeout=11, keepalive=12,
        header_timeout=13, body_timeout=14, send_timeout=15, limit_request_line=16, limit_request_fields=17,
        limit_request_field_size=18, limit_request_body=19, pidfile="20", proc_name="21", errorlog="22",
        loglevel="debug", accesslog="23", access_log_format="24", relay=False, reuse_port=True, reload_settle=25,
        body_min_rate=26, handshake_timeout=27, stream_request_body=True, limit_response_spool=28,
        forwarded_allow_ips="::29", proxy_protocol="v2", proxy_allow_ips="::30", header_map="refuse",
        certfile=("a.pem", "b.pem"), keyfile=("31",), ca_certs="32", cert_reqs="optional", ciphers="33",
        tls_min_version="1.3", static=(("/a", "b"), ("/c", "d")), static_follow_links=True,
        sendfile_folders=(("/e", "f"),), threads=34, protocol="scgi", mount="/m", gateway_allow_ips="::35",
        reload_retiring="36",
    )  # fmt: skip


def test_printed_settings_name_the_origin_of_each_layer_and_read_back_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('timeout = "90s"\nproc_name = "né \\"x\\""\nworkers = 2\n')
    environ = {"FORKSERVE_CONFIG": "config.toml", "PORT": "5000", "LC_ALL": "C"}
    done = forkserve(tmp_path, "--print-config", "-w", "4", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    commented = [line for line in done.stdout.splitlines() if "  # from " in line]
    assert commented == [
        'bind = ["0.0.0.0:5000"]  # from PORT',
        "workers = 4  # from --workers",
        'timeout = "90s"  # from config.toml:1',
        'proc_name = "né \\"x\\""  # from config.toml:2',
    ]
    assert set(tomllib.loads(done.stdout)) == set(declared())
    (tmp_path / "printed.toml").write_text(done.stdout)
    assert resolve.load(sources.Layer(), {}, str(tmp_path / "printed.toml")).settings == Settings(
        bind=("0.0.0.0:5000",), workers=4, timeout=90.0, proc_name='né "x"'
    )


def test_a_full_disk_under_printed_settings_is_told_in_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "forkserve", "--print-config"], env=ENVIRON, stdout=full, stderr=subprocess.PIPE,
            timeout=PATIENCE_S, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "forkserve: error: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("app", ["good", "good:app", "good:make('x', k=[1])"])
def test_a_good_app_is_found_good(apps: Path, app: str) -> None:
    done = forkserve(apps, "--check-config", app)
    assert (done.returncode, done.stdout, done.stderr) == (0, "settings and app are good\n", "")


def test_the_app_may_be_named_in_the_file(apps: Path) -> None:
    (apps / "config.toml").write_text('app = "good"\n')
    assert forkserve(apps, "--check-config", "-c", "config.toml").returncode == 0


def test_what_the_app_prints_while_it_is_checked_comes_out_once_and_first(apps: Path) -> None:
    assert forkserve(apps, "--check-config", "prints").stdout == "hello from the app\nsettings and app are good\n"


def test_an_app_that_raises_is_told_with_a_traceback_that_begins_in_its_own_code(apps: Path) -> None:
    done = forkserve(apps, "--check-config", "raises")
    assert (done.returncode, done.stdout) == (3, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    files = [line for line in lines if line.startswith("  File ")]
    assert [line.split('"')[1] for line in files] == [f"{apps}/raises.py"] * 2
    assert lines[-2] == "RuntimeError: the database is gone"
    assert lines[-1].startswith("forkserve: error: ")


@pytest.mark.parametrize(
    ("app", "code", "words"),
    [
        ("imports", 3, "No module named 'nothing_of_this_name'"),
        ("syntax", 3, "syntax.py"),
        ("leaves", 3, "SystemExit"),
        ("vanishes", 3, 'app = "vanishes": ended the process while it was loaded, exit status 0'),
        ("crashes", 3, 'app = "crashes": signal 9 (Killed) ended the process that loaded it'),
        ("no_such_module", 3, "No module named 'no_such_module'"),
        ("good:nothing", 4, "nothing"),
        ("good:three", 4, "good:three"),
        ("good:make(1)(2)", 2, "only a name and a call with literal arguments may follow the colon"),
    ],
)
def test_a_bad_app_is_told_in_a_last_line_and_by_the_exit_code(apps: Path, app: str, code: int, words: str) -> None:
    done = forkserve(apps, "--check-config", app)
    assert (done.returncode, done.stdout) == (code, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("forkserve: error: ")
    assert words in last
    assert "forkserve/" not in done.stderr


@pytest.mark.parametrize("app", ["no_such_module", "good:nothing", "vanishes", "crashes"])
def test_where_no_code_of_the_app_is_to_blame_there_is_no_traceback(apps: Path, app: str) -> None:
    assert forkserve(apps, "--check-config", app).stderr.count("\n") == 1


def test_an_app_that_hangs_is_killed_at_the_boot_timeout(apps: Path) -> None:
    done = forkserve(apps, "--check-config", "--boot-timeout", "300ms", "hangs")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == 'forkserve: error: app = "hangs": was not loaded within boot_timeout, 300ms\n'


@pytest.mark.parametrize("boot_timeout", ["0", "60"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_check_and_its_child(apps: Path, signum: signal.Signals, boot_timeout: str) -> None:
    (apps / "waits.py").write_text("import os, signal\nprint(os.getpid(), flush=True)\n" + APPS["hangs"])
    process = subprocess.Popen(
        [sys.executable, "-m", "forkserve", "--check-config", "--boot-timeout", boot_timeout, "waits"],
        cwd=apps, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.send_signal(signum)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (128 + signum, "")
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    finally:
        process.kill()
        if process.returncode != 128 + signum:  # the check has not ended its child
            os.kill(child, signal.SIGKILL)
            process.communicate()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_with_the_child_leaves_no_child(apps: Path, signum: signal.Signals) -> None:
    program = (
        "import os, sys\nfrom forkserve.cli import main\n"
        "signum = int(sys.argv.pop(1))\nreading, writing = os.pipe()\n"
        'def begin():\n    os.write(writing, b"%d\\n" % os.getpid())\n'
        "def end():\n    os.write(1, os.read(reading, 99))\n    os.kill(os.getpid(), signum)\n"
        "os.register_at_fork(after_in_parent=end, after_in_child=begin)\nmain()\n"
    )
    with open(apps / "told", "w") as told:
        done = subprocess.run(
            [sys.executable, "-c", program, str(int(signum)), "--check-config", "--boot-timeout", "5", "hangs"],
            cwd=apps, env=ENVIRON, timeout=PATIENCE_S, stdout=told, stderr=told, check=False,
        )  # fmt: skip
        child, errors = (apps / "told").read_text().split("\n", 1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), signal.SIGKILL)
    assert (done.returncode, errors) == (128 + signum, "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--certfile", "none.pem"], "certfile = 'none.pem'"),
        (["--cert-reqs", "required"], "cert_reqs"),
        (["--keyfile", "none.pem"], "keyfile"),
        (["--socket-mode", "9"], "socket_mode"),
        (["--socket-user", "nobody-of-this-name"], "socket_user"),
        (["--socket-group", "nobody-of-this-name"], "socket_group"),
    ],
)
def test_a_check_refuses_what_a_start_refuses_before_the_app_is_loaded(apps: Path, argv: list[str], words: str) -> None:
    checked = forkserve(apps, "--check-config", *argv, "prints")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr.count("\n") == 1
    assert words in checked.stderr
    started = forkserve(apps, "-b", "unix:socket", *argv, "prints")
    assert started.returncode == 2
    reason = checked.stderr.removeprefix("forkserve: error: ").strip()
    assert reason in started.stderr


@needs_openssl
def test_a_check_reads_certificates_and_ciphers(apps: Path) -> None:
    made = Certificate(apps, "a", "DNS:a.example")
    argv = ["--check-config", "--certfile", made.file, "--keyfile", made.key, "good"]
    assert forkserve(apps, *argv).returncode == 0
    done = forkserve(apps, *argv, "--ciphers", "NO-SUCH-CIPHER")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("forkserve: error: ciphers = 'NO-SUCH-CIPHER': ")


def test_settings_are_printed_before_the_app_is_checked(apps: Path) -> None:
    done = forkserve(apps, "--print-config", "--check-config", "good")
    assert done.returncode == 0
    assert done.stdout.startswith("# Application\n")
    assert done.stdout.endswith("\nsettings and app are good\n")


def test_a_line_that_cannot_be_read_at_an_upgrade_costs_the_next_one_no_environment() -> None:
    loader = cli._unreadable("No such option '--wrokers'.")
    assert loader.environ == dict(os.environ)
    with pytest.raises(SettingsError, match="--wrokers"):
        loader.load()
