"""Whether the log's stream is there, is the one that this node wrote to, and still ends where it did.

Asked at start, after every reconnect, election or doubt. Not here: the connection itself. Rules: what ends earlier
than what was acknowledged here has lost something, and then the epoch changes; every node hears of a new epoch; and
what may not have been told to this node meanwhile is re-read once the answer is known.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from nats.aio.msg import Msg

from narthex.adapters.brokers.nats.appending import Appender
from narthex.adapters.brokers.nats.codec import Batch, encode
from narthex.adapters.brokers.nats.jetstream import JetStream, Refused, StreamMissing, Unavailable
from narthex.adapters.brokers.nats.streams import LogStream
from narthex.errors import DependencyError, NarthexError

AGAIN_S: Final = 0.5  # while JetStream is away
PING_SUBJECTS: Final = 64  # nodes share them: a ping leaves one message a subject

_log = structlog.get_logger("narthex.broker")


class StreamGuard:
    """See the module.

    Args:
        stream: the log's.
        log_stream: its settings and epoch.
        appender: knows how far the log reached.
        subject: of a channel.
        changed: tell every node that the epoch is another one.
        connected: make sure of the connection; whether it is a new one.
        resync: publications may have been missed.
    """

    def __init__(
        self,
        stream: JetStream,
        log_stream: LogStream,
        appender: Appender,
        *,
        subject: Callable[[str], str],
        changed: Callable[[], Awaitable[None]],
        connected: Callable[[], Awaitable[bool]],
        resync: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._log_stream = log_stream
        self._appender = appender
        self._subject = subject
        self._changed = changed
        self._connected = connected
        self._resync = resync
        self._suspect = asyncio.Event()  # the stream may have another leader, or be another one
        self._missed = False  # publications may have been told to nobody meanwhile
        self.node = ""

    def doubt(self) -> None:
        """Look whether the stream is there; what was told meanwhile was not missed for that."""
        self._suspect.set()

    def missed(self) -> None:
        """Something may not have been told to this node: look, then re-read."""
        self._missed = True
        self._suspect.set()

    async def on_missed(self, _: Msg) -> None:
        """`missed`, as a NATS subscription calls it."""
        self.missed()

    async def open(self, replicas: int, server: str) -> None:
        """Make sure of the stream; `server` is the one that we are connected to. Raises jetstream's errors."""
        seen = self._appender.highest_seq  # before the question: acknowledgements overtake its answer
        last = await self._log_stream.ensure(replicas, server)
        if self._log_stream.made:  # a new one has an epoch of its own
            self._appender.highest_seq = last
            await self._changed()
            return
        if last < seen:  # or a leader that was cut off answered: only the real one can append
            last = await self.append_mark() - 1
        if last < seen or self._log_stream.rebooted:
            _log.error("broker_lost_publications", last=last, expected=seen)
            self._appender.highest_seq = last
            await self._log_stream.change_epoch()
            await self._changed()
        self._appender.highest_seq = max(last, self._appender.highest_seq)

    async def append_mark(self) -> int:
        """Append a message that means nothing; its sequence, which a majority has agreed on."""
        body = encode(Batch(secrets.token_bytes(8), "", 1, 0, 0, []))
        seq = await self._stream.publish(self.mark_subject(), body, expected=None, rollup=True)
        self._appender.highest_seq = max(seq, self._appender.highest_seq)
        return seq

    async def ping(self) -> None:
        """Append and read back. Raises jetstream's errors, and DependencyError when it is not there."""
        seq = await self.append_mark()
        last = await self._stream.last(self.mark_subject())
        if last is None or last.seq < seq:
            raise DependencyError(
                "broker", "JetStream did not give back what was stored.", "Look at its log."
            )

    async def run(self, reopen: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: after each doubt `reopen` until it works, then re-read what may have been missed."""
        away = False
        while True:
            await self._suspect.wait()
            self._suspect.clear()
            try:
                self._missed |= await self._connected()
                before = self._log_stream.base_epoch
                await reopen()
            except (NarthexError, Unavailable, StreamMissing, Refused) as error:
                if not away:
                    _log.warning("broker_away", error=str(error))
                away = True
                self._suspect.set()
                await asyncio.sleep(AGAIN_S)
                continue
            except Exception:  # a bug, or an error that the library does not name: nobody else would look
                _log.exception("broker_guard_raised")
                self._suspect.set()
                await asyncio.sleep(AGAIN_S)
                continue
            away = False
            if before != self._log_stream.base_epoch:
                _log.warning("broker_epoch_changed")
                self._appender.forget()
                self._missed = True
            if self._missed:
                self._missed = False
                self._resync()

    def mark_subject(self) -> str:
        """Where this node's marks are; nodes share a few."""
        return self._subject(f"narthex/ping:{zlib.crc32(self.node.encode()) % PING_SUBJECTS}")
