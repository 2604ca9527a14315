"""The mind's part of an upgrade: when it is refused, what it waits for, how it fails.

Pure, in the master. While a target is tried everything goes on, only reloads wait: the exec ends in one. A failure
before the exec leaves all as it was. After it, another mind resumes with the memory of this one (memory.py).
"""

from forkserve.master.actions import DropTarget, Exec, TryTarget, UpgradeEnded
from forkserve.master.orders import Orders
from forkserve.master.records import Phase
from forkserve.master.state import State, Upgrade

TRY_S = 30.0  # an interpreter on a cold disk takes seconds, one that hangs for ever


def begin(state: State, orders: Orders, now: float) -> None:
    """Meet the wish, unless something else is under way."""
    reason = _refusal(state)
    if reason:
        orders.say("info" if state.leaving else "warning", "upgrade refused", cause=reason)
        orders.add(UpgradeEnded(f"upgrade refused: {reason}", refused=True))
        return
    state.upgrade = Upgrade(now + TRY_S)
    orders.say("info", "upgrade began", gen=state.generation)
    orders.add(TryTarget())


def go_on(state: State, orders: Orders) -> None:
    """The target understands: become it."""
    if state.upgrade and state.upgrade.deadline:
        state.upgrade.deadline = 0.0
        orders.add(Exec())


def give_up_overdue(state: State, orders: Orders, now: float) -> bool:
    """End an upgrade whose target says nothing; True if this was one."""
    if state.upgrade is None or not state.upgrade.is_due(now):
        return False
    orders.add(DropTarget())
    fail(state, orders, f"the new program did not answer within {TRY_S:g} s")
    return True


def fail(state: State, orders: Orders, error: str, detail: str = "") -> None:
    """Note why, and tell whoever waits; the service is what it was."""
    if state.upgrade:
        state.upgrade = None
        state.last_error = f"upgrade failed: {error}"
        orders.say("error", "upgrade failed", None, detail, cause=error)
        orders.answer_later(UpgradeEnded(state.last_error, detail))


def abandon(state: State, orders: Orders) -> None:
    """Forget it: the service stops."""
    if state.upgrade:
        if state.upgrade.deadline:
            orders.add(DropTarget())
        state.upgrade = None
        orders.say("info", "upgrade abandoned")
        orders.answer_later(UpgradeEnded("upgrade abandoned: the service is stopping"))


def _refusal(state: State) -> str:
    if state.leaving:
        return "the service is stopping"
    if state.phase is Phase.STARTING:
        return "the service is still starting"
    if state.upgrade:
        return "an upgrade is under way"
    if state.reloading:
        return "a reload is under way"
    return ""
