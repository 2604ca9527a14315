"""What a generation is born with: its settings, its listeners, its TLS context, who it is. Runs in the master.

A worker that is replaced gets the outfit of its own generation, whatever was loaded since.
"""

import errno
import os
import stat
from time import time
from typing import Any

from forkserve.config.settings import Settings
from forkserve.errors import ForkserveError, SettingsError
from forkserve.log import log, open_to_append
from forkserve.master import access
from forkserve.net.listener import Listener, Owner
from forkserve.typed import Struct
from forkserve.unix import descriptors, identity
from forkserve.unix.identity import Identity

# What an import late in a master's life raises where the disk holds another version by then, or half of one.
HALF_DEPLOYED = (ImportError, SyntaxError, NameError, AttributeError)


class Outfit(Struct, frozen=True):
    """One generation's."""

    settings: Settings
    listeners: tuple[Listener, ...]
    context: Any = None  # an ssl.SSLContext; None: the service speaks no TLS
    identity: Identity = Identity()
    folder: str = ""  # where it stands at first, without links; empty: where the master does
    trouble: str = ""  # why nobody can be born with it any more

    @property
    def shortest_timeout_s(self) -> float:
        """The least that a request of it can have; 0: for ever."""
        limits = (self.settings.timeout, self.settings.request_timeout)
        return min((limit_s for limit_s in limits if limit_s), default=0.0)

    @property
    def most_descriptors(self) -> int:
        """How many descriptors each worker may need."""
        settings = self.settings
        return descriptors.needed(settings.worker_connections, settings.threads, len(self.listeners))


def resume(settings: Settings, listeners: tuple[Listener, ...], folder: str) -> Outfit:
    """Make the outfit of an old generation again, after an exec; what is missing by now is told to who needs it."""
    try:
        return Outfit(settings, listeners, tls_context(settings, is_news=False), identity_of(settings), folder)
    except (ForkserveError, *HALF_DEPLOYED) as error:
        return Outfit(settings, listeners, folder=folder, trouble=str(error))


def identity_of(settings: Settings) -> Identity:
    """Look up who workers are, and whether they can read what they run on. Raises SettingsError."""
    who = identity.find(settings.user, settings.group, settings.umask)
    access.check(settings.user, who)
    return who


def owner_of(settings: Settings) -> Owner:
    """Look up whom the files of unix sockets belong to. Raises SettingsError."""
    return Owner(
        identity.mode("socket_mode", settings.socket_mode),
        identity.find_user(settings.socket_user, "socket_user") if settings.socket_user else -1,
        identity.find_group(settings.socket_group, "socket_group") if settings.socket_group else -1,
        identity.mode("umask", settings.umask),
    )


def check_owners(settings: Settings) -> None:
    """Look for slips in what the settings say about users, groups and permissions, whoever asks. Raises
    SettingsError."""
    identity.mode("umask", settings.umask)
    owner_of(settings)
    if settings.user:
        identity.find_user(settings.user)
    if settings.group:
        identity.find_group(settings.group)


def give_logs(settings: Settings, who: Identity) -> None:
    """Let workers of another user open the log files anew. Raises SettingsError."""
    if not who.is_other:
        return
    for name, path in (("errorlog", settings.errorlog), ("accesslog", settings.accesslog)):
        if path not in ("", "-"):
            try:
                fd = open_to_append(path)
                try:
                    identity.give_file(fd, who)
                finally:
                    os.close(fd)
            except OSError as error:
                raise SettingsError(f"{name} = {path!r}: cannot be given to the workers: {error.strerror}") from None


def check_logs(settings: Settings) -> None:
    """Refuse log files that could not be opened; none is made. Raises SettingsError."""
    for name, path in (("errorlog", settings.errorlog), ("accesslog", settings.accesslog)):
        if path not in ("", "-"):
            try:
                _look_at_log(path)
            except OSError as error:
                raise SettingsError(f"{name} = {path!r}: {cannot_open(path, error)}") from None


def cannot_open(path: str, error: OSError) -> str:
    """Say why a log cannot be opened, and what to do."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)  # /dev/stdout where a service manager or another program reads
    except OSError:
        is_socket = False
    if is_socket:
        return 'is a socket, which cannot be opened by its name; use "-" for the stream itself'
    return f"cannot be opened: {error.strerror}"


def _look_at_log(path: str) -> None:
    """Raise OSError if it could not be opened."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return  # whoever reads it would take our close for the end
    except FileNotFoundError:
        os.stat(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        return
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))


def tls_context(settings: Settings, is_news: bool = True) -> Any:
    """Read the certificates anew and make the context that all workers share; None without certfile.

    Raises SettingsError, and then nothing has changed: the last context stays in use. ``is_news``: log them.
    """
    if not settings.certfile:
        if settings.keyfile or settings.ca_certs or settings.cert_reqs != "none":
            from forkserve.net import tls  # lazy: the ssl module is 7 ms of a start

            tls.check(settings.certfile, settings.keyfile, settings.ca_certs, settings.cert_reqs)
        return None
    from forkserve.net import tls

    context = tls.make_contexts(
        settings.certfile, settings.keyfile, settings.ca_certs, settings.cert_reqs, settings.ciphers,
        settings.tls_min_version,
    )  # fmt: skip
    for certificate in context.certificates if is_news else ():
        log.info("certificate", **certificate.fields())
        trouble = certificate.trouble(time())
        if trouble:
            log.warning(trouble, **certificate.fields())
    return context
