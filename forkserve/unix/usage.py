"""What the machine says about a process: memory and CPU time. The door of psutil.

psutil is imported when the master must explain a worker, not at start; without it there is no explanation.
"""

import mmap


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
