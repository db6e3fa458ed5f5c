"""Defines the edge's limits as plain numbers, which `wiring` passes in. Applies none of them.

Rules: every bound of docs/design.md#limits that can be enforced below the app is a field here, with its unit in
its name; a value that cannot work raises `ValueError` at construction, before any load.
"""

from __future__ import annotations

import msgspec

from narthex.domain.limits import Limits
from narthex.ports.edge import CLOSE_S, HIGH_MARK_BYTES, LOW_MARK_BYTES

KIB = 1024
MIB = 1024 * KIB
_LIMITS = Limits()


class MessageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one WebSocket connection (docs/design.md#limits).

    Attributes:
        message_bytes: a message on the wire, all its fragments together; at least 125 (a control frame).
        fragments: frames of one message, empty ones too.
        inflated_ratio: the most times its wire size to which a compressed message may inflate; one that stays within
            `message_bytes` is always allowed, because it costs no more than a plain message of that size.
        inflated_bytes: the most bytes to which it may inflate.
        control_per_s: control frames in a second; 0 for no rate.
        deflate: whether permessage-deflate is negotiated when a client offers it.
        hold_when_full: stop reading while the write buffer is over its high mark. For an echo, whose input
            is its output; the app bounds its own pending bytes and needs the pongs and closes meanwhile.
    """

    message_bytes: int = _LIMITS.max_message_bytes
    fragments: int = _LIMITS.max_fragments
    inflated_ratio: int = _LIMITS.max_inflation_ratio
    inflated_bytes: int = _LIMITS.max_inflated_bytes
    control_per_s: int = int(_LIMITS.control_frames_per_s)
    deflate: bool = False
    hold_when_full: bool = False

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse RFC 6455 itself."""
        if self.message_bytes < 125 or self.fragments < 1 or self.inflated_ratio < 1:
            raise ValueError("message_bytes must be at least 125, fragments and inflated_ratio at least 1")

    def inflated(self, wire_bytes: int) -> int:
        """The most bytes to which a compressed message of `wire_bytes` may inflate."""
        return max(self.message_bytes, min(self.inflated_ratio * wire_bytes, self.inflated_bytes))


CONFORMANCE = MessageLimits(
    message_bytes=16 * MIB,
    fragments=100_000,
    inflated_bytes=16 * MIB,
    control_per_s=0,
    deflate=True,
    hold_when_full=True,
)
"""Limits of `/ws/conformance` (docs/design.md#limits), as large as the Autobahn suite needs."""


class EdgeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the edge.

    Attributes:
        handshake_s: from accept (or a kept-alive connection's next first byte) to the 101.
        head_bytes: request line and headers, the closing empty line included.
        headers: header lines.
        early_bytes: bytes that a client may send behind its head before the decision; then reading pauses.
        body_s: from the end of the head to the end of a request's body.
        keep_alive_s: idle time between two HTTP requests (`Limits.keep_alive_s`).
        pipelined: HTTP requests waiting behind one whose answer is not finished.
        close_s: from our close frame to the peer's.
        linger_s: after a refusal's FIN, for the peer to read it and close.
        linger_bytes: bytes that are read and discarded meanwhile; then reading pauses.
        connections: TCP connections of this process, HTTP included.
        connections_per_address: the same of one client address.
        write_s: time in which the client of an HTTP answer must take some of the waiting bytes.
        send_buffer_bytes: `SO_SNDBUF` as asked for (Linux doubles it); 0 leaves the system's autotuning,
            which can hide 4 MiB of lag per client.
        write_high_bytes: with more bytes than this not yet in the kernel, a socket is not `writable`.
        write_low_bytes: with at most this many it is again.
        app: limits of `/ws`.
        conformance: limits of `/ws/conformance`.
    """

    handshake_s: float = _LIMITS.handshake_timeout_s
    head_bytes: int = _LIMITS.max_head_bytes
    headers: int = _LIMITS.max_headers
    early_bytes: int = 64 * KIB
    body_s: float = 30.0
    keep_alive_s: int = _LIMITS.keep_alive_s
    pipelined: int = 16
    close_s: float = CLOSE_S
    linger_s: float = 2.0
    linger_bytes: int = MIB
    connections: int = 21_000
    connections_per_address: int = 21_000
    write_s: float = 20.0
    send_buffer_bytes: int = 128 * KIB
    write_high_bytes: int = HIGH_MARK_BYTES
    write_low_bytes: int = LOW_MARK_BYTES
    app: MessageLimits = MessageLimits()
    conformance: MessageLimits = CONFORMANCE

    def messages(self, name: str) -> MessageLimits:
        """The message limits that an `Accept` names."""
        return self.conformance if name == "conformance" else self.app
