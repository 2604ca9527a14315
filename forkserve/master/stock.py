"""Everything that a master is, written down for the program that it becomes. Runs in the master; changes nothing."""

from collections.abc import Iterable, Mapping

from forkserve.config.resolve import Resolved
from forkserve.master import handover as over
from forkserve.master.children import Children
from forkserve.master.doors import Doors
from forkserve.master.fittings import Fittings
from forkserve.master.outfit import Outfit
from forkserve.master.supervisor import Supervisor
from forkserve.master.verbs import Verbs
from forkserve.net.inherit import Handed


def take_stock(
    mind: Supervisor,
    resolved: Resolved,
    outfits: Mapping[int, Outfit],
    doors: Doors,
    handed: Iterable[Handed],
    children: Children,
    fittings: Fittings,
    verbs: Verbs,
    began_at: float,
) -> over.Handover:
    """Write it down; the reload that ends the upgrade will have the next number."""
    board, lifeline, relay = children.shared
    pidfile, control = fittings.pidfile, fittings.control
    door, clients = control.hand_over(verbs.hand_over(mind.wishes + 1)) if control else (None, [])
    return over.Handover(
        memory=mind.remember(),
        settings=over.settings_to_plain(resolved.settings),
        origins=dict(resolved.origins),
        outfits=_outfits(outfits, doors),
        doors=doors.hand_over(),
        handed=[over.OldHanded(one.fd, one.name, one.where, one.also_ipv4) for one in handed],
        children=children.hand_over(),
        board=board,
        lifeline=lifeline,
        relay=relay,
        call=children.relief.call.fd,
        pidfile=(pidfile.path, pidfile.fd) if pidfile else None,
        control=door,
        clients=tuple(clients),
        began_at=began_at,
    )


def _outfits(outfits: Mapping[int, Outfit], doors: Doors) -> dict[int, over.OldOutfit]:
    """Those whose listeners are all open still: the others will never be born with."""
    return {
        generation: over.OldOutfit(
            over.settings_to_plain(one.settings),
            [str(listener.address) for listener in one.listeners if not listener.stands_in],
            one.folder,
        )
        for generation, one in outfits.items()
        if doors.have(listener for listener in one.listeners if not listener.stands_in)
    }
