"""Process titles, such as `forkserve: worker 3 [shop] gen=2 idle`. The door of setproctitle."""

import os
import sys

import setproctitle

_name = ""


def set_name(proc_name: str) -> None:
    """Set the instance's name, shown in brackets; empty: none."""
    global _name
    _name = f" [{proc_name}]" if proc_name else ""


def set_title(who: str, generation: int, what: str = "") -> None:
    """Show what this process is: ``who`` is "master" or "worker 3", ``what`` its state."""
    setproctitle.setproctitle(f"forkserve: {who}{_name} gen={generation}{' ' + what if what else ''}")


def set_helper_title(what: str) -> None:
    """Show that this is a process of the app's, and none of ours: ``pkill forkserve`` must not find it, so neither the
    title nor the name of the process (proc(5), comm) begins like ours."""
    program = os.path.basename(sys.executable) or "python"
    setproctitle.setproctitle(f"{program}: {what}")
    setproctitle.setthreadtitle(program)  # of the thread that forked, and is the only one now; ours have names
