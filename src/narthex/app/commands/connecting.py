"""`connect` and `refresh`: from an admitted handshake (or an in-band token) to a live connection.

The judgement is `app/handshake`'s; here its outcome becomes a reply or a close code. Without an in-band
token, and with the user channel's position at hand, a connect is answered without waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING

from narthex.app.commands.server_side import restorable, restored
from narthex.app.commands.subscribing import (
    join_server_side,
    join_server_side_now,
    nothing_missed,
    release_server_side,
)
from narthex.domain.admission import Admit
from narthex.domain.channels import channel_key, user_channel
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.protocol import codes
from narthex.protocol.commands import ConnectRequest, RefreshRequest
from narthex.protocol.replies import ConnectResult, RefreshResult, SubscribeResult, encode_error, encode_reply
from narthex.protocol.session import NEVER, ReceivedCommand

if TYPE_CHECKING:
    from narthex.app.connection import Connection


def connect(
    connection: Connection, command: ReceivedCommand
) -> bytes | Coroutine[object, object, bytes | None] | None:
    """See the module."""
    request = command.request
    assert isinstance(request, ConnectRequest)
    if request.token:
        outcome = connection.services.in_band.admit_in_band(connection.context, request.token)
        if isinstance(outcome, Awaitable):
            return _connect_awaited(connection, command, request, outcome)
        return _connect_with(connection, command, request, outcome)
    admit = connection.context.admit
    if admit.inert == "expired":
        connection.session.failed_connect()
        return encode_error(command.id, codes.TOKEN_EXPIRED)
    if admit.identity is None:
        connection.close(codes.INVALID_TOKEN)
        return None
    return _finish(connection, command, request, admit.identity)


async def _connect_awaited(
    connection: Connection,
    command: ReceivedCommand,
    request: ConnectRequest,
    outcome: Awaitable[Admit | Refusal],
) -> bytes | None:
    judged = await outcome
    if connection.is_closed:  # it has been cleaned up: whatever it joined now would never be left
        return None
    reply = _connect_with(connection, command, request, judged)
    return await reply if isinstance(reply, Coroutine) else reply


def _connect_with(
    connection: Connection, command: ReceivedCommand, request: ConnectRequest, outcome: Admit | Refusal
) -> bytes | Coroutine[object, object, bytes | None] | None:
    if isinstance(outcome, Refusal):
        if outcome.code == "token_expired":
            connection.session.failed_connect()
            return encode_error(command.id, codes.TOKEN_EXPIRED)
        connection.refuse(outcome)
        return None
    assert outcome.identity is not None
    return _finish(connection, command, request, outcome.identity)


def _finish(
    connection: Connection, command: ReceivedCommand, request: ConnectRequest, identity: Identity
) -> Coroutine[object, object, bytes | None] | None:
    name = user_channel(identity.subject)
    wanted = request.subs.get(name) if request.subs else None
    recovers = wanted is not None and wanted.recover
    at_hand = wanted is None or not recovers or nothing_missed(connection, identity, name, wanted)
    if at_hand and not restorable(request.subs):
        result = join_server_side_now(connection, identity, name)
        if result is not None:
            if (
                recovers
            ):  # the usual case of a reconnect: nothing happened meanwhile, and no log has to be read
                result.was_recovering = result.recovered = True
                connection.services.meter.count("recoveries", result="recovered")
            _answer(connection, command, identity, {name: result})
            return None
    return _finish_later(connection, command, request, identity, name)


async def _finish_later(
    connection: Connection, command: ReceivedCommand, request: ConnectRequest, identity: Identity, name: str
) -> None:
    wanted = request.subs.get(name) if request.subs else None
    result = await join_server_side(connection, identity, name, wanted)
    threads = await restored(connection, identity, request.subs or {}) if restorable(request.subs) else {}
    if connection.is_closed:
        return
    _answer(connection, command, identity, {name: result, **threads}, goes_on=True)
    for thread in threads:
        if thread in connection.subscriptions:  # still: it may have left, or lost it, while others were told
            await connection.services.join_presence(connection, channel_key(identity.tenant, thread))


def _answer(
    connection: Connection,
    command: ReceivedCommand,
    identity: Identity,
    subs: dict[str, SubscribeResult],
    *,
    goes_on: bool = False,
) -> None:
    """Go live and say so; then, in the same tick, what is newer than the reply and what was batched behind it.
    `goes_on`: the command's coroutine does more after this, which must not answer again.
    """
    services = connection.services
    expires_at, ttl = life(connection, identity)
    connection.live(identity, expires_at)
    services.registry.identify(connection, identity.user)
    limits = services.session_limits
    result = ConnectResult(
        client=connection.client,
        version=services.version,
        expires=ttl > 0,
        ttl=ttl,
        subs=subs,
        ping=int(limits.ping_every_s),
        pong=True,
        session=connection.socket.session,
        node=services.node,
        time=int(services.now() * 1000),
    )
    reply = encode_reply(command.id, "connect", result)
    if goes_on:
        connection.reply(command.id, reply)
    else:
        connection.send(reply)
    release_server_side(connection, {name: found.offset for name, found in subs.items()})
    connection.release_held()


def life(connection: Connection, identity: Identity) -> tuple[float, int]:
    """When its token ends on the loop's clock, and the `ttl` to tell: whole seconds, at least 1; 0 if never."""
    if identity.expires_at is None:
        return NEVER, 0
    left_s = identity.expires_at - connection.services.now()
    return connection.services.timers.now() + left_s, max(1, int(left_s))


def refresh(
    connection: Connection, command: ReceivedCommand
) -> bytes | Coroutine[object, object, bytes | None] | None:
    """A fresh token of the same subject for a live connection."""
    request = command.request
    assert isinstance(request, RefreshRequest)
    if not request.token:
        return encode_error(command.id, codes.BAD_REQUEST)
    outcome = connection.services.in_band.admit_in_band(connection.context, request.token)
    if isinstance(outcome, Awaitable):
        return _refresh_awaited(connection, command, outcome)
    return _refreshed(connection, command, outcome)


async def _refresh_awaited(
    connection: Connection, command: ReceivedCommand, outcome: Awaitable[Admit | Refusal]
) -> bytes | None:
    return _refreshed(connection, command, await outcome)


def _refreshed(connection: Connection, command: ReceivedCommand, outcome: Admit | Refusal) -> bytes | None:
    if isinstance(outcome, Refusal):
        if outcome.code == "token_expired":
            return encode_error(command.id, codes.EXPIRED)
        if outcome.code == "auth_unavailable":  # the old token still holds: let the SDK try again
            return encode_error(command.id, codes.INTERNAL)
        connection.refuse(outcome)
        return None
    identity = outcome.identity
    current = connection.identity
    if identity is None or current is None or not identity.same_user(current):
        connection.refuse(Refusal(code="credential_conflict", detail="The token names another subject."))
        return None
    expires_at, ttl = life(connection, identity)
    connection.refreshed(identity, expires_at)
    services = connection.services
    result = RefreshResult(client=connection.client, version=services.version, expires=ttl > 0, ttl=ttl)
    return encode_reply(command.id, "refresh", result)
