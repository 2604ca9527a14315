"""Reads the body of a request: form fields, uploads, or bytes of another kind, in bounded memory.

Runs inside the demo app. Of an upload it keeps size, SHA-256 and what a preview needs; of a field the first 64 KiB;
of all together at most 4 MiB beside the parts' heads. What is wrong with a body is told in ``faults``, next to what
could be read of it.
Sources: RFC 7578 (multipart/form-data), RFC 2046 section 5.1.1 (its grammar), the HTML standard's form encoding.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote
from wsgiref.types import WSGIEnvironment

READ_BYTES = 1 << 16
PARTS_MAX = 1000
PART_HEAD_BYTES_MAX = 1 << 12
URLENCODED_BYTES_MAX = 1 << 20
FIELD_BYTES_KEPT = 1 << 16
TEXT_BYTES_KEPT = 1 << 11
IMAGE_BYTES_KEPT = 1 << 18
ALL_BYTES_KEPT = 1 << 22

# The only types a preview is shown as: a browser draws them without running anything that is in them.
IMAGE_TYPES = frozenset(
    "image/" + name for name in ("png", "jpeg", "gif", "webp", "avif", "bmp", "svg+xml", "x-icon", "vnd.microsoft.icon")
)
_TEXT_TYPE = re.compile(r"text/.+|application/(?:.+\+)?(?:json|xml|yaml|toml|javascript|ecmascript|x-sh|sql)")
_PARAMETER = re.compile(r""";\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))""", re.DOTALL)
_BOUNDARY = re.compile(r"[\x21-\x7e ]{0,69}[\x21-\x7e]")
# What browsers write in a quoted name instead of the three characters that would end it (HTML standard, 4.10.21.8).
_BROWSER_ESCAPES = (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"))


@dataclass(frozen=True, slots=True)
class Field:
    """One form field; ``size_bytes`` is that of the whole value, which may be longer than what was kept."""

    name: str
    value: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """One file, or a body that is no form; ``head`` is what may be shown of it."""

    field: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    head: bytes

    @property
    def is_image(self) -> bool:
        """Whether head is a whole image of a kind that a browser can draw."""
        return self.content_type in IMAGE_TYPES and 0 < len(self.head) == self.size_bytes

    @property
    def text(self) -> str | None:
        """The beginning of a text file; None for other files."""
        if not _TEXT_TYPE.fullmatch(self.content_type):
            return None
        return as_text(self.head, clipped=len(self.head) < self.size_bytes)


@dataclass(slots=True)
class Body:
    """What a request's body held; ``other`` is set where it is not a form."""

    fields: list[Field] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    other: Upload | None = None
    faults: list[str] = field(default_factory=list)


class BadBodyError(Exception):
    """The body is not what its headers say."""


def as_text(octets: bytes, clipped: bool = False) -> str:
    """Decode UTF-8, else latin-1; ``clipped`` says that the last character may be cut in two."""
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        if clipped and error.end == len(octets) and error.reason == "unexpected end of data":
            return octets[: error.start].decode()
        return octets.decode("latin-1")


def native(text: str) -> str:
    """Return the text behind a string of the environ, which holds one byte per character (PEP 3333)."""
    try:
        return as_text(text.encode("latin-1"))
    except UnicodeEncodeError:
        return text


def read_body(environ: WSGIEnvironment) -> Body:
    """Read the whole body of a request by its content type."""
    body = Body()
    content_type = native(environ.get("CONTENT_TYPE", ""))
    media_type = _media_type(content_type)
    octets = _octets(environ)
    try:
        if media_type == "multipart/form-data":
            boundary = parameters(content_type).get("boundary", "")
            if not _BOUNDARY.fullmatch(boundary):
                raise BadBodyError("the content type names no boundary that RFC 2046 would allow")
            _read_parts(_Source(octets), b"\r\n--" + boundary.encode(), body)
        elif media_type == "application/x-www-form-urlencoded":
            _read_urlencoded(octets, body)
        else:
            _read_other(octets, media_type, body)
        for _ in octets:  # an epilogue, of which only the length matters
            pass
    except BadBodyError as fault:
        body.faults.append(str(fault))
    return body


