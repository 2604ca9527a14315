"""Answers with the inspector: as a page or as JSON.

Runs inside the demo app. The client's wish decides: ``?format=json``, else the weights of its Accept header (RFC 9110
section 12.5.1). The status is 400 where the query or the body could not be read whole.
"""

from wsgiref.types import WSGIEnvironment

from forkserve.apps._page import POLICY, render
from forkserve.apps._report import as_json, gather


def answer(environ: WSGIEnvironment) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return status, headers and body of the inspector's response."""
    report = gather(environ)
    if _wants_json(environ, report.query):
        content_type, text, more = "application/json", as_json(report), []
    else:
        content_type, text, more = "text/html; charset=utf-8", render(report), [POLICY]
    body = text.encode("utf-8", "backslashreplace")
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Vary", "Accept"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        *more,
    ]
    return "400 Bad Request" if report.faults else "200 OK", headers, body


def _wants_json(environ: WSGIEnvironment, query: list[tuple[str, str]]) -> bool:
    for name, value in query:
        if name == "format":
            return value.lower() == "json"
    accept = environ.get("HTTP_ACCEPT", "")
    return _preference(accept, "application", "json") > _preference(accept, "text", "html")


def _preference(accept: str, major: str, minor: str) -> tuple[float, int]:
    """Return the weight of a media type, and how exactly the header names it: 2 by name, 1 as major/*, 0 as */*.

    The most exact range gives the weight. Of two types of one weight the one that is named more exactly is the
    better guess: ``application/json, */*`` comes from programs that want JSON and take what they get.
    """
    best = (-1, 0.0)
    for written in accept.lower().split(","):
        media_range, *parameters = (word.strip() for word in written.split(";"))
        exactness = {f"{major}/{minor}": 2, f"{major}/*": 1, "*/*": 0}.get(media_range, -1)
        if exactness < 0:
            continue
        weights = [p[2:].strip() for p in parameters if p.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
        best = max(best, (exactness, weight))
    exactness, weight = best
    return (weight, exactness) if weight > 0 else (0.0, 0)
