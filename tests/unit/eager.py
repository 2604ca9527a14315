"""Decoders that are read to the end, as if each request was answered at once."""

from typing import Protocol

from forkserve.protocol import http
from forkserve.protocol.types import Request


class Reads(Protocol):
    ready: list[Request]

    @property
    def waiting(self) -> bytes: ...

    def feed(self, data: bytes | memoryview, /) -> None: ...

    def go_on(self) -> None: ...


def feed_all(decoder: Reads, data: bytes | memoryview) -> None:
    """Feed ``data`` and have all of it read, however many requests it holds: they gather in ``ready``."""
    before = decoder.ready[:]
    decoder.ready.clear()
    try:
        decoder.feed(data)
        while decoder.waiting:
            before += decoder.ready
            decoder.ready.clear()
            decoder.go_on()
    finally:
        decoder.ready[:0] = before


class EagerDecoder(http.Decoder):
    """The decoder of HTTP, whose requests gather in ``ready``."""

    _feeds = False

    def feed(self, data: bytes | memoryview) -> None:
        if self._feeds:
            http.Decoder.feed(self, data)
            return
        self._feeds = True
        try:
            feed_all(self, data)
        finally:
            self._feeds = False
