"""A log that several nodes share, and brokers on it that can lose messages or be down, as with a broken route.

Rules: a deaf broker answers every call correctly but receives no messages; one that is away answers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from narthex.errors import DependencyError
from narthex.ports.broker import BrokerHandler, Control, Member, Page, Position, Publication, Published


class SharedLog:
    """Channels by key, and the brokers that follow them."""

    def __init__(self) -> None:
        self.channels: dict[str, list[Publication]] = {}
        self.epoch = "e1"
        self.brokers: list[LossyBroker] = []

    def lose(self, epoch: str) -> None:
        """Lose its whole content and its epoch."""
        self.channels.clear()
        self.epoch = epoch


class LossyBroker:
    """One node's broker.

    Attributes:
        deaf: the handler receives nothing.
        away: every call raises.
        compared: the arguments of `behind`, call by call.
    """

    durability = "none"
    positions_exact = False

    def __init__(self, log: SharedLog) -> None:
        self.log = log
        self.deaf = self.away = False
        self.followed: set[str] = set()
        self.compared: list[dict[str, Position]] = []
        self.reads: list[str] = []
        self.sent: list[Control] = []
        self._handler: BrokerHandler | None = None
        log.brokers.append(self)

    async def start(self, handler: BrokerHandler, node: str) -> None:
        del node
        self._there()
        self._handler = handler

    async def stop(self) -> None:
        self._handler = None

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        del key, expected
        self._there()
        entries = self.log.channels.setdefault(channel, [])
        publication = Publication(len(entries) + 1, data, tags)
        entries.append(publication)
        for broker in self.log.brokers:
            if broker._handler is not None and not broker.deaf and channel in broker.followed:
                broker._handler.publication(channel, publication, self.log.epoch)
        return Published(publication.offset, self.log.epoch)

    def subscribe(self, channel: str) -> None:
        self.followed.add(channel)

    def unsubscribe(self, channel: str) -> None:
        self.followed.discard(channel)

    def known_position(self, channel: str) -> Position | None:
        del channel
        return None

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        self._there()
        self.compared.append(dict(known))
        return {channel: end for channel in known if (end := self._end(channel)) != known[channel]}

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        assert not reverse
        self._there()
        self.reads.append(channel)
        end = self._end(channel)
        if since is not None and (since.epoch != end.epoch or since.offset > end.offset):
            return Page([], end, complete=False)
        found = self.log.channels.get(channel, [])[since.offset if since else 0 :]
        return Page(found[:limit] if limit is not None else found, end, complete=True)

    async def remove(self, channel: str) -> None:
        self.log.channels.pop(channel, None)

    async def trim(self, channel: str, through: Position) -> None: ...
    async def join(self, channel: str, member: Member) -> None: ...
    async def leave(self, channel: str, client: str) -> None: ...
    async def members(self, channel: str) -> Mapping[str, Member]:
        del channel
        return {}

    async def control(self, message: Control) -> None:
        self._there()
        self.sent.append(message)
        for broker in self.log.brokers:
            if broker._handler is not None and not broker.deaf:
                broker._handler.control(message)

    async def ping(self) -> None:
        self._there()

    def _end(self, channel: str) -> Position:
        return Position(len(self.log.channels.get(channel, ())), self.log.epoch)

    def _there(self) -> None:
        if self.away:
            raise DependencyError("broker", "away")
