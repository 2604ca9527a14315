"""When the master looks by itself, and what it sees then: deadlines in the scoreboard, memory. Runs in the master.

Everything may be stopped for a while: STOP and CONT, a suspended machine, a virtual one that moves. The master tells it
by its own clock, or by the CONT, and what it cannot know exactly it counts for whoever waits.
"""

from collections.abc import Callable, Iterator

from forkserve.config.settings import Settings
from forkserve.log import log
from forkserve.master import events as ev
from forkserve.master.children import Child, Children
from forkserve.master.records import Stage
from forkserve.master.supervisor import Supervisor
from forkserve.unix import usage
from forkserve.unix.scoreboard import BEGAN, DEADLINE

_WEIGH_S = 1.0  # how often memory is looked at, where it has a hard limit
_TICK_S = 1.0  # how often the clock is looked at, where something has a deadline: so a pause of everything is noticed
OVERSLEPT_S = 1.0
_MOST_PAUSES = 9  # that are remembered; more in the life of one request are not counted


class Lookout:
    """Reads the clock's side of the world; decides nothing."""

    def __init__(self, mind: Supervisor, children: Children, timeouts: Callable[[], list[float]]) -> None:
        """``timeouts`` lists those of the generations that live, 0 for none."""
        self._mind = mind
        self._children = children
        self._timeouts = timeouts
        self._weigh_at = 0.0
        self._calm_until = 0.0  # after an oversleep nobody is looked at for overdue requests before this
        self._pauses: list[tuple[float, float]] = []  # of everything: when it ended, how long it was at most

    def notice_pause(self, began: float, due: float | None, now: float, *, continued: bool) -> ev.Ticked | None:
        """Look whether this process stood still while it waited from ``began`` for ``due``, and say so to the mind;
        ``continued``: it was stopped. What stands in the rows of the workers moves with it."""
        late_s = 0.0 if due is None else now - max(due, began)
        if late_s <= OVERSLEPT_S and not continued:
            return None
        self._pauses = [*self._pauses[-_MOST_PAUSES:], (now, now - began)]
        if late_s > OVERSLEPT_S:
            self._calm_until = now + OVERSLEPT_S
            log.warning("master overslept; nobody is killed this round", by_s=late_s)
        return ev.Ticked(overslept=True, deaf_s=now - began)

    def next_look(self, now: float, settings: Settings) -> float | None:
        """The moment at which something may be overdue.

        An idle worker has no deadline yet, and the request it may get in the next moment has one no sooner than
        after the shortest time-out: looking again by then is soon enough, so an idle service hardly wakes its master.
        """
        moments = [self._mind.next_deadline()]
        for child in self._watched():
            deadline = self._deadline(child)
            moments.append(max(deadline, self._calm_until) if deadline else None)
        if any(moment is not None and moment != float("inf") for moment in moments):
            moments.append(now + _TICK_S)
        timeouts = [timeout for timeout in self._timeouts() if timeout]
        moments += [now + min(timeouts)] if timeouts else []
        moments += [max(now, self._weigh_at)] if settings.max_worker_memory_hard else []
        return min((moment for moment in moments if moment is not None and moment != float("inf")), default=None)

    def overdue(self, now: float) -> tuple[ev.Overdue, ...]:
        """List the requests that are past their deadline."""
        if now < self._calm_until:
            return ()
        found = []
        for child in self._watched():
            deadline, began = self._deadline(child), child.row.moment(BEGAN)
            if 0.0 < deadline <= now:
                age_s = now - began if began else 0.0
                found.append(ev.Overdue(child.id, age_s, child.row.line, child.row.moment(DEADLINE)))
        return tuple(found)

    def _deadline(self, child: Child) -> float:
        """When the request of this child is overdue, later by what it stood still; 0: none runs."""
        deadline, began = child.row.moment(DEADLINE), child.row.moment(BEGAN)
        if deadline:
            deadline += sum(min(deaf_s, ended - began) for ended, deaf_s in self._pauses if began < ended)
        return deadline

    def weigh(self, now: float, limit: int) -> Iterator[ev.WorkerTooBig]:
        """Report the children beyond the hard limit of memory, if there is one."""
        if not limit or now < self._weigh_at:
            return
        self._weigh_at = now + _WEIGH_S
        for child in self._watched():
            rss = usage.resident_bytes(child.pid)
            if rss > limit:
                yield ev.WorkerTooBig(child.id, rss, limit)

    def _watched(self) -> list[Child]:
        """The children whose requests have a deadline that nobody has acted on yet."""
        serving = [record.id for record in self._mind.records if record.stage in (Stage.READY, Stage.RETIRING)]
        return [child for id in serving if (child := self._children.get(id)) is not None]
