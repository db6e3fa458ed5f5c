"""One node: the core of `narthex.app`, on simulated ports, loop and clock.

Not here: HTTP, tokens and the handshake's own rules: `admit` replaces them and makes the same calls to the app
(readiness, revocations, connection slots). Rules: nothing of `narthex.app` is replaced or patched; everything that a
node does
runs in a context of its own life, so that `kill` ends it without any clean-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from narthex.app.connection import Connection
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_limits import ConnectionSlot
from narthex.app.core import CoreConfig, NodeCore
from narthex.app.lifecycle import LifecycleState
from narthex.app.runs.engine import RunLimits
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity
from narthex.domain.limits import Limits
from narthex.domain.refusals import Refusal
from narthex.errors import NarthexError
from narthex.ports.agents import Agent
from narthex.ports.telemetry import Source
from tests.simulation.clock import WallClock
from tests.simulation.log import LOG_TIMEOUT_S, LogEngine, SimBroker
from tests.simulation.loop import NODE, VirtualLoop
from tests.simulation.network import Delays, Link
from tests.simulation.store import STORE_TIMEOUT_S, SimStore, StoreEngine

T = TypeVar("T")
GRACE_S: Final = 8.0  # of a drain: Cloud Run's ten seconds, less the edge's reserve
START_RETRY_S: Final = 1.0
CONFIG: Final = CoreConfig(
    version="simulated",
    limits=Limits(ping_interval_s=8.0, pong_timeout_s=5.0, max_pending_bytes=64 * 1024, max_lag_s=6.0),
    run_limits=RunLimits(run_deadline_s=40, silence_s=8, answer_s=30, broker_patience_s=6, poll_s=2.0),
    direct_membership=("default",),
    settled_s=4.0,
)
"""The real values, except those that would make a history minutes long."""


class Silent:
    """A `Meter` that counts nothing."""

    def handshake(
        self, outcome: str, code: str, traffic: str, duration_s: float, trace_id: str = ""
    ) -> None: ...
    def credential(self, carrier: str, result: str) -> None: ...
    def e2e_admission(self, result: str) -> None: ...
    def e2e_tests(self, result: str, count: int) -> None: ...
    def connections(self, traffic: str, delta: int) -> None: ...
    def disconnect(self, code: int) -> None: ...
    def breaker(self, dependency: str, traffic: str, state: str) -> None: ...
    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def read_from(self, source: Source) -> None: ...

    def observer(self, name: str, **labels: str) -> Callable[[float], None]:
        """See the port."""
        return lambda _: None


class Admission:
    """`InBandAuthenticator`: an in-band token belongs to its user and is always valid."""

    def admit(self, context: ConnectionContext, token: str, header: str = "") -> Admit | Refusal:
        """See the port."""
        assert context.identity is not None
        return Admit(identity=context.identity)

    def refused(self, context: ConnectionContext, refusal: Refusal, carrier: str) -> Refusal:
        """See the port; there are no operators."""
        return refusal


class Parts:
    """One life of a node: its core and its simulated environment."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        broker: SimBroker,
        store: SimStore,
        agents: Sequence[Agent],
        now: Callable[[], float],
        report_bug: Callable[[BaseException], None],
        spread: random.Random,
    ) -> None:
        self.sim_broker = broker
        self.now = now
        self.core = NodeCore(
            name,
            CONFIG,
            broker=broker,
            store=store,
            agents={agent.name: agent for agent in agents},
            meter=Silent(),
            report_bug=lambda fault, _trace_id: report_bug(fault),
            clock=now,
            monotonic=loop.time,
            spread=spread,
        )
        self.broker = self.core.broker
        self.revocations = self.core.revocations
        self.connect = self.core.connections(Admission())
        self.lifecycle = self.core.lifecycle([], [], [], grace_s=GRACE_S, on_state=lambda _state: None)


