"""Counts a node's fan-out and client traffic in plain integers, which the meter reads when it is scraped.

Not here: connections and handshakes (`connection_limits`, `handshake_record`). Rule: a delivery costs no call of its
own; the hub counts a part of a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from narthex.ports.telemetry import Meter, Reading

SLOW_LIMITS = ("bytes", "lag", "replies")


class Lagging(Protocol):
    """A client that does not read as fast as the server writes."""

    def backlog(self) -> tuple[int, float]:
        """Bytes kept for it, and the loop time since which it lags (infinity: nothing is kept)."""


class Traffic:
    """See the module.

    Args:
        meter: reads the counts.
        now: the loop's clock.

    Attributes:
        lagging: the clients that lag now.
        lag_ended: takes the lag of a client that has caught up or was closed, in seconds.
    """

    __slots__ = (
        "_now",
        "deferred",
        "delivered_bytes",
        "deliveries",
        "lag_ended",
        "lagging",
        "merged",
        "publications",
        "received",
        "received_bytes",
        "reply_bytes",
        "slow_closes",
    )

    def __init__(self, meter: Meter, now: Callable[[], float]) -> None:
        self._now = now
        self.publications = 0
        self.deliveries = 0
        self.delivered_bytes = 0
        self.deferred = 0
        self.merged = 0
        self.received = 0
        self.received_bytes = 0
        self.reply_bytes = 0
        self.slow_closes = dict.fromkeys(SLOW_LIMITS, 0)
        self.lagging: set[Lagging] = set()
        self.lag_ended = meter.observer("client_lag_seconds")
        meter.read_from(self._readings)

    def _readings(self) -> Iterable[Reading]:
        yield "publications", (), self.publications
        yield "deliveries", (), self.deliveries
        yield "delivered_bytes", (), self.delivered_bytes
        yield "deliveries_deferred", (), self.deferred
        yield "deltas_merged", (), self.merged
        yield "messages_received", (), self.received
        yield "received_bytes", (), self.received_bytes
        yield "reply_bytes", (), self.reply_bytes
        for limit, count in self.slow_closes.items():
            yield "slow_closes", (limit,), count
        backlogs = [client.backlog() for client in self.lagging]
        yield "clients_lagging", (), len(backlogs)
        yield "client_backlog_bytes", (), sum(size for size, _ in backlogs)
        since = min((since for _, since in backlogs), default=float("inf"))
        yield "client_lag_max_seconds", (), max(0.0, self._now() - since)
