"""The limits of docs/design.md#limits as one value with its defaults. The module that a limit concerns enforces it.

Rule: this value is both advertised (`/ws/config`, RPC `limits`) and enforced.
"""

from __future__ import annotations

import math

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds, sizes in bytes, rates per second.

    Attributes:
        handshake_timeout_s: from accept to the 101.
        inband_timeout_s: how long an inert connection has to prove itself.
        max_head_bytes: request line and headers.
        max_headers: header lines of a request.
        max_message_bytes: one message of a client.
        max_fragments: fragments of one message, empty ones too.
        max_inflation_ratio: inflated size over wire size.
        max_inflated_bytes: one inflated message.
        max_pending_bytes: waiting for one client.
        max_lag_s: how long a client may lag before it is closed (3008).
        commands_per_s: commands of one connection, refilled at this rate up to `commands_burst`.
        commands_burst: commands at once.
        control_frames_per_s: pings and pongs of one connection.
        http_requests_per_s: HTTP requests of one user, refilled up to `http_requests_burst`; of one address ten
            times as many.
        http_requests_burst: HTTP requests of one user at once.
        max_connections_per_user: instead of the plan's, when it is set.
        max_connections_per_address: live sockets of one client address (an IPv6 /64 counts as one).
        max_connections_unauthenticated: live sockets that have not proved who they are.
        max_connections: live sockets of this process.
        max_json_depth: nesting of a client's JSON.
        ping_interval_s: between pings.
        pong_timeout_s: from a ping to its pong (3012).
    """

    handshake_timeout_s: float = 10.0
    inband_timeout_s: float = 10.0
    max_head_bytes: int = 16 * 1024
    max_headers: int = 100
    max_message_bytes: int = 64 * 1024
    max_fragments: int = 1024
    max_inflation_ratio: int = 10
    max_inflated_bytes: int = 1024 * 1024
    max_pending_bytes: int = 1024 * 1024
    max_lag_s: float = 10.0
    commands_per_s: float = 60.0
    commands_burst: int = 120
    control_frames_per_s: float = 20.0
    http_requests_per_s: float = 60.0
    http_requests_burst: int = 120
    max_connections_per_user: int | None = None
    max_connections_per_address: int = 1000
    max_connections_unauthenticated: int = 500
    max_connections: int = 20_000
    max_json_depth: int = 32
    ping_interval_s: float = 25.0
    pong_timeout_s: float = 10.0

    def advertised(self) -> dict[str, float | int | None]:
        """All of them by name, for `/ws/config` and RPC `limits`."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    @property
    def silence_s(self) -> int:
        """The longest time without a byte on a live socket: every idle time-out on the way must be longer."""
        return math.ceil(self.ping_interval_s + self.pong_timeout_s)

    @property
    def keep_alive_s(self) -> int:
        """How long an HTTP connection may idle between two requests.

        Longer than nginx's 60 s for its upstreams and than the idle time-out that a load balancer needs for these
        pings: when the gateway closes first, the proxy may have sent a request already, and answers 502.
        """
        return max(75, self.silence_s + 15)
