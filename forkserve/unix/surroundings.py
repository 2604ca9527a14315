"""What a child finds around it: the environment and the places it imports from. Runs in a child, before the app."""

import os
import sys
from collections.abc import Iterable


def arrange(environ: Iterable[tuple[str, str]], folders: str) -> None:
    """Set these variables, and import first from these folders, which stand between commas."""
    os.environ.update(environ)
    sys.path[:0] = [os.path.abspath(folder.strip()) for folder in folders.split(",") if folder.strip()]
