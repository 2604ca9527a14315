"""forkserve/log.py: how a line is spelled, and that nothing that happens to the file stops the one who logs."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.log import LEVELS, ErrorLog, ErrorStream, LogFile, log, one_line, value
from tests.harness import ROOT

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} \[\d+\] \[[a-z]+\] ")


class Pipe:
    """A pipe, and an error log that writes to it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.log = ErrorLog()
        self.log.file.fd = self.writing

    def fill(self) -> None:
        os.set_blocking(self.writing, False)
        try:
            while os.write(self.writing, b"x" * 4096):
                pass
        except BlockingIOError:
            os.set_blocking(self.writing, True)

    def drain(self) -> bytes:
        os.set_blocking(self.reading, False)
        taken = b""
        try:
            while piece := os.read(self.reading, 65536):
                taken += piece
        except BlockingIOError:
            pass
        return taken


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.reading, pipe.writing):
        try:
            os.close(fd)
        except OSError:
            pass


def opened(path: Path | str, level: str = "debug") -> ErrorLog:
    made = ErrorLog()
    made.setup(str(path), level)
    return made


# how a line is spelled


def test_a_line_is_time_pid_level_sentence_and_pairs(tmp_path: Path) -> None:
    made = opened(tmp_path / "log")
    made.warning("worker died", pid=12, after_s=1.5, cause="no such file", path="")
    text = (tmp_path / "log").read_text()
    assert LINE.match(text)
    assert text.endswith(f' [{os.getpid()}] [warning] worker died pid=12 after_s=1.5 cause="no such file" path=""\n')
    os.close(made.file.fd)


@pytest.mark.parametrize(
    ("thing", "spelled"),
    [
        (1, "1"), (1.0, "1"), (0.5, "0.5"), (100.0, "100"), (1e9, "1000000000"), (float("inf"), "inf"), (True, "True"),
        ("plain", "plain"), ("a=b", "a=b"), ("two words", '"two words"'), ("", '""'), ('"', '"\\""'), ("\\", '"\\\\"'),
        ("a\nb", '"a\\nb"'), ("\x1b", '"\\x1b"'), ("\u2028", '"\\u2028"'), ("\ud800", '"\\ud800"'), ("ä", '"ä"'),
    ],
)  # fmt: skip
def test_a_value_is_bare_or_in_quotes(thing: object, spelled: str) -> None:
    assert value(thing) == spelled


@given(st.text())
def test_no_text_forges_a_line(text: str) -> None:
    for spelled in (one_line(text), value(text)):
        assert len(spelled.splitlines()) <= 1
        spelled.encode()


def test_a_level_shows_itself_and_what_is_more_severe(tmp_path: Path) -> None:
    for level in LEVELS:
        made = opened(tmp_path / level, level)
        for name in LEVELS:
            made.say(name, "said", {})
        shown = re.findall(r"\[([a-z]+)\] said", (tmp_path / level).read_text())
        assert shown == list(LEVELS)[list(LEVELS).index(level) :]
        os.close(made.file.fd)


def test_a_traceback_follows_indented(tmp_path: Path) -> None:
    made = opened(tmp_path / "log")
    try:
        raise LookupError("a\n2026-01-01 00:00:00.000 +0000 [1] [error] forged")
    except LookupError as error:
        made.exception("app raised", error, request="GET /")
    lines = (tmp_path / "log").read_text().splitlines()
    assert LINE.match(lines[0])
    assert len(lines) > 3
    assert all(line.startswith("    ") for line in lines[1:])
    os.close(made.file.fd)


def test_wsgi_errors_takes_any_text(tmp_path: Path) -> None:
    before, log.file.fd = log.file.fd, os.memfd_create("log")
    stream = ErrorStream()
    assert stream.write("ä\ud800\n") == 3
    stream.writelines(["a", "b\n"])
    stream.flush()
    print("c", file=stream)
    assert os.pread(stream.fileno(), 99, 0) == b"\xc3\xa4\\ud800\nab\nc\n"
    assert not stream.isatty()
    os.close(log.file.fd)
    log.file.fd = before


# where lines go


def test_reopen_writes_to_the_new_file_under_the_same_number(tmp_path: Path) -> None:
    path = tmp_path / "log"
    made = opened(path)
    fd = made.file.fd
    made.info("before")
    path.rename(tmp_path / "log.1")
    made.info("between")
    made.file.reopen()
    made.info("after")
    assert [re.findall(r"\w+$", line)[0] for line in (tmp_path / "log.1").read_text().splitlines()] == [
        "before",
        "between",
    ]
    assert path.read_text().endswith(" after\n")
    assert made.file.fd == fd
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_what_cannot_be_reopened_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    made = opened(folder / "log")
    folder.rename(tmp_path / "away")
    with pytest.raises(OSError):
        made.file.reopen()
    made.info("still said")
    assert "still said" in (tmp_path / "away" / "log").read_text()
    os.close(made.file.fd)


def test_a_fifo_without_a_reader_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        opened(tmp_path / "fifo")


def test_a_fifo_takes_lines_while_it_has_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    made = opened(tmp_path / "fifo")
    made.info("one")
    assert os.read(reading, 999).endswith(b" one\n")
    os.close(reading)
    made.info("two")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    made.info("three")
    text = os.read(reading, 999).decode()
    assert ("two" in text, "three" in text, "count=1" in text) == (False, True, True)
    os.close(reading)
    os.close(made.file.fd)


