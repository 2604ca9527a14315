"""A bell: an eventfd that one process rings and a thread of another waits for, asleep in the kernel: eventfd(2)."""

import os


class Bell:
    """One bell. What was rung before anybody waited is heard all the same, once."""

    __slots__ = ("fd",)

    def __init__(self, fd: int = -1) -> None:
        """Make it, or go on with the one of this descriptor. Raises OSError."""
        self.fd = os.eventfd(0) if fd < 0 else fd

    def ring(self) -> None:
        """Wake who waits, or who will. Never waits itself."""
        os.eventfd_write(self.fd, 1)

    def wait(self) -> None:
        """Wait until it is rung. Raises OSError once it is closed."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close this process's copy."""
        os.close(self.fd)
