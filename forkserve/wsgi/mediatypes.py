"""Which Content-Type a file has, by the end of its name. Runs in a worker.

Our table first, then Python's; never the machine's (/etc/mime.types), so that a site looks the same everywhere.
"""

from functools import cache

_UNKNOWN = "application/octet-stream"

# What Python's table lacks in some version from 3.11 on, or what is served otherwise today.
_TYPES = {
    ".js": "text/javascript",  # RFC 9239
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".xml": "application/xml",  # as text it would get our charset, against the one that its first line declares
    ".md": "text/markdown",
    ".wasm": "application/wasm",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".ico": "image/x-icon",
    ".mp4": "video/mp4",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".webm": "video/webm",
    ".flac": "audio/flac",
    # A file that is compressed is sent as what it is: as a Content-Encoding browsers would unpack it.
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".br": _UNKNOWN,
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".7z": "application/x-7z-compressed",
}

# Types whose bytes are packed already: nobody keeps a compressed sibling of these.
_PACKED_KINDS = ("audio/", "video/", "image/", "font/woff")
_NOT_PACKED = {"image/svg+xml", "image/x-icon", "image/bmp", "image/x-ms-bmp"}
_PACKED = {
    "application/gzip",
    "application/zip",
    "application/zstd",
    "application/x-bzip2",
    "application/x-xz",
    "application/x-7z-compressed",
}


@cache
def _known() -> dict[str, str]:
    from mimetypes import MimeTypes  # lazy: 1 ms, for services that may serve no file

    types = MimeTypes().types_map[1] | _TYPES
    return {end: f"{kind}; charset=utf-8" if kind.startswith("text/") else kind for end, kind in types.items()}


def content_type(name: bytes) -> str:
    """Return the Content-Type of a file of this name; text is taken for UTF-8."""
    dot = name.rfind(b".")
    return _known().get(name[dot:].decode("latin-1").lower(), _UNKNOWN) if dot > 0 else _UNKNOWN


def may_have_siblings(kind: str) -> bool:
    """Whether a file of this Content-Type may have compressed siblings (.br, .gz)."""
    return kind not in _PACKED and (not kind.startswith(_PACKED_KINDS) or kind in _NOT_PACKED)