# what does not take them


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    made = opened("/dev/full")
    made.error("nobody hears it")
    made.error("nor this")
    assert made.file.lost == 2
    os.close(made.file.fd)


def test_a_closed_descriptor_loses_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.writing)
    pipe.log.error("nobody hears it")
    assert pipe.log.file.lost == 1


def test_a_reader_that_is_gone_loses_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.reading)
    pipe.log.error("nobody hears it")
    assert pipe.log.file.lost == 1


def test_a_full_pipe_loses_lines_at_once_and_they_are_said_when_it_has_room(pipe: Pipe) -> None:
    pipe.fill()
    for _ in range(5):
        pipe.log.error("nobody hears it")
    assert pipe.log.file.lost == 5
    pipe.drain()
    pipe.log.error("heard")
    said, heard = pipe.drain().decode().splitlines()
    assert said.endswith("[warning] log lines were lost count=5")
    assert heard.endswith("[error] heard")
    assert pipe.log.file.lost == 0


def test_a_slow_reader_is_waited_for_once_and_not_for_every_line(pipe: Pipe) -> None:
    pipe.log.file.patience_ms = 200
    pipe.fill()
    began = time.monotonic()
    for _ in range(50):
        pipe.log.error("nobody hears it")
    took_s = time.monotonic() - began
    assert 0.2 <= took_s < 5
    assert pipe.log.file.lost == 50


def test_a_line_that_was_cut_is_ended_before_the_next(pipe: Pipe) -> None:
    pipe.fill()
    os.read(pipe.reading, 4096)  # room for one piece
    pipe.log.error("x" * 10_000)
    pipe.drain()
    pipe.log.error("whole")
    ending, said, whole = pipe.drain().decode().split("\n")[:3]
    assert ending == ""
    assert "lost count=1" in said
    assert whole.endswith(" whole")


def test_lines_of_which_the_last_are_lost_leave_no_empty_line(pipe: Pipe) -> None:
    pipe.fill()
    os.read(pipe.reading, 4096)  # room for one piece
    before = len(pipe.drain())
    pipe.fill()
    os.read(pipe.reading, 4096)
    file = pipe.log.file
    assert before and not file.write(b"".join(b"%099d\n" % number for number in range(60)), lines=60)
    pipe.drain()
    assert file.write(b"whole\n")
    assert pipe.drain() == b"whole\n"


def test_lines_of_several_processes_do_not_tear_each_other_on_a_pipe(pipe: Pipe) -> None:
    lines_each, block = 6000, 60  # blocks of about 8 KiB, as the access log writes them; more than a pipe holds
    code = (
        "import sys\nfrom forkserve.log import LogFile\n"
        "name, first, last, block = sys.argv[1], *map(int, sys.argv[2:])\n"
        "file = LogFile(1)\nfile.open('-')\nfile.patience_ms = 30_000\n"
        "for start in range(first, last, block):\n"
        "    lines = [f'{name} {n} {name * (80 + n % 97)}.\\n' for n in range(start, start + block)]\n"
        "    assert file.write(''.join(lines).encode())\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, name, "0", str(lines_each), str(block)], cwd=ROOT,
                         stdout=pipe.writing)
        for name in "abcd"
    ]  # fmt: skip
    os.close(pipe.writing)
    with os.fdopen(os.dup(pipe.reading), "rb") as reading:
        lines = reading.read().decode().splitlines()
    assert [writer.wait(30) for writer in writers] == [0, 0, 0, 0]
    expected = [f"{name} {n} {name * (80 + n % 97)}." for name in "abcd" for n in range(lines_each)]
    assert sorted(lines) == sorted(expected)


def test_a_descriptor_that_somebody_made_non_blocking_is_no_fault(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    pipe.fill()
    os.set_blocking(pipe.writing, False)
    pipe.log.error("nobody hears it")
    assert pipe.log.file.lost == 1


def test_a_process_without_stderr_logs_into_nothing() -> None:
    code = (
        "import os; os.close(2)\n"
        "from forkserve.log import log\n"
        "log.setup('-', 'info'); log.error('nobody hears it'); print(log.file.lost)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_the_standard_stream_is_never_closed() -> None:
    file = LogFile(2)
    file.open("-")
    file.open("-")
    os.fstat(2)


def test_journal_gets_priorities_where_it_knows_time_and_pid_itself(pipe: Pipe) -> None:
    found = os.fstat(pipe.writing)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
    try:
        pipe.log.file = LogFile(pipe.writing)
        pipe.log.setup("-", "debug")
    finally:
        del os.environ["JOURNAL_STREAM"]
    pipe.log.say("error", "reload failed", {"gen": 2}, "Traceback:\n  nosuch\n")
    pipe.log.info("serving")
    assert (
        pipe.drain().decode()
        == "<3>[error] reload failed gen=2\n<3>    Traceback:\n<3>      nosuch\n<6>[info] serving\n"
    )


def test_other_streams_than_that_of_the_journal_get_time_and_pid(pipe: Pipe) -> None:
    os.environ["JOURNAL_STREAM"] = "1:1"
    try:
        pipe.log.file = LogFile(pipe.writing)
        pipe.log.setup("-", "info")
    finally:
        del os.environ["JOURNAL_STREAM"]
    pipe.log.info("serving")
    assert LINE.match(pipe.drain().decode())
