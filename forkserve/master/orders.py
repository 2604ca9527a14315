"""What the supervisor orders its children: each order is an action, the stage it begins, and one line of the log.

Pure, in the master. Knows how a child is asked to leave, dumped and killed, and how much time each step gets;
when and whom is the supervisor's decision. Moments are monotonic seconds.
"""

from forkserve.master import actions as do
from forkserve.master.records import Record, Stage

DUMP_S = 1.0  # from the stack dump to the kill
KILL_AGAIN_S = 5.0  # a killed child that is not reaped is stuck in the kernel: remind it rarely
QUICK_S = 1.0  # what a quick stop, or a grace of 0, leaves to the request that runs


class Orders:
    """The actions of one round, in order."""

    def __init__(self) -> None:
        self._actions: list[do.Action] = []
        self._answers: list[do.ReloadEnded | do.UpgradeEnded] = []

    def take(self) -> list[do.Action]:
        """Hand the round over and begin the next."""
        taken, self._actions = self._actions, []
        return taken

    def add(self, action: do.Action) -> None:
        self._actions.append(action)

    def answer_later(self, ended: do.ReloadEnded | do.UpgradeEnded) -> None:
        """Answer who waits for a reload or an upgrade, but not before the service manager was told how it ended."""
        self._answers.append(ended)

    def answer_now(self) -> None:
        """Give the answers that were kept: the service manager has been told."""
        self._actions += self._answers
        self._answers = []

    def say(self, level: str, sentence: str, record: Record | None = None, detail: str = "", **fields: object) -> None:
        """Log one line; a record adds whom it is about, None is left out, seconds are rounded."""
        known = (("id", record.id), ("slot", record.slot), ("gen", record.generation)) if record else ()
        told = {key: _rounded(value) for key, value in fields.items() if value is not None}
        self.add(do.Say(level, sentence, (*known, *told.items()), id=record.id if record else 0, detail=detail))

    def spawn(self, record: Record) -> None:
        """Fork this child; the line follows when the kernel has answered."""
        self.add(do.Spawn(record.id, record.kind, record.slot, record.generation))

    def retire(self, record: Record, now: float, grace_s: float, why: str, drain: bool = False) -> None:
        """Ask a READY child to finish within the grace and exit; without grace it is hurried."""
        if not grace_s:
            self.hurry(record, now, why)
            return
        record.enter(Stage.RETIRING, now, now + grace_s)
        record.asked, record.drains, record.why = True, drain, why
        self.add(do.Retire(record.id, drain=drain))
        self.say("info", "retiring worker", record, cause=why)

    def drain(self, record: Record) -> None:
        """Tell a RETIRING child that the service stops by now, so that it keeps no connection for a next request; the
        grace is the one that it has."""
        record.drains = True
        self.add(do.Retire(record.id, drain=True))

    def hurry(self, record: Record, now: float, why: str) -> None:
        """Ask a READY or RETIRING child to leave now; an earlier deadline stays."""
        deadline = min(record.deadline or now + QUICK_S, now + QUICK_S)
        record.enter(Stage.RETIRING, now, deadline)
        record.asked, record.hurried, record.why = True, True, why
        self.add(do.Hurry(record.id))
        self.say("info", "hurrying worker", record, cause=why)

    def condemn(self, record: Record, now: float, why: str, deadline: float = 0.0) -> None:
        """Have an overdue child write its stacks; its kill is due a moment later. ``deadline``: of its request, if it
        is that which is overdue."""
        record.grace_until = record.deadline if record.stage is Stage.RETIRING else 0.0
        record.enter(Stage.KILLED, now, now + DUMP_S)
        record.why = why
        self.add(do.Dump(record.id, deadline))

    def kill(self, record: Record, now: float) -> None:
        """Kill a condemned child, and again later if it is not reaped; only the first time is worth a line."""
        first = not record.killed
        record.killed = True
        record.deadline = now + KILL_AGAIN_S
        self.add(do.Kill(record.id))
        if first:
            self.say("info", "killed worker", record, cause=record.why)

    def abandon(self, record: Record, now: float, why: str) -> None:
        """Have a BOOTING child that is not wanted any more end what its import has started, and itself; its kill is due
        a moment later."""
        record.enter(Stage.KILLED, now, now + DUMP_S)
        record.asked, record.why = True, why
        self.add(do.Cancel(record.id))
        self.say("info", "abandoning worker", record, cause=why)


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
