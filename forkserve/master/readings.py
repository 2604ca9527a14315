"""What the master makes of settings: the mind's policy, the log, what a generation is born with. Runs in the master."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

from forkserve.accesslog import check_format
from forkserve.config.resolve import Resolved, diff
from forkserve.config.settings import Settings
from forkserve.config.values import parse_share
from forkserve.errors import SettingsError
from forkserve.log import log
from forkserve.master import events as ev
from forkserve.master.doors import Doors
from forkserve.master.folder import Standing, here
from forkserve.master.outfit import Outfit, cannot_open, check_logs, give_logs, identity_of, owner_of, tls_context
from forkserve.master.patience import Attempt, once
from forkserve.net import address, inherit
from forkserve.net.inherit import Handed
from forkserve.unix import descriptors


def policy_of(settings: Settings) -> ev.Policy:
    """Pick what the mind plans by."""
    surge, surge_percent = _share_of(settings.reload_surge)
    retiring, retiring_percent = _share_of(settings.reload_retiring)
    return ev.Policy(
        size=settings.workers,
        surge=surge,
        surge_percent=surge_percent,
        retiring=retiring,
        retiring_percent=retiring_percent,
        boot_timeout_s=settings.boot_timeout,
        grace_s=settings.graceful_timeout,
        reload_retries=settings.reload_retries,
        reload_timeout_s=settings.reload_timeout,
        reload_settle_s=settings.reload_settle,
        timeout_s=settings.timeout,
        drain_delay_s=settings.drain_delay,
    )


def _share_of(text: str) -> tuple[int, int]:
    """A number of workers at the least, and a percentage of them: one of both is what the setting says."""
    if text.endswith("%"):
        return int(text != "0%"), int(text[:-1])
    return int(parse_share(text, 0)), 0


def set_up_log(settings: Settings) -> None:
    """Write the error log where the settings say. Raises SettingsError, and then nothing has changed."""
    try:
        log.setup(settings.errorlog, settings.loglevel)
    except OSError as error:
        raise SettingsError(f"errorlog = {settings.errorlog!r}: {cannot_open(settings.errorlog, error)}") from None


def tell_changes(old: Settings, new: Settings) -> None:
    """Log each setting that differs, and when that takes effect."""
    for changed in diff(old, new):
        was, text = changed.spelled()
        log.info("setting changed", name=changed.name, old=was, new=text, applies_to=changed.applies_to)


def wanted(resolved: Resolved, handed: Iterable[Handed]) -> tuple[address.Address, ...]:
    """Say where to listen: as ``bind`` says, or else at what was handed in. Raises BindError."""
    protocol = resolved.settings.protocol
    listening = tuple(one for one in handed if one.where)
    if listening and "bind" not in resolved.origins:
        return tuple(one.address.speaking(protocol) for one in listening)
    return inherit.choose([address.parse(text).speaking(protocol) for text in resolved.settings.bind], listening)


def read_anew(
    old: Resolved,
    folder: str,
    doors: Doors,
    handed: Iterable[Handed],
    before: Outfit,
    change_fittings: Callable[[Resolved, ExitStack], Callable[[], None]],
) -> tuple[Resolved, Outfit]:
    """Read the settings again, from the folder as it is called, and make what the next generation is born with.

    Raises ForkserveError and outfit.HALF_DEPLOYED, and then nothing has changed.
    """
    with Standing(folder) as standing, ExitStack() as undo:
        undo.callback(standing.back)
        standing.follow()
        new = old.reload()
        standing.need(new.settings.chdir)
        check_format(new.settings.access_log_format)
        set_up_log(new.settings)
        undo.callback(set_up_log, old.settings)
        undo.callback(standing.back)  # first: the old name of a log may begin where we stood
        commit = change_fittings(new, undo)
        made = dress(new, doors, handed, before)
        undo.pop_all()
        commit()
        standing.tell()
        tell_changes(old.settings, new.settings)
    return new, made


def dress(
    resolved: Resolved, doors: Doors, handed: Iterable[Handed], before: Outfit, attempt: Attempt = once
) -> Outfit:
    """Make what a generation is born with, after ``before``; ``attempt`` binds. Raises ForkserveError, and then no door
    has changed."""
    settings = resolved.settings
    who = identity_of(settings)
    check_logs(settings)
    give_logs(settings, who)
    context = tls_context(settings)
    places = wanted(resolved, handed)
    listeners = attempt(
        lambda: doors.prepare(places, settings.backlog, owner_of(settings), reuse_port=settings.reuse_port)
    )
    made = Outfit(settings, listeners, context, who, folder=here())
    _tell_shortage(made, before)
    return made


def _tell_shortage(made: Outfit, before: Outfit) -> None:
    """Say that workers may not have as many descriptors as they may need, unless that was said of ``before``."""
    limit = descriptors.hard_limit()
    if limit is None or made.most_descriptors <= limit:
        return
    if not before.listeners or made.most_descriptors != before.most_descriptors:  # without any: this is the start
        log.warning(
            "workers may run out of descriptors: the hard limit is below what worker_connections needs",
            worker_connections=made.settings.worker_connections, needed=made.most_descriptors, hard_limit=limit,
            remedy=f"LimitNOFILE={made.most_descriptors} in the unit, ulimit -Hn, or fewer worker_connections",
        )  # fmt: skip
