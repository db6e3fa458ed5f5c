"""Server-side subscriptions to threads: granted by an operator to live connections, restored when they come back.

Not here: the user channel, which every connection has (`subscribing`). Rules: a user is only subscribed to threads
of which they are a member, also at an operator's request; both the grant and the restoration check that. The gateway
remembers nothing: an SDK names its server-side subscriptions in `connect`, and those that are still allowed are
restored with the missed publications.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final

from narthex.app.chat import Chat
from narthex.app.commands.subscribing import Subscriptions, release
from narthex.app.connection import Connection
from narthex.app.presence import LocalPresence
from narthex.domain.channels import channel_key, parse_channel
from narthex.domain.identity import Identity
from narthex.protocol import codes
from narthex.protocol.commands import SubscribeRequest
from narthex.protocol.replies import SubscribeResult

RESTORED_LIMIT: Final = 32  # threads that a `connect` may name: each costs two reads before it is answered


def restorable(wanted: Mapping[str, SubscribeRequest] | None) -> bool:
    """Whether a `connect` names server-side subscriptions to threads."""
    return wanted is not None and any(name.startswith("thread:") for name in wanted)


class ServerSubscriptions:
    """Grants and restores server-side subscriptions; see the module.

    Args:
        subscriptions: joins channels.
        chat: checks who may read a thread.
        presence: entered after a join.
    """

    def __init__(self, subscriptions: Subscriptions, chat: Chat, presence: LocalPresence) -> None:
        self._subscriptions = subscriptions
        self._chat = chat
        self._presence = presence

    async def grant(self, connection: Connection, name: str, request: SubscribeRequest) -> None:
        """Subscribe a live connection and notify it; nothing if it has the channel already or may not have it.

        Args:
            connection: to subscribe.
            name: the client's name of the channel.
            request: `recover`, `offset` and `epoch`: the publications to send first.
        """
        identity = connection.identity
        full = len(connection.subscriptions) >= self._subscriptions.channel_limit
        if identity is None or full or name in connection.subscriptions:
            return
        result = await self._entered(connection, identity, name, request)
        if result is None:
            return
        subscription = connection.subscriptions[name]
        missed, result.publications = result.publications or [], None
        push = connection.codec.push
        connection.send(
            connection.codec.join(
                [push(name, "subscribe", result), *(push(name, "pub", item) for item in missed)]
            )
        )
        if not release(connection, subscription.channel, result.offset):
            connection.close(codes.INSUFFICIENT_STATE)
            return
        await self._presence.join(connection, subscription.channel.key)

    async def restored(
        self, connection: Connection, identity: Identity, wanted: Mapping[str, SubscribeRequest]
    ) -> dict[str, SubscribeResult]:
        """Join the threads that a `connect` names and that its user may still read.

        The caller sends the result as `connect.subs` and calls `release_all`, without awaiting in between.
        """
        found: dict[str, SubscribeResult] = {}
        try:
            for name, request in islice(wanted.items(), RESTORED_LIMIT):
                result = await self._entered(connection, identity, name, request)
                if result is not None:
                    found[name] = result
        except BaseException:
            for name in found:
                connection.forget(name)
            raise
        # A removal during the look-ups of the next threads has taken its channel away again.
        return {name: result for name, result in found.items() if name in connection.subscriptions}

    async def _entered(
        self, connection: Connection, identity: Identity, name: str, request: SubscribeRequest
    ) -> SubscribeResult | None:
        parsed = parse_channel(name)
        if parsed is None or parsed[0] != "thread":
            return None
        still_theirs = self._subscriptions.membership(identity, parsed[1])
        if await self._chat.role(identity, parsed[1]) is None:
            return None
        if connection.is_closed or name in connection.subscriptions:
            return None
        return await self._subscriptions.join(
            connection, channel_key(identity.tenant, name), name, request, still_theirs, server_side=True
        )
