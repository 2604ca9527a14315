"""The probes: what is sent, and what a server makes of it that is right. PEP 3333, RFC 9110, RFC 9112.

A row may hold several questions; a table cell tells the answers that are wrong. Knows no server.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.probe_wire import Seen, await_answer, exchange, leave

Verdict = tuple[bool, str]  # right, and what was seen, for the cell
Probe = Callable[[int], Verdict]  # asks the server at a port


@dataclass(frozen=True, slots=True)
class Row:
    """One behaviour."""

    title: str
    probes: tuple[Probe, ...]


def get(target: str, *fields: str, method: str = "GET") -> bytes:
    """A request after which the connection closes."""
    lines = (f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *fields, "", "")
    return "\r\n".join(lines).encode("latin-1")


def post(target: str, body: bytes, *fields: str) -> bytes:
    """The same with a body and its length."""
    return get(target, f"Content-Length: {len(body)}", *fields, method="POST") + body


def chunked(body: bytes, target: str = "/body", *fields: str) -> bytes:
    """The same with a body that is chunked already."""
    return get(target, "Transfer-Encoding: chunked", *fields, method="POST") + body


def answers(raw: bytes, code: int = 200, body: bytes | None = None) -> Probe:
    """Right: this status, and this body, complete."""

    def probe(port: int) -> Verdict:
        seen = exchange(port, raw)
        good = seen.code == code and (body is None or (seen.body == body and seen.is_whole))
        return good, f"{seen}" if seen.code != code else f"{seen.body[:24].decode('latin-1')!r}"

    return probe


def refuses(raw: bytes, *codes: int, half_close: bool = False) -> Probe:
    """Right: one answer, with one of these statuses, and the end of the connection."""

    def probe(port: int) -> Verdict:
        seen = exchange(port, raw, half_close=half_close)
        return len(seen.codes) == 1 and seen.code in codes and seen.end != "open", f"{seen}"

    return probe


def shows(raw: bytes, is_right: Callable[[Seen], bool]) -> Probe:
    """Right: what the function says."""

    def probe(port: int) -> Verdict:
        seen = exchange(port, raw)
        return is_right(seen), f"{seen}"

    return probe


def notes(word: str, *before: Probe) -> Probe:
    """Right: the app notes a word, once."""

    def probe(port: int) -> Verdict:
        for ask in before:
            ask(port)
        return await_answer(port, get(f"/noted?{word}"), b"1", 3.0), "not once"

    return probe


def _leaves(port: int) -> Verdict:
    leave(port, get("/closing?left"))
    return True, ""


def _expects(port: int) -> Verdict:
    raw = b"POST /sized HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    seen = exchange(port, raw)
    return seen.codes[:1] in ([100], [200]), f"{seen}"


def _keeps_unread(port: int) -> Verdict:
    raw = b"POST /sized HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n".ljust(20000)
    seen = exchange(port, raw, get("/sized"))
    return seen.codes in ([200, 200], [200]) and seen.end == "closed", f"{seen}"


def _keeps_after_trailers(port: int) -> Verdict:
    raw = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n\r\n"
    seen = exchange(port, raw + get("/sized"))
    closes = seen.codes == [200] and seen.end == "closed"  # as a server may after any response
    return seen.codes == [200, 200] or closes, f"then {seen}"


def _closes_when_short(port: int) -> Verdict:
    seen = exchange(port, b"GET /too_little HTTP/1.1\r\nHost: x\r\n\r\n")
    return seen.end != "open" and not seen.is_whole, f"{seen}"


def _has_file_wrapper(port: int) -> Verdict:
    seen = exchange(port, get("/file"))
    return seen.body in (b"5678901234", b"absent"), f"{seen.body[:16].decode('latin-1')!r}"


LINES = b"one\ntwo\n\nthree"
HEAD = b"POST /sized HTTP/1.1\r\nHost: x\r\n"
ROWS = (
    Row("`start_response` returns `write()`", (answers(get("/write"), body=b"abc"),)),
    Row("`start_response` called by the first iteration", (answers(get("/lazy"), 404, b"lazy"),)),
    Row("a second call without `exc_info` is an error", (answers(get("/twice"), body=b"refused"),)),
    Row(
        "`exc_info` before sending replaces all headers",
        (shows(get("/replaced"), lambda seen: seen.code == 503 and "x-old" not in seen.head),),
    ),
    Row("`exc_info` after sending is raised again", (notes("raised", answers(get("/too_late"))),)),
    Row("an empty chunk sends no head (500 is still possible)", (answers(get("/empty_then_fault"), 500),)),
    Row(
        "a fault before and at the first chunk is 500", (answers(get("/fault"), 500), answers(get("/fault_first"), 500))
    ),
    Row(
        "a fault within a chunked body: no last chunk",
        (
            shows(
                get("/fault_within"), lambda seen: b"first" in seen.after and not seen.is_whole and seen.end != "open"
            ),
        ),
    ),
    Row(
        "`close()` once: normally, after a fault, when the client left",
        (
            notes("well", answers(get("/closing?well"))),
            notes("fault", answers(get("/closing?fault"))),
            notes("left", _leaves),
        ),
    ),
    Row(
        "HEAD: no body, `Content-Length` kept",
        (shows(get("/sized", method="HEAD"), lambda seen: "content-length: 5" in seen.head and not seen.after),),
    ),
    Row(
        "204 and 304 without body",
        tuple(shows(get(f"/bodiless?{code}"), lambda seen: not seen.after) for code in ("204", "304")),
    ),
    Row("more than `Content-Length`: cut", (shows(get("/too_much"), lambda seen: seen.after == b"abcd"),)),
    Row("less than `Content-Length`: connection closed", (_closes_when_short,)),
    Row(
        "hop-by-hop headers of the app are not sent",
        (shows(get("/hop_by_hop"), lambda seen: "x-hop" not in seen.head and "keep-alive: " not in seen.head),),
    ),
    Row(
        "CRLF in a header's value, in the status: no injection",
        tuple(
            shows(get(f"/header?{what}"), lambda seen: "\nx-injected" not in seen.head) for what in ("value", "status")
        ),
    ),
    Row("a header beyond latin-1 raises in the app", (answers(get("/header?beyond"), body=b"raised"),)),
    Row("text for a body is 500", (answers(get("/text"), 500),)),
    Row(
        "a list of one chunk gets a `Content-Length`",
        (shows(get("/one"), lambda seen: "content-length: 5" in seen.head),),
    ),
    Row("an empty list is an empty body", (answers(get("/none"), body=b""),)),
    Row(
        "`wsgi.input`: read, read(-1), readline(n), readlines, iteration",
        (
            answers(post("/body", LINES), body=LINES + b"|"),
            answers(post("/body?minus", LINES), body=LINES + b"|"),
            answers(post("/body?readline", LINES), body=b"on|e\n|two\n|\n|three"),
            answers(post("/body?readlines", LINES), body=b"one\n|two\n|\n|three"),
            answers(post("/body?iter", LINES), body=b"one\n|two\n|\n|three"),
        ),
    ),
    Row(
        "a chunked request body; with trailers, then another request",
        (answers(chunked(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), body=b"onetwo|"), _keeps_after_trailers),
    ),
    Row("`wsgi.input_terminated`", (answers(get("/value?wsgi.input_terminated"), body=b"True"),)),
    Row("`wsgi.file_wrapper`: from the offset, up to `Content-Length` (or absent)", (_has_file_wrapper,)),
    Row("`wsgi.errors` takes any text", (answers(get("/errors"), body=b"written"),)),
    Row("every CGI value is a `str`", (answers(get("/types"), body=b"str"),)),
    Row("`X_Under` is not taken for `X-Under`", (answers(get("/value?HTTP_X_UNDER", "X_Under: a"), body=b"absent"),)),
    Row("`Proxy:` is not `HTTP_PROXY`", (answers(get("/value?HTTP_PROXY", "Proxy: a"), body=b"absent"),)),
    Row(
        "a field that is repeated is joined",
        (shows(get("/value?HTTP_A", "A: 1", "A: 2"), lambda seen: seen.body in (b"1,2", b"1, 2")),),
    ),
    Row("a latin-1 byte in a field", (answers(get("/value?HTTP_A", "A: \xe9"), body=b"\xe9"),)),
    Row("HTTP/1.1 without Host is 400", (refuses(b"GET / HTTP/1.1\r\n\r\n", 400),)),
    Row(
        "`Content-Length` with `Transfer-Encoding` is 400",
        (refuses(HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),),
    ),
    Row(
        "coding `xchunked`, `gzip` is 501 or 400",
        tuple(
            refuses(HEAD + b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding, 501, 400)
            for coding in (b"xchunked", b"gzip")
        ),
    ),
    Row(
        "`Content-Length` twice, `+0`, `-1` is 400",
        tuple(
            refuses(HEAD + b"Content-Length: %b\r\n\r\n" % length, 400)
            for length in (b"0\r\nContent-Length: 1", b"+0", b"-1")
        ),
    ),
    Row(
        "space before the colon, NUL, bare CR is 400",
        tuple(
            refuses(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % field, 400)
            for field in (b"A : b", b"A: \0", b"A: b\rc")
        ),
    ),
    Row(
        "folded field, two Hosts, no method is 400",
        (
            refuses(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
            refuses(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
            refuses(b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ),
    ),
    Row("lines that end in a bare LF are 400", (refuses(b"GET / HTTP/1.1\nHost: x\n\n", 400),)),
    Row(
        "chunk size `0x3` is 400; a body that breaks off never looks whole",
        (
            refuses(chunked(b"0x3\r\none\r\n0\r\n\r\n"), 400),
            lambda port: _cut_off(exchange(port, chunked(b"5\r\nhello\r\n"), half_close=True)),
        ),
    ),
    Row("`Expect: 100-continue`: 100 or a final answer at once", (_expects,)),
    Row("a body that the app leaves unread is no next request", (_keeps_unread,)),
)


def _cut_off(seen: Seen) -> Verdict:
    return seen.code != 200, f"{seen} for a part"
