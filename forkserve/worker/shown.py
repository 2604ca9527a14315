"""What a worker shows of itself while it works: its process title, and the Date of its responses. Part of its loop."""

from collections.abc import Callable

from forkserve.log import one_line
from forkserve.wsgi.clock import clock

_SHOW_S = 1.0


class Shown:
    """The part of a loop that is looked at about once a second."""

    tick_at = show_busy_at = 0.0  # not more often than once a second
    is_retiring: bool
    _busy_shown = False
    _title: Callable[[str], None]

    def on_tick(self, now: float, line: bytes) -> None:
        """Spell the Date and show what runs, about once a second."""
        if now >= clock.until:
            clock.refresh(now)
        if now >= self.show_busy_at:
            self.show_busy(now, line)
        self.tick_at = min(clock.until, self.show_busy_at)

    def show_busy(self, now: float, line: bytes) -> None:
        """Show the running request in the process title; at most once a second, since it costs a microsecond."""
        self.show_busy_at = now + _SHOW_S
        self._busy_shown = True
        self._title("busy " + one_line(line.decode("latin-1"))[:80])

    def _show(self, what: str) -> None:
        self._busy_shown = False
        self._title(what if not self.is_retiring else "retiring")
