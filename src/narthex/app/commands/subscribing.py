"""`subscribe`, `unsubscribe` and server-side subscriptions: joining a channel without missing anything.

The order makes it gapless: attach to the hub (it buffers publications from here), read the log, send the
result, then all newer buffered publications. Rules: never a partial recovery: when the log no longer
reaches back to the client's position, `recovered` is false and the client knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from narthex.app.chat import Chat
from narthex.app.commands.reading import RECOVERY_BYTES, named_position, read, view, views_with_deltas
from narthex.app.connection import Connection, Outcome
from narthex.app.hub import Hub
from narthex.app.hub.channel import Channel
from narthex.app.presence import LocalPresence, Subscription
from narthex.domain.channels import OPERATORS, channel_key, operator_key, parse_channel
from narthex.domain.identity import Identity
from narthex.ports.broker import Broker, Page, Position
from narthex.ports.telemetry import Meter
from narthex.protocol import codes
from narthex.protocol.commands import ChannelRequest, SubscribeRequest
from narthex.protocol.replies import PublicationView, SubscribeResult
from narthex.protocol.session import ReceivedCommand

_ENDED: Final = msgspec.structs.replace(codes.NOT_AVAILABLE, message="unsubscribed meanwhile", temporary=True)
_EMPTY: Final[list[PublicationView]] = []

CHANNEL_LIMIT: Final = 128  # channels of one connection
RECOVERY_LIMIT: Final = 5_000  # publications of one recovery or history page
DELTA_FORMATS: Final = ("", "fossil")
UNSUBSCRIBED_BY_SERVER: Final = 2000  # Centrifuge's unsubscribe code: final, no resubscribe


class Subscriptions:
    """Joins and leaves channels; see the module.

    Args:
        hub: fans out.
        broker: the log.
        chat: checks who may read a thread.
        presence: entered after a join and left with the channel.
        meter: counts recoveries.
        fresh: whether positions that the broker has at hand are trustworthy now.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        broker: Broker,
        chat: Chat,
        presence: LocalPresence,
        meter: Meter,
        fresh: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._chat = chat
        self._presence = presence
        self._meter = meter
        self._fresh = fresh
        self._doubts = 0
        self.channel_limit = CHANNEL_LIMIT
        self.recovery_limit = RECOVERY_LIMIT

    # -- commands ------------------------------------------------------------------------------------------

    def subscribe(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """Check the right to read, then join."""
        request = command.request
        assert isinstance(request, SubscribeRequest)
        if request.delta not in DELTA_FORMATS:
            connection.close(codes.UNKNOWN_DELTA)
            return None
        parsed = parse_channel(request.channel)
        operators = request.channel.startswith(OPERATORS)
        if operators and (connection.identity is None or not connection.identity.is_operator):
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        if parsed is None and not operators:
            return connection.codec.error(command.id, codes.UNKNOWN_CHANNEL)
        if request.channel in connection.subscriptions:
            return connection.codec.error(command.id, codes.ALREADY_SUBSCRIBED)
        if len(connection.subscriptions) >= self.channel_limit:
            return connection.codec.error(command.id, codes.LIMIT_EXCEEDED)
        if parsed is None:
            return self._subscribe_operator(connection, command, request)
        identity = connection.identity
        assert identity is not None
        kind, ident = parsed
        if kind == "user":  # the server subscribes every connection to its own; another user's is forbidden
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        return self._subscribe_thread(connection, command, request, identity, ident)

    async def _subscribe_operator(
        self, connection: Connection, command: ReceivedCommand, request: SubscribeRequest
    ) -> bytes | None:
        async def still_operator() -> bool:
            return connection.identity is not None and connection.identity.is_operator

        key = operator_key(request.channel)
        fresh = msgspec.structs.replace(request, recover=False)  # the channel has no history
        result = await self.join(connection, key, request.channel, fresh, still_operator, presence=False)
        return self._joined(connection, command, request.channel, result)

    def recheck_operator(self, connection: Connection) -> None:
        """A token was refreshed: without the permission in the new one, operators' channels are taken away."""
        if connection.identity is None or not connection.identity.is_operator:
            for name in [name for name in connection.subscriptions if name.startswith(OPERATORS)]:
                self.remove(connection, name)

    async def _subscribe_thread(
        self,
        connection: Connection,
        command: ReceivedCommand,
        request: SubscribeRequest,
        identity: Identity,
        thread_id: str,
    ) -> bytes | None:
        may_read = self.membership(identity, thread_id)
        if await self._chat.role(identity, thread_id) is None:
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        if connection.is_closed or request.channel in connection.subscriptions:
            return connection.codec.error(command.id, codes.ALREADY_SUBSCRIBED)
        key = channel_key(identity.tenant, request.channel)
        result = await self.join(connection, key, request.channel, request, may_read)
        failed = self._joined(connection, command, request.channel, result)
        if failed is None and not connection.is_closed:
            await self._presence.join(connection, key)
        return failed

    def _joined(
        self, connection: Connection, command: ReceivedCommand, name: str, result: SubscribeResult | None
    ) -> bytes | None:
        """Reply to a `subscribe`; returns the error where the subscription ended meanwhile."""
        if result is None:
            return connection.codec.error(command.id, _ENDED)
        # The reply must leave before anything newer, so it is sent here, in the same tick as `ready`.
        subscription = connection.subscriptions[name]
        connection.reply(command.id, connection.codec.reply(command.id, "subscribe", result))
        if not release(connection, subscription.channel, result.offset):
            connection.close(codes.INSUFFICIENT_STATE)
        return None

    def unsubscribe(self, connection: Connection, command: ReceivedCommand) -> bytes:
        """Leave a channel; leaving one that was not joined is fine."""
        request = command.request
        assert isinstance(request, ChannelRequest)
        subscription = connection.subscriptions.get(request.channel)
        if subscription is not None and subscription.server_side:
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        connection.leave(request.channel)
        return connection.codec.reply(command.id, "unsubscribe", {})

    # -- rights --------------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """A user was, or may have been, removed from a thread: joins under way check the membership again."""
        self._doubts += 1

    def membership(self, identity: Identity, thread_id: str) -> Callable[[], Awaitable[bool]]:
        """Make this before the first check of the membership; call the result after the channel was joined.

        Returns:
            A function: whether the membership still holds. It asks anew only after a `doubt` in between, when this
            connection was not in the channel yet and so was not unsubscribed.
        """
        doubts = self._doubts

        async def still_theirs() -> bool:
            return self._doubts == doubts or await self._chat.role(identity, thread_id) is not None

        return still_theirs

    def remove(self, connection: Connection, name: str) -> None:
        """Take a channel away from a client (its user is no member any more) and notify it, if it knows the channel:
        a `connect` that is not answered yet will not name it.
        """
        left = connection.leave(name)
        if left and connection.identity is not None:
            reason = "the server ended the subscription"
            connection.send(
                connection.codec.push(name, "unsubscribe", {"code": UNSUBSCRIBED_BY_SERVER, "reason": reason})
            )

    # -- joining -------------------------------------------------------------------------------------------

    async def join(
        self,
        connection: Connection,
        key: str,
        name: str,
        request: SubscribeRequest | None,
        still_theirs: Callable[[], Awaitable[bool]] | None = None,
        *,
        server_side: bool = False,
        presence: bool = True,
    ) -> SubscribeResult | None:
        """Attach and read. The caller sends the result and calls `release` with its offset, without awaiting.

        Args:
            connection: that joins.
            key: the channel's.
            name: the client's name of it.
            request: whether and from where to recover.
            still_theirs: called when the channel is joined; None: the user's own channel, which needs no right
                and shows no presence.
            server_side: the client did not ask for it, and cannot leave it.
            presence: whether the other subscribers see it.

        Returns:
            None: the connection, the subscription or the right to it ended meanwhile.
        """
        hub = self._hub
        own = still_theirs is None
        deltas = request is not None and request.delta != "" and not (own or server_side)
        channel = hub.attach(key, connection, deltas=deltas)
        subscription = Subscription(channel, server_side=own or server_side, presence=presence and not own)
        connection.subscriptions[name] = subscription
        try:
            page, result = await self._read(key, request)
            result.delta = deltas
            if deltas and result.publications:
                text = not connection.codec.binary
                result.publications = await views_with_deltas(page.publications, text=text)
            theirs = still_theirs is None or await still_theirs()
        except BaseException:
            if connection.subscriptions.get(name) is subscription:
                connection.forget(name)
            raise
        if connection.subscriptions.get(name) is not subscription:
            return None
        if connection.is_closed or not theirs:
            connection.forget(name)
            return None
        if not hub.positioned(channel, page.top):
            connection.position_lost(channel)
            return None
        if deltas and result.publications:
            channel.recovered(connection, page.publications[-1].data)
        return result

    async def _read(self, key: str, request: SubscribeRequest | None) -> tuple[Page, SubscribeResult]:
        """The log's end, and the publications after the client's position if it wants them and the log has them all."""
        if request is None or not request.recover:
            page = await self._broker.history(key, limit=0)
            return page, SubscribeResult(
                recoverable=True, positioned=True, epoch=page.top.epoch, offset=page.top.offset
            )
        since = named_position(request.offset, request.epoch)
        limit = self.recovery_limit + 1
        page = await read(self._broker, key, since=since, limit=limit, max_bytes=RECOVERY_BYTES)
        whole = page.complete and len(page.publications) <= self.recovery_limit
        reaches = whole and (
            page.publications[-1].offset == page.top.offset
            if page.publications
            else since.offset == page.top.offset
        )
        self._meter.count("recoveries", result="recovered" if reaches else "lost")
        return page, SubscribeResult(
            recoverable=True,
            positioned=True,
            epoch=page.top.epoch,
            offset=page.top.offset,
            was_recovering=True,
            recovered=reaches,
            publications=[view(item) for item in page.publications] if reaches else _EMPTY,
        )

    def nothing_missed(self, identity: Identity, name: str, request: SubscribeRequest) -> bool:
        """Whether the client's position is the log's end, where that is known without waiting."""
        if not self._broker.positions_exact:  # another node may have appended more
            return False
        position = self._broker.known_position(channel_key(identity.tenant, name))
        return position == Position(request.offset, request.epoch)

    def join_user_channel_now(
        self, connection: Connection, identity: Identity, name: str
    ) -> SubscribeResult | None:
        """Join the user channel without waiting, if the broker knows its position; None: use `join_user_channel`.

        A position that turns out to be behind the log is repaired as any other; the client gets the missing part.
        """
        key = channel_key(identity.tenant, name)
        position = self._broker.known_position(key) if self._fresh() else None
        if position is None:
            return None
        channel = self._hub.attach(key, connection)
        if channel.last is not None and Position(channel.last, channel.epoch) != position:
            self._hub.detach(channel, connection)  # publications are on their way: take the careful path
            return None
        connection.subscriptions[name] = Subscription(channel, True, False)
        self._hub.positioned(channel, position)
        channel.ready(connection, position.offset)
        return SubscribeResult(
            recoverable=True, positioned=True, epoch=position.epoch, offset=position.offset
        )

    async def join_user_channel(
        self, connection: Connection, identity: Identity, name: str, request: SubscribeRequest | None
    ) -> SubscribeResult:
        """Join the user channel with recovery. Publications stay buffered until the connect reply is sent: the
        caller replies in the same tick that this returns, then calls `release_all`.
        """
        key = channel_key(identity.tenant, name)
        result = await self.join(connection, key, name, request)
        return result if result is not None else SubscribeResult()


def release(connection: Connection, channel: Channel, offset: int) -> bool:
    """Let buffered and live publications after `offset` through. False: the buffer overflowed."""
    return connection in channel.joiners and channel.ready(connection, offset)


def release_all(connection: Connection, subs: dict[str, int]) -> None:
    """After the connect reply was written: let each server-side channel's newer publications through."""
    for name, offset in subs.items():
        subscription = connection.subscriptions.get(name)
        waiting = subscription is not None and connection in subscription.channel.joiners
        if subscription is not None and waiting and not release(connection, subscription.channel, offset):
            connection.close(codes.INSUFFICIENT_STATE)
