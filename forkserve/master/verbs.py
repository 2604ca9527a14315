"""What can be asked over the control socket: each verb is a wish or a question. Runs in the master.

A request is {"verb": NAME, ...}; an answer's last line has "ok". The signals, the service manager and this socket say
the same wishes. Sockets are control.py's matter.
"""

from collections.abc import Callable, Iterable
from typing import Any

from forkserve.master import events as ev
from forkserve.master.actions import ReloadEnded, UpgradeEnded
from forkserve.master.control import Reply
from forkserve.master.supervisor import SIZE_MAX, SIZE_MIN

VERBS = ("status", "reload", "upgrade", "scale", "stop", "reopen")


class Verbs:
    """The verbs, and who waits for the end of a reload."""

    def __init__(
        self, wish: Callable[[ev.Wish], int], status: Callable[[], dict[str, Any]], is_leaving: Callable[[], bool]
    ) -> None:
        """``wish`` meets a wish and returns how many reloads were ever wished for; ``status`` is the snapshot;
        ``is_leaving``: whether the service was told to stop."""
        self._wish = wish
        self._status = status
        self._is_leaving = is_leaving
        self._waiting: list[tuple[int, Reply]] = []
        self._upgrading: list[Reply] = []  # who waits for the upgrade that is under way
        self._refused = ""  # what was said of the upgrade that was just wished for

    def handle(self, request: dict[str, Any], reply: Reply) -> None:
        """Meet one request."""
        match request:
            case {"verb": "status"}:
                reply({"ok": True, "status": self._status()}, True)
            case {"verb": "reload" | "scale"} if self._is_leaving():
                reply({"ok": False, "error": "the service is stopping"}, True)
            case {"verb": "reload", "wait": True}:
                self._reload_and_wait(reply)
            case {"verb": "reload"}:
                self._wish(ev.Reload())
                reply({"ok": True}, True)
            case {"verb": "upgrade", **rest}:
                self._upgrade(reply, wait=rest.get("wait") is True)
            case {"verb": "scale", "to": int(to)} if SIZE_MIN <= to <= SIZE_MAX and to is not True:
                self._wish(ev.Scale(to=to))
                reply({"ok": True, "size": to}, True)
            case {"verb": "scale"}:
                reply({"ok": False, "error": f"scale: expected a number of workers, {SIZE_MIN} to {SIZE_MAX}"}, True)
            case {"verb": "stop", "quick": True}:
                reply({"ok": True}, True)
                self._wish(ev.Stop())
            case {"verb": "stop"}:
                reply({"ok": True}, True)
                self._wish(ev.Drain())
            case {"verb": "reopen"}:
                self._wish(ev.ReopenLogs())
                reply({"ok": True}, True)
            case _:
                reply({"ok": False, "error": f"unknown verb; known are {' '.join(VERBS)}"}, True)

    def on_reload_ended(self, ended: ReloadEnded) -> None:
        """Answer those whose reload this was."""
        still = []
        for number, reply in self._waiting:
            if ended.after < number <= ended.upto:
                reply(
                    {
                        "ok": not ended.error,
                        "generation": ended.generation,
                        "error": ended.error,
                        "traceback": ended.traceback,
                    },
                    True,
                )
            else:
                still.append((number, reply))
        self._waiting = still

    def on_upgrade_ended(self, ended: UpgradeEnded) -> None:
        """Answer those whose upgrade failed, or remember that the one just wished for was refused."""
        if ended.refused:
            self._refused = ended.error
            return
        waiting, self._upgrading = self._upgrading, []
        for reply in waiting:
            reply({"ok": False, "error": ended.error, "traceback": ended.detail}, True)

    def hand_over(self, number: int) -> list[tuple[int, Reply]]:
        """Write down who waits for which reload; that of the upgrade ends in has this number."""
        return [*self._waiting, *((number, reply) for reply in self._upgrading)]

    def resume(self, waiting: Iterable[tuple[int, Reply]]) -> None:
        """Go on with those who waited before an exec."""
        self._waiting = list(waiting)

    def _upgrade(self, reply: Reply, wait: bool) -> None:
        self._refused = ""
        self._wish(ev.Upgrade())  # a refusal comes at once
        if self._refused:
            reply({"ok": False, "error": self._refused}, True)
        elif wait:
            reply({"begun": True}, False)
            self._upgrading.append(reply)
        else:
            reply({"ok": True}, True)

    def _reload_and_wait(self, reply: Reply) -> None:
        reply({"begun": True}, False)
        number = self._wish(ev.Reload())
        self._waiting.append((number, reply))
