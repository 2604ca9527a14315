"""Certificates for tests, made by the openssl command: authorities, servers, clients."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificates")


class Certificate:
    """A certificate and its key, below ``folder``, signed by ``issuer`` or by itself."""

    def __init__(self, folder: Path, name: str, *alternatives: str, issuer: "Certificate | None" = None) -> None:
        self.file = str(folder / f"{name}.crt")
        self.key = str(folder / f"{name}.key")
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", self.key, "-out", self.file, "-days", "90", "-utf8", "-subj", f"/O=Shop/CN={name}",
        ]  # fmt: skip
        if alternatives:
            command += ["-addext", "subjectAltName=" + ",".join(alternatives)]
        if issuer is not None:
            command += ["-CA", issuer.file, "-CAkey", issuer.key, "-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run(command, check=True, capture_output=True)


def encrypted(key: str) -> str:
    """Encrypt a key with a password, into another file."""
    path = key + ".encrypted"
    command = ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:secret", "-out", path]
    subprocess.run(command, check=True, capture_output=True)
    return path
