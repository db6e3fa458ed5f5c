"""Finds the address and scheme of a request's client: the one module that reads forwarding headers.

Not here: origins and hosts (`origins`). Rules: a forwarding header counts only as far as a trusted proxy
wrote it; values that a client wrote itself are never trusted. Only `X-Forwarded-For` and
`X-Forwarded-Proto` are read, because all common proxies write them (docs/security.md).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOPS: Final = 16  # a chain of more proxies is a mistake, and each costs a parse
CLOUD_RUN_HOPS: Final = 1  # Google's front end appends the address that it saw as the last entry


class TrustedProxies(msgspec.Struct, frozen=True):
    """Proxies whose forwarding headers count.

    Attributes:
        networks: the peers that are proxies of ours.
        hops: how many proxies stand in front for certain, whatever their addresses; 0: none.
    """

    networks: tuple[Network, ...] = ()
    hops: int = 0

    @property
    def none(self) -> bool:
        """Whether no forwarding header counts."""
        return not self.networks and self.hops == 0

    def proxied(self, peer: str) -> bool:
        """Whether the socket's peer is a trusted proxy, so that its address is not the client's."""
        return self.hops > 0 or (bool(self.networks) and _in_networks(canonical(peer) or peer, self.networks))


class ClientAddress(msgspec.Struct, frozen=True):
    """The other end: its address in canonical form (empty for a unix socket), and `https` or `http`."""

    address: str
    scheme: str


def parse_trusted_proxies(
    words: Sequence[str], *, platform: str = "", variable: str = "NARTHEX_TRUSTED_PROXIES"
) -> TrustedProxies | list[str]:
    """`NARTHEX_TRUSTED_PROXIES`: addresses, networks, or one number of hops.

    Args:
        words: the setting's items; none: no proxy is trusted, and on Cloud Run the last hop.
        platform: `cloud-run`, `kubernetes` or empty.
        variable: the one that was set, for the problems.

    Returns:
        The value, or every problem as a sentence with its remedy.
    """
    if not words:
        return TrustedProxies(hops=CLOUD_RUN_HOPS if platform == "cloud-run" else 0)
    networks: list[Network] = []
    hops = 0
    problems: list[str] = []
    for word in words:
        if word.isascii() and word.isdigit():
            hops = max(hops, int(word))
            continue
        try:
            networks.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            problems.append(
                f"{variable} holds {word[:64]!r}, which is not an address, a network or a number of "
                f"hops. Write for example 10.0.0.0/8, or 1."
            )
    if hops > MAX_HOPS:
        problems.append(f"{variable} trusts {hops} hops. Trust at most {MAX_HOPS}.")
    return problems or TrustedProxies(tuple(networks), hops)


def parse_networks(words: Sequence[str], variable: str) -> tuple[Network, ...] | list[str]:
    """A setting's addresses and networks, or every problem as a sentence with its remedy."""
    networks: list[Network] = []
    problems: list[str] = []
    for word in words:
        try:
            networks.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            problems.append(
                f"{variable} holds {word[:64]!r}, which is not an address or a network. Write for example 10.0.0.0/8."
            )
    return problems or tuple(networks)


def within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address is in one of the networks; text that is no address is in none."""
    return bool(networks) and _in_networks(canonical(address) or address, networks)


def client_of(
    peer: str,
    secure: bool,
    forwarded_for: Sequence[str],
    forwarded_proto: Sequence[str],
    trusted: TrustedProxies,
) -> ClientAddress:
    """The client's address and scheme.

    Args:
        peer: the socket's other end.
        secure: whether the socket itself is TLS.
        forwarded_for: the values of `X-Forwarded-For`, in order.
        forwarded_proto: the values of `X-Forwarded-Proto`, in order.
        trusted: see `TrustedProxies`. The chain is walked from the peer backwards, as long as each address
            is a trusted proxy's.
    """
    own_scheme = "https" if secure else "http"
    if trusted.none:
        return ClientAddress(canonical(peer) or peer, own_scheme)
    address = canonical(peer) or peer
    for believed, entry in enumerate(reversed(_entries(forwarded_for))):
        if believed >= trusted.hops and not _in_networks(address, trusted.networks):
            break
        found = canonical(entry)
        if found is None:  # `unknown`, an obfuscated name, garbage: the last good address stands
            break
        address = found
    if trusted.hops == 0 and not _in_networks(canonical(peer) or peer, trusted.networks):
        return ClientAddress(address, own_scheme)
    protos = _entries(forwarded_proto)
    scheme = protos[-1].lower() if protos else own_scheme
    return ClientAddress(
        address, {"https": "https", "wss": "https", "http": "http", "ws": "http"}.get(scheme, own_scheme)
    )


@lru_cache(maxsize=4096)
def canonical(text: str) -> str | None:
    """An address in its one spelling (no port, no brackets, no zone, IPv4-mapped as IPv4); None: it is none."""
    raw = text.strip()
    if raw.startswith("["):
        raw = raw[1:].partition("]")[0]
    elif raw.count(":") == 1:
        raw = raw.partition(":")[0]
    try:
        address = ipaddress.ip_address(raw.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@lru_cache(maxsize=4096)
def bucket(address: str) -> str:
    """The key under which an address is counted: an IPv6 /64 is one household, so it is one key."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        return address


def address_class(address: str) -> str:
    """`loopback`, `private`, `public-ipv4`, `public-ipv6` or `unknown`: the part of an address that operators see."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if parsed.is_loopback:
        return "loopback"
    return "private" if parsed.is_private else f"public-ipv{parsed.version}"


@lru_cache(maxsize=4096)
def _in_networks(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _entries(values: Sequence[str]) -> list[str]:
    """The comma-separated entries of all values, the last `MAX_HOPS` of them."""
    found = [entry.strip() for value in values for entry in value.split(",")]
    return [entry for entry in found if entry][-MAX_HOPS:]
