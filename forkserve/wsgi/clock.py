"""The time that responses tell: Date and Server lines. Runs in a worker."""

import time

from forkserve.wsgi.environ import SOFTWARE


class _Clock:
    """The Date and Server lines, spelled once a second of the monotonic clock."""

    both = b""
    ending = b""  # the same with the end of the head
    closing = b""  # and where the connection closes
    until = 0.0

    def refresh(self, now: float) -> None:
        """Spell the lines anew; called when a request begins at or after ``until`` (RFC 9110 section 6.6.1)."""
        wall = time.time()
        self.until = now + 1.0 - wall % 1.0
        both = self.both = date_line(int(wall)) + f"Server: {SOFTWARE}\r\n".encode()
        self.ending = both + b"\r\n"
        self.closing = both + b"Connection: close\r\n\r\n"


def date_line(now: int) -> bytes:
    """Spell the Date field for ``now``, seconds of the epoch: RFC 9110 section 5.6.7."""
    year, month, day, hour, minute, second, weekday = time.gmtime(now)[:7]
    day_name = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[weekday]
    month_name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month - 1]
    return f"Date: {day_name}, {day:02} {month_name} {year} {hour:02}:{minute:02}:{second:02} GMT\r\n".encode()


clock = _Clock()
