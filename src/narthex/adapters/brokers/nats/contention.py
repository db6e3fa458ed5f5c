"""Follows channels that several nodes write to at once, from the second conflict on.

Not here: I/O (`subscriptions`), the retry after a conflict (`appending`). A node that must read the messages it lost to
needs two round trips before it can retry, and with many writers or a slow machine another node is always faster; a node
that follows the channel needs none. Rules: no channel is followed for long without use, and at most `MAX_FOLLOWED` are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from narthex.adapters.brokers.nats.channel_log import KnownChannelLog

CONFLICTS: Final = 2  # once is chance
FOLLOW_S: Final = 30.0
MAX_FOLLOWED: Final = 5_000  # 1 KB each; other channels are read after each conflict


class Contention:
    """See the module. `follow` begins to pass a channel's messages to the appender (`heard`), `unfollow` ends it."""

    def __init__(self, follow: Callable[[str], None], unfollow: Callable[[str], None]) -> None:
        self._follow = follow
        self._unfollow = unfollow
        self._followed: dict[str, KnownChannelLog] = {}

    def lost(self, log: KnownChannelLog) -> None:
        """Count a conflict: another node was faster in a channel."""
        log.conflicts += 1
        if log.conflicts < CONFLICTS or log.channel in self._followed or len(self._followed) >= MAX_FOLLOWED:
            return
        self._followed[log.channel] = log
        self._follow(log.channel)

    def end_idle(self, now: float) -> None:
        """Unfollow channels without a publish from this node for `FOLLOW_S`; `now` on the loop's clock."""
        for name, log in list(self._followed.items()):
            if log.used_at < now - FOLLOW_S:
                del self._followed[name]
                log.conflicts = 0
                self._unfollow(name)
