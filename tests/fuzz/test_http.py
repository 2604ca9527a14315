"""The HTTP decoder under mutated input: nothing but Refused is raised, and how the bytes are cut decides nothing.

The decoders of gateways and of the PROXY preface: tests/unit/test_fuzz_gateways.py.
FORKSERVE_FUZZ=<number> looks at so many examples of each kind instead of a few.
"""

import os
import random
import re
from collections.abc import Iterable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forkserve.protocol.types import Limits, Refused
from forkserve.wsgi.environ import listener_template
from forkserve.wsgi.input import BodyMakerFor
from tests.fuzz.mutate import CORPUS, NASTY, VALID, mutated
from tests.unit.eager import EagerDecoder as Decoder

EXAMPLES = int(os.environ.get("FORKSERVE_FUZZ", "0")) or 300
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEMPLATE = listener_template("localhost", "80", generation=1, slot=0, extend_deadline=lambda seconds: None)
LIMITS = Limits(4094, 100, 8190)

# Requests, the status of a refusal, and how the decoder is left: idle, within a body.
Outcome = tuple[list[tuple[dict[str, str], bytes, bytes, int]], str | None, tuple[bool, bool] | None]

# By seed, and so of the same kinds as those that are sent to a running server.
by_seed = st.integers(0, 2**32).map(lambda seed: mutated(random.Random(seed)))
in_a_row = st.lists(st.sampled_from(VALID) | by_seed, min_size=1, max_size=4).map(b"".join)
from_pieces = st.lists(st.sampled_from([*NASTY, *CORPUS]) | st.binary(max_size=6), max_size=8).map(b"".join)


def decoded(pieces: Iterable[bytes]) -> Outcome:
    """All that the decoder makes of ``pieces``; its requests are taken after each of them, as the worker does."""
    decoder = Decoder(TEMPLATE.copy(), LIMITS, BodyMakerFor(1 << 20))
    status = None
    requests = []
    try:
        for piece in pieces:
            decoder.feed(piece)
            requests += taken(decoder)
    except Refused as refused:
        requests += taken(decoder)
        status = SAME.get(refused.status, refused.status)
    left = None if status else (bool(decoder.idle), decoder.body_began)
    decoder.close()
    return requests, status, left


# An unknown method is 501 where all of its line is at hand, and 400 where only its first bytes are.
SAME = {"501 Not Implemented": "400 Bad Request"}
# llhttp lets these through. Where bytes of an earlier request came along with them, our own check can miss them too:
# RawHead.check_line. Nobody takes the one for another request, so that it makes no smuggling.
LENIENT = re.compile(rb" {2}| (?:RTSP|ICE)/")

# What is too large is refused before its end if it comes in pieces, and so before what is wrong behind it.
TOO_LARGE = {"414 URI Too Long", "431 Request Header Fields Too Large"}


def taken(decoder: Decoder) -> list[tuple[dict[str, str], bytes, bytes, int]]:
    """Take the requests that are complete."""
    found = []
    while decoder.ready:
        environ, line, flags = decoder.ready.pop(0)
        said = {key: value for key, value in environ.items() if isinstance(value, str)}
        found.append((said, environ["wsgi.input"].read(), line, flags))
    return found


def assert_alike(data: bytes, one: Outcome, other: Outcome) -> None:
    """Check that both readings of the same bytes agree."""
    statuses = {one[1], other[1]}
    if one != other and ((LENIENT.search(data) and "400 Bad Request" in statuses) or statuses & TOO_LARGE):
        count = min(len(one[0]), len(other[0]))
        assert one[0][:count] == other[0][:count]
        return
    assert one == other


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


@fuzz
@given(in_a_row | from_pieces | st.binary(max_size=200), st.integers(2, 50))
@example(b"", 2)
def test_how_the_bytes_are_cut_decides_nothing(data: bytes, step: int) -> None:
    whole = decoded([data])
    assert_alike(data, decoded(cut(data, 1)), whole)
    assert_alike(data, decoded(cut(data, step)), whole)


@fuzz
@given(st.lists(st.sampled_from(VALID), min_size=1, max_size=3).map(b"".join), by_seed)
def test_what_follows_changes_nothing_of_the_requests_before(good: bytes, bad: bytes) -> None:
    before, _, _ = decoded([good])
    after, _, _ = decoded([good + bad])
    assert after[: len(before)] == before


def test_a_length_of_thousands_of_digits_is_refused() -> None:
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5000 + b"3\r\n\r\nabc"  # int() takes 4,300
    for pieces in ([raw], cut(raw, 1)):
        assert decoded(pieces)[1] in ("400 Bad Request", "431 Request Header Fields Too Large")


def test_mutations_are_neither_all_refused_nor_all_served() -> None:
    chance = random.Random(1)
    outcomes = [decoded([mutated(chance)]) for _ in range(500)]
    refused = sum(status is not None for _, status, _ in outcomes)
    assert 100 < refused < 400