class Node:
    """A node across restarts: started, killed, drained, paused, started again.

    Attributes:
        name: its id, the same in every life.
        parts: of the present life; None while it is down.
    """

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        log: LogEngine,
        database: StoreEngine,
        agents: Sequence[Agent],
        clock: WallClock,
        delays: Delays,
        noise: random.Random,
        report_bug: Callable[[str, BaseException], None],
    ) -> None:
        self.name = name
        self.clock = clock
        self.parts: Parts | None = None
        self.life = ""
        self._lives = 0
        self._loop = loop
        self._log = log
        self._database = database
        self._agents = agents
        self._delays = delays
        self._noise = noise
        self._report_bug = report_bug
        self.log_link = Link(loop, delays, "broker", LOG_TIMEOUT_S)
        self.store_link = Link(loop, delays, "store", STORE_TIMEOUT_S)
        self.paused = False
        self.deaf = False
        self.repeats = 0.0

    @property
    def ready(self) -> bool:
        """Whether a load balancer would send clients here."""
        return self.parts is not None and self.parts.lifecycle.state is LifecycleState.READY

    def start(self) -> None:
        """Start the node; it retries until its engines are available."""
        if self.parts is not None:
            return
        self._lives += 1
        self.life = f"{self.name}/{self._lives}"
        self.within(self._start)

    def _start(self) -> None:
        broker = SimBroker(self._loop, self._log, self.log_link, self._delays, self._noise)
        broker.deaf, broker.repeats = self.deaf, self.repeats
        store = SimStore(self._database, self.store_link)
        self.parts = Parts(
            self.name,
            self._loop,
            broker,
            store,
            self._agents,
            self.clock.now,
            lambda fault: self._report_bug(self.name, fault),
            self._noise,
        )
        self._loop.create_task(self._open(self.parts))

    async def _open(self, parts: Parts) -> None:
        while True:
            try:
                await parts.lifecycle.start()
            except NarthexError:
                await asyncio.sleep(START_RETRY_S)
            else:
                return

    def kill(self) -> None:
        """`kill -9`."""
        if self.parts is None:
            return
        self._loop.kill(self.life)
        self._log.detach(self.name, self.parts.sim_broker)
        self.parts = None
        self.paused = False

    def drain(self) -> None:
        """SIGTERM; `kill` follows when the drain has ended, or by the plan."""
        parts = self.parts
        if parts is None or parts.lifecycle.state is not LifecycleState.READY:
            return

        async def down() -> None:
            await parts.lifecycle.drain()
            with contextlib.suppress(ExceptionGroup):  # an engine that is down while it stops
                await parts.lifecycle.stop()
            if self.parts is parts:
                self.kill()

        self.within(lambda: self._loop.create_task(down()))

    def pause(self) -> None:
        """SIGSTOP."""
        if self.parts is not None and not self.paused:
            self.paused = True
            self._loop.pause(self.life)

    def resume(self) -> None:
        """SIGCONT."""
        if self.paused:
            self.paused = False
            self._loop.resume(self.life)

    def silence(self, deaf: bool) -> None:
        """Lose every live message from the log engine silently, or stop doing so."""
        self.deaf = deaf
        if self.parts is not None:
            self.parts.sim_broker.deaf = deaf

    def repeat(self, share: float) -> None:
        """Deliver this share of live publications twice."""
        self.repeats = share
        if self.parts is not None:
            self.parts.sim_broker.repeats = share

    def within(self, call: Callable[[], object]) -> None:
        """Call a function as this node, at once."""
        context = contextvars.copy_context()
        context.run(NODE.set, self.life)
        context.run(call)

    def ask(self, work: Callable[[Parts], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Run a coroutine in this node's own tasks, as a request of the server API does; it never ends if the node
        dies.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()
        parts = self.parts
        assert parts is not None

        async def run() -> None:
            try:
                value = await work(parts)
            except Exception as fault:  # left to the caller
                if not outcome.done():
                    outcome.set_exception(fault)
            else:
                if not outcome.done():
                    outcome.set_result(value)

        self.within(lambda: self._loop.create_task(run()))
        return outcome

    def admit(self, identity: Identity) -> Connection | None:
        """The handshake's decision: None is a refusal after which an SDK reconnects, `PermissionError` a final one."""
        parts = self.parts
        if parts is None or parts.lifecycle.state is not LifecycleState.READY:
            return None
        if parts.core.revocations.covers(identity):
            raise PermissionError
        slot = parts.core.limiter.acquire("192.0.2.1", identity)
        if not isinstance(slot, ConnectionSlot):
            return None
        context = ConnectionContext(Admit(identity=identity), slot, trace_id="0" * 32, address="192.0.2.1")
        return parts.connect(context)
