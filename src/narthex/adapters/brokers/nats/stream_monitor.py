"""Checks that the log's stream exists, is the one that this node wrote to, and has not lost its end.

It checks at start, after every reconnect, election or doubt, and whenever a proof is needed (`proof`). Not here: the
connection itself. Rules: a stream that ends before a message that was acknowledged to this node has lost data, and then
the epoch changes; every node is notified of a new epoch; once the check is done, the node reads again what it may have
missed meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from nats.aio.msg import Msg

from narthex.adapters.brokers.nats.appending import NatsAppender
from narthex.adapters.brokers.nats.codec import StreamBatch, encode
from narthex.adapters.brokers.nats.jetstream import (
    JetStream,
    JetStreamUnavailable,
    RequestRejected,
    StreamMissing,
)
from narthex.adapters.brokers.nats.streams import LogStream, StreamInfo
from narthex.app.tasks import retrieve_error
from narthex.errors import DISK_FULL, ENGINE_HUNG, ConfigError, DependencyError, NarthexError

AGAIN_S: Final = 0.5  # while JetStream is away
FEWER_AGAIN_S: Final = 0.2
SILENT_S: Final = 5.0  # longer than a slow disk takes to sync
STORED_WITHIN_S: Final = 1.0  # of a ping, which health gives 2 s: the rest is for the question why
REMEDY: Final = (
    "Restore the stream's original narthex configuration (nats stream edit), or set another ?prefix= in "
    "NARTHEX_BROKER_URL."
)
PING_SUBJECTS: Final = 64  # nodes share them: a ping leaves one message per subject

_log = structlog.get_logger("narthex.broker", log_name="narthex.broker")


class StreamMonitor:
    """See the module.

    Args:
        stream: the log's stream.
        log_stream: its settings and epoch.
        appender: knows the last sequence that this node has seen.
        subject: returns a channel's subject.
        changed: notifies every node of a new epoch.
        connected: connects if necessary; returns whether the connection is a new one.
        resync: called when publications may have been missed.
    """

    def __init__(
        self,
        stream: JetStream,
        log_stream: LogStream,
        appender: NatsAppender,
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
        self._missed = False  # publications may not have reached this node meanwhile
        self._checking = asyncio.Lock()
        self._last_proof: asyncio.Task[int] | None = None
        self._next_proof: asyncio.Task[int] | None = None
        self._subjects = 0  # with a message at the last check: the number never falls
        self._server = ""
        self._unanswered_since: float | None = None  # on the loop's clock: no mark was stored since then
        self.refused: DependencyError | None = None
        self.running = False
        self.node = ""

    def recheck(self) -> None:
        """Check that the stream exists, without a new read of publications."""
        self._suspect.set()

    def missed(self) -> None:
        """Publications may not have reached this node: check, then read them again."""
        self._missed = True
        self._unanswered_since = None  # the silence before was that of another connection or leader
        self._suspect.set()

    async def on_missed(self, _: Msg) -> None:
        """`missed`, as a NATS subscription calls it."""
        self.missed()

    async def open(self, replicas: int, server: str) -> None:
        """Create or check the stream; `server` is the one that this node is connected to.

        Raises:
            ConfigError: its configuration can drop acknowledged publications.
            jetstream's errors.
        """
        async with self._checking:
            before, seen = self._log_stream.base_epoch, self._appender.highest_seq
            info = await self._log_stream.ensure(replicas, server)
            self._server = server
            if self._log_stream.made:  # a new stream has an epoch of its own
                self._appender.highest_seq, self._subjects = info.last, 0
                await self._log_stream.set_anchor(await self._append_anchor())
                await self._changed()
                self._adopt(before)
                return
            last = info.last
            if last < seen:  # or a leader that was cut off answered: only the real leader can append
                last = await self.append_mark() - 1
            await self._check(info, last, seen, before)

    async def proof(self) -> int:
        """Append a mark and inspect the stream, both after this call began; returns the mark's sequence.

        That proves that the answer comes from the stream's leader, and that it is still the stream of this epoch;
        otherwise the epoch has changed when this returns. Callers that come meanwhile share the next proof.

        Raises:
            jetstream's errors; DependencyError: the configuration can drop acknowledged publications.
        """
        if self._next_proof is None:
            self._next_proof = asyncio.get_running_loop().create_task(
                self._take_proof(self._last_proof), name="nats proof"
            )
            self._next_proof.add_done_callback(retrieve_error)
        return await asyncio.shield(self._next_proof)

    async def _take_proof(self, before: asyncio.Task[int] | None) -> int:
        if before is not None:
            await asyncio.wait([before])
        self._last_proof, self._next_proof = self._next_proof, None
        async with self._checking:
            epoch, seen = self._log_stream.base_epoch, self._appender.highest_seq
            try:
                mark = await self.append_mark()
                info = await self._log_stream.inspect(self._server)
            except (StreamMissing, JetStreamUnavailable):
                self.recheck()
                raise
            await self._check(info, mark - 1, seen, epoch)
            if self.refused is not None:
                raise self.refused
            return mark

    async def _check(self, info: StreamInfo, last: int, seen: int, before: str) -> None:
        """Check that it is still the stream of its epoch. `last`: its last sequence; `seen`: the last one before."""
        stream = self._log_stream
        lost = ""
        if stream.replaced:
            lost = "the stream was restored or recreated"
        elif last < seen:
            lost = f"the stream ends at {last}; it ended at {seen} before"
        elif stream.anchor and info.first > stream.anchor:
            lost = f"the stream lost its beginning, to a purge or a limit: {stream.anchor} to {info.first}"
        elif info.subjects < self._subjects and await self._fewer():
            lost = f"{self._subjects - info.subjects} channels are missing from the stream"
        elif stream.rebooted:
            lost = "the server's machine was restarted"
        self._subjects = info.subjects
        if lost:
            _log.error("broker_lost_publications", why=lost)
            self._appender.highest_seq = last
            await stream.change_epoch(await self._append_anchor())
            await self._changed()
        elif not stream.anchor:  # of an older narthex
            await stream.set_anchor(await self._append_anchor())
        self._appender.highest_seq = max(last, self._appender.highest_seq)
        self._adopt(before)
        self._refuse()

    def _adopt(self, before: str) -> None:
        """If the epoch differs from `before`, read everything again."""
        if before not in ("", self._log_stream.base_epoch):
            _log.warning("broker_epoch_changed")
            self._appender.forget()
            self._missed = True
            self._suspect.set()

    def _refuse(self) -> None:
        """Refuse a configuration that can lose data: it ends a start, and every later call raises it while running."""
        problems = self._log_stream.problems
        before, self.refused = self.refused, None
        if not problems:
            return
        text = f"Stream {self._stream.stream} can drop acknowledged publications: {'; '.join(problems)}."
        if not self.running:
            raise ConfigError([f"{text} {REMEDY}"])
        self.refused = DependencyError("broker", text, REMEDY)
        if before is None:
            _log.error("broker_refuses_stream", detail=text, remedy=REMEDY)

    async def _fewer(self) -> bool:
        """Whether the smaller number lasts: a server that is reading its files again gives one for a moment."""
        await asyncio.sleep(FEWER_AGAIN_S)
        return (await self._log_stream.inspect(self._server)).subjects < self._subjects

    async def _append_anchor(self) -> int:
        body = encode(StreamBatch(secrets.token_bytes(8), "", 1, 0, 0, []))
        return await self._stream.publish(self._subject("narthex/anchor"), body, expected=None)

    async def append_mark(self) -> int:
        """Append an empty mark; returns its sequence, which a majority has agreed on."""
        body = encode(StreamBatch(secrets.token_bytes(8), "", 1, 0, 0, []))
        began = asyncio.get_running_loop().time()
        if self._unanswered_since is None:
            self._unanswered_since = began
        seq = await self._stream.publish(self.mark_subject(), body, expected=None, rollup=True)
        self._unanswered_since = None
        self._appender.highest_seq = max(seq, self._appender.highest_seq)
        return seq

    async def ping(self) -> None:
        """Append and read back. Raises jetstream's errors, and DependencyError when the message is missing, or is not
        stored by a server that still reads.
        """
        mark = asyncio.create_task(self.append_mark(), name="nats ping")
        try:
            await asyncio.wait([mark], timeout=STORED_WITHIN_S)
            if not mark.done():
                await self._check_disk()
            seq = await mark
        finally:
            mark.cancel()
        last = await self._stream.last(self.mark_subject())
        if last is None or last.seq < seq:
            raise DependencyError(
                "broker", "JetStream did not return the message that was just stored.", "Check its log."
            )

    async def _check_disk(self) -> None:
        """NATS sends no answer to a message that it cannot write, and after one failed write it stores nothing until it
        is restarted. Raises DependencyError when the stream's only server reads and has stored nothing for `SILENT_S`,
        or several servers have stored nothing for as long.
        """
        since, now = self._unanswered_since, asyncio.get_running_loop().time()
        if since is None or now - since < SILENT_S:
            return
        # Of several servers, one without room leaves its work to the others; without most of them, none answers.
        if self._log_stream.replicas > 1:
            raise DependencyError(
                "broker",
                f"The NATS servers have stored nothing for {SILENT_S:g} s: most of them must run and agree.",
                "Start those that are down, let them reach each other, and free their disks: a server whose disk was "
                "full must be restarted. Their logs name the cause.",
                sign=ENGINE_HUNG,
            )
        await self._log_stream.inspect(self._server)
        raise DependencyError(
            "broker",
            "JetStream reads its log and stores nothing: its disk is full, or fails.",
            "Free disk space for NATS, then restart its server, which writes nothing before; its log names the cause.",
            sign=DISK_FULL,
        )

    async def run(self, reopen: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: after each doubt call `reopen` until it succeeds, then re-read what was perhaps missed."""
        away = False
        self.running = True
        while True:
            await self._suspect.wait()
            self._suspect.clear()
            try:
                self._missed |= await self._connected()
                await reopen()
            except (NarthexError, JetStreamUnavailable, StreamMissing, RequestRejected) as error:
                if not away:
                    _log.warning("broker_away", error=str(error))
                away = True
                self._suspect.set()
                await asyncio.sleep(AGAIN_S)
                continue
            except Exception:  # a bug, or an undocumented error of the library: only this task can report it
                _log.exception("broker_guard_raised")
                self._suspect.set()
                await asyncio.sleep(AGAIN_S)
                continue
            away = False
            if self._missed:
                self._missed = False
                self._resync()

    def mark_subject(self) -> str:
        """The subject of this node's marks; nodes share a few subjects."""
        return self._subject(f"narthex/ping:{zlib.crc32(self.node.encode()) % PING_SUBJECTS}")
