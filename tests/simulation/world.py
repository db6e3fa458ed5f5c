"""A cluster that executes one plan: nodes, engines, users and faults in one virtual loop; its history, and the verdict.

Rules: a run is a pure function of its plan (and of the code): all randomness is the plan's; `tests.history` judges the
clients' frames; apart from them only bugs that the app itself reports count.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from narthex.app import entropy
from narthex.domain.channels import channel_key
from narthex.domain.identity import Identity
from narthex.errors import NarthexError
from narthex.ports.agents import Agent, AgentError, RunInput
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S
from narthex.ports.credentials import Revocation
from narthex.ports.threads import Thread, ThreadMember
from tests.history import Bounds, Finding, Kind, Record, Recorder, check
from tests.simulation.client import Reader
from tests.simulation.clock import EPOCH_S, WallClock
from tests.simulation.log import LogEngine
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.network import Delays
from tests.simulation.node import Node, Parts
from tests.simulation.plan import BUSY_S, NODES, READERS, SETTLE_S, THREADS, Plan, Step
from tests.simulation.store import SimStore, StoreEngine

TENANT: Final = "default"
BOUNDS: Final = Bounds(
    silence_s=10, stale_s=6, removal_s=6, reply_s=14, run_end_s=30, cancel_s=16, cause_s=20
)
PUBLISH_S: Final = 13.0
LOG_AWAY: Final = (
    Kind.SILENCE,
    Kind.EPOCH_NOT_TOLD,
    Kind.AFTER_REMOVAL,
    Kind.RUN_WITHOUT_END,
    Kind.CANCEL_LATE,
    Kind.END_NOT_TOLD,
)
"""A node that is cut off from the log keeps its sockets and cannot know of missed messages (docs/guarantees.md)."""
STORE_AWAY: Final = (Kind.RUN_WITHOUT_END, Kind.CANCEL_LATE, Kind.END_NOT_TOLD, Kind.AFTER_REMOVAL)
NODE_AWAY: Final = (*LOG_AWAY, Kind.NO_REPLY)


class Outcome(msgspec.Struct):
    """The result of a plan."""

    plan: Plan
    history: list[Record]
    findings: list[Finding]
    bugs: list[str]
    turns: int

    @property
    def kinds(self) -> frozenset[str]:
        """The findings, by name."""
        return frozenset([str(found.kind) for found in self.findings] + (["bug"] if self.bugs else []))

    @property
    def failed(self) -> bool:
        """Whether there is a finding."""
        return bool(self.findings or self.bugs)


class World:
    """One history being played. A plan may name its public methods that take a step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = VirtualLoop()  # type: ignore[abstract]  # what asyncio does not call here is not there
        self.noise = random.Random(plan.seed ^ 0x5EED)
        self.recorder = Recorder(self.loop.time)
        self.bugs: list[str] = []
        self._over = False
        share, long_s = plan.slow
        self._engine_delays = Delays(self.noise, 0.003, long_s, share)
        self._wire_delays = Delays(self.noise, 0.02, long_s, share / 4)
        self.log = LogEngine(self.loop, self.noise)
        if any(step.what in ("restore_store", "freeze_owner") for step in plan.steps):
            self.log.short_window_s = IDEMPOTENCY_WINDOW_S
        self.database = StoreEngine(self.loop.time)
        agents = self._agents()
        self.nodes = [
            Node(
                f"n{number}",
                self.loop,
                self.log,
                self.database,
                agents,
                WallClock(self.loop.time, plan.ahead_s[number]),
                self._engine_delays,
                self.noise,
                self._bug,
            )
            for number in range(NODES)
        ]
        self.readers = {name: self._reader(name) for name in READERS}
        self.runs: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._busy_until: dict[str, float] = {}
        self._numbers = 0
        self._faults: dict[str, int] = {}
        self._backed_up_at = 0.0

    def _reader(self, name: str) -> Reader:
        user = name.partition("-")[0]
        identity = Identity(
            subject=user,
            tenant=TENANT,
            plan="enterprise",
            issuer="sim",
            token_id=f"jti-{name}",
            issued_at=EPOCH_S,
        )
        return Reader(name, identity, self.nodes, self.loop, self._wire_delays, self.noise, self.recorder)

    def _bug(self, where: str, fault: BaseException) -> None:
        if self._over:
            return
        self.bugs.append(f"{self.loop.time():.3f} {where}: {type(fault).__name__}: {fault}")

    # -- agents --------------------------------------------------------------------------------------------

    def _agents(self) -> list[Agent]:
        calls = itertools.count(1)

        def began(run: RunInput, *, restartable: bool = False) -> str:
            """Each text of an agent says of which call it is: `tests.history.runs.calls`."""
            self.recorder.agent_began(run.run_id, restartable=restartable)
            return f"<call {next(calls)}>"

        async def echo(run: RunInput) -> AsyncIterator[str]:
            call = began(run)
            for word in ("one ", "two ", "three"):
                yield call + word
                await asyncio.sleep(0.03)

        async def long(run: RunInput) -> AsyncIterator[str]:
            call = began(run)
            for number in range(12):
                yield f"{call}{number} "
                await asyncio.sleep(0.5)

        async def steady(run: RunInput) -> AsyncIterator[str]:
            call = began(run)
            for number in range(24):
                yield f"{call}{number} "
                await asyncio.sleep(0.5)

        async def again(run: RunInput) -> AsyncIterator[str]:
            call = began(run, restartable=True)
            for number in range(6):
                yield f"{call}{number} "
                await asyncio.sleep(0.4)

        async def patient(run: RunInput) -> AsyncIterator[str]:
            call = began(run, restartable=True)
            for number in range(60):
                yield f"{call}{number} "
                await asyncio.sleep(0.25)

        async def fails(run: RunInput) -> AsyncIterator[str]:
            call = began(run)
            yield f"{call}so far "
            await asyncio.sleep(0.2)
            raise AgentError("This agent fails.")

        async def asks(run: RunInput) -> AsyncIterator[str]:
            call = began(run)
            yield f"{call}May I? "
            answer = await run.ask({"type": "object", "properties": {"ok": {"type": "boolean"}}}, "May I?")
            yield f"{call}You said {answer}."

        made = [
            Agent(name=function.__name__, function=function) for function in (echo, long, steady, fails, asks)
        ]
        restartable = [
            Agent(name=function.__name__, function=function, restartable=True)
            for function in (again, patient)
        ]
        return [*made, *restartable]

    # -- the history ---------------------------------------------------------------------------------------

    async def main(self) -> None:
        """From the first node's start to the final checks."""
        await self._set_up()
        for node in self.nodes:
            node.repeat(self.plan.clumsy)
            node.start()
        for reader in self.readers.values():
            self._spawn(reader.run())
        for step in self.plan.steps:
            await self._until(step.at)
            getattr(self, step.what)(step)
        await self._until(BUSY_S)
        self._heal()
        await self._until(BUSY_S + 14.0)
        self._heal()  # left over from a late fault (a drain, a pause)
        await self._until(BUSY_S + 20.0)
        self._read_runs()  # early enough that the followers must receive the state of the store
        await self._until(BUSY_S + SETTLE_S)
        self._last_look()
        self._over, _Ears.world = True, None  # discarded coroutines report nothing from here on

    async def _until(self, at: float) -> None:
        wait_s = at - self.loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            raise fault

    async def _set_up(self) -> None:
        """Two threads with all three users, before any fault."""
        store = SimStore(self.database, self.nodes[0].store_link)
        for name in THREADS:
            thread = Thread(
                thread_id=name,
                tenant=TENANT,
                title=name,
                created_by="alice",
                created_at=EPOCH_S,
                updated_at=EPOCH_S,
            )
            await store.threads.create(thread)
            for user in ("bob", "carol"):
                member = ThreadMember(user_id=user, role="member", joined_at=EPOCH_S)
                await store.threads.add_member(TENANT, name, member, limit=None)
        for name, reader in self.readers.items():
            reader.wants = [f"thread:{thread}" for thread in (THREADS if name != "bob-0" else THREADS[:1])]

    def _heal(self) -> None:
        """No fault is left: everything must recover from here on."""
        for node in self.nodes:
            node.resume()
            node.silence(False)
            for link in (node.log_link, node.store_link):
                link.requests_pass = link.answers_pass = True
                link.stalled_until = 0.0
                link.go_on()
            node.start()
        for name in sorted(self._faults):
            self.recorder.fault_ended(name)
        self._faults.clear()

    def _last_look(self) -> None:
        """The final content of log and store; every node serves again."""
        now = self.loop.time()
        for node in self.nodes:
            if not node.ready:
                self.bugs.append(f"{now:.3f} {node.name} is not ready")
        for thread in THREADS:
            channel = f"thread:{thread}"
            page = self.log.page(channel_key(TENANT, channel), None, None, False)
            entries = [(entry.offset, msgspec.json.decode(entry.data)) for entry in page.publications]
            self.recorder.log_read(channel, page.top.epoch, page.top.offset, entries, now)
            kept = self.database.look(_messages(thread))
            self.recorder.thread_read(channel, [(row[0], row[1]) for row in kept], now)
        self._read_runs()

    def _read_runs(self) -> None:
        """The store's state of every acknowledged run."""
        rows = self.database.look(_states())
        for run_id, state, count, digest, error in rows:
            if run_id in self.runs:
                self.recorder.run_read(run_id, state, count, digest, error)

    # -- faults ---------------------------------------------------------------------------------------------

    def _begin(self, name: str, excuses: Sequence[Kind], lasts_s: float, end: Callable[[], None]) -> None:
        """A fault is active for this long; overlapping ones with one name end with the last."""
        if name not in self._faults:
            self.recorder.fault_began(name, excuses)
        self._faults[name] = mark = self._faults.get(name, 0) + 1

        def over() -> None:
            if self._faults.get(name) == mark:
                del self._faults[name]
                end()
                self.recorder.fault_ended(name)

        self.loop.call_later(lasts_s, over)

    def _excuse(self, name: str, excuses: Sequence[Kind], lasts_s: float) -> None:
        """An action of the client itself, which excuses missed messages meanwhile; it ends automatically."""
        self._numbers += 1
        name = f"{name} {self._numbers}"
        self.recorder.fault_began(name, excuses)
        self.loop.call_later(lasts_s, self.recorder.fault_ended, name)

    def _node(self, step: Step) -> Node:
        return self.nodes[int(step.who)]

    def kill(self, step: Step) -> None:
        """`kill -9`, and a restart after a while."""
        node = self._node(step)
        node.kill()
        self._begin(f"down {node.name}", (), step.value, node.start)

    def drain(self, step: Step) -> None:
        """SIGTERM, and a restart after a while."""
        node = self._node(step)
        node.drain()

        def again() -> None:
            node.kill()
            node.start()

        self._begin(f"drained {node.name}", (), 10.0 + step.value, again)

    def pause(self, step: Step) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        node = self._node(step)
        node.pause()
        self._begin(f"paused {node.name}", NODE_AWAY, step.value, node.resume)

    def deaf(self, step: Step) -> None:
        """A node silently loses the log's messages; nothing is excused."""
        node = self._node(step)
        node.silence(True)
        self._begin(f"deaf {node.name}", (), step.value, lambda: node.silence(False))

    def cut_log(self, step: Step) -> None:
        """A node is cut off from the log, and notices."""
        node = self._node(step)
        link = node.log_link
        link.answers_pass = False
        link.requests_pass = step.text != "both"

        def back() -> None:
            link.answers_pass = link.requests_pass = True
            if node.parts is not None:
                node.within(node.parts.sim_broker.reconnected)

        self._begin(f"log cut {node.name}", LOG_AWAY, step.value, back)

    def cut_store(self, step: Step) -> None:
        """A node is cut off from the store."""
        self._cut_store(self._node(step), step)

    def cut_owner(self, step: Step) -> None:
        """The owner of a run is cut off from the store and not from the log, until another node has taken it over."""
        for (owner,) in self.database.look(_owners("")):
            found = next(node for node in self.nodes if node.name == owner.partition("/")[0])
            self._cut_store(found, step)
            return

    def freeze_owner(self, step: Step) -> None:
        """The owner of a run is frozen. Meanwhile the log is replaced, and another node takes the run over; then the
        store goes back to when the first owner had it, and that one wakes.
        """
        for (owner,) in self.database.look(_owners("patient")):
            node = next(node for node in self.nodes if node.name == owner.partition("/")[0])
            replace: Callable[[Step], None] = getattr(self, step.text)
            self.database.back_up()
            self._backed_up_at = self.loop.time()
            node.pause()
            replace(step)

            self._begin(f"frozen {node.name}", NODE_AWAY, step.value, partial(self._wakes, node))
            return

    def _wakes(self, node: Node) -> None:
        self._store_restored()
        node.resume()

    def _cut_store(self, node: Node, step: Step) -> None:
        link = node.store_link
        link.answers_pass = False
        link.requests_pass = step.text != "both"

        def back() -> None:
            link.answers_pass = link.requests_pass = True

        self._begin(f"store cut {node.name}", STORE_AWAY, step.value, back)

    def hang_log(self, step: Step) -> None:
        """The log executes nothing for a while."""
        until = self.loop.time() + step.value
        for node in self.nodes:
            node.log_link.stalled_until = max(node.log_link.stalled_until, until)
        until = max(node.log_link.stalled_until for node in self.nodes)  # an earlier one may last longer
        self._begin("log hangs", LOG_AWAY, until - self.loop.time(), lambda: None)

    def hang_store(self, step: Step) -> None:
        """The store executes nothing for a while."""
        until = self.loop.time() + step.value
        for node in self.nodes:
            node.store_link.stalled_until = max(node.store_link.stalled_until, until)
        until = max(node.store_link.stalled_until for node in self.nodes)  # as above
        self._begin("store hangs", STORE_AWAY, until - self.loop.time(), lambda: None)

    def lose_tail(self, step: Step) -> None:
        """A replica that lagged responds from now on."""
        self.log.lose_tail(int(step.value))
        self._reconnect_all()

    def purge(self, _: Step) -> None:
        """An operator purges the log."""
        self.log.purge()
        self._reconnect_all()

    def recreate(self, _: Step) -> None:
        """The log is recreated, empty."""
        self.log.recreate()
        self._reconnect_all()

    def lose_at_end(self, step: Step) -> None:
        """One of the three, while the next terminal event of a run is on its way to the log."""
        lose: Callable[[Step], None] = getattr(self, step.text)
        self.log.on_proof = lambda: lose(msgspec.structs.replace(step, value=3.0))

    def restore(self, step: Step) -> None:
        """The log goes back to its state this many seconds before."""
        self.log.back_up()
        self.loop.call_later(step.value, self._restored)

    def _restored(self) -> None:
        self.log.restore()
        self._reconnect_all()

    def restore_store(self, step: Step) -> None:
        """The store goes back to its state this many seconds before: a restored copy, a standby that lagged."""
        self.database.back_up()
        self._backed_up_at = self.loop.time()
        self.loop.call_later(step.value, self._store_restored)

    def _store_restored(self) -> None:
        self.database.restore()
        self.recorder.store_restored(self._backed_up_at)

    def _reconnect_all(self) -> None:
        """Half of the nodes see their connection break; the others must find out by comparing."""
        for node in self.nodes:
            if node.parts is not None and self.noise.random() < 0.5:
                node.within(node.parts.sim_broker.reconnected)

    def trim(self, step: Step) -> None:
        """Old publications are trimmed, as an engine's limits do."""
        key = channel_key(TENANT, f"thread:{step.text}")
        self.log.trim(key, max(0, self.log.position(key).offset - int(step.value)))

    def step_clock(self, step: Step) -> None:
        """A node's wall clock jumps."""
        self._node(step).clock.ahead_s += step.value

    # -- users ---------------------------------------------------------------------------------------------

    def publish(self, step: Step) -> None:
        """Publish over the server API, several times in a row."""
        self._spawn(self._publish(f"thread:{step.text}", int(step.value)))

    async def _publish(self, channel: str, count: int) -> None:
        for _ in range(count):
            self._numbers += 1
            key = f"mark-{self._numbers}"
            data = {"type": "CUSTOM", "name": "mark", "value": key}
            while True:
                ready = [node for node in self.nodes if node.ready and not node.paused]
                if not ready:
                    await asyncio.sleep(0.5)
                    continue
                self.recorder.attempted(key, channel, data)
                node = ready[self.noise.randrange(len(ready))]
                work = node.ask(_publishing(channel, data, key))
                done, _ = await asyncio.wait({work}, timeout=PUBLISH_S)
                if done and work.exception() is None:
                    published = work.result()
                    self.recorder.acknowledged(key, channel, published.epoch, published.offset)
                    break
                if done and not isinstance(work.exception(), NarthexError):
                    self._bug(node.name, work.exception() or RuntimeError())
                    return
                await asyncio.sleep(0.1 + 0.3 * self.noise.random())

    def say(self, step: Step) -> None:
        """Send a message, which a run answers."""
        thread, _, agent = step.text.partition(" ")
        self._numbers += 1
        self._spawn(self._say(self.readers[step.who], thread, agent, f"said-{self._numbers}"))

    async def _say(self, reader: Reader, thread: str, agent: str, key: str) -> str:
        """Send it; returns the run's id, or an empty text without an answer."""
        params = {"thread_id": thread, "text": f"hello {key}", "client_message_id": key, "agent": agent}
        told = await reader.rpc("run.start", params, 25.0)
        if told is None:
            return ""
        self.runs.append(told["run_id"])
        return str(told["run_id"])

    def change_mind(self, step: Step) -> None:
        """Send a second message during the answer to the first, and cancel its run in the queue."""
        self._numbers += 2
        self._spawn(self._change_mind(self.readers[step.who], step, self._numbers))

    async def _change_mind(self, reader: Reader, step: Step, number: int) -> None:
        await self._say(reader, step.text, "long", f"said-{number - 1}")
        run_id = await self._say(reader, step.text, "echo", f"said-{number}")
        await asyncio.sleep(step.value)
        if run_id:
            await self._ask(reader, "run.cancel", {"run_id": run_id})

    def cancel(self, step: Step) -> None:
        """Cancel a run, most likely one of the newest."""
        if self.runs:
            run_id = self.runs[-1 - int(step.value * min(3, len(self.runs)))]
            self._spawn(self._ask(self.readers[step.who], "run.cancel", {"run_id": run_id}))

    def look(self, step: Step) -> None:
        """Open the thread and read a run."""
        reader = self.readers[step.who]
        self._spawn(self._ask(reader, "thread.get", {"thread_id": step.text}))
        if self.runs:
            self._spawn(self._ask(reader, "run.get", {"run_id": self.runs[-1]}))

    async def _ask(self, reader: Reader, method: str, params: dict[str, Any]) -> None:
        await reader.rpc(method, params, 15.0)

    def cut(self, step: Step) -> None:
        """A bad network drops a connection."""
        self.readers[step.who].cut()

    def vanish(self, step: Step) -> None:
        """A connection is dead without a sign to either end."""
        self.readers[step.who].vanish()
        self._excuse(f"vanished {step.who}", (Kind.SILENCE, Kind.EPOCH_NOT_TOLD, Kind.NO_REPLY), 15.0)

    def stall(self, step: Step) -> None:
        """A client reads nothing for a while."""
        self.readers[step.who].stall(step.value)
        self._excuse(f"stalled {step.who}", (Kind.SILENCE, Kind.AFTER_REMOVAL, Kind.NO_REPLY), step.value)

    def mount(self, step: Step) -> None:
        """A component mounts twice."""
        self.readers[step.who].mount_twice(f"thread:{step.text}")

    def remove(self, step: Step) -> None:
        """Alice removes a member."""
        self._spawn(self._membership(step, member=False))

    def add(self, step: Step) -> None:
        """Alice adds a member (again)."""
        self._spawn(self._membership(step, member=True))

    async def _membership(self, step: Step, *, member: bool) -> None:
        """One change per user at a time: an unanswered one may still be executed."""
        user, channel = step.who, f"thread:{step.text}"
        while (wait_s := self._busy_until.get(user, 0.0) - self.loop.time()) > 0:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(min(wait_s, 1.0))
        self._busy_until[user] = float("inf")
        began = self.loop.time()
        if member:
            self.recorder.granted(channel, user, began)
        method = f"thread.members.{'add' if member else 'remove'}"
        params = {"thread_id": step.text, "user_id": user}
        told = await self.readers["alice-0"].rpc(method, params, 12.0)
        if told is not None and member:
            for name, reader in self.readers.items():
                if name.startswith(user):
                    reader.granted(channel)
        took_s = self.loop.time() - began
        self._busy_until[user] = self.loop.time() + (0.0 if took_s < 0.5 else 16.0)

    def revoke(self, step: Step) -> None:
        """An operator blocks a user for good."""
        self._spawn(self._revoke(step.who))

    async def _revoke(self, user: str) -> None:
        while True:
            ready = [node for node in self.nodes if node.ready and not node.paused]
            if ready:
                node = ready[self.noise.randrange(len(ready))]
                work = node.ask(_revoking(user))
                done, _ = await asyncio.wait({work}, timeout=PUBLISH_S)
                if done and work.exception() is None:
                    self.recorder.removed("*", user)
                    return
            await asyncio.sleep(0.5)


