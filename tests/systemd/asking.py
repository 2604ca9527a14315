"""A client in the network of a box: `python -m tests.systemd.asking PORT RATE GOOD`, until its stdin ends.

Writes what became of the requests as one line of JSON: how many there were, the failures, the longest stall.
"""

import json
import sys

from benchmarks.openloop import Load, steady


def main(port: int, rate: int, good: str) -> None:
    """Ask until stdin ends, one of three requests on a kept connection."""
    with Load(port, steady(rate), good.encode()) as load:
        print("asking", flush=True)
        sys.stdin.read()
    failed = [entry for entry in load.entries if entry.failed]
    ways = [f"{entry.outcome.value}{', kept' if entry.kept else ''}" for entry in failed]
    answers = [entry.body.decode() for entry in sorted(load.entries, key=lambda entry: entry.due)]
    stall_s = max((entry.latency_s for entry in load.entries), default=0.0)
    late_s = max((entry.late_s for entry in load.entries), default=0.0)
    print(json.dumps({"failures": ways, "answers": answers, "stall_s": stall_s, "late_s": late_s}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
