"""The HTTP decoder under libFuzzer by atheris: `python -m tests.fuzz.atheris_http [-max_total_time=60] [CORPUS_DIR]`.

Not a test of the suite: it runs until it finds something. `make fuzz-http` starts it with the corpus of the others.
Anything but Refused, and any difference between whole and cut input, is a finding.
"""

import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed for this Python, so nothing was fuzzed: pip install atheris")

with atheris.instrument_imports(include=["forkserve"]):
    from tests.fuzz.test_http import assert_alike, cut, decoded

from tests.fuzz.mutate import CORPUS


def test_one_input(data: bytes) -> None:
    """Decode ``data`` whole and in pieces, whose size its length decides."""
    assert_alike(data, decoded(cut(data, 1 + len(data) % 7)), decoded([data]))


def main() -> None:
    """Fuzz with the arguments of libFuzzer; without a folder among them, from our corpus."""
    arguments = sys.argv
    with tempfile.TemporaryDirectory(prefix="forkserve-fuzz-") as folder:
        if all(argument.startswith("-") for argument in arguments[1:]):
            for number, raw in enumerate(CORPUS):
                (Path(folder) / str(number)).write_bytes(raw)
            arguments = [*arguments, folder]
        atheris.Setup(arguments, test_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
