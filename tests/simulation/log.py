"""The simulated log engine and each node's `Broker` on it.

The engine keeps the guarantees of `ports/broker.py`; its permitted faults beside them are listed here, because every
adapter's engine shows them somewhere (issue 11, items 37-39):

- **Silence.** Live publications, presence and control messages to one node are lost for a while, without a sign and
  while that node's calls go on being answered (a NATS route that is reset between two servers).
- **Repetition and delay.** A publication reaches a node twice, or late, behind newer ones of other channels; never
  out of order within a channel on one pipe.
- **Loss of the tail, of everything, purges, restores.** The newest publications of all channels are gone (a fail-over
  to a replica that lagged, a restored disk, a purged or recreated stream). Guarantee 5: the epoch is another one
  before anything is appended or read afterwards.
- **Absence.** It hangs, is down, or is cut off from a node in either direction: calls raise `DependencyError` after
their time-out; a publish may have been appended or not, and its repeat under the same key shows which.
- **Late sight.** `known_position` is the position that the node received, not the log's end.
- **Short memory.** A key is forgotten after the window: 120 s. For those of people's messages it is 5 s, because a
  history is a minute long; not where the store goes back in time, because then only the window keeps a message that is
  repeated from being a second one.
- **Trimming.** Old publications are gone; a page that cannot reach back says `complete=False`.

Forbidden faults (an adapter that shows one breaks its contract; `mutants` seeds them to prove that they would be
found):
keep its epoch through a loss, append the same key twice within the window, deliver before it is durable.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final

from narthex.errors import DependencyError
from narthex.ports.broker import (
    IDEMPOTENCY_WINDOW_S,
    MAX_HISTORY_PAGE,
    BrokerHandler,
    Control,
    LogMoved,
    Member,
    Page,
    Position,
    Publication,
    Published,
    fulfils,
)
from tests.simulation.loop import NODE, VirtualLoop
from tests.simulation.network import Delays, Link, Pipe

LOG_TIMEOUT_S: Final = 12.0  # NATS and Redis, docs/guarantees.md


SHORT_KEYS: Final = "msg:"
SHORT_WINDOW_S: Final = 5.0
"""The window of those keys: a client may repeat a message after it."""


class _Channel:
    """One channel's log. `base` publications were trimmed before the first kept one."""

    __slots__ = ("base", "entries", "keys")

    def __init__(self) -> None:
        self.base = 0
        self.entries: list[Publication] = []
        self.keys: dict[str, tuple[int, float]] = {}

    @property
    def top(self) -> int:
        return self.base + len(self.entries)


