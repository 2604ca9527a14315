"""Whom we believe: a list of addresses as people write it, asked about peers and about the hops that peers name.

Pure; runs in a worker, and where settings are checked. The verdict about a peer holds for its whole connection, so it
is asked for once. Used for the words of proxies, and for who may speak for clients at all (gateways, PROXY).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_KNOWN_LIMIT = 4096


class Trust:
    """A list of addresses and networks, such as "127.0.0.1, ::1, 10.0.0.0/8".

    "*" is every peer. Whoever reaches a unix socket is believed too, as with Gunicorn: the mode of the socket has
    decided who that may be. "unix" says only that, and believes nobody by TCP; "none" believes nobody at all.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError with the reason."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        self._unix = "none" not in words
        if not self._unix and len(words) > 1:
            raise ValueError('"none" stands alone')
        self.everybody = "*" in words
        self._networks = [_network(word) for word in words if word not in ("*", "unix", "none")]
        self._known: dict[str, tuple[str, bool] | None] = {}

    def believes(self, peer: object) -> bool:
        """Whether to believe a connection's peer, as accept gives it: (host, port, ...), or else a unix peer."""
        if not isinstance(peer, tuple):
            return self._unix
        if self.everybody:
            return True
        known = self.look_up(peer[0])
        return known is not None and known[1]

    def look_up(self, text: str) -> tuple[str, bool] | None:
        """Return an address in its usual spelling and whether it is on the list; None: it is no address.

        "*" puts no address on the list: it believes the peer, and nobody knows which of the hops behind are proxies.
        """
        try:
            return self._known[text]
        except KeyError:
            pass
        address = parse_address(text)
        known = None if address is None else (str(address), any(address in network for network in self._networks))
        if len(self._known) < _KNOWN_LIMIT and len(text) <= 64:  # clients choose what is asked
            self._known[text] = known
        return known


def parse_address(text: str) -> Address | None:
    """Read an IP address; an IPv4 one that IPv6 carries (a dual-stack listener's peer) as what it is."""
    try:
        address = ip_address(text.partition("%")[0])  # the zone of a link-local peer
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _network(word: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(word)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ValueError(
                f'"{word}" is an address within {ip_network(word, strict=False)}: write one of them'
            ) from None
        raise ValueError(
            f'"{word}" is no IP address, no network such as 10.0.0.0/8, and none of *, unix, none'
        ) from None
