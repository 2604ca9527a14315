"""forkserve/net/address.py: every spelling, every refusal, and that printing and parsing are inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.net.address import Address, Family, parse

SPELLINGS = [
    ("127.0.0.1:8000", Address(Family.IPV4, "127.0.0.1", 8000), "127.0.0.1:8000"),
    ("127.0.0.1", Address(Family.IPV4, "127.0.0.1", 8000), "127.0.0.1:8000"),
    (":5000", Address(Family.IPV4, "0.0.0.0", 5000), "0.0.0.0:5000"),
    ("*:5000", Address(Family.IPV4, "0.0.0.0", 5000), "0.0.0.0:5000"),
    ("127.0.0.1:0", Address(Family.IPV4, "127.0.0.1", 0), "127.0.0.1:0"),
    ("tcp://127.0.0.1:80", Address(Family.IPV4, "127.0.0.1", 80), "127.0.0.1:80"),
    ("http://127.0.0.1:80", Address(Family.IPV4, "127.0.0.1", 80, protocol="http"), "http://127.0.0.1:80"),
    ("LocalHost:8000", Address(Family.NAME, "localhost", 8000), "localhost:8000"),
    ("my-host.example:65535", Address(Family.NAME, "my-host.example", 65535), "my-host.example:65535"),
    ("[::1]:8000", Address(Family.IPV6, "::1", 8000), "[::1]:8000"),
    ("[0:0::0:1]", Address(Family.IPV6, "::1", 8000), "[::1]:8000"),
    ("http://[::]:80", Address(Family.IPV6, "::", 80, protocol="http"), "http://[::]:80"),
    ("[fe80::1%eth0]:80", Address(Family.IPV6, "fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
    ("unix:/run/x.sock", Address(Family.UNIX, path="/run/x.sock"), "unix:/run/x.sock"),
    ("unix:///run//x.sock", Address(Family.UNIX, path="/run/x.sock"), "unix:/run/x.sock"),
    ("unix:x.sock", Address(Family.UNIX, path="x.sock"), "unix:x.sock"),
    ("unix:./x.sock", Address(Family.UNIX, path="x.sock"), "unix:x.sock"),
    ("unix:../x.sock", Address(Family.UNIX, path="../x.sock"), "unix:../x.sock"),
    ("unix:./@x", Address(Family.UNIX, path="./@x"), "unix:./@x"),
    ("unix:/" + "a" * 106, Address(Family.UNIX, path="/" + "a" * 106), "unix:/" + "a" * 106),
    ("unix:@name", Address(Family.ABSTRACT, path="name"), "unix:@name"),
    ("unix:@a/b/", Address(Family.ABSTRACT, path="a/b/"), "unix:@a/b/"),
    ("uwsgi://127.0.0.1:3031", Address(Family.IPV4, "127.0.0.1", 3031, protocol="uwsgi"), "uwsgi://127.0.0.1:3031"),
    ("scgi://[0::1]:4000", Address(Family.IPV6, "::1", 4000, protocol="scgi"), "scgi://[::1]:4000"),
    ("fastcgi://unix:./a//b", Address(Family.UNIX, path="a/b", protocol="fastcgi"), "fastcgi://unix:a/b"),
    ("uwsgi://unix:@x", Address(Family.ABSTRACT, path="x", protocol="uwsgi"), "uwsgi://unix:@x"),
    ("scgi://fd://3", Address(Family.FD, fd=3, protocol="scgi"), "scgi://fd://3"),
    ("fd://3", Address(Family.FD, fd=3), "fd://3"),
    ("fd://my-app.socket", Address(Family.FD, path="my-app.socket"), "fd://my-app.socket"),
]

EXPECTED = "expected HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd://N or fd://NAME"
REFUSALS = [
    ("", f"is empty; {EXPECTED}"),
    ("8000", 'a port alone; write ":8000" for every interface or "127.0.0.1:8000" for this machine'),
    ("127.0.0.1:", 'the port must be a number from 0 to 65535, not ""'),
    ("127.0.0.1:65536", 'the port must be a number from 0 to 65535, not "65536"'),
    ("127.0.0.1:-1", 'the port must be a number from 0 to 65535, not "-1"'),
    ("127.0.0.1:+80", 'the port must be a number from 0 to 65535, not "+80"'),
    ("127.0.0.1:٨٠", 'the port must be a number from 0 to 65535, not "٨٠"'),
    ("localhost:http", 'the port must be a number from 0 to 65535, not "http"'),
    ("127.0.0.1:80/path", 'the port must be a number from 0 to 65535, not "80/path"'),
    ("127.0.0.256:80", '"127.0.0.256" is not an IPv4 address'),
    ("127.1:80", '"127.1" is not an IPv4 address'),
    ("::1:8000", "an IPv6 address needs brackets; expected [IPV6]:PORT, such as [::1]:8000"),
    ("[::1:8000", "the closing bracket is missing; expected [IPV6]:PORT"),
    ("[::1]8000", '"8000" after the bracket; expected [IPV6]:PORT'),
    ("[::1]:", 'the port must be a number from 0 to 65535, not ""'),
    ("[127.0.0.1]:80", '"127.0.0.1" is not an IPv6 address; expected [IPV6]:PORT, such as [::1]:8000'),
    ("a b:80", f'"a b" is not a host name; {EXPECTED}'),
    ("/run/x.sock", f'"/run/x.sock" is not a host name; {EXPECTED}'),
    ("a:1,b:2", "is more than one address; write several as a list"),
    ("https://a:443", f"https:// is not a kind of address; {EXPECTED}"),
    ("uwsgi://127.0.0.1", "expected uwsgi://HOST:PORT, with the port and without a path"),
    ("uwsgi:///run/x.sock", "expected uwsgi://HOST:PORT, with the port and without a path"),
    ("uwsgi://http://a:80", "an IPv6 address needs brackets; expected [IPV6]:PORT, such as [::1]:8000"),
    ("scgi://unix:", 'the path after "unix:" is empty'),
    ("http://a", "expected http://HOST:PORT, with the port and without a path"),
    ("http://a:80/", "expected http://HOST:PORT, with the port and without a path"),
    ("unix:", 'the path after "unix:" is empty'),
    ("unix:@", 'the abstract name after "unix:" is empty'),
    ("unix:/run/", 'the path "/run/" names a folder; expected that of a socket'),
    ("unix:.", 'the path "." names a folder; expected that of a socket'),
    ("unix:run/..", 'the path "run/.." names a folder; expected that of a socket'),
    ("unix", "the path is missing; expected unix:PATH"),
    ("tcp://unix:80", "the path is missing; expected unix:PATH"),
    ("unix:\0name", 'holds a NUL; an abstract name is written "unix:@name"'),
    ("unix:/" + "a" * 107, "the path has 108 bytes; the kernel takes at most 107"),
    ("unix:/" + "é" * 54, "the path has 109 bytes; the kernel takes at most 107"),
    ("unix:@" + "a" * 108, "the abstract name has 108 bytes; the kernel takes at most 107"),
    ("fd://", '"" is neither the number nor the name of a file descriptor; expected fd://3 or fd://web'),
    ("fd://a:b", '"a:b" is neither the number nor the name of a file descriptor; expected fd://3 or fd://web'),
    ("fd://-1", '"-1" is neither the number nor the name of a file descriptor; expected fd://3 or fd://web'),
    (
        "fd://2147483648",
        '"2147483648" is neither the number nor the name of a file descriptor; expected fd://3 or fd://web',
    ),
]


@pytest.mark.parametrize(("text", "address", "canonical"), SPELLINGS)
def test_a_spelling_is_read_and_printed_in_its_canonical_form(text: str, address: Address, canonical: str) -> None:
    assert parse(text) == address
    assert str(address) == canonical
    assert parse(canonical) == address


@pytest.mark.parametrize(("text", "reason"), REFUSALS)
def test_what_is_no_address_is_refused_with_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(text)
    assert str(refused.value) == reason


def test_an_abstract_name_and_the_path_of_the_same_letters_are_different_places() -> None:
    assert parse("unix:@x") != parse("unix:x")
    assert parse("unix:@x") != parse("unix:./@x")


def test_only_addresses_with_a_host_and_a_port_are_tcp() -> None:
    assert [parse(text).is_tcp for text in ("a:1", "1.2.3.4:1", "[::1]:1")] == [True, True, True]
    assert [parse(text).is_tcp for text in ("unix:a", "unix:@a", "fd://3")] == [False, False, False]


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=25)
addresses = st.one_of(
    st.builds(lambda ip, port: f"{ip}:{port}", st.ip_addresses(v=4), st.integers(0, 65535)),
    st.builds(lambda ip, port: f"[{ip.exploded}]:{port}", st.ip_addresses(v=6), st.integers(0, 65535)),
    st.builds(lambda name: f"unix:@{name}", names),
    st.builds(lambda name: f"unix:./{name}x", names),
    st.builds(lambda fd: f"fd://{fd}", st.integers(0, 2**31 - 1)),
)


@given(addresses)
def test_what_an_address_prints_parses_to_an_equal_address(text: str) -> None:
    address = parse(text)
    assert parse(str(address)) == address
    assert str(parse(str(address))) == str(address)


@given(st.text(alphabet=":/[]@%.,-*019afdhinptuxé\0 ", max_size=20))
def test_any_text_is_an_address_that_round_trips_or_a_plain_refusal(text: str) -> None:
    try:
        address = parse(text)
    except ValueError as refusal:
        assert type(refusal) is ValueError
    else:
        assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "default", "spoken"),
    [
        ("127.0.0.1:80", "http", "127.0.0.1:80"),
        ("127.0.0.1:80", "uwsgi", "uwsgi://127.0.0.1:80"),
        ("http://127.0.0.1:80", "uwsgi", "127.0.0.1:80"),
        ("scgi://unix:x", "uwsgi", "scgi://unix:x"),
    ],
)
def test_an_address_speaks_its_own_protocol_or_else_the_default(text: str, default: str, spoken: str) -> None:
    assert str(parse(text).speaking(default)) == spoken
