"""The interface of the broker: durable channel logs with fan-out, presence, and control messages between instances.

Not here: permission to publish or subscribe (app), the form of frames (protocol).

Channels are keys from `narthex.domain.channels.channel_key`.

Guarantees that every adapter keeps (tests/contracts/test_broker.py runs against each with the real server):

1. **Durable before seen.** `publish` returns, and a handler is called, only after the publication is in the
   log. The adapter's `durability` sentence says which failures an entry of the log survives.
2. **Contiguous.** Offsets of a channel are 1, 2, 3 … without holes, in the same order for every reader.
3. **Ordered per channel**, not across channels: a subscribed node's handler sees ascending offsets.
4. **At least once** to a subscribed node; a gap shows in the offsets (`offset > last + 1`), a repeat as
   `offset <= last`. The hub discards repeats and re-reads gaps.
5. **Epoch.** A channel's epoch changes when its log may have lost acknowledged publications, and only then.
6. **Idempotent.** Two publishes with one `key` to one channel within `IDEMPOTENCY_WINDOW_S` give one
   publication; the second returns the first's position with `duplicate=True`. A publication that was lost with an
   epoch (5) is no duplicate in the next one.
7. **Errors, never silence.** While the engine is away every call raises `DependencyError` within its time-out.
8. **Comparison.** `behind` compares a node's positions with the log as it is now, in bulk and without traffic on
   the channels: a node that calls it every few seconds learns within that time which channels it missed publications
   of, even if no connection of its own broke. If a server that is no longer authoritative for the log could have
   given the answer, the call raises `DependencyError` instead.
9. **Conditional append.** A publish with `expected` is appended only where the caller believes the log to end: the
   engine compares and appends in one atomic step. A key that is in the log already is answered first (6).

Faults that the engine below may show, which callers must handle (tests/simulation/log.py simulates them):

- lose live publications, presence and control messages to one node without a sign, while calls are still answered;
- deliver a publication twice, or late; within a channel never out of order;
- lose the newest publications, or all (a fail-over, a power loss, a purge, a restore): then guarantee 5 holds;
- hang, or be cut off from a node in either direction: a publish that raised may be in the log all the same, also later;
- know less in `known_position` than was acknowledged;
- trim publications that are older than it keeps, and forget a key after the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

IDEMPOTENCY_WINDOW_S: Final = 120
PRESENCE_TTL_S: Final = 60
MAX_HISTORY_PAGE: Final = 10_000
ANY_OFFSET: Final = -1
"""As the offset of an expected position: the log's epoch alone counts."""
KEPT_PUBLICATIONS: Final = 60_000
"""Publications that a channel's log keeps at least, until `trim`. A running run is only in the log, so this covers the
largest run (45,000 events, `app.runs.services.RunLimits`) and the messages meanwhile. A finished run is trimmed."""


class Position(msgspec.Struct, frozen=True):
    """A place in a channel's log: the offset of the last publication (0: none yet) and the log's epoch."""

    offset: int
    epoch: str


class LogMoved(Exception):
    """A publish with `expected` was not appended, because the log ends elsewhere: read it again, then decide.

    Attributes:
        end: where it ends.
    """

    def __init__(self, end: Position) -> None:
        super().__init__(f"the log ends at {end.offset} in epoch {end.epoch}")
        self.end = end


def fulfils(end: Position, expected: Position) -> bool:
    """Whether a log that ends at `end` ends where the publisher expects."""
    return end.epoch == expected.epoch and expected.offset in (end.offset, ANY_OFFSET)


class Published(msgspec.Struct, frozen=True):
    """The position of a publication; `duplicate` when its key was in the log already."""

    offset: int
    epoch: str
    duplicate: bool = False


class Publication(msgspec.Struct):
    """One entry of a channel's log.

    Attributes:
        offset: ≥ 1.
        data: one JSON value, UTF-8, as the publisher encoded it; brokers never parse it.
        tags: small string pairs beside the data (Centrifuge `tags`), None when there are none.
        at: the moment of its append, seconds since the epoch.
    """

    offset: int
    data: bytes
    tags: dict[str, str] | None = None
    at: float = 0.0


