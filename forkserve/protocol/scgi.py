"""SCGI: one request per connection, its variables in a netstring.

Knows no socket and no app. Source: "SCGI: A Simple Common Gateway Interface alternative", protocol.txt of 2008. One
liberty: fields that a client sent twice are joined, since nginx before 1.23 passes them so; other doubles are refused.
"""

from forkserve.protocol.cgi import CgiEncoder
from forkserve.protocol.gateway import OneRequest, speaks_http
from forkserve.protocol.types import BAD_REQUEST, TOO_LARGE, Refused

_LENGTH_DIGITS = 7
# Beside the fields: the path four times over in other variables, and what TLS has to say with its certificates.
OTHER_VARIABLES_BYTES = 128 * 1024


class Decoder(OneRequest):
    """One connection's request."""

    encoder = CgiEncoder()

    def read_head(self, head: bytearray) -> int:
        """Read the netstring `<length>:<variables>,` once all of it is there."""
        colon = head.find(b":", 0, _LENGTH_DIGITS + 1)
        digits = bytes(head[: _LENGTH_DIGITS if colon < 0 else colon])
        if speaks_http(digits):
            raise Refused(BAD_REQUEST, "HTTP was spoken to an SCGI address")
        may_be_http = len(digits) < 3 and digits.isalpha() and digits.isupper()
        if colon < 0 and len(head) <= _LENGTH_DIGITS and (digits.isdigit() or may_be_http):
            return 0
        if colon < 0 or not digits.isdigit() or (digits[:1] == b"0" and digits != b"0"):
            raise Refused(BAD_REQUEST, "no netstring of at most 7 digits")
        length = int(digits)
        if length > self.limits.head_bytes + OTHER_VARIABLES_BYTES:
            raise Refused(TOO_LARGE, f"the variables have {length} bytes")
        end = colon + 1 + length
        if len(head) <= end:
            return 0
        if head[end] != ord(","):
            raise Refused(BAD_REQUEST, "no comma after the variables")
        self._read_variables(bytes(memoryview(head)[colon + 1 : end]))
        return end + 1

    def _read_variables(self, block: bytes) -> None:
        parts = block.split(b"\0")
        if parts.pop() or len(parts) % 2:
            raise Refused(BAD_REQUEST, "the variables are no pairs that end in NUL")
        if not parts or parts[0] != b"CONTENT_LENGTH" or not parts[1]:
            raise Refused(BAD_REQUEST, "the first variable is not CONTENT_LENGTH with a number")
        variables = self.variables
        variables.take(zip(parts[::2], parts[1::2], strict=True))
        if variables.get("SCGI") != "1":
            raise Refused(BAD_REQUEST, "SCGI is not 1")
