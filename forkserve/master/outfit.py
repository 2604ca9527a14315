"""What a generation is born with: its settings, its listeners, its TLS context. Runs in the master.

A worker that is replaced gets the outfit of its own generation, whatever was loaded since.
"""

from time import time
from typing import Any

from forkserve.config.settings import Settings
from forkserve.log import log
from forkserve.net.listener import Listener
from forkserve.typed import Struct


class Outfit(Struct, frozen=True):
    """One generation's."""

    settings: Settings
    listeners: tuple[Listener, ...]
    context: Any = None  # an ssl.SSLContext; None: the service speaks no TLS


def tls_context(settings: Settings) -> Any:
    """Read the certificates anew and make the context that all workers share; None without certfile.

    Raises SettingsError, and then nothing has changed: the last context stays in use.
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
    for certificate in context.certificates:
        log.info("certificate", **certificate.fields())
        trouble = certificate.trouble(time())
        if trouble:
            log.warning(trouble, **certificate.fields())
    return context
