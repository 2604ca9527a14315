"""Whose pipeline goes on after everybody else had a turn. Runs in a worker, driven by its loop.

A client may send many requests at once. One connection has the loop for a moment; then it goes round, so that orders
are met and neighbours are served, and comes back to those that are here.
"""

from typing import Protocol

TURN_S = 0.002  # how long requests of one connection follow each other without a look at anything else


class Waiting(Protocol):
    """A connection that may wait for its turn."""

    fd: int  # below 0: it is closed
    waits: bool

    def take_turn(self) -> None:
        """Go on for a moment."""

    def pass_on(self) -> bool:
        """Give it to whichever worker is idle first; False: it stays here."""


class Turns(list[Waiting]):
    """The connections that have more requests, unread, and wait for their next turn; each ``waits``."""

    def give(self) -> None:
        """Let each of those that are here go on for a moment; it may come again."""
        for _ in range(len(self)):  # who has not had his turn stays in sight of the attendant
            connection = self.pop(0)
            if connection.fd >= 0 and connection.waits:
                connection.take_turn()


def nothing() -> None:
    """Do nothing: more has come of somebody whose turn it is not."""