def _publishing(channel: str, data: dict[str, str], key: str) -> Callable[[Parts], Coroutine[Any, Any, Any]]:
    encoded = msgspec.json.encode(data)
    return lambda parts: parts.broker.publish(channel_key(TENANT, channel), encoded, key=key)


def _revoking(user: str) -> Callable[[Parts], Coroutine[Any, Any, Any]]:
    async def work(parts: Parts) -> None:
        until = EPOCH_S + 10 * 86_400 * 2
        revocation = Revocation(
            kind="subject", tenant=TENANT, value=user, at=parts.now(), until=until, reason="simulated"
        )
        await parts.revocations.revoke(revocation, audit=False)

    return work


Rows = Generator[tuple[str, tuple[str, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]]]


def _messages(thread: str) -> Rows:
    rows = yield (
        "SELECT message_id, role FROM messages WHERE thread_id = ? ORDER BY place, created_at, seq",
        (thread,),
    )
    return rows


def _owners(agent: str) -> Rows:
    """The owners of running runs, of one agent or (empty) of any."""
    running = "SELECT owner FROM runs WHERE state = 'running' AND owner <> ''"
    rows = yield f"{running} AND (? = '' OR agent = ?) ORDER BY run_id", (agent, agent)
    return rows


def _states() -> Rows:
    rows = yield 'SELECT run_id, state, "count", digest, error FROM runs ORDER BY run_id', ()
    return rows


