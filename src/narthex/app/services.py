"""What every connection of this node shares, handed to it as one narrow value by wiring."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, TypeVar

from narthex.app.backlog import BacklogLimits
from narthex.app.connection_context import ConnectionContext
from narthex.app.hub import Hub
from narthex.app.hub.channel import Channel
from narthex.app.registry import ConnectionRegistry
from narthex.app.tasks import Tasks
from narthex.app.timers import TimerWheel
from narthex.domain.admission import Admit
from narthex.domain.channels import split_key
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.errors import NarthexError
from narthex.ports.broker import PRESENCE_TTL_S, Broker, Member
from narthex.ports.later import Later
from narthex.ports.telemetry import Meter
from narthex.protocol.session import NEVER, ReceivedCommand, SessionLimits

if TYPE_CHECKING:
    from narthex.app.chat import Chat
    from narthex.app.memberships import MembershipService
    from narthex.app.quotas import Quotas
    from narthex.app.runs.engine import RunEngine

CHANNEL_LIMIT: Final = 128  # channels of a connection
RECOVERY_LIMIT: Final = 5_000  # publications of one recovery or page of history
LIFE_JITTER: Final = 0.05  # sockets that came together are not rotated together
COMMAND_TIMEOUT_S: Final = 10.0  # an answer after that helps no page; the SDKs give up after 5 s


class InBandAuthenticator(Protocol):
    """`app.handshake.HandshakeHandler`, as far as connections need it."""

    def admit_in_band(self, context: ConnectionContext, token: str) -> Later[Admit | Refusal]:
        """Judge a token of `connect` or `refresh` against what the connection is bound to."""


class Subscription(NamedTuple):
    """A channel that a connection listens to."""

    channel: Channel
    server_side: bool
    presence: bool


class Peer(Protocol):
    """A connection, as far as it is served here. `app.connection` has the only one, and imports this module."""

    client: str
    identity: Identity | None
    context: ConnectionContext
    subscriptions: dict[str, Subscription]

    def forget(self, name: str) -> Subscription | None:
        """Leave a channel; None when it was not subscribed."""


C = TypeVar("C", bound=Peer)
C_contra = TypeVar("C_contra", bound=Peer, contravariant=True)


class RpcMethod(Protocol[C_contra]):
    """`app.rpc.methods.Method`."""

    @property
    def call(self) -> Callable[[C_contra, bytes], object]:
        """Call it with raw params: its result, or a coroutine of that. Raises ClientError."""

    def allowed(self, identity: Identity) -> bool:
        """Whether this class of identity may call it at all."""


def _present(connection: Peer, key: str) -> bool:
    """Whether a connection belongs into the presence of a thread's channel as things are now."""
    return split_key(key)[1] in connection.subscriptions


class ConnectionServices(Generic[C]):
    """See the module. The annotated members are set once by wiring before the port opens."""

    chat: Chat
    memberships: MembershipService
    engine: RunEngine
    quotas: Quotas
    handlers: Mapping[
        str, Callable[[C, ReceivedCommand], bytes | Coroutine[object, object, bytes | None] | None]
    ]
    methods: Mapping[str, RpcMethod[C]]
    follows_run: Callable[[C], bool]
    removals: Callable[[], int]
    fresh: Callable[[], bool]

    def __init__(
        self,
        *,
        node: str,
        version: str,
        broker: Broker,
        hub: Hub,
        in_band: InBandAuthenticator,
        meter: Meter,
        timers: TimerWheel,
        tasks: Tasks,
        session_limits: SessionLimits,
        backlog_limits: BacklogLimits,
        now: Callable[[], float],
        report_bug: Callable[[BaseException, str], None],
        max_life_s: float = 0.0,
        spread: random.Random | None = None,
    ) -> None:
        self.node = node
        self.version = version
        self.broker = broker
        self.hub = hub
        self.in_band = in_band
        self.meter = meter
        self.timers = timers
        self.tasks = tasks
        self.session_limits = session_limits
        self.backlog_limits = backlog_limits
        self.now = now
        self.report_bug = report_bug
        self.channel_limit = CHANNEL_LIMIT
        self.recovery_limit = RECOVERY_LIMIT
        self._max_life_s = max_life_s
        self.registry: ConnectionRegistry[C] = ConnectionRegistry()
        self._random = spread or random.Random()  # noqa: S311 - spreads pings, guards nothing

    async def bounded(self, outcome: Coroutine[object, object, bytes | None], until: float) -> bytes | None:
        """Await a command until this loop time: `COMMAND_TIMEOUT_S` after it came. Raises TimeoutError."""
        async with asyncio.timeout_at(until):
            return await outcome

    def first_ping_in_s(self) -> float:
        """Spread over the whole period, so that clients that came back together do not pong together."""
        return self.session_limits.ping_every_s * (0.2 + 0.8 * self._random.random())

    def life_s(self) -> float:
        """How long a connection that begins now lives before it is rotated; each its own length."""
        if not self._max_life_s:
            return NEVER
        return self._max_life_s * (1 - LIFE_JITTER + 2 * LIFE_JITTER * self._random.random())

    # -- presence ------------------------------------------------------------------------------------------

    def _member(self, connection: C) -> Member:
        identity = connection.identity
        assert identity is not None
        info: dict[str, object] | None = {"name": identity.name} if identity.name else None
        return Member(client=connection.client, user=identity.subject, conn_info=info)

    async def join_presence(self, connection: C, key: str) -> None:
        """Record it; presence is best effort, so a broker that is away only delays it.

        A connection that left the channel meanwhile is taken out again: the broker may have executed the two in
        either order.
        """
        try:
            await self.broker.join(key, self._member(connection))
        except NarthexError as fault:
            self.meter.count("presence_failures", reason=fault.code)
        if not _present(connection, key):
            await self._leave(connection.client, key)

    def keep_present(self, connection: C) -> None:
        """Called at every ping (well within `PRESENCE_TTL_S`): stay in the lists."""
        assert self.session_limits.ping_every_s < PRESENCE_TTL_S
        for subscription in connection.subscriptions.values():
            if subscription.presence:
                self._spawn(self.join_presence(connection, subscription.channel.key))

    def leave_presence(self, connection: C, key: str) -> None:
        """Forget it; other nodes are told. If it cannot be said, the entry runs out by itself."""
        self._spawn(self._left(connection, key))

    async def _left(self, connection: C, key: str) -> None:
        await self._leave(connection.client, key)
        if _present(connection, key):  # it came back while this was under way
            await self.join_presence(connection, key)

    async def _leave(self, client: str, key: str) -> None:
        try:
            await self.broker.leave(key, client)
        except NarthexError as fault:
            self.meter.count("presence_failures", reason=fault.code)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        try:
            self.tasks.spawn(work)
        except NarthexError as fault:
            self.meter.count("presence_failures", reason=fault.code)

    # -- the end of a connection ---------------------------------------------------------------------------

    def disconnected(self, connection: C, code: int) -> None:
        """The one clean-up path: channels, presence, registry, counts."""
        for name in list(connection.subscriptions):
            subscription = connection.forget(name)
            if subscription is not None and subscription.presence:
                self.leave_presence(connection, subscription.channel.key)
        self.registry.remove(connection)
        connection.context.release()
        self.meter.disconnect(code)
