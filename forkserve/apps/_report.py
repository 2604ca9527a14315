"""Gathers what the inspector shows of a request, and tells it as JSON.

Runs inside the demo app. Texts of the environ, one byte per character there, are decoded here; escaping them is the
page's duty. A request whose query or body cannot be read whole is reported too, with its faults.
"""

import json
import os
import platform
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from wsgiref.types import WSGIEnvironment

from forkserve.apps._form import BadBodyError, Body, Upload, native, parse_pairs, read_body

REPR_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Report:
    """All that is shown; texts are decoded and not yet escaped."""

    request_line: str
    method: str
    client: str
    mount: str
    headers: list[tuple[str, str]]
    query: list[tuple[str, str]]
    body: Body
    environ: list[tuple[str, str]]
    faults: list[str]
    pid: int
    generation: int | None
    slot: int | None
    python: str
    server: str


def gather(environ: WSGIEnvironment) -> Report:
    """Read the request, its body included."""
    shown = sorted((str(key), _shown(value)) for key, value in environ.items())
    faults: list[str] = []
    try:
        query = parse_pairs(native(environ.get("QUERY_STRING", "")))
    except BadBodyError as fault:
        query = []
        faults.append(f"the query has {fault}")
    body = read_body(environ)
    return Report(
        request_line=_request_line(environ),
        method=native(environ["REQUEST_METHOD"]),
        client=_client(environ),
        mount=quote("/" + environ.get("SCRIPT_NAME", "").strip("/"), encoding="latin-1").rstrip("/"),
        headers=_headers(environ),
        query=query,
        body=body,
        environ=shown,
        faults=faults + body.faults,
        pid=os.getpid(),
        generation=environ.get("forkserve.generation"),
        slot=environ.get("forkserve.slot"),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        server=native(environ.get("SERVER_SOFTWARE", "")) or "-",
    )


def _shown(value: object) -> str:
    if isinstance(value, str):
        return native(value)
    written = repr(value)
    return written if len(written) <= REPR_CHARACTERS_MAX else written[:REPR_CHARACTERS_MAX] + "…"


def _request_line(environ: WSGIEnvironment) -> str:
    """Return the request line, with the target as it was sent where the server tells it."""
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if not target:
        target = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), encoding="latin-1") or "/"
        target += "?" + environ["QUERY_STRING"] if environ.get("QUERY_STRING") else ""
    return native(f"{environ['REQUEST_METHOD']} {target} {environ.get('SERVER_PROTOCOL', '')}".strip())


def _client(environ: WSGIEnvironment) -> str:
    address, port = environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", "")
    host = f"[{address}]" if port and ":" in address else address
    return native(f"{host}:{port}" if host and port else host) or "-"


def _headers(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    named = [(key[5:], value) for key, value in environ.items() if key.startswith("HTTP_")]
    named += [(key, environ[key]) for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(key)]
    return sorted((native(name).replace("_", "-").title(), native(value)) for name, value in named)


def as_json(report: Report) -> str:
    """Return the report as JSON; fields and files are grouped by what a test asks for, repeated names are lists."""
    told: dict[str, Any] = {
        "request_line": report.request_line,
        "method": report.method,
        "client": report.client,
        "headers": dict(report.headers),
        "query": _by_name(report.query),
        "form": _by_name([(field.name, field.value) for field in report.body.fields]),
        "files": [_file_as_json(upload) for upload in report.body.uploads],
        "body": _file_as_json(report.body.other) if report.body.other else None,
        "faults": report.faults,
        "worker": {"pid": report.pid, "generation": report.generation, "slot": report.slot},
        "python": report.python,
        "server": report.server,
        "environ": dict(report.environ),
    }
    return json.dumps(told, indent=2) + "\n"


def _file_as_json(upload: Upload) -> dict[str, Any]:
    return {
        "field": upload.field,
        "filename": upload.filename,
        "content_type": upload.content_type,
        "size": upload.size_bytes,
        "sha256": upload.sha256,
        "text": upload.text,
    }


def _by_name(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return grouped
