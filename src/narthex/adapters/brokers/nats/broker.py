"""The Broker port on NATS JetStream: puts appending, reading, subscriptions and presence together.

A channel is one subject of one file stream. A publication is told to subscribers by the stream itself
(`republish`), which happens after it is stored and in its order; what may have been missed meanwhile (a
reconnect, another leader, a slow reader) is re-read because `resync` says so. Settings that decide what an
acknowledgement survives are in `durability` and docs/guarantees.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from narthex.adapters.brokers.ending import end
from narthex.adapters.brokers.nats.appending import Appender
from narthex.adapters.brokers.nats.codec import Batch, Notice, decode_live, encode, token
from narthex.adapters.brokers.nats.connection import connect, parse_address
from narthex.adapters.brokers.nats.jetstream import JetStream, Refused, StreamMissing, Unavailable
from narthex.adapters.brokers.nats.presence import PresenceStream
from narthex.adapters.brokers.nats.reading import PageReader
from narthex.adapters.brokers.nats.streams import (
    KEPT_MESSAGES,
    LogStream,
    Names,
    default_replicas,
    durability,
    ensure_presence,
    new_epoch,
    server_name,
)
from narthex.adapters.brokers.nats.subscriptions import Subscriptions
from narthex.adapters.machine import boot_id
from narthex.errors import DependencyError, NarthexError
from narthex.ports.broker import (
    BrokerHandler,
    Control,
    Member,
    Page,
    Position,
    Published,
)

T = TypeVar("T")

TIMEOUT_S: Final = 12.0  # a new leader was seen to answer after 7.9 s
HOUSEKEEPING_S: Final = 1.0
WATCH_AGAIN_S: Final = 0.5  # while JetStream is away
PING_SUBJECTS: Final = 64  # nodes share them: a ping leaves one message a subject

_log = structlog.get_logger("narthex.broker")
_decode_control = msgspec.json.Decoder(Control).decode


class NatsBroker:
    """The broker on NATS JetStream.

    Args:
        url: see `connection.parse_address`; credentials in it are never shown.
        timeout_s: after which a call raises DependencyError; long enough for a fail-over.
        kept_messages: of a channel, each with one or more publications.
        clock: seconds since the epoch, for `Publication.at` and the window of keys.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        kept_messages: int = KEPT_MESSAGES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = parse_address(url)
        self.durability = durability(self._address.replicas or 1)
        self._timeout_s = timeout_s
        self._clock = clock
        self._client_now: Client | None = None
        self._names = names = Names(self._address.prefix)
        self._stream = JetStream(self._client, names.log_stream)
        self._log_stream = LogStream(
            self._stream, names, kept_messages, boot_id() if self._address.local else ""
        )
        epoch, subject = self._log_stream.epoch, self._subject
        self._appender = Appender(
            self._stream,
            subject=subject,
            epoch=epoch,
            timeout_s=timeout_s,
            clock=clock,
            doubt=self._on_doubt,
            max_body=lambda: self._client().max_payload,
        )
        self._reader = PageReader(self._stream, subject=subject, epoch=epoch)
        self._presence_api = JetStream(self._client, names.presence_stream)
        self._presence = PresenceStream(self._presence_api, names)
        self._subscriptions = Subscriptions(self._client, names.live, self._on_live)
        self._tops: dict[str, Position] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._suspect = asyncio.Event()  # the stream may have another leader, or be another one
        self._missed = False  # publications may have been told to nobody meanwhile
        self._handler: BrokerHandler | None = None
        self._node = ""
        self._stopping = False

    @property
    def pending(self) -> int:
        """Publications that wait for JetStream."""
        return self._appender.pending

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """Connect, make sure of the streams, listen. Raises ConfigError or DependencyError."""
        self._handler, self._node = handler, node
        try:
            await self._connect()
            replicas = self._address.replicas or default_replicas(self._client())
            await self._retrying(lambda: self._open_streams(replicas))
        except BaseException:
            await self._disconnect()
            raise
        self.durability = durability(self._log_stream.replicas)
        self._appender.open()
        self._tasks = [
            asyncio.create_task(self._subscriptions.run(), name="nats subscriptions"),
            asyncio.create_task(self._housekeeping(), name="nats housekeeping"),
            asyncio.create_task(self._watch_stream(), name="nats stream watch"),
        ]

    async def stop(self) -> None:
        """Let publishes finish or fail, then disconnect; idempotent."""
        self._stopping = True
        await self._appender.stop()
        await end(*self._tasks)
        self._tasks = []
        await self._disconnect()

    async def publish(
        self, channel: str, data: bytes, *, key: str | None = None, tags: dict[str, str] | None = None
    ) -> Published:
        """See the port. Raises Overloaded or DependencyError."""
        return await self._appender.submit(channel, data, key, tags)

    def subscribe(self, channel: str) -> None:
        """See the port."""
        self._subscriptions.want(channel)

    def unsubscribe(self, channel: str) -> None:
        """See the port."""
        self._subscriptions.drop(channel)
        self._tops.pop(channel, None)

    def known_position(self, channel: str) -> Position | None:
        """The end of a subscribed channel's log, as far as the handler was told."""
        return self._tops.get(channel)

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """See the port. Raises DependencyError."""

        async def read() -> Page:
            await self._subscriptions.settled(channel)
            return await self._reader.page(channel, since, limit, reverse)

        page = await self._retrying(read)
        known = self._tops.get(channel)
        if self._subscriptions.wants(channel) and (known is None or known.offset < page.top.offset):
            self._tops[channel] = page.top
        return page

    async def remove(self, channel: str) -> None:
        """See the port."""
        self._running()
        await self._appender.remove(channel, new_epoch())
        self._tops.pop(channel, None)

    async def trim(self, channel: str, through: int) -> None:
        """See the port; not done while more keys count than a message holds. Raises DependencyError."""
        self._running()
        if await self._appender.remember(channel):
            await self._retrying(lambda: self._drop(channel, through))

    async def join(self, channel: str, member: Member) -> None:
        """See the port."""
        if await self._retrying(lambda: self._presence.join(channel, member, time.monotonic())):
            await self._notify(channel, Notice(member, True))

    async def leave(self, channel: str, client: str) -> None:
        """See the port."""
        member = await self._retrying(lambda: self._presence.leave(channel, client))
        if member is not None:
            await self._notify(channel, Notice(member, False))

    async def members(self, channel: str) -> Mapping[str, Member]:
        """See the port."""
        return await self._retrying(lambda: self._presence.members(channel))

    async def control(self, message: Control) -> None:
        """See the port. Raises DependencyError while disconnected."""
        subject = self._names.control_node + token(message.node) if message.node else self._names.control_all
        await self._send(subject, msgspec.json.encode(message))

    async def ping(self) -> None:
        """See the port; no retries beyond one leader's answer, because health is asked for now."""
        client = self._running()
        try:
            seq = await self._append_mark()
            last = await self._stream.last(self._mark_subject())
        except (Unavailable, StreamMissing, Refused) as error:
            raise self._unreachable(error) from error
        if last is None or last.seq < seq or not client.is_connected:
            raise DependencyError(
                "broker", "JetStream did not give back what was stored.", "Look at its log."
            )

    def _mark_subject(self) -> str:
        return self._subject(f"narthex/ping:{zlib.crc32(self._node.encode()) % PING_SUBJECTS}")

    async def _append_mark(self) -> int:
        """Append a message that means nothing; its sequence, which a majority has agreed on."""
        body = encode(Batch(secrets.token_bytes(8), "", 1, 0, 0, []))
        return await self._stream.publish(self._mark_subject(), body, expected=None, rollup=True)

    async def _drop(self, channel: str, through: int) -> None:
        seq = await self._reader.sequence_of(channel, through + 1)
        if seq is not None:  # the last message of a channel always stays: it is its position
            api = f"STREAM.PURGE.{self._names.log_stream}"
            await self._stream.api(api, {"filter": self._subject(channel), "seq": seq})

    def _subject(self, channel: str) -> str:
        return self._names.log + token(channel)

    def _client(self) -> Client:
        if self._client_now is None:
            raise Unavailable("not connected")
        return self._client_now

    def _running(self) -> Client:
        if self._client_now is None or self._stopping:
            raise DependencyError("broker", "The NATS broker is not running.", "Call start() first.")
        return self._client_now

    def _unreachable(self, error: Exception) -> DependencyError:
        return DependencyError(
            "broker",
            f"JetStream at {self._address.shown} did not answer: {error}.",
            "Retry; if it lasts, look at the NATS servers.",
        )

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it works or `timeout_s` is over."""
        self._running()
        wait = 0.05
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        return await call()
                    except (Unavailable, StreamMissing) as error:
                        last_error: Exception = error
                        if self._stopping:
                            raise self._unreachable(error) from error
                    if isinstance(last_error, StreamMissing):
                        self._on_doubt()
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, 0.5)
        except TimeoutError as late:
            raise self._unreachable(Unavailable(f"no answer within {self._timeout_s:g} s")) from late
        except Refused as refused:
            raise self._unreachable(refused) from refused

    async def _connect(self) -> None:
        self._client_now = client = await connect(
            self._address,
            name=f"narthex {self._node}",
            disconnected=self._on_disconnected,
            reconnected=self._on_reconnected,
            error=self._on_error,
        )
        try:
            await self._stream.listen()
            await self._presence_api.listen()
            await client.subscribe(self._names.control_all, cb=self._on_control)
            await client.subscribe(self._names.control_node + token(self._node), cb=self._on_control)
            await client.subscribe(self._names.epoch, cb=self._on_suspect)
            await client.subscribe(
                f"$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{self._names.log_stream}", cb=self._on_suspect
            )
        except NatsError as error:
            raise self._unreachable(error) from error

    async def _disconnect(self) -> None:
        client, self._client_now = self._client_now, None
        if client is not None:
            with contextlib.suppress(NatsError, OSError):
                await client.close()

    async def _open_streams(self, replicas: int) -> None:
        seen = self._appender.highest_seq  # before the question: acknowledgements overtake its answer
        last = await self._log_stream.ensure(replicas, server_name(self._client()))
        if self._log_stream.made:  # a new one has an epoch of its own
            self._appender.highest_seq = last
            await self._send(self._names.epoch, b"")
        elif last < seen:  # unless a leader that was cut off answered: only the real one can append
            last = await self._append_mark() - 1
        if not self._log_stream.made and (last < seen or self._log_stream.rebooted):
            _log.error("broker_lost_publications", last=last, expected=seen)
            self._appender.highest_seq = last
            await self._log_stream.change_epoch()
            await self._send(self._names.epoch, b"")
        self._appender.highest_seq = max(last, self._appender.highest_seq)
        await ensure_presence(self._presence_api, self._names, replicas)

    def _on_live(self, message: Msg) -> None:
        """A message of a followed channel. Called inside the library's read loop, which must not meet our bugs."""
        try:
            self._tell(message)
        except Exception:
            _log.exception("broker_handler_raised")

    def _tell(self, message: Msg) -> None:
        """Publications, after they are stored, or a notice."""
        channel = self._subscriptions.channel(message.subject)
        if channel is None or self._handler is None:
            return
        try:
            found = decode_live(message.data)
        except msgspec.MsgspecError:
            _log.error("broker_message_malformed", channel=channel)
            return
        if isinstance(found, Notice):
            self._handler.presence(channel, found.member, found.joined)
            return
        self._appender.heard(channel, found, message.headers or {})
        epoch = self._log_stream.epoch(found.incarnation)
        self._tops[channel] = Position(found.top, epoch)
        for publication in found.publications():
            self._handler.publication(channel, publication, epoch)

    async def _on_control(self, message: Msg) -> None:
        try:
            found = _decode_control(message.data)
        except msgspec.MsgspecError:
            _log.error("broker_control_malformed")
            return
        if self._handler is not None:
            self._handler.control(found)

    async def _on_disconnected(self) -> None:
        self._tops.clear()

    async def _on_reconnected(self) -> None:
        self._missed = True
        self._suspect.set()

    async def _on_suspect(self, _: Msg) -> None:
        self._missed = True
        self._suspect.set()

    def _on_doubt(self) -> None:
        """Look whether the stream is there; what was told meanwhile was not missed for that."""
        self._suspect.set()

    async def _on_error(self, error: Exception) -> None:
        _log.warning("broker_connection", error=type(error).__name__)

    async def _watch_stream(self) -> None:
        """After a reconnect or an election: is it the same log, does it still end where it did? Then re-read."""
        away = False
        while True:
            await self._suspect.wait()
            self._suspect.clear()
            try:
                if self._client_now is None or self._client_now.is_closed:
                    await self._disconnect()
                    await self._connect()
                    self._subscriptions.renew()
                    self._missed = True
                before = self._log_stream.base_epoch
                await self._open_streams(self._log_stream.replicas)
                if before != self._log_stream.base_epoch:
                    _log.warning("broker_epoch_changed")
                    self._appender.forget()
                    self._missed = True
            except (NarthexError, Unavailable, StreamMissing, Refused) as error:
                if not away:
                    _log.warning("broker_away", error=str(error))
                away = True
                self._suspect.set()
                await asyncio.sleep(WATCH_AGAIN_S)
                continue
            away = False
            if self._missed:
                self._missed = False
                self._tops.clear()
                if self._handler is not None:
                    self._handler.resync(None)

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self._client_now is not None and self._client_now.is_closed:
                self._suspect.set()
            for channel, member in self._presence.expire(time.monotonic()):
                await self._notify(channel, Notice(member, False))

    async def _notify(self, channel: str, notice: Notice) -> None:
        with contextlib.suppress(DependencyError):  # at most once, best effort
            await self._send(self._names.live + token(channel), encode(notice))

    async def _send(self, subject: str, body: bytes) -> None:
        try:
            await self._running().publish(subject, body)
        except (NatsError, OSError) as error:
            raise self._unreachable(error) from error
