"""Computes how many connections fit into the descriptors that the operating system allows this process.

Rules: limits are only ever lowered; the process keeps a share for its own files, engines and agents, so that it can
work while every connection is taken; HTTP keeps a share beside the WebSockets, so that probes and operators get in
when those are at their limit; no one address may take more than half of either.
"""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.domain.limits import Limits

OWN_AT_LEAST: Final = (
    128  # SQLite's files, listeners, logs, engines' pools, a probe of itself, some agents' calls
)
OWN_AT_MOST: Final = 2_048
HTTP_AT_LEAST: Final = 16


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that fit.

    Attributes:
        limits: those asked for, lowered where they do not fit.
        descriptors: the number that the operating system allows.
        tcp: connections of any kind.
        tcp_per_address: the same of one address (an IPv6 /64 counts as one).
        lowered: whether descriptors are what bounds `limits.max_connections`.
    """

    limits: Limits
    descriptors: int
    tcp: int
    tcp_per_address: int
    lowered: bool


def capacity(limits: Limits, descriptors: int) -> Capacity:
    """Fit limits into descriptors.

    Args:
        limits: as asked for.
        descriptors: the soft limit of open files.
    """
    own = min(max(OWN_AT_LEAST, descriptors // 8), OWN_AT_MOST, descriptors // 2)
    wanted = limits.max_connections + beside(limits.max_connections)
    shared = (
        limits.max_connections_per_address >= limits.max_connections
    )  # no limit of an address's own is wanted
    tcp = min(wanted, descriptors - own)
    lowered = tcp < wanted
    if lowered:
        sockets = max(1, min(limits.max_connections, tcp - beside(tcp)))
        half = max(1, sockets // 2)
        limits = msgspec.structs.replace(
            limits,
            max_connections=sockets,
            max_connections_per_address=min(limits.max_connections_per_address, sockets if shared else half),
            max_connections_unauthenticated=min(limits.max_connections_unauthenticated, half),
        )
    per_address = limits.max_connections_per_address
    return Capacity(
        limits=limits,
        descriptors=descriptors,
        tcp=tcp,
        tcp_per_address=tcp if shared else min(per_address + beside(per_address), tcp),
        lowered=lowered,
    )


def beside(sockets: int) -> int:
    """The number of HTTP connections reserved beside so many WebSockets."""
    return max(HTTP_AT_LEAST, sockets // 20)
