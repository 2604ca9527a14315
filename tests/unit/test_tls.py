"""Contexts from files: which certificate a client gets, and what is said of files that are wrong."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forkserve.errors import SettingsError
from forkserve.net.tls import Certificate, Context, check, distinguished_name, make_contexts, read_certificate
from tests import certificates
from tests.certificates import needs_openssl
from tests.unit.tls_pair import V12, V13, Pair, client_context, wait_done

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, certificates.Certificate]:
    """Certificates by name."""
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "a": certificates.Certificate(folder, "a", "DNS:a.example", "DNS:both.example"),
        "wild": certificates.Certificate(folder, "wild", "DNS:*.b.example", "DNS:*.Both.example", "DNS:both.example"),
        "exact": certificates.Certificate(folder, "exact", "DNS:x.b.example", "IP:127.0.0.2", "IP:::1"),
        "nameless": certificates.Certificate(folder, "nameless"),
    }


@pytest.fixture(scope="module")
def context(made: dict[str, certificates.Certificate]) -> Context:
    chosen = [made[name] for name in ("a", "wild", "exact", "nameless")]
    return make_contexts([one.file for one in chosen], [one.key for one in chosen])


# which certificate


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("a.example", "a"), ("A.Example", "a"), ("both.example", "a"), ("z.b.example", "wild"),
        ("x.b.example", "exact"),
        ("z.both.example", "wild"), ("y.z.b.example", "a"), ("b.example", "a"), ("nameless", "nameless"),
        ("unknown.example", "a"), ("example", "a"), (None, "a"),
    ],
)  # fmt: skip
def test_client_gets_the_certificate_of_the_name_that_it_asks_for(
    context: Context, asked: str | None, got: str
) -> None:
    for version in (V12, V13):
        with Pair(context, asked, client_context(version)) as pair:
            pair.shake()
            assert pair.subject() == got
            assert pair.server.environ().get("SSL_TLS_SNI") == asked


def test_client_without_a_name_gets_the_certificate_of_the_address_that_it_dialled(context: Context) -> None:
    for host, got in (("127.0.0.2", "exact"), ("::1", "exact"), ("127.0.0.1", "a")):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener:
            mine = socket.create_connection(listener.getsockname()[:2])
            theirs, _ = listener.accept()
        with Pair(context, ends=(mine, theirs)) as pair:
            select.select([pair.raw], [], [])
            assert wait_done(pair)
            assert pair.subject() == got


def test_what_a_certificate_says_of_itself(made: dict[str, certificates.Certificate]) -> None:
    found = read_certificate(made["exact"].file)
    assert (found.subject, found.names, found.addresses) == ("CN=exact,O=Shop", ("x.b.example",), ("127.0.0.2", "::1"))
    assert found.fields()["names"] == "x.b.example 127.0.0.2 ::1"
    assert found.expires_s - found.begins_s == 90 * 86400
    assert read_certificate(made["nameless"].file).names == ("nameless",)


def test_certificate_that_ends_soon_is_told() -> None:
    def trouble(life_days: float, left_days: float) -> str:
        return Certificate("f", "s", (), (), 0.0, life_days * 86400).trouble((life_days - left_days) * 86400)

    assert trouble(90, 15) == ""
    assert trouble(90, 13.5) == "certificate expires in 13 days"
    assert trouble(6, 3) == ""
    assert trouble(6, 1.5) == "certificate expires in 1 days"
    assert trouble(90, 0) == "certificate has expired"
    assert trouble(90, 91) == "certificate is not valid yet"


@pytest.mark.parametrize(
    ("rdns", "spelt"),
    [
        (((("countryName", "DE"),), (("organizationName", "A, B"),)), r"O=A\, B,C=DE"),
        (((("commonName", ' #"x"\n '),),), r"CN=\ #\"x\"\0A\ "),
        (((("commonName", "a"), ("userId", "u+1")),), r"CN=a+UID=u\+1"),
        ((), ""),
    ],
)
def test_distinguished_name_is_spelt_as_rfc_4514_says(rdns: Any, spelt: str) -> None:
    assert distinguished_name(rdns) == spelt


# what is wrong with the files


def test_each_fault_names_the_file_and_the_remedy(made: dict[str, certificates.Certificate], tmp_path: Path) -> None:
    good, other = made["a"], made["exact"]
    garbage, damaged, fifo = tmp_path / "garbage", tmp_path / "damaged", tmp_path / "fifo"
    garbage.write_text("hello\n")
    damaged.write_text(Path(good.file).read_text().replace("MII", "AAA", 1))
    bad_key = tmp_path / "key"
    bad_key.write_text(Path(good.key).read_text().replace("MIG", "AAA", 1))
    os.mkfifo(fifo)
    encrypted = certificates.encrypted(good.key)
    faults: list[tuple[dict[str, Any], str]] = [
        ({"certfile": ["no.pem"]}, "certfile = 'no.pem': cannot be read: No such file or directory"),
        ({"certfile": [str(tmp_path)]}, f"certfile = '{tmp_path}': is not a file"),
        ({"certfile": [str(fifo)]}, f"certfile = '{fifo}': is not a file"),
        ({"certfile": [str(garbage)]}, f"certfile = '{garbage}': holds no certificate in PEM"),
        ({"certfile": [str(damaged)]}, f"certfile = '{damaged}': its first certificate is damaged"),
        ({"certfile": [good.file]}, f"certfile = '{good.file}': holds no private key in PEM"),
        ({"keyfile": [str(garbage)]}, f"keyfile = '{garbage}': holds no private key in PEM"),
        ({"keyfile": [str(bad_key)]}, f"keyfile = '{bad_key}': the private key or the chain in"),
        (
            {"keyfile": [other.key]},
            f"keyfile = '{other.key}': the private key does not belong to the first certificate",
        ),
        ({"keyfile": [encrypted]}, f"keyfile = '{encrypted}': the private key is encrypted"),
        ({"keyfile": ["no.key"]}, "keyfile = 'no.key': cannot be read: No such file or directory"),
        ({"keyfile": [good.key, good.key]}, "2 for 1 of certfile"),
        ({"ciphers": "ROT13"}, "ciphers = 'ROT13': OpenSSL finds none"),
        ({"ca_certs": "no.pem", "cert_reqs": "required"}, "ca_certs = 'no.pem': cannot be read"),
        ({"ca_certs": good.key, "cert_reqs": "required"}, f"ca_certs = '{good.key}': holds no certificate in PEM"),
    ]
    for change, sentence in faults:
        settings: dict[str, Any] = {"certfile": [good.file], "keyfile": [good.key], **change}
        if change.keys() == {"certfile"}:
            settings["keyfile"] = []
        with pytest.raises(SettingsError) as caught:
            make_contexts(**settings)
        assert str(caught.value).startswith(sentence) or sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unreadable_key_is_named(made: dict[str, certificates.Certificate], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    locked = tmp_path / "locked.key"
    locked.touch(mode=0o000)
    with pytest.raises(SettingsError, match=r"locked\.key': cannot be read: Permission denied"):
        make_contexts([made["a"].file], [str(locked)])


@pytest.mark.parametrize(
    ("certfile", "keyfile", "ca_certs", "cert_reqs", "sentence"),
    [
        ([], ["k"], "", "none", "keyfile = ['k']: without certfile"),
        ([], [], "ca", "none", "ca_certs = 'ca': without certfile"),
        ([], [], "", "required", "cert_reqs = 'required': without certfile"),
        (["c"], [], "", "optional", "cert_reqs = 'optional': nobody vouches for clients"),
        (["c"], [], "ca", "none", "ca_certs = 'ca': no client is asked"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    certfile: list[str], keyfile: list[str], ca_certs: str, cert_reqs: str, sentence: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        check(certfile, keyfile, ca_certs, cert_reqs)
    assert str(caught.value).startswith(sentence)


def test_service_without_certificates_does_not_pay_for_ssl() -> None:
    code = "import sys, forkserve.master.loop, forkserve.worker.main; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"ssl", "_ssl", "forkserve.net.tls", "forkserve.worker.tls"} & set(ran.stdout.split()) == set()
