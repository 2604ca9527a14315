"""The folder that the service stands in: by its name, so that a link to another release leads there at a reload.

Runs in the master. Relative names in the settings are looked up from it, and workers without `chdir` import from it;
each generation is born in the one that its own reload has found.
"""

import os

from forkserve.errors import SettingsError
from forkserve.log import log


def name_of(named: str) -> str:
    """Return the folder that we were started in; by the name that a shell has for it, if it has one with links."""
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
        return os.getcwd()
    except OSError:
        return "."


class Standing:
    """Where the master stands, and the way back for a reload that is rejected. Closed by the with statement."""

    def __init__(self, name: str) -> None:
        """``name``: as it was called at the start. What it leads to now is entered by ``follow``."""
        self._name = name
        self._trouble = ""
        self._was = here()
        try:
            self._here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # out of descriptors: then the way back is by its name
            self._here = -1

    def __enter__(self) -> "Standing":
        return self

    def __exit__(self, *_: object) -> None:
        if self._here >= 0:
            os.close(self._here)

    def follow(self) -> None:
        """Go where the name leads now; if it leads nowhere, stay, for whoever does not need it."""
        try:
            os.chdir(self._name)
        except OSError as error:
            self._trouble = error.strerror or str(error)

    def need(self, chdir: str) -> None:
        """Raise SettingsError if the folder is gone and workers, who go to ``chdir`` if it is set, would need it."""
        if self._trouble and not os.path.isabs(chdir):
            raise SettingsError(
                f"the folder that forkserve was started in, {self._name!r}, cannot be entered: {self._trouble}; put it"
                " back, or give chdir an absolute folder"
            )

    def tell(self) -> None:
        """Log that the name leads elsewhere by now."""
        now = here()
        if now != self._was:
            log.info("folder leads elsewhere now", name=self._name, was=self._was, now=now)

    def back(self) -> None:
        """Return to where we stood; may be done twice."""
        try:
            if self._here >= 0:
                os.fchdir(self._here)
            else:
                os.chdir(self._was)
        except OSError as error:
            log.error("folder that we stood in cannot be entered again", folder=self._was, cause=error.strerror)


def here() -> str:
    """Spell the folder that this process stands in, without links; empty where it has no name any more."""
    try:
        return os.getcwd()
    except OSError:
        return ""