def parse_pairs(encoded: str) -> list[tuple[str, str]]:
    """Decode a query or an urlencoded form; raise BadBodyError where it has too many fields."""
    try:
        return parse_qsl(encoded, keep_blank_values=True, errors="replace", max_num_fields=PARTS_MAX)
    except ValueError:
        raise BadBodyError(f"more than {PARTS_MAX} fields: none is shown") from None


def parameters(value: str) -> dict[str, str]:
    """Return the parameters of a header such as ``form-data; name="a"``, names in lower case."""
    plain: dict[str, str] = {}
    extended: dict[str, str] = {}
    for match in _PARAMETER.finditer(value):
        name, quoted, token = match.group(1).lower(), match.group(2), match.group(3)
        # Only these two: a backslash before anything else is part of a Windows path.
        written = token if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
        if not name.endswith("*"):
            plain.setdefault(name, written)
        elif written.lower().startswith("utf-8'"):  # RFC 8187: UTF-8'en'%e2%82%ac
            extended[name[:-1]] = unquote(written.split("'", 2)[-1], errors="replace")
    return plain | extended


def _octets(environ: WSGIEnvironment) -> Iterator[bytes]:
    """Yield the body as it is read; raise BadBodyError where it is not as long as it says."""
    declared = environ.get("CONTENT_LENGTH", "")
    if not declared:
        # Without a length only a server that ends its input by itself may be read (wsgi.input_terminated).
        while environ.get("wsgi.input_terminated") and (piece := environ["wsgi.input"].read(READ_BYTES)):
            yield piece
        return
    if not (declared.isascii() and declared.isdigit() and len(declared) <= 18):
        raise BadBodyError(f"Content-Length is not a number of bytes: {native(declared)[:40]!r}")
    left = int(declared)
    while left and (piece := environ["wsgi.input"].read(min(left, READ_BYTES))):
        left -= len(piece)
        yield piece
    if left:
        raise BadBodyError(f"the body ended {left} bytes before its Content-Length of {declared}")


