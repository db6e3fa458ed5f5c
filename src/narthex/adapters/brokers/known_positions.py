"""Keeps the end of each followed channel's log, as far as the handler got it, for answers without I/O. Pure.

Rules: a known position is never ahead of the publications passed to the handler, and never goes back; after a lost
connection no position is known.
"""

from __future__ import annotations

from narthex.ports.broker import Position


class KnownPositions:
    """Positions by channel."""

    def __init__(self) -> None:
        self._ends: dict[str, Position] = {}

    def find(self, channel: str) -> Position | None:
        """See the port's `known_position`."""
        return self._ends.get(channel)

    def delivered(self, channel: str, end: Position) -> None:
        """The handler gets the publication at `end`."""
        self._ends[channel] = end

    def read(self, channel: str, end: Position) -> None:
        """A followed channel's log was read to its end."""
        known = self._ends.get(channel)
        if known is None or known.offset < end.offset:
            self._ends[channel] = end

    def forget(self, channel: str) -> None:
        """The channel is not followed any more, or has another log."""
        self._ends.pop(channel, None)

    def clear(self) -> None:
        """Publications may not have reached the handler: no position is known any more."""
        self._ends.clear()
