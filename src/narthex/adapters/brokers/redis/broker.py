"""Implements the Broker port on Redis or Valkey: one server (or one endpoint that fails over), any number of nodes.

Not here: batches of publications (`appending`), pub/sub (`listening`), the scripts (`scripts`). One Lua script assigns
a publication's offset, writes its log entry and key, and publishes it, as one atomic step. The server writes its
append-only file before it answers any client, so that no client sees a publication before it is written; `durability`
and docs/guarantees.md say which failures it survives, which depends on `appendfsync`. After every change of server, all
nodes compare their state with the server's before they append or read (`attachment`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from narthex.adapters.brokers.cancellation import cancel_and_wait
from narthex.adapters.brokers.engine_errors import Retrier
from narthex.adapters.brokers.known_positions import KnownPositions
from narthex.adapters.brokers.redis import scripts
from narthex.adapters.brokers.redis.appending import REDIS, RedisAppender, refused
from narthex.adapters.brokers.redis.attachment import Attachment, NotYet
from narthex.adapters.brokers.redis.connection import (
    FAULTS,
    NewRun,
    Replica,
    Script,
    certificate_end_of,
    connect,
    parse_address,
    read_settings,
)
from narthex.adapters.brokers.redis.listening import Listener
from narthex.app.tasks import retrieve_error
from narthex.errors import ConfigError, DependencyError
from narthex.ports.broker import (
    KEPT_PUBLICATIONS,
    MAX_HISTORY_PAGE,
    PRESENCE_TTL_S,
    BrokerHandler,
    Control,
    Member,
    Page,
    Position,
    Publication,
    Published,
)

T = TypeVar("T")

TIMEOUT_S: Final = 12.0  # long enough for a restart that loads its file, or a managed fail-over
CONNECT_S: Final = 5.0
KEPT_AGE_S: Final = 7 * 86_400  # of an idle channel: then its log is dropped, its position stays
READ_AT_ONCE: Final = 1_000
AT_LENGTH: Final = 14  # of a message's moment, `1700000000.123`; the publication's number follows
COMPARE_AT_ONCE: Final = 500  # channels: the server is busy with nothing else for about 0.5 ms
PING_CHANNEL: Final = "narthex/ping"

_log = structlog.get_logger("narthex.broker", log_name="narthex.broker")
_decode_control = msgspec.json.Decoder(Control).decode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_tags = msgspec.json.Decoder(dict[str, str]).decode


class RedisBroker:
    """The broker on Redis or Valkey.

    Args:
        url: see `connection.parse_address`; credentials in it are never shown.
        timeout_s: seconds after which a call raises DependencyError.
        kept_count: the newest publications of a channel that are kept, at least.
        kept_age_s: seconds for which the log of a channel without new publications is kept.
    """

    positions_exact = False

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        kept_count: int = KEPT_PUBLICATIONS,
        kept_age_s: int = KEPT_AGE_S,
    ) -> None:
        self._address = parse_address(url)
        self.durability = durability("everysec")
        self._retrier = Retrier(
            REDIS,
            self._address.shown,
            timeout_s,
            passing=(NewRun, *FAULTS),
            heal=self._heal,
            stopping=lambda: self._stopping,
        )
        self._kept = (kept_count, kept_age_s)
        self._names = scripts.KeyNames(self._address.prefix)
        self._scripts = {
            name: Script(getattr(scripts, name))
            for name in (
                *("APPEND", "READ", "BEHIND", "REMOVE", "TRIM", "ATTACH", "BEAT", "DETACH", "JOIN"),
                *("LEAVE", "MEMBERS"),
            )
        }
        self._known = KnownPositions()
        self._listener = Listener(self._client, self._on_told, lost=self._known.clear, renewed=self._renewed)
        self._attachment = Attachment(
            self._names,
            self._script,
            synced=self._read_settings,
            unsure=self._known.clear,
            changed=self._moved,
            away=self._away,
        )
        self._appender = RedisAppender(
            self._names,
            self._append,
            attach=self._attachment.attach,
            seen=self._attachment.seen,
            timeout_s=timeout_s,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._client_now: Redis | None = None
        self._turn = 0
        self._told_replica = False
        self._handler: BrokerHandler | None = None
        self._node = ""
        self._stopping = False

    @property
    def pending(self) -> int:
        """Publications that wait for the server."""
        return self._appender.pending

    async def certificate_ends_at(self) -> float:
        """The end of the server's TLS certificate, on a fresh connection; 0.0 without TLS. Raises DependencyError."""
        try:
            return await certificate_end_of(self._client())
        except FAULTS as fault:
            raise DependencyError(
                "broker",
                f"Cannot connect to Redis at {self._address.shown}.",
                "Check its certificate and log.",
            ) from fault

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """Connect and subscribe. Raises ConfigError or DependencyError."""
        self._handler, self._node = handler, node
        self._stopping = False
        self._client_now = connect(self._address, self._turn)
        try:
            async with asyncio.timeout(CONNECT_S):
                while True:
                    try:
                        await self._attachment.attach()
                        break
                    except (NotYet, Replica):  # `_script` has left a replica already
                        await asyncio.sleep(0.1)
                    except FAULTS:
                        await self._elsewhere()
                        await asyncio.sleep(0.1)
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, TimeoutError):
                raise DependencyError(
                    "broker",
                    f"Cannot reach Redis at {self._address.shown} within {CONNECT_S:g} s.",
                    "Start it, or check NARTHEX_BROKER_URL.",
                ) from error
            raise
        self._listener.want(self._names.control_all)
        self._listener.want(self._names.control_prefix + node)
        self._listener.want(self._attachment.beats)
        self._tasks = [
            asyncio.create_task(self._listener.run(), name="redis listener"),
            asyncio.create_task(self._attachment.run(), name="redis beat"),
        ]
        self._appender.open()
        await self._retrying(lambda: self._listener.settled(self._names.control_prefix + node))

    async def stop(self) -> None:
        """Wait until publishes have finished or failed, then disconnect; idempotent."""
        self._stopping = True
        await self._appender.stop()
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)
        if tasks:
            await self._attachment.detach()
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
        return await self._appender.submit(channel, data, key, tags, expected)

    def subscribe(self, channel: str) -> None:
        """See the port."""
        self._listener.want(self._names.told(channel))

    def unsubscribe(self, channel: str) -> None:
        """See the port."""
        self._listener.drop(self._names.told(channel))
        self._known.forget(channel)

    def known_position(self, channel: str) -> Position | None:
        """The end of a subscribed channel's log, as far as the handler got it."""
        return self._known.find(channel)

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        """See the port. Raises DependencyError."""
        listed = list(known.items())
        found: dict[str, Position] = {}
        for start in range(
            0, max(len(listed), 1), COMPARE_AT_ONCE
        ):  # also without channels, to check that the server is the same run
            part = listed[start : start + COMPARE_AT_ONCE]
            by_epoch = [
                [epoch, *(one for name, end in part if end.epoch == epoch for one in (name, end.offset))]
                for epoch in {end.epoch for _, end in part}
            ]
            body = msgspec.json.encode(by_epoch)
            for name, top, epoch in await self._retrying(partial(self._compare, body)):
                found[name.decode()] = Position(int(top), epoch.decode())
        return found

    async def _compare(self, listed: bytes) -> Any:
        keys = [self._names.epoch, self._names.reign]
        return await self._script("BEHIND", keys, [self._attachment.reign, self._names.meta_prefix, listed])

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """See the port. Raises DependencyError."""
        count = MAX_HISTORY_PAGE if limit is None else min(limit, MAX_HISTORY_PAGE)
        told = self._names.told(channel)

        async def read() -> Page:
            await self._listener.settled(told)
            return await self._page(channel, since, count, reverse)

        page = await self._retrying(read)
        if self._listener.wants(told):
            self._known.read(channel, page.top)
        return page

    async def remove(self, channel: str) -> None:
        """See the port."""
        await self._retrying(lambda: self._on_channel("REMOVE", channel, secrets.token_urlsafe(6)))
        self._known.forget(channel)

    async def trim(self, channel: str, through: Position) -> None:
        """See the port."""
        await self._retrying(lambda: self._on_channel("TRIM", channel, through.offset, through.epoch))

    async def join(self, channel: str, member: Member) -> None:
        """See the port."""
        body = msgspec.json.encode(member)
        await self._retrying(lambda: self._on_presence("JOIN", channel, member.client, body, PRESENCE_TTL_S))

    async def leave(self, channel: str, client: str) -> None:
        """See the port."""
        await self._retrying(lambda: self._on_presence("LEAVE", channel, client))

    async def members(self, channel: str) -> Mapping[str, Member]:
        """See the port."""
        found = await self._retrying(lambda: self._on_presence("MEMBERS", channel))
        return {member.client: member for member in map(_decode_member, found)}

    async def control(self, message: Control) -> None:
        """See the port. Raises DependencyError."""
        name = self._names.control_prefix + message.node if message.node else self._names.control_all
        await self._retrying(
            lambda: self._shielded(self._client().publish(name, msgspec.json.encode(message)))
        )

    async def ping(self) -> None:
        """See the port. Raises at once for a server that refuses connections; waits for one that is silent."""
        fault = self._attachment.fault
        if isinstance(fault, ResponseError):  # it answers, and refuses the beat, which is a write too
            raise refused(fault)
        if fault is not None and not isinstance(fault, TimeoutError | RedisTimeoutError):
            raise REDIS.silent(self._address.shown, type(fault).__name__)
        self._appender.check_room()
        published = await self.publish(PING_CHANNEL, b"{}")
        page = await self.history(
            PING_CHANNEL, since=Position(published.offset - 1, published.epoch), limit=1
        )
        if page.complete and [found.offset for found in page.publications] != [published.offset]:
            raise DependencyError("broker", "Redis did not return the appended entry.", "Check its log.")
        await self.trim(PING_CHANNEL, Position(published.offset, published.epoch))

    def _client(self) -> Redis:
        if self._client_now is None:
            raise ConnectionError("not connected")
        return self._client_now

    async def _disconnect(self) -> None:
        client, self._client_now = self._client_now, None
        if client is not None:
            with contextlib.suppress(*FAULTS):
                await client.aclose()

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it succeeds or `timeout_s` is over. Raises DependencyError."""
        if self._client_now is None or self._stopping:
            raise REDIS.not_running()
        return await self._retrier.call(call)

    async def _heal(self, fault: Exception) -> None:
        if isinstance(fault, NewRun):
            with contextlib.suppress(*FAULTS, ConfigError):
                await self._attachment.attach()

    async def _elsewhere(self) -> None:
        """Leave a server that is a replica or does not answer: the name may resolve to another server now."""
        self._turn += 1
        before, self._client_now = self._client_now, connect(self._address, self._turn)
        self._listener.reconnect()
        if before is not None:
            with contextlib.suppress(*FAULTS):
                await before.aclose()

    async def _away(self) -> None:
        """After a beat without an answer, try the next server, if the address names several."""
        if len(self._address.urls) > 1:
            await self._elsewhere()

    def _moved(self) -> None:
        """For another server, drop the known positions and reconnect the listener, which may still use the old one."""
        self._told_replica = False
        self._known.clear()
        self._listener.reconnect()

    async def _shielded(self, command: Awaitable[T]) -> T:
        """Run a command that keeps running when its caller is cancelled: see the rule in connection.py."""
        task = asyncio.ensure_future(command)
        task.add_done_callback(retrieve_error)
        return await asyncio.shield(task)

    async def _script(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        client = self._client()
        try:
            return await self._shielded(self._scripts[name](client, keys, arguments))
        except Replica:
            if client is self._client_now and not self._stopping:
                if not self._told_replica:
                    self._told_replica = True
                    _log.warning("broker_server_is_a_replica", server=self._address.shown)
                await self._elsewhere()
            raise

    async def _append(self, keys: list[str], arguments: list[Any]) -> Any:
        names, attached = self._names, self._attachment
        head = [names.epoch, names.reign, names.nodes, names.seq]
        values = [attached.reign, attached.instance, *self._kept, *arguments]
        return await self._script("APPEND", head + keys, values)

    async def _on_channel(self, name: str, channel: str, *arguments: Any) -> Any:
        names = self._names
        keys = [names.epoch, names.reign, names.meta(channel), names.log(channel), names.seq]
        return await self._script(name, keys, [self._attachment.reign, *arguments])

    async def _on_presence(self, name: str, channel: str, *arguments: Any) -> Any:
        return await self._script(name, list(self._names.presence(channel)), list(arguments))

    async def _page(self, channel: str, since: Position | None, count: int, reverse: bool) -> Page:
        epoch = since.epoch if since is not None else ""
        low = 1 if since is None or reverse else since.offset + 1
        high = since.offset - 1 if since is not None and reverse else 2**53
        found: list[Publication] = []
        while True:
            step = min(READ_AT_ONCE, count - len(found))
            bounds = (f"{max(low, 0)}-0", f"{max(high, 0)}-0", step, "desc" if reverse else "asc")
            top, epoch_now, kept, entries, seq = await self._on_channel("READ", channel, epoch, *bounds)
            end = Position(int(top), epoch_now.decode())
            self._attachment.seen(int(seq), end.epoch)
            if epoch not in ("", end.epoch):
                return Page([], end, complete=False)
            part = [_publication(entry) for entry in entries]
            if part and found and abs(part[0].offset - found[-1].offset) != 1:
                found.clear()  # the log was trimmed between reads
            found += part
            if len(part) < READ_AT_ONCE or len(found) >= count:
                break
            low, high = (low, part[-1].offset - 1) if reverse else (part[-1].offset + 1, high)
        if reverse:
            complete = len(found) == count or int(kept) == 1 or (since is not None and since.offset <= 1)
        else:
            complete = since is None or int(kept) - 1 <= since.offset <= end.offset
        return Page(found, end, complete)

    async def _read_settings(self) -> bool:
        """Whether every commit is synced. A start refuses a server that may evict; later this is only logged, because
        to refuse it would leave the node without a log as well.
        """
        try:
            settings = await self._shielded(read_settings(self._client(), self._address))
        except ConfigError as error:
            if not self._attachment.reign:
                raise
            _log.error("broker_settings", detail=str(error))
            return False
        self.durability = durability(settings.fsync)
        return settings.fsync == "always"

    def _on_told(self, name: str, body: bytes) -> None:
        """Called by the listener's only task, which an exception must not end."""
        try:
            self._told(name, body)
        except Exception:
            _log.exception("broker_handler_raised")

    def _told(self, name: str, body: bytes) -> None:
        if self._handler is None:
            return
        if name == self._attachment.beats:
            return
        if not name.startswith(self._names.told_prefix):
            try:
                self._handler.control(_decode_control(body))
            except msgspec.MsgspecError:
                _log.error("broker_control_malformed")
            return
        channel = name[len(self._names.told_prefix) :]
        kind, rest = body[:1], body[1:]
        if kind == b"P":
            offset, at, epoch, length, tail = rest.split(b"\n", 4)
            size = int(length)
            tags = _decode_tags(tail[:size]) if size else None
            position = Position(int(offset), epoch.decode())
            moment, number = at[:AT_LENGTH], at[AT_LENGTH:]
            if number:  # none from a node of the previous version
                self._attachment.seen(int(number), position.epoch)
            self._known.delivered(channel, position)
            self._handler.publication(
                channel, Publication(position.offset, tail[size:], tags, float(moment)), position.epoch
            )
        else:
            self._handler.presence(channel, _decode_member(rest), kind == b"J")

    async def _renewed(self) -> None:
        """The listener is connected again: the server may be another one, and messages may have been missed."""
        while True:
            try:
                await self._attachment.attach()
                break
            except NotYet:
                await asyncio.sleep(0.1)
        self._known.clear()
        if self._handler is not None:
            try:
                self._handler.resync(None)
            except Exception:
                _log.exception("broker_handler_raised")


def _publication(entry: Any) -> Publication:
    """A stream entry: id `offset-0`, fields a (at), t (tags), d (data) in that order."""
    name, fields = entry
    values = dict(zip(fields[::2], fields[1::2], strict=True)) if isinstance(fields, list) else fields
    tags = values[b"t"]
    return Publication(
        int(name.partition(b"-")[0]), values[b"d"], _decode_tags(tags) if tags else None, float(values[b"a"])
    )


def durability(fsync: str) -> str:
    """The failures that an acknowledged publication survives with `fsync` of the append-only file; empty: no file."""
    if fsync == "always":
        return (
            "An acknowledged publication is synced to the append-only file: it survives the death of the process and "
            "of the machine; a fail-over to a replica may lose the last few, and then the epoch changes."
        )
    if fsync:
        return (
            "An acknowledged publication is in the append-only file: it survives the death of the process, unless the "
            "disk is slow then; else, and after power loss or a fail-over to a replica, the last two seconds may be "
            "missing, and then the epoch changes."
        )
    return (
        "Redis runs without an append-only file: acknowledged publications are lost when its process dies, and then "
        "the epoch changes. Set appendonly yes."
    )
