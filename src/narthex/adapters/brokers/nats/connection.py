"""Connects to NATS: parses its address and credentials, and reconnects with jitter.

Not here: JetStream (`jetstream`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from nats.aio.client import Client, Server
from nats.errors import Error as NatsError

from narthex.adapters.certificates import certificate_end
from narthex.domain.engine_urls import BadEngineUrl, parse_engine_urls
from narthex.domain.environment import is_loopback
from narthex.errors import ConfigError, DependencyError

CONNECT_S: Final = 5.0
FIRST_WAIT_S: Final = (
    0.2  # between tries of the first connection, in nats-py's own loop: a start waits for it
)
MAX_WAIT_S: Final = 2.0
PING_EVERY_S: Final = 2  # two missed: a half-open connection is left within 6 s, half of a publish's time
Callback = Callable[[], Awaitable[None]]


class NatsAddress(NamedTuple):
    """NATS's address, from `nats://[user:password@]host:port[,…][?prefix=narthex&replicas=3&creds=FILE]`."""

    servers: tuple[str, ...]  # without credentials
    shown: str  # for messages
    prefix: str
    replicas: int | None
    creds: str | None
    user: str | None = None
    password: str | None = None  # without one `user` is a token

    @property
    def local(self) -> bool:
        """Whether every server is on this machine, and stops with it."""
        return all(is_loopback(urlsplit(server).hostname or "") for server in self.servers)


def parse_address(url: str) -> NatsAddress:
    """Read a broker URL. Raises ConfigError."""
    try:
        parts = parse_engine_urls(url)
    except BadEngineUrl as fault:
        raise ConfigError([f"NARTHEX_BROKER_URL is not a valid broker URL: {fault}"]) from None
    options = parts[-1].options
    unknown = set(options) - {"prefix", "replicas", "creds"}
    hosts = [(part.scheme, host) for part in parts for host in part.hosts if host.name]
    servers = tuple(f"{scheme}://{host.text}" for scheme, host in hosts)
    known = next((part for part in parts if part.user is not None), parts[0])
    problems = [
        f"NARTHEX_BROKER_URL has an unknown option {name!r}. Known options are prefix, replicas and creds."
        for name in sorted(unknown)
    ]
    replicas = options.get("replicas", "")
    if replicas and replicas not in ("1", "3", "5"):
        problems.append("NARTHEX_BROKER_URL: replicas must be 1, 3 or 5.")
    prefix = options.get("prefix", "narthex")
    if not prefix.replace("-", "").replace("_", "").isalnum():
        problems.append("NARTHEX_BROKER_URL: prefix may contain only letters, digits, - and _.")
    if problems:
        raise ConfigError(problems)
    if not servers:
        raise ConfigError(["NARTHEX_BROKER_URL must be nats://host:port."])
    return NatsAddress(
        servers,
        ", ".join(part.servers(4222) for part in parts),
        prefix,
        int(replicas) if replicas else None,
        options.get("creds"),
        known.user,
        known.password,
    )


async def connect(
    address: NatsAddress,
    *,
    name: str,
    disconnected: Callback,
    reconnected: Callback,
    error: Callable[[Exception], Awaitable[None]],
) -> Client:
    """Connect within `CONNECT_S`, with repeated tries of every server. Raises DependencyError.

    The client never buffers publishes while disconnected: they fail at once, and the broker retries them itself.
    """
    client = Client()
    options: dict[str, Any] = {"reconnect_time_wait": FIRST_WAIT_S}  # typed as int, but fractions work
    if address.creds:
        options["user_credentials"] = address.creds
    if address.user is not None and address.password is not None:
        options |= {"user": address.user, "password": address.password}
    elif address.user is not None:
        options["token"] = address.user
    try:
        async with asyncio.timeout(CONNECT_S):
            while True:
                try:
                    await client.connect(
                        list(address.servers),
                        name=name,
                        disconnected_cb=disconnected,
                        reconnected_cb=reconnected,
                        error_cb=error,
                        connect_timeout=2,
                        max_reconnect_attempts=-1,
                        reconnect_to_server_handler=_next_server,
                        allow_reconnect=True,
                        ping_interval=PING_EVERY_S,
                        pending_size=0,
                        **options,
                    )
                    return client
                except (NatsError, OSError):
                    client = Client()
                    await asyncio.sleep(0.1)
    except TimeoutError as late:
        raise DependencyError(
            "broker",
            f"Cannot reach NATS at {address.shown} within {CONNECT_S:g} s.",
            "Start it, or check NARTHEX_BROKER_URL.",
        ) from late


async def connect_briefly(address: NatsAddress, name: str) -> Client:
    """A connection for a few calls, whose changes do not matter. Raises as `connect`."""
    return await connect(address, name=name, disconnected=_ignore, reconnected=_ignore, error=_ignore_error)


async def read_certificate_end(address: NatsAddress) -> float:
    """The end of the server's TLS certificate, on a fresh connection; 0.0 without TLS. Raises DependencyError."""
    client = await connect_briefly(address, "narthex-certificate")
    try:
        return certificate_end_of(client)
    finally:
        await client.close()


def certificate_end_of(client: Client) -> float:
    """The end of the certificate that the server of this connection showed; 0.0 without TLS."""
    return certificate_end(getattr(getattr(client, "_transport", None), "_io_writer", None))


async def _ignore() -> None:
    """A short connection's changes."""


async def _ignore_error(_: Exception) -> None:
    """The failing call raises them."""


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
    """The server tried least often, after a growing, random wait, so that nodes do not reconnect in one wave."""
    del info
    fewest = min(server.reconnects for server in servers)
    chosen = random.choice([server for server in servers if server.reconnects == fewest])  # noqa: S311 - spreads load
    return chosen, random.uniform(0.02, min(MAX_WAIT_S, 0.2 * 2 ** min(fewest, 6)))  # noqa: S311 - spreads load
