"""`connect` and `refresh`: from an admitted handshake (or an in-band token) to a live connection.

`app/handshake` and `app/in_band` decide on admission; here the outcome becomes a reply or a close code. Without an
in-band token, and with the user channel's position at hand, a connect is answered without waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from narthex.app.commands.server_side import ServerSubscriptions, restorable
from narthex.app.commands.subscribing import Subscriptions, release_all
from narthex.app.connection import Connection, Outcome
from narthex.app.connection_context import ConnectionContext
from narthex.app.presence import LocalPresence
from narthex.app.registry import ConnectionRegistry
from narthex.domain.admission import Admit
from narthex.domain.carriers import CONNECT_HEADER, CONNECT_TOKEN, connect_header
from narthex.domain.channels import channel_key, user_channel
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.ports.later import Later, settled
from narthex.ports.telemetry import Meter
from narthex.protocol import codes
from narthex.protocol.commands import ConnectRequest, RefreshRequest
from narthex.protocol.replies import ConnectResult, RefreshResult, SubscribeResult
from narthex.protocol.session import NEVER, ReceivedCommand, SessionLimits


class InBandAuthenticator(Protocol):
    """The part of `app.in_band.InBandAdmission` that commands need."""

    def admit(self, context: ConnectionContext, token: str, header: str = "") -> Later[Admit | Refusal]:
        """Check the tokens of `connect` or `refresh` against the connection's bound user."""

    def refused(self, context: ConnectionContext, refusal: Refusal, carrier: str) -> Refusal:
        """Show operators a refusal that `admit` did not give; returns it."""


