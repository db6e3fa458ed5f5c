"""Checks that NATS can be reached and used, for `narthex check --connect`; changes nothing there."""

from __future__ import annotations

from nats.errors import Error as NatsError

from narthex.adapters.brokers.nats.connection import certificate_end_of, connect_briefly, parse_address
from narthex.adapters.certificates import certificate_words
from narthex.errors import DependencyError


async def reach(url: str) -> str:
    """Connect, ask for JetStream, disconnect; returns a description of the server.

    Raises:
        ConfigError: the URL is wrong.
        DependencyError: the server does not answer, or has no JetStream for this account.
    """
    address = parse_address(url)
    client = await connect_briefly(address, "narthex-check")
    try:
        account = await client.jetstream().account_info()
        version, ends_at = client.connected_server_version, certificate_end_of(client)
    except (NatsError, OSError) as fault:
        raise DependencyError(
            "broker",
            f"NATS at {address.shown} responds, but JetStream does not ({type(fault).__name__}).",
            "Start the server with JetStream (-js), or enable JetStream for this account.",
        ) from fault
    finally:
        await client.close()
    words = [f"NATS {version} with JetStream", f"{account.streams} streams", *certificate_words(ends_at)]
    return ", ".join(words)
