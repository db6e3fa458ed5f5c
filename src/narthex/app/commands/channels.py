"""`history`, `presence`, `presence_stats`, `publish`, `send`, `sub_refresh`, `ping`: the small commands.

Not here: joining and leaving channels (`subscribing`). Rules: history and presence are for subscribers; a user's own
`publish` is refused with 103, because users' messages enter through `run.start`, where they are checked, stored and
counted. A service's `publish` equals `POST /api/v1/publish`, with the same permission, without a request's cost for
each.
"""

from __future__ import annotations

import msgspec

from narthex.app.commands.reading import HISTORY_BYTES, named_position, read, view
from narthex.app.commands.subscribing import RECOVERY_LIMIT
from narthex.app.connection import Connection, Outcome
from narthex.app.publisher_info import client_info, with_info
from narthex.domain.channels import channel_key, parse_channel
from narthex.domain.identity import ADMIN
from narthex.ports.broker import Broker
from narthex.ports.telemetry import Meter
from narthex.protocol import codes
from narthex.protocol.commands import NO_DATA, ChannelRequest, HistoryRequest, PublishRequest
from narthex.protocol.replies import (
    ClientInfo,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    encode_json,
)
from narthex.protocol.session import ReceivedCommand


class ChannelCommands:
    """See the module.

    Args:
        broker: logs and presence.
        meter: counts ignored messages.
    """

    def __init__(self, broker: Broker, meter: Meter) -> None:
        self._broker = broker
        self._meter = meter

    def history(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """A page of a subscribed channel's log."""
        request = command.request
        assert isinstance(request, HistoryRequest)
        subscription = connection.subscriptions.get(request.channel)
        if subscription is None:
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        return self._history(connection, command, request, subscription.channel.key)

    async def _history(
        self, connection: Connection, command: ReceivedCommand, request: HistoryRequest, key: str
    ) -> bytes:
        since = named_position(request.since.offset, request.since.epoch) if request.since else None
        limit = RECOVERY_LIMIT if request.limit < 0 else min(request.limit, RECOVERY_LIMIT)
        page = await read(
            self._broker, key, since=since, limit=limit, max_bytes=HISTORY_BYTES, reverse=request.reverse
        )
        if since is not None and since.epoch and since.epoch != page.top.epoch:
            return connection.codec.error(command.id, codes.UNRECOVERABLE_POSITION)
        result = HistoryResult(
            publications=[view(item) for item in page.publications],
            epoch=page.top.epoch,
            offset=page.top.offset,
        )
        return connection.codec.reply(command.id, "history", result)

    def presence(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """The clients in a subscribed thread, by client id."""
        key = _present_key(connection, command)
        return key if isinstance(key, bytes) else self._presence(connection, command, key[0])

    async def _presence(self, connection: Connection, command: ReceivedCommand, key: str) -> bytes:
        members = await self._broker.members(key)
        shown = {
            client: ClientInfo(user=member.user, client=member.client, conn_info=member.conn_info)
            for client, member in members.items()
        }
        return connection.codec.reply(command.id, "presence", PresenceResult(presence=shown))

    def presence_stats(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """The number of clients and users in a subscribed thread."""
        key = _present_key(connection, command)
        return key if isinstance(key, bytes) else self._presence_stats(connection, command, key[0])

    async def _presence_stats(self, connection: Connection, command: ReceivedCommand, key: str) -> bytes:
        members = await self._broker.members(key)
        users = {member.user for member in members.values()}
        return connection.codec.reply(
            command.id, "presence_stats", PresenceStatsResult(num_clients=len(members), num_users=len(users))
        )

    def publish(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """Append to a channel of one's own tenant, with the permission `admin`; see the module."""
        request = command.request
        assert isinstance(request, PublishRequest)
        identity = connection.identity
        if identity is None or not identity.may(ADMIN):
            return connection.codec.error(command.id, codes.PERMISSION_DENIED)
        if parse_channel(request.channel) is None:
            return connection.codec.error(command.id, codes.UNKNOWN_CHANNEL)
        data = bytes(request.data)
        if data == bytes(NO_DATA):
            return connection.codec.error(command.id, codes.BAD_REQUEST)
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):  # JSON that no program can hold, as 1e999
            return connection.codec.error(command.id, codes.BAD_REQUEST)
        if b"\n" in data or b"\r" in data:  # they end a message of HTTP streaming and of SSE
            data = encode_json(value)
        return self._publish(connection, command, channel_key(identity.tenant, request.channel), data)

    async def _publish(
        self, connection: Connection, command: ReceivedCommand, key: str, data: bytes
    ) -> bytes:
        assert connection.identity is not None
        tags = with_info(client_info(connection.client, connection.identity))
        await self._broker.publish(key, data, tags=tags)
        return connection.codec.reply(command.id, "publish", {})

    def send(self, connection: Connection, command: ReceivedCommand) -> None:  # noqa: ARG002 - every handler has one shape
        """A message without a reply: narthex ignores and counts it."""
        self._meter.count("messages_ignored", reason="send" if command.id == 0 else "send_with_id")


def _present_key(connection: Connection, command: ReceivedCommand) -> bytes | tuple[str]:
    """The channel's key, or the error reply."""
    request = command.request
    assert isinstance(request, ChannelRequest)
    subscription = connection.subscriptions.get(request.channel)
    if subscription is None:
        return connection.codec.error(command.id, codes.PERMISSION_DENIED)
    if not subscription.presence:
        return connection.codec.error(command.id, codes.NOT_AVAILABLE)
    return (subscription.channel.key,)


def sub_refresh(connection: Connection, command: ReceivedCommand) -> bytes:
    """Answer: subscriptions have no tokens of their own here."""
    return connection.codec.error(command.id, codes.NOT_AVAILABLE)


def ping(connection: Connection, command: ReceivedCommand) -> bytes | None:
    """The ping command of old clients."""
    return connection.codec.reply(command.id, "ping", {}) if command.id else None