class LogEngine:
    """The log of all channels, and its deliveries to nodes.

    Attributes:
        lies: names of contract violations that are seeded (`mutants`); empty in an honest engine.
        short_window_s: how long keys of people's messages are kept.
        on_proof: called once, before the next event that claims a run's digest is appended.
    """

    def __init__(self, loop: VirtualLoop, noise: random.Random) -> None:
        self._loop = loop
        self._noise = noise
        self._channels: dict[str, _Channel] = {}
        self._epochs = 0
        self._present: dict[str, dict[str, tuple[Member, float]]] = {}
        self._nodes: dict[str, SimBroker] = {}
        self.lies: set[str] = set()
        self.short_window_s = SHORT_WINDOW_S
        self.on_proof: Callable[[], None] | None = None
        self._backup: dict[str, tuple[int, list[Publication], dict[str, tuple[int, float]]]] = {}

    @property
    def epoch(self) -> str:
        """The current epoch, of every channel."""
        return f"e{self._epochs}"

    def position(self, channel: str) -> Position:
        """A log's end."""
        found = self._channels.get(channel)
        return Position(found.top if found else 0, self._epoch_of(channel))

    def _epoch_of(self, channel: str) -> str:
        return self.epoch

    # -- calls of nodes ------------------------------------------------------------------------------------

    def append(
        self,
        channel: str,
        data: bytes,
        key: str | None,
        tags: dict[str, str] | None,
        expected: Position | None,
    ) -> Published:
        """See `Broker.publish`."""
        if self.on_proof is not None and b'"digest"' in data:
            lose, self.on_proof = self.on_proof, None
            lose()
        log = self._channels.get(channel)
        if log is None:
            log = self._channels[channel] = _Channel()
        now = self._loop.time()
        if key is not None and "forgets keys" not in self.lies:
            before = log.keys.get(key)
            window_s = IDEMPOTENCY_WINDOW_S if not key.startswith(SHORT_KEYS) else self.short_window_s
            if before is not None and now - before[1] < window_s:
                return Published(before[0], self.epoch, duplicate=True)
        end = Position(log.top, self.epoch)
        if expected is not None and not fulfils(end, expected) and "appends anywhere" not in self.lies:
            raise LogMoved(end)
        publication = Publication(log.top + 1, data, tags, now)
        log.entries.append(publication)
        if key is not None:
            log.keys[key] = (publication.offset, now)
        for node in self._nodes.values():
            node.tell(channel, publication, self.epoch)
        return Published(publication.offset, self.epoch)

    def page(self, channel: str, since: Position | None, limit: int | None, reverse: bool) -> Page:
        """See `Broker.history`."""
        log = self._channels.get(channel) or _Channel()
        top = Position(log.top, self.epoch)
        most = MAX_HISTORY_PAGE if limit is None else limit
        foreign = since is not None and since.epoch not in ("", self.epoch)
        if foreign:
            return Page([], top, False)
        if reverse:
            before = log.top + 1 if since is None else since.offset
            found = [entry for entry in log.entries if entry.offset < before]
            found.reverse()
            return Page(found[:most], top, len(found) > most or log.base == 0)
        start = log.base if since is None else since.offset
        if start > log.top:
            return Page([], top, False)
        found = log.entries[max(0, start - log.base) :][:most]
        return Page(list(found), top, start >= log.base)

    def behind(self, known: Mapping[str, Position]) -> dict[str, Position]:
        """See `Broker.behind`."""
        return {name: end for name, at in known.items() if (end := self.position(name)) != at}

    def trim_in(self, channel: str, through: Position) -> None:
        """See `Broker.trim`."""
        if through.epoch == self.epoch:
            self.trim(channel, through.offset)

    def trim(self, channel: str, through: int) -> None:
        """Trim as an engine's own limits do."""
        log = self._channels.get(channel)
        if log is not None and through > log.base:
            gone = min(through, log.top) - log.base
            del log.entries[:gone]
            log.base += gone

    def remove(self, channel: str) -> None:
        """See `Broker.remove`; this engine has one epoch for all, so the log goes on empty behind its end."""
        log = self._channels.get(channel)
        if log is not None:
            self.trim(channel, log.top)
            log.keys.clear()

    def join(self, channel: str, member: Member) -> None:
        """See `Broker.join`."""
        known = self._present.setdefault(channel, {})
        fresh = member.client not in known
        known[member.client] = (member, self._loop.time())
        if fresh:
            for node in self._nodes.values():
                node.show(channel, member, joined=True)

    def leave(self, channel: str, client: str) -> None:
        """See `Broker.leave`."""
        gone = self._present.get(channel, {}).pop(client, None)
        if gone is not None:
            for node in self._nodes.values():
                node.show(channel, gone[0], joined=False)

    def members(self, channel: str) -> dict[str, Member]:
        """See `Broker.members`."""
        return {name: member for name, (member, _) in self._present.get(channel, {}).items()}

    def control(self, message: Control) -> None:
        """See `Broker.control`."""
        for name, node in self._nodes.items():
            if message.node in ("", name):
                node.order(message)

    def attach(self, name: str, broker: SimBroker) -> None:
        """A node connects; an earlier one with the same name is disconnected."""
        self._nodes[name] = broker

    def detach(self, name: str, broker: SimBroker) -> None:
        """A node disconnects."""
        if self._nodes.get(name) is broker:
            del self._nodes[name]

    # -- faults --------------------------------------------------------------------------------------------

    def lose_tail(self, count: int) -> None:
        """The newest publications of every channel are lost: a replica that lagged responds from now on."""
        for log in self._channels.values():
            gone = min(count, len(log.entries))
            if gone:
                del log.entries[-gone:]
                log.keys = {key: place for key, place in log.keys.items() if place[0] <= log.top}
        self._replaced("tail")

    def purge(self) -> None:
        """All publications are gone, and the offsets go on where they were."""
        for log in self._channels.values():
            log.base = log.top
            log.entries.clear()
            log.keys.clear()  # guarantee 6: publications lost with an epoch do not make duplicates in the next one
        self._replaced()

    def recreate(self) -> None:
        """A new, empty engine replaces the old one: offsets begin at 1."""
        self._channels.clear()
        self._replaced()

    def back_up(self) -> None:
        """Make the copy that a later `restore` returns to."""
        self._backup = {
            name: (log.base, list(log.entries), dict(log.keys)) for name, log in self._channels.items()
        }

    def restore(self) -> None:
        """Return to the last back-up."""
        self._channels.clear()
        for name, (base, entries, keys) in self._backup.items():
            log = self._channels[name] = _Channel()
            log.base, log.entries, log.keys = base, list(entries), dict(keys)
        self._replaced()

    def _replaced(self, how: str = "replaced") -> None:
        """Guarantee 5: acknowledged publications may be lost, so nothing is appended or read in the old epoch."""
        if f"keeps its epoch: {how}" not in self.lies:
            self._epochs += 1


