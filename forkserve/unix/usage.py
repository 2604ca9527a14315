"""What the machine says about a process: memory and CPU time. The door of psutil.

psutil is imported when the master must explain a worker, not at start; without it there is no explanation.
"""

import mmap
import os


def explain(pid: int) -> dict[str, object]:
    """Return the fields that tell a busy worker from a waiting one: state, CPU seconds, resident MiB; {} if gone."""
    try:
        import psutil  # lazy: 10 ms and 2 MiB that a healthy master never needs
    except Exception:  # by then the disk may hold half of another version: no reason for a master to die
        return {}
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {
                "state": process.status(),
                "cpu_s": round(times.user + times.system, 2),
                "rss_mib": process.memory_info().rss >> 20,
            }
    except psutil.Error:
        return {}


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes; 0 if it is gone. Source: proc(5), /proc/PID/statm."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0


def children_of(pid: int) -> list[tuple[int, str]]:
    """Return pid and title of each child of a process, without those that have ended; [] where the kernel does not say.

    Source: proc(5), /proc/PID/task/TID/children.
    """
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:  # a thread that has ended meanwhile, or a kernel without CONFIG_PROC_CHILDREN
        pass
    titles = [(child, _title_of(child)) for child in found]
    return [(child, title) for child, title in titles if title]


def listening_at(port: int, path: str) -> list[tuple[int, str]]:
    """Return pid and title of who listens at a TCP port or, where it is 0, at a unix path (with @: an abstract name);
    those of other users only for root. [] if nobody is found."""
    try:
        import psutil  # lazy, as above
    except Exception:
        return []
    folder, name = os.path.split(os.path.abspath(path))
    try:
        if port:
            found = [c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr[1:] == (port,)]
        else:
            # Under its own name, or the temporary one that it was bound with and that the kernel goes on telling.
            temporary = os.path.join(folder, f".{name[:60]}.")
            found = [
                c.pid for c in psutil.net_connections("unix")
                if str(c.laddr) == path or str(c.laddr).startswith((os.path.join(folder, name), temporary))
            ]  # fmt: skip
    except (psutil.Error, OSError):
        return []
    return [(pid, _title_of(pid)) for pid in dict.fromkeys(found) if pid]


def _title_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
