"""Admitted sockets of the guard process: the receiver of a relay, and the parts of a request that reach its upstream.

Not here: relaying (`adapters/edge/upstream`), composing (`process`). Rules: a socket is registered as soon as it is
admitted, before its upstream is asked, so that a revocation meanwhile ends it; its slot is released when it has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from narthex.adapters.edge.upstream.heads import HandedOn
from narthex.adapters.edge.upstream.relay import RelayedSocket
from narthex.adapters.tokens.signing import KeyRing
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_record import UNKNOWN, Carried
from narthex.domain.identity import Identity
from narthex.domain.ids import header_value
from narthex.errors import Bug
from narthex.guard.cleaning import (
    RawHeaders,
    continued_trace,
    own_subprotocols,
    without_credentials,
    without_ticket,
)
from narthex.guard.life import SocketLives
from narthex.ports.edge import RequestHead
from narthex.protocol.codes import Disconnect

ASSERTION_TTL_S: Final = 60.0
ASSERTION: Final = "Narthex-Assertion"


class RelayedConnection:
    """The receiver of one admitted socket."""

    __slots__ = ("_socket", "context", "life")

    def __init__(self, lives: SocketLives, context: ConnectionContext) -> None:
        self.context = context
        self._socket: RelayedSocket | None = None
        self.life = lives.begin(context, self._close)

    def opened(self, socket: RelayedSocket) -> None:
        """See `RelayReceiver`."""
        self._socket = socket
        if self.life.closed_with is not None:  # while the upstream was asked
            self._close(self.life.closed_with)

    def closed(self, code: int, reason: str) -> None:
        """See `RelayReceiver`."""
        socket, self._socket = self._socket, None
        self.life.ended(code, lambda: UNKNOWN if socket is None else Carried.of(socket.progress()), reason)

    def _close(self, disconnect: Disconnect) -> None:
        if self._socket is not None:
            self._socket.close(disconnect.code, disconnect.reason)


class Assertions:
    """Makes the headers by which the server behind knows the user.

    Args:
        ring: signs; its issuer is the guard, its audience the server behind.
        now: seconds since the epoch.
    """

    def __init__(self, ring: KeyRing, now: Callable[[], float]) -> None:
        self._ring = ring
        self._now = now

    def headers(self, identity: Identity, trace_id: str) -> list[tuple[str, str]]:
        """The identity as plain headers (ids percent-encoded), and signed. Raises DependencyError without a key."""
        # Of its own id: the token's belongs to the token, and a session is none of the server's business.
        asserted = msgspec.structs.replace(identity, token_id="", session="")
        found = [*plain_headers(identity, trace_id)]
        found.append((ASSERTION, self._ring.mint(asserted, ttl_s=ASSERTION_TTL_S, now=self._now())))
        return found


def plain_headers(identity: Identity, trace_id: str) -> list[tuple[str, str]]:
    """The identity as headers without a signature."""
    found = [
        ("Narthex-Subject", header_value(identity.subject)),
        ("Narthex-Tenant", header_value(identity.tenant)),
        ("Narthex-Plan", header_value(identity.plan)),
        ("Narthex-Trace-Id", trace_id),
    ]
    if identity.test_run:
        found.append(("Narthex-Test-Run", header_value(identity.test_run)))
    return found


def handed_on(head: RequestHead, context: ConnectionContext, assertions: Assertions) -> HandedOn:
    """The parts of an admitted request that the server behind may see."""
    if context.identity is None:
        raise Bug("no_identity", "A connection without an identity was about to be relayed.")
    offered = [
        name
        for value in head.all("sec-websocket-protocol")
        for part in value.split(",")
        if (name := part.strip(" \t"))
    ]
    protocols = own_subprotocols(offered)
    raw: RawHeaders = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
    return HandedOn(
        [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in continued_trace(without_credentials(raw, protocols), context.span)
        ],
        without_ticket(head.query.encode("latin-1")).decode("latin-1"),
        context.address,
        context.scheme,
        protocols,
        assertions.headers(context.identity, context.trace_id),
    )