class _Keeper:
    """Takes the bytes of one part: counts all, hashes those of a file, keeps the first of them."""

    def __init__(self, keep_bytes: int, digest: bool) -> None:
        self.kept = bytearray()
        self.size_bytes = 0
        self.sha256 = hashlib.sha256() if digest else None
        self._keep_bytes = keep_bytes

    def take(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.sha256 is not None:
            self.sha256.update(piece)
        if len(self.kept) < self._keep_bytes:
            self.kept += piece[: self._keep_bytes - len(self.kept)]

    def as_text(self) -> str:
        return as_text(bytes(self.kept), clipped=len(self.kept) < self.size_bytes)

    def as_upload(self, name: str, filename: str, content_type: str) -> Upload:
        if content_type in IMAGE_TYPES and len(self.kept) < self.size_bytes:
            self.kept.clear()  # a part of an image shows nothing
        digest = self.sha256.hexdigest() if self.sha256 is not None else ""
        return Upload(name, filename, content_type, self.size_bytes, digest, bytes(self.kept))


def _preview_bytes(content_type: str) -> int:
    """Return how much of a file is worth keeping."""
    if content_type in IMAGE_TYPES:
        return IMAGE_BYTES_KEPT
    return TEXT_BYTES_KEPT if _TEXT_TYPE.fullmatch(content_type) else 0


class _Source:
    """The bytes of a multipart body; holds no more than one read and a delimiter of them."""

    def __init__(self, octets: Iterator[bytes]) -> None:
        self._octets = octets
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning, without its CRLF

    def up_to(self, mark: bytes) -> Iterator[bytes]:
        """Yield what comes before the mark and step over the mark; raise BadBodyError where it does not come."""
        buffer = self._buffer
        while (at := buffer.find(mark)) < 0:
            passed = len(buffer) - len(mark) + 1
            if passed > 0:
                yield bytes(buffer[:passed])
                del buffer[:passed]
            if not self._more():
                yield bytes(buffer)
                buffer.clear()
                raise BadBodyError("the body ended without its final boundary")
        if at:
            yield bytes(buffer[:at])
        del buffer[: at + len(mark)]

    def line(self, limit_bytes: int) -> bytes:
        """Return the bytes before the next CRLF; raise BadBodyError where they are too many."""
        line = bytearray()
        for piece in self.up_to(b"\r\n"):
            line += piece
            if len(line) > limit_bytes:
                raise BadBodyError(f"a part's head is longer than {PART_HEAD_BYTES_MAX} bytes")
        return bytes(line)

    def two(self) -> bytes:
        """Return the next two bytes, fewer at the end of the body, and leave them."""
        while len(self._buffer) < 2 and self._more():
            pass
        return bytes(self._buffer[:2])

    def _more(self) -> bool:
        piece = next(self._octets, b"")
        self._buffer += piece
        return bool(piece)


def _read_parts(source: _Source, delimiter: bytes, body: Body) -> None:
    """Read every part up to the close delimiter; what was read of a broken part is shown too."""
    keep_bytes = ALL_BYTES_KEPT
    for _ in source.up_to(delimiter):  # a preamble
        pass
    while source.two() != b"--":
        if source.line(PART_HEAD_BYTES_MAX).strip(b" \t"):
            raise BadBodyError("a boundary is followed by other bytes on its line")
        if len(body.fields) + len(body.uploads) == PARTS_MAX:
            raise BadBodyError(f"more than {PARTS_MAX} parts: the rest is not shown")
        keep_bytes -= _read_part(source, delimiter, keep_bytes, body)


def _read_part(source: _Source, delimiter: bytes, keep_bytes: int, body: Body) -> int:
    """Read one part into the body; return how many bytes of it were kept."""
    head = _read_part_head(source)
    about = parameters(head.get("content-disposition", ""))
    name = _without_browser_escapes(about.get("name", ""))
    filename = about.get("filename")
    media_type = _media_type(head.get("content-type", ""))
    wanted_bytes = FIELD_BYTES_KEPT if filename is None else _preview_bytes(media_type)
    keeper = _Keeper(min(keep_bytes, wanted_bytes), digest=filename is not None)
    try:
        for piece in source.up_to(delimiter):
            keeper.take(piece)
    finally:
        if filename is None:
            body.fields.append(Field(name, keeper.as_text(), keeper.size_bytes))
        else:
            body.uploads.append(keeper.as_upload(name, _without_browser_escapes(filename), media_type))
    return len(keeper.kept)


def _read_part_head(source: _Source) -> dict[str, str]:
    head: dict[str, str] = {}
    left = PART_HEAD_BYTES_MAX
    while line := source.line(left):
        left -= len(line) + 2
        name, _, value = as_text(line).partition(":")
        head[name.strip().lower()] = value.strip()
    return head


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _without_browser_escapes(name: str) -> str:
    for escape, character in _BROWSER_ESCAPES:
        name = name.replace(escape, character)
    return name


def _read_urlencoded(octets: Iterator[bytes], body: Body) -> None:
    keeper = _Keeper(URLENCODED_BYTES_MAX, digest=False)
    try:
        for piece in octets:
            keeper.take(piece)
    finally:
        body.fields += [Field(n, v, len(v.encode())) for n, v in parse_pairs(keeper.as_text())]
    if keeper.size_bytes > URLENCODED_BYTES_MAX:
        raise BadBodyError(f"only the first {URLENCODED_BYTES_MAX} of {keeper.size_bytes} bytes were read as fields")


def _read_other(octets: Iterator[bytes], media_type: str, body: Body) -> None:
    keeper = _Keeper(_preview_bytes(media_type), digest=True)
    try:
        for piece in octets:
            keeper.take(piece)
    finally:
        if keeper.size_bytes:
            body.other = keeper.as_upload("", "", media_type)
