"""Trims that wait until no retry can ask for a dropped publication's key any more.

Keys lie in the messages themselves, so a message stays for `IDEMPOTENCY_WINDOW_S` after its trim was asked for.
What waits when the process dies is not trimmed: the limit per channel drops it in the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from narthex.adapters.brokers.nats.jetstream import JetStream
from narthex.adapters.brokers.nats.reading import PageReader
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S

MAX_WAITING: Final = 100_000  # more are left to the limit per channel


class DeferredTrims:
    """Trims by when they are due; `clock` gives seconds since the epoch."""

    def __init__(
        self,
        stream: JetStream,
        reader: PageReader,
        *,
        subject: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self._stream = stream
        self._reader = reader
        self._subject = subject
        self._clock = clock
        self._waiting: list[tuple[float, str, int]] = []

    def add(self, channel: str, through: int) -> None:
        """Note that offsets ≤ `through` may be dropped."""
        if len(self._waiting) < MAX_WAITING:
            heapq.heappush(self._waiting, (self._clock() + IDEMPOTENCY_WINDOW_S, channel, through))

    async def run_due(self) -> None:
        """Make those that are due. Raises jetstream's errors; what failed then is dropped."""
        while self._waiting and self._waiting[0][0] <= self._clock():
            _, channel, through = heapq.heappop(self._waiting)
            seq = await self._reader.sequence_of(channel, through + 1)
            if seq is not None:  # the last message of a channel always stays: it is its position
                await self._stream.api(
                    f"STREAM.PURGE.{self._stream.stream}", {"filter": self._subject(channel), "seq": seq}
                )
