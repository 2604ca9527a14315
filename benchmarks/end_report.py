"""What benchmarks/ends.py saw to Markdown: a section of docs/wsgi.md. Knows no processes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.end_cases import ENDS, PROTOCOLS, TRANSPORTS, End, Protocol, Subject
from benchmarks.end_judge import Look
from benchmarks.end_rig import Seen
from benchmarks.report import table

SECTION = "ends"
_RIGHT, _WRONG, _NONE = "✔", "✘", "–"
_NUMBERS = re.compile(r"\d+ of \d+ bytes")


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run."""

    conditions: tuple[str, ...]
    versions: dict[Subject, str]
    seen: tuple[Seen, ...]
    faults: tuple[str, ...] = ()  # runs that could not be trusted
    remarks: tuple[str, ...] = ()

    def of(
        self, subject: Subject, end: End | None = None, protocol: Protocol | None = None, transport: str = "",
        cached: bool | None = None,
    ) -> list[Seen]:  # fmt: skip
        """What was seen there; what is not named is all of it."""
        return [
            one for one in self.seen
            if one.batch.subject == subject and end in (None, one.batch.end)
            and protocol in (None, one.asked.channel.protocol) and transport in ("", one.asked.channel.transport)
            and cached in (None, one.asked.cached)
        ]  # fmt: skip


def is_wrong(seen: Seen) -> bool:
    """Whether an answer looked whole and was not; or, where nothing happened, was not whole."""
    if seen.batch.end.then == "whole":
        return seen.judged.look is not Look.WHOLE
    return seen.judged.look is Look.LIES


def is_beyond_us(seen: Seen) -> bool:
    """Whether no upstream could have shown nginx the cut: it takes every end of TLS for that of the answer, unless an
    alert comes first. A process that is killed sends none, and one that nobody reads for has no room for it."""
    return seen.asked.cached and seen.asked.channel.tls and seen.batch.end.name in ("KILL", "silent", "spool")


def markdown(results: Results) -> str:
    """The section, without its markers."""
    parts = ["\n".join(f"- {sentence}" for sentence in results.conditions)]
    for subject, version in results.versions.items():
        if results.of(subject):
            note = f"\n\n{subject.note[0].upper()}{subject.note[1:]}." if subject.note else ""
            parts.append(f"### {subject.name} {version}{note}\n\n{_table(results, subject)}")
            if subject.own and (lines := _wrong_lines(results, subject)):
                parts.append("Looks whole though cut:\n\n" + "\n".join(lines))
    if lines := [f"- {line}" for line in (*results.remarks, *results.faults)]:
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _table(results: Results, subject: Subject) -> str:
    columns = [
        (protocol, transport) for protocol in PROTOCOLS for transport in TRANSPORTS
        if results.of(subject, None, protocol, transport)
    ]  # fmt: skip
    rows = [
        [end.title, *(_cell(results, subject, end, *column) for column in columns)]
        for end in ENDS if results.of(subject, end)
    ]  # fmt: skip
    rows.append(["a cut is seen as", *(_ways(results.of(subject, None, *column, False)) for column in columns)])
    return table(["end", *(f"{protocol.name} {transport}" for protocol, transport in columns)], rows, 99)


def _cell(results: Results, subject: Subject, end: End, protocol: Protocol, transport: str) -> str:
    sides = [results.of(subject, end, protocol, transport, cached) for cached in (False, True)]
    return " · ".join(_count(side) for side in sides) if any(sides) else _NONE


def _count(side: Sequence[Seen]) -> str:
    if not side:
        return _NONE
    wrong = sum(map(is_wrong, side))
    if wrong:
        return f"{_WRONG} {wrong}/{len(side)}"
    unharmed = sum(one.judged.look is Look.WHOLE for one in side) if side[0].batch.end.then != "whole" else 0
    return f"{_RIGHT} {len(side)}" + (f" ({unharmed} whole)" if unharmed else "")


def _ways(seen: Iterable[Seen]) -> str:
    ways = sorted({one.judged.how for one in seen if one.judged.look is Look.CUT})
    return ", ".join(ways) or _NONE


def _wrong_lines(results: Results, subject: Subject) -> list[str]:
    """A line for each column and side that has a fault: at which ends, and what was seen."""
    found: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for one in filter(is_wrong, results.of(subject)):
        channel = one.asked.channel
        side = "a cache" if one.asked.cached else "a client"
        how = _NUMBERS.sub("a part", one.judged.how)
        key = (f"{channel.protocol.name} {channel.transport}", "over TLS" if channel.tls else "", side, how)
        found.setdefault(key, {})[one.batch.end.name] = None
    lines = [
        f"- {', '.join(word for word in (column, tls, side) if word)}: {', '.join(ends)} ({how})"
        for (column, tls, side, how), ends in found.items()
    ]
    if any(is_wrong(one) and is_beyond_us(one) for one in results.of(subject)):
        lines.append(
            "\nnginx takes whatever ends an upstream's TLS for the end of the answer, a reset too. forkserve sends an"
            " alert first, which it heeds, but a process that is killed cannot, and where nginx itself reads nothing"
            " for `send_timeout` there is no room for it. Let nginx speak HTTP/1.1 to an upstream over TLS"
            " (`proxy_http_version 1.1`): there the framing shows every cut."
        )
    return lines
