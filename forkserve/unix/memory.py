"""How much memory this process may use, and whether a folder's files are memory. Knows nothing of forkserve.

Sources: cgroups(7), cgroup-v2 (memory.max), cgroup-v1 (memory.limit_in_bytes), proc(5) mountinfo, tmpfs(5).
"""

import os

_IN_MEMORY = {"tmpfs", "ramfs"}
_ROOT = "/sys/fs/cgroup"


def limit() -> int:
    """The memory that the control groups of this process, or else the machine, leave it; bytes."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += _limits(_ROOT, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(f"{_ROOT}/memory", path, "memory.limit_in_bytes")
    return min(found)


def is_in_memory(folder: str) -> bool:
    """Whether files below ``folder`` lie in memory, as in a tmpfs."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kinds = [
        line.partition(" - ")[2].split(" ")[0] for line in _lines("/proc/self/mountinfo") if _device(line) == wanted
    ]
    return bool(kinds) and kinds[-1] in _IN_MEMORY


def _device(line: str) -> str:
    return line.split(" ", 3)[2]


def _limits(root: str, path: str, name: str) -> list[int]:
    """The limits of a control group and all above it; in a namespace of its own the path may lead nowhere."""
    found = []
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts) + 1):
        for line in _lines("/".join([root, *parts[:depth], name])):
            if line.isdigit():  # else "max"
                found.append(int(line))
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