class SimBroker:
    """`ports.broker.Broker` of one node.

    Attributes:
        deaf: live messages to this node are silently lost.
        repeats: share of publications that are delivered twice.
    """

    durability = "simulated"
    positions_exact = False

    def __init__(
        self, loop: VirtualLoop, engine: LogEngine, link: Link, delays: Delays, noise: random.Random
    ) -> None:
        self._loop = loop
        self._engine = engine
        self._link = link
        self._noise = noise
        self._handler: BrokerHandler | None = None
        self._node = ""
        self._failed = False
        self._followed: dict[str, Position | None] = {}
        self._pipe = Pipe(loop, delays, self._deliver, NODE.get())
        self.deaf = False
        self.repeats = 0.0

    @property
    def link(self) -> Link:
        """The link to the engine."""
        return self._link

    # -- from the engine -----------------------------------------------------------------------------------

    def tell(self, channel: str, publication: Publication, epoch: str) -> None:
        """A publication was appended."""
        if channel not in self._followed:
            return
        self._send(lambda handler: self._publication(handler, channel, publication, epoch))
        if self.repeats and self._noise.random() < self.repeats:
            self._send(lambda handler: self._publication(handler, channel, publication, epoch))

    def show(self, channel: str, member: Member, *, joined: bool) -> None:
        """A member joined or left."""
        if channel in self._followed:
            self._send(lambda handler: handler.presence(channel, member, joined))

    def order(self, message: Control) -> None:
        """A control message."""
        self._send(lambda handler: handler.control(message))

    def _send(self, deliver: Callable[[BrokerHandler], None]) -> None:
        if not self.deaf and self._link.answers_pass and self._handler is not None:
            self._pipe.put(deliver)

    def _deliver(self, deliver: Callable[[BrokerHandler], None]) -> None:
        if self._handler is not None:
            deliver(self._handler)

    def _publication(
        self, handler: BrokerHandler, channel: str, publication: Publication, epoch: str
    ) -> None:
        if channel in self._followed:
            known = self._followed[channel]
            if known is None or known.epoch != epoch or known.offset < publication.offset:
                self._followed[channel] = Position(publication.offset, epoch)
            handler.publication(channel, publication, epoch)

    def reconnected(self) -> None:
        """The node's own connection broke and was restored: it knows that it may have missed messages."""
        if self._handler is not None:
            self._handler.resync(None)

    # -- the port ------------------------------------------------------------------------------------------

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """See the port."""
        self._handler, self._node = handler, node
        if self._failed and "starts once" in self._engine.lies:
            raise DependencyError("broker", "The simulated log was stopped.")
        try:
            await self._link.call(self._engine.attach, node, self)
        except BaseException:
            self._handler, self._failed = None, True
            raise

    async def stop(self) -> None:
        """See the port."""
        self._handler = None
        self._engine.detach(self._node, self)

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        """See the port."""
        published: Published = await self._link.call(self._engine.append, channel, data, key, tags, expected)
        return published

    def subscribe(self, channel: str) -> None:
        """See the port."""
        self._followed.setdefault(channel, None)

    def unsubscribe(self, channel: str) -> None:
        """See the port."""
        self._followed.pop(channel, None)

    def known_position(self, channel: str) -> Position | None:
        """See the port."""
        return self._followed.get(channel)

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        """See the port."""
        found: dict[str, Position] = await self._link.call(self._engine.behind, known)
        return found

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """See the port."""
        page: Page = await self._link.call(self._engine.page, channel, since, limit, reverse)
        return page

    async def remove(self, channel: str) -> None:
        """See the port."""
        await self._link.call(self._engine.remove, channel)

    async def trim(self, channel: str, through: Position) -> None:
        """See the port."""
        await self._link.call(self._engine.trim_in, channel, through)

    async def join(self, channel: str, member: Member) -> None:
        """See the port."""
        await self._link.call(self._engine.join, channel, member)

    async def leave(self, channel: str, client: str) -> None:
        """See the port."""
        await self._link.call(self._engine.leave, channel, client)

    async def members(self, channel: str) -> Mapping[str, Member]:
        """See the port."""
        found: dict[str, Member] = await self._link.call(self._engine.members, channel)
        return found

    async def control(self, message: Control) -> None:
        """See the port."""
        await self._link.call(self._engine.control, message)

    async def ping(self) -> None:
        """See the port."""
        await self._link.call(bool)
