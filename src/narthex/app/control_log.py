"""A broker whose control messages do not get lost: those that change state are entries of a log of their own.

Engines send control messages at most once, and a node can miss one without a sign (a route between two NATS servers
that breaks for a second). So messages of the kinds `LOGGED` are appended to one channel that every
node follows: they come in one order, a gap is re-read, and `behind` compares the node's position in it together with
those of its channels. The other kinds stay as they are: the store repeats them (revocations, queued runs), or
they matter for a moment only (typing). Rules: a node begins at the log's end; entries that cannot be read any more are
reported (`on_lost`), never skipped in silence; one of `RESENT` that the engine did not take is sent again until it
does, with the same key: an engine that took it, and whose answer was lost, takes it once. Entries that every node had
an hour ago are trimmed: they contain texts for agents, which must not outlive their thread by more; a node that was
away for longer has lost them.

Version 0.1.0 does not follow the log. During a rolling deploy its nodes get each entry as a plain control message too,
at most once as ever (`Control.logged`); nodes that follow the log ignore the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from narthex.app.tasks import end_tasks
from narthex.errors import DependencyError, NarthexError
from narthex.ports.broker import (
    Broker,
    BrokerHandler,
    Control,
    Member,
    Position,
    Publication,
)

CHANNEL: Final = "narthex/control"  # of no tenant: subscribers cannot name it
LOGGED: Final = frozenset({"disconnect", "subscribe", "unsubscribe", "drain", "run"})
RESENT: Final = frozenset({"disconnect", "subscribe", "unsubscribe"})
"""Sent again once the engine is back. Not a drain: its sender knows that it failed, and a drain an hour later would be
wrong. Not messages for a run: the store repeats a cancel, and a steering user gets the error and repeats it."""
RETRY_S: Final = 0.5
MAX_UNSENT: Final = 10_000  # 1 KB each; the oldest are dropped, and reported
KEPT_S: Final = 3_600.0
MAX_HELD: Final = 1_000  # entries that arrive while the log is read; those that do not fit are read again

_log = structlog.get_logger("narthex.control", log_name="narthex.control")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Control).decode


class ControlLog:
    """See the module: a `Broker` around another.

    Args:
        inner: the engine's broker.
    """

    def __init__(self, inner: Broker) -> None:
        self._inner = inner
        self._receiver = _Receiver(inner)
        self._unsent: deque[tuple[str, Control]] = deque(maxlen=MAX_UNSENT)  # each with its key
        self._sending: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None
        self._stood: tuple[float, Position] | None = (
            None  # the moment and the position: entries before it may be trimmed in `KEPT_S`
        )
        self._trimmed = 0
        # The engine's own, as they are: a log of channels and presence.
        self.publish = inner.publish
        self.subscribe = inner.subscribe
        self.unsubscribe = inner.unsubscribe
        self.known_position = inner.known_position
        self.history = inner.history
        self.remove = inner.remove
        self.trim = inner.trim
        self.join = inner.join
        self.leave = inner.leave
        self.members = inner.members
        self.ping = inner.ping

    @property
    def durability(self) -> str:
        """See the port."""
        return self._inner.durability

    @property
    def positions_exact(self) -> bool:
        """See the port."""
        return self._inner.positions_exact

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call `listener` when control messages are lost for good, so that some disconnects may be missing."""
        self._receiver.on_lost = listener

    # -- differences ---------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Control messages that the engine has not taken yet, at most `MAX_UNSENT`."""
        return len(self._unsent)

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """See the port; then start at the end of the control log. Raises ConfigError or DependencyError."""
        self._receiver.open(handler, node)
        await self._inner.start(self._receiver, node)
        self._inner.subscribe(CHANNEL)
        try:
            self._receiver.stand((await self._inner.history(CHANNEL, limit=0)).top)
        except BaseException:
            await self._inner.stop()
            raise
        self._send_later()

    async def stop(self) -> None:
        """See the port."""
        tasks = (self._sending, self._trimming)
        self._sending = self._trimming = self._stood = None
        await end_tasks(*tasks)
        await self._receiver.close()
        await self._inner.stop()

    async def control(self, message: Control) -> None:
        """See the port. A logged kind is durable once this returns.

        Raises:
            DependencyError: the engine did not take it yet. One of `RESENT` is sent again in the background.
        """
        if message.kind not in LOGGED:
            await self._inner.control(message)
            return
        key = secrets.token_urlsafe(12)
        try:
            await self._append(key, message)
        except DependencyError:
            if message.kind in RESENT:
                if len(self._unsent) == MAX_UNSENT:
                    _log.error("control_message_dropped", kind=self._unsent[0][1].kind)
                self._unsent.append((key, message))
                self._send_later()
            raise

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        """See the port. The control log is compared too, and re-read if this node is behind it."""
        position = self._receiver.position
        if position is None:
            return await self._inner.behind(known)
        found = dict(await self._inner.behind({**known, CHANNEL: position}))
        if (top := found.pop(CHANNEL, None)) is not None:
            self._receiver.compared(position, top)
        self._trim_later(position)
        return found

    def _trim_later(self, here: Position) -> None:
        """Once an hour, trim the entries that this node had executed an hour before."""
        now = asyncio.get_running_loop().time()
        stood = self._stood
        if stood is not None and stood[1].epoch == here.epoch and now - stood[0] < KEPT_S:
            return
        self._stood = (now, here)
        if stood is None or stood[1].epoch != here.epoch:
            self._trimmed = 0
        elif stood[1].offset > self._trimmed and (self._trimming is None or self._trimming.done()):
            self._trimming = asyncio.get_running_loop().create_task(
                self._trim(stood[1]), name="control trimming"
            )

    async def _trim(self, through: Position) -> None:
        try:
            await self._inner.trim(CHANNEL, through)
        except NarthexError as fault:  # the next hour's trims further
            _log.warning("control_log_not_trimmed", code=fault.code)
        else:
            self._trimmed = through.offset

    async def _append(self, key: str, message: Control) -> None:
        await self._inner.publish(CHANNEL, _encode(message), key=key)
        with contextlib.suppress(DependencyError):  # the entry is durable; only nodes of 0.1.0 may miss it
            await self._inner.control(msgspec.structs.replace(message, logged=True))

    def _send_later(self) -> None:
        if self._unsent and self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send(), name="control sending")

    async def _send(self) -> None:
        """Send until all waiting messages were taken. Each states a fact that still holds, so late ones still count."""
        while self._unsent:
            key, message = first = self._unsent[0]
            try:
                await self._append(key, msgspec.structs.replace(message, data={**message.data, "late": True}))
            except DependencyError:
                await asyncio.sleep(RETRY_S)
                continue
            except (
                Exception
            ):  # a bug, or one that the engine will never take: the others must not wait for it
                _log.exception("control_message_dropped", kind=message.kind)
            with contextlib.suppress(ValueError):
                self._unsent.remove(first)
        self._sending = None


