"""Presence of this node's connections in their channels, kept at the broker.

Not here: the right to read it (`commands/channels`), its storage (ports/broker). Rules: presence is best effort: a
broker that is down delays an entry, and an entry that cannot be removed expires by itself (`PRESENCE_TTL_S`). A join
and a leave of one connection may overlap, and the broker may execute them in either order; each checks afterwards
whether the result is still right.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import NamedTuple, Protocol

from narthex.app.hub.channel import Channel
from narthex.app.tasks import Tasks
from narthex.domain.channels import split_key
from narthex.domain.identity import Identity
from narthex.errors import NarthexError
from narthex.ports.broker import Broker, Member
from narthex.ports.telemetry import Meter


class Subscription(NamedTuple):
    """A channel that a connection is subscribed to."""

    channel: Channel
    server_side: bool
    presence: bool


class Peer(Protocol):
    """The part of a connection that presence needs (`app.connection` imports this module)."""

    @property
    def client(self) -> str:
        """The connection's id."""

    @property
    def identity(self) -> Identity | None:
        """The connection's user."""

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """By the client's channel name."""


def _belongs(connection: Peer, key: str) -> bool:
    """Whether a connection belongs to the presence of a thread's channel now."""
    return split_key(key)[1] in connection.subscriptions


class LocalPresence:
    """See the module.

    Args:
        broker: stores the entries and notifies other nodes.
        tasks: own the background work.
        meter: counts the broker's failures.
    """

    def __init__(self, broker: Broker, tasks: Tasks, meter: Meter) -> None:
        self._broker = broker
        self._tasks = tasks
        self._meter = meter

    async def join(self, connection: Peer, key: str) -> None:
        """Add a connection's entry; removed again if it left the channel meanwhile."""
        identity = connection.identity
        assert identity is not None
        info: dict[str, object] | None = {"name": identity.name} if identity.name else None
        try:
            await self._broker.join(
                key, Member(client=connection.client, user=identity.subject, conn_info=info)
            )
        except NarthexError as fault:
            self._failed(fault)
        if not _belongs(connection, key):
            await self._remove(connection.client, key)

    def renew(self, connection: Peer) -> None:
        """Renew a connection's entries; called at every ping, which settings keep within `PRESENCE_TTL_S`."""
        for subscription in connection.subscriptions.values():
            if subscription.presence:
                self._spawn(self.join(connection, subscription.channel.key))

    def leave(self, connection: Peer, key: str) -> None:
        """Remove a connection's entry in the background."""
        self._spawn(self._left(connection, key))

    async def _left(self, connection: Peer, key: str) -> None:
        await self._remove(connection.client, key)
        if _belongs(connection, key):  # it joined again meanwhile
            await self.join(connection, key)

    async def _remove(self, client: str, key: str) -> None:
        try:
            await self._broker.leave(key, client)
        except NarthexError as fault:
            self._failed(fault)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        try:
            self._tasks.spawn(work)
        except NarthexError as fault:
            self._failed(fault)

    def _failed(self, fault: NarthexError) -> None:
        self._meter.count("presence_failures", reason=fault.code)