@dataclass(kw_only=True, eq=False)
class ConnectCommands:
    """See the module.

    Attributes:
        in_band: admits by a token after the upgrade.
        subscriptions: the user's own channel.
        server_side: restores threads that a reconnecting client names.
        presence: entered after the reply.
        registry: gets each connection's user.
        session_limits: announced in the reply.
        meter: counts recoveries.
        node: this node's id, for the reply.
        version: of the server, for the reply.
        clock: seconds since the epoch.
        now: the loop's clock.
    """

    in_band: InBandAuthenticator
    subscriptions: Subscriptions
    server_side: ServerSubscriptions
    presence: LocalPresence
    registry: ConnectionRegistry[Connection]
    session_limits: SessionLimits
    meter: Meter
    node: str
    version: str
    clock: Callable[[], float]
    now: Callable[[], float]

    def connect(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """See the module."""
        request = command.request
        assert isinstance(request, ConnectRequest)
        if request.name:
            connection.context.library = _library(request.name, request.version)
        header = connect_header(request.headers) if request.headers else None
        if isinstance(header, Refusal):
            connection.refuse(self.in_band.refused(connection.context, header, CONNECT_HEADER))
            return None
        if request.token or header:
            return _then(
                self.in_band.admit(connection.context, request.token, header or ""),
                lambda outcome: self._connect_with(connection, command, request, outcome),
            )
        admit = connection.context.admit
        if admit.inert == "expired":
            connection.session.failed_connect()
            return connection.codec.error(command.id, codes.TOKEN_EXPIRED)
        if admit.identity is None:
            connection.close(codes.INVALID_TOKEN)
            return None
        return self._finish(connection, command, request, admit.identity)

    def _connect_with(
        self,
        connection: Connection,
        command: ReceivedCommand,
        request: ConnectRequest,
        outcome: Admit | Refusal,
    ) -> Outcome:
        if connection.is_closed:  # it has been cleaned up: a channel that it joined now would never be left
            return None
        if isinstance(outcome, Refusal):
            if outcome.code == "token_expired":
                connection.session.failed_connect()
                return connection.codec.error(command.id, codes.TOKEN_EXPIRED)
            connection.refuse(outcome)
            return None
        assert outcome.identity is not None
        return self._finish(connection, command, request, outcome.identity)

    def _finish(
        self, connection: Connection, command: ReceivedCommand, request: ConnectRequest, identity: Identity
    ) -> Outcome:
        name = user_channel(identity.subject)
        wanted = request.subs.get(name) if request.subs else None
        recovers = wanted is not None and wanted.recover
        at_hand = wanted is None or not recovers or self.subscriptions.nothing_missed(identity, name, wanted)
        if at_hand and not restorable(request.subs):
            result = self.subscriptions.join_user_channel_now(connection, identity, name)
            if result is not None:
                if recovers:  # usually nothing was published meanwhile, so a reconnect reads no log
                    result.was_recovering = result.recovered = True
                    self.meter.count("recoveries", result="recovered")
                self._answer(connection, command, identity, {name: result})
                return None
        return self._finish_later(connection, command, request, identity, name)

    async def _finish_later(
        self,
        connection: Connection,
        command: ReceivedCommand,
        request: ConnectRequest,
        identity: Identity,
        name: str,
    ) -> None:
        subs = request.subs or {}
        result = await self.subscriptions.join_user_channel(connection, identity, name, subs.get(name))
        threads = await self.server_side.restored(connection, identity, subs) if restorable(subs) else {}
        if connection.is_closed:
            return
        self._answer(connection, command, identity, {name: result, **threads}, goes_on=True)
        for thread in threads:
            if (
                thread in connection.subscriptions
            ):  # it may have left or lost the channel while others were joined
                await self.presence.join(connection, channel_key(identity.tenant, thread))

    def _answer(
        self,
        connection: Connection,
        command: ReceivedCommand,
        identity: Identity,
        subs: dict[str, SubscribeResult],
        *,
        goes_on: bool = False,
    ) -> None:
        """Mark the connection live and reply; then, in the same tick, send newer publications and run batched commands.
        `goes_on`: the command's coroutine continues after this and must not answer again.
        """
        expires_at, ttl = self._life(identity)
        connection.live(identity, expires_at)
        self.registry.identify(connection, identity.user)
        result = ConnectResult(
            client=connection.client,
            version=self.version,
            expires=ttl > 0,
            ttl=ttl,
            subs=subs,
            ping=int(self.session_limits.ping_every_s),
            pong=True,
            session=connection.socket.session,
            node=self.node,
            time=int(self.clock() * 1000),
        )
        reply = connection.codec.reply(command.id, "connect", result)
        if goes_on:
            connection.reply(command.id, reply)
        else:
            connection.send(reply)
        release_all(connection, {name: found.offset for name, found in subs.items()})
        connection.release_held()

    def _life(self, identity: Identity) -> tuple[float, int]:
        """The token's end on the loop's clock, and the `ttl` to announce: whole seconds, at least 1; 0 for no end."""
        if identity.expires_at is None:
            return NEVER, 0
        left_s = identity.expires_at - self.clock()
        return self.now() + left_s, max(1, int(left_s))

    def refresh(self, connection: Connection, command: ReceivedCommand) -> Outcome:
        """A fresh token of the same subject for a live connection."""
        request = command.request
        assert isinstance(request, RefreshRequest)
        if not request.token:
            return connection.codec.error(command.id, codes.BAD_REQUEST)
        return _then(
            self.in_band.admit(connection.context, request.token),
            lambda outcome: self._refreshed(connection, command, outcome),
        )

    def _refreshed(
        self, connection: Connection, command: ReceivedCommand, outcome: Admit | Refusal
    ) -> bytes | None:
        if isinstance(outcome, Refusal):
            self.meter.count("token_refreshes", surface="connection", result=outcome.code)
            if outcome.code == "token_expired":
                return connection.codec.error(command.id, codes.EXPIRED)
            if outcome.code == "auth_unavailable":  # the old token still holds: let the SDK try again
                return connection.codec.error(command.id, codes.INTERNAL)
            connection.refuse(outcome)
            return None
        identity = outcome.identity
        current = connection.identity
        if identity is None or current is None or not identity.same_user(current):
            self.meter.count("token_refreshes", surface="connection", result="credential_conflict")
            conflict = Refusal(code="credential_conflict", detail="The token names another subject.")
            connection.refuse(self.in_band.refused(connection.context, conflict, CONNECT_TOKEN))
            return None
        expires_at, ttl = self._life(identity)
        connection.refreshed(identity, expires_at)
        self.meter.count("token_refreshes", surface="connection", result="ok")
        self.subscriptions.recheck_operator(connection)
        result = RefreshResult(client=connection.client, version=self.version, expires=ttl > 0, ttl=ttl)
        return connection.codec.reply(command.id, "refresh", result)


@lru_cache(maxsize=256)
def _library(name: str, version: str) -> str:
    """One short line of what a client says about its library; the same object for all that say the same."""
    text = f"{name[:40]} {version[:20]}".strip()
    return "".join(character for character in text if character.isprintable())


def _then(admitted: Later[Admit | Refusal], step: Callable[[Admit | Refusal], Outcome]) -> Outcome:
    """Continue with the outcome of an admission: now if it is at hand, else in a coroutine."""
    return _after(admitted, step) if isinstance(admitted, Awaitable) else step(admitted)


async def _after(
    admitted: Awaitable[Admit | Refusal], step: Callable[[Admit | Refusal], Outcome]
) -> bytes | None:
    return await settled(step(await admitted))