class _Receiver:
    """The `BrokerHandler` between the engine and this node's: takes out the control log, passes everything else on."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._handler: BrokerHandler | None = None
        self._node = ""
        self._held: list[tuple[Publication, str]] = []
        self._reading: asyncio.Task[None] | None = None
        self._again = False
        self.position: Position | None = None  # None: not known yet
        self.on_lost: Callable[[], None] = lambda: None

    def open(self, handler: BrokerHandler, node: str) -> None:
        """Set the handler, before the engine begins to call."""
        self._handler, self._node = handler, node

    def stand(self, top: Position) -> None:
        """The log was read to its end for the first time: later entries count."""
        self.position = top
        self._release()

    async def close(self) -> None:
        """End the task; a later `open` and `stand` start again."""
        reading, self._reading = self._reading, None
        await end_tasks(reading)
        self.position = None
        self._held.clear()

    # -- BrokerHandler -------------------------------------------------------------------------------------

    def publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """See `BrokerHandler`."""
        if channel == CHANNEL:
            self._take(publication, epoch)
        elif self._handler is not None:
            self._handler.publication(channel, publication, epoch)

    def presence(self, channel: str, member: Member, joined: bool) -> None:
        """See `BrokerHandler`."""
        if self._handler is not None:
            self._handler.presence(channel, member, joined)

    def control(self, message: Control) -> None:
        """See `BrokerHandler`. Of a logged kind only from a node of an older version."""
        if self._handler is not None and not message.logged:
            self._handler.control(message)

    def resync(self, channels: list[str] | None) -> None:
        """See `BrokerHandler`."""
        if channels is None and self._reading is not None:  # its request may be on a connection that is gone
            self._reading.cancel()
            self._reading = None
        if channels is None or CHANNEL in channels:
            self._reread()
        if self._handler is not None:
            self._handler.resync(channels)

    # -- the log -------------------------------------------------------------------------------------------

    def compared(self, before: Position, top: Position) -> None:
        """The log ended at `top` a moment ago, when this node was at `before`: it may have moved on since."""
        here = self.position
        if here is None:
            return
        shrunk = top.epoch == before.epoch and top.offset < before.offset
        if shrunk or here.epoch != top.epoch or here.offset < top.offset:
            self._reread()

    def _take(self, publication: Publication, epoch: str) -> None:
        here = self.position
        if here is None or self._reading is not None:
            if len(self._held) < MAX_HELD:
                self._held.append((publication, epoch))
            else:
                self._again = True
        elif epoch == here.epoch and publication.offset == here.offset + 1:
            self._apply(publication, epoch)
        elif epoch != here.epoch or publication.offset > here.offset:
            self._reread()

    def _apply(self, publication: Publication, epoch: str) -> None:
        self.position = Position(publication.offset, epoch)
        try:
            message = _decode(publication.data)
        except msgspec.MsgspecError:
            _log.error("broker_control_malformed")
            return
        if self._handler is not None and message.node in ("", self._node):
            try:
                self._handler.control(message)
            except Exception:  # of one message (of another version, say): those behind it must be executed
                _log.exception("control_message_raised", kind=message.kind)

    def _release(self) -> None:
        held, self._held = self._held, []
        for publication, epoch in held:
            self._take(publication, epoch)

    def _reread(self) -> None:
        if self.position is None:
            return
        if self._reading is not None:
            self._again = True
            return
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="control reading")

    async def _read(self) -> None:
        """Read everything after `position`, or report that it is lost."""
        while True:
            self._again = False
            assert self.position is not None
            try:
                page = await self._broker.history(CHANNEL, since=self.position)
            except DependencyError:
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:  # a bug: without this task the node would execute no control message any more
                _log.exception("control_reading_raised")
                await asyncio.sleep(RETRY_S)
                continue
            if page.complete:
                for publication in page.publications:
                    self._apply(publication, page.top.epoch)
            else:
                _log.error("control_messages_lost")
                self.position = page.top
                self.on_lost()
            if self.position.offset >= page.top.offset and not self._again:
                break
        self._reading = None
        self._release()
