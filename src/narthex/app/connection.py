"""One connected client: drives its protocol session, its socket and its subscriptions in the hub.

Not here: executing commands (app/commands), verifying credentials (app/handshake), bytes on the wire
(adapters/edge). Rules: everything runs on the event loop; commands that can be answered without waiting are
answered in the same call; each that must wait is one bounded task, and those about the same channel, thread or run
wait behind it (`command_order`); after `closed` nothing is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from narthex.app.backlog import Backlog, BacklogLimits
from narthex.app.command_meter import CommandMeter, clock
from narthex.app.command_order import CommandOrder, WaitingCommand, overtakes, subject
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_record import Carried, ConnectionRecorder
from narthex.app.entropy import ENTROPY
from narthex.app.handshake_trace import HandshakeTracer
from narthex.app.hub import Hub
from narthex.app.hub.channel import Channel
from narthex.app.hub.delivery import Delivery
from narthex.app.pacing import Pacing
from narthex.app.presence import LocalPresence, Subscription
from narthex.app.registry import ConnectionRegistry
from narthex.app.tasks import Tasks
from narthex.app.timers import TimerWheel
from narthex.app.traffic import Traffic
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.errors import DependencyError, NarthexError
from narthex.ports.edge import HIGH_MARK_BYTES, Socket
from narthex.ports.later import Deferred
from narthex.ports.telemetry import Meter
from narthex.ports.tracing import CURRENT, NO_SPAN, Span, current_span
from narthex.protocol import codes
from narthex.protocol.codec import JSON, PROTOBUF
from narthex.protocol.commands import ConnectRequest
from narthex.protocol.framing import Prepared
from narthex.protocol.session import NEVER, Phase, ReceivedCommand, Session, SessionFault, SessionLimits

IN_FLIGHT_LIMIT: Final = 64  # commands of one connection under way: a whole burst of a page that just loaded
DRAIN_BYTES: Final = HIGH_MARK_BYTES // 4  # of a backlog, joined into one write
HELD_LIMIT: Final = 64  # commands batched behind connect
COMMAND_TIMEOUT_S: Final = 10.0  # a later answer is of no use; the SDKs give up after 5 s

_PING_MESSAGES: Final = (Prepared(JSON.ping), Prepared(PROTOBUF.ping))
_NOT_CONNECTED: Final = replace(codes.UNAUTHORIZED, temporary=True)  # SDKs try again once connected

Outcome: TypeAlias = Deferred[bytes | None]
"""A command's outcome: reply bytes at once, a coroutine of them, or None for no reply."""

Handler = Callable[["Connection", ReceivedCommand], Outcome]
"""Executes one command."""


class ConnectionRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by every connection of a node; one object, so that a connection holds one reference.

    Attributes:
        handlers: of each command, by name.
        timers: wake connections.
        tasks: own the commands that have to wait.
        hub: fans out.
        presence: renewed at every ping.
        registry: the live connections.
        meter: counts ends.
        traffic: counts messages and slow clients.
        commands: counts commands.
        session_limits: of the protocol.
        backlog_limits: of a slow client's pending deliveries.
        pacing: of pings and lives.
        follows_run: whether a connection may follow an active run, so that its rotation should wait.
        report_bug: takes an unexpected exception and the trace id.
        traces: continues traces that clients name in `connect`; None: tracing is off.
        records: records ends; None: no record is wanted.
    """

    handlers: Mapping[str, Handler]
    timers: TimerWheel
    tasks: Tasks
    hub: Hub
    presence: LocalPresence
    registry: ConnectionRegistry[Connection]
    meter: Meter
    traffic: Traffic
    commands: CommandMeter
    session_limits: SessionLimits
    backlog_limits: BacklogLimits
    pacing: Pacing
    follows_run: Callable[[Connection], bool]
    report_bug: Callable[[BaseException, str], None]
    traces: HandshakeTracer | None = None
    records: ConnectionRecorder | None = None


class Connection:
    """Implements `ports.edge.Receiver`, `hub.Subscriber` and `timers.Sleeper`.

    Attributes:
        client: the connection's id, minted once.
        codec: the client's format of the protocol.
        identity: the user; None while inert (it can do nothing but `connect`).
        subscriptions: by the client's channel name.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_closed",
        "_held",
        "_in_flight",
        "_order",
        "_owed",
        "_replied",
        "_taken",
        "_wake_at",
        "client",
        "codec",
        "context",
        "due",
        "identity",
        "lagging",
        "runtime",
        "session",
        "socket",
        "subscriptions",
    )

    socket: Socket

    def __init__(self, runtime: ConnectionRuntime, context: ConnectionContext) -> None:
        self.runtime = runtime
        self.context = context
        self.client = ENTROPY.uuid4()
        self.identity: Identity | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.codec = context.codec
        self.session = Session(runtime.session_limits, runtime.timers.now(), context.codec)
        self.lagging = False
        self._backlog: Backlog | None = None
        self._held: list[ReceivedCommand] | None = None
        self._in_flight = 0
        self._order: CommandOrder | None = None  # made when a command waits: an idle connection has none
        self._replied: set[int] | None = None
        self._wake_at = NEVER
        self._taken = 0
        self._owed = 0
        self._closed = False
        self.due = 0

    # -- Receiver ------------------------------------------------------------------------------------------

    def opened(self, socket: Socket) -> None:
        """See `Receiver`."""
        self.socket = socket
        self.runtime.registry.add(self)
        if self.context.identity is None:
            self.context.slot.allow_eviction(self.refuse)
        self._schedule()

    def message(self, data: bytes, *, binary: bool) -> None:
        """See `Receiver`."""
        if binary is not self.codec.binary:
            self.close(codes.NOT_BINARY if self.codec.binary else codes.NOT_TEXT)
            return
        traffic = self.runtime.traffic
        traffic.received += 1
        traffic.received_bytes += len(data)
        try:
            received = self.session.receive(data, self.runtime.timers.now())
        except SessionFault as fault:
            self.close(fault.disconnect)
            return
        if not received:
            return
        replies: list[bytes] = []
        for item in received:
            if self._closed:
                return
            self._execute(item, replies)
        if replies and not self._closed:
            self.send(self.codec.join(replies))

    def writable(self, ready: bool) -> None:
        """See `Receiver`."""
        if not ready:
            self.lagging = True
            self.runtime.traffic.lagging.add(self)
            return
        self.lagging = False
        self.runtime.traffic.lagging.discard(self)
        self._owed = 0
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self._drain(backlog)

    def closed(self, code: int, reason: str) -> None:
        """See `Receiver`."""
        self._closed = True
        self.runtime.timers.cancel(self)
        self.session.closed()
        self._held = None
        self._order = None
        self._end_lag(self._backlog)
        self._backlog = None
        self.runtime.traffic.lagging.discard(self)
        for name in list(self.subscriptions):
            self.leave(name)
        self.runtime.registry.remove(self)
        self.context.release()
        self.runtime.meter.disconnect(code)
        if self.runtime.records is not None:
            carried = Carried.of(self.socket.send_progress())
            self.runtime.records.ended(self.context, code, reason, carried)

    # -- Sleeper -------------------------------------------------------------------------------------------

    def wake(self, now: float) -> None:
        """See `Sleeper`: pings, silence, expiry and lag."""
        self._wake_at = NEVER
        if self._closed:
            return
        backlog = self._backlog
        if backlog is not None and now - backlog.started_at > self.runtime.backlog_limits.max_lag_s:
            self._close_slow("lag")
            return
        due = self.session.due(now)
        if due.ping:
            self._taken = self.socket.send_progress().taken
            self.socket.send(_PING_MESSAGES[self.codec.binary])
            self.runtime.presence.renew(self)
        elif due.disconnect is not None and not self._put_off(due.disconnect, now):
            self.close(self._expiry(due.disconnect))
        self._schedule()

    def _put_off(self, disconnect: codes.Disconnect, now: float) -> bool:
        """Whether the due end waits: a rotation until the connection is idle, a pong until it is read."""
        if disconnect is codes.FORCE_RECONNECT:
            return self._busy() and self.session.put_off(now)
        if disconnect is codes.NO_PONG and self._reads():
            self.session.excuse_pong(now)
            return True
        return False

    def _busy(self) -> bool:
        """Whether its rotation should wait a moment: an answer, a backlog or a run is under way."""
        return self._in_flight > 0 or self._backlog is not None or self.runtime.follows_run(self)

    def _reads(self) -> bool:
        """Whether a client whose pong is missing is only slow: the ping is behind bytes that it is reading.

        A connection of 1 KB/s needs minutes for the buffers' contents (256 KB); the backlog's limit, not the pong's,
        bounds its lag. A dead client reads nothing, and one that answers no ping has nothing left to read.
        """
        before, progress = self._taken, self.socket.send_progress()
        self._taken = progress.taken
        return progress.left > 0 and progress.taken > before

    def _expiry(self, disconnect: codes.Disconnect) -> codes.Disconnect:
        """Silence of a connection whose token had expired at the handshake is 3500, not 3502; silence of one whose
        handshake proved its user lacks only the command.
        """
        if disconnect is not codes.STALE:
            return disconnect
        if self.context.admit.inert == "expired":
            return codes.NO_FRESH_TOKEN
        return codes.STALE if self.context.identity is None else codes.NOT_CONNECTED

    def _schedule(self) -> None:
        at = self.session.wake_at()
        if self._backlog is not None:
            at = min(at, self._backlog.started_at + self.runtime.backlog_limits.max_lag_s)
        if at < self._wake_at:
            self._wake_at = at
            self.runtime.timers.schedule(self, at)

    # -- commands ------------------------------------------------------------------------------------------

    def _execute(self, command: ReceivedCommand, replies: list[bytes]) -> None:
        if command.name != "connect" and self.session.phase is not Phase.LIVE:
            if self.session.phase is Phase.WAITING:  # the connect that it was batched behind has failed
                if command.id:
                    replies.append(self.codec.error(command.id, _NOT_CONNECTED))
                return
            if self._held is None:
                self._held = []
            if len(self._held) >= HELD_LIMIT:
                self.close(codes.TOO_MANY_COMMANDS)
                return
            self._held.append(command)
            return
        if command.throttled or self._in_flight >= IN_FLIGHT_LIMIT:
            if command.name == "connect":
                self.session.failed_connect()
            if command.id:
                replies.append(self.codec.error(command.id, codes.TOO_MANY_REQUESTS))
            return
        about = subject(command)
        until = self.runtime.timers.now() + COMMAND_TIMEOUT_S
        if about and self._order is not None and self._order.busy(about) and not overtakes(command):
            self._in_flight += 1
            self._order.wait(about, WaitingCommand(command, until))
            return
        self._begin(command, about, until, replies)

    def _begin(self, command: ReceivedCommand, about: str, until: float, replies: list[bytes]) -> bool:
        """Execute a command whose turn it is. True: it continues in a task, and those behind it must wait."""
        span = self.context.span
        if span is NO_SPAN:
            return self._executed(command, about, until, replies)
        if span.recording or command.name == "connect":  # the child of an unrecorded one is itself
            span = self._span_of(command)
        token = CURRENT.set(span)  # as `within` does, without the 1 µs of a generator
        try:
            continues = self._executed(command, about, until, replies)
        finally:
            CURRENT.reset(token)
        if not continues:
            span.end()
        return continues

    def _span_of(self, command: ReceivedCommand) -> Span:
        """The span of a command. A client that could not set a header at the upgrade names its trace in `connect`."""
        request = command.request
        if isinstance(request, ConnectRequest) and request.headers:
            found = self._continued("connect", request.headers)
            if found is not None:
                self.context.span = found
                return found
        return self.context.span.child(command.name, kind="server")

    def request_span(self, name: str, carrier: Mapping[str, object]) -> Span:
        """The span of a request: in the trace that `carrier` names by `traceparent`, else below the connection's."""
        found = self._continued(name, carrier)
        return self.context.span.child(name, kind="server") if found is None else found

    def _continued(self, name: str, carrier: Mapping[str, object]) -> Span | None:
        traces = self.runtime.traces
        return None if traces is None else traces.continued(carrier, name, self.context.span)

    def _executed(self, command: ReceivedCommand, about: str, until: float, replies: list[bytes]) -> bool:
        began_at = clock()
        try:
            outcome = self.runtime.handlers[command.name](self, command)
        except Exception as fault:
            outcome = self._failed(command, fault)
        if outcome is None or isinstance(outcome, bytes):
            if outcome is not None:
                replies.append(outcome)
            self._count(command, outcome, began_at)
            return False
        try:
            self.runtime.tasks.spawn(self._later(command, outcome, about, until, began_at))
        except DependencyError:
            outcome.close()
            if command.name == "connect":
                self.session.failed_connect()
            replies.append(self.codec.error(command.id, codes.TOO_MANY_REQUESTS))
            return False
        self._in_flight += 1
        if about:
            if self._order is None:
                self._order = CommandOrder()
            self._order.began(about)
        return True

    async def _later(
        self,
        command: ReceivedCommand,
        outcome: Coroutine[object, object, bytes | None],
        about: str,
        until: float,
        began_at: float,
    ) -> None:
        reply = None
        try:
            async with asyncio.timeout_at(until):
                reply = await outcome
        except Exception as fault:
            failed = self._failed(command, fault)
            reply = None if self._has_replied(command.id) else failed
        finally:
            self._count(command, reply, began_at)
            self._in_flight -= 1
            self._forget_reply(command.id)
            current_span().end()
        if reply is not None and not self._closed:
            self.send(reply)
        if about:
            self._go_on(about)
        if self._held and self.session.phase is Phase.WAITING:
            self.release_held()

    def _count(self, command: ReceivedCommand, reply: bytes | None, began_at: float) -> None:
        if self.context.slot.traffic:  # health's own probe is none of the users'
            self.runtime.commands.ended(command, reply, began_at)

    def _go_on(self, about: str) -> None:
        """Execute the commands behind one that has ended, up to the next one that has to wait itself."""
        if self._order is None:  # closed meanwhile
            return
        behind = self._order.ended(about)
        replies: list[bytes] = []
        while behind and not self._closed:
            command, until = behind.popleft()
            self._in_flight -= 1
            # That one needs no engine
            if self.runtime.timers.now() >= until and command.name != "unsubscribe":
                replies.append(self._failed(command, TimeoutError()))
            elif self._begin(command, about, until, replies):
                for waiting in behind:
                    self._order.wait(about, waiting)
                break
        if replies and not self._closed:
            self.send(self.codec.join(replies))
        if not self._order:
            self._order = None

    def reply(self, number: int, payload: bytes) -> None:
        """Answer a command from within its coroutine, which continues: a later failure is not answered again."""
        if self._replied is None:
            self._replied = set()
        self._replied.add(number)
        self.send(payload)

    def _has_replied(self, number: int) -> bool:
        return self._replied is not None and number in self._replied

    def _forget_reply(self, number: int) -> None:
        if self._replied is not None:
            self._replied.discard(number)
            if not self._replied:
                self._replied = None

    def _failed(self, command: ReceivedCommand, fault: BaseException) -> bytes:
        if not isinstance(fault, NarthexError | TimeoutError):
            self.runtime.report_bug(fault, self.context.trace_id)
        temporary = isinstance(fault, DependencyError | TimeoutError)
        current_span().end(error=type(fault).__name__)
        if command.name == "connect":
            self.session.failed_connect()
        return self.codec.error(command.id, replace(codes.INTERNAL, temporary=temporary))

    def live(self, identity: Identity, expires_at: float) -> None:
        """The connect reply is about to be sent: sets the user, and the end of the token (loop time)."""
        self.identity = identity
        self.session.connected(
            self.runtime.timers.now(),
            expires_at=expires_at,
            first_ping_in_s=self.runtime.pacing.first_ping_in_s(),
            life_s=self.runtime.pacing.life_s(),
        )
        self._schedule()

    def release_held(self) -> None:
        """Execute the commands batched behind `connect` (or refuse them, if that failed), after its reply was sent."""
        held, self._held = self._held, None
        if held:
            replies: list[bytes] = []
            for command in held:
                if not self._closed:
                    self._execute(command, replies)
            if replies and not self._closed:
                self.send(self.codec.join(replies))

    def refreshed(self, identity: Identity, expires_at: float) -> None:
        """Accept a fresh token of the same subject: its permissions and its end replace the old ones."""
        self.identity = identity
        self.session.refreshed(expires_at)
        self._schedule()

    # -- Subscriber ----------------------------------------------------------------------------------------

    def deliver_late(self, channel: Channel, items: list[Delivery]) -> None:
        """See `hub.Subscriber`."""
        if self._closed:
            return
        if self._backlog is None:
            self._backlog = Backlog(self.runtime.timers.now())
            self._schedule()
        traffic = self.runtime.traffic
        traffic.deferred += len(items)
        traffic.merged += self._backlog.add(channel, items)
        pending = self._backlog.size + self.socket.buffered()
        if pending > self.runtime.backlog_limits.max_bytes + self._owed:
            self._close_slow("bytes")

    def backlog(self) -> tuple[int, float]:
        """See `traffic.Lagging`."""
        kept = self._backlog
        return (0, NEVER) if kept is None else (kept.size, kept.started_at)

    def _end_lag(self, backlog: Backlog | None) -> None:
        if backlog is not None:
            self.runtime.traffic.lag_ended(self.runtime.timers.now() - backlog.started_at)

    def _close_slow(self, limit: str) -> None:
        self.runtime.traffic.slow_closes[limit] += 1
        self.close(codes.SLOW)

    def position_lost(self, channel: Channel) -> None:  # noqa: ARG002 - the port names the channel
        """See `hub.Subscriber`: reconnecting recovers, or reports that it cannot."""
        self.close(codes.INSUFFICIENT_STATE)

    def _drain(self, backlog: Backlog) -> None:
        entries = backlog.take()
        framing = self.socket.framing
        at = 0
        while at < len(entries):
            if self.lagging:  # the transport filled up again: keep the rest, in order
                rest = Backlog(backlog.started_at)
                for channel, late in entries[at:]:
                    rest.add(channel, [late])
                self._backlog = rest
                self._schedule()
                return
            parts: list[bytes] = []
            size = 0
            while at < len(entries) and size < DRAIN_BYTES:
                channel, delivery = entries[at]
                parts.append(channel.prepared(self, delivery).framed(framing))
                size += len(parts[-1])
                at += 1
            self.socket.send_frames(b"".join(parts))
        self._end_lag(backlog)

    def forget(self, name: str) -> Subscription | None:
        """Leave a channel; None when it was not subscribed."""
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.runtime.hub.detach(subscription.channel, self)
            if self._backlog is not None:
                self._backlog.forget(subscription.channel)
        return subscription

    def leave(self, name: str) -> bool:
        """Leave a channel and its presence; returns whether it was subscribed."""
        subscription = self.forget(name)
        if subscription is not None and subscription.presence:
            self.runtime.presence.leave(self, subscription.channel.key)
        return subscription is not None

    # -- out -----------------------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send protocol objects, encoded and joined by `codec`."""
        if self.lagging and self.socket.buffered() > self.runtime.backlog_limits.max_bytes:
            self._close_slow("replies")  # it sends requests and does not read the answers
            return
        self.runtime.traffic.reply_bytes += len(payload)
        self.socket.send(Prepared(payload))
        if len(payload) > self._owed and self.lagging:
            self._owed = len(payload)  # the answer to its own request is no sign of a slow client

    def close(self, disconnect: codes.Disconnect) -> None:
        """Close the connection with a code and a reason; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.session.closed()
        self.socket.close(disconnect.code, disconnect.reason)

    def refuse(self, refusal: Refusal) -> None:
        """Close the connection with a refusal's close code and reason."""
        self.close(codes.Disconnect(*refusal.close()))

    @property
    def known_identity(self) -> Identity | None:
        """The user, also while `connect` is being answered."""
        return self.identity or self.context.identity

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait here because the client does not read as fast as the server writes."""
        return self.socket.buffered() + (self._backlog.size if self._backlog is not None else 0)

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._closed
