"""A process tree as the kernel accounts for it: who is in it, its CPU time, its memory.

CPU time is read from the CPU clock of each process: nanoseconds of the scheduler, the sum of what schedstat shows
for its threads and of the threads that have ended. Where a process of the tree ends between two readings, the
difference would miss its last part; that run is invalid.
Sources: clock_getcpuclockid(3), proc_pid_stat(5).
"""

import os
import time
from dataclasses import dataclass

from benchmarks.errors import InvalidRunError

_CPU_CLOCK_OF_PROCESS = 2  # the kernel's CPUCLOCK_SCHED; the rest of the clock id is the inverted pid
_ENDED = "ZXx"  # states of a process that is only an entry in its parent's list
_QUIET_S = 0.02
_QUIET_NS = 1_000_000  # at most 5 % of a core within _QUIET_S: nothing but idle ticks


@dataclass(frozen=True, slots=True)
class _Stat:
    """What /proc/PID/stat says, as far as it matters here."""

    pid: int
    state: str
    parent: int
    group: int
    faults_of_children: int  # page faults of children that were reaped: it grows with every one of them
    started: int  # clock ticks since boot; with the pid it names a process for good


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time of a tree at one moment, by pid and start time."""

    cpu_ns: dict[tuple[int, int], int]
    faults_of_children: int


def pids(root: int) -> list[int]:
    """The living processes of the tree, the root first."""
    return [stat.pid for stat in _stats(root)]


def group(leader: int) -> list[int]:
    """The living processes of a process group, orphans included; the leader itself may have ended."""
    return [stat.pid for stat in _everyone() if stat.group == leader and stat.state not in _ENDED]


def usage(root: int) -> Usage:
    """Read the CPU clocks of the whole tree."""
    found = _stats(root)
    try:
        return Usage(
            {(s.pid, s.started): process_cpu_ns(s.pid) for s in found}, sum(s.faults_of_children for s in found)
        )
    except OSError as error:
        raise InvalidRunError(f"a process ended while its CPU time was read: {error}") from error


def quiet_usage(root: int, give_up_s: float = 2.0) -> Usage:
    """Like `usage`, once the tree has finished what it was doing; InvalidRunError when it keeps on running."""
    end = time.monotonic() + give_up_s
    last = usage(root)
    while time.monotonic() < end:
        time.sleep(_QUIET_S)
        now = usage(root)
        if sum(now.cpu_ns.values()) - sum(last.cpu_ns.values()) <= _QUIET_NS:
            return now
        last = now
    raise InvalidRunError(f"the server still runs {give_up_s:g} seconds after the last request")


def spent_ns(before: Usage, after: Usage) -> int:
    """CPU time between two readings, processes born in between included; InvalidRunError when one ended in between."""
    gone = before.cpu_ns.keys() - after.cpu_ns.keys()
    if gone or after.faults_of_children != before.faults_of_children:
        raise InvalidRunError("a process of the server ended during the run")
    return sum(after.cpu_ns.values()) - sum(before.cpu_ns.values())


def process_cpu_ns(pid: int) -> int:
    """User and system time of all threads of a process, those that have ended included; OSError if it is gone."""
    return time.clock_gettime_ns((~pid << 3) | _CPU_CLOCK_OF_PROCESS)


def pss_bytes(root: int) -> int:
    """Proportional set size of the whole tree: a page that n processes share counts 1/n for each."""
    try:
        return sum(_pss_of(pid) for pid in pids(root))
    except OSError as error:
        raise InvalidRunError(f"a process ended while its memory was read: {error}") from error


def _pss_of(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise InvalidRunError(f"process {pid} has no memory: it has ended")


def _stats(root: int) -> list[_Stat]:
    everyone = _everyone()
    tree = [stat for stat in everyone if stat.pid == root]
    for parent in tree:  # grows while it is walked
        tree += [stat for stat in everyone if stat.parent == parent.pid]
    return tree


def _everyone() -> list[_Stat]:
    return [stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(int(name)))]


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()  # the name in brackets may hold anything
    except OSError:
        return None  # ended since the folder was listed
    return _Stat(pid, words[0], int(words[1]), int(words[2]), int(words[8]), int(words[19]))
