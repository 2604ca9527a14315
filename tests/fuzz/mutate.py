"""Requests with faults in them, from a seed: what the fuzzing of a running server and of the decoder share.

The corpus are the requests that the decoder's own tests know, good and bad, and some with every field of a browser.
"""

import random
import re

from tests.unit.test_http_decoder import BAD, GOOD, LAST

BROWSER = (
    b"GET /a/b%20c?d=%C3%A4&e=1 HTTP/1.1\r\nHost: example.org:8000\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: de,en-US;q=0.7,en;q=0.3\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nReferer: http://example.org/\r\nCookie: a=b; c=d\r\nCookie: e=f\r\n"
    b"Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\n\r\n"
)
PROXIED = (
    b"POST /form HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.1\r\nX-Forwarded-Proto: https\r\n"
    b'Forwarded: for="[2001:db8::1]:80";proto=https;host=b\r\nX-Forwarded-Host: c\r\nX-Forwarded-Prefix: /d\r\n'
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\na=b&c=d"
)
VALID = [raw for raw, _ in (*GOOD.values(), *LAST.values())] + [BROWSER, PROXIED]
CORPUS = VALID * 8 + [raw for _, raw in BAD if len(raw) < 4000]

# Pieces that have decided something in some server, at some time.
NASTY = [
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"%00", b"%2e%2e/", b"//", b"?",
    b"#", b"*", b"\xff", b"\x80", b"\x0b", b"\x7f", b"-1", b"+1", b"0x10", b"00", b"1_0", b"99999999999999999999",
    b"ffffffffffffffff", b"4294967296", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"GET ", b"HEAD ", b"CONNECT ",
    b"OPTIONS * ", b"http://h", b"Host: x\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"Expect: x\r\n", b"Content_Length: 1\r\n", b"X_A: b\r\n", b"Proxy: a\r\n",
    b"0\r\n\r\n", b"1\r\na\r\n", b"0;a=b\r\n", b"A: b\r\n c\r\n",
]  # fmt: skip
_TARGETS = [b"a", b"%2F%00%ff", b"a?b=c%20&d", b"?", b"//a/../b", b"\xc3\xa4", b"a;b=c", b"a" * 300]
_NAMES = [
    b"Accept",
    b"X-A",
    b"Cookie",
    b"Content-Type",
    b"!#$%&'*+.^_`|~0",
    b"If-Match",
    b"Range",
    b"X-Forwarded-For",
    b"TE",
]
_VALUES = [b"", b"a", b"\xff\xfe", b"a, b,,c", b'"a\\"b"', b"bytes=0-", b"1.2.3.4, ::1", b" \t a \t ", b"x" * 500]
_NUMBER = re.compile(rb"[0-9A-Fa-f]*[0-9][0-9A-Fa-f]*")
_FAULTS = (0, 1, 1, 1, 1, 2, 2, 4)  # how many; beside none there are changes that do no harm
_LONG = 10_000


def mutated(chance: random.Random) -> bytes:
    """One request of the corpus with some faults."""
    raw = bytearray(chance.choice(CORPUS))
    for _ in range(chance.choice(_FAULTS)):
        _spoil(chance, raw)
    if chance.random() < 0.5:
        _vary(chance, raw)
    return bytes(raw)


def _vary(chance: random.Random, raw: bytearray) -> None:
    """Change what may be changed: another target, one more field."""
    raw[:] = raw.replace(b" / ", b" /" + chance.choice(_TARGETS) + b" ", 1)
    field = b"\r\n%b: %b\r\n" % (chance.choice(_NAMES), chance.choice(_VALUES))
    raw[:] = raw.replace(b"\r\n", field, 1)


def _spoil(chance: random.Random, raw: bytearray) -> None:
    """Do one thing to it."""
    at = chance.randrange(len(raw) + 1)
    end = min(len(raw), at + chance.randrange(1, 24))
    match chance.randrange(11):
        case 0:
            raw[at : at + 1] = chance.randbytes(1)
        case 1:
            if at < len(raw):
                raw[at] ^= 1 << chance.randrange(8)
        case 2 | 3:
            raw[at:at] = chance.choice(NASTY)
        case 4:
            del raw[at:end]
        case 5:
            raw[end:end] = raw[at:end]
        case 6:
            _change_lines(chance, raw)
        case 7:
            _change_number(chance, raw)
        case 8:
            other = chance.choice(CORPUS)
            raw[at:] = other[chance.randrange(len(other)) :]
        case 9:
            if chance.random() < 0.1:  # the server waits for the rest: the requests behind it become part of it
                del raw[at:]
            elif chance.random() < 0.1:
                raw[at:at] = chance.choice([b"a", b"%41", b" ", b"0", b"A: b\r\n"]) * chance.randrange(1, _LONG)
        case _:
            raw[at:end] = raw[at:end].swapcase()


def _change_lines(chance: random.Random, raw: bytearray) -> None:
    """Double a line, drop it, let it change places, or end it otherwise."""
    lines = raw.split(b"\r\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            lines.insert(other, lines[one])
        case 1:
            del lines[one]
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case _:
            ending = bytearray(chance.choice([b"\n", b"\r", b" \r\n", b"\r\n ", b"\r\r\n"]))
            lines[one : one + 2] = [ending.join(lines[one : one + 2])]
    raw[:] = b"\r\n".join(lines)


def _change_number(chance: random.Random, raw: bytearray) -> None:
    found = list(_NUMBER.finditer(raw))
    if found:
        start, end = chance.choice(found).span()
        raw[start:end] = chance.choice(
            [b"%d" % chance.randrange(20), b"%x" % chance.randrange(300), b"", b"-0", b"1e1", b"0" * 30]
        )
