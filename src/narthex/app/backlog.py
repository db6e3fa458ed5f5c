"""Holds deliveries for one slow client until it reads: deltas merged for it alone, everything else unchanged.

Not here: when a client counts as slow (the transport's high mark). Rules: bounded in bytes and in time;
past either bound the client is closed with 3008, because a reader that never catches up would otherwise
hold memory for ever; the client's final text is byte-identical (docs/design.md#runs).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from narthex.app.hub.channel import Channel
from narthex.app.hub.delivery import Delivery
from narthex.domain.merging import merge
from narthex.ports.broker import Publication
from narthex.protocol.replies import encode_json

_ENTRY_BYTES: Final = 64  # the cost of an entry besides its payload


class BacklogLimits(NamedTuple):
    """docs/design.md#limits: pending bytes per client and lag."""

    max_bytes: int = 1_048_576
    max_lag_s: float = 10.0


class Backlog:
    """Deliveries kept for one lagging connection, per channel in order."""

    __slots__ = ("_entries", "_last_of", "size", "started_at")

    def __init__(self, now: float) -> None:
        self._entries: list[tuple[Channel, Delivery] | None] = []
        self._last_of: dict[Channel, int] = {}
        self.size = 0
        self.started_at = now

    def add(self, channel: Channel, items: list[Delivery]) -> int:
        """Keep deliveries; a delta that continues the channel's last kept delta is merged into it. Returns the number
        of merged ones.
        """
        merges = 0
        for item in items:
            at = self._last_of.get(channel)
            if at is not None:
                previous = self._entries[at]
                merged = _merge(channel, previous[1], item) if previous is not None else None
                if merged is not None and previous is not None:
                    self.size += len(merged.prepared.payload) - len(previous[1].prepared.payload)
                    self._entries[at] = (channel, merged)
                    merges += 1
                    continue
            self._last_of[channel] = len(self._entries)
            self._entries.append((channel, item))
            self.size += len(item.prepared.payload) + _ENTRY_BYTES
        return merges

    def take(self) -> list[tuple[Channel, Delivery]]:
        """Take all deliveries, in order; the backlog is empty afterwards."""
        entries, self._entries = self._entries, []
        self._last_of.clear()
        self.size = 0
        return [entry for entry in entries if entry is not None]

    def forget(self, channel: Channel) -> None:
        """Drop the deliveries of a channel that the connection left."""
        self._last_of.pop(channel, None)
        for at, entry in enumerate(self._entries):
            if entry is not None and entry[0] is channel:
                self.size -= len(entry[1].prepared.payload) + _ENTRY_BYTES
                self._entries[at] = None


def _merge(channel: Channel, first: Delivery, second: Delivery) -> Delivery | None:
    """Both deltas as one publication at the second's offset, or None when they must stay apart."""
    if first.publication is None or second.publication is None:
        return None
    if b"delta" not in first.publication.data or b"delta" not in second.publication.data:
        return None  # cheap look before parsing: only deltas have the member
    one, other = msgspec.json.decode(first.publication.data), msgspec.json.decode(second.publication.data)
    if not isinstance(one, dict) or not isinstance(other, dict):
        return None  # an operator may publish any JSON value
    merged = merge(one, other)
    if merged is None:
        return None
    data = encode_json(merged)
    publication = Publication(offset=second.publication.offset, data=data, at=second.publication.at)
    return Delivery(channel.encoded(publication), publication)
