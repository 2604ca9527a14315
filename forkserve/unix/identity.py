"""Who a child is: user, groups, umask; and what is given to that user. The master stays who it is.

Names are looked up by the master when settings are read, since a directory service may be slow; the child only makes
the system calls. Supplementary groups are always those of the user: the groups of root are never left to a worker.
Source: credentials(7), initgroups(3).
"""

import os
import stat

from forkserve.errors import SettingsError
from forkserve.typed import Struct

_KEEP = -1  # as chown(2) has it
_MOST_ID = 2**32 - 2  # one more is -1 to the kernel: as it is


class Identity(Struct, frozen=True):
    """Ids to take; -1: as it is."""

    uid: int = _KEEP
    gid: int = _KEEP
    groups: tuple[int, ...] = ()
    umask: int = _KEEP

    @property
    def is_other(self) -> bool:
        """Whether it is somebody else than this process."""
        return (self.uid, self.gid) != (_KEEP, _KEEP)

    def take(self) -> None:
        """Become it, for good. Raises OSError."""
        if self.is_other:
            os.setgroups(self.groups)
            if self.gid != _KEEP:
                os.setresgid(self.gid, self.gid, self.gid)
            if self.uid != _KEEP:
                os.setresuid(self.uid, self.uid, self.uid)
        if self.umask != _KEEP:
            os.umask(self.umask)


def find(user: str, group: str, umask: str = "") -> Identity:
    """Look up names or numbers; empty: as it is. Raises SettingsError, also where only root may become that."""
    uid, gid, name = _user(user) if user else (_KEEP, _KEEP, "")
    if group:
        gid = find_group(group)
    mask = mode("umask", umask)
    if uid != _KEEP and gid == _KEEP:
        raise SettingsError(f"user = {user!r}: has no entry that names its group; give group too")
    if uid in (_KEEP, os.geteuid()) and gid in (_KEEP, os.getegid()):
        return Identity(umask=mask)  # nothing to become
    if os.geteuid() != 0:
        raise SettingsError(f"user = {user!r}, group = {group!r}: only root may change them; start as root, or as them")
    groups = os.getgrouplist(name, gid) if name else [gid] if gid != _KEEP else []
    return Identity(uid, gid, tuple(groups), mask)


def find_user(user: str, setting: str = "user") -> int:
    """Return the uid of a name or number. Raises SettingsError."""
    return _user(user, setting)[0]


def find_group(group: str, setting: str = "group") -> int:
    """Return the gid of a name or number. Raises SettingsError."""
    if group.isdecimal():
        return _number(group, setting)
    import grp  # lazy: a service without these settings pays nothing

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(f"{setting} = {group!r}: there is no such group") from None


def mode(setting: str, text: str) -> int:
    """Read permission bits, written in octal as chmod(1) and umask(1) have them; -1 for none."""
    if not text:
        return _KEEP
    try:
        bits = int(text.removeprefix("0o"), 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise SettingsError(f'{setting} = {text!r}: must be permission bits in octal, such as "022" or "0660"')
    return bits


def give_file(fd: int, identity: Identity) -> None:
    """Let this identity open a log file of ours again; only a plain file of one name is given. Raises OSError."""
    there = os.fstat(fd)
    if stat.S_ISREG(there.st_mode) and there.st_nlink == 1:
        os.fchown(fd, identity.uid, identity.gid)


def _user(user: str, setting: str = "user") -> tuple[int, int, str]:
    """Return uid, gid and name; a number that has no entry has no gid and no name."""
    import pwd

    number = _number(user, setting) if user.isdecimal() else _KEEP
    try:
        entry = pwd.getpwnam(user) if number == _KEEP else pwd.getpwuid(number)
    except KeyError:
        if number != _KEEP:
            return number, _KEEP, ""
        raise SettingsError(f"{setting} = {user!r}: there is no such user") from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _number(text: str, setting: str) -> int:
    if not text.isascii() or len(text) > len(str(_MOST_ID)) or int(text) > _MOST_ID:
        raise SettingsError(f"{setting} = {text!r}: is no id of a user or group; the highest is {_MOST_ID}")
    return int(text)
