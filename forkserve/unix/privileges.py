"""No new privileges: no program that this process starts becomes somebody else, by a setuid bit or capabilities.

The door of ctypes, which the master imports once and its children inherit. Sources: prctl(2), PR_SET_NO_NEW_PRIVS.
"""

import ctypes
import os

_SET_NO_NEW_PRIVS = 38

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def gain_none() -> None:
    """From now on, for this process and all that it starts; for good. Raises OSError."""
    if _prctl(_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
