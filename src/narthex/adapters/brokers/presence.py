"""Keeps the members that are present in each channel, in one process's memory, with expiry. Pure: `now` is an argument.

It ends with the process, as do the sockets that it describes. Rules: an expired member is not listed from that moment
on; `expire` returns the expired members, so that the caller can announce that they left.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from narthex.ports.broker import PRESENCE_TTL_S, Member


class _Entry(NamedTuple):
    until: float
    member: Member


class PresenceTable:
    """Members by channel and client id. `now` is any clock in seconds that never goes back."""

    def __init__(self, ttl_s: float = PRESENCE_TTL_S) -> None:
        self._ttl_s = ttl_s
        # Per channel by client, the one refreshed longest ago first, so that expiry looks at the front only.
        self._channels: dict[str, OrderedDict[str, _Entry]] = {}

    def join(self, channel: str, member: Member, now: float) -> bool:
        """Record or refresh a member; returns whether the client was absent before."""
        present = self._channels.setdefault(channel, OrderedDict())
        before = present.get(member.client)
        present[member.client] = _Entry(now + self._ttl_s, member)
        present.move_to_end(member.client)
        return before is None or before.until <= now

    def leave(self, channel: str, client: str) -> Member | None:
        """Remove a member; returns it, or None when the client was absent."""
        present = self._channels.get(channel)
        entry = present.pop(client, None) if present else None
        if not present:
            self._channels.pop(channel, None)
        return entry.member if entry else None

    def members(self, channel: str, now: float) -> dict[str, Member]:
        """The present members, by client id."""
        present = self._channels.get(channel)
        return (
            {client: entry.member for client, entry in present.items() if entry.until > now}
            if present
            else {}
        )

    def expire(self, now: float) -> list[tuple[str, Member]]:
        """Remove all members whose time is over; returns them with their channels."""
        gone: list[tuple[str, Member]] = []
        for channel, present in list(self._channels.items()):
            while present and (entry := next(iter(present.values()))).until <= now:
                present.popitem(last=False)
                gone.append((channel, entry.member))
            if not present:
                del self._channels[channel]
        return gone
