"""What a child finds around it: the folder, the environment and the places it imports from. Runs in a child, before the
app."""

import os
import sys
from collections.abc import Iterable, Mapping


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


_STARTED_IN = _here()  # Python has resolved the relative names of its path here, once


def enter(folder: str, environ: Mapping[str, str]) -> None:
    """Go to a folder, and import from there what was to be imported from the one that Python was started in.

    ``environ``: has PYTHONPATH, whose relative names move along. Raises OSError.
    """
    os.chdir(folder)
    if folder == _STARTED_IN:
        return
    relative = [name for name in environ.get("PYTHONPATH", "").split(os.pathsep) if not os.path.isabs(name)]
    moved = {os.path.join(_STARTED_IN, name): os.path.join(folder, name) for name in relative}
    moved = {os.path.normpath(old): os.path.normpath(new) for old, new in moved.items()} | {_STARTED_IN: folder}
    sys.path[:] = [moved.get(place, place) for place in sys.path]


def arrange(environ: Iterable[tuple[str, str]], folders: str) -> None:
    """Set these variables, and import first from these folders, which stand between commas."""
    os.environ.update(environ)
    sys.path[:0] = [os.path.abspath(folder.strip()) for folder in folders.split(",") if folder.strip()]
