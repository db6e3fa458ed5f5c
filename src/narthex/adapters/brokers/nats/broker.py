"""Implements the Broker port on NATS JetStream from appending, reading, subscriptions and presence.

Not here: these parts themselves (`appending`, `reading`, `subscriptions`, `presence`). A channel is one subject of one
file stream. The stream itself sends publications to subscribers (`republish`), after they are stored and in their
order. After a reconnect, another leader or a slow reader, `resync` makes the handler read again what it may have
missed. `durability` and docs/guarantees.md name the settings that decide which failures an acknowledged publication
survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError

from narthex.adapters.brokers.cancellation import cancel_and_wait
from narthex.adapters.brokers.engine_errors import Retrier
from narthex.adapters.brokers.known_positions import KnownPositions
from narthex.adapters.brokers.nats.appending import NATS, NatsAppender
from narthex.adapters.brokers.nats.codec import Notice, StreamBatch, decode_live, encode, token
from narthex.adapters.brokers.nats.comparison import Comparison
from narthex.adapters.brokers.nats.connection import (
    certificate_end_of,
    connect,
    parse_address,
    read_certificate_end,
)
from narthex.adapters.brokers.nats.contention import Contention
from narthex.adapters.brokers.nats.jetstream import (
    JetStream,
    JetStreamUnavailable,
    RequestRejected,
    StreamMissing,
)
from narthex.adapters.brokers.nats.presence import PresenceStream
from narthex.adapters.brokers.nats.reading import PageReader
from narthex.adapters.brokers.nats.stream_monitor import StreamMonitor
from narthex.adapters.brokers.nats.streams import (
    KEPT_MESSAGES,
    LogStream,
    StreamNames,
    default_replicas,
    durability,
    ensure_presence,
    new_epoch,
    server_name,
)
from narthex.adapters.brokers.nats.subscriptions import NatsSubscriptions
from narthex.adapters.machine import boot_id
from narthex.errors import ENGINE_HUNG, DependencyError
from narthex.ports.broker import BrokerHandler, Control, Member, Page, Position, Published

T = TypeVar("T")

TIMEOUT_S: Final = 12.0  # a new leader has answered after as long as 7.9 s
HOUSEKEEPING_S: Final = 1.0
LISTEN_S: Final = 2.0  # to send a live connection's subscriptions, or to end it

_log = structlog.get_logger("narthex.broker", log_name="narthex.broker")
_decode_control = msgspec.json.Decoder(Control).decode


class NatsBroker:
    """The broker on NATS JetStream.

    Args:
        url: see `connection.parse_address`; credentials in it are never shown.
        timeout_s: seconds after which a call raises DependencyError; long enough for a fail-over.
        kept_messages: messages kept per channel, each with one or more publications.
        clock: returns seconds since the epoch, for `Publication.at` and the window of keys.
    """

    positions_exact = False

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
        self._retrier = Retrier(
            NATS,
            self._address.shown,
            timeout_s,
            passing=(JetStreamUnavailable, StreamMissing),
            heal=self._heal,
            stopping=lambda: self._stopping,
        )
        self._client_now: Client | None = None
        self._names = names = StreamNames(self._address.prefix)
        self._stream = JetStream(self._client, names.log_stream)
        self._log_stream = LogStream(
            self._stream, names, kept_messages, boot_id() if self._address.local else ""
        )
        epoch, subject = self._log_stream.epoch, self._subject
        self._subscriptions = NatsSubscriptions(self._client, names.live, self._on_live)
        self._contention = Contention(
            partial(self._subscriptions.want, beside=True), partial(self._subscriptions.drop, beside=True)
        )
        self._appender = NatsAppender(
            self._stream,
            subject=subject,
            epoch=epoch,
            timeout_s=timeout_s,
            clock=clock,
            recheck=lambda: self._monitor.recheck(),  # noqa: PLW0108 - the monitor is made of this appender
            max_body=lambda: self._client().max_payload,
            contention=self._contention,
            prove=lambda: self._monitor.proof(),  # noqa: PLW0108 - as above
        )
        self._reader = PageReader(self._stream, subject=subject, epoch=epoch)
        self._comparison = Comparison(
            self._stream,
            subject=subject,
            epoch=epoch,
            mark=lambda: self._monitor.mark_subject(),  # noqa: PLW0108 - the monitor is made below
        )
        self._presence_api = JetStream(self._client, names.presence_stream)
        self._presence = PresenceStream(self._presence_api, names)
        self._known = KnownPositions()
        self._monitor = StreamMonitor(
            self._stream,
            self._log_stream,
            self._appender,
            subject=subject,
            changed=lambda: self._send(names.epoch, b""),
            connected=self._connected,
            resync=self._resync,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._handler: BrokerHandler | None = None
        self._node = ""
        self._fault: Exception | None = None  # of the connection, until there is one again
        self._stopping = False

    @property
    def pending(self) -> int:
        """Publications that wait for JetStream."""
        return self._appender.pending

    async def certificate_ends_at(self) -> float:
        """The end of the server's TLS certificate, on a fresh connection; 0.0 without TLS. Raises DependencyError."""
        if self._client_now is None or not certificate_end_of(self._client_now):
            return 0.0
        return await read_certificate_end(self._address)

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """Connect, create or check the streams, subscribe. Raises ConfigError or DependencyError."""
        self._handler, self._node, self._monitor.node = handler, node, node
        self._stopping = False
        try:
            await self._connect()
            replicas = self._address.replicas or default_replicas(self._client())
            await self._retrying(lambda: self._open_first(replicas))
        except BaseException:
            await self._disconnect()
            raise
        self.durability = durability(self._log_stream.replicas)
        self._subscriptions.renew()  # of an earlier start
        self._appender.open()
        self._tasks = [
            asyncio.create_task(self._subscriptions.run(), name="nats subscriptions"),
            asyncio.create_task(self._housekeeping(), name="nats housekeeping"),
            asyncio.create_task(
                self._monitor.run(lambda: self._open_streams(self._log_stream.replicas)),
                name="nats stream guard",
            ),
        ]

    async def stop(self) -> None:
        """Wait until publishes have finished or failed, then disconnect; idempotent."""
        self._stopping = True
        await self._appender.stop()
        self._monitor.running = False
        await cancel_and_wait(*self._tasks)
        self._tasks = []
        await self._disconnect()

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        """See the port. Raises Overloaded or DependencyError."""
        self._usable()
        return await self._appender.submit(channel, data, key, tags, expected)

    def subscribe(self, channel: str) -> None:
        """See the port."""
        self._subscriptions.want(channel)

    def unsubscribe(self, channel: str) -> None:
        """See the port."""
        self._subscriptions.drop(channel)
        self._known.forget(channel)
        self._comparison.forget(channel)

    def known_position(self, channel: str) -> Position | None:
        """The end of a subscribed channel's log, as far as the handler got it."""
        return self._known.find(channel)

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        """See the port. This node appends a message first, which shows that the answers are the log's: a leader that is
        cut off cannot append. It checks the stream's identity on the way. Raises DependencyError.
        """

        async def compare() -> dict[str, Position]:
            return await self._comparison.behind(known, await self._monitor.proof())

        return await self._retrying(compare)

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """See the port. Raises DependencyError."""

        async def read() -> Page:
            await self._subscriptions.settled(channel)
            if since is not None and since.epoch:  # `complete` must be true of the current log
                await self._monitor.proof()
            through = self._appender.highest_seq
            page = await self._reader.page(channel, since, limit, reverse)
            if self._subscriptions.wants(channel):
                self._known.read(channel, page.top)
                self._comparison.read(channel, through)
            return page

        return await self._retrying(read)

    async def remove(self, channel: str) -> None:
        """See the port."""
        self._usable()
        await self._appender.remove(channel, new_epoch())
        self._known.forget(channel)

    async def trim(self, channel: str, through: Position) -> None:
        """See the port; does nothing while more keys count than fit in a message. Raises DependencyError."""
        self._usable()
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
        """See the port; no retries beyond one leader's answer, because health needs the current state."""
        client = self._usable()
        try:
            await self._monitor.ping()
        except (JetStreamUnavailable, StreamMissing, RequestRejected) as error:
            raise self._unreachable(error) from error
        if not client.is_connected:
            raise self._unreachable(JetStreamUnavailable("the connection is down"))

    async def _drop(self, channel: str, through: Position) -> None:
        await self._monitor.proof()  # else the epoch may be that of a stream that is gone
        seq = await self._reader.sequence_of(channel, Position(through.offset + 1, through.epoch))
        if seq is not None:  # the last message of a channel always stays, because it is its position
            api = f"STREAM.PURGE.{self._names.log_stream}"
            await self._stream.api(api, {"filter": self._subject(channel), "seq": seq})

    def _subject(self, channel: str) -> str:
        return self._names.log + token(channel)

    def _client(self) -> Client:
        if self._client_now is None:
            raise JetStreamUnavailable("not connected")
        return self._client_now

    def _running(self) -> Client:
        if self._client_now is None or self._stopping:
            raise NATS.not_running()
        return self._client_now

    def _usable(self) -> Client:
        """As `_running`, and the stream's configuration cannot lose acknowledged publications."""
        client = self._running()
        if self._monitor.refused is not None:
            raise self._monitor.refused
        return client

    def _unreachable(self, error: Exception) -> DependencyError:
        sign = getattr(error, "sign", "")
        if not sign and isinstance(self._fault, TimeoutError | StaleConnectionError):
            sign = ENGINE_HUNG
        return NATS.silent(self._address.shown, str(error), sign)

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it succeeds or `timeout_s` is over. Raises DependencyError."""
        self._usable()
        try:
            return await self._retrier.call(call)
        except RequestRejected as refused:
            raise self._unreachable(refused) from refused

    async def _heal(self, fault: Exception) -> None:
        if isinstance(fault, StreamMissing):
            self._monitor.recheck()

    async def _connect(self) -> None:
        self._client_now = client = await connect(
            self._address,
            name=f"narthex {self._node}",
            disconnected=self._on_disconnected,
            reconnected=self._on_reconnected,
            error=self._on_error,
        )
        try:
            async with asyncio.timeout(LISTEN_S):
                await self._stream.listen()
                await self._presence_api.listen()
                await client.subscribe(self._names.control_all, cb=self._on_control)
                await client.subscribe(self._names.control_node + token(self._node), cb=self._on_control)
                await client.subscribe(self._names.epoch, cb=self._monitor.on_missed)
                await client.subscribe(
                    f"$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{self._names.log_stream}",
                    cb=self._monitor.on_missed,
                )
        except (NatsError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _disconnect(self) -> None:
        client, self._client_now = self._client_now, None
        if client is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(LISTEN_S):
                    await client.close()

    async def _connected(self) -> bool:
        """Connect again if the library gave up; returns whether it did. Raises DependencyError."""
        if self._client_now is not None and not self._client_now.is_closed:
            return False
        await self._disconnect()
        await self._connect()
        self._subscriptions.renew()
        return True

    async def _open_first(self, replicas: int) -> None:
        """As `_open_streams`; a connection that breaks meanwhile ends this start, and the next start connects again."""
        if not self._client().is_connected:
            raise self._unreachable(JetStreamUnavailable("the connection broke"))
        await self._open_streams(replicas)

    async def _open_streams(self, replicas: int) -> None:
        await self._monitor.open(replicas, server_name(self._client()))
        await ensure_presence(self._presence_api, self._names, replicas)

    def _resync(self) -> None:
        """Called by the monitor's only task, which an exception must not end."""
        self._known.clear()
        self._comparison.clear()
        if self._handler is not None:
            try:
                self._handler.resync(None)
            except Exception:
                _log.exception("broker_handler_raised")

    def _on_live(self, message: Msg) -> None:
        """Handle a message of a followed channel, within the library's read loop, which an exception must not end."""
        try:
            self._tell(message)
        except Exception:
            _log.exception("broker_handler_raised")

    def _tell(self, message: Msg) -> None:
        """Pass on publications, which are stored, or a notice."""
        channel = self._subscriptions.channel(message.subject)
        if channel is None or self._handler is None:
            return
        try:
            found = decode_live(message.data)
        except msgspec.MsgspecError:
            _log.error("broker_message_malformed", channel=channel)
            return
        if isinstance(found, StreamBatch):
            self._appender.heard(channel, found, message.headers or {})
        if not self._subscriptions.wants(channel):
            return
        if isinstance(found, Notice):
            self._handler.presence(channel, found.member, found.joined)
            return
        epoch = self._log_stream.epoch(found.incarnation)
        self._known.delivered(channel, Position(found.top, epoch))
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
        if self._fault is None:  # nats-py reports every cause but unanswered pings
            self._fault = StaleConnectionError()
        self._known.clear()

    async def _on_reconnected(self) -> None:
        self._fault = None
        self._monitor.missed()

    async def _on_error(self, error: Exception) -> None:
        if self._client_now is None:  # during a start, which reports its own errors
            return
        self._fault = error
        _log.warning("broker_connection", error=type(error).__name__)

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self._monitor.refused is not None or (
                self._client_now is not None and self._client_now.is_closed
            ):
                self._monitor.recheck()
            self._contention.end_idle(asyncio.get_running_loop().time())
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
