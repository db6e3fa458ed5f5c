"""Checks that Redis or Valkey can be reached and used, for `narthex check --connect`; changes nothing there."""

from __future__ import annotations

from narthex.adapters.brokers.redis.connection import (
    FAULTS,
    certificate_end_of,
    connect,
    parse_address,
    read_settings,
)
from narthex.adapters.certificates import certificate_words
from narthex.errors import DependencyError


async def reach(url: str) -> str:
    """Connect, read the settings for durability, disconnect; returns a description of the server.

    Raises:
        ConfigError: the URL is wrong, or the server may evict data.
        DependencyError: the server does not answer, refuses, or is a replica.
    """
    address = parse_address(url)
    client = connect(address)
    try:
        found = await read_settings(client, address)
        ends_at = await certificate_end_of(client)
    except FAULTS as fault:
        raise DependencyError(
            "broker",
            f"Cannot use Redis at {address.shown}: {type(fault).__name__}.",
            "Start it, or check NARTHEX_BROKER_URL and its credentials.",
        ) from fault
    finally:
        await client.aclose()
    if found.replica:
        raise DependencyError(
            "broker",
            f"Redis at {address.shown} is a replica, which does not accept writes.",
            "Set NARTHEX_BROKER_URL to the primary.",
        )
    fsync = found.fsync or "none: a restart loses acknowledged publications"
    return ", ".join([f"Redis, append-only file: {fsync}", *certificate_words(ends_at)])