class _Ears:
    """A structlog logger that keeps errors: the app logs only bugs as errors."""

    world: World | None = None

    def __init__(self, *_: object, **__: object) -> None: ...

    def bind(self, **_: object) -> _Ears:
        return self

    new = unbind = try_unbind = bind

    def _nothing(self, *_: object, **__: object) -> None: ...

    debug = info = warning = _nothing

    def error(self, event: str, **values: object) -> None:
        """A bug, if there is an exception."""
        fault = values.get("exc_info")
        if _Ears.world is not None and fault is not None:
            _Ears.world.bugs.append(f"{_Ears.world.loop.time():.3f} log: {event}: {fault!r}")

    def exception(self, event: str, **_: object) -> None:
        """A bug."""
        self.error(event, exc_info=sys.exc_info()[1])


@contextlib.contextmanager
def _one_world(world: World) -> Generator[None]:
    """All randomness comes from the plan, logs are captured, and coroutines discarded at the end are silent."""
    dice = random.Random(world.plan.seed ^ 0xD1CE)
    real_urandom, real_state, real_hook = os.urandom, random.getstate(), sys.unraisablehook
    real_config = structlog.get_config()
    structlog.configure(wrapper_class=_Ears, cache_logger_on_first_use=False)  # type: ignore[arg-type]  # as little as is used
    _Ears.world = world
    os.urandom = dice.randbytes
    random._urandom = dice.randbytes  # type: ignore[attr-defined]  # what `secrets` draws from
    random.seed(world.plan.seed)
    entropy.ENTROPY.__init__()  # type: ignore[misc]  # an empty pool
    sys.unraisablehook = lambda _: None
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        world.database.close()
        _Ears.world = None
        os.urandom = real_urandom
        random._urandom = real_urandom  # type: ignore[attr-defined]  # as above
        random.setstate(real_state)
        entropy.ENTROPY.__init__()  # type: ignore[misc]  # as above
        structlog.configure(**real_config)
        sys.unraisablehook = real_hook
        if collecting:
            gc.enable()


def run(plan: Plan, prepare: Callable[[World], None] = lambda _: None) -> Outcome:
    """Play a plan and judge its history.

    Args:
        plan: the steps.
        prepare: changes the world before it begins (a seeded fault of an engine).
    """
    world = World(plan)
    with _one_world(world):
        prepare(world)
        try:
            world.loop.run(world.main())
        except Stuck as stuck:
            world.bugs.append(str(stuck))
        for where, context in world.loop.faults:
            if where == "" or world.loop.alive(where):
                world.bugs.append(
                    f"loop of {where or 'the world'}: {context.get('message')}: {context.get('exception')!r}"
                )
        history = world.recorder.history()
        found = check(history, BOUNDS)
        turns = world.loop.turns
        bugs = world.bugs
        del world
    return Outcome(plan, history, found, bugs, turns)
