"""Logs a process's capacity for operators: its limits at the start, and evicted connections.

Rules: a line of the log at most once in `EVICTIONS_LOGGED_S`, however many connections come; the metric has them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from narthex.adapters.telemetry.logging import get_logger
from narthex.domain.descriptors import Capacity
from narthex.ports.telemetry import Meter

EVICTIONS_LOGGED_S: Final = 10.0
EVICTIONS_LISTED: Final = 1_000  # addresses counted between two lines of the log
EVICTION_REMEDY: Final = (
    "The gateway closed idle connections to accept new ones. If the address is your proxy, set "
    "NARTHEX_TRUSTED_PROXIES; if it is not one of your clients, block it in front of the gateway."
)
FEW_DESCRIPTORS: Final = 4_096  # usually the default of a shell or a service manager, not a choice
LOWERED: Final = (
    "The file descriptor limit is too low for NARTHEX_MAX_CONNECTIONS. Raise the limit (ulimit -n, LimitNOFILE=, "
    "--ulimit nofile=), or lower the setting."
)

log = get_logger("narthex.gateway")


def log_capacity(fitted: Capacity, *, asked: bool) -> None:
    """Log the limits once at the start; a warning where they are less than requested, or very low."""
    facts = {
        "descriptors": fitted.descriptors,
        "tcp_connections": fitted.tcp,
        "tcp_per_address": fitted.tcp_per_address,
        "max_connections": fitted.limits.max_connections,
        "per_address": fitted.limits.max_connections_per_address,
    }
    if fitted.lowered and (asked or fitted.descriptors <= FEW_DESCRIPTORS):
        log.warning("capacity", **facts, detail=LOWERED)
    else:
        log.info("capacity", **facts)


class Evictions:
    """Counts evicted connections, and logs the address with most of them.

    Args:
        meter: counts each.
        monotonic: seconds.
    """

    def __init__(self, meter: Meter, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._monotonic = monotonic
        self._since: dict[tuple[str, str], int] = {}
        self._next_at = float("-inf")

    def counted(self, reason: str, address: str, count: int) -> None:
        """See `adapters.edge.connections.Evicted`."""
        self._meter.count("connections_evicted", count, reason=reason)
        key = (reason, address)
        if key in self._since or len(self._since) < EVICTIONS_LISTED:
            self._since[key] = self._since.get(key, 0) + count
        now = self._monotonic()
        if now < self._next_at:
            return
        self._next_at = now + EVICTIONS_LOGGED_S
        (reason, address), most = max(self._since.items(), key=lambda item: item[1])
        log.warning(
            "connections evicted",
            reason=reason,
            address=address,
            count=most,
            addresses=len(self._since),
            remedy=EVICTION_REMEDY,
        )
        self._since.clear()
