"""What clients and a caching nginx see of responses that are cut short, by every end and protocol: `make ends`.

The main program: runs each server of benchmarks/end_cases.py with requests of every kind under way, ends them, judges
what came of each, and writes a table. Needs nginx and openssl.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, end_rig, report
from benchmarks.end_cases import ENDS, SUBJECTS, WHOLE_BYTES, Batch, Subject, batches
from benchmarks.end_report import SECTION, Results, is_beyond_us, is_wrong, markdown
from benchmarks.end_rig import Seen
from benchmarks.errors import InvalidRunError
from benchmarks.servers import HERE

_TRIES = 2  # of a run that could not be trusted: the machine may be busy with something else
_SIDES = (
    "In each cell first raw clients, which read at once or wait, then a caching nginx (`*_cache_valid 200 1h`,"
    " buffering on; HTTP/1.0 is its default, `chunked` and `length` are `proxy_http_version 1.1`)."
)
_MARKS = (
    "✔ 8: in all 8 variants (1 and 4 threads, without and with TLS, by an iterable, `write()` and `file_wrapper`) the"
    " cut was seen, and no cache kept a part. ✘ 2/8: in 2 of 8 the answer looked whole and was not; where that is"
    " nginx, it gives the stump to everybody who asks within the hour."
)
_NEEDS = {"nginx": "tests/gateways/install installs it", "openssl": "apt install openssl"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when no answer of forkserve looked whole that was not, 2 when something is not installed."""
    options = _parser().parse_args(argv)
    if missing := [
        f"{program} is missing: {remedy}" for program, remedy in _NEEDS.items() if not shutil.which(program)
    ]:
        print("\n".join(missing), file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, compare._interrupt)
    versions, remarks = _present(options.servers, options.peers, options.code)
    seen: list[Seen] = []
    faults: list[str] = []
    try:
        for batch, outcome in _outcomes(options, list(versions)):
            if isinstance(outcome, str):
                faults.append(f"{_name(batch)}: not measured ({outcome}).")
            else:
                seen += outcome
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    results = Results(_conditions(options, seen), versions, tuple(seen), tuple(faults), tuple(remarks))
    text = markdown(results)
    print(text)
    if options.write is not None:
        page = options.write
        page.write_text(report.replace_between_markers(page.read_text("utf-8"), text, SECTION), "utf-8")
    if options.json is not None:
        options.json.write_text(json.dumps([_row(one) for one in seen], indent=1) + "\n", "utf-8")
    own = [one for one in seen if one.batch.subject.own]
    asked_own = any(subject.own for subject in versions)
    bad = (
        any(is_wrong(one) and not is_beyond_us(one) for one in own)
        or any(fault.startswith("forkserve") for fault in faults)
        or (asked_own and not own)
    )
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ends.py", description="What is seen of responses that are cut short.")
    add = parser.add_argument
    names = ", ".join(subject.name for subject in SUBJECTS)
    add("--servers", type=compare._chosen(SUBJECTS), default=list(SUBJECTS), metavar="A,B", help=names)
    names = ", ".join(end.name for end in ENDS)
    add("--ends", type=compare._chosen(ENDS), default=list(ENDS), metavar="A,B", help=names)
    add("--peers", type=compare._folder, default=".bench/peers", metavar="DIR", help="environment of the peers")
    add("--code", type=compare._folder, default=HERE.parent, metavar="DIR", help="tree whose forkserve is run")
    add("--write", type=compare.page_with(SECTION), metavar="FILE", help="Markdown page that gets the table")
    add("--json", type=Path, metavar="FILE", help="gets what came of every request")
    return parser


def _outcomes(options: argparse.Namespace, subjects: Sequence[Subject]) -> Iterator[tuple[Batch, list[Seen] | str]]:
    """What was seen in each run, or the fault in its place."""
    with tempfile.TemporaryDirectory(prefix="ends-") as bytecode:
        for subject in subjects:
            for batch in batches(subject, tuple(options.ends)):
                outcome = _outcome(batch, options, Path(bytecode))
                print(f"{_name(batch)}: {_said(outcome)}", file=sys.stderr, flush=True)
                yield batch, outcome


def _said(outcome: list[Seen] | str) -> str:
    return outcome if isinstance(outcome, str) else f"{sum(map(is_wrong, outcome))} of {len(outcome)} wrong"


def _outcome(batch: Batch, options: argparse.Namespace, bytecode: Path) -> list[Seen] | str:
    program = _program(batch.subject, options.peers)
    fault = ""
    for _ in range(_TRIES):
        try:
            return end_rig.run(batch, program, options.code, bytecode)
        except InvalidRunError as error:
            fault = str(error)
    return fault


def _program(subject: Subject, peers: Path) -> Path:
    if subject.own:
        return Path(sys.executable)
    return peers / "bin" / ("uwsgi" if subject.package == "uwsgi" else "python")


def _present(chosen: Sequence[Subject], peers: Path, code: Path) -> tuple[dict[Subject, str], list[str]]:
    """The servers that can run here with their versions, and a remark about each that cannot."""
    found: dict[Subject, str] = {}
    remarks: list[str] = []
    for subject in chosen:
        if version := _version(subject, peers, code):
            found[subject] = version
        else:
            remedy = "make .bench/peers/.installed, or: pip install -r benchmarks/requirements-peers.txt"
            remarks.append(f"{subject.name} is left out: {subject.package} is not installed; {remedy}.")
            print(remarks[-1], file=sys.stderr)
    return found, remarks


def _version(subject: Subject, peers: Path, code: Path) -> str:
    program = _program(subject, peers)
    if subject.package == "uwsgi":
        command = [str(program), "--version"]
    else:
        command = [str(program), "-c", f"import {subject.package} as p; print(p.__version__)"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, cwd=code,
            env={**os.environ, "PYTHONPATH": str(code)} if subject.own else None,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _conditions(options: argparse.Namespace, seen: Sequence[Seen]) -> tuple[str, ...]:
    words = ["python", "benchmarks/ends.py"]
    if options.servers != list(SUBJECTS):
        words += ["--servers", ",".join(subject.name for subject in options.servers)]
    if options.ends != list(ENDS):
        words += ["--ends", ",".join(end.name for end in options.ends)]
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    nginx = re.search(r"nginx/(\S+)", told)
    own = [one for one in seen if one.batch.subject.own]
    cells = {(one.batch.end, one.batch.threads, one.asked.channel, one.asked.cached) for one in own}
    run = f"`{shlex.join(words)}`, nginx {nginx[1] if nginx else 'of unknown version'}"
    what = f"A body of {WHOLE_BYTES >> 20} MiB, cut after 3 MiB or while it waits for its client."
    return (
        compare._machine(),
        f"{run}; of forkserve {len(own)} requests in {len(cells)} cells.",
        f"{what} {_SIDES}",
        _MARKS,
    )


def _name(batch: Batch) -> str:
    return f"{batch.subject.name}, {batch.end.name}, {batch.group.value}, threads {batch.threads}"


def _row(one: Seen) -> dict[str, object]:
    channel = one.asked.channel
    return {
        "server": one.batch.subject.name, "end": one.batch.end.name, "threads": one.batch.threads,
        "protocol": channel.protocol.name, "transport": channel.transport, "tls": channel.tls, "body": one.asked.by,
        "reads": one.asked.reads, "cached": one.asked.cached, "look": one.judged.look.value, "how": one.judged.how,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
