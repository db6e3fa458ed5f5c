"""Keeps presence in a stream in memory: one subject per member, which the stream drops after `PRESENCE_TTL_S`.

Rules: only the node that a client is connected to writes its entry; that node alone knows whether the client is new,
and announces it.
"""

from __future__ import annotations

from narthex.adapters.brokers.nats.codec import Notice, decode_live, encode, token
from narthex.adapters.brokers.nats.jetstream import JetStream
from narthex.adapters.brokers.nats.streams import StreamNames
from narthex.adapters.brokers.presence import PresenceTable
from narthex.ports.broker import Member


class PresenceStream:
    """The members of channels on every node. Raises jetstream's errors; the caller retries."""

    def __init__(self, stream: JetStream, names: StreamNames) -> None:
        self._stream = stream
        self._names = names
        self._own = PresenceTable()

    async def join(self, channel: str, member: Member, now: float) -> bool:
        """Record or refresh a member; returns whether it is new on this node."""
        await self._stream.publish(
            self._subject(channel, member.client), encode(Notice(member, True)), expected=None
        )
        return self._own.join(channel, member, now)

    async def leave(self, channel: str, client: str) -> Member | None:
        """Remove a member; returns it if this node knew it."""
        await self._stream.api(
            f"STREAM.PURGE.{self._names.presence_stream}", {"filter": self._subject(channel, client)}
        )
        return self._own.leave(channel, client)

    async def members(self, channel: str) -> dict[str, Member]:
        """The present members, by client id."""
        found: dict[str, Member] = {}
        for message in await self._stream.latest_of_each(self._subject(channel, "*")):
            notice = decode_live(message.body)
            if isinstance(notice, Notice):
                found[notice.member.client] = notice.member
        return found

    def expire(self, now: float) -> list[tuple[str, Member]]:
        """This node's clients without a recent `join`, which the stream has dropped already."""
        return self._own.expire(now)

    def _subject(self, channel: str, client: str) -> str:
        return f"{self._names.presence}{token(channel)}.{client if client == '*' else token(client)}"
