"""What the tests of the gateways' front ends share: requests as web servers spell them, and how they are fed."""

from collections.abc import Iterable, Mapping

from forkserve.protocol import fastcgi, scgi, uwsgi
from forkserve.protocol.gateway import Decoder
from forkserve.protocol.types import Environ, Limits, Refused
from forkserve.wsgi.environ import connection_template, listener_template
from forkserve.wsgi.input import BodyMakerFor
from tests.unit.eager import feed_all

LISTENER = listener_template("fallback", "8000", generation=1, slot=0, extend_deadline=lambda seconds: None)
# The gateway sits on this machine.
TEMPLATE = connection_template(LISTENER, ("127.0.0.1", 40000))
DEFAULTS = Limits(4094, 100, 8190)
ONE_MEBIBYTE = 1 << 20

# What nginx's uwsgi_params make of `GET /a/b%2Fc?d=e`, empty ones included.
NGINX = {
    "QUERY_STRING": "d=e",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "REQUEST_URI": "/a/b%2Fc?d=e",
    "PATH_INFO": "/a/b/c",
    "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "https",
    "HTTPS": "on",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_PORT": "51234",
    "SERVER_PORT": "443",
    "SERVER_NAME": "example.org",
    "HTTP_HOST": "example.org",
    "HTTP_USER_AGENT": "curl/8",
}

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]


def listed(variables: Pairs) -> list[tuple[bytes, bytes]]:
    pairs = variables.items() if isinstance(variables, Mapping) else variables
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def uwsgi_packet(variables: Pairs, body: bytes = b"", modifier: int = 0) -> bytes:
    block = b"".join(
        len(name).to_bytes(2, "little") + name + len(value).to_bytes(2, "little") + value
        for name, value in listed(variables)
    )
    return bytes((modifier, *len(block).to_bytes(2, "little"), 0)) + block + body


def scgi_request(variables: Pairs, body: bytes = b"") -> bytes:
    """As nginx sends it: CONTENT_LENGTH first, then SCGI."""
    pairs = [pair for pair in listed(variables) if pair[0] != b"CONTENT_LENGTH"]
    pairs = [(b"CONTENT_LENGTH", b"%d" % len(body)), (b"SCGI", b"1"), *pairs]
    block = b"".join(name + b"\0" + value + b"\0" for name, value in pairs)
    return b"%d:%b,%b" % (len(block), block, body)


def record(kind: int, request_id: int, content: bytes = b"", padding: int = 0) -> bytes:
    head = bytes((1, kind)) + request_id.to_bytes(2, "big") + len(content).to_bytes(2, "big") + bytes((padding, 0))
    return head + content + b"p" * padding


def begin(request_id: int = 1, *, keep: bool = False, role: int = 1) -> bytes:
    return record(1, request_id, role.to_bytes(2, "big") + bytes((keep, 0, 0, 0, 0, 0)))


def fastcgi_params(variables: Pairs) -> bytes:
    def length(size: int) -> bytes:
        return bytes((size,)) if size < 128 else (size | 0x80000000).to_bytes(4, "big")

    return b"".join(length(len(name)) + length(len(value)) + name + value for name, value in listed(variables))


def fastcgi_request(
    variables: Pairs, body: bytes = b"", *, request_id: int = 1, keep: bool = False, size: int = 8192, padding: int = 0
) -> bytes:
    """A whole request, its streams in records of ``size`` bytes."""
    parts = [begin(request_id, keep=keep)]
    for kind, stream in ((4, fastcgi_params(variables)), (5, body)):
        parts += [record(kind, request_id, stream[at : at + size], padding) for at in range(0, len(stream), size)]
        parts.append(record(kind, request_id))
    return b"".join(parts)


def decoder_for(
    protocol: str, *, limits: Limits = DEFAULTS, body_limit: int = ONE_MEBIBYTE, mount: str = ""
) -> Decoder:
    make = {"uwsgi": uwsgi.Decoder, "scgi": scgi.Decoder, "fastcgi": fastcgi.Decoder}[protocol]
    decoder: Decoder = make(TEMPLATE, limits, BodyMakerFor(body_limit), mount)
    return decoder


def request_for(protocol: str, variables: Pairs, body: bytes = b"") -> bytes:
    if protocol != "scgi" and body:
        variables = {**dict(variables), "CONTENT_LENGTH": str(len(body))}
    spell = {"uwsgi": uwsgi_packet, "scgi": scgi_request, "fastcgi": fastcgi_request}[protocol]
    return spell(variables, body)


def feed(decoder: Decoder, data: bytes, step: int = 0) -> Refused | None:
    """Feed ``data`` in pieces of ``step`` bytes (0: whole); return the refusal, if it comes to one."""
    try:
        for at in range(0, len(data), step or len(data) or 1):
            feed_all(decoder, memoryview(data)[at : at + (step or len(data))])
    except Refused as refused:
        return refused
    return None


def one(protocol: str, variables: Pairs, body: bytes = b"", *, mount: str = "", step: int = 0) -> Environ:
    """The environ of the one request that comes of ``variables``."""
    decoder = decoder_for(protocol, mount=mount)
    refused = feed(decoder, request_for(protocol, variables, body), step)
    assert refused is None, refused
    ((environ, _, _),) = decoder.ready
    return environ


def outcome(decoder: Decoder, refused: Refused | None) -> object:
    """All that can be seen from outside, to be compared."""
    requests = []
    for environ, line, flags in decoder.ready:
        with environ["wsgi.input"] as file:
            said = {key: value for key, value in environ.items() if isinstance(value, str)}
            requests.append((said, file.read(), line, flags))
    encoders = []
    for _ in range(len(requests) + 1):
        encoder = decoder.take_encoder()
        encoders.append(encoder and (type(encoder), encoder.end()))
    return requests, decoder.replies, encoders, decoder.idle, decoder.body_began, refused and refused.status
