"""`history`, `presence`, `presence_stats`, `publish`, `send`, `sub_refresh`, `ping`: the small commands.

Rules: history and presence are for those who are subscribed; a person's own `publish` is refused with 103,
because people's messages enter through `run.start`, where they are checked, stored and counted. A service's is
what `POST /api/v1/publish` is, under the same permission, without a request's cost for each.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING

import msgspec

from narthex.app.commands.reading import HISTORY_BYTES, read
from narthex.app.commands.subscribing import view
from narthex.domain.channels import channel_key, parse_channel
from narthex.domain.identity import ADMIN
from narthex.ports.broker import Position
from narthex.protocol import codes
from narthex.protocol.commands import NO_DATA, ChannelRequest, HistoryRequest, PublishRequest
from narthex.protocol.replies import (
    ClientInfo,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    encode_error,
    encode_json,
    encode_reply,
)
from narthex.protocol.session import Asked

if TYPE_CHECKING:
    from narthex.app.connection import Connection


def history(connection: Connection, asked: Asked) -> bytes | Coroutine[object, object, bytes | None]:
    """A page of a subscribed channel's log."""
    request = asked.request
    assert isinstance(request, HistoryRequest)
    subscription = connection.subscriptions.get(request.channel)
    if subscription is None:
        return encode_error(asked.id, codes.PERMISSION_DENIED)
    return _history(connection, asked, request, subscription.channel.key)


async def _history(connection: Connection, asked: Asked, request: HistoryRequest, key: str) -> bytes:
    services = connection.services
    since = Position(request.since.offset, request.since.epoch) if request.since else None
    limit = services.recovery_limit if request.limit < 0 else min(request.limit, services.recovery_limit)
    page = await read(
        services.broker, key, since=since, limit=limit, max_bytes=HISTORY_BYTES, reverse=request.reverse
    )
    if since is not None and since.epoch and since.epoch != page.top.epoch:
        return encode_error(asked.id, codes.UNRECOVERABLE_POSITION)
    result = HistoryResult(
        publications=[view(item.data, item.offset, item.tags) for item in page.publications],
        epoch=page.top.epoch,
        offset=page.top.offset,
    )
    return encode_reply(asked.id, "history", result)


def presence(connection: Connection, asked: Asked) -> bytes | Coroutine[object, object, bytes | None]:
    """Who is in a subscribed thread, by client id."""
    key = _present_key(connection, asked)
    return key if isinstance(key, bytes) else _presence(connection, asked, key[0])


async def _presence(connection: Connection, asked: Asked, key: str) -> bytes:
    members = await connection.services.broker.members(key)
    shown = {
        client: ClientInfo(user=member.user, client=member.client, conn_info=member.conn_info)
        for client, member in members.items()
    }
    return encode_reply(asked.id, "presence", PresenceResult(presence=shown))


def presence_stats(connection: Connection, asked: Asked) -> bytes | Coroutine[object, object, bytes | None]:
    """How many are in a subscribed thread."""
    key = _present_key(connection, asked)
    return key if isinstance(key, bytes) else _presence_stats(connection, asked, key[0])


async def _presence_stats(connection: Connection, asked: Asked, key: str) -> bytes:
    members = await connection.services.broker.members(key)
    users = {member.user for member in members.values()}
    return encode_reply(
        asked.id, "presence_stats", PresenceStatsResult(num_clients=len(members), num_users=len(users))
    )


def _present_key(connection: Connection, asked: Asked) -> bytes | tuple[str]:
    """The channel's key, or the error reply."""
    request = asked.request
    assert isinstance(request, ChannelRequest)
    subscription = connection.subscriptions.get(request.channel)
    if subscription is None:
        return encode_error(asked.id, codes.PERMISSION_DENIED)
    if not subscription.presence:
        return encode_error(asked.id, codes.NOT_AVAILABLE)
    return (subscription.channel.key,)


def publish(connection: Connection, asked: Asked) -> bytes | Coroutine[object, object, bytes | None]:
    """Append to a channel of one's own tenant, with the permission `admin`; see the module."""
    request = asked.request
    assert isinstance(request, PublishRequest)
    identity = connection.identity
    if identity is None or not identity.may(ADMIN):
        return encode_error(asked.id, codes.PERMISSION_DENIED)
    if parse_channel(request.channel) is None:
        return encode_error(asked.id, codes.UNKNOWN_CHANNEL)
    if bytes(request.data) == bytes(NO_DATA):
        return encode_error(asked.id, codes.BAD_REQUEST)
    try:
        # As over HTTP: whatever stands between the tokens of the JSON that came (an SSE client ends a line at a CR).
        data = encode_json(msgspec.json.decode(request.data))
    except (msgspec.DecodeError, RecursionError):  # JSON that no program can hold, as 1e999
        return encode_error(asked.id, codes.BAD_REQUEST)
    return _publish(connection, asked, channel_key(identity.tenant, request.channel), data)


async def _publish(connection: Connection, asked: Asked, key: str, data: bytes) -> bytes:
    await connection.services.broker.publish(key, data)
    return encode_reply(asked.id, "publish", {})


def sub_refresh(connection: Connection, asked: Asked) -> bytes:  # noqa: ARG001 - every handler has one shape
    """Subscriptions carry no tokens of their own here."""
    return encode_error(asked.id, codes.NOT_AVAILABLE)


def send(connection: Connection, asked: Asked) -> None:
    """A message without a reply: nothing in narthex listens to it; it is counted."""
    connection.services.meter.count("messages_ignored", reason="send" if asked.id == 0 else "send_with_id")


def ping(connection: Connection, asked: Asked) -> bytes | None:  # noqa: ARG001 - every handler has one shape
    """Old clients' ping command."""
    return encode_reply(asked.id, "ping", {}) if asked.id else None
