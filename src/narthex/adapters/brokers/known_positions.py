"""Where the logs of followed channels end, as far as the handler was told: what a broker knows without asking. Pure.

Rules: what is known never runs ahead of what was told, nor back; after a connection was lost nothing is known.
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
        """The handler is told of the publication at `end`."""
        self._ends[channel] = end

    def read(self, channel: str, end: Position) -> None:
        """A followed channel's log was read to its end."""
        known = self._ends.get(channel)
        if known is None or known.offset < end.offset:
            self._ends[channel] = end

    def forget(self, channel: str) -> None:
        """It is not followed any more, or has another log."""
        self._ends.pop(channel, None)

    def clear(self) -> None:
        """Publications may have been told to nobody."""
        self._ends.clear()
