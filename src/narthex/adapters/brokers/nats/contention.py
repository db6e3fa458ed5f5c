"""Channels that several nodes write to at once: whoever loses twice is told of what the others append. No I/O here.

A node that must ask for what it lost to needs two round trips before it can try again, and with many writers or a
slow machine somebody is always faster; told of it, it needs none. Rules: nothing is followed for long without use,
and no more than `MAX_FOLLOWED` channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from narthex.adapters.brokers.nats.channel_log import KnownChannelLog

CONFLICTS: Final = 2  # once is chance
FOLLOW_S: Final = 30.0
MAX_FOLLOWED: Final = 5_000  # 1 KB each; the others go on asking


class Contention:
    """See the module. `follow` begins to tell the appender of a channel (`heard`), `unfollow` ends it."""

    def __init__(self, follow: Callable[[str], None], unfollow: Callable[[str], None]) -> None:
        self._follow = follow
        self._unfollow = unfollow
        self._followed: dict[str, KnownChannelLog] = {}

    def lost(self, log: KnownChannelLog) -> None:
        """Another node was faster in a channel."""
        log.conflicts += 1
        if log.conflicts < CONFLICTS or log.channel in self._followed or len(self._followed) >= MAX_FOLLOWED:
            return
        self._followed[log.channel] = log
        self._follow(log.channel)

    def end_idle(self, now: float) -> None:
        """Let go of channels to which nobody here published for `FOLLOW_S`; `now` on the loop's clock."""
        for name, log in list(self._followed.items()):
            if log.used_at < now - FOLLOW_S:
                del self._followed[name]
                log.conflicts = 0
                self._unfollow(name)
