"""The start of a connection: the outcome of its handshake, and its slot in the counts.

Not here: the connection's later life (app/connection). Rules: only the handshake handler makes it; its holder calls
`release` when the connection is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from narthex.domain.admission import Admit
from narthex.domain.identity import Identity, IdentityClass
from narthex.ports.tracing import NO_SPAN, Span
from narthex.protocol.codec import JSON, Codec

if TYPE_CHECKING:
    from narthex.app.connection_limits import ConnectionSlot


class ConnectionContext:
    """See the module.

    Attributes:
        admit: the handshake's outcome.
        trace_id: 32 hex digits.
        span: of the handshake, or of the client's own trace since `connect`; spans of its commands go below it.
        address: the client's, from `domain.addresses.client_of`.
        scheme: `https` or `http`, as the client sees it.
        origin: the `Origin` header, None when there was none.
        transport: `websocket`, `conformance`, `sse` or `http_stream`.
        codec: the client's format of the protocol.
        started_at: seconds since the epoch.
        identity: the current user: the handshake's, or proved in-band since; None while inert.
        library: name and version of the client's library, as its `connect` says; empty before it.
        key_id: the key of the token that proves it, empty without one: when that key is withdrawn, the connection ends.
    """

    __slots__ = (
        "_slot",
        "address",
        "admit",
        "codec",
        "identity",
        "key_id",
        "library",
        "scheme",
        "span",
        "started_at",
        "trace_id",
        "transport",
    )

    def __init__(
        self,
        admit: Admit,
        slot: ConnectionSlot,
        *,
        trace_id: str,
        address: str,
        scheme: str = "http",
        transport: str = "websocket",
        codec: Codec = JSON,
        started_at: float = 0.0,
    ) -> None:
        self.admit = admit
        self.identity: Identity | None = admit.identity
        self.key_id = admit.key_id
        self.library = ""
        self.trace_id = trace_id
        self.span: Span = NO_SPAN
        self.address = address
        self.scheme = scheme
        self.transport = transport
        self.codec = codec
        self.started_at = started_at
        self._slot = slot

    @property
    def slot(self) -> ConnectionSlot:
        """The connection's slot in the counts."""
        return self._slot

    @property
    def bound(self) -> Identity | None:
        """The user that every further token must name; None while a token of any user is accepted (a guest's too)."""
        identity = self.identity
        if identity is None:
            return self.admit.bound
        return None if identity.identity_class is IdentityClass.GUEST else identity

    def release(self) -> None:
        """Release the slot of a connection that is gone; idempotent."""
        self._slot.release()
