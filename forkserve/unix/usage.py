"""What the machine says about a process: memory and CPU time. The door of psutil.

Used by the master when it must explain a worker; psutil is imported then, not at start.
"""


def explain(pid: int) -> dict[str, object]:
    """Return the fields that tell a busy worker from a waiting one: state, CPU seconds, resident MiB; {} if gone."""
    import psutil  # lazy: 10 ms and 2 MiB that a healthy master never needs

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


def free_memory_mib() -> int:
    """Return the memory that is available on the machine, in MiB."""
    import psutil  # lazy, as above

    return int(psutil.virtual_memory().available) >> 20


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes; 0 if it is gone."""
    import psutil  # lazy, as above

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
