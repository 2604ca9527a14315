"""An app whose every answer is known beforehand, however it is made; and what each answer must be.

A body is cut out of one block of random bytes, at a place that its token decides: bytes that are missing, twice there,
in another order or of another answer are told apart. Imported by the server too: no tool of the tests belongs here.
"""

import hashlib
import io
import os
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

Environ = dict[str, Any]

BLOCK = random.Random(1).randbytes(8 << 20)
BLOCK_FILE = "block.bin"  # in the server's folder, where the app stands
STATIC_SIZES = (0, 1, 5000, 300_000, 3_000_000)
KINDS = ("list", "small", "large", "write", "mixed", "wrapped", "object", "empty", "204", "304", "static")
_STATUSES = {"204": "204 No Content", "304": "304 Not Modified"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer: how it is made, and so what it must be."""

    kind: str
    token: str = "t"
    size: int = 0
    piece: int = 1000  # how large the pieces are, where it is made of some
    length: bool = False  # the app says the length
    pauses: int = 0  # how often the app pauses amid its pieces

    @property
    def target(self) -> str:
        """The target that asks for it."""
        if self.kind == "static":
            return f"/static/{self.size}.bin"
        return "/?" + urlencode(
            {"kind": self.kind, "token": self.token, "size": self.size, "piece": self.piece,
             "length": int(self.length), "pauses": self.pauses}
        )  # fmt: skip

    @property
    def status(self) -> int:
        return int(self.kind) if self.kind in _STATUSES else 200

    @property
    def body(self) -> bytes:
        """The body of a GET."""
        if self.kind in _STATUSES or self.kind == "empty":
            return b""
        if self.kind == "static":
            return BLOCK[: self.size]
        if self.kind == "wrapped" and not self.length:
            return BLOCK[len(BLOCK) - self.size :]  # a file is sent to its end
        return BLOCK[self.place : self.place + self.size]

    @property
    def place(self) -> int:
        """Where in the block the body begins."""
        return zlib.crc32(self.token.encode()) % (len(BLOCK) - self.size)


def prepare(folder: Path) -> dict[str, Path]:
    """Write the files that the app and the server send, below ``folder``; returns the setting ``static``."""
    (folder / BLOCK_FILE).write_bytes(BLOCK)
    static = folder / "static"
    static.mkdir()
    for size in STATIC_SIZES:
        (static / f"{size}.bin").write_bytes(BLOCK[:size])
    return {"/static": static}


def digest_of(body: bytes) -> str:
    """What the field X-Body of an answer says of the request's body."""
    return f"{len(body)}-{hashlib.md5(body).hexdigest()}"


def _digest(file: Any) -> str:
    digest, size = hashlib.md5(), 0
    while piece := file.read(50_000):
        digest.update(piece)
        size += len(piece)
    return f"{size}-{digest.hexdigest()}"


def _pieces(wanted: Wanted) -> Iterator[bytes]:
    body = wanted.body
    count = max(1, -(-len(body) // wanted.piece))
    every = max(1, count // (wanted.pauses + 1))
    for number in range(count):
        if wanted.pauses and number and number % every == 0:
            time.sleep(0.02)  # an app that makes its answer while it is sent
        yield body[number * wanted.piece : (number + 1) * wanted.piece]


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Give the answer that the query describes; X-Pid tells who gave it, X-Body what came with the request."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    wanted = Wanted(
        query["kind"], query["token"], int(query["size"]), int(query["piece"]), query["length"] == "1",
        int(query["pauses"]),
    )  # fmt: skip
    headers = [
        ("Content-Type", "application/octet-stream"), ("X-Token", wanted.token), ("X-Pid", str(os.getpid())),
        ("X-Body", _digest(environ["wsgi.input"])),
    ]  # fmt: skip
    if wanted.length and wanted.kind not in _STATUSES:
        headers.append(("Content-Length", str(len(wanted.body))))
    write = start_response(_STATUSES.get(wanted.kind, "200 OK"), headers)
    match wanted.kind:
        case "list":
            return [wanted.body]
        case "small" | "large":
            return _pieces(wanted)
        case "write" | "mixed":
            pieces = _pieces(wanted)
            for number, piece in enumerate(pieces):
                write(piece)
                if wanted.kind == "mixed" and number == 2:
                    return pieces
            return []
        case "wrapped":
            file = open(BLOCK_FILE, "rb")
            file.seek(wanted.place if wanted.length else len(BLOCK) - wanted.size)
            return environ["wsgi.file_wrapper"](file, 50_000)  # type: ignore[no-any-return]
        case "object":
            return environ["wsgi.file_wrapper"](io.BytesIO(wanted.body), wanted.piece)  # type: ignore[no-any-return]
    return []
