"""Process titles, such as `forkserve: worker 3 [shop] gen=2 idle`. The door of setproctitle."""

import setproctitle

_name = ""


def set_name(proc_name: str) -> None:
    """Set the instance's name, shown in brackets; empty: none."""
    global _name
    _name = f" [{proc_name}]" if proc_name else ""


def set_title(who: str, generation: int, what: str = "") -> None:
    """Show what this process is: ``who`` is "master" or "worker 3", ``what`` its state."""
    setproctitle.setproctitle(f"forkserve: {who}{_name} gen={generation}{' ' + what if what else ''}")