class Page(msgspec.Struct, frozen=True):
    """A part of a channel's log.

    Attributes:
        publications: ascending offsets (descending when asked in reverse).
        top: the log's end when it was read.
        complete: whether every publication after the requested position (in reverse: before it) is in the page or was
            cut only by `limit`. Without a position it is about every kept publication, in reverse about every one that
            there ever was. False when the log no longer reaches back that far, never came that far, or the epoch
            differs. With another epoch the page is empty.
    """

    publications: list[Publication]
    top: Position
    complete: bool


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection present in a channel: Centrifuge's client info."""

    client: str
    user: str
    conn_info: dict[str, object] | None = None


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message to instances: `kind` is one of `revoke`, `disconnect`, `subscribe`, `unsubscribe`, `refresh`, `run`,
    `drain`, `runs_available`, or of the fleet (`app.fleet`); `data` its plain values. At most once: a control message
    only spreads faster what the store already holds, so a lost one delays the effect and loses nothing; of the fleet
    the next one repeats it.

    Attributes:
        node: the receiving node's id; empty: all.
        logged: a copy, for nodes of version 0.1.0, of an entry of the control log (`app.control_log`).
    """

    kind: str
    data: dict[str, object]
    node: str = ""
    logged: bool = False


class BrokerHandler(Protocol):
    """Receives the broker's messages. The broker calls every method on the event loop; none may block or raise."""

    def publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """Handle a publication of a subscribed channel, after it is durable."""

    def presence(self, channel: str, member: Member, joined: bool) -> None:
        """Handle a member's joining or leaving a subscribed channel (at most once, best effort)."""

    def control(self, message: Control) -> None:
        """Handle a control message to this node or to all."""

    def resync(self, channels: list[str] | None) -> None:
        """Publications may have been missed (reconnected, failed over): re-read these channels (None: all)."""


class ChannelLog(Protocol):
    """Durable logs of channels, with fan-out to the nodes that subscribe. Guarantees 1 to 6 and 8."""

    @property
    def positions_exact(self) -> bool:
        """Whether `known_position` is the log's current end: only where the log is this process's own."""

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        """Append to a channel's log. Returns once durable.

        Cancelling the call never corrupts another's: the publication may or may not be in the log.

        Args:
            channel: its key.
            data: see `Publication`.
            key: see guarantee 6.
            tags: see `Publication`.
            expected: append only if the log ends there (guarantee 9); with `ANY_OFFSET` only in that epoch.

        Raises:
            LogMoved: the log does not end at `expected`; nothing was appended.
            DependencyError: not known to be durable; retry with the same `key`.
        """

    def subscribe(self, channel: str) -> None:
        """Start passing this channel's publications to the handler; idempotent; effective by the time a
        following `history` call returns: every publication after that call's `top` reaches the handler.
        """

    def unsubscribe(self, channel: str) -> None:
        """Stop passing publications to the handler; idempotent. A few may still arrive."""

    def known_position(self, channel: str) -> Position | None:
        """The log's end if it is known without waiting (hot path of `connect`), else None.

        Without `positions_exact` this is the last position that reached the node, which may be before the log's end: a
        caller may join a channel there, and `behind` finds the gap; it must not conclude that it missed nothing.
        """

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        """Compare positions with the log: returns the channels of `known` that do not end there, with their ends now.

        It considers every publication that was acknowledged to any caller before the call. A channel that grew
        during the call may be in the answer too.

        Args:
            known: this node's position in each channel that it follows. The cost depends on the changes since
                the previous call: at most 2 % of a core for 10,000 channels every 2.5 seconds.

        Raises:
            DependencyError: the log cannot be read now; nothing was compared.
        """

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """Read a channel's log.

        Args:
            channel: its key.
            since: exclusive start. None reads from the oldest kept (or newest, in reverse). With an empty
                epoch only the offset counts ("from here in whatever log there is").
            limit: the largest number of publications; 0 gives the position only; None gives up to `MAX_HISTORY_PAGE`.
            reverse: newest first; then `since` is an exclusive upper end.
        """

    async def remove(self, channel: str) -> None:
        """Delete a channel's log for good (a deleted thread); its next epoch is a new one."""

    async def trim(self, channel: str, through: Position) -> None:
        """Allow the log to drop publications up to `through` (their content stays in the store). Does nothing when the
        log has another epoch: its offsets name other publications.
        """


class Presence(Protocol):
    """The members that are connected to a channel, on any node."""

    async def join(self, channel: str, member: Member) -> None:
        """Record presence for `PRESENCE_TTL_S`; call again within it to stay. Notifies other nodes."""

    async def leave(self, channel: str, client: str) -> None:
        """Remove presence. Notifies other nodes."""

    async def members(self, channel: str) -> Mapping[str, Member]:
        """The members that are present, by client id; entries older than `PRESENCE_TTL_S` are gone."""


class ControlBus(Protocol):
    """Messages between nodes."""

    async def control(self, message: Control) -> None:
        """Send to one node or all, this one included."""


class Broker(ChannelLog, Presence, ControlBus, Protocol):
    """An engine: all three parts, and its connection. Guarantee 7 holds for every call. Consumers take one part."""

    @property
    def durability(self) -> str:
        """One sentence: the failures that an acknowledged publication survives, with these settings."""

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """Connect and begin to call `handler`. Raises DependencyError when the engine cannot be reached."""

    async def stop(self) -> None:
        """Flush the accepted publications, then disconnect. Publishes under way finish or raise."""

    async def ping(self) -> None:
        """A full round trip (append and read back on a channel of its own). Raises DependencyError."""
